//! Writers: encrypts and sends what waits, all of them at once; hears of room, ends and losses.
//!
//! Encryption is serial within one connection, so the runs of all writers that have something to
//! say are encrypted in lockstep. Only so much is encrypted ahead of the socket; the rest waits in
//! plain text, where pings can still go ahead of it.
//!
//! Source: middle-proxy.md 6, 8.5 and 20.

use super::{
    Me,
    link::{Link, Writer},
    session::Stop,
};
use crate::{
    control::ShardSnapshot,
    counters::{MeCounters, PoolCounters},
    engine::{Block, Buf, Engine, Shrunk},
    net::shard::Shard,
    policy::{Millis, me::pool::Loss},
    proto::middle::cipher::{CbcEncryptor, Run, encrypt_lockstep},
    settings::MeCounts,
};

/// A block and the cipher it goes through.
pub(super) struct Lane {
    link: u32,
    cipher: Box<CbcEncryptor>,
    block: Block,
}

impl Shard {
    /// Encrypts and sends what writers have to send, as far as their sockets take it.
    pub(super) fn me_flush_writers(&mut self) {
        let ahead_max = self.settings.plane.buffers.queue_bytes_max;
        let more = self.engine.has_more();
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        if me.dirty.is_empty() {
            return;
        }
        if more && me.gathers() {
            return self.engine.hurry();
        }
        let mut dirty = std::mem::take(&mut me.dirty);
        while me.next_lanes(&dirty, &self.engine, ahead_max) {
            encrypt(&mut me.lanes);
            for lane in me.lanes.drain(..) {
                if let Some(Link::Open(writer)) = me.links.get_mut(lane.link as usize) {
                    writer.encryptor = Some(lane.cipher);
                    self.engine.send_block(writer.socket, lane.block);
                }
            }
        }
        for key in dirty.drain(..) {
            self.me_flushed(key);
        }
        if let Some(me) = &mut self.me {
            // Whoever was woken may have made some dirty again.
            dirty.append(&mut me.dirty);
            me.dirty = dirty;
        }
    }

    /// A writer was flushed as far as it goes.
    fn me_flushed(&mut self, key: u32) {
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let Some(Link::Open(writer)) = me.links.get_mut(key as usize) else {
            return;
        };
        writer.dirty = false;
        if !writer.queue.is_empty() {
            self.engine.notify_writable(writer.socket);
        } else if writer.closing {
            let socket = writer.socket;
            if self.engine.finish(socket) {
                return self.me_close_link(key);
            }
        }
        self.me_tell_room(key);
        self.me_wake(key);
    }

    /// Tells the pool how full a writer is, if that has changed.
    fn me_tell_room(&mut self, key: u32) {
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let uplink = &me.pool.plan().settings.uplink;
        let (frames_max, bytes_max) = (uplink.writer_frames_max, uplink.writer_bytes_max);
        let Some(Link::Open(writer)) = me.links.get_mut(key as usize) else {
            return;
        };
        let bytes = writer.queue.bytes() + self.engine.queued(writer.socket);
        let pct = |used: usize, max: usize| (used.saturating_mul(100) / max.max(1)).min(100) as u8;
        let used = pct(bytes, bytes_max).max(pct(writer.queue.frames(), frames_max));
        let (told, told_room) = writer.told;
        let has_room = used < 100;
        if has_room != told_room || used.abs_diff(told) >= TOLD_STEP_PCT {
            writer.told = (used, has_room);
            me.pool.set_queue(writer.key, used, has_room);
        }
    }

    /// Lets sessions go on that waited for room.
    fn me_wake(&mut self, key: u32) {
        let Some(waiting) = self.me_writer(key).map(|writer| writer.waiting.len()) else {
            return;
        };
        for _ in 0..waiting {
            let Some(session) = self
                .me_writer(key)
                .and_then(|writer| writer.waiting.pop_front())
            else {
                return;
            };
            if !self.me_may_go_on(key, session) {
                continue;
            }
            self.middle_go_on(session);
        }
    }

    /// Whether a session that waited for this writer may go on; if it must wait on, it does.
    fn me_may_go_on(&mut self, key: u32, session: u32) -> bool {
        let Some(middle) = self.middle(session) else {
            return false;
        };
        let Some(bound) = middle.bound.filter(|bound| bound.link == key) else {
            return false;
        };
        if middle.up.stop != Stop::Full {
            return false;
        }
        let Some(me) = self.me.as_deref_mut() else {
            return false;
        };
        let uplink = &me.pool.plan().settings.uplink;
        let (frames_max, bytes_max) = (uplink.writer_frames_max, uplink.writer_bytes_max);
        let Some(Link::Open(writer)) = me.links.get_mut(key as usize) else {
            return false;
        };
        let queue = &writer.queue;
        // Half, or a writer that is full would wake somebody for every message it sends.
        let room = queue.frames() <= frames_max / 2 && queue.bytes() <= bytes_max / 2;
        let own = bound.messages == 0 || bound.sent_to <= queue.sealed_to();
        if !(room && own) {
            writer.waiting.push_back(session);
        }
        room && own
    }

    pub(super) fn me_writer(&mut self, key: u32) -> Option<&mut Writer> {
        match self.me.as_mut()?.links.get_mut(key as usize)? {
            Link::Open(writer) => Some(writer),
            Link::Dial(_) => None,
        }
    }

    /// Bytes of an ME.
    pub(in crate::net) fn me_bytes(&mut self, key: u32, mut buf: Buf) {
        match self.me.as_ref().and_then(|me| me.links.get(key as usize)) {
            Some(Link::Dial(_)) => self.me_opening_bytes(key, buf),
            Some(Link::Open(_)) => self.me_cipher_text(key, buf.bytes_mut()),
            None => {}
        }
    }

    /// A writer's socket takes bytes again.
    pub(in crate::net) fn me_writable(&mut self, key: u32) {
        self.me_mark_dirty(key);
    }

    /// Everything is sent to an ME, and our end after it.
    pub(in crate::net) fn me_finished(&mut self, key: u32) {
        self.me_close_link(key);
    }

    /// An ME will send no more.
    pub(in crate::net) fn me_ended(&mut self, key: u32) {
        match self.me.as_ref().and_then(|me| me.links.get(key as usize)) {
            Some(Link::Dial(_)) => self.me_closed_early(key),
            Some(Link::Open(_)) => self.me_lost(key, Loss::Eof),
            None => {}
        }
    }

    /// The connection to an ME broke.
    pub(in crate::net) fn me_broke(&mut self, key: u32) {
        match self.me.as_ref().and_then(|me| me.links.get(key as usize)) {
            Some(Link::Dial(_)) => self.me_closed_early(key),
            Some(Link::Open(_)) => self.me_lost(key, Loss::Reset),
            None => {}
        }
    }

    /// Has something to send: it goes out at the end of the turn.
    pub(super) fn me_mark_dirty(&mut self, key: u32) {
        if let Some(me) = self.me.as_deref_mut()
            && let Some(Link::Open(writer)) = me.links.get_mut(key as usize)
            && !writer.dirty
        {
            writer.dirty = true;
            me.dirty.push(key);
        }
    }

    /// Closes a link and forgets it. Its sessions were unbound before.
    pub(super) fn me_close_link(&mut self, key: u32) {
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let Some(link) = me.links.try_remove(key as usize) else {
            return;
        };
        if let Link::Open(writer) = &link {
            me.forget_link(writer.key, key);
        }
        self.engine.close(link.socket());
    }

    /// Time limits of dials and of writers that close.
    pub(super) fn me_link_timers(&mut self) {
        while let Some(me) = self.me.as_deref_mut()
            && let Some((at, key)) = me.link_timers.pop(self.now)
        {
            let Some(link) = me.links.get_mut(key as usize) else {
                continue;
            };
            let (deadline, armed) = link.timer();
            if !armed.spend(at) {
                continue;
            }
            if deadline > self.now {
                me.arm_link(key);
                continue;
            }
            match link {
                Link::Dial(_) => self.me_dial_expired(key),
                Link::Open(_) => self.me_close_link(key),
            }
        }
    }
}

/// When writers with much to encrypt wait for one another.
///
/// One connection's encryption is serial, 1 GiB/s; that of three in lockstep takes no longer. But
/// each turn brings the bytes of one bulk client, which is one writer's. So a few turns' bytes are
/// encrypted together, as long as that is known to bring several writers together.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// Turns since the last flush.
    turns: u8,
    /// Flushes left before it is tried again, because the last try brought nobody together.
    rest: u8,
}

/// A writer with so much to send is worth waiting for.
const GATHER_BYTES_MIN: usize = 32 << 10;
/// As many as this are enough.
const GATHER_WRITERS: usize = 3;
const GATHER_TURNS_MAX: u8 = 6;
const GATHER_REST: u8 = 8;

impl Me {
    /// Whether the flush is put off for a turn. All that waits is bulk then, and more of it is
    /// about to come.
    fn gathers(&mut self) -> bool {
        let Gather { turns, rest } = self.gather;
        if rest > 0 {
            self.gather.rest -= 1;
            return false;
        }
        let links = &self.links;
        let bulk = |key: &u32| match links.get(*key as usize) {
            Some(Link::Open(writer)) => writer.queue.bytes() >= GATHER_BYTES_MIN,
            Some(Link::Dial(_)) | None => false,
        };
        let all_bulk = self.dirty.iter().all(bulk);
        let count = self.dirty.len();
        let waits = all_bulk && count < GATHER_WRITERS && turns < GATHER_TURNS_MAX;
        self.gather = match waits {
            true => Gather {
                turns: turns + 1,
                rest,
            },
            false => Gather {
                turns: 0,
                rest: if turns > 0 && count < 2 {
                    GATHER_REST
                } else {
                    0
                },
            },
        };
        waits
    }

    /// Takes the next block of every dirty writer whose socket is not too far behind; false when
    /// there is none.
    fn next_lanes(&mut self, dirty: &[u32], engine: &Engine, ahead_max: usize) -> bool {
        debug_assert!(self.lanes.is_empty());
        for &key in dirty {
            let Some(Link::Open(writer)) = self.links.get_mut(key as usize) else {
                continue;
            };
            if writer.queue.is_empty() || engine.queued(writer.socket) > ahead_max {
                continue;
            }
            let Some(block) = writer.queue.next(&mut writer.encoder) else {
                continue;
            };
            if let Some(cipher) = writer.encryptor.take() {
                self.lanes.push(Lane {
                    link: key,
                    cipher,
                    block,
                });
            }
        }
        !self.lanes.is_empty()
    }

    /// What is counted here and in the pool.
    pub(super) fn counted(&self, shrunk: Shrunk) -> (MeCounters, PoolCounters) {
        let mut me = self.pool.me_counters();
        me.merge(&self.counters);
        me.d2c_frame_buf_shrink_total += shrunk.times;
        me.d2c_frame_buf_shrink_bytes_total += shrunk.bytes;
        (me, self.pool.pool_counters())
    }
}

fn encrypt(lanes: &mut [Lane]) {
    if let [lane] = lanes {
        let done = lane.cipher.encrypt(&mut lane.block);
        debug_assert!(done.is_ok(), "blocks are padded");
        return;
    }
    let runs = lanes
        .iter_mut()
        .map(|lane| Run::new(&mut lane.cipher, &mut lane.block));
    let mut runs: Vec<Run<'_>> = runs.flatten().collect();
    encrypt_lockstep(&mut runs);
}

/// The pool is told of a queue in steps of so many percent.
const TOLD_STEP_PCT: u8 = 5;

/// Hides what is counted while ME counters stand still.
#[derive(Debug, Default)]
pub(super) struct MeSwitch {
    hidden: (MeCounters, PoolCounters),
    off_since: Option<Box<(MeCounters, PoolCounters)>>,
}

impl MeSwitch {
    /// Turns counting on or off, `now` being what was counted so far.
    pub(super) fn set(&mut self, counts: MeCounts, now: &(MeCounters, PoolCounters)) {
        match (counts, self.off_since.take()) {
            (MeCounts::On, Some(then)) => {
                self.hidden.0.merge(&now.0.minus(&then.0));
                self.hidden.1.merge(&now.1.minus(&then.1));
            }
            (MeCounts::On, None) => {}
            (MeCounts::Off, then) => self.off_since = then.or_else(|| Some(Box::new(*now))),
        }
    }

    /// What is to be shown; the gauge always is.
    pub(super) fn shown(&self, now: &(MeCounters, PoolCounters)) -> (MeCounters, PoolCounters) {
        let seen = self.off_since.as_deref().unwrap_or(now);
        let pool_drain_active = now.1.pool_drain_active;
        let pool = PoolCounters {
            pool_drain_active,
            ..seen.1.minus(&self.hidden.1)
        };
        (seen.0.minus(&self.hidden.0), pool)
    }
}

impl Shard {
    /// Adds what is known of the ME side.
    pub(in crate::net) fn me_snapshot(&self, snapshot: &mut ShardSnapshot) {
        let Some(me) = &self.me else { return };
        let counted = me.counted(self.engine.blocks().shrunk());
        (snapshot.me, snapshot.pool) = me.switch.shown(&counted);
        snapshot.desync = me.desync.counters;
        let report = me.pool.snapshot();
        snapshot.writers = report.writers;
        snapshot.me_groups = report.groups;
        snapshot.refills = report.refills;
        snapshot.handshake_error_codes = me.pool.handshake_error_codes();
        snapshot.sessions_me = me.sessions;
        snapshot.sessions_direct = snapshot.sessions_direct.saturating_sub(me.sessions);
    }

    /// When the ME side has something to do next.
    pub(in crate::net) fn me_next(&mut self) -> Option<Millis> {
        let me = self.me.as_deref_mut()?;
        let next = [
            me.pool.next_deadline(),
            me.watches.next(),
            me.link_timers.next(),
            me.closing_until,
        ];
        next.into_iter().flatten().min()
    }
}
