//! Strings and addresses as TL and the ME protocol write them.
//!
//! Source: middle-proxy.md 8.1.

use std::net::{IpAddr, SocketAddr};

use super::super::reader::{Reader, Short};

/// Appends a TL string: its length, its bytes, and zeros to a multiple of four.
///
/// # Errors
/// [`TooLong`]: 2^24 bytes or more; nothing is appended.
pub fn write_string(value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let start = out.len();
    match (u8::try_from(value.len()), u32::try_from(value.len())) {
        (Ok(short), _) if short < LONG_MARK => out.push(short),
        (_, Ok(long)) if long < 1 << 24 => {
            let [a, b, c, _] = long.to_le_bytes();
            out.extend_from_slice(&[LONG_MARK, a, b, c]);
        }
        _ => return Err(TooLong { got: value.len() }),
    }
    out.extend_from_slice(value);
    let words = (out.len() - start).next_multiple_of(4);
    out.resize(start + words, 0);
    Ok(())
}

/// A string that TL cannot express.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TL string of {got} bytes")]
pub struct TooLong {
    /// Bytes of it.
    pub got: usize,
}

/// Reads a TL string. The zeros behind it are not looked at.
///
/// # Errors
/// [`Short`]: it or its padding is cut off.
pub fn read_string<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], Short> {
    let (head, length) = match r.u8()? {
        LONG_MARK => (4, r.u24_le()? as usize),
        // 255 begins no string; read as a short one it only ends the parse later.
        short => (1, usize::from(short)),
    };
    let value = r.take(length)?;
    let total = head + length;
    r.take(total.next_multiple_of(4) - total)?;
    Ok(value)
}

/// An address as PROXY_REQ has it: 16 bytes, IPv4 mapped into IPv6, then the port as u32 LE.
pub fn address_bytes(addr: SocketAddr) -> [u8; ADDRESS_BYTES] {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut out = [0; ADDRESS_BYTES];
    let (host, port) = out.split_at_mut(16);
    host.copy_from_slice(&ip.octets());
    port.copy_from_slice(&u32::from(addr.port()).to_le_bytes());
    out
}

/// Bytes of an address.
pub const ADDRESS_BYTES: usize = 20;
const LONG_MARK: u8 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_survive_a_round_trip() {
        for length in [0, 1, 2, 3, 4, 253, 254, 255, 256, 70_000] {
            let value: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let mut out = vec![0; 3];
            write_string(&value, &mut out).unwrap();
            assert_eq!((out.len() - 3) % 4, 0);
            let mut r = Reader::new(&out[3..]);
            assert_eq!(read_string(&mut r), Ok(value.as_slice()));
            assert!(r.is_empty());
            for cut in 3..out.len().min(40) {
                assert!(read_string(&mut Reader::new(&out[3..cut])).is_err());
            }
        }
        let huge = vec![0; 1 << 24];
        let mut out = Vec::new();
        let got = huge.len();
        assert_eq!(write_string(&huge, &mut out), Err(TooLong { got }));
        assert!(out.is_empty());
    }
}
