//! The PROXY protocol, v1 and v2: a load balancer's word on who the client is, and ours to the
//! mask host (protocol.md 8).
//!
//! Only bytes; whether a peer is trusted and how long it may take is decided elsewhere. A header
//! that is refused closes the connection and is never masked.

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::reader::{Reader, Short, Writer};

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stated {
    /// `UNKNOWN`, `LOCAL`, unspecified or a Unix socket: keep the socket's own addresses.
    Keep,
    /// The client and the address it connected to. IPv4-mapped IPv6 was unwrapped.
    Addrs {
        /// Replaces the peer's address.
        source: SocketAddr,
        /// Replaces our local address.
        destination: SocketAddr,
    },
}

/// Reads a header from the front of a connection: its length in bytes and what it says.
///
/// `Ok(None)`: more bytes are needed. Everything behind the length belongs to the client.
///
/// # Errors
/// [`ProxyHeaderError`]: neither version, or malformed.
///
/// Source: protocol.md 8.1.
pub fn parse(seen: &[u8]) -> Result<Option<(usize, Stated)>, ProxyHeaderError> {
    match seen.first() {
        None => Ok(None),
        Some(b'P') => parse_v1(seen),
        Some(0x0d) => parse_v2(seen),
        Some(&got) => Err(ProxyHeaderError::Start { got }),
    }
}

/// Which form to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Appends a header; addresses of two families become `UNKNOWN` (v1) or `LOCAL` (v2).
///
/// Source: protocol.md 8.2.
pub fn encode(out: &mut Vec<u8>, version: Version, source: SocketAddr, destination: SocketAddr) {
    let (source, destination) = (canonical(source), canonical(destination));
    match version {
        Version::V1 => encode_v1(out, source, destination),
        Version::V2 => encode_v2(out, source, destination),
    }
}

/// Why bytes are no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The first byte begins neither version.
    #[error("first byte {got:#04x} begins no PROXY header")]
    Start {
        /// First byte.
        got: u8,
    },
    /// The first bytes differ from the fixed ones of the version.
    #[error("not the fixed bytes of a PROXY header")]
    Signature,
    /// v1: no line end within 107 bytes.
    #[error("no line end within {V1_BYTES_MAX} bytes")]
    Unterminated,
    /// v1: not the fields of its keyword, or an address of another family.
    #[error("malformed PROXY line")]
    Line,
    /// v2: version nibble is not 2, or neither LOCAL nor PROXY.
    #[error("PROXY version and command {got:#04x}")]
    Command {
        /// Byte 12.
        got: u8,
    },
    /// v2: an address family or transport we do not take.
    #[error("PROXY address family {got:#04x}")]
    Family {
        /// Byte 13.
        got: u8,
    },
    /// v2: too short for the family, or over 4096.
    #[error("PROXY v2 with {got} bytes, {min} to {V2_REST_MAX} accepted")]
    Length {
        /// Bytes behind the first 16.
        got: usize,
        /// What the family needs.
        min: usize,
    },
}

fn parse_v1(seen: &[u8]) -> Result<Option<(usize, Stated)>, ProxyHeaderError> {
    if seen.iter().zip(V1_START).any(|(got, want)| got != want) {
        return Err(ProxyHeaderError::Signature);
    }
    let Some(end) = seen.iter().take(V1_BYTES_MAX).position(|&b| b == b'\n') else {
        return if seen.len() < V1_BYTES_MAX {
            Ok(None)
        } else {
            Err(ProxyHeaderError::Unterminated)
        };
    };
    let line = seen
        .get(V1_START.len()..end)
        .and_then(|line| line.strip_suffix(b"\r"))
        .and_then(|line| str::from_utf8(line).ok())
        .ok_or(ProxyHeaderError::Line)?;
    let stated = if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        Stated::Keep
    } else {
        parse_line(line).ok_or(ProxyHeaderError::Line)?
    };
    Ok(Some((end + 1, stated)))
}

/// `TCP4 <src> <dst> <sport> <dport>`, single spaces.
fn parse_line(line: &str) -> Option<Stated> {
    let mut words = line.split(' ');
    let family = words.next()?;
    let mut addr = || -> Option<IpAddr> {
        let word = words.next()?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (addr()?, addr()?);
    let mut port = || -> Option<u16> {
        let word = words.next()?;
        let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| word.parse().ok())?
    };
    let (source_port, destination_port) = (port()?, port()?);
    words.next().is_none().then(|| Stated::Addrs {
        source: canonical(SocketAddr::new(source, source_port)),
        destination: canonical(SocketAddr::new(destination, destination_port)),
    })
}

fn parse_v2(seen: &[u8]) -> Result<Option<(usize, Stated)>, ProxyHeaderError> {
    if seen
        .iter()
        .zip(&V2_SIGNATURE)
        .any(|(got, want)| got != want)
    {
        return Err(ProxyHeaderError::Signature);
    }
    let rest = seen.get(V2_SIGNATURE.len()..).unwrap_or_default();
    let mut r = Reader::new(rest);
    let Ok(command) = r.u8() else {
        return Ok(None);
    };
    if !matches!(command, V2_LOCAL | V2_PROXY) {
        return Err(ProxyHeaderError::Command { got: command });
    }
    let (Ok(family), Ok(got)) = (r.u8(), r.u16_be()) else {
        return Ok(None);
    };
    let got = usize::from(got);
    let min = match (command, family) {
        (V2_LOCAL, _) | (_, 0x00) => 0,
        (_, V2_TCP4) => 12,
        (_, V2_TCP6) => 36,
        (_, V2_UNIX) => 216,
        (_, got) => return Err(ProxyHeaderError::Family { got }),
    };
    if !(min..=V2_REST_MAX).contains(&got) {
        return Err(ProxyHeaderError::Length { got, min });
    }
    let Ok(body) = r.take(got) else {
        return Ok(None);
    };
    let stated = match (command, family) {
        (V2_PROXY, V2_TCP4) => addrs(body, |r| r.array::<4>().map(|&ip| ip.into())),
        (V2_PROXY, V2_TCP6) => addrs(body, |r| r.array::<16>().map(|&ip| ip.into())),
        _ => Ok(Stated::Keep),
    };
    let used = V2_SIGNATURE.len() + 4 + got;
    // Cannot be short: the length was checked against the family.
    let stated = stated.map_err(|_| ProxyHeaderError::Length { got, min })?;
    Ok(Some((used, stated)))
}

fn addrs<'a>(
    body: &'a [u8],
    mut ip: impl FnMut(&mut Reader<'a>) -> Result<IpAddr, Short>,
) -> Result<Stated, Short> {
    let mut r = Reader::new(body);
    let (source, destination) = (ip(&mut r)?, ip(&mut r)?);
    Ok(Stated::Addrs {
        source: canonical(SocketAddr::new(source, r.u16_be()?)),
        destination: canonical(SocketAddr::new(destination, r.u16_be()?)),
    })
}

fn encode_v1(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    let family = match (source, destination) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => "TCP4",
        (SocketAddr::V6(_), SocketAddr::V6(_)) => "TCP6",
        _ => {
            out.extend_from_slice(b"PROXY UNKNOWN\r\n");
            return;
        }
    };
    let (from, to) = (source.ip(), destination.ip());
    let (from_port, to_port) = (source.port(), destination.port());
    // A vector takes any number of bytes.
    let _ = write!(out, "PROXY {family} {from} {to} {from_port} {to_port}\r\n");
}

fn encode_v2(out: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) {
    let mut w = Writer::new(out);
    w.bytes(&V2_SIGNATURE);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            w.u8(V2_PROXY).u8(V2_TCP4).u16_be(12);
            w.bytes(&from.octets()).bytes(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            w.u8(V2_PROXY).u8(V2_TCP6).u16_be(36);
            w.bytes(&from.octets()).bytes(&to.octets());
        }
        _ => {
            w.bytes(&[V2_LOCAL, 0, 0, 0]);
            return;
        }
    }
    w.u16_be(source.port()).u16_be(destination.port());
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// Longest v1 line, CRLF included.
pub const V1_BYTES_MAX: usize = 107;
/// Longest rest of a v2 header we take: addresses and the TLVs of cloud balancers.
pub const V2_REST_MAX: usize = 4096;

const V1_START: &[u8; 6] = b"PROXY ";
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_UNIX: u8 = 0x31;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn refuses_lines_that_are_almost_right() {
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 ::1 1 2\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(
                parse(line.as_bytes()),
                Err(ProxyHeaderError::Line),
                "{line}"
            );
        }
        assert_eq!(parse(b"POST / HTTP/1.0"), Err(ProxyHeaderError::Signature));
        assert_eq!(
            parse(b"\x16\x03\x01"),
            Err(ProxyHeaderError::Start { got: 0x16 })
        );
        assert_eq!(parse(b"\r\n\r\n\r"), Err(ProxyHeaderError::Signature));
    }

    #[test]
    fn bounds_the_v2_length() {
        let start = |family: u8, length: u16| {
            let [a, b] = length.to_be_bytes();
            [&V2_SIGNATURE[..], &[V2_PROXY, family, a, b]].concat()
        };
        let error = |got, min| Err(ProxyHeaderError::Length { got, min });
        assert_eq!(parse(&start(V2_TCP4, 11)), error(11, 12));
        assert_eq!(parse(&start(V2_TCP6, 35)), error(35, 36));
        assert_eq!(parse(&start(V2_UNIX, 215)), error(215, 216));
        assert_eq!(parse(&start(V2_TCP4, 4097)), error(4097, 12));
        assert_eq!(parse(&start(V2_TCP4, 4096)), Ok(None));
        assert_eq!(parse(&start(0, 0)), Ok(Some((16, Stated::Keep))));
        assert_eq!(
            parse(&start(0x12, 12)),
            Err(ProxyHeaderError::Family { got: 0x12 })
        );
    }

    #[test]
    fn unwraps_mapped_addresses() {
        let line = b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n";
        let want = Stated::Addrs {
            source: "192.0.2.1:1".parse().unwrap(),
            destination: "[2001:db8::1]:2".parse().unwrap(),
        };
        assert_eq!(parse(line), Ok(Some((line.len(), want))));
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(
            source: (IpAddr, u16),
            destination: (IpAddr, u16),
            v2: bool,
            behind in vec(any::<u8>(), 0..9),
        ) {
            let source = canonical(source.into());
            let destination = canonical(destination.into());
            let version = if v2 { Version::V2 } else { Version::V1 };
            let mut out = Vec::new();
            encode(&mut out, version, source, destination);
            for cut in 0..out.len() {
                prop_assert_eq!(parse(&out[..cut]), Ok(None));
            }
            let same_family = source.is_ipv4() == destination.is_ipv4();
            let want = if same_family {
                Stated::Addrs { source, destination }
            } else {
                Stated::Keep
            };
            let used = out.len();
            out.extend(behind);
            prop_assert_eq!(parse(&out), Ok(Some((used, want))));
        }

        #[test]
        fn any_bytes_are_survived(
            start in 0_usize..3,
            bytes in vec(any::<u8>(), 0..200),
            line in "[ -~\r\n]{0,110}",
        ) {
            let start: &[u8] = [&b""[..], b"PROXY ", &V2_SIGNATURE][start];
            for bytes in [&bytes[..], line.as_bytes()] {
                let seen = [start, bytes].concat();
                let whole = parse(&seen);
                for cut in 0..seen.len() {
                    let early = parse(&seen[..cut]);
                    prop_assert!(early == Ok(None) || early == whole);
                }
            }
        }
    }
}
