//! obfuscated2: the 64-byte header in front of a stream, its keys, its framing and its DC.
//!
//! | Offset | Bytes | Content |
//! |---|---|---|
//! | 0 | 8 | random, see [`may_write`] |
//! | 8 | 32 | key material of the writer's direction |
//! | 40 | 16 | IV of the writer's direction |
//! | 56 | 4 | tag: the framing, encrypted |
//! | 60 | 2 | DC id, i16 LE, encrypted |
//! | 62 | 2 | random, encrypted |
//!
//! The other direction's key material and IV are the 48 bytes 8..56 in reverse. Here is the
//! proxy's side towards clients; [`dc_header`] and the far ends ([`client_side`], [`dc_side`]) are
//! in their own files. Nothing here remembers a header: replay is the caller's.
//!
//! Source: protocol.md 3 and 4.

mod dc_leg;
mod far_side;

use super::{
    crypto::{CtrStream, keystream_block, sha256_of_48},
    dc::DcId,
    framing::Framing,
    secret::Secret,
};
use crate::settings::Modes;

pub use dc_leg::{DcHeader, dc_header, may_write};
pub use far_side::{ClientSide, DcSide, client_side, dc_side};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;

/// What a header asks for, once a secret has opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// How everything behind the header is framed.
    pub framing: Framing,
    /// Which DC the client wants.
    pub dc: DcId,
}

impl Opening {
    /// Whether a client with this tag is served.
    ///
    /// Inside FakeTLS only `dd` is: no official client sends another tag there.
    ///
    /// Source: protocol.md 3.5 point 3.
    pub fn is_served(&self, modes: Modes, inside_tls: bool) -> bool {
        match self.framing {
            Framing::Abridged | Framing::Intermediate => modes.classic && !inside_tls,
            Framing::Padded if inside_tls => modes.tls,
            Framing::Padded => modes.secure,
        }
    }
}

/// Tries one candidate secret on a client's header.
///
/// Costs one SHA-256 compression, one AES key schedule and one AES block. A wrong secret passes
/// with probability 3·2⁻³². The tag is not secret to whoever can make it fit, so it is compared in
/// ordinary time.
///
/// Source: protocol.md 3.5.
pub fn open(header: &[u8; HEADER_BYTES], secret: &Secret) -> Option<Opening> {
    let parts = Parts::of(header);
    let key = sha256_of_48(parts.key, &secret.0);
    parse_tail(parts.decrypt_tail(&key))
}

/// The part of a header that cannot be altered without breaking it: bytes 8..56, the key of the
/// replay store.
///
/// Source: protocol.md 3.7.
pub fn replay_key(header: &[u8; HEADER_BYTES]) -> &[u8; 48] {
    // 8..56 of 64 bytes are 48.
    header[8..56].first_chunk().expect("8..56 is 48 bytes")
}

/// Ciphers of one client connection.
#[derive(Clone)]
pub struct ClientKeys {
    /// Client to proxy, at keystream byte 64: the first byte behind the header.
    pub c2p: CtrStream,
    /// Key of proxy to client, hashed with the secret.
    pub p2c_key: [u8; 32],
    /// IV of proxy to client.
    pub p2c_iv: [u8; 16],
}

impl ClientKeys {
    /// Proxy to client, at keystream byte 0. Not needed in fast mode, where the DC encrypts.
    pub fn p2c(&self) -> CtrStream {
        CtrStream::new(&self.p2c_key, &self.p2c_iv)
    }
}

impl std::fmt::Debug for ClientKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKeys(..)")
    }
}

/// Derives both directions of a client connection.
///
/// Source: protocol.md 3.3 and 3.4.
pub fn client_keys(header: &[u8; HEADER_BYTES], secret: &Secret) -> ClientKeys {
    let forward = Parts::of(header);
    let reversed = Reversed::of(header);
    ClientKeys {
        c2p: stream_behind_header(&sha256_of_48(forward.key, &secret.0), forward.iv),
        p2c_key: sha256_of_48(&reversed.key, &secret.0),
        p2c_iv: reversed.iv,
    }
}

/// A header's own direction, borrowed.
struct Parts<'a> {
    key: &'a [u8; 32],
    iv: &'a [u8; 16],
    tail: &'a [u8; 8],
}

impl<'a> Parts<'a> {
    fn of(header: &'a [u8; HEADER_BYTES]) -> Self {
        // Constant ranges of a fixed array: the lengths hold by construction.
        Self {
            key: header[8..40].first_chunk().expect("8..40 is 32 bytes"),
            iv: header[40..56].first_chunk().expect("40..56 is 16 bytes"),
            tail: header[56..].first_chunk().expect("56..64 is 8 bytes"),
        }
    }

    /// Bytes 56..64 in plain. They lie in the fourth block, so that one is all it takes.
    fn decrypt_tail(&self, key: &[u8; 32]) -> [u8; 8] {
        let counter = u128::from_be_bytes(*self.iv).wrapping_add(TAIL_BLOCK);
        let keystream = keystream_block(key, counter);
        let mut tail = *self.tail;
        for (byte, key) in tail.iter_mut().zip(keystream.iter().skip(8)) {
            *byte ^= key;
        }
        tail
    }
}

/// Key material and IV of the opposite direction: bytes 8..56 in reverse.
struct Reversed {
    key: [u8; 32],
    iv: [u8; 16],
}

impl Reversed {
    fn of(header: &[u8; HEADER_BYTES]) -> Self {
        let mut bytes = *replay_key(header);
        bytes.reverse();
        let (mut key, mut iv) = ([0; 32], [0; 16]);
        key.copy_from_slice(&bytes[..32]);
        iv.copy_from_slice(&bytes[32..]);
        Self { key, iv }
    }
}

fn parse_tail(tail: [u8; 8]) -> Option<Opening> {
    let [a, b, c, d, low, high, _, _] = tail;
    Some(Opening {
        framing: Framing::from_tag([a, b, c, d])?,
        dc: DcId(i16::from_le_bytes([low, high])),
    })
}

/// A stream at keystream byte 64: four blocks on, which costs no encryption.
fn stream_behind_header(key: &[u8; 32], iv: &[u8; 16]) -> CtrStream {
    let counter = u128::from_be_bytes(*iv).wrapping_add(HEADER_BLOCKS);
    CtrStream::new(key, &counter.to_be_bytes())
}

/// The block that covers bytes 48..64.
const TAIL_BLOCK: u128 = 3;
const HEADER_BLOCKS: u128 = 4;

#[cfg(test)]
mod tests;
