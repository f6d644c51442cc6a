//! HMAC-SHA256 from midstates: what checking a hello costs per user.

use sha2::block_api::compress256;

use super::{SHA_BLOCK_BYTES, SHA_INITIAL, digest_bytes};
use crate::proto::secret::Secret;

/// HMAC-SHA256 under one 16-byte key, kept as the two SHA-256 states behind the pads: 64 bytes.
///
/// A message then costs its own blocks plus one; the pads are never hashed again.
///
/// Source: protocol.md 6.3, "Cost".
#[derive(Clone, Copy)]
pub struct HmacKey {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl HmacKey {
    /// Hashes both pads of `secret` once.
    pub fn new(secret: &Secret) -> Self {
        Self {
            inner: pad_state(secret, 0x36),
            outer: pad_state(secret, 0x5c),
        }
    }

    /// HMAC-SHA256 of all parts joined. No heap.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Blocks::behind_pad(self.inner);
        for part in parts {
            hash.update(part);
        }
        let inner = hash.finish();
        let mut hash = Blocks::behind_pad(self.outer);
        hash.update(&inner);
        hash.finish()
    }
}

impl std::fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacKey(..)")
    }
}

fn pad_state(secret: &Secret, pad: u8) -> [u32; 8] {
    let mut block = [pad; SHA_BLOCK_BYTES];
    for (byte, key) in block.iter_mut().zip(&secret.0) {
        *byte ^= key;
    }
    let mut state = SHA_INITIAL;
    compress256(&mut state, &[block]);
    state
}

/// SHA-256 in progress behind one already hashed block.
struct Blocks {
    state: [u32; 8],
    /// Bytes not yet compressed; `pending_bytes < 64` of them are set.
    pending: [u8; SHA_BLOCK_BYTES],
    pending_bytes: usize,
    total_bytes: u64,
}

impl Blocks {
    fn behind_pad(state: [u32; 8]) -> Self {
        Self {
            state,
            pending: [0; SHA_BLOCK_BYTES],
            pending_bytes: 0,
            total_bytes: SHA_BLOCK_BYTES as u64,
        }
    }

    fn update(&mut self, mut part: &[u8]) {
        self.total_bytes += part.len() as u64;
        if self.pending_bytes != 0 {
            part = self.fill_pending(part);
        }
        let (blocks, rest) = part.as_chunks::<SHA_BLOCK_BYTES>();
        if !blocks.is_empty() {
            compress256(&mut self.state, blocks);
        }
        self.fill_pending(rest);
    }

    /// Moves bytes into the open block and compresses it when full; returns what did not fit.
    fn fill_pending<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        let at = self.pending_bytes;
        let (head, rest) = part.split_at(part.len().min(SHA_BLOCK_BYTES - at));
        if let Some(room) = self.pending.get_mut(at..at + head.len()) {
            room.copy_from_slice(head);
        }
        self.pending_bytes = at + head.len();
        if self.pending_bytes == SHA_BLOCK_BYTES {
            compress256(&mut self.state, &[self.pending]);
            self.pending_bytes = 0;
        }
        rest
    }

    fn finish(mut self) -> [u8; 32] {
        let bits = self.total_bytes * 8;
        let mut last = [[0_u8; SHA_BLOCK_BYTES]; 2];
        let (first, second) = last.split_at_mut(1);
        let (Some(first), Some(second)) = (first.first_mut(), second.first_mut()) else {
            return digest_bytes(&self.state);
        };
        for (to, from) in first
            .iter_mut()
            .zip(self.pending.iter().take(self.pending_bytes))
        {
            *to = *from;
        }
        if let Some(mark) = first.get_mut(self.pending_bytes) {
            *mark = 0x80;
        }
        if self.pending_bytes < SHA_BLOCK_BYTES - 8 {
            first[56..].copy_from_slice(&bits.to_be_bytes());
            compress256(&mut self.state, &[*first]);
        } else {
            second[56..].copy_from_slice(&bits.to_be_bytes());
            compress256(&mut self.state, &last);
        }
        digest_bytes(&self.state)
    }
}

#[cfg(test)]
mod tests {
    use hmac::{KeyInit as _, Mac};

    use super::*;

    #[test]
    fn is_64_bytes() {
        assert_eq!(size_of::<HmacKey>(), 64);
    }

    fn reference_mac(secret: &Secret, message: &[u8]) -> [u8; 32] {
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&secret.0).unwrap();
        mac.update(message);
        mac.finalize().into_bytes().into()
    }

    #[test]
    fn mac_equals_the_reference_for_every_length_and_cut() {
        let secret = Secret(*b"0123456789abcdef");
        let key = HmacKey::new(&secret);
        let message: Vec<u8> = (0..300).map(|i| i as u8).collect();
        for len in 0..message.len() {
            let message = &message[..len];
            let cut = len / 3;
            assert_eq!(key.mac(&[message]), reference_mac(&secret, message));
            assert_eq!(
                key.mac(&[&message[..cut], &[], &message[cut..]]),
                reference_mac(&secret, message)
            );
        }
    }
}
