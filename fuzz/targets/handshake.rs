//! The whole handshake, with users: whatever comes and however it is cut, a newcomer's fate is the
//! same; nobody is let in twice with the same bytes, and nobody without a secret.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, pieces, secrets, source};
use shards::{
    fuzzing::{DOMAIN, Door, NOW_UNIX, Outcome},
    proto::{
        crypto::HmacKey,
        dc::DcId,
        faketls::{
            client_hello::{HelloKind, build_hello, hello_len},
            record::encode,
            server_hello::check_answer,
        },
        framing::Framing,
        obfuscated2::client_side,
        secret::Secret,
    },
    settings::{Modes, UnknownSni},
};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (flags, kind, seed) = (choices.byte(), choices.byte(), choices.byte());
    let modes = Modes {
        classic: flags & 1 == 0,
        secure: flags & 2 == 0,
        tls: flags & 4 == 0,
    };
    let sni = SNI[usize::from(flags >> 3) % 4];
    let secrets = secrets(input);
    let secret = &secrets[usize::from(flags >> 5) % secrets.len()];
    let (wire, signed) = newcomer(kind, secret, choices);

    let door = || Door::new(modes, sni, &secrets);
    let whole = door().newcomer(&cut(0, &wire));
    let mut twice = door();
    assert_eq!(twice.newcomer(&cut(seed, &wire)), whole);
    assert_eq!(door().newcomer(&cut(1, &wire)), whole);
    // Without a cut behind the hello, a client that did not wait for the answer.
    let eager = door().newcomer(&[&wire]);
    match &whole {
        Outcome::Accepted { user, answer, .. } => {
            assert!(signed, "no secret, and let in");
            assert_eq!(secrets.get(*user as usize), Some(secret));
            answered(&wire, secret, answer.as_deref());
            let Outcome::Refused { why } = twice.newcomer(&cut(0, &wire)) else {
                panic!("let in twice");
            };
            assert!(why.is_replay(), "{why:?}");
        }
        Outcome::Waits { answer } | Outcome::Closed { answer, .. } => {
            assert!(signed || answer.is_none(), "no secret, and answered");
        }
        Outcome::Refused { .. } => {}
    }
    if !signed {
        assert!(!matches!(eager, Outcome::Accepted { .. }));
    }
});

/// Cuts as [`pieces`] does, and behind a hello: what a client sends before the answer is judged
/// otherwise than what it sends behind it.
fn cut(seed: u8, wire: &[u8]) -> Vec<&[u8]> {
    let hello = hello_len(wire.get(..100).unwrap_or(wire));
    let hello = hello.ok().flatten().unwrap_or(0).min(wire.len());
    let (hello, behind) = wire.split_at(hello);
    let mut all = pieces(seed, hello);
    all.extend(pieces(seed, behind));
    all
}

/// What a newcomer sends, and whether it was made with a secret.
fn newcomer(kind: u8, secret: &Secret, mut choices: Choices<'_>) -> (Vec<u8>, bool) {
    let mut random = source(u64::from(kind));
    let shape = match kind & 8 {
        0 => HelloKind::Classic517,
        _ => HelloKind::PostQuantum,
    };
    let framing = match (kind >> 4) % 3 {
        0 => Framing::Abridged,
        1 => Framing::Intermediate,
        _ => Framing::Padded,
    };
    match kind % 5 {
        // Anything.
        0 => (choices.rest().to_vec(), false),
        // Anything, signed as a hello, with something behind it.
        1 => {
            let bytes = usize::from(choices.word());
            let mut wire = choices.take(bytes).to_vec();
            let signed = sign(&mut wire, secret);
            wire.extend_from_slice(choices.rest());
            (wire, signed)
        }
        // A plain header with anything behind it.
        2 => {
            let dc = DcId(choices.word() as i16);
            let mut wire = client_side(&mut random, secret, framing, dc).wire.to_vec();
            wire.extend_from_slice(choices.rest());
            (wire, true)
        }
        // A hello of ours with anything behind it.
        3 => {
            let skew = u32::from(choices.byte()) * 2;
            let mut wire = build_hello(&mut random, secret, DOMAIN, NOW_UNIX - skew, shape);
            wire.extend_from_slice(choices.rest());
            (wire, true)
        }
        // A whole client: hello, ChangeCipherSpec, header and data in records, then anything.
        _ => {
            let (dc, record_max) = (DcId(choices.word() as i16), choices.byte());
            let data = usize::from(choices.byte());
            let mut wire = build_hello(&mut random, secret, DOMAIN, NOW_UNIX, shape);
            let mut stream = client_side(&mut random, secret, framing, dc).wire.to_vec();
            stream.extend_from_slice(choices.take(data));
            if kind & 0x80 == 0 {
                wire.extend_from_slice(&[0x14, 3, 3, 0, 1, 1]);
            }
            encode(&mut wire, &stream, usize::from(record_max));
            wire.extend_from_slice(choices.rest());
            (wire, true)
        }
    }
}

/// Gives the hello the lengths it has and a user's signature; false when it is too short for one.
fn sign(record: &mut [u8], secret: &Secret) -> bool {
    let Some(length) = record.len().checked_sub(9).filter(|_| record.len() >= 43) else {
        return false;
    };
    let [_, a, b, c] = (length as u32).to_be_bytes();
    let [d, e] = ((length + 4) as u16).to_be_bytes();
    record[..9].copy_from_slice(&[0x16, 3, 1, d, e, 1, a, b, c]);
    record[11..43].fill(0);
    let mut mac = HmacKey::new(secret).mac(&[record]);
    for (byte, time) in mac[28..].iter_mut().zip(NOW_UNIX.to_le_bytes()) {
        *byte ^= time;
    }
    record[11..43].copy_from_slice(&mac);
    true
}

/// A FakeTLS client finds its answer as TDLib reads it; a plain one gets none.
fn answered(wire: &[u8], secret: &Secret, answer: Option<&[u8]>) {
    let Some(answer) = answer else {
        return;
    };
    let client_random: &[u8; 32] = wire[11..43].try_into().expect("32 bytes");
    let key = HmacKey::new(secret);
    let checked = check_answer(answer, &key, client_random);
    assert_eq!(checked, Ok(Some(answer.len())));
}

const SNI: [UnknownSni; 4] = [
    UnknownSni::Mask,
    UnknownSni::Drop,
    UnknownSni::Accept,
    UnknownSni::RejectHandshake,
];
