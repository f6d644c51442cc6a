//! Streams of Shadowsocks in both directions: any cut gives the same payload, and a changed byte is
//! never handed on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, pieces, source};
use shards::proto::{
    shadowsocks::{Entropy, Leg, Method, OpenError, Opener, ServerKey, far_side::Served},
    socks::Target,
};

const NOW: u64 = 1_800_000_000;

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (flags, seed) = (choices.byte(), choices.byte());
    let key = key(Method::ALL[usize::from(flags) % Method::ALL.len()]);
    let payload = choices.take(usize::from(flags >> 4));
    let (mut leg, mut served, request) = start(&key, payload);
    // Any cut of a good request.
    for piece in pieces(seed, &request) {
        served.receive(piece, NOW).expect("a good request");
    }
    assert!(served.wanted().is_some());
    // A good answer in chunks, perhaps changed at one place, and anything behind it.
    let (at, with, count) = (choices.word(), choices.byte(), choices.byte() % 4);
    let (mut said, mut wire) = (Vec::new(), Vec::new());
    let mut random = source(7);
    for _ in 0..count {
        let bytes = usize::from(choices.word()) % 2_000;
        let chunk = choices.take(bytes);
        if chunk.is_empty() {
            continue;
        }
        said.extend_from_slice(chunk);
        let entropy = Entropy {
            unix_secs: NOW,
            random: &mut random,
        };
        served.answer(chunk, entropy, &mut wire);
    }
    let changed = with != 0 && usize::from(at) < wire.len();
    if changed {
        wire[usize::from(at)] ^= with;
    }
    let good = wire.len();
    wire.extend_from_slice(choices.rest());
    let (got, end) = open(&mut leg.down, &[&wire]);
    assert!(said.starts_with(&got), "bytes that were never said");
    let untouched = !changed && wire.len() == good;
    assert!(!untouched || (got == said && end.is_ok()));
    for seed in [seed, 1] {
        let (mut leg, ..) = start(&key, payload);
        let (again, how) = open(&mut leg.down, &pieces(seed, &wire));
        assert_eq!(how, end);
        // What came together with a broken place is dropped with it.
        assert!(again == got || (end.is_err() && said.starts_with(&again)));
    }
});

fn key(method: Method) -> ServerKey {
    // Base64 of a key of zeroes for the 2022 edition; any text for the first.
    let password = match method.key_bytes() {
        16 => "AAAAAAAAAAAAAAAAAAAAAA==",
        _ => "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    };
    ServerKey::new(method, password).expect("a key")
}

fn start(key: &ServerKey, payload: &[u8]) -> (Leg, Served, Vec<u8>) {
    let (mut random, mut request) = (source(5), Vec::new());
    let entropy = Entropy {
        unix_secs: NOW,
        random: &mut random,
    };
    let target = Target::Addr(([149, 154, 175, 50], 443).into());
    let leg = Leg::start(key, target, payload, entropy, &mut request);
    (leg, Served::new(key), request)
}

fn open(down: &mut Opener, pieces: &[&[u8]]) -> (Vec<u8>, Result<(), OpenError>) {
    let mut out = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut joined = Vec::new();
        let opened = down.open(&mut piece, NOW, |bytes| {
            assert!(joined.is_empty(), "joined twice");
            joined.extend_from_slice(bytes);
        });
        out.extend_from_slice(&joined);
        match opened {
            Ok(payload) => out.extend_from_slice(&piece[..payload]),
            Err(error) => return (out, Err(error)),
        }
    }
    (out, Ok(()))
}
