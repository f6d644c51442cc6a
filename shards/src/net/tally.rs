//! What a shard has counted, and how it shows it: ends, snapshots, the telemetry switch.

use super::shard::Shard;
use crate::{
    control::{Observations, ShardSnapshot},
    counters::{BadClass, CoreCounters, FailureClass, FailureStage},
    policy::end::SessionEnd,
};

/// Totals of client connections.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) core: CoreCounters,
    bad_by_class: [u64; BadClass::COUNT],
    failures_by_class: [u64; FailureClass::COUNT],
    failures_by_stage: [u64; FailureStage::COUNT],
}

/// Hides what is counted while telemetry is off. The shard counts on, which costs less than asking
/// each time whether it should.
#[derive(Debug, Default)]
pub(super) struct Switch {
    /// Counted while it was off, all times together.
    hidden: Totals,
    /// What there was when it was turned off; `None` while it is on.
    off_since: Option<Box<Totals>>,
}

impl Switch {
    /// Turns counting on or off, `now` being what was counted so far.
    pub(super) fn set(&mut self, on: bool, now: &Totals) {
        match (on, self.off_since.take()) {
            (true, Some(then)) => self.hidden.add(&now.minus(&then)),
            (true, None) => {}
            (false, then) => self.off_since = then.or_else(|| Some(Box::new(*now))),
        }
    }

    /// What is to be shown; gauges are not.
    fn shown(&self, now: &Totals) -> Totals {
        self.off_since.as_deref().unwrap_or(now).minus(&self.hidden)
    }
}

impl Totals {
    fn minus(&self, other: &Self) -> Self {
        let mut left = *self;
        left.core = self.core.minus(&other.core);
        left.each(other, |mine, theirs| *mine = mine.saturating_sub(theirs));
        left
    }

    fn add(&mut self, other: &Self) {
        self.core.merge(&other.core);
        self.each(other, |mine, theirs| *mine = mine.saturating_add(theirs));
    }

    fn each(&mut self, other: &Self, with: impl Fn(&mut u64, u64)) {
        let slots = |mine: &mut [u64], theirs: &[u64]| {
            mine.iter_mut().zip(theirs).for_each(|(a, b)| with(a, *b));
        };
        slots(&mut self.bad_by_class, &other.bad_by_class);
        slots(&mut self.failures_by_class, &other.failures_by_class);
        slots(&mut self.failures_by_stage, &other.failures_by_stage);
    }
}

impl Shard {
    /// Counts how a session ended, and notes its address when that was bad; once for each.
    pub(super) fn count_end_of(&mut self, key: u32, end: SessionEnd) {
        if let Some(keep) = self.settings.plane.observe
            && let Some(class) = end.bad_class()
            && let Some(session) = self.sessions.get(key as usize)
        {
            let from = session.from;
            self.observed
                .note(from, class, keep.as_secs(), self.now_unix);
        }
        self.count_end(end);
    }

    /// The addresses that failed to become clients.
    pub(super) fn observations(&mut self) -> Observations {
        match self.settings.plane.observe {
            Some(keep) => self.observed.rows(keep.as_secs(), self.now_unix),
            None => Observations::default(),
        }
    }

    /// Counts how a connection ended; once for each.
    pub(super) fn count_end(&mut self, end: SessionEnd) {
        let totals = &mut self.totals;
        if let Some(class) = end.bad_class() {
            totals.core.connections_bad_total += 1;
            totals.bad_by_class[class as usize] += 1;
        }
        if let Some((class, stage)) = end.failure() {
            totals.failures_by_class[class as usize] += 1;
            totals.failures_by_stage[stage as usize] += 1;
        }
        let core = &mut totals.core;
        core.handshake_timeouts_total += u64::from(end.is_handshake_timeout());
        core.sessions_idle_closed_total += u64::from(end == SessionEnd::Idle);
        core.sessions_removed_closed_total += u64::from(end == SessionEnd::Removed);
        core.sessions_expired_closed_total += u64::from(end == SessionEnd::Expired);
        core.sessions_quota_closed_total += u64::from(end == SessionEnd::Quota);
        core.internal_errors_total += u64::from(end == SessionEnd::Internal);
    }

    /// What was counted so far, the engine's share included.
    pub(super) fn counted(&self) -> Totals {
        let stats = self.engine.stats();
        let mut totals = self.totals;
        totals.core.buffers_exhausted_total = stats.starved;
        totals.core.spilled_bytes_total = stats.spilled_bytes;
        totals
    }

    /// A copy of everything, for whoever asked.
    pub(super) fn snapshot(&mut self) -> ShardSnapshot {
        self.upstream.follow(&self.board, self.now);
        let now = self.counted();
        let shown = self.telemetry.shown(&now);
        let mut snapshot = ShardSnapshot {
            shard: self.index,
            core: CoreCounters {
                connections_current: now.core.connections_current,
                sessions_current: now.core.sessions_current,
                masks_current: now.core.masks_current,
                ..shown.core
            },
            upstream: self.upstream_counters,
            bad_by_class: shown.bad_by_class,
            failures_by_class: shown.failures_by_class,
            failures_by_stage: shown.failures_by_stage,
            users: self.user_rows.clone(),
            user_ips: self.sources.rows(self.now, self.hot.addresses.window),
            upstreams: self.upstream.rows(self.now),
            accepting: self.doors.is_accepting(),
            sessions_direct: now.core.sessions_current,
            ..ShardSnapshot::default()
        };
        self.me_snapshot(&mut snapshot);
        snapshot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(connections: u64, bad: u64) -> Totals {
        let mut totals = Totals::default();
        totals.core.connections_total = connections;
        totals.bad_by_class[3] = bad;
        totals
    }

    fn shown(switch: &Switch, now: &Totals) -> (u64, u64) {
        let shown = switch.shown(now);
        (shown.core.connections_total, shown.bad_by_class[3])
    }

    #[test]
    fn what_is_counted_while_off_never_shows() {
        let mut switch = Switch::default();
        assert_eq!(shown(&switch, &totals(5, 1)), (5, 1));
        switch.set(false, &totals(6, 1));
        assert_eq!(shown(&switch, &totals(10, 4)), (6, 1));
        switch.set(false, &totals(11, 4));
        switch.set(true, &totals(12, 4));
        switch.set(true, &totals(12, 4));
        assert_eq!(shown(&switch, &totals(13, 6)), (7, 3));
        switch.set(false, &totals(13, 6));
        switch.set(true, &totals(20, 7));
        assert_eq!(shown(&switch, &totals(21, 7)), (8, 3));
    }
}
