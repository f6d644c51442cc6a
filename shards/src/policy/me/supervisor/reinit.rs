//! Generations: what triggers a new one, how it is warmed, and when the old one goes.
//!
//! ```text
//!   Idle --trigger, coalesced--> Warming --all shards done--> gate --quorum--> committed, Idle
//!                                  ^                           |
//!                                  '---- next trigger, or 30 s ---- Held <--closed
//! ```
//!
//! Without hardswap nothing is warmed: `Warming` waits for the groups to be covered, and what goes
//! are writers outside the map. Numbers only grow, and a plan names the state and not the step, so
//! a shard that missed one does the right thing with the next.
//!
//! Source: middle-proxy.md 15.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use super::super::{
    super::Millis,
    plan::Generations,
    report::WriterRow,
    status::{BlockReason, GateStatus, GenerationStatus},
};
use super::{
    groups::{Group, Groups},
    view::View,
};
use crate::settings::ReinitSettings;

/// What asks for a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trigger {
    Timer,
    Map,
    Secret,
}

/// Endpoints of all groups.
type Desired = Vec<(i16, Arc<[SocketAddr]>)>;

/// Generation numbers and the cycle.
#[derive(Clone, Debug)]
pub(super) struct Reinit {
    active: u64,
    last: u64,
    pending: Option<Pending>,
    warm_round: u64,
    /// Serial of the first plan with this round; `None` before it was made.
    pub(super) round_plan: Option<u64>,
    cycle: Cycle,
    queued: usize,
    forced: bool,
    due: Option<Millis>,
    timer_from: Millis,
    gate: GateStatus,
    drain_before: BTreeMap<i16, u64>,
    /// Groups that were not covered when their generation was committed.
    leftover: BTreeSet<i16>,
    /// Without hardswap: groups whose unmapped writers may go.
    covered: BTreeSet<i16>,
    drain_unmapped: bool,
    swap_counted: bool,
}

#[derive(Clone, Debug)]
struct Pending {
    number: u64,
    since: Millis,
    desired: Desired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cycle {
    Idle,
    Warming { until: Millis },
    Held { again: Millis },
}

/// What came of a step, for counters and log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// The pending generation was kept.
    Reused(u64),
    /// A new one was begun; `expired`: in place of one that was too old.
    Began {
        /// Its number.
        number: u64,
        /// The one before was older than half an hour.
        expired: bool,
    },
    /// Without hardswap: groups without a writer get one first.
    Checking,
    /// The gate stays closed.
    Blocked(BlockReason),
    /// A cycle committed; `swapped`: there were writers to drain.
    Committed {
        /// The active generation now.
        number: u64,
        /// For `pool_swap_total`.
        swapped: bool,
    },
}

/// What the cycle looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight<'a> {
    pub(super) settings: &'a ReinitSettings,
    pub(super) groups: &'a Groups,
    pub(super) view: View<'a>,
    /// All families' endpoints, by DC.
    pub(super) map: &'a BTreeMap<i16, Vec<SocketAddr>>,
    /// An enabled family is suppressed.
    pub(super) suppressed: bool,
    /// `me_reconnect_backoff_cap_ms`.
    pub(super) backoff_cap: Duration,
    /// A health tick is running.
    pub(super) tick: bool,
}

impl Reinit {
    pub(super) fn new(now: Millis) -> Self {
        Self {
            active: 1,
            last: 1,
            pending: None,
            warm_round: 0,
            round_plan: None,
            cycle: Cycle::Idle,
            queued: 0,
            forced: false,
            due: None,
            timer_from: now,
            gate: GateStatus {
                route_quorum_ok: false,
                redundancy_ok: false,
                block_reason: BlockReason::Open,
                updated_at: Millis(0),
            },
            drain_before: BTreeMap::new(),
            leftover: BTreeSet::new(),
            covered: BTreeSet::new(),
            drain_unmapped: false,
            swap_counted: false,
        }
    }

    /// Asks for a cycle. Collected for the window; beyond the queue's bound a trigger is dropped,
    /// because those that wait cover it.
    pub(super) fn trigger(&mut self, what: Trigger, settings: &ReinitSettings, now: Millis) {
        if what == Trigger::Map {
            self.drain_unmapped = false;
            self.covered.clear();
        }
        self.forced |= what == Trigger::Secret;
        if self.queued < settings.triggers_max {
            self.queued += 1;
        }
        self.due.get_or_insert(now.after(settings.coalesce));
    }

    /// The timer counts from here.
    pub(super) fn start_timer(&mut self, now: Millis) {
        self.timer_from = now;
    }

    /// Runs the timer.
    pub(super) fn tick_timer(&mut self, settings: &ReinitSettings, now: Millis) {
        if self.timer_from.after(settings.every) <= now {
            self.timer_from = now;
            self.trigger(Trigger::Timer, settings, now);
        }
    }

    /// The keys changed: a shorter period takes effect at once, and a warm-up that is no longer
    /// wanted ends.
    pub(super) fn set(&mut self, before: &ReinitSettings, after: &ReinitSettings, now: Millis) {
        if after.every < before.every {
            self.timer_from = now;
            self.trigger(Trigger::Timer, after, now);
        }
        if after.hardswap != before.hardswap {
            self.pending = None;
            self.cycle = Cycle::Idle;
            self.drain_unmapped = false;
            self.covered.clear();
        }
    }

    /// Goes one step if one is due; call until there is none.
    pub(super) fn step(&mut self, sight: Sight<'_>, now: Millis) -> Option<Done> {
        let idle = match self.cycle {
            Cycle::Idle | Cycle::Held { .. } => true,
            Cycle::Warming { .. } => false,
        };
        if idle && self.due.is_some_and(|due| due <= now) {
            return Some(self.begin(sight, now));
        }
        match self.cycle {
            Cycle::Idle => {
                self.finish_leftover(sight, now);
                None
            }
            Cycle::Warming { until } => {
                let over = until <= now || self.is_warm(sight);
                over.then(|| self.judge(sight, now))
            }
            Cycle::Held { again } if sight.tick => {
                let done = self.judge(sight, now);
                if let Done::Committed { .. } = done {
                    return Some(done);
                }
                self.cycle = Cycle::Held { again };
                if again <= now && sight.settings.hardswap {
                    self.warm(now);
                }
                None
            }
            Cycle::Held { .. } => None,
        }
    }

    /// When a step may be due without a tick or a report.
    pub(super) fn deadline(&self, settings: &ReinitSettings) -> Millis {
        let timer = self.timer_from.after(settings.every);
        let due = match self.cycle {
            Cycle::Warming { until } => Some(until),
            Cycle::Idle | Cycle::Held { .. } => self.due,
        };
        due.map_or(timer, |due| due.min(timer))
    }

    /// For plans.
    pub(super) fn generations(&self) -> Generations {
        Generations {
            active: self.active,
            warming: self.pending.as_ref().map(|pending| pending.number),
            warm_round: self.warm_round,
            drain_unmapped: self.drain_unmapped,
            drain_others_before: match self.drain_before.is_empty() {
                true => 0,
                false => self.active,
            },
        }
    }

    /// Writers of a group before this generation drain.
    pub(super) fn drain_before(&self, dc: i16) -> u64 {
        self.drain_before.get(&dc).copied().unwrap_or_default()
    }

    /// Without hardswap: the unmapped writers of a group may go.
    pub(super) fn is_covered(&self, dc: i16) -> bool {
        self.covered.contains(&dc)
    }

    /// The gate at its last evaluation.
    pub(super) fn gate(&self) -> GateStatus {
        self.gate
    }

    /// For the API.
    pub(super) fn status(&self) -> GenerationStatus {
        let pending = self.pending.as_ref().map_or(0, |pending| pending.number);
        GenerationStatus {
            active: self.active,
            warm: pending,
            pending,
            pending_since: self.pending.as_ref().map(|pending| pending.since),
        }
    }

    fn begin(&mut self, sight: Sight<'_>, now: Millis) -> Done {
        let forced = std::mem::take(&mut self.forced);
        self.queued = 0;
        self.due = None;
        self.swap_counted = false;
        let desired = desired(sight.groups);
        if desired.is_empty() {
            self.cycle = Cycle::Idle;
            let reason = match sight.suppressed {
                true => BlockReason::SuppressionActive,
                false => BlockReason::CoverageQuorum,
            };
            self.set_gate(false, false, reason, now);
            return Done::Blocked(reason);
        }
        if !sight.settings.hardswap {
            self.cycle = Cycle::Warming {
                until: now.after(COVERING_MAX),
            };
            return Done::Checking;
        }
        let age = self
            .pending
            .as_ref()
            .map(|pending| now.since(pending.since));
        let expired = age.is_some_and(|age| age > PENDING_MAX_MS);
        let kept = self.pending.as_ref().filter(|pending| {
            !forced && !expired && pending.number >= self.active && pending.desired == desired
        });
        let kept = kept.map(|pending| pending.number);
        let done = match kept {
            Some(number) => Done::Reused(number),
            None => {
                self.last += 1;
                self.pending = Some(Pending {
                    number: self.last,
                    since: now,
                    desired,
                });
                Done::Began {
                    number: self.last,
                    expired,
                }
            }
        };
        self.warm(now);
        done
    }

    fn warm(&mut self, now: Millis) {
        self.warm_round += 1;
        self.round_plan = None;
        self.cycle = Cycle::Warming {
            until: now.after(WARMING_MAX),
        };
    }

    fn is_warm(&self, sight: Sight<'_>) -> bool {
        if !sight.settings.hardswap {
            return sight.groups.rows.iter().all(|row| self.covers(row, sight));
        }
        let round = self.warm_round;
        self.round_plan
            .is_some_and(|plan| sight.view.all(plan, |report| report.warm_done >= round))
    }

    /// A group is covered by what counts as fresh in this cycle.
    fn covers(&self, group: &Group, sight: Sight<'_>) -> bool {
        let number = match (&self.pending, sight.settings.hardswap) {
            (Some(pending), true) => pending.number,
            (None, true) => self.active,
            (_, false) => 0,
        };
        let shares = &group.given;
        sight
            .view
            .is_covered(group, shares, |row| row.generation >= number)
    }

    /// Evaluates the gate, and commits as far as it is open.
    fn judge(&mut self, sight: Sight<'_>, now: Millis) -> Done {
        let rows = &sight.groups.rows;
        let covered: BTreeSet<i16> = rows
            .iter()
            .filter(|row| self.covers(row, sight))
            .map(|row| row.dc)
            .collect();
        // At most some hundred groups: exact.
        let ratio = covered.len() as f64 / rows.len().max(1) as f64;
        let quorum = !rows.is_empty() && ratio >= sight.settings.fresh_ratio_min;
        let all = !rows.is_empty() && covered.len() == rows.len();
        let reason = match (quorum, all) {
            (false, _) if rows.is_empty() && sight.suppressed => BlockReason::SuppressionActive,
            (false, _) => BlockReason::CoverageQuorum,
            (true, false) => BlockReason::Redundancy,
            (true, true) => BlockReason::Open,
        };
        self.set_gate(quorum, all, reason, now);
        if !quorum {
            self.cycle = Cycle::Held {
                again: now.after(sight.backoff_cap),
            };
            return Done::Blocked(reason);
        }
        match sight.settings.hardswap {
            true => self.commit(covered, sight),
            false => self.release_unmapped(covered, all, sight, now),
        }
    }

    fn commit(&mut self, covered: BTreeSet<i16>, sight: Sight<'_>) -> Done {
        let number = self
            .pending
            .take()
            .map_or(self.active, |pending| pending.number);
        self.active = number;
        self.cycle = Cycle::Idle;
        let rows = &sight.groups.rows;
        let left = rows
            .iter()
            .map(|row| row.dc)
            .filter(|dc| !covered.contains(dc));
        self.leftover = left.collect();
        self.drain_before.retain(|dc, _| self.leftover.contains(dc));
        self.drain_before
            .extend(covered.iter().map(|dc| (*dc, number)));
        let leftover = &self.leftover;
        let stale = |row: &WriterRow| row.generation < number && !leftover.contains(&row.dc);
        let swapped = !self.swap_counted && has(sight, stale);
        self.swap_counted |= swapped;
        Done::Committed { number, swapped }
    }

    fn release_unmapped(
        &mut self,
        covered: BTreeSet<i16>,
        all: bool,
        sight: Sight<'_>,
        now: Millis,
    ) -> Done {
        let unmapped = |row: &WriterRow| {
            let group = sight.map.get(&row.dc);
            group.is_none_or(|list| list.binary_search(&row.endpoint).is_err())
        };
        let may_go = |row: &WriterRow| {
            let bound = sight.groups.get(row.dc).is_some() && !covered.contains(&row.dc);
            unmapped(row) && !bound
        };
        let swapped = !self.swap_counted && has(sight, may_go);
        self.swap_counted |= swapped;
        self.covered = covered;
        self.drain_unmapped = true;
        self.cycle = match all || !has(sight, unmapped) {
            true => Cycle::Idle,
            false => Cycle::Held {
                again: now.after(sight.backoff_cap),
            },
        };
        Done::Committed {
            number: self.active,
            swapped,
        }
    }

    /// Groups that a commit left out and that are covered by now.
    fn finish_leftover(&mut self, sight: Sight<'_>, now: Millis) {
        if !sight.tick || self.leftover.is_empty() {
            return;
        }
        let covered: Vec<i16> = self
            .leftover
            .iter()
            .filter(|dc| {
                let group = sight.groups.get(**dc);
                group.is_none_or(|group| self.covers(group, sight))
            })
            .copied()
            .collect();
        for dc in covered {
            self.leftover.remove(&dc);
            self.drain_before.insert(dc, self.active);
        }
        if self.leftover.is_empty() {
            self.set_gate(true, true, BlockReason::Open, now);
        }
    }

    fn set_gate(&mut self, quorum: bool, redundancy: bool, reason: BlockReason, now: Millis) {
        self.gate = GateStatus {
            route_quorum_ok: quorum,
            redundancy_ok: redundancy,
            block_reason: reason,
            updated_at: now,
        };
    }
}

fn desired(groups: &Groups) -> Desired {
    let rows = groups.rows.iter();
    rows.map(|row| (row.dc, Arc::clone(&row.endpoints)))
        .collect()
}

fn has(sight: Sight<'_>, mut which: impl FnMut(&WriterRow) -> bool) -> bool {
    let mut writers = sight.view.writers();
    writers.any(|(_, row)| !row.state.is_draining() && which(row))
}

/// A pending generation older than this is given up.
const PENDING_MAX_MS: u64 = 1_800_000;
/// Warm-up in which some shard does not say that it is over.
const WARMING_MAX: Duration = Duration::from_secs(600);
/// Without hardswap: how long the health tick gets to cover all groups before the gate is judged.
const COVERING_MAX: Duration = Duration::from_secs(30);
