//! Which writer a session is bound to.
//!
//! Candidates: active writers of the group on endpoints of the map; without any, warm ones; if
//! none of these takes a session, draining ones as far as the settings allow.
//!
//! Source: middle-proxy.md 17 ("Binding to draining writers") and 19.

use std::{cmp::Ordering, net::SocketAddr};

use super::{super::super::Millis, Pool, exchange::WriterKey, writer::Writer};
use crate::{
    policy::me::{plan::WriterId, report::WriterState},
    settings::{PickMode, StaleBind},
};

/// What there is to bind to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    To(WriterKey),
    /// Candidates, but none takes another session now.
    Full,
    Nothing,
}

/// Order of candidates, best first.
#[derive(Clone, Copy, Debug)]
struct Rank {
    score: f64,
    sessions: u32,
    endpoint: SocketAddr,
    id: WriterId,
}

/// Idle for so long: the ME may be about to cut it.
const IDLE_MS: u64 = 45_000;
const IDLER_MS: u64 = 55_000;
const SCORE_WARM: f64 = 200.0;
const SCORE_DRAINING: f64 = 600.0;
const SCORE_STALE: f64 = 300.0;
const SCORE_DEGRADED: f64 = 250.0;
const SCORE_IDLE: f64 = 100.0;
const SCORE_QUEUE_PCT: f64 = 4.0;
const SCORE_RTT_MAX: f64 = 400.0;
/// Round trips are compared in steps of this, as in section 18: MEs of one place differ by less,
/// and the nearest by a hair would get every session. Among equals the one with the fewest is next.
const RTT_STEP_MS: f64 = 10.0;

impl Pool {
    /// The writer of a group that the next session is bound to.
    pub(super) fn pick(&mut self, dc: i16, now: Millis) -> Pick {
        let Some(group) = self.groups.get_mut(&dc) else {
            return Pick::Nothing;
        };
        // Lent out for the call: the common case allocates nothing.
        let mut candidates = std::mem::take(&mut group.open);
        let is_open = !candidates.is_empty();
        let mut found = self.pick_from(&mut candidates, now);
        if let Some(group) = self.groups.get_mut(&dc) {
            group.open = candidates;
        }
        if !is_open {
            let mut warm = self.members(dc, |pool, writer| {
                writer.is_warm() && pool.is_mapped(writer)
            });
            found = self.pick_from(&mut warm, now);
        }
        if !matches!(found, Pick::To(_)) {
            let mut draining = self.members(dc, |pool, writer| {
                pool.may_take_stale(writer, now) && pool.is_mapped_or_left(writer)
            });
            match self.pick_from(&mut draining, now) {
                Pick::To(key) => found = Pick::To(key),
                Pick::Full => found = Pick::Full,
                Pick::Nothing => {}
            }
        }
        found
    }

    fn members(&self, dc: i16, belongs: impl Fn(&Self, &Writer) -> bool) -> Vec<WriterKey> {
        let Some(group) = self.groups.get(&dc) else {
            return Vec::new();
        };
        let mut members = group.writers.clone();
        members.retain(|key| self.writers.get(*key).is_some_and(|w| belongs(self, w)));
        members
    }

    /// A draining writer may take sessions.
    fn may_take_stale(&self, writer: &Writer, now: Millis) -> bool {
        let WriterState::Draining {
            fallback, started, ..
        } = writer.state
        else {
            return false;
        };
        let drain = &self.plan.settings.drain;
        let ttl_ms = drain.stale_bind_ttl.as_millis();
        fallback
            && match drain.stale_bind {
                StaleBind::Never => false,
                StaleBind::Ttl => ttl_ms == 0 || u128::from(now.since(started)) <= ttl_ms,
                StaleBind::Always => true,
            }
    }

    /// A drain for leaving the map may take sessions although its endpoint is not in it: that is
    /// what its flag is for.
    fn is_mapped_or_left(&self, writer: &Writer) -> bool {
        self.is_mapped(writer) || self.plan.generations.drain_unmapped
    }

    /// The writer's endpoint is in the current map of its group.
    pub(super) fn is_mapped(&self, writer: &Writer) -> bool {
        let known = self.plan.map.get(&writer.dc);
        known.is_some_and(|known| known.contains(&writer.endpoint))
    }

    fn pick_from(&mut self, candidates: &mut [WriterKey], now: Millis) -> Pick {
        if candidates.is_empty() {
            return Pick::Nothing;
        }
        let start = self.turn % candidates.len();
        self.turn = self.turn.wrapping_add(1);
        let picked = match self.plan.settings.pick.mode {
            PickMode::PowerOfChoices => {
                let sample = self.plan.settings.pick.sample.max(1);
                self.best_of(candidates, start, sample, now)
            }
            PickMode::SortedRoundRobin => {
                candidates.sort_by(|a, b| self.compare(*a, *b, now));
                let order = candidates
                    .iter()
                    .skip(start)
                    .chain(candidates.iter().take(start));
                order.copied().find(|key| self.takes(*key))
            }
        };
        picked.map_or(Pick::Full, Pick::To)
    }

    fn takes(&self, key: WriterKey) -> bool {
        self.writers.get(key).is_some_and(|writer| writer.has_room)
    }

    /// The best of a few with room; if none has any, the first of the rest that does.
    fn best_of(
        &self,
        candidates: &[WriterKey],
        start: usize,
        sample: usize,
        now: Millis,
    ) -> Option<WriterKey> {
        let order = candidates
            .iter()
            .skip(start)
            .chain(candidates.iter().take(start));
        let mut order = order.copied();
        let mut best: Option<(Rank, WriterKey)> = None;
        for key in order.by_ref().take(sample) {
            let Some(writer) = self.writers.get(key).filter(|writer| writer.has_room) else {
                continue;
            };
            let rank = self.rank(writer, now);
            if best.is_none_or(|(other, _)| rank.before(&other)) {
                best = Some((rank, key));
            }
        }
        match best {
            Some((_, key)) => Some(key),
            None => order.find(|key| self.takes(*key)),
        }
    }

    /// Of a generation older than the active one.
    pub(super) fn is_stale(&self, writer: &Writer) -> bool {
        writer.generation < self.plan.generations.active
    }

    fn rank(&self, writer: &Writer, now: Millis) -> Rank {
        let state = match writer.state {
            WriterState::Active => 0.0,
            WriterState::Warm => SCORE_WARM,
            WriterState::Draining { .. } => SCORE_DRAINING,
        };
        let add = |holds: bool, score: f64| if holds { score } else { 0.0 };
        let rtt = writer.pulse.rtt_ema_ms().unwrap_or(0.0);
        let rtt = (rtt / RTT_STEP_MS).floor() * RTT_STEP_MS;
        Rank {
            score: state
                + add(self.is_stale(writer), SCORE_STALE)
                + add(writer.pulse.is_degraded(), SCORE_DEGRADED)
                + f64::from(idle_class(writer, now)) * SCORE_IDLE
                + f64::from(writer.used_pct) * SCORE_QUEUE_PCT
                + rtt.min(SCORE_RTT_MAX),
            sessions: writer.registry.sessions(),
            endpoint: writer.endpoint,
            id: writer.id,
        }
    }

    fn compare(&self, a: WriterKey, b: WriterKey, now: Millis) -> Ordering {
        let (Some(a), Some(b)) = (self.writers.get(a), self.writers.get(b)) else {
            return Ordering::Equal;
        };
        let key = |writer: &Writer| {
            let state = match writer.state {
                WriterState::Active => 0,
                WriterState::Warm => 1,
                WriterState::Draining { .. } => 2,
            };
            (
                state,
                self.is_stale(writer),
                writer.pulse.is_degraded(),
                idle_class(writer, now),
                writer.used_pct,
            )
        };
        let order = key(a).cmp(&key(b));
        match self.plan.settings.pick.deterministic {
            true => order.then_with(|| (a.endpoint, a.id).cmp(&(b.endpoint, b.id))),
            false => order,
        }
    }

    /// The list of those new sessions go to, after anything about a group's writers changed.
    pub(super) fn regroup(&mut self, dc: i16) {
        let mut open = self.members(dc, |pool, writer| {
            writer.is_active() && pool.is_mapped(writer)
        });
        open.sort_by_key(|key| self.writers.get(*key).map(|w| (w.endpoint, w.id)));
        if let Some(group) = self.groups.get_mut(&dc) {
            group.open = open;
        }
    }
}

impl Rank {
    fn before(&self, other: &Self) -> bool {
        self.score
            .total_cmp(&other.score)
            .then_with(|| {
                let key = |rank: &Self| (rank.sessions, rank.endpoint, rank.id);
                key(self).cmp(&key(other))
            })
            .is_lt()
    }
}

fn idle_class(writer: &Writer, now: Millis) -> u8 {
    match writer.idle_ms(now) {
        IDLER_MS.. => 2,
        IDLE_MS.. => 1,
        _ => 0,
    }
}
