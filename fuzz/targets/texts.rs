//! What is downloaded, answered by STUN servers, or typed: the map of middle proxies, their secret,
//! binding responses, secrets and links.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::Choices;
use shards::proto::{
    dc::DcId,
    middle::{config_file::ConfigFile, secret_file::ProxySecret, stun},
    secret::{LinkSecret, ProxyLink, check_domain},
    shadowsocks::ServerUrl,
};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let kind = choices.byte();
    let bytes = choices.rest();
    match kind % 4 {
        0 => map(bytes),
        1 => binding(bytes),
        2 => drop(ProxySecret::new(bytes, 512)),
        _ => text(bytes),
    }
});

fn map(bytes: &[u8]) {
    let mut map = ConfigFile::parse(bytes).map;
    let families = map.of_family(false).endpoint_count() + map.of_family(true).endpoint_count();
    assert_eq!(families, map.endpoint_count());
    assert!(map.endpoint_count() <= bytes.len());
    map.mirror();
    assert_eq!(map.mirror(), Vec::<i16>::new());
    for dc in [0, 2, -2, i16::MIN, i16::MAX] {
        if let Some((id, endpoints)) = map.resolve(DcId(dc)) {
            assert!(id != 0 && !endpoints.is_empty());
        }
    }
}

fn binding(bytes: &[u8]) {
    if let Some(head) = bytes.first_chunk() {
        let told = stun::message_bytes(head);
        assert!(told.is_err() || told.is_ok_and(|bytes| bytes < 70_000));
    }
    let id = bytes.get(8..20).and_then(|id| id.try_into().ok());
    let answer = stun::response(bytes, &id.unwrap_or([0; 12]));
    assert!(answer.is_err() || bytes.len() >= 20);
}

fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(secret) = LinkSecret::parse(text) {
        // What is printed is read as the same.
        let again = LinkSecret::parse(&secret.to_hex());
        assert_eq!(again.map(|again| again.to_hex()), Ok(secret.to_hex()));
    }
    if let Ok(url) = ServerUrl::parse(text) {
        // Shown in logs: without the key.
        assert!(format!("{url:?}").len() < 2 * text.len() + 200);
    }
    if let Ok(link) = ProxyLink::parse(text) {
        assert_eq!(ProxyLink::parse(&link.https()).as_ref(), Ok(&link));
    }
    if let Ok(domain) = check_domain(text) {
        assert_eq!(check_domain(&domain), Ok(domain));
    }
}
