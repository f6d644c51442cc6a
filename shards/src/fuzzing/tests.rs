//! The door lets in whom the proxy lets in: otherwise fuzzing behind it would prove nothing.

use proptest::prelude::*;

use super::*;
use crate::proto::{
    faketls::{
        client_hello::{HelloKind, build_hello},
        record::{CHANGE_CIPHER_SPEC, encode},
        server_hello::check_answer,
    },
    obfuscated2::client_side,
};

const ALL: Modes = Modes {
    classic: true,
    secure: true,
    tls: true,
};

pub(super) const SECRETS: [Secret; 3] = [Secret([1; 16]), Secret([2; 16]), Secret([3; 16])];

fn fill(out: &mut [u8]) {
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = (index as u8).wrapping_mul(37).wrapping_add(5);
    }
}

#[test]
fn a_tls_client_is_let_in_once() {
    let mut door = Door::new(ALL, UnknownSni::Mask, &SECRETS);
    let hello = build_hello(
        &mut fill,
        &SECRETS[1],
        DOMAIN,
        NOW_UNIX,
        HelloKind::Classic517,
    );
    let header = client_side(&mut fill, &SECRETS[1], Framing::Padded, DcId(-3)).wire;
    let mut flight = CHANGE_CIPHER_SPEC.to_vec();
    encode(&mut flight, &[&header[..], b"after"].concat(), 50);
    let (front, back) = flight.split_at(30);
    let Outcome::Accepted {
        user,
        dc,
        answer,
        rest,
        ..
    } = door.newcomer(&[&hello[..100], &hello[100..], front, back])
    else {
        panic!("a genuine client was not let in");
    };
    assert_eq!((user, dc, rest.as_slice()), (1, DcId(-3), &b"after"[..]));
    let answer = answer.expect("a hello is answered");
    let client_random = hello[11..43].try_into().expect("32 bytes");
    let key = HmacKey::new(&SECRETS[1]);
    let checked = check_answer(&answer, &key, client_random);
    assert_eq!(checked, Ok(Some(answer.len())));
    let Outcome::Refused { why } = door.newcomer(&[&hello]) else {
        panic!("a replay was let in");
    };
    assert!(why.is_replay(), "{why:?}");
}

#[test]
fn a_plain_client_is_let_in_once() {
    let mut door = Door::new(ALL, UnknownSni::Mask, &SECRETS);
    let header = client_side(&mut fill, &SECRETS[2], Framing::Abridged, DcId(4)).wire;
    let came = door.newcomer(&[&header[..1], &header[1..], b"more"]);
    assert!(
        matches!(&came, Outcome::Accepted { user: 2, rest, .. } if rest == b"more"),
        "{came:?}"
    );
    let again = door.newcomer(&[&header]);
    assert!(
        matches!(&again, Outcome::Refused { why } if why.is_replay()),
        "{again:?}"
    );
}

proptest! {
    /// The door itself compares what is kept with what came.
    #[test]
    fn what_a_stranger_sent_is_kept_as_it_came(
        kind in 0usize..4,
        noise in prop::collection::vec(any::<u8>(), 64..600),
        cuts in prop::collection::vec(1usize..500, 0..6),
    ) {
        let hello = |secret: &Secret, kind| build_hello(&mut fill, secret, DOMAIN, NOW_UNIX, kind);
        let foreign = Secret([9; 16]);
        let bytes = match kind {
            0 => hello(&foreign, HelloKind::Classic517),
            1 => hello(&foreign, HelloKind::PostQuantum),
            // Ours, and more behind it.
            2 => [&hello(&SECRETS[0], HelloKind::Classic517)[..], &noise].concat(),
            _ => noise,
        };
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, more) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = more;
        }
        pieces.push(rest);
        let outcome = Door::new(ALL, UnknownSni::Mask, &SECRETS).newcomer(&pieces);
        let let_in = matches!(outcome, Outcome::Accepted { .. });
        prop_assert!(!let_in, "{:?}", outcome);
    }
}
