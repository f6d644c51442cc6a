//! `proxy_protocol`, `proxy_protocol_invalid`, `socks`, `shadowsocks`.

use std::net::SocketAddr;

use serde_json::Value;
use shards::proto::{
    proxy_protocol::{Stated, Version, encode, parse},
    shadowsocks::{
        Entropy, Leg, Method, ServerKey, ServerUrl,
        far_side::{Served, Wanted},
    },
    socks::{Handshake, Progress, Proxy, SocksError, Target},
};

use super::{bytes, list, named, text};

fn addr(entry: &Value, field: &str) -> Option<SocketAddr> {
    entry[field].as_str().map(|addr| addr.parse().unwrap())
}

#[test]
fn proxy_headers_are_read() {
    for entry in list("proxy_protocol") {
        let (name, mut wire) = (text(entry, "name"), bytes(entry, "wire"));
        let want = match (addr(entry, "source"), addr(entry, "destination")) {
            (Some(source), Some(destination)) => Stated::Addrs {
                source,
                destination,
            },
            _ => Stated::Keep,
        };
        let used = wire.len();
        wire.extend(b"client's bytes");
        assert_eq!(parse(&wire), Ok(Some((used, want))), "{name}");
        for cut in 0..used {
            assert_eq!(parse(&wire[..cut]), Ok(None), "{name} cut at {cut}");
        }
    }
}

#[test]
fn proxy_headers_are_written() {
    for (name, version) in [
        ("v1_tcp4", Version::V1),
        ("v1_tcp6", Version::V1),
        ("v2_tcp4", Version::V2),
        ("v2_tcp6", Version::V2),
    ] {
        let entry = named("proxy_protocol", name);
        let (source, destination) = (addr(entry, "source"), addr(entry, "destination"));
        let mut out = Vec::new();
        encode(&mut out, version, source.unwrap(), destination.unwrap());
        assert_eq!(out, bytes(entry, "wire"), "{name}");
    }
    let (v4, v6) = (
        "192.0.2.1:1".parse().unwrap(),
        "[2001:db8::1]:2".parse().unwrap(),
    );
    for (name, version) in [("v1_unknown", Version::V1), ("v2_local", Version::V2)] {
        let mut out = Vec::new();
        encode(&mut out, version, v4, v6);
        assert_eq!(out, bytes(named("proxy_protocol", name), "wire"), "{name}");
    }
}

#[test]
fn bad_proxy_headers_are_refused() {
    for entry in list("proxy_protocol_invalid") {
        assert!(parse(&bytes(entry, "wire")).is_err(), "{}", entry["name"]);
    }
}

/// What the requests of a case ask for; the requests themselves are compared byte by byte.
fn request(name: &str) -> (Proxy<'static>, Target<'static>) {
    let v4 = Target::Addr("149.154.167.51:443".parse().unwrap());
    let v6 = Target::Addr("[2001:67c:4e8:f002::a]:443".parse().unwrap());
    let by_name = Target::Name("dc.example.net", 443);
    let plain = Proxy::V5 { credentials: None };
    match name {
        "socks4" => (Proxy::V4 { user_id: "uid" }, v4),
        "socks4_refused" => (Proxy::V4 { user_id: "" }, v4),
        "socks4a" => (Proxy::V4 { user_id: "uid" }, by_name),
        "socks5_auth_ipv6" => (
            Proxy::V5 {
                credentials: Some(("user", "pass")),
            },
            v6,
        ),
        "socks5_domain_reply_domain" => (plain, by_name),
        _ => (plain, v4),
    }
}

#[test]
fn socks_dialogues_are_followed() {
    for entry in list("socks") {
        let name = text(entry, "name");
        let texts = |field: &str| -> Vec<Vec<u8>> {
            let list = entry[field].as_array().unwrap();
            list.iter()
                .map(|t| hex::decode(t.as_str().unwrap()).unwrap())
                .collect()
        };
        let (proxy, target) = request(name);
        let mut sent = vec![Vec::new()];
        let mut handshake = Handshake::start(proxy, target, &mut sent[0]).unwrap();
        let mut outcome = Ok(Progress::NeedMore);
        for answer in texts("from_server") {
            let mut out = Vec::new();
            outcome = handshake.receive(&answer, &mut out);
            if let Ok(Progress::Next { consumed } | Progress::Done { consumed, .. }) = outcome {
                assert_eq!(consumed, answer.len(), "{name}");
            }
            if !out.is_empty() {
                sent.push(out);
            }
        }
        assert_eq!(sent, texts("to_server"), "{name}");
        let want = match text(entry, "result") {
            "ok" => Ok(addr(entry, "bound")),
            "refused 91" => Err(SocksError::Refused4 { code: 91 }),
            "error: no acceptable method" => Err(SocksError::NoMethod),
            "error: reply 5" => Err(SocksError::Refused5 { code: 5 }),
            other => panic!("no result {other}"),
        };
        let got = outcome.map(|progress| match progress {
            Progress::Done { bound, .. } => bound,
            other => panic!("{name} ended with {other:?}"),
        });
        assert_eq!(got, want, "{name}");
    }
}

/// Both directions of a case, ours and the server's, byte by byte.
fn check_shadowsocks(entry: &Value) {
    let name = text(entry, "name");
    let unix_secs = entry["timestamp"].as_u64().unwrap_or(7);
    let method = Method::by_name(text(entry, "method")).unwrap();
    let key = ServerKey::new(method, text(entry, "password")).unwrap();
    let target = addr(entry, "target").unwrap();
    let salted = |field| {
        let salt = bytes(entry, field);
        move |out: &mut [u8]| out.copy_from_slice(&salt)
    };
    let plain_field = match entry["request_variable_header"].as_str() {
        // Address, length of padding, payload.
        Some(_) => bytes(entry, "request_variable_header")[9..].to_vec(),
        None => bytes(entry, "request_plain")[7..].to_vec(),
    };
    let mut wire = Vec::new();
    let random = &mut salted("request_salt");
    let entropy = Entropy { unix_secs, random };
    let mut leg = Leg::start(&key, Target::Addr(target), &plain_field, entropy, &mut wire);
    assert_eq!(wire, bytes(entry, "request_wire"), "{name}");

    let mut served = Served::new(&key);
    assert_eq!(served.receive(&wire, unix_secs).unwrap(), plain_field);
    assert_eq!(served.wanted(), Some(&Wanted::Addr(target)), "{name}");
    let (answer, want) = (
        bytes(entry, "response_plain"),
        bytes(entry, "response_wire"),
    );
    let mut down = want.clone();
    let front = leg
        .down
        .open(&mut down, unix_secs, |_| panic!("{name}: all at once"));
    assert_eq!(&down[..front.unwrap()], &answer, "{name}");

    let mut wire = Vec::new();
    let random = &mut salted("response_salt");
    // The case's server answered a second later.
    let unix_secs = unix_secs + 1;
    served.answer(&answer, Entropy { unix_secs, random }, &mut wire);
    assert_eq!(wire, want, "{name}");
}

#[test]
fn shadowsocks_streams_are_as_others_write_them() {
    assert_eq!(list("shadowsocks").len(), Method::ALL.len());
    for entry in list("shadowsocks") {
        check_shadowsocks(entry);
    }
}

#[test]
fn shadowsocks_urls_name_the_same_server() {
    for entry in list("shadowsocks") {
        let method = Method::by_name(text(entry, "method")).unwrap();
        let key = ServerKey::new(method, text(entry, "password")).unwrap();
        for form in ["url", "url_plain", "url_legacy"] {
            let Some(url) = entry[form].as_str() else {
                continue;
            };
            let url = ServerUrl::parse(url).unwrap();
            assert_eq!((url.host.as_str(), url.port), ("198.51.100.30", 8388));
            assert!(url.key == key, "{form} of {}", text(entry, "name"));
        }
    }
}
