//! A stranger and the mask host: bytes both ways, untouched.
//!
//! Each receive buffer is sent on as it is. Ends and resets of either side are passed on behind
//! the bytes before them; the other direction stays as it was. How it came to a splice is in
//! `mask.rs`, its limits are `policy/mask`'s. Source: protocol.md 7.1, 7.6.

use std::time::Duration;

use super::{
    client::{Session, Side, State},
    shard::Shard,
};
use crate::{
    engine::{Buf, SocketId},
    policy::{Millis, mask::Limits},
};

/// A stranger and the mask host. Arrays hold the stranger's side first.
pub(super) struct Splice {
    host: SocketId,
    limits: Limits,
    /// Nothing more comes from this side.
    ended: [bool; 2],
    /// This side was sent its end.
    told: [bool; 2],
    /// This side's bytes find no room on the other side.
    stalled: [bool; 2],
    /// One side broke off, and the other is reset once it has what came before.
    broken: bool,
    /// It ends whatever happens: its deadline is not moved any more.
    over: bool,
}

/// Unsent bytes of one side before the other is no longer read: a stranger who does not read is
/// worth less than a client (`shards.queue_bytes_max`).
const QUEUE_BYTES: usize = 32 * 1024;

const CLIENT: usize = 0;
const HOST: usize = 1;

/// The place of a side in arrays.
fn place(side: Side) -> usize {
    if side == Side::Client { CLIENT } else { HOST }
}

impl Splice {
    /// Around a mask host that is connected.
    pub(super) fn new(host: SocketId, limits: Limits) -> Self {
        Self {
            host,
            limits,
            ended: [false; 2],
            told: [false; 2],
            stalled: [false; 2],
            broken: false,
            over: false,
        }
    }

    /// One side broke off.
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// When it is over if nothing moves; `None`: its deadline is set already.
    pub(super) fn deadline(&self, idle: Duration) -> Option<Millis> {
        (!self.over).then(|| self.limits.deadline(idle))
    }
}

impl Shard {
    fn splice_mut(&mut self, key: u32) -> Option<(SocketId, &mut Splice)> {
        let session = self.sessions.get_mut(key as usize)?;
        match &mut session.state {
            State::Splice(splice) => Some((session.client, splice)),
            _ => None,
        }
    }

    /// Bytes of one side go to the other in the buffer they came in.
    pub(super) fn splice_bytes(&mut self, key: u32, from: Side, mut buf: Buf) {
        let Some(Session {
            client,
            state: State::Splice(splice),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        let side = place(from);
        if splice.ended[side] || splice.broken {
            return;
        }
        let (source, sink) = match from {
            Side::Client => (*client, splice.host),
            _ => (splice.host, *client),
        };
        let fits = splice.limits.take(side == CLIENT, buf.len(), self.now);
        let over = fits < buf.len();
        buf.truncate(fits);
        if fits > 0 {
            self.engine.send(sink, buf);
            let most = self.settings.plane.buffers.queue_bytes_max;
            if self.engine.queued(sink) > most.min(QUEUE_BYTES) {
                splice.stalled[side] = true;
                self.engine.pause(source);
                self.engine.notify_writable(sink);
                self.totals.core.backpressure_total += 1;
            }
        }
        if over {
            self.splice_over(key);
        }
    }

    /// A side takes bytes again.
    pub(super) fn splice_writable(&mut self, key: u32, side: Side) {
        let Some((client, splice)) = self.splice_mut(key) else {
            return;
        };
        let (source, socket) = match side {
            Side::Client => (HOST, splice.host),
            _ => (CLIENT, client),
        };
        let resumes = std::mem::take(&mut splice.stalled[source]);
        if resumes && !splice.ended[source] && !splice.broken {
            self.engine.resume(socket);
        }
    }

    /// A side will send no more: the other is told behind all that came before.
    pub(super) fn splice_ended(&mut self, key: u32, side: Side) {
        let now = self.now;
        let Some((client, splice)) = self.splice_mut(key) else {
            return;
        };
        let (own, other) = (place(side), 1 - place(side));
        if splice.ended[own] || splice.broken {
            return;
        }
        splice.ended[own] = true;
        splice.limits.moved(now);
        let sockets = [client, splice.host];
        if self.engine.finish(sockets[other]) {
            self.splice_told(key, other);
        }
        self.engine.watch_reset(sockets[own]);
    }

    /// All that was queued for a side is sent, and the end behind it.
    pub(super) fn splice_finished(&mut self, key: u32, side: Side) {
        self.splice_told(key, place(side));
    }

    fn splice_told(&mut self, key: u32, side: usize) {
        let Some((client, splice)) = self.splice_mut(key) else {
            return;
        };
        splice.told[side] = true;
        if splice.broken {
            let socket = [client, splice.host][side];
            self.engine.reset(socket);
            return self.remove(key);
        }
        if splice.ended == [true; 2] && splice.told == [true; 2] {
            self.remove(key);
        }
    }

    /// A side broke off: the other is broken off too, once it has what came before.
    pub(super) fn splice_broke(&mut self, key: u32, side: Side) {
        let Some((client, splice)) = self.splice_mut(key) else {
            return;
        };
        let (own, other) = (place(side), 1 - place(side));
        let sockets = [client, splice.host];
        let again = std::mem::replace(&mut splice.broken, true);
        splice.over = true;
        if again || self.engine.flush(sockets[other]) {
            self.engine.reset(sockets[other]);
            return self.remove(key);
        }
        self.engine.pause(sockets[own]);
        self.engine.pause(sockets[other]);
        let limit = self.now.after(self.settings.timeouts.half_close);
        self.set_deadline(key, limit);
    }

    /// As many bytes as one stranger gets: both sides are told the end behind what is queued.
    pub(super) fn splice_over(&mut self, key: u32) {
        let limit = self.now.after(self.settings.timeouts.half_close);
        let Some((client, splice)) = self.splice_mut(key) else {
            return;
        };
        let sockets = [client, splice.host];
        splice.ended = [true; 2];
        splice.over = true;
        self.set_deadline(key, limit);
        for (side, socket) in sockets.into_iter().enumerate() {
            self.engine.pause(socket);
            if self.engine.finish(socket) {
                self.splice_told(key, side);
            }
        }
    }

    /// Closes what a splice holds besides the client's socket.
    pub(super) fn splice_gone(&mut self, splice: &Splice) {
        if splice.broken {
            self.engine.reset(splice.host);
        }
        self.engine.close(splice.host);
        self.strangers.give_back();
        self.totals.core.masks_current -= 1;
    }
}
