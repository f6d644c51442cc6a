//! Both sides against each other: any split, any bytes, bounded memory, and what is refused.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    far_side::{RequestError, Served, Wanted},
    *,
};
use crate::proto::socks::Target;

const NOW: u64 = 1_767_225_600;

fn source(seed: u8) -> impl FnMut(&mut [u8]) {
    let mut next = seed;
    move |out| {
        for byte in out {
            next = next.wrapping_mul(29).wrapping_add(113);
            *byte = next;
        }
    }
}

fn key(method: Method) -> ServerKey {
    let password = match method.key_bytes() {
        _ if !method.is_2022() => "correct horse",
        16 => "meWbaR5IwEiQWqMv3xYfFQ==",
        _ => "mYY+bhdXS45hhy6s/7HYfnkSiD5hfEBs9AZKnWwuQZU=",
    };
    ServerKey::new(method, password).unwrap()
}

fn target() -> Target<'static> {
    Target::Name("dc.example.net", 443)
}

fn pieces<'a>(data: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

/// A client and the server's side of it, with `first` already there.
fn connected(method: Method, first: &[u8]) -> (Leg, Served, Vec<u8>) {
    let key = key(method);
    let mut wire = Vec::new();
    let entropy = Entropy {
        unix_secs: NOW,
        random: &mut source(1),
    };
    let leg = Leg::start(&key, target(), first, entropy, &mut wire);
    let mut served = Served::new(&key);
    let seen = served.receive(&wire, NOW).unwrap();
    (leg, served, seen)
}

fn answer(served: &mut Served, payload: &[u8], unix_secs: u64, seed: u8) -> Vec<u8> {
    let mut wire = Vec::new();
    let random = &mut source(seed);
    served.answer(payload, Entropy { unix_secs, random }, &mut wire);
    wire
}

fn open_all(opener: &mut Opener, pieces: &[&[u8]], unix: u64) -> Result<Vec<u8>, OpenError> {
    let mut all = Vec::new();
    for piece in pieces {
        let mut data = piece.to_vec();
        let (mut joined, mut calls) = (Vec::new(), 0);
        let front = opener.open(&mut data, unix, |payload| {
            joined.extend_from_slice(payload);
            calls += 1;
        })?;
        assert!(calls <= 1);
        all.extend(joined);
        all.extend_from_slice(&data[..front]);
    }
    Ok(all)
}

fn methods() -> impl Strategy<Value = Method> {
    prop::sample::select(Method::ALL.to_vec())
}

/// What leaves when frames are laid around a payload that is sealed in place.
fn sealed_where_it_lies(up: &mut Sealer, mut payload: Vec<u8>) -> Vec<u8> {
    let mut frames = vec![0; up.frame_bytes(payload.len())];
    up.seal_in_place(&mut payload, &mut frames);
    let pieces = payload.chunks(up.chunk_bytes_max());
    let mut out = Vec::new();
    for (piece, frame) in pieces.zip(frames.chunks(LENGTH_BYTES + TAG_BYTES)) {
        let (head, tail) = frame.split_at(LENGTH_BYTES);
        out.extend([head, piece, tail].concat());
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_split_gives_the_same_both_ways(
        method in methods(),
        first in vec(any::<u8>(), 0..200),
        sizes in vec(0_usize..70_000, 0..4),
        up_cuts in vec(any::<Index>(), 0..12),
        down_cuts in vec(any::<Index>(), 0..12),
    ) {
        let (mut leg, mut served, seen) = connected(method, &first);
        prop_assert_eq!(&seen, &first);
        prop_assert_eq!(served.wanted(), Some(&Wanted::Name("dc.example.net".to_owned(), 443)));
        let (mut up, mut down, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        let mut answered = Vec::new();
        for (i, size) in sizes.iter().enumerate() {
            let payload: Vec<u8> = (0..*size).map(|n| (n * 7 + i) as u8).collect();
            let before = up.len();
            leg.up.seal(&payload, &mut up);
            prop_assert_eq!(up.len() - before, leg.up.sealed_bytes(payload.len()));
            up.extend(sealed_where_it_lies(&mut leg.up, payload.clone()));
            sent.extend_from_slice(&payload);
            down.extend(answer(&mut served, &payload, NOW, 2));
            answered.extend_from_slice(&payload);
            sent.extend(payload);
        }
        let mut got = Vec::new();
        for piece in pieces(&up, &up_cuts) {
            got.extend(served.receive(piece, NOW).unwrap());
        }
        prop_assert!(got == sent);
        let got = open_all(&mut leg.down, &pieces(&down, &down_cuts), NOW).unwrap();
        prop_assert!(got == answered);
        prop_assert!(leg.down.is_between_chunks());
    }

    #[test]
    fn any_bytes_are_survived_and_bounded(
        method in methods(),
        noise in vec(vec(any::<u8>(), 0..5000), 1..6),
        good in 0_usize..300,
    ) {
        let (mut leg, mut served, _) = connected(method, b"x");
        let wire = answer(&mut served, &[7; 200], NOW, 2);
        let _ = open_all(&mut leg.down, &[&wire[..good.min(wire.len())]], NOW);
        for piece in &noise {
            let _ = open_all(&mut leg.down, &[piece], NOW);
            prop_assert!(leg.down.held_bytes() <= 0xffff + TAG_BYTES);
        }
        let mut stranger = Served::new(&key(method));
        for piece in &noise {
            let _ = stranger.receive(piece, NOW);
        }
        prop_assert_eq!(stranger.wanted(), None);
    }

    #[test]
    fn one_changed_bit_is_noticed(method in methods(), at in any::<Index>(), bit in 0_u8..8) {
        let (mut leg, mut served, _) = connected(method, b"x");
        let payload = [5; 300];
        let mut wire = answer(&mut served, &payload, NOW, 2);
        let at = at.index(wire.len());
        wire[at] ^= 1 << bit;
        let cut = wire.len() / 2;
        prop_assert!(open_all(&mut leg.down, &[&wire[..cut], &wire[cut..]], NOW).is_err());
        prop_assert_eq!(open_all(&mut leg.down, &[b"x"], NOW), Err(OpenError::Broken));
    }

    #[test]
    fn any_text_is_survived_as_a_url(text in "(ss://)?[a-zA-Z0-9:@%=/?#\\[\\].-]{0,60}") {
        let _ = ServerUrl::parse(&text);
    }
}

#[test]
fn whole_chunks_are_opened_without_a_copy() {
    for method in Method::ALL {
        let (mut leg, mut served, _) = connected(method, b"x");
        let mut wire = answer(&mut served, &[9; 40_000], NOW, 2);
        let front = leg.down.open(&mut wire, NOW, |_| panic!("nothing to join"));
        assert_eq!(front, Ok(40_000));
        assert_eq!(leg.down.held_bytes(), 0, "{method:?}");
    }
}

#[test]
fn an_idle_opener_holds_no_chunk() {
    let (mut leg, mut served, _) = connected(Method::Aes128Gcm, b"x");
    let wire = answer(&mut served, &[9; 10_000], NOW, 2);
    let (front, back) = wire.split_at(6_000);
    assert_eq!(open_all(&mut leg.down, &[front], NOW), Ok(Vec::new()));
    assert!(!leg.down.is_between_chunks());
    assert!(leg.down.held_bytes() > 5_000);
    assert_eq!(open_all(&mut leg.down, &[back], NOW), Ok(vec![9; 10_000]));
    assert_eq!(leg.down.held_bytes(), 0);
}

#[test]
fn a_recorded_answer_is_refused() {
    let method = Method::Blake3Aes256Gcm;
    let (_, mut served, _) = connected(method, b"x");
    let wire = answer(&mut served, b"recorded", NOW, 2);
    let key = key(method);
    let entropy = Entropy {
        unix_secs: NOW,
        random: &mut source(9),
    };
    let mut other = Leg::start(&key, target(), b"x", entropy, &mut Vec::new());
    let got = open_all(&mut other.down, &[&wire], NOW);
    assert_eq!(got, Err(OpenError::Replayed));
}

#[test]
fn an_answer_may_be_thirty_seconds_off() {
    for (skew, want) in [
        (0, Ok(b"hello".to_vec())),
        (-30, Ok(b"hello".to_vec())),
        (30, Ok(b"hello".to_vec())),
        (31, Err(OpenError::Clock { skew_secs: 31 })),
        (-31, Err(OpenError::Clock { skew_secs: 31 })),
    ] {
        let (mut leg, mut served, _) = connected(Method::Blake3ChaCha20Poly1305, b"x");
        let wire = answer(&mut served, b"hello", NOW.saturating_add_signed(skew), 2);
        assert_eq!(open_all(&mut leg.down, &[&wire], NOW), want, "{skew}");
    }
}

#[test]
fn our_own_bytes_are_no_answer() {
    for method in Method::ALL {
        let mut wire = Vec::new();
        let entropy = Entropy {
            unix_secs: NOW,
            random: &mut source(1),
        };
        let mut leg = Leg::start(&key(method), target(), b"x", entropy, &mut wire);
        let got = open_all(&mut leg.down, &[&wire], NOW);
        assert_eq!(got, Err(OpenError::Reflected), "{method:?}");
    }
}

#[test]
fn a_request_is_no_answer() {
    let method = Method::Blake3Aes128Gcm;
    let (mut leg, ..) = connected(method, b"x");
    let mut wire = Vec::new();
    let random = &mut source(77);
    let entropy = Entropy {
        unix_secs: NOW,
        random,
    };
    let mut prefix = Vec::new();
    Leg::start(&key(method), target(), b"x", entropy, &mut prefix);
    wire.extend(prefix);
    // As long as an answer's header, which ends the request's header's tag elsewhere.
    let got = open_all(&mut leg.down, &[&wire], NOW);
    assert_eq!(got, Err(OpenError::Tag));
}

#[test]
fn first_edition_chunks_have_a_limit() {
    let key = key(Method::Aes128Gcm);
    let salt = [3; 16];
    let mut aead = aead::Aead::new(&key, &Salt::from_slice(&salt)).unwrap();
    let mut wire = salt.to_vec();
    let mut length = 0x4000_u16.to_be_bytes();
    let tag = aead.seal(&mut length);
    wire.extend(length);
    wire.extend(tag);
    let (mut leg, ..) = connected(Method::Aes128Gcm, b"x");
    let got = open_all(&mut leg.down, &[&wire], NOW);
    let (got_bytes, max) = (0x4000, 0x3fff);
    let want = OpenError::Length {
        got: got_bytes,
        max,
    };
    assert_eq!(got, Err(want));
}

#[test]
fn requests_without_payload_are_padded() {
    for seed in 0..20 {
        let key = key(Method::Blake3Aes128Gcm);
        let mut wire = Vec::new();
        let entropy = Entropy {
            unix_secs: NOW,
            random: &mut source(seed),
        };
        Leg::start(&key, target(), &[], entropy, &mut wire);
        let mut served = Served::new(&key);
        assert_eq!(served.receive(&wire, NOW), Ok(Vec::new()));
        assert!(served.wanted().is_some());
        let bare = 16 + 27 + 18 + 2 + 16;
        assert!((bare + 1..=bare + 900).contains(&wire.len()));
    }
}

#[test]
fn the_wrong_password_opens_nothing() {
    for method in [Method::Aes256Gcm, Method::ChaCha20Poly1305] {
        let mut wire = Vec::new();
        let entropy = Entropy {
            unix_secs: NOW,
            random: &mut source(1),
        };
        Leg::start(&key(method), target(), b"x", entropy, &mut wire);
        let other = ServerKey::new(method, "wrong horse").unwrap();
        let got = Served::new(&other).receive(&wire, NOW);
        assert_eq!(got, Err(RequestError::Open(OpenError::Tag)));
    }
}

#[test]
fn urls_are_read_in_all_forms() {
    let check = |text: &str, host: &str, port: u16, method: Method| {
        let url = ServerUrl::parse(text).unwrap();
        let got = (url.host.as_str(), url.port, url.key.method());
        assert_eq!(got, (host, port, method), "{text}");
    };
    // aes-128-gcm:pass:word@1
    let user = "YWVzLTEyOC1nY206cGFzczp3b3JkQDE";
    check(
        &format!("ss://{user}@h.example:9"),
        "h.example",
        9,
        Method::Aes128Gcm,
    );
    check(
        &format!("ss://{user}=@h.example"),
        "h.example",
        8388,
        Method::Aes128Gcm,
    );
    check(
        &format!("ss://{user}%3D@H.example/"),
        "h.example",
        8388,
        Method::Aes128Gcm,
    );
    check(
        &format!("ss://{user}@[2001:db8::1]:9/?x=1#n"),
        "2001:db8::1",
        9,
        Method::Aes128Gcm,
    );
    check(
        &format!("ss://{user}@[2001:db8::1]"),
        "2001:db8::1",
        8388,
        Method::Aes128Gcm,
    );
    check(
        "ss://AES-256-GCM:a%40b%3Ac@192.0.2.1:1#x@y",
        "192.0.2.1",
        1,
        Method::Aes256Gcm,
    );
    let key = |text: &str| ServerUrl::parse(text).unwrap().key;
    let plain = key("ss://aes-128-gcm:pass%3Aword%401@h:1");
    assert!(key(&format!("ss://{user}@h:1")) == plain);
    assert!(key("ss://aes-128-gcm:other@h:1") != plain);
}

#[test]
fn urls_that_cannot_be_used_say_why() {
    use UrlError as E;
    let keys = "meWbaR5IwEiQWqMv3xYfFQ==";
    let encoded = "meWbaR5IwEiQWqMv3xYfFQ%3D%3D";
    for (text, want) in [
        ("https://a:b@h:1".to_owned(), E::Scheme),
        ("ss://".to_owned(), E::Form),
        ("ss://@h:1".to_owned(), E::Form),
        ("ss://nothing@h:1".to_owned(), E::Form),
        ("ss://aes-128-gcm:%zz@h:1".to_owned(), E::Form),
        ("ss://rc4-md5:x@h:1".to_owned(), E::Method),
        ("ss://aes-128-gcm:@h:1".to_owned(), E::Password),
        (
            "ss://2022-blake3-aes-128-gcm:short@h:1".to_owned(),
            E::Password,
        ),
        (
            format!("ss://2022-blake3-aes-256-gcm:{encoded}@h:1"),
            E::Password,
        ),
        (
            format!("ss://2022-blake3-aes-128-gcm:{keys}:{keys}@h:1"),
            E::Keys,
        ),
        (
            format!("ss://2022-blake3-aes-128-gcm:{encoded}%3A{encoded}@h:1"),
            E::Keys,
        ),
        (
            "ss://aes-128-gcm:x@h:1?plugin=obfs-local%3Bobfs%3Dhttp".to_owned(),
            E::Plugin,
        ),
        ("ss://aes-128-gcm:x@h:1/?a=b&plugin=".to_owned(), E::Plugin),
        ("ss://aes-128-gcm:x@:1".to_owned(), E::Host),
        ("ss://aes-128-gcm:x@[::1:1".to_owned(), E::Host),
        ("ss://aes-128-gcm:x@a b:1".to_owned(), E::Host),
        ("ss://aes-128-gcm:x@h:0".to_owned(), E::Port),
        ("ss://aes-128-gcm:x@h:99999".to_owned(), E::Port),
        ("ss://aes-128-gcm:x@[::1]1".to_owned(), E::Port),
    ] {
        assert_eq!(ServerUrl::parse(&text), Err(want), "{text}");
    }
}

#[test]
fn nothing_shows_a_password() {
    let text = "ss://aes-128-gcm:hunter2@h:1";
    let url = ServerUrl::parse(text).unwrap();
    let want = "ServerUrl { host: \"h\", port: 1, key: ServerKey(aes-128-gcm, ..) }";
    assert_eq!(format!("{url:?}"), want);
    let (leg, served, _) = connected(Method::Aes128Gcm, b"hunter2");
    assert!(!format!("{leg:?}{:?}{served:?}", leg.up).contains("hunter2"));
}

#[test]
fn a_leg_is_worth_its_box() {
    assert!(size_of::<Leg>() <= 1600, "{}", size_of::<Leg>());
}
