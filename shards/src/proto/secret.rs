//! User secrets, the three forms they are handed out in, and the links that carry them
//! (protocol.md 2).
//!
//! Used by the binary (configuration, printed links) and the bench; sessions only see [`Secret`].

use std::fmt;

use super::reader::Reader;

pub use super::link::{LinkError, ProxyLink};

/// 16 random bytes; knowing them is the authentication. Never shown by `Debug`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 16]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A secret together with how the client is told to connect.
///
/// The proxy cannot tell from the bytes on the wire which form the user was given: the prefix and
/// the domain never enter a hash.
///
/// Source: protocol.md 2.1.
#[derive(Clone, PartialEq, Eq)]
pub enum LinkSecret {
    /// 16 bytes: obfuscated2 with tag `ef` or `ee`.
    Classic(Secret),
    /// `dd` and 16 bytes: obfuscated2 with tag `dd`.
    Secure(Secret),
    /// `ee`, 16 bytes and a host name: FakeTLS.
    Tls {
        /// The 16 bytes.
        secret: Secret,
        /// Host name sent as SNI: lower-case, 4 to 182 bytes.
        domain: String,
    },
}

impl LinkSecret {
    /// Reads hex (tried first) or base64url, padding optional.
    ///
    /// # Errors
    /// [`SecretError`]: neither alphabet, wrong length, unknown first byte, bad host name.
    ///
    /// Source: protocol.md 2.3.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let from_hex = match decode_hex(text) {
            Some(bytes) => Self::from_bytes(&bytes),
            None => Err(SecretError::Alphabet),
        };
        // A text of hex digits is base64url as well, so the error of the hex reading wins unless
        // the other one succeeds.
        from_hex.or_else(|error| match decode_base64url(text) {
            Some(bytes) => Self::from_bytes(&bytes).map_err(|other| match error {
                SecretError::Alphabet => other,
                _ => error,
            }),
            None => Err(error),
        })
    }

    /// Reads the decoded bytes: 16; 17 beginning with `dd`; 18 or more beginning with `ee`.
    ///
    /// # Errors
    /// [`SecretError`], all but `Alphabet`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        let got = bytes.len();
        if let Ok(plain) = bytes.try_into() {
            return Ok(Self::Classic(Secret(plain)));
        }
        let mut r = Reader::new(bytes);
        let length = |_| SecretError::Length { got };
        let prefix = r.u8().map_err(length)?;
        let secret = Secret(*r.array().map_err(length)?);
        match prefix {
            0xdd if r.is_empty() => Ok(Self::Secure(secret)),
            0xee if !r.is_empty() => {
                let name = str::from_utf8(r.rest()).map_err(|_| DomainError::NotAscii)?;
                let domain = check_domain(name)?;
                Ok(Self::Tls { secret, domain })
            }
            0xdd | 0xee => Err(SecretError::Length { got }),
            _ => Err(SecretError::Prefix),
        }
    }

    /// The text for links: lower-case hex, the one form every client reads.
    pub fn to_hex(&self) -> String {
        let secret = hex::encode(self.secret().0);
        match self {
            Self::Classic(_) => secret,
            Self::Secure(_) => format!("dd{secret}"),
            Self::Tls { domain, .. } => format!("ee{secret}{}", hex::encode(domain)),
        }
    }

    /// The 16 bytes.
    pub fn secret(&self) -> &Secret {
        match self {
            Self::Classic(secret) | Self::Secure(secret) | Self::Tls { secret, .. } => secret,
        }
    }

    /// The host name of a FakeTLS secret.
    pub fn domain(&self) -> Option<&str> {
        match self {
            Self::Tls { domain, .. } => Some(domain),
            Self::Classic(_) | Self::Secure(_) => None,
        }
    }
}

impl fmt::Debug for LinkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Classic(_) => f.write_str("Classic(..)"),
            Self::Secure(_) => f.write_str("Secure(..)"),
            Self::Tls { domain, .. } => write!(f, "Tls(.., {domain})"),
        }
    }
}

/// Why a text is no secret. Never carries the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Neither hex nor base64url of a length that decodes.
    #[error("neither hex nor base64url")]
    Alphabet,
    /// A length no form has.
    #[error("{got} bytes; 16, or 17 with dd in front, or ee, 16 and a host name")]
    Length {
        /// Decoded bytes.
        got: usize,
    },
    /// More than 16 bytes, and the first is neither `dd` nor `ee`.
    #[error("first byte is neither dd nor ee")]
    Prefix,
    /// The host name of an `ee` secret.
    #[error("host name: {0}")]
    Domain(#[from] DomainError),
}

/// Checks a FakeTLS host name and returns it in lower case.
///
/// # Errors
/// [`DomainError`]: 4 to 182 bytes of ASCII labels, no trailing dot.
///
/// Source: protocol.md 2.1.
pub fn check_domain(name: &str) -> Result<String, DomainError> {
    let got = name.len();
    if !name.is_ascii() {
        return Err(DomainError::NotAscii);
    }
    if !(DOMAIN_BYTES_MIN..=DOMAIN_BYTES_MAX).contains(&got) {
        return Err(DomainError::Length { got });
    }
    check_labels(name)?;
    Ok(name.to_ascii_lowercase())
}

/// Why a text is no host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    /// Shorter than 4 or longer than 182 bytes: some client would refuse it.
    #[error("{got} bytes, {DOMAIN_BYTES_MIN} to {DOMAIN_BYTES_MAX} accepted")]
    Length {
        /// Bytes given.
        got: usize,
    },
    /// International names must be given in their ASCII form.
    #[error("not ASCII; use the xn-- form")]
    NotAscii,
    /// An empty label, one over 63 bytes, or one that begins or ends with a hyphen.
    #[error("label {index} is empty, over 63 bytes or bounded by a hyphen")]
    Label {
        /// Which label, from 0 on the left.
        index: usize,
    },
    /// Only letters, digits, hyphens and dots are allowed.
    #[error("byte {at} is no letter, digit, hyphen or dot")]
    Byte {
        /// Offset in the name.
        at: usize,
    },
}

/// Longest FakeTLS host name TDLib accepts.
pub const DOMAIN_BYTES_MAX: usize = 182;
/// Shortest FakeTLS host name Desktop accepts.
pub const DOMAIN_BYTES_MIN: usize = 4;
const LABEL_BYTES_MAX: usize = 63;

pub(super) fn check_labels(name: &str) -> Result<(), DomainError> {
    let odd = |b: u8| !(b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if let Some(at) = name.bytes().position(odd) {
        return Err(DomainError::Byte { at });
    }
    let bad = |label: &str| {
        !(1..=LABEL_BYTES_MAX).contains(&label.len())
            || label.starts_with('-')
            || label.ends_with('-')
    };
    match name.split('.').position(bad) {
        Some(index) => Err(DomainError::Label { index }),
        None => Ok(()),
    }
}

fn decode_hex(text: &str) -> Option<Vec<u8>> {
    (!text.is_empty()).then(|| hex::decode(text).ok())?
}

/// 22 or more characters, length not 1 modulo 4, up to two trailing `=`. Surplus bits of the last
/// character are ignored, as clients do.
fn decode_base64url(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    let fits = bare.len() >= 22 && !bare.contains(['+', '/']);
    fits.then(|| decode_base64(text))?
}

/// Reads base64 of either alphabet; padding is optional, surplus bits are ignored.
pub(super) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let bare = text.strip_suffix('=').unwrap_or(text);
    let bare = bare.strip_suffix('=').unwrap_or(bare);
    if bare.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(bare.len() / 4 * 3 + 2);
    let (mut bits, mut held) = (0_u32, 0_u32);
    for byte in bare.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(digit);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn reads_and_prints_the_three_forms() {
        let secret = Secret([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        let domain = "a.example".to_owned();
        for (text, want) in [
            (HEX.to_owned(), LinkSecret::Classic(secret)),
            (format!("dd{HEX}"), LinkSecret::Secure(secret)),
            (
                format!("ee{HEX}{}", hex::encode("a.example")),
                LinkSecret::Tls { secret, domain },
            ),
        ] {
            assert_eq!(LinkSecret::parse(&text), Ok(want.clone()));
            assert_eq!(LinkSecret::parse(&text.to_uppercase()), Ok(want.clone()));
            assert_eq!(want.to_hex(), text);
        }
    }

    #[test]
    fn reads_base64url_with_and_without_padding() {
        let want = Ok(LinkSecret::Classic(Secret([0xfb; 16])));
        assert_eq!(LinkSecret::parse("-_v7-_v7-_v7-_v7-_v7-w"), want);
        assert_eq!(LinkSecret::parse("-_v7-_v7-_v7-_v7-_v7-w=="), want);
        assert_eq!(
            LinkSecret::parse("+/v7-_v7-_v7-_v7-_v7-w"),
            Err(SecretError::Alphabet)
        );
    }

    #[test]
    fn refuses_with_the_reason_of_the_alphabet_that_fits() {
        let cases = [
            ("", SecretError::Alphabet),
            ("0102", SecretError::Length { got: 2 }),
            (&HEX[2..], SecretError::Length { got: 15 }),
            (&format!("dd{HEX}00"), SecretError::Length { got: 18 }),
            (&format!("ee{HEX}"), SecretError::Length { got: 17 }),
            (&format!("cc{HEX}"), SecretError::Prefix),
            (&format!("ee{HEX}61"), DomainError::Length { got: 1 }.into()),
            (&format!("ee{HEX}61612e61ff"), DomainError::NotAscii.into()),
        ];
        for (text, want) in cases {
            assert_eq!(LinkSecret::parse(text), Err(want), "{text}");
        }
    }

    #[test]
    fn checks_host_names() {
        assert_eq!(
            check_domain("WWW.Example.com"),
            Ok("www.example.com".into())
        );
        let long = format!("{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(54));
        assert_eq!(check_domain(&long), Ok(long.clone()));
        for (name, want) in [
            ("a.b", DomainError::Length { got: 3 }),
            (&format!("{long}c"), DomainError::Length { got: 183 }),
            ("example.com.", DomainError::Label { index: 2 }),
            ("a..example", DomainError::Label { index: 1 }),
            ("-a.example", DomainError::Label { index: 0 }),
            ("a-.example", DomainError::Label { index: 0 }),
            ("a_b.example", DomainError::Byte { at: 1 }),
            ("müller.example", DomainError::NotAscii),
        ] {
            assert_eq!(check_domain(name), Err(want), "{name}");
        }
    }

    #[test]
    fn debug_hides_the_bytes() {
        let text = format!("{:?}", LinkSecret::parse(&format!("dd{HEX}")));
        assert_eq!(text, "Ok(Secure(..))");
    }
}
