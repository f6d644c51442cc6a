//! How a session through an ME ends: at once, or when all that is queued for its client is there.
//!
//! ```text
//!   open ──CLOSE_EXT, quota──> closing: nothing more is taken in
//!                                 └── all handed over ──> finishing ──sent──> finished ──> gone
//! ```
//!
//! Source: middle-proxy.md 8.2, 21.2 and 21.4.

use super::{
    Me,
    down::Reason,
    flush::count_reason,
    link::Link,
    middle_of,
    session::{Bound, Closing, Middle, Stop},
};
use crate::{
    control::Pressure,
    engine::SocketId,
    net::shard::Shard,
    policy::{
        Millis,
        end::SessionEnd,
        me::{plan::Plan, pool::ClosedBy},
    },
    proto::middle::ops::Note,
};

impl Shard {
    /// Takes no more in, delivers what is queued, then ends the session like this.
    pub(super) fn middle_finish(&mut self, key: u32, end: SessionEnd) {
        let now = self.now;
        let idle = self.settings.timeouts.idle;
        let Some(middle) = self.sessions.get_mut(key as usize).and_then(middle_of) else {
            return;
        };
        if middle.closing.is_some() {
            return;
        }
        middle.closing = Some(Closing {
            end,
            finishing: false,
            finished: false,
        });
        middle.up.message = None;
        middle.up.held = Vec::new();
        middle.up.stop = Stop::None;
        // Nobody is waited for any more: the client is read, to hear of its end.
        middle.up.flow = Default::default();
        if let Some(me) = self.me.as_deref_mut() {
            // Its place stays until it is gone: what still comes is not a stranger's.
            match &mut middle.bound {
                Some(bound) => me.tell_end(bound),
                None => me.leave(key, middle, now),
            }
            if middle.down.is_empty() {
                count_reason(&mut me.counters, Reason::Close);
            }
        }
        let empty = middle.down.is_empty();
        if let Some(client) = self.sessions.get(key as usize).map(|s| s.client) {
            self.engine.resume(client);
        }
        self.set_deadline(key, now.after(idle));
        if empty {
            self.middle_delivered(key);
        } else {
            self.middle_flush(key, Reason::Close);
        }
    }

    /// A closing session has handed everything over: our end follows it.
    pub(super) fn middle_delivered(&mut self, key: u32) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let client = session.client;
        let Some(closing) = middle_of(session).and_then(|middle| middle.closing.as_mut()) else {
            return;
        };
        if closing.finishing {
            return;
        }
        closing.finishing = true;
        if self.engine.finish(client) {
            self.middle_finished(key);
        }
    }

    /// All is sent to the client, and our end after it: it has a while to say the same.
    pub(in crate::net) fn middle_finished(&mut self, key: u32) {
        let limit = self.now.after(self.settings.timeouts.half_close);
        let Some(middle) = self.middle_mut(key) else {
            return;
        };
        let ended = middle.client_ended;
        let Some(closing) = &mut middle.closing else {
            return;
        };
        closing.finished = true;
        let end = closing.end;
        if ended {
            return self.end(key, end);
        }
        self.set_deadline(key, limit);
    }

    /// The client will send no more.
    pub(in crate::net) fn middle_client_ended(&mut self, key: u32) {
        let Some(middle) = self.middle_mut(key) else {
            return;
        };
        middle.client_ended = true;
        let over = match middle.closing {
            Some(closing) => closing.finished.then_some(closing.end),
            None => (!middle.has_waiting()).then_some(SessionEnd::Done),
        };
        if let Some(end) = over {
            self.end(key, end);
        }
    }

    /// The client broke off.
    pub(in crate::net) fn middle_client_broke(&mut self, key: u32) {
        let end = self.middle(key).and_then(|middle| middle.closing);
        self.end(key, end.map_or(SessionEnd::Done, |closing| closing.end));
    }

    /// A session's time is up, or its lazily moved deadline came.
    pub(in crate::net) fn middle_expired(&mut self, key: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let deadline = session.deadline;
        let (Some(middle), Some(me)) = (middle_of(session), self.me.as_deref_mut()) else {
            return;
        };
        if let Some(closing) = middle.closing {
            if deadline > now {
                return self.rearm(key);
            }
            return self.end(key, closing.end);
        }
        let (soft, hard) = middle.idle_limits(me.pool.plan(), self.pressure.as_deref());
        if hard <= now {
            return self.end(key, SessionEnd::Idle);
        }
        let next = if soft <= now {
            if !std::mem::replace(&mut middle.marked, true) {
                me.marked.push_back(key);
            }
            self.tidy_marked();
            hard
        } else {
            soft
        };
        self.set_deadline(key, next);
    }

    /// Those that have spoken since, or are gone, leave their entry behind.
    fn tidy_marked(&mut self) {
        const SPARE: usize = 1024;
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        if me.marked.len() > SPARE + 2 * self.sessions.len() {
            let sessions = &self.sessions;
            let mut seen = std::collections::HashSet::new();
            me.marked.retain(|key| {
                let session = sessions.get(*key as usize);
                let marked = session
                    .and_then(super::middle_ref)
                    .is_some_and(|m| m.marked);
                marked && seen.insert(*key)
            });
        }
    }

    /// Ends a session whose client has been silent, to make room for a new one; whether there was
    /// one.
    pub(in crate::net) fn middle_make_room(&mut self) -> bool {
        while let Some(key) = self.me.as_mut().and_then(|me| me.marked.pop_front()) {
            let silent = self
                .middle(key)
                .is_some_and(|middle| middle.marked && middle.closing.is_none());
            if silent {
                self.end(key, SessionEnd::Idle);
                return true;
            }
        }
        false
    }

    /// A session is gone: tells its ME.
    pub(in crate::net) fn middle_gone(&mut self, key: u32, mut middle: Box<Middle>) {
        let now = self.now;
        if let Some(me) = self.me.as_deref_mut() {
            me.sessions -= 1;
            me.leave(key, &mut middle, now);
        }
    }

    /// Everything of the ME side goes down: what is queued is sent, then our end.
    pub(in crate::net) fn me_shut_down(&mut self) {
        let until = self.now.after(SHUT_DOWN_LIMIT);
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        if me.closing_until.is_some() {
            return;
        }
        me.closing_until = Some(until);
        let mut closing: Vec<(u32, SocketId, bool)> = Vec::new();
        for (key, link) in &mut me.links {
            let open = match link {
                Link::Dial(_) => false,
                Link::Open(writer) => {
                    writer.closing = true;
                    true
                }
            };
            let key = u32::try_from(key).unwrap_or(u32::MAX);
            closing.push((key, link.socket(), open));
        }
        for (key, _, open) in closing {
            if open {
                self.me_mark_dirty(key);
            } else {
                self.me_close_link(key);
            }
        }
        self.me_flush_writers();
    }

    /// Nothing of the ME side is left to be sent, or the time for it is over.
    pub(in crate::net) fn me_is_done(&self) -> bool {
        self.me.as_ref().is_none_or(|me| {
            me.links.is_empty() || me.closing_until.is_some_and(|until| until <= self.now)
        })
    }
}

impl Me {
    /// Says once that a session is over.
    fn tell_end(&mut self, bound: &mut Bound) {
        if std::mem::replace(&mut bound.told, true) {
            return;
        }
        if let Some(Link::Open(writer)) = self.links.get_mut(bound.link as usize) {
            writer.queue.note(Note::CloseConn(bound.conn));
            if !writer.dirty {
                writer.dirty = true;
                self.dirty.push(bound.link);
            }
        }
    }

    /// A session leaves its writer, or stops waiting for one.
    fn leave(&mut self, key: u32, middle: &mut Middle, now: Millis) {
        match middle.bound.take() {
            None => self.pool.forget(key),
            Some(mut bound) => {
                let known = self
                    .pool
                    .unbind(bound.writer, bound.conn, ClosedBy::Us, now);
                if known {
                    self.tell_end(&mut bound);
                }
            }
        }
        if let Some(partial) = middle.down.partial.take()
            && let Some(Link::Open(writer)) = self.links.get_mut(partial.link as usize)
            && writer.current == Some(key)
        {
            writer.current = None;
        }
    }
}

impl Middle {
    /// It only delivers what is queued.
    pub(in crate::net) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// When silence marks it, and when it ends it.
    pub(super) fn idle_limits(&self, plan: &Plan, pressure: Option<&Pressure>) -> (Millis, Millis) {
        let uplink = &plan.settings.uplink;
        let hard = self.last_c2d.after(uplink.idle_hard);
        let grace = self.last_d2c.map(|at| at.after(uplink.idle_grace));
        let hard = grace.map_or(hard, |grace| grace.max(hard));
        let soft = self.last_c2d.after(uplink.idle_soft);
        let Some(pressure) = pressure else {
            return (soft.min(hard), hard);
        };
        let hard = hard.min(self.last_c2d.after(pressure.me_hard));
        let soft = soft.min(self.last_c2d.after(pressure.me_soft));
        (soft.min(hard), hard)
    }
}

/// What is queued for MEs when the process goes down has so long to be sent.
const SHUT_DOWN_LIMIT: std::time::Duration = std::time::Duration::from_millis(500);
