//! The pool of one shard: its writers, who is bound to them, and what is done to keep them.
//!
//! State, facts and `now` in, [`Action`]s out; no sockets. `net/me` performs the actions in order
//! and says what became of them:
//!
//! ```text
//!   Plan ────────────────> apply          ┌─> next_action ──> dial, cancel, close, ping, signal,
//!   time (next_deadline) ─> advance ───> Pool                 move, close, wake, give up
//!   dial_ended, lost, pong, set_queue ───>│
//!   bind, target, unbind (every frame) ───┘─> report ──> supervisor, when due
//! ```
//!
//! After any call but `target`, `unbind` and `pong` there may be actions; after any call the next
//! deadline may have moved.
//!
//! Source: middle-proxy.md 11 to 19.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    super::{Millis, timer::Timers},
    plan::{Plan, Route},
    report::{PoolEvent, Report},
};
use crate::{
    counters::{MeCounters, PoolCounters},
    proto::middle::ops::ConnId,
    settings::MeSettings,
};

mod apply;
mod beats;
mod dial;
mod drain;
mod endpoints;
mod exchange;
mod fill;
mod group;
#[cfg(test)]
mod invariants;
mod loss;
mod pick;
mod pulse;
mod refill;
mod registry;
mod reports;
mod startup;
mod tally;
mod tasks;
#[cfg(test)]
mod tests;
mod wait;
mod warm;
mod writer;

pub(crate) use exchange::{
    Action, Ask, Bind, ClosedBy, Derived, DialFailure, DialId, DialLimits, Loss, Opened,
    SessionFacts, Target, Unbound, WriterFacts, WriterKey,
};

use super::dice::{self, Dice};
use dial::Dial;
use endpoints::Bars;
use group::Group;
use pick::Pick;
use registry::{Owner, Strangers};
use reports::Outbox;
use startup::Startup;
use tally::Tally;
use wait::{Recovery, Waiting};
use warm::Warmup;
use writer::Writers;

/// The writers of one shard and their sessions.
#[derive(Debug)]
pub(crate) struct Pool {
    place: Place,
    plan: Arc<Plan>,
    writers: Writers,
    /// Groups of the plan, and those that still have writers here.
    groups: BTreeMap<i16, Group>,
    dials: BTreeMap<DialId, Dial>,
    next_dial: u64,
    /// `k` of the next writer's id.
    next_writer: u64,
    /// Life signs, by place of the writer.
    timers: Timers,
    waiting: Waiting,
    recovery: Recovery,
    actions: VecDeque<Action>,
    outbox: Outbox,
    tally: Tally,
    dice: Dice,
    bars: Bars,
    strangers: Strangers,
    /// Advances with each choice of a writer.
    turn: usize,
    /// When any session was last bound.
    last_bind: Option<Millis>,
    /// Active writers opened less those gone since the plan came, which knows of none of them.
    active_delta: i64,
    /// The same of warm ones.
    warm_delta: i64,
    /// The last tick whose dials were begun.
    ticked: u64,
    /// Dials of the health tick left until the next.
    budget: u32,
    startup: Startup,
    warmup: Option<Warmup>,
    /// The last warm-up whose passes are over.
    warm_done: u64,
    /// Tasks up to this id were begun.
    last_task: u64,
    /// When drained writers were last cleaned away.
    cleaned: Millis,
    deadline: Deadline,
}

/// The next deadline of what takes a search to find, until something moves it.
#[derive(Clone, Copy, Debug, Default)]
struct Deadline {
    known: Option<Option<Millis>>,
}

impl Deadline {
    fn touch(&mut self) {
        self.known = None;
    }
}

/// Which shard a pool belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Counted from 0.
    pub(crate) shard: usize,
    /// How many there are.
    pub(crate) shards: usize,
    /// Starts the pool's own chances: jitter, shuffles, ping ids.
    pub(crate) seed: u64,
}

impl Pool {
    /// A pool without writers, under an empty plan.
    pub(crate) fn new(place: Place, settings: Arc<MeSettings>, now: Millis) -> Self {
        let mut tally = Tally::default();
        tally.set_counts(settings.counts);
        Self {
            plan: Arc::new(Plan::empty(settings, Route::Direct)),
            writers: Writers::default(),
            groups: BTreeMap::new(),
            dials: BTreeMap::new(),
            next_dial: 0,
            next_writer: 0,
            timers: Timers::default(),
            waiting: Waiting::default(),
            recovery: Recovery::default(),
            actions: VecDeque::new(),
            outbox: Outbox::default(),
            dice: Dice::new(place.seed),
            bars: Bars::default(),
            strangers: Strangers::new(),
            turn: 0,
            last_bind: None,
            active_delta: 0,
            warm_delta: 0,
            ticked: 0,
            budget: 0,
            startup: Startup::default(),
            warmup: None,
            warm_done: 0,
            last_task: 0,
            cleaned: now,
            deadline: Deadline::default(),
            place,
            tally,
        }
    }

    /// The plan in force: route, secret and addresses for dials, settings.
    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Goes by a new plan; one that is not newer is ignored.
    pub(crate) fn apply(&mut self, plan: &Arc<Plan>, now: Millis) {
        if plan.serial > self.plan.serial {
            self.go_by(plan, now);
        }
    }

    /// Does what is due: dials, pings, timeouts, cleaning.
    pub(crate) fn advance(&mut self, now: Millis, ask: Ask<'_>) {
        self.advance_beats(now, ask);
        self.clean(now, ask);
        self.advance_refills(now);
        self.advance_startup(now);
        self.advance_warmup(now);
        self.advance_waits(now);
    }

    /// When [`Self::advance`] or [`Self::report`] has something to do.
    pub(crate) fn next_deadline(&mut self) -> Option<Millis> {
        let searched = match self.deadline.known {
            Some(known) => known,
            None => {
                let found = self.search_deadline();
                self.deadline.known = Some(found);
                found
            }
        };
        let report = self.outbox.due(self.writers.len() > 0);
        [searched, report].into_iter().flatten().min()
    }

    fn search_deadline(&self) -> Option<Millis> {
        let groups = self.groups.values().flat_map(|group| {
            let refills = group
                .refill
                .iter()
                .flatten()
                .filter_map(|refill| refill.next);
            refills.chain(group.warm.next)
        });
        let whole = [
            self.timers.next(),
            self.waiting.next_due(),
            self.clean_due(),
            self.startup.next_round,
        ];
        whole.into_iter().flatten().chain(groups).min()
    }

    /// The next thing to do.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() {
            self.writers.reuse();
        }
        action
    }

    /// The keys of a dial were derived: for the self-test, and `socks_kdf_compat_fallback_total`.
    pub(crate) fn keys_derived(&mut self, derived: Derived) {
        if derived.fell_back {
            let count = &mut self.tally;
            count.me(|me| me.socks_kdf_compat_fallback_total += 1);
        }
        self.outbox.event(PoolEvent::Keys(derived.facts));
    }

    /// A dial through a SOCKS server was connected: for the self-test. `refused`: it is given up
    /// for what was reported, usable or not.
    pub(crate) fn socks_connected(
        &mut self,
        me: SocketAddr,
        reported: Option<SocketAddr>,
        refused: bool,
    ) {
        self.outbox.event(PoolEvent::Socks {
            me,
            reported,
            refused,
        });
    }

    /// A dial is over. `None` for an open one: nobody wants it any more, close it.
    pub(crate) fn dial_ended(
        &mut self,
        dial: DialId,
        result: Result<Opened, DialFailure>,
        now: Millis,
    ) -> Option<WriterKey> {
        self.finish_dial(dial, result, now)
    }

    /// A writer ended. `ask` is called for each session bound to it; the verdicts are actions. A
    /// writer the pool does not know (any more) is ignored.
    pub(crate) fn lost(&mut self, writer: WriterKey, why: Loss, now: Millis, ask: Ask<'_>) {
        self.writer_lost(writer, why, now, ask);
    }

    /// Binds a session that has a message for `dc`, as its client named it. Called once per
    /// session and after each `Move` and `Woken`; not for a session that is bound.
    ///
    /// O(writers of one group); no allocation but for the growth of a writer's table.
    pub(crate) fn bind(&mut self, dc: i16, session: u32, now: Millis) -> Bind {
        let resolved = self.plan.resolve(dc);
        let (dc, by_default) =
            resolved.map_or((dc, true), |(planned, by_default)| (planned.dc, by_default));
        let is_full = match self.pick(dc, now) {
            Pick::To(key) => match self.bind_to(key, session, now) {
                Some(conn) => return Bind::To(key, conn),
                None => true,
            },
            Pick::Full => true,
            Pick::Nothing => false,
        };
        self.wait((dc, by_default), session, is_full, now)
    }

    fn bind_to(&mut self, key: WriterKey, session: u32, now: Millis) -> Option<ConnId> {
        let active = self.plan.generations.active;
        let writer = self.writers.get_mut(key)?;
        let conn = writer.registry.bind(session)?;
        writer.idle_since = None;
        writer.ever_bound = true;
        let (dc, is_stale) = (writer.dc, writer.generation < active);
        if is_stale {
            self.tally.pool(|pool| pool.pool_stale_pick_total += 1);
        }
        self.last_bind = Some(now);
        if let Some(group) = self.groups.get_mut(&dc) {
            group.last_bind = Some(now);
        }
        self.stop_waiting(session);
        Some(conn)
    }

    /// The session ended while it was waiting. One that is not waiting is ignored.
    pub(crate) fn forget(&mut self, session: u32) {
        self.stop_waiting(session);
    }

    /// Whose a d2c frame is. O(1).
    pub(crate) fn target(&mut self, writer: WriterKey, conn: ConnId, now: Millis) -> Target {
        let Some(found) = self.writers.get_mut(writer) else {
            return Target::Unknown { answer: false };
        };
        match found.registry.owner(conn, now) {
            Owner::Session(session) => Target::Session(session),
            Owner::Service => {
                self.signal_answered(writer, now);
                Target::Service
            }
            Owner::Past { answer } => Target::Unknown { answer },
            Owner::Stranger => Target::Unknown {
                answer: self.strangers.answer(writer.0, conn, now),
            },
        }
    }

    /// The session ended, or the ME closed it, the pool's own ids included. O(1). `false`: the id
    /// is not known (any more), no CLOSE_CONN is due.
    pub(crate) fn unbind(
        &mut self,
        writer: WriterKey,
        conn: ConnId,
        by: ClosedBy,
        now: Millis,
    ) -> bool {
        let Some(writer) = self.writers.get_mut(writer) else {
            return false;
        };
        match writer.registry.free(conn, by == ClosedBy::Us, now) {
            Some(Owner::Session(_)) => {
                if writer.is_empty() {
                    writer.idle_since = Some(now);
                }
                true
            }
            Some(Owner::Service) => {
                writer.pulse.signal_closed();
                true
            }
            Some(Owner::Past { .. } | Owner::Stranger) | None => false,
        }
    }

    /// A PONG.
    pub(crate) fn pong(&mut self, writer: WriterKey, id: u64, now: Millis) {
        let writer = self.writers.get_mut(writer);
        if writer.is_some_and(|writer| writer.pulse.pong(id, now)) {
            self.tally.me(|me| me.keepalive_pong_total += 1);
        }
    }

    /// How full a writer's send queue is, in percent of the nearer of its two bounds, and whether
    /// another frame would be taken. To be told when `has_room` changes and when `used_pct` moved
    /// by a few percent. O(1).
    pub(crate) fn set_queue(&mut self, writer: WriterKey, used_pct: u8, has_room: bool) {
        let Some(writer) = self.writers.get_mut(writer) else {
            return;
        };
        writer.used_pct = used_pct;
        let is_freed = has_room && !writer.has_room;
        writer.has_room = has_room;
        if is_freed {
            let dc = writer.dc;
            self.wake(dc);
        }
    }

    /// The next report, if one is due.
    pub(crate) fn report(&mut self, now: Millis) -> Option<Report> {
        self.take_report(now)
    }

    /// The shard's writers, groups and refills as they are, whether due or not: for snapshots.
    /// Without events; the next due report is not put off.
    pub(crate) fn snapshot(&self) -> Report {
        self.rows()
    }

    /// What a writer is; `None` once it is gone.
    pub(crate) fn writer(&self, writer: WriterKey) -> Option<WriterFacts> {
        self.writers.get(writer).map(|writer| WriterFacts {
            id: writer.id,
            dc: writer.dc,
            endpoint: writer.endpoint,
        })
    }

    /// What the pool counts of 26.1: keepalive, signals, reconnects, handshake rejects, end of
    /// stream, SOCKS KDF, dials and bypasses of outages, rotations done. `route_drop_*` and `d2c_*`
    /// are the edge's; the rest is the supervisor's.
    pub(crate) fn me_counters(&self) -> MeCounters {
        self.tally.me_counters()
    }

    /// What the pool counts of 26.2: all but `pool_swap_total`.
    pub(crate) fn pool_counters(&self) -> PoolCounters {
        self.tally.pool_counters(self.draining())
    }

    /// Rows of `handshake_error_codes`, ascending by code, at most 64.
    pub(crate) fn handshake_error_codes(&self) -> Vec<(i32, u64)> {
        self.tally.codes()
    }
}
