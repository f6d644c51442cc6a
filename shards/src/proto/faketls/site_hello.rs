//! The ClientHello that a site is asked with, to see how it answers browsers.
//!
//! Four styles. Nothing is signed, and no key is kept: the answer is never decrypted, only its
//! cleartext and its lengths are read (`site_answer.rs`). Key shares are such that a server that
//! checks them goes on: any 32 bytes for X25519, numbers below 3329 for ML-KEM, and a well-known
//! point of P-256. Called by the binary's `src/front`.

use super::{
    super::reader::Writer,
    client_hello::{AlpnOffer, CLIENT_HELLO, Compression},
    hello_builder::{
        SIGNATURES_POST_QUANTUM, encapsulation_key, encrypted_client_hello, extension, server_name,
    },
    hello_fields::{
        ALPN, BROTLI, COMPRESS_CERTIFICATE, KEY_SHARE, SUPPORTED_VERSIONS, TLS13, X25519,
        X25519_MLKEM768, ZLIB,
    },
};

/// Whose hello to imitate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SiteStyle {
    /// TLS 1.3 with a post-quantum share and GREASE ECH, extensions shuffled.
    Chrome,
    /// TLS 1.3 with shares for three groups.
    Firefox,
    /// TLS 1.2 as browsers spoke it.
    Compat12,
    /// TLS 1.2 with the extensions nobody can do without.
    Minimal,
}

impl SiteStyle {
    /// TLS 1.3 is offered.
    pub fn has_tls13(self) -> bool {
        matches!(self, Self::Chrome | Self::Firefox)
    }
}

/// What a hello offers, as far as questions to a site differ.
#[derive(Clone, Copy, Debug)]
pub struct SiteHello<'a> {
    /// Whose hello it looks like.
    pub style: SiteStyle,
    /// Name in SNI.
    pub domain: &'a str,
    /// Application protocols.
    pub alpn: AlpnOffer,
    /// TLS 1.3 suites, best first; where the style has TLS 1.3.
    pub suites: &'a [u16],
    /// Share for X25519MLKEM768 as well; where the style has TLS 1.3.
    pub hybrid: bool,
    /// How certificates may be compressed; where the style has TLS 1.3.
    pub compression: Compression,
    /// Reserved values (RFC 8701) among suites, groups, versions and extensions.
    pub grease: bool,
}

/// Builds a hello, record header included. `random` fills a buffer with random bytes.
pub fn site_hello(random: &mut dyn FnMut(&mut [u8]), hello: &SiteHello<'_>) -> Vec<u8> {
    let mut grease = [0; 5];
    random(&mut grease);
    let reserved = grease.map(|seed| u16::from_be_bytes([seed & 0xf0 | 0x0a; 2]));
    let grease = hello.grease.then_some(reserved);
    let mut out = Vec::with_capacity(2048);
    let mut w = Writer::new(&mut out);
    w.bytes(&[0x16, 0x03, 0x01]).block::<2>(|w| {
        w.u8(CLIENT_HELLO).block::<3>(|w| {
            w.u16_be(0x0303).fill(32, random);
            w.block::<1>(|w| {
                w.fill(if hello.style.has_tls13() { 32 } else { 0 }, random);
            });
            w.block::<2>(|w| suites(w, hello, grease));
            w.bytes(&[1, 0]);
            w.block::<2>(|w| {
                for extension in extensions(hello, grease, random) {
                    w.bytes(&extension);
                }
            });
        });
    });
    out
}

type Grease = Option<[u16; 5]>;

fn suites(w: &mut Writer<'_>, hello: &SiteHello<'_>, grease: Grease) {
    if let Some([first, ..]) = grease {
        w.u16_be(first);
    }
    if hello.style.has_tls13() {
        for suite in hello.suites {
            w.u16_be(*suite);
        }
    }
    let older: &[u16] = match hello.style {
        SiteStyle::Minimal => &[0xc02f, 0xc030, 0xc02b, 0xc02c, 0x009c, 0x002f, 0x0035],
        SiteStyle::Chrome | SiteStyle::Firefox | SiteStyle::Compat12 => &[
            0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f,
            0x0035,
        ],
    };
    for suite in older {
        w.u16_be(*suite);
    }
}

/// All extensions, each with its header.
fn extensions(
    hello: &SiteHello<'_>,
    grease: Grease,
    random: &mut dyn FnMut(&mut [u8]),
) -> Vec<Vec<u8>> {
    let kinds: &[u16] = match hello.style {
        SiteStyle::Chrome => &[
            0x0000, 0x0017, 0xff01, 0x000a, 0x000b, 0x0023, 0x0010, 0x0005, 0x000d, 0x0012, 0x0033,
            0x002d, 0x002b, 0x001b, 0x44cd, 0xfe0d,
        ],
        SiteStyle::Firefox => &[
            0x0000, 0x0017, 0xff01, 0x000a, 0x000b, 0x0023, 0x0010, 0x0005, 0x0022, 0x0012, 0x0033,
            0x002b, 0x000d, 0x002d, 0x001c, 0x001b, 0xfe0d,
        ],
        SiteStyle::Compat12 => &[
            0x0000, 0x0017, 0xff01, 0x000a, 0x000b, 0x0023, 0x0010, 0x0005, 0x000d, 0x0012,
        ],
        SiteStyle::Minimal => &[0x0000, 0x000a, 0x000b, 0x000d],
    };
    let mut list: Vec<Vec<u8>> = Vec::with_capacity(kinds.len() + 2);
    for kind in kinds {
        let left_out = match *kind {
            // Settings for a protocol that is not offered would be odd.
            0x44cd => hello.alpn != AlpnOffer::H2,
            ALPN => hello.alpn == AlpnOffer::Neither,
            COMPRESS_CERTIFICATE => hello.compression == Compression::None,
            _ => false,
        };
        if !left_out {
            let mut one = Vec::new();
            one_extension(&mut Writer::new(&mut one), *kind, hello, grease, random);
            list.push(one);
        }
    }
    if hello.style == SiteStyle::Chrome {
        shuffle(&mut list, random);
    }
    if let Some([_, first, .., last]) = grease {
        let reserved = |kind: u16, body: &[u8]| {
            let mut one = Vec::new();
            extension(&mut Writer::new(&mut one), kind, body);
            one
        };
        list.insert(0, reserved(first, &[]));
        // Two of one kind would be an error.
        let last = if last == first { last ^ 0x1010 } else { last };
        list.push(reserved(last, &[0]));
    }
    list
}

fn one_extension(
    w: &mut Writer<'_>,
    kind: u16,
    hello: &SiteHello<'_>,
    grease: Grease,
    random: &mut dyn FnMut(&mut [u8]),
) {
    let reserved = grease.map(|[_, _, group, ..]| group);
    match kind {
        0x0000 => server_name(w, hello.domain),
        0x000a => groups(w, hello, reserved),
        ALPN => protocols(w, hello.alpn),
        KEY_SHARE => shares(w, hello, reserved, random),
        SUPPORTED_VERSIONS => {
            w.u16_be(SUPPORTED_VERSIONS).block::<2>(|w| {
                w.block::<1>(|w| {
                    if let Some([_, _, _, version, _]) = grease {
                        w.u16_be(version);
                    }
                    w.u16_be(TLS13).u16_be(0x0303);
                });
            });
        }
        0xfe0d => encrypted_client_hello(w, random),
        0x000d => extension(w, kind, &SIGNATURES_POST_QUANTUM),
        0x000b => extension(w, kind, &[1, 0]),
        0x0005 => extension(w, kind, &[1, 0, 0, 0, 0]),
        COMPRESS_CERTIFICATE => {
            let zlib = hello.compression == Compression::Zlib;
            w.u16_be(kind).block::<2>(|w| {
                w.u8(2).u16_be(if zlib { ZLIB } else { BROTLI });
            });
        }
        0x001c => extension(w, kind, &[0x40, 0x01]),
        0x0022 => extension(w, kind, &[0, 8, 4, 3, 5, 3, 6, 3, 2, 3]),
        0x002d => extension(w, kind, &[1, 1]),
        0x44cd => extension(w, kind, &[0, 3, 2, b'h', b'2']),
        0xff01 => extension(w, kind, &[0]),
        _ => extension(w, kind, &[]),
    }
}

fn groups(w: &mut Writer<'_>, hello: &SiteHello<'_>, reserved: Option<u16>) {
    w.u16_be(0x000a).block::<2>(|w| {
        w.block::<2>(|w| {
            if let Some(group) = reserved {
                w.u16_be(group);
            }
            if hello.style.has_tls13() && hello.hybrid {
                w.u16_be(X25519_MLKEM768);
            }
            w.u16_be(X25519).u16_be(P256).u16_be(0x0018);
            if hello.style == SiteStyle::Firefox {
                w.u16_be(0x0019);
            }
        });
    });
}

fn protocols(w: &mut Writer<'_>, offer: AlpnOffer) {
    let names: &[&str] = match offer {
        AlpnOffer::H2 => &["h2", "http/1.1"],
        AlpnOffer::Http11 => &["http/1.1"],
        AlpnOffer::Neither => &[],
    };
    w.u16_be(ALPN).block::<2>(|w| {
        w.block::<2>(|w| {
            for name in names {
                w.block::<1>(|w| {
                    w.bytes(name.as_bytes());
                });
            }
        });
    });
}

fn shares(
    w: &mut Writer<'_>,
    hello: &SiteHello<'_>,
    reserved: Option<u16>,
    random: &mut dyn FnMut(&mut [u8]),
) {
    w.u16_be(KEY_SHARE).block::<2>(|w| {
        w.block::<2>(|w| {
            if let Some(group) = reserved {
                w.u16_be(group).bytes(&[0, 1, 0]);
            }
            if hello.hybrid {
                w.u16_be(X25519_MLKEM768).block::<2>(|w| {
                    encapsulation_key(w, random);
                    w.fill(32, random);
                });
            }
            w.u16_be(X25519).block::<2>(|w| {
                w.fill(32, random);
            });
            if hello.style == SiteStyle::Firefox {
                w.u16_be(P256).block::<2>(|w| {
                    w.bytes(&P256_POINT);
                });
            }
        });
    });
}

fn shuffle(list: &mut [Vec<u8>], random: &mut dyn FnMut(&mut [u8])) {
    for at in (1..list.len()).rev() {
        let mut draw = [0; 4];
        random(&mut draw);
        list.swap(at, u32::from_le_bytes(draw) as usize % (at + 1));
    }
}

const P256: u16 = 0x0017;
/// The generator of P-256, uncompressed: a server that picks this group checks the point.
const P256_POINT: [u8; 65] = [
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40,
    0xf2, 0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2,
    0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e,
    0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51,
    0xf5,
];

#[cfg(test)]
mod tests {
    use super::{
        super::client_hello::{SUITES, hello_len, parse_fields},
        *,
    };

    const STYLES: [SiteStyle; 4] = [
        SiteStyle::Chrome,
        SiteStyle::Firefox,
        SiteStyle::Compat12,
        SiteStyle::Minimal,
    ];

    fn build(hello: &SiteHello<'_>, seed: u8) -> Vec<u8> {
        let mut next = seed;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                next = next.wrapping_mul(29).wrapping_add(11);
                *byte = next;
            }
        };
        site_hello(&mut random, hello)
    }

    fn chrome() -> SiteHello<'static> {
        SiteHello {
            style: SiteStyle::Chrome,
            domain: "www.example.com",
            alpn: AlpnOffer::H2,
            suites: &SUITES,
            hybrid: true,
            compression: Compression::Brotli,
            grease: false,
        }
    }

    #[test]
    fn every_style_is_a_hello_that_says_what_was_asked_for() {
        for style in STYLES {
            for (alpn, grease, compression) in [
                (AlpnOffer::H2, false, Compression::Brotli),
                (AlpnOffer::Http11, true, Compression::Zlib),
                (AlpnOffer::Neither, false, Compression::None),
            ] {
                let hello = build(
                    &SiteHello {
                        style,
                        alpn,
                        grease,
                        compression,
                        suites: &[0x1303, 0x1301],
                        ..chrome()
                    },
                    7,
                );
                assert_eq!(hello_len(&hello), Ok(Some(hello.len())), "{style:?}");
                let fields = parse_fields(&hello);
                let tls13 = style.has_tls13();
                assert_eq!(fields.sni, Some("www.example.com"));
                assert_eq!((fields.tls13, fields.mlkem, fields.x25519), {
                    (tls13, tls13, tls13)
                });
                if tls13 {
                    assert_eq!(fields.compression, compression);
                }
                assert_eq!(fields.suite_by(&[0x1302]), None);
                assert_eq!(fields.suite, if tls13 { 0x1303 } else { 0x1301 });
                if style != SiteStyle::Minimal {
                    assert_eq!(fields.alpn_offer(), alpn);
                }
            }
        }
    }

    #[test]
    fn reserved_values_only_where_asked_for() {
        let has_reserved = |hello: &[u8]| hello[78] & 0x0f == 0x0a && hello[78] == hello[79];
        let grease = SiteHello {
            grease: true,
            ..chrome()
        };
        for seed in 0..40 {
            assert!(!has_reserved(&build(&chrome(), seed)));
            assert!(has_reserved(&build(&grease, seed)));
        }
    }

    #[test]
    fn is_the_same_for_the_same_randomness_and_shuffled_for_other() {
        assert_eq!(build(&chrome(), 3), build(&chrome(), 3));
        let order = |seed| {
            let hello = build(&chrome(), seed);
            // The extensions begin behind 76 bytes, the suites and the compression.
            hello[110..120].to_vec()
        };
        assert!((4..40).any(|seed| order(seed) != order(3)));
    }
}
