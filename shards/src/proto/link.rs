//! `tg://proxy` and `https://t.me/proxy` links (protocol.md 2.2).
//!
//! Used by the binary to print links and by the bench to read them.

use std::{fmt, net::IpAddr};

use super::secret::{LinkSecret, SecretError, check_labels};

/// Where a proxy is and with what secret: what a client is given.
///
/// `Display` prints the `tg://` form, secret included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyLink {
    /// IPv4, IPv6 without brackets, or a name; at most 255 bytes.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
    /// Which secret and mode.
    pub secret: LinkSecret,
}

impl ProxyLink {
    /// Reads either form; parameters may come in any order.
    ///
    /// # Errors
    /// [`LinkError`]: no proxy link, a parameter missing, twice or unknown, or a bad value.
    pub fn parse(text: &str) -> Result<Self, LinkError> {
        let query = LINK_STARTS
            .iter()
            .find_map(|start| text.strip_prefix(start))
            .ok_or(LinkError::Scheme)?;
        let (mut host, mut port, mut secret) = (None, None, None);
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').ok_or(LinkError::Query)?;
            let slot = match key {
                "server" => &mut host,
                "port" => &mut port,
                "secret" => &mut secret,
                _ => return Err(LinkError::Query),
            };
            let value = percent_decode(value).ok_or(LinkError::Query)?;
            if slot.replace(value).is_some() {
                return Err(LinkError::Query);
            }
        }
        let (Some(host), Some(port), Some(secret)) = (host, port, secret) else {
            return Err(LinkError::Query);
        };
        check_host(&host)?;
        Ok(Self {
            host,
            port: parse_port(&port)?,
            secret: LinkSecret::parse(&secret)?,
        })
    }

    /// The `https://t.me` form, secret included.
    pub fn https(&self) -> String {
        format!("https://t.me/proxy?{}", self.query())
    }

    fn query(&self) -> String {
        let host = percent_encode(&self.host);
        format!(
            "server={host}&port={}&secret={}",
            self.port,
            self.secret.to_hex()
        )
    }
}

impl fmt::Display for ProxyLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tg://proxy?{}", self.query())
    }
}

/// Why a text is no proxy link. Never carries the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Not one of the link forms.
    #[error("no tg://proxy? or https://t.me/proxy? link")]
    Scheme,
    /// Not exactly `server`, `port` and `secret`, or broken percent-encoding.
    #[error("query needs server, port and secret, once each")]
    Query,
    /// Empty, over 255 bytes, or neither address nor name.
    #[error("host of {got} bytes is no address or name of 1 to {HOST_BYTES_MAX}")]
    Host {
        /// Bytes given.
        got: usize,
    },
    /// Not a decimal number from 1 to 65535.
    #[error("port is not in 1 to 65535")]
    Port,
    /// The secret.
    #[error("secret: {0}")]
    Secret(#[from] SecretError),
}

const LINK_STARTS: [&str; 4] = [
    "tg://proxy?",
    "https://t.me/proxy?",
    "https://telegram.me/proxy?",
    "https://telegram.dog/proxy?",
];
const HOST_BYTES_MAX: usize = 255;

/// An address without brackets or a name.
pub(super) fn check_host(host: &str) -> Result<(), LinkError> {
    let got = host.len();
    let known = host.parse::<IpAddr>().is_ok() || check_labels(host).is_ok();
    if known && got <= HOST_BYTES_MAX {
        Ok(())
    } else {
        Err(LinkError::Host { got })
    }
}

/// 1 to 65535, digits only.
pub(super) fn parse_port(text: &str) -> Result<u16, LinkError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(LinkError::Port),
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "-._~".contains(c) {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

/// Undoes percent encoding; `None` if it is broken or no UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_first_chunk::<2>()?;
        let mut decoded = [0];
        hex::decode_to_slice(digits, &mut decoded).ok()?;
        out.extend(decoded);
        rest = tail;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "000102030405060708090a0b0c0d0e0f";

    #[test]
    fn prints_what_it_reads() {
        for host in ["proxy.example.net", "192.0.2.1", "2001%3Adb8%3A%3A1"] {
            let text = format!("tg://proxy?server={host}&port=443&secret=dd{SECRET}");
            let link = ProxyLink::parse(&text).unwrap();
            assert_eq!(link.to_string(), text);
            let https = text.replace("tg://", "https://t.me/");
            assert_eq!(link.https(), https);
            assert_eq!(ProxyLink::parse(&https), Ok(link));
        }
    }

    #[test]
    fn refuses_what_is_no_link() {
        let good = format!("tg://proxy?server=a&port=1&secret={SECRET}");
        assert!(ProxyLink::parse(&good).is_ok());
        for (from, to, want) in [
            ("tg://proxy", "tg://socks", LinkError::Scheme),
            ("server=a&", "", LinkError::Query),
            ("server=a", "server=a&server=b", LinkError::Query),
            ("port=1", "port=1&x=1", LinkError::Query),
            ("server=a", "server=%3", LinkError::Query),
            ("server=a", "server=%gg", LinkError::Query),
            ("server=a", "server=", LinkError::Host { got: 0 }),
            ("server=a", "server=a/b", LinkError::Host { got: 3 }),
            ("port=1", "port=0", LinkError::Port),
            ("port=1", "port=65536", LinkError::Port),
            ("port=1", "port=%2B1", LinkError::Port),
            ("secret=0001", "secret=g", SecretError::Alphabet.into()),
        ] {
            assert_eq!(ProxyLink::parse(&good.replace(from, to)), Err(want), "{to}");
        }
    }
}
