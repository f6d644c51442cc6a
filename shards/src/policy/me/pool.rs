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
//! After any call but `target`, `unbind`, `set_queue` and `pong` there may be actions; after any
//! call the next deadline may have moved.
//!
//! Source: middle-proxy.md 11 to 19.

use std::sync::Arc;

use super::{
    super::Millis,
    plan::{Plan, Route},
    report::Report,
};
use crate::{
    counters::{MeCounters, PoolCounters},
    proto::middle::ops::ConnId,
    settings::MeSettings,
};

mod exchange;

pub(crate) use exchange::{
    Action, Ask, Bind, ClosedBy, Derived, DialFailure, DialId, DialLimits, Loss, Opened,
    SessionFacts, Target, Unbound, WriterFacts, WriterKey,
};

/// The writers of one shard and their sessions.
#[derive(Debug)]
pub(crate) struct Pool {
    plan: Arc<Plan>,
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
    pub(crate) fn new(_place: Place, settings: Arc<MeSettings>, _now: Millis) -> Self {
        Self {
            plan: Arc::new(Plan::empty(settings, Route::Direct)),
        }
    }

    /// The plan in force: route, secret and addresses for dials, settings.
    pub(crate) fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Goes by a new plan; one that is not newer is ignored.
    pub(crate) fn apply(&mut self, plan: &Arc<Plan>, _now: Millis) {
        if plan.serial > self.plan.serial {
            self.plan = Arc::clone(plan);
        }
    }

    /// Does what is due: dials, pings, timeouts, cleaning.
    pub(crate) fn advance(&mut self, _now: Millis, _ask: Ask<'_>) {}

    /// When [`Self::advance`] or [`Self::report`] has something to do.
    pub(crate) fn next_deadline(&mut self) -> Option<Millis> {
        None
    }

    /// The next thing to do.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        None
    }

    /// The keys of a dial were derived: for the self-test, and `socks_kdf_compat_fallback_total`.
    pub(crate) fn keys_derived(&mut self, _derived: Derived) {}

    /// A dial is over. `None` for an open one: nobody wants it any more, close it.
    pub(crate) fn dial_ended(
        &mut self,
        _dial: DialId,
        _result: Result<Opened, DialFailure>,
        _now: Millis,
    ) -> Option<WriterKey> {
        None
    }

    /// A writer ended. `ask` is called for each session bound to it; the verdicts are actions. A
    /// writer the pool does not know (any more) is ignored.
    pub(crate) fn lost(&mut self, _writer: WriterKey, _why: Loss, _now: Millis, _ask: Ask<'_>) {}

    /// Binds a session that has a message for `dc`, as its client named it. Called once per
    /// session and after each `Move` and `Woken`; not for a session that is bound.
    ///
    /// O(writers of one group); no allocation but for the growth of a writer's table.
    pub(crate) fn bind(&mut self, _dc: i16, _session: u32, _now: Millis) -> Bind {
        Bind::Wait
    }

    /// The session ended while it was waiting. One that is not waiting is ignored.
    pub(crate) fn forget(&mut self, _session: u32) {}

    /// Whose a d2c frame is. O(1).
    pub(crate) fn target(&mut self, _writer: WriterKey, _conn: ConnId, _now: Millis) -> Target {
        Target::Unknown { answer: false }
    }

    /// The session ended, or the ME closed it, the pool's own ids included. O(1). `false`: the id
    /// is not known (any more), no CLOSE_CONN is due.
    pub(crate) fn unbind(
        &mut self,
        _writer: WriterKey,
        _conn: ConnId,
        _by: ClosedBy,
        _now: Millis,
    ) -> bool {
        false
    }

    /// A PONG.
    pub(crate) fn pong(&mut self, _writer: WriterKey, _id: u64, _now: Millis) {}

    /// How full a writer's send queue is, in percent of the nearer of its two bounds, and whether
    /// another frame would be taken. To be told when `has_room` changes and when `used_pct` moved
    /// by a few percent. O(1).
    pub(crate) fn set_queue(&mut self, _writer: WriterKey, _used_pct: u8, _has_room: bool) {}

    /// The next report, if one is due.
    pub(crate) fn report(&mut self, _now: Millis) -> Option<Report> {
        None
    }

    /// The shard's writers, groups and refills as they are, whether due or not: for snapshots.
    /// Without events; the next due report is not put off.
    pub(crate) fn snapshot(&self, _now: Millis) -> Report {
        Report::default()
    }

    /// What a writer is; `None` once it is gone.
    pub(crate) fn writer(&self, _writer: WriterKey) -> Option<WriterFacts> {
        None
    }

    /// What the pool counts of 26.1: keepalive, signals, reconnects, handshake rejects, end of
    /// stream, SOCKS KDF, dials and bypasses of outages, rotations done. `route_drop_*` and `d2c_*`
    /// are the edge's; the rest is the supervisor's.
    pub(crate) fn me_counters(&self) -> MeCounters {
        MeCounters::default()
    }

    /// What the pool counts of 26.2: all but `pool_swap_total`.
    pub(crate) fn pool_counters(&self) -> PoolCounters {
        PoolCounters::default()
    }

    /// Rows of `handshake_error_codes`, ascending by code, at most 64.
    pub(crate) fn handshake_error_codes(&self) -> Vec<(i32, u64)> {
        Vec::new()
    }
}
