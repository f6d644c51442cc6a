//! The SOCKS client against written-out servers, whole and in pieces.

use proptest::{collection::vec, prelude::*};

use super::*;

const PLAIN5: Proxy<'_> = Proxy::V5 { credentials: None };

fn v4() -> Target<'static> {
    Target::Addr("192.0.2.1:443".parse().unwrap())
}

#[test]
fn refuses_requests_that_cannot_be_written() {
    let v6 = Target::Addr("[2001:db8::1]:443".parse().unwrap());
    let long = "x".repeat(256);
    let v5 = |user, password| Proxy::V5 {
        credentials: Some((user, password)),
    };
    for (proxy, target, want) in [
        (Proxy::V4 { user_id: "" }, v6, SocksError::Family),
        (
            Proxy::V4 { user_id: "a\0" },
            v4(),
            SocksError::Text { got: 2 },
        ),
        (v5("", "p"), v4(), SocksError::Text { got: 0 }),
        (v5("u", &long), v4(), SocksError::Text { got: 256 }),
        (
            PLAIN5,
            Target::Name(&long, 1),
            SocksError::Text { got: 256 },
        ),
        (PLAIN5, Target::Name("", 1), SocksError::Text { got: 0 }),
    ] {
        let mut out = Vec::new();
        let got = Handshake::start(proxy, target, &mut out).map(|_| ());
        assert_eq!((got, out.len()), (Err(want), 0));
    }
}

#[test]
fn refuses_what_was_not_offered() {
    let mut out = Vec::new();
    let mut plain = Handshake::start(PLAIN5, v4(), &mut out).unwrap();
    assert_eq!(plain.receive(&[5], &mut out), Ok(Progress::NeedMore));
    assert_eq!(
        plain.receive(&[5, 2], &mut out),
        Err(SocksError::Method { got: 2 })
    );
    assert_eq!(
        plain.receive(&[4, 0], &mut out),
        Err(SocksError::Version { got: 4 })
    );
}

#[test]
fn leaves_the_stream_behind_the_reply() {
    let mut out = Vec::new();
    let mut plain = Handshake::start(PLAIN5, v4(), &mut out).unwrap();
    let next = Progress::Next { consumed: 2 };
    assert_eq!(plain.receive(&[5, 0, 9, 9], &mut out), Ok(next));
    let reply = [5, 0, 0, ATYP_NAME, 2, b'a', b'b', 1, 2, 9, 9];
    for cut in 0..9 {
        assert_eq!(
            plain.receive(&reply[..cut], &mut out),
            Ok(Progress::NeedMore)
        );
    }
    let done = Progress::Done {
        consumed: 9,
        bound: None,
    };
    assert_eq!(plain.receive(&reply, &mut out), Ok(done));
}

#[test]
fn hides_bound_addresses_that_tell_nothing() {
    for (ip, known) in [
        ("10.0.0.1", false),
        ("127.0.0.1", false),
        ("169.254.0.1", false),
        ("0.0.0.0", false),
        ("8.8.8.8", true),
        ("::", false),
        ("::1", false),
        ("fd00::1", false),
        ("fe80::1", false),
        ("2001:4860::1", true),
    ] {
        assert_eq!(is_public(ip.parse().unwrap()), known, "{ip}");
    }
}

proptest! {
    #[test]
    fn any_answer_is_survived(
        four: bool, authenticated: bool, answer in vec(prop_oneof![0_u8..6, any::<u8>()], 0..300),
    ) {
        let credentials = authenticated.then_some(("user", "password"));
        let proxy = if four { Proxy::V4 { user_id: "" } } else { Proxy::V5 { credentials } };
        let mut out = Vec::new();
        let mut handshake = Handshake::start(proxy, v4(), &mut out).unwrap();
        let mut rest = &answer[..];
        // Two answers at most precede the last one.
        for _ in 0..3 {
            match handshake.receive(rest, &mut out) {
                Ok(Progress::Next { consumed }) => rest = &rest[consumed..],
                Ok(Progress::Done { consumed, .. }) => {
                    prop_assert!(consumed <= rest.len());
                    break;
                }
                Ok(Progress::NeedMore) | Err(_) => break,
            }
        }
        prop_assert!(out.len() < 600);
    }
}
