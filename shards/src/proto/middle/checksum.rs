//! The two checksums a frame may end with, at once and running.
//!
//! Which one counts is agreed in the handshake; see [`super::handshake`].

use crc_fast::{CrcAlgorithm, Digest, checksum};

/// What a frame's last four bytes are.
///
/// Source: middle-proxy.md 3, "Checksums".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// Reflected 0xEDB88320; every connection begins with it.
    Crc32,
    /// Reflected 0x82F63B78; both sides announced it in their HANDSHAKE.
    Crc32c,
}

impl Checksum {
    /// The checksum of `bytes`.
    pub fn of(self, bytes: &[u8]) -> u32 {
        low_half(checksum(self.algorithm(), bytes))
    }

    fn algorithm(self) -> CrcAlgorithm {
        match self {
            Self::Crc32 => CrcAlgorithm::Crc32IsoHdlc,
            Self::Crc32c => CrcAlgorithm::Crc32Iscsi,
        }
    }
}

/// A checksum over bytes that arrive in pieces.
#[derive(Clone)]
pub(super) struct Running {
    kind: Checksum,
    digest: Digest,
}

impl Running {
    pub(super) fn new(kind: Checksum) -> Self {
        Self {
            kind,
            digest: Digest::new(kind.algorithm()),
        }
    }

    pub(super) fn kind(&self) -> Checksum {
        self.kind
    }

    pub(super) fn update(&mut self, piece: &[u8]) {
        self.digest.update(piece);
    }

    /// The checksum of all pieces since the last call.
    pub(super) fn finish(&mut self) -> u32 {
        let sum = self.digest.finalize();
        self.digest.reset();
        low_half(sum)
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({:?})", self.kind)
    }
}

/// The library returns every width as u64; for a CRC of 32 bits the upper half is zero.
fn low_half(sum: u64) -> u32 {
    debug_assert!(sum <= u64::from(u32::MAX));
    (sum & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_check_values() {
        for (kind, want) in [
            (Checksum::Crc32, 0xcbf4_3926),
            (Checksum::Crc32c, 0xe306_9283),
        ] {
            assert_eq!(kind.of(b"123456789"), want);
            let mut running = Running::new(kind);
            for _ in 0..2 {
                running.update(b"1234");
                running.update(b"");
                running.update(b"56789");
                assert_eq!(running.finish(), want, "starts over");
            }
        }
    }
}
