//! Answers of our own, made-up ones, and any bytes at all.

use proptest::{collection::vec, prelude::*};

use super::{
    super::super::{
        crypto::{HmacKey, sha256},
        reader::Writer,
        secret::Secret,
    },
    super::server_hello::{Answer, Group, answer},
    *,
};

fn ours(group: Group, suite: u16, key_share_first: bool) -> Vec<u8> {
    let says = Answer {
        session_id: &[1; 32],
        suite,
        group,
        key_share: &vec![8; group.key_share_bytes()],
        flight_bytes: 2000,
        key_share_first,
    };
    let mut out = Vec::new();
    let key = HmacKey::new(&Secret([3; 16]));
    answer(&mut out, &key, &[4; 32], &says, &mut |c| c.fill(0x77));
    out
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 3, 3];
    Writer::new(&mut out).block::<2>(|w| {
        w.bytes(payload);
    });
    out
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    Writer::new(&mut out).block::<3>(|w| {
        w.bytes(body);
    });
    out
}

/// Found by fuzzing: it was refused only until the ServerHello came behind it.
#[test]
fn encrypted_records_before_the_server_hello_are_refused() {
    let mut seen = record(DATA, &[9; 3]);
    assert_eq!(read_site_answer(&seen), Err(SiteAnswerError::NoServerHello));
    seen.extend(ours(Group::X25519, 0x1301, false));
    assert_eq!(read_site_answer(&seen), Err(SiteAnswerError::NoServerHello));
}

#[test]
fn our_own_answers_are_read_back() {
    for group in [Group::X25519, Group::Hybrid] {
        for (suite, hash) in [(0x1301, 32), (0x1302, 48), (0x1303, 32)] {
            for key_share_first in [false, true] {
                let mut seen = ours(group, suite, key_share_first);
                seen.extend(record(DATA, &[9; 300]));
                let read = read_site_answer(&seen).unwrap();
                let hello = read.hello.unwrap();
                assert_eq!((hello.tls13, hello.retry), (true, false));
                assert_eq!(hello.suite, suite);
                assert_eq!(hello.key_share_first, key_share_first);
                let id = if group == Group::Hybrid { 0x11ec } else { 0x1d };
                assert_eq!(hello.group, Some(id));
                assert_eq!(read.encrypted, [2000, 300]);
                assert!(read.may_be_complete());
                assert_eq!(read.flight_bytes(), Some(2300 - hash));
            }
        }
    }
}

#[test]
fn completeness_shows_at_record_boundaries_only() {
    let whole = ours(Group::X25519, 0x1301, false);
    for cut in 0..whole.len() {
        let read = read_site_answer(&whole[..cut]).unwrap();
        assert!(!read.may_be_complete(), "{cut} bytes");
    }
    assert!(read_site_answer(&whole).unwrap().may_be_complete());
}

#[test]
fn hello_may_be_spread_over_records() {
    let whole = ours(Group::X25519, 0x1301, false);
    let hello_bytes = 127 - 5;
    let mut seen = Vec::new();
    for piece in whole[5..5 + hello_bytes].chunks(50) {
        seen.extend(record(HANDSHAKE, piece));
    }
    seen.extend_from_slice(&whole[127..]);
    assert_eq!(read_site_answer(&seen), read_site_answer(&whole));
}

#[test]
fn retry_request_is_known_by_its_random() {
    assert_eq!(RETRY_RANDOM, sha256(&[b"HelloRetryRequest"]));
    let mut body = vec![3, 3];
    body.extend(RETRY_RANDOM);
    body.extend([0, 0x13, 0x02, 0, 0, 12]);
    body.extend([0, 0x2b, 0, 2, 3, 4, 0, 0x33, 0, 2, 0, 0x17]);
    let seen = record(HANDSHAKE, &message(SERVER_HELLO, &body));
    let read = read_site_answer(&seen).unwrap();
    let hello = read.hello.unwrap();
    assert!(hello.retry && hello.tls13 && read.may_be_complete());
    assert_eq!((hello.suite, hello.group), (0x1302, Some(0x17)));
    assert_eq!(read.flight_bytes(), None);
}

#[test]
fn flight_of_tls12_is_converted() {
    let mut body = vec![3, 3];
    body.extend([5; 32]);
    // A name that was understood, and h2.
    body.extend([0, 0xc0, 0x2f, 0, 0, 13]);
    body.extend([0, 0, 0, 0, 0, 0x10, 0, 5, 0, 3, 2, b'h', b'2']);
    let mut clear = message(SERVER_HELLO, &body);
    let mut chain = vec![0, 0x03, 0xee];
    for certificate in [600_usize, 400] {
        chain.extend(&(certificate as u32).to_be_bytes()[1..]);
        chain.extend(vec![7; certificate]);
    }
    clear.extend(message(CERTIFICATE, &chain));
    let mut exchange = vec![3, 0, 0x1d, 32];
    exchange.extend([2; 32]);
    exchange.extend([8, 4, 1, 0]);
    exchange.extend([3; 256]);
    clear.extend(message(SERVER_KEY_EXCHANGE, &exchange));
    let without_end = record(HANDSHAKE, &clear);
    assert!(!read_site_answer(&without_end).unwrap().may_be_complete());
    clear.extend(message(SERVER_HELLO_DONE, &[]));
    let read = read_site_answer(&record(HANDSHAKE, &clear)).unwrap();
    assert!(read.may_be_complete());
    let extensions = 6 + 4 + 9;
    let certificate = 4 + 4 + 1006 + 2 * 2;
    let verify = 4 + 4 + 256;
    let sum = extensions + certificate + verify + 4 + 4 * 17;
    assert_eq!(read.flight_bytes(), Some(sum));
}

#[test]
fn refusals_and_other_protocols_are_told_at_once() {
    for (seen, want) in [
        (
            &[0x15, 3, 1, 0, 2, 2, 40][..],
            SiteAnswerError::Alert { code: 40 },
        ),
        (b"HTTP/1.1 400", SiteAnswerError::Type { got: b'H' }),
        (b"S", SiteAnswerError::Type { got: b'S' }),
        (&[0x16, 3, 3, 0, 1, 1], SiteAnswerError::NoServerHello),
        (&[0x17, 3, 3, 0, 1, 1], SiteAnswerError::NoServerHello),
        (
            &[0x17, 3, 3, 0xff, 0xff],
            SiteAnswerError::Length {
                got: 0xffff,
                max: READ_MAX,
            },
        ),
    ] {
        assert_eq!(read_site_answer(seen), Err(want));
    }
    let much = vec![0x17; ANSWER_BYTES_MAX + 1];
    assert!(matches!(
        read_site_answer(&much),
        Err(SiteAnswerError::Length { .. })
    ));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..400)) {
        let read = read_site_answer(&bytes);
        if let Ok(answer) = read {
            prop_assert!(answer.encrypted_bytes() <= bytes.len());
            answer.flight_bytes();
        }
    }

    #[test]
    fn any_damage_is_survived(
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = ours(Group::X25519, 0x1302, false);
        let place = at.index(bytes.len());
        bytes[place] = with;
        bytes.truncate(cut.index(bytes.len() + 1));
        if let Ok(answer) = read_site_answer(&bytes) {
            answer.flight_bytes();
        }
    }

    #[test]
    fn any_messages_are_survived(
        parts in vec((0..30_u8, vec(any::<u8>(), 0..120)), 0..6),
    ) {
        let mut clear = message(SERVER_HELLO, &[3; 60]);
        for (kind, body) in parts {
            clear.extend(message(kind, &body));
        }
        if let Ok(answer) = read_site_answer(&record(HANDSHAKE, &clear)) {
            answer.flight_bytes();
        }
    }
}

#[test]
fn a_signature_longer_than_its_message_does_not_count() {
    let mut body = vec![3, 0, 29, 2, 9, 9, 8, 4];
    body.extend_from_slice(&[0, 5, 1, 2, 3, 4]);
    assert_eq!(signature_bytes(&body), Err(Short { need: 5, have: 4 }));
    body.push(5);
    assert_eq!(signature_bytes(&body), Ok(5));
}
