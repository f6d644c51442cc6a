//! AES-256-CTR as a stream, SHA-256, HMAC-SHA256 from midstates, constant-time comparison.
//!
//! Sits on the RustCrypto crates, which pick the CPU's AES and SHA instructions at run time. No
//! key derivation lives here: `obfuscated2` and `faketls` know what is hashed with what.

mod copy;
mod hmac;
mod pair;
mod stream;

use sha2::{Digest, block_api::compress256};
use subtle::ConstantTimeEq;

pub(crate) use self::stream::keystream_block;
pub use self::{hmac::HmacKey, stream::CtrStream};

/// SHA-256 of all parts joined.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// SHA-256 of 32 and 16 bytes joined: exactly one compression, because 48 bytes and their padding
/// fit one block.
pub(crate) fn sha256_of_48(head: &[u8; 32], tail: &[u8; 16]) -> [u8; 32] {
    let mut block = [0; SHA_BLOCK_BYTES];
    block[..32].copy_from_slice(head);
    block[32..48].copy_from_slice(tail);
    block[48] = 0x80;
    block[56..].copy_from_slice(&(48 * 8_u64).to_be_bytes());
    let mut state = SHA_INITIAL;
    compress256(&mut state, &[block]);
    digest_bytes(&state)
}

/// Equal, in time that depends on the lengths only.
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn digest_bytes(state: &[u32; 8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (bytes, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    out
}

const SHA_BLOCK_BYTES: usize = 64;

/// SHA-256's initial state (FIPS 180-4, 5.3.3); the hash crate keeps its copy private.
const SHA_INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_compression_equals_sha256() {
        let (head, tail) = ([3; 32], [4; 16]);
        assert_eq!(sha256_of_48(&head, &tail), sha256(&[&head, &tail]));
    }

    #[test]
    fn compares_lengths_and_bytes() {
        assert!(ct_eq(&[1, 2], &[1, 2]));
        assert!(!ct_eq(&[1, 2], &[1, 3]));
        assert!(!ct_eq(&[1, 2], &[1]));
    }

    #[test]
    fn debug_shows_no_key() {
        let text = format!(
            "{:?}{:?}",
            CtrStream::new(&[7; 32], &[0; 16]),
            HmacKey::new(&super::super::secret::Secret([1; 16]))
        );
        assert_eq!(text, "CtrStream(..)HmacKey(..)");
    }
}
