//! The two far ends: what a client writes and what a DC reads. For the bench and the tests.

use super::{
    super::{crypto::CtrStream, dc::DcId, framing::Framing, secret::Secret},
    HEADER_BYTES, Opening, Parts, Reversed,
    dc_leg::{draw, seal},
    parse_tail, sha256_of_48, stream_behind_header,
};

/// A client's own header and ciphers.
#[derive(Clone)]
pub struct ClientSide {
    /// The 64 bytes to send first.
    pub wire: [u8; HEADER_BYTES],
    /// Client to proxy, at keystream byte 64.
    pub c2p: CtrStream,
    /// Proxy to client, at keystream byte 0.
    pub p2c: CtrStream,
}

/// Opens a connection as a client would.
///
/// Source: protocol.md 3.1 to 3.4.
pub fn client_side(
    random: &mut dyn FnMut(&mut [u8]),
    secret: &Secret,
    framing: Framing,
    dc: DcId,
) -> ClientSide {
    let plain = draw(random);
    let parts = Parts::of(&plain);
    let reversed = Reversed::of(&plain);
    let key = sha256_of_48(parts.key, &secret.0);
    ClientSide {
        wire: seal(plain, &Opening { framing, dc }, &key),
        c2p: stream_behind_header(&key, parts.iv),
        p2c: CtrStream::new(&sha256_of_48(&reversed.key, &secret.0), &reversed.iv),
    }
}

/// What a DC reads from a header.
#[derive(Clone)]
pub struct DcSide {
    /// How everything behind the header is framed.
    pub framing: Framing,
    /// Which DC was asked for.
    pub dc: DcId,
    /// Proxy to DC, at keystream byte 64.
    pub p2d: CtrStream,
    /// DC to proxy, at keystream byte 0.
    pub d2p: CtrStream,
}

/// Accepts a header as a DC would: no secret enters. `None` if the tag is none.
///
/// Source: protocol.md 4.1.
pub fn dc_side(header: &[u8; HEADER_BYTES]) -> Option<DcSide> {
    let parts = Parts::of(header);
    let Opening { framing, dc } = parse_tail(parts.decrypt_tail(parts.key))?;
    let reversed = Reversed::of(header);
    Some(DcSide {
        framing,
        dc,
        p2d: stream_behind_header(parts.key, parts.iv),
        d2p: CtrStream::new(&reversed.key, &reversed.iv),
    })
}
