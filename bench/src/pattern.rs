//! The payload of every bulk transfer: one block of bytes that look random, made once, with the
//! checksums of its pieces known beforehand, so that generating load costs a copy and no more.
//!
//! Used by the fake DC for downloads and by the client for uploads. Encryption is not here.

use std::sync::LazyLock;

/// Bytes of one piece, the body of one answer frame of a download.
pub const PIECE_BYTES: usize = 32 * 1024;
/// Different pieces; transfers walk through them in turn.
pub const PIECES: usize = 4;

/// The precomputed block: [`PIECES`] pieces of [`PIECE_BYTES`] each.
#[derive(Debug)]
pub struct Pattern {
    bytes: Vec<u8>,
    crcs: [u32; PIECES],
}

impl Pattern {
    /// The first `bytes` of piece `n` (any number; counted modulo [`PIECES`]).
    pub fn piece(&self, n: usize, bytes: usize) -> &[u8] {
        let start = (n % PIECES) * PIECE_BYTES;
        &self.bytes[start..start + bytes.min(PIECE_BYTES)]
    }

    /// CRC-32 of the first `bytes` of piece `n`; free for whole pieces.
    pub fn crc(&self, n: usize, bytes: usize) -> u32 {
        if bytes == PIECE_BYTES {
            self.crcs[n % PIECES]
        } else {
            crc32fast::hash(self.piece(n, bytes))
        }
    }

    /// CRC-32 of a body of `bytes` that begins with piece `first` and walks on from there.
    pub fn crc_of_body(&self, first: usize, bytes: usize) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        let (mut n, mut left) = (first, bytes);
        while left > 0 {
            let piece = self.piece(n, left);
            crc.update(piece);
            left -= piece.len();
            n += 1;
        }
        crc.finalize()
    }
}

/// The pattern of this process.
pub fn pattern() -> &'static Pattern {
    static PATTERN: LazyLock<Pattern> = LazyLock::new(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = Vec::with_capacity(PIECES * PIECE_BYTES);
        while bytes.len() < PIECES * PIECE_BYTES {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        let mut crcs = [0; PIECES];
        for (crc, piece) in crcs.iter_mut().zip(bytes.chunks_exact(PIECE_BYTES)) {
            *crc = crc32fast::hash(piece);
        }
        Pattern { bytes, crcs }
    });
    &PATTERN
}

/// Adds one piece's checksum to the checksum of a whole stream; order and number of pieces count.
pub fn fold(digest: u64, crc: u32) -> u64 {
    (digest.rotate_left(9) ^ u64::from(crc)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums_are_those_of_the_bytes() {
        let p = pattern();
        for n in 0..PIECES + 1 {
            assert_eq!(
                p.crc(n, PIECE_BYTES),
                crc32fast::hash(p.piece(n, PIECE_BYTES))
            );
            assert_eq!(p.crc(n, 100), crc32fast::hash(p.piece(n, 100)));
        }
        let mut two = p.piece(3, PIECE_BYTES).to_vec();
        two.extend_from_slice(p.piece(4, 8));
        assert_eq!(p.crc_of_body(3, PIECE_BYTES + 8), crc32fast::hash(&two));
    }

    #[test]
    fn order_of_pieces_changes_the_digest() {
        assert_ne!(fold(fold(0, 1), 2), fold(fold(0, 2), 1));
        assert_ne!(fold(0, 0x5555), 0);
    }
}
