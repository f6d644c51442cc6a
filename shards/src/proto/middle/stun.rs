//! STUN binding: asking a server which address we have. Big-endian.
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 2 | 1 request, 0x0101 success |
//! | 2 | 2 | bytes of the attributes |
//! | 4 | 4 | cookie |
//! | 8 | 12 | transaction id |
//! | 20 | … | attributes: u16 type, u16 length, value padded to 4 |
//!
//! Source: middle-proxy.md 9.2.

use std::net::{IpAddr, SocketAddr};

use super::super::reader::{Reader, Short};

/// Names a request; random.
pub type TransactionId = [u8; 12];

/// The message to send, over UDP or TCP.
pub fn request(id: &TransactionId) -> [u8; HEAD_BYTES] {
    let mut out = [0; HEAD_BYTES];
    let head = BINDING_REQUEST.to_be_bytes().into_iter().chain([0, 0]);
    let all = head.chain(COOKIE.to_be_bytes()).chain(*id);
    for (slot, byte) in out.iter_mut().zip(all) {
        *slot = byte;
    }
    out
}

/// Bytes of a whole message that begins so: how much to read from TCP.
///
/// # Errors
/// [`StunError::Type`], [`StunError::Length`] (over [`BODY_BYTES_MAX`]), [`StunError::Cookie`].
pub fn message_bytes(head: &[u8; HEAD_BYTES]) -> Result<usize, StunError> {
    let (body_bytes, _) = read_head(&mut Reader::new(head)).unwrap_or(Err(StunError::Truncated))?;
    if body_bytes > BODY_BYTES_MAX {
        return Err(StunError::Length { got: body_bytes });
    }
    Ok(HEAD_BYTES + body_bytes)
}

/// Reads a whole message, a datagram or what TCP brought: the address the server saw.
///
/// XOR-MAPPED-ADDRESS wins over MAPPED-ADDRESS wherever it stands.
///
/// # Errors
/// [`StunError`].
pub fn response(message: &[u8], id: &TransactionId) -> Result<SocketAddr, StunError> {
    let mut r = Reader::new(message);
    let (body_bytes, got) = read_head(&mut r).unwrap_or(Err(StunError::Truncated))?;
    if got != *id {
        return Err(StunError::Transaction);
    }
    if r.remaining() < body_bytes {
        return Err(StunError::Truncated);
    }
    if r.remaining() > body_bytes || !body_bytes.is_multiple_of(4) {
        return Err(StunError::Length { got: body_bytes });
    }
    attributes(&mut r, id)
        .map_err(|Short { .. }| StunError::Truncated)?
        .ok_or(StunError::NoAddress)
}

type Head = Result<(usize, TransactionId), StunError>;

fn read_head(r: &mut Reader<'_>) -> Result<Head, Short> {
    let (kind, body_bytes) = (r.u16_be()?, usize::from(r.u16_be()?));
    let (cookie, id) = (r.u32_be()?, *r.array()?);
    Ok(match (kind, cookie) {
        (BINDING_SUCCESS, COOKIE) => Ok((body_bytes, id)),
        (BINDING_SUCCESS, _) => Err(StunError::Cookie),
        (got, _) => Err(StunError::Type { got }),
    })
}

fn attributes(r: &mut Reader<'_>, id: &TransactionId) -> Result<Option<SocketAddr>, Short> {
    let (mut plain, mut xored) = (None, None);
    while !r.is_empty() {
        let (kind, bytes) = (r.u16_be()?, usize::from(r.u16_be()?));
        let value = r.take(bytes)?;
        r.take(bytes.next_multiple_of(4) - bytes)?;
        match kind {
            XOR_MAPPED => xored = xored.or_else(|| address(value, Some(id))),
            MAPPED => plain = plain.or_else(|| address(value, None)),
            _ => {}
        }
    }
    Ok(xored.or(plain))
}

/// An address attribute; with an id it is XORed with cookie and id. `None` if it is malformed.
fn address(value: &[u8], id: Option<&TransactionId>) -> Option<SocketAddr> {
    let mut mask = [0; 16];
    let mut port_mask = 0;
    if let Some(id) = id {
        let bytes = COOKIE.to_be_bytes().into_iter().chain(*id);
        for (slot, byte) in mask.iter_mut().zip(bytes) {
            *slot = byte;
        }
        port_mask = (COOKIE >> 16) as u16;
    }
    let mut r = Reader::new(value);
    r.u8().ok()?;
    let family = r.u8().ok()?;
    let port = r.u16_be().ok()? ^ port_mask;
    let ip = match family {
        1 => IpAddr::from(unmask(*r.array::<4>().ok()?, &mask)),
        2 => IpAddr::from(unmask(*r.array::<16>().ok()?, &mask)).to_canonical(),
        _ => return None,
    };
    r.is_empty().then(|| SocketAddr::new(ip, port))
}

fn unmask<const N: usize>(mut bytes: [u8; N], mask: &[u8; 16]) -> [u8; N] {
    for (byte, mask) in bytes.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    bytes
}

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StunError {
    /// No binding success.
    #[error("STUN message of type {got:#06x}")]
    Type {
        /// The type.
        got: u16,
    },
    /// The header's length is not the rest of the message, no multiple of four, or too long.
    #[error("STUN message with attributes of {got} bytes")]
    Length {
        /// The length.
        got: usize,
    },
    /// Not STUN, or a version of before 2008.
    #[error("STUN message without its cookie")]
    Cookie,
    /// The answer to something else.
    #[error("STUN answer to another request")]
    Transaction,
    /// The message or an attribute is cut off.
    #[error("STUN message cut off")]
    Truncated,
    /// No attribute holds an address.
    #[error("STUN answer without an address")]
    NoAddress,
}

/// Bytes of a message without attributes.
pub const HEAD_BYTES: usize = 20;
/// Longest attributes read from TCP, bytes.
pub const BODY_BYTES_MAX: usize = 236;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const COOKIE: u32 = 0x2112_a442;
const MAPPED: u16 = 0x0001;
const XOR_MAPPED: u16 = 0x0020;

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = [7; 12];

    /// A success with these attributes.
    fn answer(attributes: &[u8]) -> Vec<u8> {
        let mut out = request(&ID).to_vec();
        out[0] = 1;
        out[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
        out.extend_from_slice(attributes);
        out
    }

    const PLAIN: [u8; 12] = [0, 1, 0, 8, 0, 1, 0, 80, 9, 9, 9, 9];

    #[test]
    fn prefers_the_address_that_middleboxes_leave_alone() {
        let xored = [0, 0x20, 0, 8, 0, 1, 0x21, 0x12, 0x21, 0x12, 0xa4, 0x43];
        for all in [[PLAIN, xored].concat(), [xored, PLAIN].concat()] {
            assert_eq!(
                response(&answer(&all), &ID),
                Ok("0.0.0.1:0".parse().unwrap())
            );
        }
        let plain = Ok("9.9.9.9:80".parse().unwrap());
        assert_eq!(response(&answer(&PLAIN), &ID), plain);
    }

    #[test]
    fn believes_only_whole_answers_to_its_request() {
        let good = answer(&PLAIN);
        for cut in 0..good.len() {
            assert_eq!(response(&good[..cut], &ID), Err(StunError::Truncated));
        }
        let mut long = good.clone();
        long.extend([0; 4]);
        assert_eq!(response(&long, &ID), Err(StunError::Length { got: 12 }));
        assert_eq!(response(&good, &[8; 12]), Err(StunError::Transaction));
        let change = |at: usize, byte| {
            let mut wire = good.clone();
            wire[at] = byte;
            response(&wire, &ID)
        };
        assert_eq!(change(1, 0x11), Err(StunError::Type { got: 0x0111 }));
        assert_eq!(change(4, 0), Err(StunError::Cookie));
        assert_eq!(change(25, 3), Err(StunError::NoAddress));
        assert_eq!(change(23, 9), Err(StunError::Truncated));
        assert_eq!(response(&answer(&[]), &ID), Err(StunError::NoAddress));
    }

    #[test]
    fn bounds_what_tcp_may_bring() {
        let head = |bytes: u16| {
            let mut head = answer(&[])[..HEAD_BYTES].first_chunk().copied().unwrap();
            head[2..4].copy_from_slice(&bytes.to_be_bytes());
            message_bytes(&head)
        };
        assert_eq!(head(236), Ok(256));
        assert_eq!(head(240), Err(StunError::Length { got: 240 }));
    }
}
