//! The ClientHello as a client writes it: for the bench and the tests.
//!
//! Two shapes, after the ones in use: 517 bytes, and TLS with a post-quantum key share.

use super::{
    super::{crypto::HmacKey, reader::Writer, secret::Secret},
    client_hello::{CLIENT_HELLO, RANDOM_AT},
    hello_fields::{
        ALPN, KEY_SHARE, SERVER_NAME, SUPPORTED_VERSIONS, TLS13, X25519, X25519_MLKEM768,
    },
};

/// Which generation of client to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloKind {
    /// 517 bytes, filled up by the padding extension.
    Classic517,
    /// With an X25519MLKEM768 share and GREASE ECH: 1566 bytes, the domain's, and 144 to 240.
    PostQuantum,
}

/// Builds and signs a hello, record header included.
///
/// `random` fills a buffer with random bytes. A domain over 182 bytes makes a classic hello longer
/// than 517.
///
/// Source: protocol.md 6.1, 6.3.
pub fn build_hello(
    random: &mut dyn FnMut(&mut [u8]),
    secret: &Secret,
    domain: &str,
    unix_time: u32,
    kind: HelloKind,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let mut grease = [0; 7];
    random(&mut grease);
    let mut grease = grease.map(|seed| u16::from_be_bytes([seed & 0xf0 | 0x0a; 2]));
    // Two extensions of one kind would be an error.
    if grease[4] == grease[1] {
        grease[4] ^= 0x1010;
    }
    let mut w = Writer::new(&mut out);
    w.bytes(&[0x16, 0x03, 0x01]).block::<2>(|w| {
        w.u8(CLIENT_HELLO).block::<3>(|w| {
            w.u16_be(0x0303).bytes(&[0; 32]);
            w.block::<1>(|w| {
                w.fill(32, random);
            });
            w.block::<2>(|w| {
                w.u16_be(grease[0]).bytes(&SUITES);
            });
            w.bytes(&[1, 0]);
            w.block::<2>(|w| match kind {
                HelloKind::Classic517 => classic(w, domain, &grease, random),
                HelloKind::PostQuantum => post_quantum(w, domain, &grease, random),
            });
        });
    });
    sign(&mut out, secret, unix_time);
    out
}

fn sign(record: &mut [u8], secret: &Secret, unix_time: u32) {
    let mut mac = HmacKey::new(secret).mac(&[record]);
    for (byte, time) in mac.iter_mut().skip(28).zip(unix_time.to_le_bytes()) {
        *byte ^= time;
    }
    let random = record
        .get_mut(RANDOM_AT..)
        .and_then(<[u8]>::first_chunk_mut);
    if let Some(random) = random {
        *random = mac;
    }
}

fn classic(w: &mut Writer<'_>, domain: &str, grease: &[u16; 7], random: &mut dyn FnMut(&mut [u8])) {
    extension(w, grease[1], &[]);
    server_name(w, domain);
    extension(w, 0x0017, &[]);
    extension(w, 0xff01, &[0]);
    groups(w, &[grease[2], X25519, 0x0017, 0x0018]);
    extension(w, 0x000b, &[1, 0]);
    extension(w, 0x0023, &[]);
    alpn(w);
    extension(w, 0x0005, &[1, 0, 0, 0, 0]);
    extension(w, 0x000d, &SIGNATURES_CLASSIC);
    extension(w, 0x0012, &[]);
    key_share(w, grease[2], &[X25519], random);
    extension(w, 0x002d, &[1, 1]);
    versions(w, grease[3]);
    extension(w, 0x001b, &[2, 0, 2]);
    extension(w, grease[4], &[0]);
    // The hello starts its buffer, so what is written is the offset in the record.
    let room = CLASSIC_BYTES.saturating_sub(w.written() + 4);
    extension(w, 0x0015, &vec![0; room]);
}

fn post_quantum(
    w: &mut Writer<'_>,
    domain: &str,
    grease: &[u16; 7],
    random: &mut dyn FnMut(&mut [u8]),
) {
    extension(w, grease[1], &[]);
    extension(w, 0x002d, &[1, 1]);
    extension(w, 0x44cd, &[0, 3, 2, b'h', b'2']);
    key_share(w, grease[2], &[X25519_MLKEM768, X25519], random);
    alpn(w);
    extension(w, 0x0017, &[]);
    server_name(w, domain);
    extension(w, 0x0005, &[1, 0, 0, 0, 0]);
    groups(w, &[grease[2], X25519_MLKEM768, X25519, 0x0017, 0x0018]);
    extension(w, 0x001b, &[2, 0, 2]);
    encrypted_client_hello(w, random);
    extension(w, 0x000b, &[1, 0]);
    versions(w, grease[3]);
    extension(w, 0x000d, &SIGNATURES_POST_QUANTUM);
    extension(w, 0x0012, &[]);
    extension(w, 0x0023, &[]);
    extension(w, 0xff01, &[0]);
    extension(w, grease[4], &[0]);
}

pub(super) fn extension(w: &mut Writer<'_>, kind: u16, body: &[u8]) {
    w.u16_be(kind).block::<2>(|w| {
        w.bytes(body);
    });
}

pub(super) fn server_name(w: &mut Writer<'_>, domain: &str) {
    w.u16_be(SERVER_NAME).block::<2>(|w| {
        w.block::<2>(|w| {
            w.u8(0).block::<2>(|w| {
                w.bytes(domain.as_bytes());
            });
        });
    });
}

fn alpn(w: &mut Writer<'_>) {
    w.u16_be(ALPN).block::<2>(|w| {
        w.block::<2>(|w| {
            for name in ["h2", "http/1.1"] {
                w.block::<1>(|w| {
                    w.bytes(name.as_bytes());
                });
            }
        });
    });
}

fn groups(w: &mut Writer<'_>, groups: &[u16]) {
    w.u16_be(0x000a).block::<2>(|w| {
        w.block::<2>(|w| {
            for &group in groups {
                w.u16_be(group);
            }
        });
    });
}

fn key_share(w: &mut Writer<'_>, grease: u16, shares: &[u16], random: &mut dyn FnMut(&mut [u8])) {
    w.u16_be(KEY_SHARE).block::<2>(|w| {
        w.block::<2>(|w| {
            w.u16_be(grease).bytes(&[0, 1, 0]);
            for &group in shares {
                w.u16_be(group).block::<2>(|w| {
                    if group == X25519_MLKEM768 {
                        encapsulation_key(w, random);
                    }
                    w.fill(32, random);
                });
            }
        });
    });
}

fn versions(w: &mut Writer<'_>, grease: u16) {
    w.u16_be(SUPPORTED_VERSIONS).block::<2>(|w| {
        w.block::<1>(|w| {
            w.u16_be(grease).u16_be(TLS13).u16_be(0x0303);
        });
    });
}

/// An ML-KEM-768 encapsulation key: 768 numbers below 3329 of 12 bits each, which servers check
/// (FIPS 203, 7.2), and 32 bytes.
pub(super) fn encapsulation_key(w: &mut Writer<'_>, random: &mut dyn FnMut(&mut [u8])) {
    let mut draws = [0; 2 * 768];
    random(&mut draws);
    let (fours, _) = draws.as_chunks::<4>();
    for &[a, b, c, d] in fours {
        let [low, high] = [[a, b], [c, d]].map(|draw| u16::from_le_bytes(draw) % 3329);
        let packed = u32::from(low) | u32::from(high) << 12;
        let [x, y, z, _] = packed.to_le_bytes();
        w.bytes(&[x, y, z]);
    }
    w.fill(32, random);
}

/// GREASE ECH: HKDF-SHA256, AES-128-GCM, an X25519 key and a payload of one of four lengths.
pub(super) fn encrypted_client_hello(w: &mut Writer<'_>, random: &mut dyn FnMut(&mut [u8])) {
    let mut seed = [0; 2];
    random(&mut seed);
    let [config, length] = seed;
    let payload = 144 + 32 * usize::from(length & 3);
    w.u16_be(0xfe0d).block::<2>(|w| {
        w.bytes(&[0, 0, 1, 0, 1, config]);
        w.block::<2>(|w| {
            w.fill(32, random);
        });
        w.block::<2>(|w| {
            w.fill(payload, random);
        });
    });
}

/// Behind the GREASE entry.
const SUITES: [u8; 30] = [
    0x13, 0x01, 0x13, 0x02, 0x13, 0x03, 0xc0, 0x2b, 0xc0, 0x2f, 0xc0, 0x2c, 0xc0, 0x30, 0xcc, 0xa9,
    0xcc, 0xa8, 0xc0, 0x13, 0xc0, 0x14, 0x00, 0x9c, 0x00, 0x9d, 0x00, 0x2f, 0x00, 0x35,
];
const SIGNATURES_CLASSIC: [u8; 20] = [
    0x00, 0x12, 0x04, 0x03, 0x08, 0x04, 0x04, 0x01, 0x05, 0x03, 0x08, 0x05, 0x05, 0x01, 0x08, 0x06,
    0x06, 0x01, 0x02, 0x01,
];
pub(super) const SIGNATURES_POST_QUANTUM: [u8; 18] = [
    0x00, 0x10, 0x04, 0x03, 0x08, 0x04, 0x04, 0x01, 0x05, 0x03, 0x08, 0x05, 0x05, 0x01, 0x08, 0x06,
    0x06, 0x01,
];
const CLASSIC_BYTES: usize = 517;

#[cfg(test)]
mod tests {
    use super::{
        super::client_hello::{hello_len, parse_fields, verify, zero_random},
        *,
    };

    fn build(domain: &str, kind: HelloKind, seed: u8) -> Vec<u8> {
        let mut next = seed;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                next = next.wrapping_mul(29).wrapping_add(11);
                *byte = next;
            }
        };
        build_hello(&mut random, &Secret([1; 16]), domain, 1_800_000_000, kind)
    }

    #[test]
    fn has_the_lengths_clients_send() {
        for domain in ["a.bc", "www.example.com", &"a".repeat(182)] {
            assert_eq!(
                build(domain, HelloKind::Classic517, 1).len(),
                517,
                "{domain}"
            );
            for seed in 0..20 {
                let len = build(domain, HelloKind::PostQuantum, seed).len();
                let ech = len - 1566 - domain.len();
                assert!([144, 176, 208, 240].contains(&ech), "{domain} {ech}");
            }
        }
    }

    #[test]
    fn is_accepted_and_readable() {
        for kind in [HelloKind::Classic517, HelloKind::PostQuantum] {
            let mut hello = build("www.example.com", kind, 7);
            assert_eq!(hello_len(&hello), Ok(Some(hello.len())));
            let random = zero_random(&mut hello);
            let key = HmacKey::new(&Secret([1; 16]));
            assert_eq!(verify(&hello, &random, &key), Some(1_800_000_000));
            let fields = parse_fields(&hello);
            assert_eq!(fields.sni, Some("www.example.com"));
            assert_eq!((fields.session_id.len(), fields.suite), (32, 0x1301));
            assert_eq!((fields.x25519, fields.tls13), (true, true));
            assert_eq!(fields.mlkem, kind == HelloKind::PostQuantum);
            assert!(fields.alpn.is_some_and(|alpn| alpn.offers_http()));
        }
    }

    #[test]
    fn no_extension_comes_twice() {
        for seed in 0..=255 {
            let hello = build("www.example.com", HelloKind::PostQuantum, seed);
            let mut kinds = Vec::new();
            // Behind the suites, the compression and the list's length.
            let mut at = 78 + 32 + 2 + 2;
            while at < hello.len() {
                kinds.push([hello[at], hello[at + 1]]);
                at += 4 + usize::from(u16::from_be_bytes([hello[at + 2], hello[at + 3]]));
            }
            let all = kinds.len();
            kinds.sort_unstable();
            kinds.dedup();
            assert_eq!((kinds.len(), at), (all, hello.len()), "{seed}");
        }
    }

    #[test]
    fn length_fields_agree() {
        let hello = build("www.example.com", HelloKind::PostQuantum, 3);
        let record = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
        assert_eq!(record + 5, hello.len());
    }

    #[test]
    fn numbers_of_the_post_quantum_key_are_in_range() {
        let mut key = Vec::new();
        let mut next = 1_u32;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (next >> 24) as u8;
            }
        };
        encapsulation_key(&mut Writer::new(&mut key), &mut random);
        assert_eq!(key.len(), 1184);
        let (threes, _) = key[..1152].as_chunks::<3>();
        for &[a, b, c] in threes {
            let packed = u32::from_le_bytes([a, b, c, 0]);
            assert!(packed & 0xfff < 3329 && packed >> 12 < 3329);
        }
    }
}
