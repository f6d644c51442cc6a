//! d2c batches to the client's socket, and the timers of sessions that stand still.
//!
//! Source: middle-proxy.md 21.1 and 21.2.

use super::{
    answers::is_within,
    down::{Batch, Reason},
    middle_of,
    session::Stop,
};
use crate::{
    net::{
        client::{Session, State},
        shard::Shard,
    },
    policy::end::SessionEnd,
    settings::DownlinkSettings,
};

impl Shard {
    /// A frame was added, or as many bytes as a batch takes: hands the batch over if it is full,
    /// else at the end of the turn or later.
    pub(super) fn middle_flush_later_or_now(&mut self, key: u32) {
        let Some(middle) = self.sessions.get_mut(key as usize).and_then(middle_of) else {
            return;
        };
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let downlink = &me.pool.plan().settings.downlink;
        let open = middle.down.open();
        let full = full(open, downlink);
        if let Some(reason) = full {
            middle.down.close_batch(reason);
            return self.middle_flush(key, reason);
        }
        if !middle.down.dirty {
            middle.down.dirty = true;
            me.flushes.push(key);
        }
    }

    /// Hands over everything that waits, as far as the client takes it; the last batch for this
    /// reason.
    pub(super) fn middle_flush(&mut self, key: u32, reason: Reason) {
        let queue_max = self.settings.plane.buffers.queue_bytes_max;
        let now_us = self.now_us;
        let Some(Session {
            client,
            state: State::Middle(middle),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let (client, user) = (*client, middle.user);
        let down = &mut middle.down;
        let mut payload = 0;
        while down.flow.is_open() {
            if self.engine.queued(client) > queue_max {
                down.flow.stalled = true;
                self.engine.notify_writable(client);
                self.totals.core.backpressure_total += 1;
                break;
            }
            let Some((batch, reason)) = down.next(reason) else {
                break;
            };
            payload += batch.bytes;
            me.count_batch(&batch, reason);
            for block in batch.into_blocks() {
                self.engine.send_block(client, block);
            }
            down.flushed(now_us);
        }
        if down.over.is_some() && is_within(down, &me.pool.plan().settings.downlink) {
            down.over = None;
        }
        let done = down.is_empty() && middle.closing.is_some();
        if payload > 0 {
            self.count_down(user, payload);
        }
        if done {
            self.middle_delivered(key);
        }
    }

    /// The end of a turn: every session that got something hands it over, unless it is in a stream
    /// and more is to be expected.
    pub(super) fn middle_flushes(&mut self) {
        let now_us = self.now_us;
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let delay = me.pool.plan().settings.downlink.batch_delay;
        let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let mut flushes = std::mem::take(&mut me.flushes);
        for key in flushes.drain(..) {
            let Some(middle) = self.sessions.get_mut(key as usize).and_then(middle_of) else {
                continue;
            };
            let down = &mut middle.down;
            if !std::mem::take(&mut down.dirty) || down.held_until_us > now_us {
                continue;
            }
            if down.is_stream(now_us, delay_us) && delay_us > 0 && middle.closing.is_none() {
                down.held_until_us = now_us.saturating_add(delay_us);
                let until = down.held_until_us;
                if let Some(me) = self.me.as_deref_mut() {
                    me.holds.push_back((until, key));
                }
            } else {
                self.middle_flush(key, Reason::Drain);
            }
        }
        if let Some(me) = &mut self.me {
            flushes.append(&mut me.flushes);
            me.flushes = flushes;
        }
    }

    /// Batches that have waited long enough.
    pub(super) fn middle_holds(&mut self) {
        let now_us = self.now_us;
        while let Some(me) = self.me.as_deref_mut()
            && let Some((until, key)) = me.holds.front().copied()
            && until <= now_us
        {
            me.holds.pop_front();
            let waits = self
                .middle(key)
                .is_some_and(|middle| middle.down.held_until_us == until);
            if waits {
                self.middle_flush(key, Reason::Delay);
            }
        }
    }

    /// When the next batch has waited long enough, microseconds.
    pub(in crate::net) fn next_hold_us(&self) -> Option<u64> {
        Some(self.me.as_ref()?.holds.front()?.0)
    }

    /// The client's socket takes bytes again.
    pub(in crate::net) fn middle_writable(&mut self, key: u32) {
        if let Some(middle) = self.middle_mut(key) {
            middle.down.flow.stalled = false;
            let reason = match middle.closing {
                Some(_) => Reason::Close,
                None => Reason::Drain,
            };
            self.middle_flush(key, reason);
        }
    }

    /// Queues that were over their bounds for a moment, and clients that were stopped for long.
    pub(super) fn middle_watches(&mut self) {
        let now = self.now;
        while let Some(me) = self.me.as_deref_mut()
            && let Some((at, key)) = me.watches.pop(now)
        {
            let Some(middle) = self.sessions.get_mut(key as usize).and_then(middle_of) else {
                continue;
            };
            if !middle.watch.spend(at) {
                continue;
            }
            if let Some(over) = middle.down.over
                && over.until <= now
            {
                me.count_full(over.high);
                self.end(key, SessionEnd::QueueFull);
                continue;
            }
            if middle.up.stop == Stop::Full
                && let Some(until) = middle.up.stopped_until
                && until <= now
            {
                self.end(key, SessionEnd::WriterFull);
                continue;
            }
            let over = middle.down.over.map(|over| over.until);
            let next = [over, middle.up.stopped_until].into_iter().flatten().min();
            if let Some(next) = next {
                me.watches.arm(&mut middle.watch, key, next);
            }
        }
    }

    /// Counts downlink payload.
    fn count_down(&mut self, user: crate::policy::users::UserId, len: usize) {
        self.totals.core.octets_to_client_total += len as u64;
        if self.counts_users
            && let Some(row) = self.user_rows.get_mut(user.0 as usize)
        {
            row.octets_to_client += len as u64;
        }
    }
}

/// Why the open batch takes no more, if it does not.
fn full(open: &Batch, downlink: &DownlinkSettings) -> Option<Reason> {
    let frames = usize::try_from(open.data_frames + open.ack_frames).unwrap_or(usize::MAX);
    if frames >= downlink.batch_frames_max {
        Some(Reason::Frames)
    } else if open.bytes >= downlink.batch_bytes_max {
        Some(Reason::Bytes)
    } else {
        None
    }
}

impl super::Me {
    fn count_batch(&mut self, batch: &Batch, reason: Reason) {
        let counters = &mut self.counters;
        self::count_reason(counters, reason);
        counters.d2c_batches_total += 1;
        counters.d2c_batch_frames_total += batch.data_frames + batch.ack_frames;
        counters.d2c_batch_bytes_total += batch.bytes as u64;
        counters.d2c_data_frames_total += batch.data_frames;
        counters.d2c_ack_frames_total += batch.ack_frames;
        counters.d2c_payload_bytes_total += batch.data_bytes;
        counters.d2c_write_mode_split_total += batch.split;
        counters.d2c_write_mode_coalesced_total += batch.data_frames - batch.split;
    }
}

pub(super) fn count_reason(counters: &mut crate::counters::MeCounters, reason: Reason) {
    let slot = match reason {
        Reason::Close => &mut counters.d2c_flush_reason_close_total,
        Reason::Ack => &mut counters.d2c_flush_reason_ack_immediate_total,
        Reason::Frames => &mut counters.d2c_flush_reason_batch_frames_total,
        Reason::Bytes => &mut counters.d2c_flush_reason_batch_bytes_total,
        Reason::Delay => &mut counters.d2c_flush_reason_max_delay_total,
        Reason::Drain => &mut counters.d2c_flush_reason_queue_drain_total,
    };
    *slot += 1;
}
