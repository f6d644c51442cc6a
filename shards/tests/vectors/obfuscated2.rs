//! `obfuscated2_client`, `…_multi_user`, `…_replay`, `…_counter_wrap`, `nonce_rule`,
//! `obfuscated2_dc`.

use serde_json::Value;
use shards::proto::{
    crypto::{CtrStream, sha256},
    dc::DcId,
    framing::Framing,
    obfuscated2::{
        ClientKeys, Opening, client_keys, client_side, dc_header, dc_side, may_write, open,
        replay_key,
    },
    secret::Secret,
};

use super::{CLIENT, array, bytes, framing, list, named, secret, text};

fn dc(entry: &Value) -> DcId {
    DcId(entry["dc_id"].as_i64().unwrap().try_into().unwrap())
}

fn opening(entry: &Value) -> Opening {
    Opening {
        framing: framing(entry),
        dc: dc(entry),
    }
}

fn applied(mut stream: CtrStream, data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    stream.apply(&mut data);
    data
}

fn keystream(stream: CtrStream) -> Vec<u8> {
    applied(stream, &[0; 64])
}

fn keys(entry: &Value) -> ClientKeys {
    client_keys(&array(entry, "wire_header"), &secret(entry))
}

#[test]
fn client_headers_open() {
    for entry in list("obfuscated2_client") {
        let name = text(entry, "name");
        let wire = array(entry, "wire_header");
        assert_eq!(open(&wire, &secret(entry)), Some(opening(entry)), "{name}");
        assert_eq!(
            replay_key(&wire),
            &array::<48>(entry, "replay_key"),
            "{name}"
        );
        let keys = keys(entry);
        assert_eq!(keys.p2c_key, array(entry, "p2c_key"), "{name}");
        assert_eq!(keys.p2c_iv, array(entry, "p2c_iv"), "{name}");
        let c2p_key = sha256(&[&bytes(entry, "c2p_key_material"), &bytes(entry, "secret")]);
        assert_eq!(c2p_key, array(entry, "c2p_key"), "{name}");
        let c2p = CtrStream::new(&c2p_key, &array(entry, "c2p_iv"));
        assert_eq!(keystream(c2p), bytes(entry, "c2p_keystream_0_64"), "{name}");
        assert_eq!(
            keystream(keys.c2p.clone()),
            bytes(entry, "c2p_keystream_64_128"),
            "{name}"
        );
        assert_eq!(
            keystream(keys.p2c()),
            bytes(entry, "p2c_keystream_0_64"),
            "{name}"
        );
    }
}

#[test]
fn frames_pass_both_ways() {
    for entry in list("obfuscated2_client") {
        let (name, keys) = (text(entry, "name"), keys(entry));
        let up = applied(keys.c2p.clone(), &bytes(entry, "uplink_frame_wire"));
        assert_eq!(up, bytes(entry, "uplink_frame_plain"), "{name}");
        let down = applied(keys.p2c(), &bytes(entry, "downlink_frame_plain"));
        assert_eq!(down, bytes(entry, "downlink_frame_wire"), "{name}");
    }
}

#[test]
fn clients_write_these_headers() {
    for entry in list("obfuscated2_client") {
        let (name, random) = (text(entry, "name"), bytes(entry, "random"));
        if name.ends_with("_inside_tls") {
            assert!(!may_write(&array(entry, "wire_header")), "{name}");
            continue;
        }
        let mut source = |out: &mut [u8]| out.copy_from_slice(&random);
        let client = client_side(&mut source, &secret(entry), framing(entry), dc(entry));
        assert_eq!(client.wire, array(entry, "wire_header"), "{name}");
        let up = applied(client.c2p, &bytes(entry, "uplink_frame_plain"));
        assert_eq!(up, bytes(entry, "uplink_frame_wire"), "{name}");
        let down = applied(client.p2c, &bytes(entry, "downlink_frame_wire"));
        assert_eq!(down, bytes(entry, "downlink_frame_plain"), "{name}");
    }
}

#[test]
fn only_the_right_user_opens() {
    let case = &CLIENT["obfuscated2_multi_user"];
    let wire = array(case, "wire_header");
    for candidate in case["candidates"].as_array().unwrap() {
        let user = text(candidate, "user");
        let secret = Secret(array(&CLIENT["secrets"][user], "secret"));
        let matched = open(&wire, &secret).is_some();
        assert_eq!(matched, candidate["match"].as_bool().unwrap(), "{user}");
        let mut c2p = CtrStream::new(
            &sha256(&[&wire[8..40], &secret.0]),
            wire[40..56].first_chunk().unwrap(),
        );
        c2p.skip(56);
        let tail = applied(c2p, &wire[56..]);
        assert_eq!(tail, bytes(candidate, "tail_56_64"), "{user}");
    }
}

#[test]
fn an_altered_twin_has_the_same_replay_key() {
    let case = &CLIENT["obfuscated2_replay"];
    let secret = Secret(array(&CLIENT["secrets"]["alice"], "secret"));
    for field in ["original", "altered"] {
        let wire = array(case, field);
        assert_eq!(
            open(&wire, &secret),
            Some(opening(&case["both_decode_to"])),
            "{field}"
        );
        assert_eq!(
            replay_key(&wire),
            &array::<48>(case, "same_replay_key"),
            "{field}"
        );
    }
}

#[test]
fn the_counter_wraps_inside_the_header() {
    let case = &CLIENT["obfuscated2_counter_wrap"];
    let wire: [u8; 64] = array(case, "wire_header");
    assert_eq!(open(&wire, &secret(case)), Some(opening(case)));
    let key = sha256(&[&wire[8..40], &bytes(case, "secret")]);
    let mut whole = CtrStream::new(&key, &array(case, "c2p_iv"));
    let mut first = [0; 64];
    whole.apply(&mut first);
    assert_eq!(first.to_vec(), bytes(case, "c2p_keystream_0_64"));
    assert_eq!(
        keystream(client_keys(&wire, &secret(case)).c2p),
        keystream(whole)
    );
}

#[test]
fn writers_avoid_these_openings() {
    for entry in list("nonce_rule") {
        let mut header = [0x99; 64];
        header[..8].copy_from_slice(&bytes(entry, "first8"));
        assert_eq!(
            may_write(&header),
            entry["allowed"].as_bool().unwrap(),
            "{entry}"
        );
    }
}

#[test]
fn dc_headers_are_written_and_read() {
    for entry in list("obfuscated2_dc") {
        let name = text(entry, "name");
        let client = named("obfuscated2_client", text(entry, "client_case"));
        let keys = keys(client);
        let fast = text(entry, "mode") == "fast";
        let random = bytes(entry, "random");
        let ours = dc_header(
            &mut |out| out.copy_from_slice(&random),
            &opening(client),
            fast.then_some((&keys.p2c_key, &keys.p2c_iv)),
        );
        assert_eq!(ours.wire, array(entry, "wire_header"), "{name}");
        let far = dc_side(&ours.wire).unwrap();
        assert_eq!(
            Opening {
                framing: far.framing,
                dc: far.dc
            },
            opening(entry),
            "{name}"
        );
        for (p2d, d2p) in [(&ours.p2d, &ours.d2p), (&far.p2d, &far.d2p)] {
            assert_eq!(
                keystream(p2d.clone()),
                bytes(entry, "p2d_keystream_64_128"),
                "{name}"
            );
            assert_eq!(
                keystream(d2p.clone()),
                bytes(entry, "d2p_keystream_0_64"),
                "{name}"
            );
        }
        let up = applied(keys.c2p.clone(), &bytes(entry, "uplink_from_client"));
        assert_eq!(
            applied(ours.p2d, &up),
            bytes(entry, "uplink_to_dc"),
            "{name}"
        );
        let from_dc = bytes(entry, "downlink_from_dc");
        let to_client = applied(keys.p2c(), &applied(ours.d2p, &from_dc));
        assert_eq!(to_client, bytes(entry, "downlink_to_client"), "{name}");
        assert_eq!(from_dc == to_client, fast, "{name}");
    }
}

#[test]
fn tags_are_those_of_the_headers() {
    for entry in list("obfuscated2_client") {
        let plain = bytes(entry, "plain_header");
        let tag = plain[56..60].try_into().unwrap();
        assert_eq!(Framing::from_tag(tag), Some(framing(entry)));
        assert_eq!(framing(entry).tag(), tag);
    }
}
