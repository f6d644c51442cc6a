//! Properties every decoder keeps: any bytes are survived, any split of the input gives the same
//! result, what was encoded is decoded, and state is bounded.

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    crypto::{CtrStream, HmacKey, sha256},
    dc::{DcId, DcTable, Resolved},
    faketls::{
        client_hello::{HelloKind, build_hello, hello_len, parse_fields, verify, zero_random},
        record::{PAYLOAD_MAX, RecordError, RecordReader, encode},
        server_hello::{Answer, Group, answer, check_answer},
    },
    framing::{Control, FrameError, FrameEvent, FrameReader, Framing, Side},
    obfuscated2::{Opening, client_keys, client_side, dc_header, dc_side, may_write, open},
    secret::{LinkSecret, ProxyLink, Secret, check_domain},
    sniff::{Sniffed, sniff},
};
use crate::settings::Modes;

/// A source of random bytes that repeats itself for the same seed.
fn source(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed;
    move |out| {
        for byte in out {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }
}

/// `data` cut at these places, in order; pieces may be empty.
fn split<'a>(data: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}

fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Abridged),
        Just(Framing::Intermediate),
        Just(Framing::Padded)
    ]
}

fn sides() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Uplink), Just(Side::Downlink)]
}

fn secrets() -> impl Strategy<Value = Secret> {
    any::<[u8; 16]>().prop_map(Secret)
}

fn domains() -> impl Strategy<Value = String> {
    "[a-z0-9]{2,9}(-[a-z0-9]{1,9}){0,2}(\\.[a-z0-9]{1,20}){1,4}"
}

/// Bytes that are often right: pieces of real records between random ones.
fn record_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        vec(any::<u8>(), 0..40),
        vec(any::<u8>(), 1..900).prop_map(|payload| {
            let mut out = Vec::new();
            encode(&mut out, &payload, 300);
            out
        }),
        Just(vec![0x14, 3, 3, 0, 1, 1]),
        Just(vec![0x17, 3, 3, 0, 0]),
        Just(vec![0x15, 3, 3, 0, 2]),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

type Records = Result<(Vec<u8>, bool), RecordError>;

fn read_records(pieces: &[&[u8]]) -> Records {
    let mut reader = RecordReader::new();
    let (mut out, mut ended) = (Vec::new(), false);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let got = reader.compact(&mut piece)?;
        assert!(got.payload <= piece.len());
        assert!(!ended || got.payload == 0);
        out.extend_from_slice(&piece[..got.payload]);
        ended = got.ended;
    }
    Ok((out, ended))
}

#[derive(Debug, PartialEq)]
enum Read {
    Frame { payload: Vec<u8>, quick_ack: bool },
    Token(u32),
}

/// Everything a frame reader says about these pieces, with payload pieces joined.
fn read_frames(framing: Framing, side: Side, pieces: &[&[u8]]) -> (Vec<Read>, Option<FrameError>) {
    let mut reader = FrameReader::new(framing, side);
    let (mut all, mut open, mut left) = (Vec::new(), None, 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match reader.next(rest) {
                Ok(step) => step,
                Err(error) => return (all, Some(error)),
            };
            rest = &rest[step.consumed..];
            match step.event {
                Some(FrameEvent::Begin {
                    payload_bytes,
                    quick_ack,
                }) => {
                    assert!(open.is_none() && payload_bytes.is_multiple_of(4));
                    (open, left) = (Some((Vec::new(), quick_ack)), payload_bytes as usize);
                }
                Some(FrameEvent::Payload(piece)) => {
                    assert!(!piece.is_empty());
                    left -= piece.len();
                    open.as_mut().unwrap().0.extend_from_slice(piece);
                }
                Some(FrameEvent::End) => {
                    assert_eq!(left, 0);
                    let (payload, quick_ack) = open.take().unwrap();
                    all.push(Read::Frame { payload, quick_ack });
                }
                Some(FrameEvent::QuickAck(token)) => all.push(Read::Token(token)),
                None => break,
            }
        }
        assert!(rest.is_empty(), "the reader holds nothing back");
    }
    (all, None)
}

proptest! {
    #[test]
    fn cipher_is_the_same_for_any_split(
        key: [u8; 32], iv: [u8; 16], mut data in vec(any::<u8>(), 0..5000), cuts in cuts(),
    ) {
        let mut whole = data.clone();
        CtrStream::new(&key, &iv).apply(&mut whole);
        let mut stream = CtrStream::new(&key, &iv);
        let mut got = Vec::new();
        for piece in split(&data, &cuts) {
            let mut piece = piece.to_vec();
            stream.apply(&mut piece);
            got.extend(piece);
        }
        prop_assert_eq!(&got, &whole);
        CtrStream::new(&key, &iv).apply(&mut got);
        data.truncate(got.len());
        prop_assert_eq!(got, data);
    }

    #[test]
    fn skipping_is_applying(
        key: [u8; 32],
        iv: [u8; 16],
        steps in vec((any::<bool>(), 0_usize..200), 0..20),
    ) {
        let total: usize = steps.iter().map(|step| step.1).sum();
        let mut all = vec![0; total];
        CtrStream::new(&key, &iv).apply(&mut all);
        let (mut stream, mut at) = (CtrStream::new(&key, &iv), 0);
        for (skip, n) in steps {
            if skip {
                stream.skip(n as u64);
            } else {
                let mut piece = vec![0; n];
                stream.apply(&mut piece);
                prop_assert_eq!(&piece, &all[at..at + n]);
            }
            at += n;
        }
    }

    #[test]
    fn hashes_are_the_same_for_any_split(
        secret in secrets(),
        data in vec(any::<u8>(), 0..400),
        cuts in cuts(),
    ) {
        let pieces = split(&data, &cuts);
        prop_assert_eq!(sha256(&pieces), sha256(&[&data]));
        let key = HmacKey::new(&secret);
        prop_assert_eq!(key.mac(&pieces), key.mac(&[&data]));
    }

    #[test]
    fn records_read_the_same_for_any_split(stream in record_bytes(), cuts in cuts()) {
        let whole = read_records(&[&stream]);
        prop_assert_eq!(read_records(&split(&stream, &cuts)), whole);
    }

    #[test]
    fn records_carry_any_payload(
        payload in vec(any::<u8>(), 0..40_000),
        max in 1..=PAYLOAD_MAX,
        cuts in cuts(),
    ) {
        let mut stream = Vec::new();
        encode(&mut stream, &payload, max.max(payload.len() / 2000));
        prop_assert_eq!(read_records(&split(&stream, &cuts)), Ok((payload, false)));
    }

    #[test]
    fn frames_read_the_same_for_any_split(
        framing in framings(), side in sides(), stream in vec(any::<u8>(), 0..600), cuts in cuts(),
    ) {
        let whole = read_frames(framing, side, &[&stream]);
        prop_assert_eq!(read_frames(framing, side, &split(&stream, &cuts)), whole);
    }

    #[test]
    fn frames_carry_any_payload(
        framing in framings(),
        frames in vec((1_usize..300, 0_usize..16, any::<bool>(), any::<u32>()), 0..8),
        cuts in cuts(),
    ) {
        let (mut up, mut down, mut want_up, mut want_down) = (vec![], vec![], vec![], vec![]);
        for (words, padding, quick_ack, token) in frames {
            let mut payload = vec![0; words * 4];
            source(token.into())(&mut payload);
            let padding = vec![7; if framing == Framing::Padded { padding } else { 0 }];
            framing.encode(&payload, &padding, quick_ack, &mut up).unwrap();
            framing.encode(&payload, &padding, false, &mut down).unwrap();
            // Padding of four bytes and more is indistinguishable from payload.
            payload.extend(&padding[..padding.len() & !3]);
            want_up.push(Read::Frame { payload: payload.clone(), quick_ack });
            want_down.push(Read::Frame { payload, quick_ack: false });
            down.extend(framing.encode_quick_ack(token));
            want_down.push(Read::Token(token | 1 << 31));
        }
        prop_assert_eq!(read_frames(framing, Side::Uplink, &split(&up, &cuts)), (want_up, None));
        let got = read_frames(framing, Side::Downlink, &split(&down, &cuts));
        prop_assert_eq!(got, (want_down, None));
    }

    #[test]
    fn controls_survive_any_payload(payload in vec(any::<u8>(), 0..20)) {
        let is_control = (4..12).contains(&payload.len());
        prop_assert_eq!(Control::parse(&payload).is_some(), is_control);
    }

    #[test]
    fn headers_open_with_their_secret_only(
        seed: u64, secret in secrets(), other in secrets(), framing in framings(), dc: i16,
    ) {
        let client = client_side(&mut source(seed), &secret, framing, DcId(dc));
        let opening = Opening { framing, dc: DcId(dc) };
        prop_assert!(may_write(&client.wire));
        prop_assert_eq!(open(&client.wire, &secret), Some(opening));
        prop_assert!(secret == other || open(&client.wire, &other).is_none());
    }

    #[test]
    fn any_header_is_survived(header in vec(any::<u8>(), 64), secret in secrets()) {
        let header = header.try_into().unwrap();
        let _ = open(&header, &secret);
        let _ = dc_side(&header);
        client_keys(&header, &secret).p2c().apply(&mut [0; 20]);
    }

    #[test]
    fn a_fast_relay_needs_no_downlink_cipher(
        seed: u64, secret in secrets(), framing in framings(), dc: i16,
        answer in vec(any::<u8>(), 0..300),
    ) {
        let opening = Opening { framing, dc: DcId(dc) };
        let mut client = client_side(&mut source(seed), &secret, framing, DcId(dc));
        let keys = client_keys(&client.wire, &secret);
        let fast = Some((&keys.p2c_key, &keys.p2c_iv));
        let ours = dc_header(&mut source(seed ^ 1), &opening, fast);
        prop_assert!(may_write(&ours.wire));
        let mut far = dc_side(&ours.wire).unwrap();
        prop_assert_eq!((far.framing, far.dc), (framing, DcId(dc)));
        let mut wire = answer.clone();
        far.d2p.apply(&mut wire);
        client.p2c.apply(&mut wire);
        prop_assert_eq!(wire, answer);
    }

    #[test]
    fn sniffing_never_changes_its_mind(
        seen in vec(any::<u8>(), 0..70),
        classic: bool,
        secure: bool,
        tls: bool,
    ) {
        let modes = Modes { classic, secure, tls };
        let last = sniff(&seen, modes);
        for cut in 0..seen.len() {
            let early = sniff(&seen[..cut], modes);
            prop_assert!(early == Sniffed::NeedMore || early == last);
        }
        prop_assert!(seen.len() < 4 || last != Sniffed::NeedMore);
    }

    #[test]
    fn hellos_are_verified_and_read(
        seed: u64, secret in secrets(), domain in domains(), time: u32, post_quantum: bool,
    ) {
        let kind = if post_quantum { HelloKind::PostQuantum } else { HelloKind::Classic517 };
        let mut hello = build_hello(&mut source(seed), &secret, &domain, time, kind);
        prop_assert_eq!(hello_len(&hello), Ok(Some(hello.len())));
        let random = zero_random(&mut hello);
        prop_assert_eq!(verify(&hello, &random, &HmacKey::new(&secret)), Some(time));
        let fields = parse_fields(&hello);
        prop_assert_eq!(fields.sni_is(&domain), Some(true));
        prop_assert_eq!((fields.x25519, fields.mlkem), (true, post_quantum));
    }

    #[test]
    fn any_hello_is_survived(
        seed: u64, damage in vec((any::<Index>(), any::<u8>()), 0..20), end: Index,
        noise in vec(any::<u8>(), 0..200),
    ) {
        let (secret, kind) = (Secret([1; 16]), HelloKind::PostQuantum);
        let mut hello = build_hello(&mut source(seed), &secret, "a.example", 0, kind);
        for (at, byte) in damage {
            let at = at.index(hello.len());
            hello[at] = byte;
        }
        hello.truncate(end.index(hello.len() + 1));
        for bytes in [&mut hello[..], &mut noise.clone()[..]] {
            // A refusal stays one however many bytes follow.
            let whole = hello_len(bytes);
            for cut in 0..bytes.len() {
                let early = hello_len(&bytes[..cut]);
                prop_assert!(early.is_ok() || early == whole);
            }
            let fields = parse_fields(bytes);
            prop_assert!(fields.session_id.len() <= 32);
            prop_assert!(fields.alpn.is_none_or(|alpn| alpn.names().count() <= bytes.len()));
            let random = zero_random(bytes);
            let _ = verify(bytes, &random, &HmacKey::new(&Secret([1; 16])));
        }
    }

    #[test]
    fn answers_are_accepted_unless_altered(
        seed: u64, secret in secrets(), client_random: [u8; 32], hybrid: bool,
        key_share_first: bool,
        session_id in vec(any::<u8>(), 0..=32), flight_bytes in 0_usize..12_000, damaged: Index,
        surplus in vec(any::<u8>(), 0..9),
    ) {
        let group = if hybrid { Group::Hybrid } else { Group::X25519 };
        let key_share = vec![5; group.key_share_bytes()];
        let a = Answer {
            session_id: &session_id,
            suite: 0x1302,
            group,
            key_share: &key_share,
            flight_bytes,
            key_share_first,
        };
        let key = HmacKey::new(&secret);
        let mut flight = Vec::new();
        answer(&mut flight, &key, &client_random, &a, &mut source(seed));
        let total = flight.len();
        flight.extend(surplus);
        prop_assert_eq!(check_answer(&flight, &key, &client_random), Ok(Some(total)));
        let at = damaged.index(total);
        flight[at] ^= 0x40;
        flight.truncate(total);
        let got = check_answer(&flight, &key, &client_random);
        prop_assert!(!matches!(got, Ok(Some(_))));
    }

    #[test]
    fn any_answer_is_survived(seen in vec(any::<u8>(), 0..300), start in 0_usize..=11) {
        let mut seen = seen;
        for (to, from) in seen.iter_mut().zip(b"\x16\x03\x03\x00\x20".iter().take(start)) {
            *to = *from;
        }
        let _ = check_answer(&seen, &HmacKey::new(&Secret([1; 16])), &[0; 32]);
    }

    #[test]
    fn secrets_are_printed_and_read(secret in secrets(), domain in domains(), form in 0..3) {
        let secret = match form {
            0 => LinkSecret::Classic(secret),
            1 => LinkSecret::Secure(secret),
            _ => LinkSecret::Tls { secret, domain: domain.clone() },
        };
        prop_assert_eq!(LinkSecret::parse(&secret.to_hex()), Ok(secret.clone()));
        let link = ProxyLink { host: domain, port: 443, secret };
        prop_assert_eq!(ProxyLink::parse(&link.to_string()), Ok(link.clone()));
        prop_assert_eq!(ProxyLink::parse(&link.https()), Ok(link));
    }

    #[test]
    fn any_text_is_survived(text in ".{0,80}", digits in "[0-9a-fA-F=_-]{0,80}") {
        for text in [&text, &digits] {
            if let Ok(secret) = LinkSecret::parse(text) {
                prop_assert_eq!(LinkSecret::parse(&secret.to_hex()), Ok(secret));
            }
            if let Ok(domain) = check_domain(text) {
                prop_assert_eq!(check_domain(&domain), Ok(domain));
            }
            let _ = ProxyLink::parse(&format!("tg://proxy?server={text}&port=1&secret={digits}"));
            let _ = ProxyLink::parse(text);
        }
    }

    #[test]
    fn every_dc_id_resolves_by_default(dc: i16) {
        let table = DcTable::default();
        let Resolved::Found(found) = table.resolve(DcId(dc)) else {
            return Err(TestCaseError::fail("rejected"));
        };
        prop_assert!(found.v4().next().is_some() && found.v6().next().is_some());
    }
}
