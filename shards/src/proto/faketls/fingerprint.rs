//! JA3 and JA4 of a ClientHello: which TLS library, in which version, a client seems to be.
//!
//! JA3 keeps the order of extensions, which modern clients shuffle; JA4 sorts them. GREASE values
//! (RFC 8701) count in neither. The random is not looked at, so it may be zeroed.
//!
//! Not here: counting them (`policy/fingerprints.rs`).

use std::fmt::Write as _;

use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::{
    super::reader::{Reader, Short},
    client_hello::SESSION_ID_AT,
    hello_fields::{ALPN, SERVER_NAME, SUPPORTED_VERSIONS},
};

/// The two fingerprints of one hello, each with the text it is a digest of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// MD5 of `ja3_raw`, lower-case hex.
    pub ja3: String,
    /// `version,suites,extensions,groups,point formats`, decimal, in the client's order.
    pub ja3_raw: String,
    /// Ten readable characters and two digests of twelve hex digits.
    pub ja4: String,
    /// The same with lists in place of digests.
    pub ja4_raw: String,
}

/// Lists of one hello, GREASE left out.
#[derive(Debug, Default)]
struct Lists<'a> {
    legacy_version: u16,
    suites: Vec<u16>,
    extensions: Vec<u16>,
    groups: Vec<u16>,
    point_formats: &'a [u8],
    versions: Vec<u16>,
    signatures: Vec<u16>,
    alpn: &'a [u8],
}

impl Fingerprint {
    /// Reads a whole hello record.
    ///
    /// # Errors
    /// [`Short`] when a list reaches beyond the hello: such a hello has no fingerprint.
    pub fn of(record: &[u8]) -> Result<Self, Short> {
        let lists = Lists::read(record)?;
        let ja3_raw = lists.ja3();
        let (readable, suites, extensions) = lists.ja4();
        Ok(Self {
            ja3: hex::encode(Md5::digest(&ja3_raw)),
            ja4: format!("{readable}_{}_{}", short(&suites), short(&extensions)),
            ja4_raw: format!("{readable}_{suites}_{extensions}"),
            ja3_raw,
        })
    }
}

impl<'a> Lists<'a> {
    fn read(record: &'a [u8]) -> Result<Self, Short> {
        let mut lists = Self::default();
        let mut r = Reader::new(record);
        r.take(LEGACY_VERSION_AT)?;
        lists.legacy_version = r.u16_be()?;
        r.take(SESSION_ID_AT - LEGACY_VERSION_AT - 2)?;
        run(&mut r, Length::One)?;
        lists.suites = words(run(&mut r, Length::Two)?);
        run(&mut r, Length::One)?;
        if r.is_empty() {
            return Ok(lists);
        }
        let mut r = Reader::new(run(&mut r, Length::Two)?);
        while !r.is_empty() {
            let kind = r.u16_be()?;
            let body = run(&mut r, Length::Two)?;
            if is_grease(kind) {
                continue;
            }
            lists.extensions.push(kind);
            lists.extension(kind, &mut Reader::new(body))?;
        }
        Ok(lists)
    }

    fn extension(&mut self, kind: u16, r: &mut Reader<'a>) -> Result<(), Short> {
        match kind {
            SUPPORTED_GROUPS => self.groups = words(run(r, Length::Two)?),
            POINT_FORMATS => self.point_formats = run(r, Length::One)?,
            SIGNATURES => self.signatures = words(run(r, Length::Two)?),
            SUPPORTED_VERSIONS => self.versions = words(run(r, Length::One)?),
            ALPN => {
                let mut names = Reader::new(run(r, Length::Two)?);
                if !names.is_empty() {
                    self.alpn = run(&mut names, Length::One)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ja3(&self) -> String {
        let points: Vec<u16> = self.point_formats.iter().map(|&b| u16::from(b)).collect();
        let mut out = self.legacy_version.to_string();
        for list in [&self.suites, &self.extensions, &self.groups, &points] {
            out.push(',');
            join(&mut out, list, '-', |out, word| {
                // Writing to a string cannot fail.
                let _ = write!(out, "{word}");
            });
        }
        out
    }

    /// The readable part, the sorted suites, the sorted extensions with signatures behind.
    fn ja4(&self) -> (String, String, String) {
        let version = self.versions.iter().max().unwrap_or(&self.legacy_version);
        let named = self.extensions.contains(&SERVER_NAME);
        let (first, last) = self.alpn_ends();
        let readable = format!(
            "t{}{}{:02}{:02}{first}{last}",
            version_name(*version),
            if named { 'd' } else { 'i' },
            self.suites.len().min(99),
            self.extensions.len().min(99),
        );
        let mut suites = self.suites.clone();
        suites.sort_unstable();
        let mut extensions = self.extensions.clone();
        extensions.retain(|kind| ![SERVER_NAME, ALPN].contains(kind));
        extensions.sort_unstable();
        let mut behind = String::new();
        join_hex(&mut behind, &extensions);
        if !self.signatures.is_empty() {
            behind.push('_');
            join_hex(&mut behind, &self.signatures);
        }
        let mut sorted = String::new();
        join_hex(&mut sorted, &suites);
        (readable, sorted, behind)
    }

    /// First and last character of the first protocol; those of its hex digits when it is no text.
    fn alpn_ends(&self) -> (char, char) {
        let (Some(&first), Some(&last)) = (self.alpn.first(), self.alpn.last()) else {
            return ('0', '0');
        };
        if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
            return (char::from(first), char::from(last));
        }
        let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
        (digit(first >> 4), digit(last & 15))
    }
}

/// Width of a length field.
#[derive(Clone, Copy)]
enum Length {
    One,
    Two,
}

/// The bytes behind a length.
fn run<'a>(r: &mut Reader<'a>, length: Length) -> Result<&'a [u8], Short> {
    let n = match length {
        Length::One => usize::from(r.u8()?),
        Length::Two => usize::from(r.u16_be()?),
    };
    r.take(n)
}

fn words(bytes: &[u8]) -> Vec<u16> {
    let (pairs, _) = bytes.as_chunks::<2>();
    pairs
        .iter()
        .map(|&pair| u16::from_be_bytes(pair))
        .filter(|&word| !is_grease(word))
        .collect()
}

fn is_grease(word: u16) -> bool {
    let [high, low] = word.to_be_bytes();
    high == low && low & 0x0f == 0x0a
}

fn version_name(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

fn join(out: &mut String, list: &[u16], between: char, put: impl Fn(&mut String, u16)) {
    for (index, &word) in list.iter().enumerate() {
        if index > 0 {
            out.push(between);
        }
        put(out, word);
    }
}

fn join_hex(out: &mut String, list: &[u16]) {
    join(out, list, ',', |out, word| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{word:04x}");
    });
}

/// Twelve hex digits of SHA-256; zeros for nothing.
fn short(text: &str) -> String {
    if text.is_empty() {
        return "0".repeat(12);
    }
    let mut digits = hex::encode(Sha256::digest(text));
    digits.truncate(12);
    digits
}

/// Behind record header, handshake type and length.
const LEGACY_VERSION_AT: usize = 9;
const SUPPORTED_GROUPS: u16 = 0x000a;
const POINT_FORMATS: u16 = 0x000b;
const SIGNATURES: u16 = 0x000d;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run1(bytes: &[u8]) -> Vec<u8> {
        [&[bytes.len() as u8], bytes].concat()
    }

    fn run2(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn list(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    fn hello(suites: &[u16], extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut out = vec![0x16, 3, 1, 0, 0, 1, 0, 0, 0];
        out.extend(0x0303_u16.to_be_bytes());
        out.extend([0; 32]);
        out.extend(run1(&[7; 32]));
        out.extend(run2(&list(suites)));
        out.extend(run1(&[0]));
        let body: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, body)| [list(&[*kind]), run2(body)].concat())
            .collect();
        out.extend(run2(&body));
        out
    }

    /// The suites, extensions and signatures of the JA4 specification's own example.
    fn example(shuffled: bool) -> Vec<u8> {
        let suites = [
            0x1a1a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8, 0xc013,
            0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
        ];
        let signatures = [
            0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
        ];
        let alpn = run2(&[run1(b"h2"), run1(b"http/1.1")].concat());
        let mut extensions: Vec<(u16, Vec<u8>)> = vec![
            (0x2a2a, vec![]),
            (0x001b, vec![]),
            (0x0000, vec![]),
            (0x0033, vec![]),
            (0x0010, alpn),
            (0x4469, vec![]),
            (0x0017, vec![]),
            (0x002d, vec![]),
            (0x000d, run2(&list(&signatures))),
            (0x0005, vec![]),
            (0x0023, vec![]),
            (0x0012, vec![]),
            (0x002b, run1(&list(&[0x7a7a, 0x0304, 0x0303]))),
            (0xff01, vec![]),
            (0x000b, run1(&[0])),
            (0x000a, run2(&list(&[0x3a3a, 0x001d, 0x0017, 0x0018]))),
            (0x0015, vec![]),
        ];
        if shuffled {
            extensions.reverse();
        }
        hello(&suites, &extensions)
    }

    #[test]
    fn ja4_is_that_of_its_specification() {
        let found = Fingerprint::of(&example(false)).unwrap();
        assert_eq!(found.ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
        assert_eq!(
            found.ja4_raw,
            "t13d1516h2_002f,0035,009c,009d,1301,1302,1303,c013,c014,c02b,c02c,c02f,c030,cca8,\
             cca9_0005,000a,000b,000d,0012,0015,0017,001b,0023,002b,002d,0033,4469,ff01_0403,0804,\
             0401,0503,0805,0501,0806,0601"
        );
    }

    #[test]
    fn ja3_is_that_of_its_specification() {
        // The second example of JA3's description.
        let suites = [4, 5, 10, 9, 100, 98, 3, 6, 19, 18, 99];
        let mut record = hello(&suites, &[]);
        record[9..11].copy_from_slice(&769_u16.to_be_bytes());
        let found = Fingerprint::of(&record).unwrap();
        assert_eq!(found.ja3_raw, "769,4-5-10-9-100-98-3-6-19-18-99,,,");
        assert_eq!(found.ja3, "de350869b8c85de67a350c8d186f11e6");
        let full = Fingerprint::of(&example(false)).unwrap();
        let (head, rest) = full.ja3_raw.split_once(",27-0-51-").unwrap();
        assert!(head.starts_with("771,4865-4866-") && rest.ends_with(",29-23-24,0"));
    }

    #[test]
    fn order_of_extensions_changes_ja3_alone() {
        let one = Fingerprint::of(&example(false)).unwrap();
        let other = Fingerprint::of(&example(true)).unwrap();
        assert_ne!(one.ja3, other.ja3);
        assert_eq!((one.ja4, one.ja4_raw), (other.ja4, other.ja4_raw));
    }

    #[test]
    fn bare_hello_has_a_fingerprint() {
        let found = Fingerprint::of(&hello(&[], &[])).unwrap();
        assert_eq!(found.ja4, "t12i000000_000000000000_000000000000");
    }

    #[test]
    fn unreadable_alpn_is_shown_in_hex() {
        let alpn = run2(&run1(&[0xab, 0x63, 0xcd]));
        let found = Fingerprint::of(&hello(&[0x1301], &[(0x0010, alpn)])).unwrap();
        assert!(found.ja4.starts_with("t12i0101ad_"), "{}", found.ja4);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Fingerprint::of(&bytes);
            let mut good = example(false);
            if let Some(at) = bytes.pop().map(usize::from).filter(|at| *at < good.len()) {
                good.truncate(at + 30);
                let _ = Fingerprint::of(&good);
            }
        }
    }
}
