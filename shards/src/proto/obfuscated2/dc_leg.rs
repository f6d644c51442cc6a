//! The header the proxy writes to a DC, in normal and in fast mode (protocol.md 4).

use super::{
    super::crypto::CtrStream, HEADER_BYTES, Opening, Parts, Reversed, stream_behind_header,
};

/// A header for a DC and the ciphers that go with it.
#[derive(Clone)]
pub struct DcHeader {
    /// The 64 bytes to send first, in one write with the first data.
    pub wire: [u8; HEADER_BYTES],
    /// Proxy to DC, at keystream byte 64.
    pub p2d: CtrStream,
    /// DC to proxy, at keystream byte 0. In fast mode it equals the client's p2c stream and is not
    /// needed: the bytes pass as they are.
    pub d2p: CtrStream,
}

impl std::fmt::Debug for DcHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DcHeader(..)")
    }
}

/// Writes the header to a DC. Tag and DC id are the client's, the id with its sign.
///
/// `random` fills a buffer with random bytes; it is asked again while they may not be written.
/// `fast` holds the client's p2c key (hashed) and IV: the DC then encrypts the downlink with them
/// and the proxy need not touch it.
///
/// Source: protocol.md 4.1, 4.2.
pub fn dc_header(
    random: &mut dyn FnMut(&mut [u8]),
    opening: &Opening,
    fast: Option<(&[u8; 32], &[u8; 16])>,
) -> DcHeader {
    let mut plain = draw(random);
    if let Some((key, iv)) = fast {
        plain[24..56].copy_from_slice(key);
        plain[8..24].copy_from_slice(iv);
        plain[8..24].reverse();
        plain[24..56].reverse();
    }
    let parts = Parts::of(&plain);
    let p2d = stream_behind_header(parts.key, parts.iv);
    let reversed = Reversed::of(&plain);
    let d2p = CtrStream::new(&reversed.key, &reversed.iv);
    let key = *parts.key;
    DcHeader {
        wire: seal(plain, opening, &key),
        p2d,
        d2p,
    }
}

/// Puts tag and DC id into random bytes and encrypts the last eight with the uplink key.
pub(super) fn seal(
    mut plain: [u8; HEADER_BYTES],
    opening: &Opening,
    key: &[u8; 32],
) -> [u8; HEADER_BYTES] {
    plain[56..60].copy_from_slice(&opening.framing.tag());
    plain[60..62].copy_from_slice(&opening.dc.0.to_le_bytes());
    // XOR is its own inverse.
    let tail = Parts::of(&plain).decrypt_tail(key);
    plain[56..].copy_from_slice(&tail);
    plain
}

/// 64 random bytes that may be written.
pub(super) fn draw(random: &mut dyn FnMut(&mut [u8])) -> [u8; HEADER_BYTES] {
    let mut plain = [0; HEADER_BYTES];
    for _ in 0..DRAWS_MAX {
        random(&mut plain);
        if may_write(&plain) {
            return plain;
        }
    }
    // One draw fails with probability 2⁻⁸; only a broken source comes here, and it must not hang
    // the shard.
    plain[0] = 1;
    plain[4] |= 1;
    plain
}

/// Whether a header may begin so: it must not look like HTTP, TLS or another transport.
///
/// For writers only; genuine headers inside FakeTLS break these rules.
///
/// Source: protocol.md 3.2.
pub fn may_write(header: &[u8; HEADER_BYTES]) -> bool {
    let [a, b, c, d, rest @ ..] = header;
    *a != 0xef && !FORBIDDEN.contains(&[*a, *b, *c, *d]) && rest.first_chunk() != Some(&[0; 4])
}

const FORBIDDEN: [[u8; 4]; 7] = [
    *b"HEAD",
    *b"POST",
    *b"GET ",
    *b"OPTI",
    [0xee; 4],
    [0xdd; 4],
    [0x16, 0x03, 0x01, 0x02],
];
const DRAWS_MAX: usize = 16;
