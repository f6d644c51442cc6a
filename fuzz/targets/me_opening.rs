//! The beginning of a connection to a middle proxy, in clear and in cipher text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, pieces};
use shards::proto::middle::{
    far_side::{FarInput, FarSide},
    frame::FrameEncoder,
    handshake::ProcessId,
    opening::{MeOpening, OpeningError, OpeningInput},
    secret_file::ProxySecret,
};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (flags, seed, keep) = (choices.byte(), choices.byte(), choices.word());
    let secret = ProxySecret::new(&[7; 64], 256).expect("64 bytes");
    let mut wire = match flags & 1 {
        0 => Vec::new(),
        _ => genuine(&secret, flags & 2 != 0),
    };
    let sent = wire.len();
    wire.truncate(usize::from(keep));
    for _ in 0..(flags >> 2) & 3 {
        let (at, with) = (choices.word(), choices.byte());
        if let Some(byte) = wire.get_mut(usize::from(at)) {
            *byte ^= with;
        }
    }
    let untouched = flags & 0b1101 == 1 && wire.len() == sent;
    wire.extend_from_slice(choices.rest());
    let whole = open(&secret, &[&wire]);
    assert_eq!(open(&secret, &pieces(seed, &wire)), whole);
    assert_eq!(open(&secret, &pieces(1, &wire)), whole);
    if untouched {
        assert!(whole.0.is_some() && whole.1 == Ok(sent));
    }
});

fn opening(out: &mut Vec<u8>, secret: &ProxySecret) -> MeOpening {
    let input = OpeningInput {
        secret: secret.clone(),
        me: ([149, 154, 175, 50], 8888).into(),
        proxy: ([9, 9, 9, 9], 45678).into(),
        nonce: [5; 16],
        unix_secs: 1_700_000_000,
        pid: 4242,
        start_unix_secs: 1_600_000_000,
    };
    MeOpening::start(input, out).expect("one family")
}

/// What a genuine middle proxy sends.
fn genuine(secret: &ProxySecret, crc32c: bool) -> Vec<u8> {
    let mut far = FarSide::new(FarInput {
        secret: secret.clone(),
        me: ([149, 154, 175, 50], 8888).into(),
        proxy: ([9, 9, 9, 9], 45678).into(),
        nonce: [6; 16],
        unix_secs: 1_700_000_009,
        pid: ProcessId::default(),
        crc32c,
    });
    let (mut to_me, mut wire) = (Vec::new(), Vec::new());
    let mut good = opening(&mut to_me, secret);
    far.receive(&to_me, &mut wire, &mut |_| {})
        .expect("our nonce");
    to_me.clear();
    good.receive(&wire, &mut to_me).expect("its nonce");
    far.receive(&to_me, &mut wire, &mut |_| {})
        .expect("our handshake");
    wire
}

type Opened = (Option<FrameEncoder>, Result<usize, OpeningError>);

fn open(secret: &ProxySecret, pieces: &[&[u8]]) -> Opened {
    let mut opening = opening(&mut Vec::new(), secret);
    let (mut total, mut out) = (0, Vec::new());
    for piece in pieces {
        match opening.receive(piece, &mut out) {
            Ok(step) => {
                total += step.consumed;
                if let Some(channel) = step.ready {
                    return (Some(channel.encoder), Ok(total));
                }
                assert_eq!(step.consumed, piece.len());
                assert!(out.len() < 1_000, "answers without an end");
            }
            Err(error) => return (None, Err(error)),
        }
    }
    (None, Ok(total))
}
