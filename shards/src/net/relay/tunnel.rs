//! A DC leg that leads through a Shadowsocks server: sealed on its way there, opened on its way
//! back.
//!
//! Only sessions on such a route come here; what others pay is one look at an empty option. Uplink
//! bytes are sealed into a block, since salt, lengths and tags stand between them. Downlink bytes
//! are opened where they lie; a chunk that came in several pieces leaves in a block of its own.
//!
//! Source: protocol.md 9.4.

use std::net::SocketAddr;

use rand::RngExt as _;

use super::{Relay, both};
use crate::{
    engine::{Block, Blocks, Buf, SocketId},
    net::shard::Shard,
    policy::record_sizes::RecordSizes,
    proto::{
        faketls::record,
        shadowsocks::{Entropy, Leg, OpenError},
        socks::Target,
    },
    settings::RouteKind,
};

/// What a route's server puts around the bytes of a DC.
pub(super) struct Tunnel {
    leg: Leg,
    /// Something has come from the server.
    answered: bool,
}

/// Payload that was opened.
pub(super) struct Opened {
    /// A chunk that began earlier, as it leaves; before what is in the buffer.
    pub(super) first: Option<Block>,
    /// Its payload.
    pub(super) first_bytes: usize,
}

impl Relay {
    /// The first hop is a Shadowsocks server that has not told anything yet: an end now means that
    /// it reached no DC, or knows another key.
    pub(super) fn is_unanswered(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| !tunnel.answered)
    }

    /// Seals uplink bytes; `None` where there is nothing to seal them for.
    pub(super) fn seal_up(&mut self, buf: &Buf, blocks: &Blocks) -> Option<Block> {
        let sealer = &mut self.tunnel.as_mut()?.leg.up;
        let bytes = sealer.sealed_bytes(buf.len());
        let mut block = blocks.take(bytes);
        block.extend_with(bytes, |place| sealer.seal_into(buf.bytes(), place));
        Some(block)
    }

    /// Opens downlink bytes: what is left in `buf` is payload, not decrypted for the client yet.
    ///
    /// # Errors
    /// The server knows another key, or somebody changed bytes.
    pub(super) fn open_down(
        &mut self,
        buf: &mut Buf,
        unix_secs: u64,
        blocks: &Blocks,
    ) -> Result<Opened, OpenError> {
        let mut opened = Opened {
            first: None,
            first_bytes: 0,
        };
        let Some(tunnel) = &mut self.tunnel else {
            return Ok(opened);
        };
        tunnel.answered = true;
        let ciphers = &mut self.ciphers_down;
        let sizes = &mut self.sizes;
        let mut framed = self.records.map(|_| sizes);
        let front = tunnel
            .leg
            .down
            .open(buf.bytes_mut(), unix_secs, |payload| {
                if let Some(down) = ciphers {
                    both(&mut down.0, &mut down.1, payload);
                }
                opened.first_bytes = payload.len();
                opened.first = Some(laid_out(payload, framed.as_deref_mut(), blocks));
            })?;
        buf.truncate(front);
        Ok(opened)
    }
}

/// A copy as the client gets it.
fn laid_out(payload: &[u8], framed: Option<&mut RecordSizes>, blocks: &Blocks) -> Block {
    let Some(sizes) = framed else {
        let mut block = blocks.take(payload.len());
        block.extend_from_slice(payload);
        return block;
    };
    let records = payload.len() / sizes.least() + 1;
    let mut block = blocks.take(payload.len() + records * record::HEADER);
    let mut rest = payload;
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(sizes.next().min(rest.len()));
        block.extend_from_slice(&record::header(piece.len()));
        block.extend_from_slice(piece);
        rest = later;
    }
    block
}

impl Shard {
    /// The first bytes towards a DC leave: as they are, or as a request to the route's server.
    pub(in crate::net) fn send_first(
        &mut self,
        relay: &mut Relay,
        (socket, route): (SocketId, Option<u16>),
        dc: Option<SocketAddr>,
        pending: Vec<u8>,
    ) {
        let routes = &self.settings.upstream.routes;
        let route = route.and_then(|route| routes.get(usize::from(route)));
        let Some(RouteKind::Shadowsocks { key, .. }) = route.map(|route| &route.kind) else {
            return self.engine.send_bytes(socket, pending.into_boxed_slice());
        };
        let Some(dc) = dc else {
            debug_assert!(false, "a dial has a target");
            return;
        };
        let rng = &mut self.rng;
        let entropy = Entropy {
            unix_secs: self.now_unix,
            random: &mut |out: &mut [u8]| rng.fill(out),
        };
        let mut request = Vec::with_capacity(pending.len() + REQUEST_EXTRA_BYTES);
        let leg = Leg::start(key, Target::Addr(dc), &pending, entropy, &mut request);
        relay.tunnel = Some(Box::new(Tunnel {
            leg,
            answered: false,
        }));
        self.engine.send_bytes(socket, request.into_boxed_slice());
    }
}

/// Salt, headers, target and tags of a request with its first few chunks.
const REQUEST_EXTRA_BYTES: usize = 320;
