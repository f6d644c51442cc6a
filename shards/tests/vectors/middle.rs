//! `middle.json`: every group of it, and that none is left out. Conversations are in
//! `middle_sessions`, client framings in `middle_client`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::LazyLock,
};

use serde_json::Value;
use shards::proto::{
    framing::Framing,
    middle::{
        checksum::Checksum,
        config_file::ConfigFile,
        far_side::Request,
        frame::{FrameDecoder, FrameEncoder, RpcFrameError},
        handshake::{Handshake, HandshakeError, ProcessId, write_refusal},
        keys::{KeyMaterial, Purpose, SessionKey},
        proxy_req::{ProxyReq, flag},
        secret_file::ProxySecret,
        stun::{self, StunError},
        tl::{address_bytes, write_string},
    },
};

use super::{array, bytes, middle_client, middle_sessions, text};

static MIDDLE: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../tests/vectors/middle.json")).expect("valid JSON")
});

#[test]
fn every_group_passes() {
    let groups = MIDDLE.as_object().expect("groups");
    let mut seen = 0;
    for (key, group) in groups {
        if matches!(key.as_str(), "about" | "generated_by") {
            continue;
        }
        let check: fn(&Value) = match key.as_str() {
            "checksums" => checksums,
            "frames" => frame,
            "bad_frames" => bad_frame,
            "kdf" => kdf,
            "addr20" => addr20,
            "process_id" => process_id,
            "tl_string" => tl_string,
            "handshake_error" => handshake_error,
            "proxy_req" => proxy_req,
            "sessions" => middle_sessions::session,
            "client_downlink" => middle_client::downlink,
            "client_uplink" => middle_client::uplink,
            "stun" => stun_group,
            "proxy_config" => proxy_config,
            other => panic!("nothing checks {other}"),
        };
        match group {
            Value::Array(entries) => entries.iter().for_each(check),
            one => check(one),
        }
        seen += group.as_array().map_or(1, Vec::len);
    }
    assert_eq!(seen, 69, "entries of all groups");
}

fn checksums(entry: &Value) {
    let input = text(entry, "input_ascii").as_bytes();
    let hex = |sum: u32| format!("{sum:08x}");
    assert_eq!(hex(Checksum::Crc32.of(input)), text(entry, "crc32"));
    assert_eq!(hex(Checksum::Crc32c.of(input)), text(entry, "crc32c"));
}

pub(crate) fn checksum(entry: &Value) -> Checksum {
    match text(entry, "crc") {
        "crc32" => Checksum::Crc32,
        "crc32c" => Checksum::Crc32c,
        other => panic!("no checksum {other}"),
    }
}

pub(crate) fn number<T: TryFrom<i64, Error: std::fmt::Debug>>(entry: &Value, field: &str) -> T {
    let number = entry[field].as_i64().expect("a number");
    number.try_into().expect("within range")
}

fn frame(entry: &Value) {
    let name = text(entry, "name");
    let (payload, wire) = (bytes(entry, "payload"), bytes(entry, "frame"));
    let (seq, checksum) = (number(entry, "seq"), checksum(entry));
    let mut out = Vec::new();
    let length = FrameEncoder::new(seq, checksum)
        .frame(&mut out, |out| out.extend_from_slice(&payload))
        .unwrap();
    assert_eq!((out.as_slice(), length), (&wire[..], wire.len()), "{name}");
    let step = FrameDecoder::new(seq, checksum).next(&wire).unwrap();
    assert_eq!(step.payload, Some(&payload[..]), "{name}");
    assert_eq!(step.consumed, wire.len(), "{name}");
}

fn bad_frame(entry: &Value) {
    let name = text(entry, "name");
    let wire = bytes(entry, "wire");
    let seq = entry["expected_seq"].as_i64().unwrap_or(0);
    let mut decoder = FrameDecoder::new(seq as i32, Checksum::Crc32);
    let got = decoder.next(&wire);
    let fits = match (entry["error"].as_str(), got) {
        (Some("length"), Err(RpcFrameError::Length { .. }))
        | (Some("crc"), Err(RpcFrameError::Checksum))
        | (Some("seq"), Err(RpcFrameError::Sequence { .. })) => true,
        (None, Ok(step)) => step.payload.is_none() && step.consumed == wire.len(),
        _ => false,
    };
    assert!(fits, "{name}: {got:?}");
}

pub(crate) fn secret(entry: &Value) -> ProxySecret {
    ProxySecret::new(&bytes(entry, "secret"), 256).unwrap()
}

/// An address whose parts are in `<who>_addr` and `<who>_port`.
pub(crate) fn addr(entry: &Value, who: &str) -> SocketAddr {
    let ip: IpAddr = text(entry, &format!("{who}_addr")).parse().unwrap();
    SocketAddr::new(ip, number(entry, &format!("{who}_port")))
}

fn kdf(entry: &Value) {
    let name = text(entry, "name");
    let secret = secret(entry);
    let material = KeyMaterial {
        secret: &secret,
        me: addr(entry, "me"),
        proxy: addr(entry, "proxy"),
        me_nonce: array(entry, "me_nonce"),
        proxy_nonce: array(entry, "proxy_nonce"),
        proxy_unix_secs: number(entry, "proxy_ts"),
    };
    for (word, purpose) in [("CLIENT", Purpose::ToMe), ("SERVER", Purpose::ToProxy)] {
        let want = &entry["expect"][word];
        let mut input = material.input(purpose).unwrap();
        // Schema 3 is not offered; this says where its shared secret would enter.
        if entry["dh_shared"].is_string() {
            input.resize(input.len().max(256), 0);
            let shared = bytes(entry, "dh_shared");
            input.iter_mut().zip(shared).for_each(|(a, b)| *a ^= b);
        } else {
            assert!(material.derive(purpose).unwrap() == SessionKey::from_input(&input));
        }
        assert_eq!(input, bytes(want, "kdf_input"), "{name} {word}");
        assert_eq!(input.len(), number::<usize>(want, "kdf_input_len"));
        let key = SessionKey::from_input(&input);
        assert_eq!(key.key, array(want, "key"), "{name} {word}");
        assert_eq!(key.iv, array(want, "iv"), "{name} {word}");
    }
}

fn addr20(entry: &Value) {
    let ip: IpAddr = text(entry, "ip").parse().unwrap();
    let addr = SocketAddr::new(ip, number(entry, "port"));
    assert_eq!(address_bytes(addr).to_vec(), bytes(entry, "bytes"));
}

fn process_id(entry: &Value) {
    let ip = entry["ip"].as_str().unwrap_or("2a00::1");
    let addr = SocketAddr::new(ip.parse().unwrap(), number(entry, "port"));
    let (pid, start) = (number::<u16>(entry, "pid"), number(entry, "utime"));
    let id = ProcessId {
        pid,
        start_unix_secs: start,
        ..ProcessId::of_me(addr)
    };
    assert_eq!(id.encode().to_vec(), bytes(entry, "bytes"));
    if addr.port() == 0 {
        assert_eq!(ProcessId::of_proxy(addr, pid.into(), start), id);
    }
}

fn tl_string(entry: &Value) {
    let mut out = Vec::new();
    write_string(&bytes(entry, "value"), &mut out).unwrap();
    assert_eq!(out, bytes(entry, "bytes"));
}

fn handshake_error(entry: &Value) {
    let (payload, code) = (bytes(entry, "payload"), number(entry, "code"));
    let got = Handshake::decode(&payload);
    assert_eq!(got, Err(HandshakeError::Refused { code }));
    let sender = ProcessId {
        pid: 777,
        start_unix_secs: 0x64bb_5a80,
        ..ProcessId::of_me("149.154.175.50:8888".parse().unwrap())
    };
    let mut out = Vec::new();
    write_refusal(code, &sender, &mut out);
    assert_eq!(out, payload);
}

/// The payload of a PROXY_REQ, read by the far side and written by ours.
pub(crate) fn rewrite_message(payload: &[u8]) -> Vec<u8> {
    let Request::Message(message) = Request::parse(payload) else {
        panic!("no message");
    };
    let flags = message.flags;
    let req = ProxyReq {
        conn: message.conn,
        client: message.client,
        ours: message.proxy,
        framing: match flags & (flag::ABRIDGED | flag::INTERMEDIATE | flag::PADDED) {
            flag::ABRIDGED => Framing::Abridged,
            flag::INTERMEDIATE => Framing::Intermediate,
            _ => Framing::Padded,
        },
        ad_tag: message.ad_tag,
    };
    let (mut frame, quick_ack) = (Vec::new(), flags & flag::QUICK_ACK != 0);
    req.frame(
        &mut FrameEncoder::new(0, Checksum::Crc32),
        quick_ack,
        &[message.data],
        &mut frame,
    )
    .unwrap();
    frame[8..frame.len() - 4].to_vec()
}

fn proxy_req(entry: &Value) {
    let payload = bytes(entry, "payload");
    let name = text(entry, "name");
    assert_eq!(rewrite_message(&payload), payload, "{name}");
    let Request::Message(message) = Request::parse(&payload) else {
        panic!("{name}");
    };
    let tagged = name.contains(" tag") && !name.contains("no tag");
    assert_eq!(message.ad_tag.is_some(), tagged, "{name}");
    assert_eq!(message.data.is_empty(), name.contains("no data"), "{name}");
}

fn stun_group(group: &Value) {
    let id = array(group, "txid");
    assert_eq!(stun::request(&id).to_vec(), bytes(group, "request"));
    for entry in group["responses"].as_array().unwrap() {
        let name = text(entry, "name");
        let got = stun::response(&bytes(entry, "wire"), &id);
        let want = match entry["reject"].as_str() {
            Some("txid") => Err(StunError::Transaction),
            Some("truncated") => Err(StunError::Truncated),
            Some(other) => panic!("no error {other}"),
            None => {
                let ip: IpAddr = text(entry, "addr").parse().unwrap();
                Ok(SocketAddr::new(ip, number(entry, "port")))
            }
        };
        assert_eq!(got, want, "{name}");
    }
}

fn proxy_config(group: &Value) {
    let file = ConfigFile::parse(text(group, "text").as_bytes());
    let want = &group["expect"];
    let count = |field| number::<usize>(want, field);
    assert_eq!(file.accepted, count("accepted_proxy_for"));
    assert_eq!(file.ignored, count("ignored_statements"));
    assert_eq!(file.map.default, Some(number(want, "default_dc")));
    let endpoints: BTreeMap<i16, Vec<SocketAddr>> = want["endpoints"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(dc, list)| {
            let list = list.as_array().unwrap().iter();
            let list = list.map(|at| at.as_str().unwrap().parse().unwrap());
            (dc.parse().unwrap(), list.collect())
        })
        .collect();
    assert_eq!(file.map.groups, endpoints);
    let mut map = file.map;
    let mirrored = want["mirrored"].as_array().unwrap().iter();
    let mirrored: Vec<i16> = mirrored.map(|id| id.as_i64().unwrap() as i16).collect();
    assert_eq!(map.mirror(), mirrored);
}
