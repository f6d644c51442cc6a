//! The rest of a ClientHello, read best effort behind a valid MAC.
//!
//! Telegram's own builds have sent no SNI, key shares shorter than they say and extensions longer
//! than the hello; whatever does not fit ends the walk quietly.

use super::{
    super::reader::{Reader, Short},
    client_hello::SESSION_ID_BYTES_MAX,
};

/// What could be read of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloFields<'a> {
    /// To be echoed; at most 32 bytes.
    pub session_id: &'a [u8],
    /// The first host name of the SNI as sent, if it is printable ASCII. Missing and unreadable
    /// are the same: neither counts as unknown.
    pub sni: Option<&'a str>,
    /// Application protocols offered, if any were.
    pub alpn: Option<Alpn<'a>>,
    /// Cipher suite to answer with: the first offered of `1301`, `1302`, `1303`; else `1301`.
    pub suite: u16,
    /// The list that suite is from.
    suites: &'a [u8],
    /// A share of 32 bytes for group `001d` is offered.
    pub x25519: bool,
    /// A share of 1216 bytes for group `11ec` (X25519MLKEM768) is offered.
    pub mlkem: bool,
    /// TLS 1.3 is among the supported versions.
    pub tls13: bool,
    /// How certificates may be compressed.
    pub compression: Compression,
}

impl HelloFields<'_> {
    /// Whether the SNI names `domain` (lower case): case and one trailing dot are ignored.
    /// `None` without a readable SNI.
    pub fn sni_is(&self, domain: &str) -> Option<bool> {
        let sni = self.sni?;
        let sni = sni.strip_suffix('.').unwrap_or(sni);
        Some(sni.eq_ignore_ascii_case(domain))
    }

    /// The first of `preference` that is offered.
    pub fn suite_by(&self, preference: &[u16]) -> Option<u16> {
        let (offered, _) = self.suites.as_chunks::<2>();
        let is_offered = |suite: &&u16| offered.contains(&suite.to_be_bytes());
        preference.iter().find(is_offered).copied()
    }

    /// What a web server sees of the application protocols.
    pub fn alpn_offer(&self) -> AlpnOffer {
        let offers = |name: &[u8]| {
            self.alpn
                .is_some_and(|alpn| alpn.names().any(|own| own == name))
        };
        if offers(b"h2") {
            AlpnOffer::H2
        } else if offers(b"http/1.1") {
            AlpnOffer::Http11
        } else {
            AlpnOffer::Neither
        }
    }
}

/// Which protocols of the web a hello offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlpnOffer {
    /// `h2`, perhaps among others.
    H2,
    /// `http/1.1` and no `h2`.
    Http11,
    /// Neither, or no list at all.
    Neither,
}

/// How a client takes certificates (RFC 8879), as far as that makes a difference to sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Compressed by Brotli, perhaps otherwise as well.
    Brotli,
    /// Compressed by zlib, not by Brotli.
    Zlib,
    /// As they are.
    None,
}

/// Reads what can be read; never fails. The random is not looked at, so it may be zeroed.
///
/// Source: protocol.md 6.2.
pub fn parse_fields(record: &[u8]) -> HelloFields<'_> {
    let mut fields = HelloFields {
        session_id: &[],
        sni: None,
        alpn: None,
        suite: SUITES[0],
        suites: &[],
        x25519: false,
        mlkem: false,
        tls13: false,
        compression: Compression::None,
    };
    // An error only says that the rest is unreadable.
    let _ = walk(record, &mut fields);
    fields
}

/// Application protocols of a hello.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alpn<'a> {
    list: &'a [u8],
}

impl<'a> Alpn<'a> {
    /// The names in the client's order, up to the first that does not fit.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut r = Reader::new(self.list);
        std::iter::from_fn(move || {
            let n = r.u8().ok()?;
            r.take(usize::from(n)).ok()
        })
    }

    /// Whether `h2` or `http/1.1` is offered.
    pub fn offers_http(&self) -> bool {
        self.names()
            .any(|name| name == b"h2" || name == b"http/1.1")
    }
}

impl std::fmt::Debug for Alpn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.names().map(String::from_utf8_lossy);
        f.debug_list().entries(names).finish()
    }
}

fn walk<'a>(record: &'a [u8], fields: &mut HelloFields<'a>) -> Result<(), Short> {
    let mut r = Reader::new(record);
    r.take(super::client_hello::SESSION_ID_AT)?;
    let n = usize::from(r.u8()?);
    let session_id = r.take(n)?;
    // Longer ones were refused before; an echo of this one would not be TLS.
    if n <= SESSION_ID_BYTES_MAX {
        fields.session_id = session_id;
    }
    let n = usize::from(r.u16_be()?);
    fields.suites = r.take(n)?;
    fields.suite = pick_suite(fields.suites);
    let n = usize::from(r.u8()?);
    r.take(n)?;
    // The list's own length is not trusted: extensions reach to the end of the record.
    r.u16_be()?;
    while !r.is_empty() {
        let kind = r.u16_be()?;
        let n = usize::from(r.u16_be()?);
        // Unreadable inside is no reason to stop: the next extension has its own length.
        let _ = extension(kind, r.take(n)?, fields);
    }
    Ok(())
}

fn pick_suite(list: &[u8]) -> u16 {
    let (pairs, _) = list.as_chunks::<2>();
    pairs
        .iter()
        .map(|&pair| u16::from_be_bytes(pair))
        .find(|suite| SUITES.contains(suite))
        .unwrap_or(SUITES[0])
}

fn extension<'a>(kind: u16, body: &'a [u8], fields: &mut HelloFields<'a>) -> Result<(), Short> {
    let mut r = Reader::new(body);
    match kind {
        SERVER_NAME => {
            r.u16_be()?;
            while fields.sni.is_none() {
                let name_type = r.u8()?;
                let n = usize::from(r.u16_be()?);
                let name = r.take(n)?;
                if name_type == 0 {
                    fields.sni = readable(name);
                    break;
                }
            }
        }
        ALPN => {
            r.u16_be()?;
            fields.alpn = Some(Alpn { list: r.rest() });
        }
        KEY_SHARE => {
            r.u16_be()?;
            while !r.is_empty() {
                let group = r.u16_be()?;
                let n = usize::from(r.u16_be()?);
                match (group, r.take(n)?.len()) {
                    (X25519, 32) => fields.x25519 = true,
                    (X25519_MLKEM768, MLKEM_SHARE_BYTES) => fields.mlkem = true,
                    _ => {}
                }
            }
        }
        SUPPORTED_VERSIONS => {
            r.u8()?;
            while !r.is_empty() {
                fields.tls13 |= r.u16_be()? == TLS13;
            }
        }
        COMPRESS_CERTIFICATE => {
            r.u8()?;
            while !r.is_empty() {
                fields.compression = match (r.u16_be()?, fields.compression) {
                    (BROTLI, _) => Compression::Brotli,
                    (ZLIB, Compression::None) => Compression::Zlib,
                    (_, before) => before,
                };
            }
        }
        _ => {}
    }
    Ok(())
}

fn readable(name: &[u8]) -> Option<&str> {
    let name = str::from_utf8(name).ok()?;
    let printable = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
    printable.then_some(name)
}

pub(super) const SERVER_NAME: u16 = 0x0000;
pub(super) const ALPN: u16 = 0x0010;
pub(super) const KEY_SHARE: u16 = 0x0033;
pub(super) const SUPPORTED_VERSIONS: u16 = 0x002b;
pub(super) const X25519: u16 = 0x001d;
pub(super) const X25519_MLKEM768: u16 = 0x11ec;
pub(super) const TLS13: u16 = 0x0304;
pub(super) const COMPRESS_CERTIFICATE: u16 = 0x001b;
pub(super) const ZLIB: u16 = 1;
pub(super) const BROTLI: u16 = 2;
/// Bytes of a client's X25519MLKEM768 share: 1184 and 32.
pub(super) const MLKEM_SHARE_BYTES: usize = 1216;
/// The suites of TLS 1.3 that browsers offer.
pub const SUITES: [u16; 3] = [0x1301, 0x1302, 0x1303];

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello with these suites and extensions, and nothing else right about it.
    fn hello(session_id: &[u8], suites: &[u8], extensions: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 43];
        out.push(session_id.len() as u8);
        out.extend(session_id);
        out.extend((suites.len() as u16).to_be_bytes());
        out.extend(suites);
        out.extend([1, 0]);
        out.extend((extensions.len() as u16).to_be_bytes());
        out.extend(extensions);
        out
    }

    #[test]
    fn picks_the_first_known_suite() {
        for (suites, want) in [
            (&[0x3a, 0x3a, 0x13, 0x03, 0x13, 0x01][..], 0x1303),
            (&[0x13, 0x02], 0x1302),
            (&[0xc0, 0x2b], 0x1301),
            (&[], 0x1301),
            (&[0x13], 0x1301),
        ] {
            let hello = hello(&[], suites, &[]);
            assert_eq!(parse_fields(&hello).suite, want, "{suites:02x?}");
        }
    }

    #[test]
    fn picks_by_another_preference_among_those_offered() {
        let hello = hello(&[], &[0x3a, 0x3a, 0x13, 0x01, 0x13, 0x03], &[]);
        let fields = parse_fields(&hello);
        assert_eq!(fields.suite_by(&[0x1302, 0x1303, 0x1301]), Some(0x1303));
        assert_eq!(fields.suite_by(&[0x1302]), None);
    }

    #[test]
    fn survives_extensions_that_lie() {
        // A key share that says 32 bytes and holds 20, then a good SNI, then one past the end.
        let mut extensions = vec![0, 0x33, 0, 26, 0, 24, 0, 0x1d, 0, 32];
        extensions.extend([7; 20]);
        extensions.extend([0, 0, 0, 8, 0, 6, 0, 0, 3]);
        extensions.extend(b"a.b");
        extensions.extend([0, 0x2b, 0xff, 0xff, 2, 3, 4]);
        let hello = hello(&[9; 32], &[0x13, 0x02], &extensions);
        let fields = parse_fields(&hello);
        assert_eq!(fields.session_id, [9; 32]);
        assert_eq!((fields.sni, fields.suite), (Some("a.b"), 0x1302));
        assert_eq!(
            (fields.x25519, fields.mlkem, fields.tls13),
            (false, false, false)
        );
    }

    #[test]
    fn keeps_only_readable_names() {
        for (name, want) in [
            (&b"A.b."[..], Some("A.b.")),
            (b"a b", None),
            (b"\xff", None),
            (b"", None),
        ] {
            let n = name.len() as u8;
            let mut sni = vec![0, 0, 0, n + 5, 0, n + 3, 0, 0, n];
            sni.extend(name);
            let hello = hello(&[], &[], &sni);
            let fields = parse_fields(&hello);
            assert_eq!(fields.sni, want);
            assert_eq!(fields.sni_is("a.b"), want.map(|_| true));
            assert_eq!(fields.sni_is("a.c"), want.map(|_| false));
        }
    }

    #[test]
    fn tells_by_which_compression_sites_differ() {
        for (algorithms, want) in [
            (&[][..], Compression::None),
            (&[0, 3], Compression::None),
            (&[0, 1], Compression::Zlib),
            (&[0, 2], Compression::Brotli),
            (&[0, 1, 0, 2, 0, 3], Compression::Brotli),
            (&[0, 2, 0, 1, 0], Compression::Brotli),
        ] {
            let n = algorithms.len() as u8;
            let mut extension = vec![0, 0x1b, 0, n + 1, n];
            extension.extend(algorithms);
            let hello = hello(&[], &[], &extension);
            assert_eq!(parse_fields(&hello).compression, want, "{algorithms:?}");
        }
        assert_eq!(
            parse_fields(&hello(&[], &[], &[])).compression,
            Compression::None
        );
    }

    #[test]
    fn skips_names_of_other_types() {
        let sni = [0, 0, 0, 12, 0, 10, 1, 0, 1, b'x', 0, 0, 3, b'a', b'.', b'b'];
        assert_eq!(parse_fields(&hello(&[], &[], &sni)).sni, Some("a.b"));
    }

    #[test]
    fn lists_protocols_up_to_the_first_bad_one() {
        let alpn = [0, 0x10, 0, 7, 0, 5, 2, b'h', b'2', 9, b'x'];
        let hello = hello(&[], &[], &alpn);
        let fields = parse_fields(&hello);
        let alpn = fields.alpn.unwrap();
        assert_eq!(alpn.names().collect::<Vec<_>>(), [b"h2"]);
        assert!(alpn.offers_http());
        assert_eq!(fields.alpn_offer(), AlpnOffer::H2);
    }

    #[test]
    fn reads_nothing_from_too_little() {
        let hello = hello(&[1; 32], &[0x13, 0x03], &[]);
        for cut in 0..hello.len() {
            parse_fields(&hello[..cut]);
        }
        assert_eq!(parse_fields(&hello[..70]).session_id, []);
        assert_eq!(parse_fields(&hello[..76]).session_id, [1; 32]);
    }
}
