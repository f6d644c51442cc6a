//! A DC leg that leads through a Shadowsocks server: sealed on its way there, opened on its way
//! back.
//!
//! Only sessions on such a route come here; what others pay is one look at an empty option. Bytes
//! are sealed and opened where they lie: uplink, lengths and tags leave from a block of their own,
//! laid between them; downlink, a chunk that came in several pieces leaves in one. Few uplink bytes
//! are put together with theirs, since that is cheaper than a send of many parts.
//!
//! A server that is connected has not shown that it knows our key, so the verdict on the connect
//! waits for the DC's first byte (`policy/upstream/trial`).
//!
//! Source: protocol.md 9.4.

use std::net::SocketAddr;

use rand::RngExt as _;

use super::{Relay, both};
use crate::{
    engine::{Block, Blocks, Buf, Framed, SocketId},
    net::{client::State, shard::Shard},
    policy::{
        Millis,
        record_sizes::RecordSizes,
        upstream::{Dial, Doubt, Trial},
    },
    proto::{
        faketls::record,
        obfuscated2::HEADER_BYTES,
        shadowsocks::{Entropy, LENGTH_BYTES, Leg, OpenError, TAG_BYTES},
        socks::Target,
    },
    settings::{RouteKind, UpstreamSettings},
};

/// What a route's server puts around the bytes of a DC.
pub(super) struct Tunnel {
    leg: Leg,
    /// Set until the DC's first byte has come.
    trial: Option<Box<Trial>>,
}

/// Uplink bytes on their way out.
pub(super) enum Up {
    /// As they came: there is no server.
    Plain(Buf),
    /// Sealed, with all that belongs to it.
    Together(Block),
    /// Sealed where they lie, with what goes around.
    Around(Framed),
}

/// Payload that was opened.
pub(super) struct Opened {
    /// A chunk that began earlier, as it leaves; before what is in the buffer.
    pub(super) first: Option<Block>,
    /// Its payload.
    pub(super) first_bytes: usize,
}

impl Relay {
    /// The first hop is a Shadowsocks server through which nothing of the DC has come yet: an end
    /// now means that it reached no DC, or knows another key.
    pub(super) fn is_unanswered(&self) -> bool {
        self.trial().is_some()
    }

    /// When the DC should have answered, if that is still to be judged.
    pub(super) fn answer_due(&self, settings: &UpstreamSettings) -> Option<Millis> {
        // Nobody waits for it.
        let trial = self.trial().filter(|_| !self.client_ended)?;
        trial.due(settings)
    }

    fn trial(&self) -> Option<&Trial> {
        self.tunnel.as_ref()?.trial.as_deref()
    }

    /// The dial that the DC's first byte decides; once.
    pub(super) fn take_trial(&mut self) -> Option<Box<Trial>> {
        self.tunnel.as_mut()?.trial.take()
    }

    /// Seals uplink bytes, if there is a server to seal them for. A few are put together in a
    /// block; many are sealed where they lie.
    pub(super) fn seal_up(&mut self, mut buf: Buf, blocks: &Blocks, now: Millis) -> Up {
        let Some(tunnel) = self.tunnel.as_mut() else {
            return Up::Plain(buf);
        };
        if let Some(trial) = &mut tunnel.trial {
            trial.asks(now);
        }
        let sealer = &mut tunnel.leg.up;
        if buf.len() <= TOGETHER_BYTES_MAX {
            let bytes = sealer.sealed_bytes(buf.len());
            let mut block = blocks.take(bytes);
            block.extend_with(bytes, |place| sealer.seal_into(buf.bytes(), place));
            return Up::Together(block);
        }
        let bytes = sealer.frame_bytes(buf.len());
        let mut frames = blocks.take(bytes);
        frames.extend_with(bytes, |place| sealer.seal_in_place(buf.bytes_mut(), place));
        Up::Around(Framed {
            buf,
            frames,
            piece_bytes: sealer.chunk_bytes_max(),
            head_bytes: LENGTH_BYTES,
            tail_bytes: TAG_BYTES,
        })
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
    /// The first bytes towards a DC leave, as they are or as a request to the route's server, and
    /// the dial is judged as soon as that is possible.
    pub(in crate::net) fn begin_leg(
        &mut self,
        relay: &mut Relay,
        socket: SocketId,
        dial: Dial,
        pending: Vec<u8>,
    ) {
        let way = dial.route().zip(dial.addr());
        let leg = way.and_then(|(route, dc)| self.seal_first(route, dc, &pending));
        let Some((leg, request)) = leg else {
            self.engine.send_bytes(socket, pending.into_boxed_slice());
            self.upstream.reached(&dial, self.now);
            return dial.count(true, self.now, &mut self.upstream_counters);
        };
        self.engine.send_bytes(socket, request);
        let asks = pending.len() > HEADER_BYTES;
        let trial = Some(Box::new(Trial::new(dial, asks, self.now)));
        relay.tunnel = Some(Box::new(Tunnel { leg, trial }));
    }

    /// The first bytes for a DC as a route's server is to get them; `None` where it is no
    /// Shadowsocks server.
    pub(in crate::net) fn seal_first(
        &mut self,
        route: u16,
        dc: SocketAddr,
        first: &[u8],
    ) -> Option<(Leg, Box<[u8]>)> {
        let route = self.settings.upstream.routes.get(usize::from(route))?;
        let RouteKind::Shadowsocks { key, .. } = &route.kind else {
            return None;
        };
        let rng = &mut self.rng;
        let entropy = Entropy {
            unix_secs: self.now_unix,
            random: &mut |out: &mut [u8]| rng.fill(out),
        };
        let mut request = Vec::with_capacity(first.len() + REQUEST_EXTRA_BYTES);
        let leg = Leg::start(key, Target::Addr(dc), first, entropy, &mut request);
        Some((leg, request.into_boxed_slice()))
    }

    /// When the DC of a relay should have answered, if that is still to be judged.
    pub(in crate::net) fn answer_due(&self, key: u32) -> Option<Millis> {
        match &self.sessions.get(key as usize)?.state {
            State::Relay(relay) => relay.answer_due(&self.settings.upstream),
            _ => None,
        }
    }

    /// Nothing of the DC has come, and nothing will or it is late.
    pub(super) fn leg_doubted(&mut self, key: u32, doubt: Doubt) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Relay(relay) = &mut session.state else {
            return;
        };
        // Behind the client's own end it means nothing.
        if relay.client_ended && doubt != Doubt::Unreadable {
            return;
        }
        let Some(trial) = relay.tunnel.as_mut().and_then(|own| own.trial.as_mut()) else {
            return;
        };
        let (settings, counters) = (&self.settings.upstream, &mut self.upstream_counters);
        let route = self.upstream.doubted(trial, doubt, settings, now, counters);
        if let Some(route) = route {
            tracing::debug!(route, ?doubt, "nothing of the DC came through the server");
            self.connect_failed(route);
        }
    }
}

/// Salt, headers, target and tags of a request with its first few chunks.
const REQUEST_EXTRA_BYTES: usize = 320;
/// Uplink bytes that are copied rather than sent in parts.
const TOGETHER_BYTES_MAX: usize = 4096;
