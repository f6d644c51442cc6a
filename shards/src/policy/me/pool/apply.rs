//! What a new plan changes on a shard: in one pass, in an order that later steps rely on.
//!
//! First writers change state, so that all that follows counts them right; then dials that nobody
//! wants go, sessions ask again, and last what is missing is dialled.
//!
//! Source: middle-proxy.md 15, 17, 25 ("two phases").

use std::{collections::BTreeSet, sync::Arc};

use super::{super::super::Millis, Pool, dial::Purpose, exchange::WriterKey, group::Group};
use crate::policy::me::{plan::Plan, report::WriterState};

impl Pool {
    /// See [`Pool::apply`].
    pub(super) fn go_by(&mut self, plan: &Arc<Plan>, now: Millis) {
        let before = std::mem::replace(&mut self.plan, Arc::clone(plan));
        self.tally.set_counts(plan.settings.counts);
        (self.active_delta, self.warm_delta) = (0, 0);
        for planned in plan.groups.iter() {
            let dice = &mut self.dice;
            self.groups
                .entry(planned.dc)
                .or_insert_with(|| Group::new(dice));
        }
        self.forget_unmapped();
        self.promote();
        self.drain_by_plan(now);
        self.cancel_unwanted(now);
        let known: Vec<i16> = self.groups.keys().copied().collect();
        for dc in known {
            self.regroup(dc);
            let is_served = self
                .groups
                .get(&dc)
                .is_some_and(|group| !group.open.is_empty());
            if is_served {
                self.wake(dc);
            }
        }
        if before.map_epoch != plan.map_epoch || before.default_dc != plan.default_dc {
            self.wake_all();
        }
        self.plan_warmup(now);
        self.plan_fill(&before, now);
        self.plan_tasks(now);
        self.tidy_groups();
        self.outbox.changed();
        self.deadline.touch();
    }

    /// Quarantine and failures of endpoints that left the map.
    fn forget_unmapped(&mut self) {
        let map = &self.plan.map;
        self.bars
            .retain(|endpoint| map.values().any(|known| known.contains(&endpoint)));
        for (dc, group) in &mut self.groups {
            let known = map.get(dc);
            group
                .fails
                .retain(|at, _| known.is_some_and(|known| known.contains(at)));
        }
    }

    /// Dials and refills that the plan leaves no room for.
    fn cancel_unwanted(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let may_dial = self.may_dial();
        self.cancel_dials(now, |dial| {
            let known = plan.map.get(&dial.dc);
            let is_mapped = known.is_some_and(|known| known.contains(&dial.endpoint));
            let is_timely = match dial.purpose {
                Purpose::Warm { generation } => {
                    let generations = plan.generations;
                    generations.warming == Some(generation) || generations.active == generation
                }
                _ => true,
            };
            may_dial && is_mapped && is_timely
        });
        let gone: Vec<i16> = self
            .groups
            .keys()
            .copied()
            .filter(|dc| !may_dial || plan.group(*dc).is_none())
            .collect();
        for dc in gone {
            for wanted in [0, 1] {
                self.end_refill(dc, wanted, false);
            }
        }
    }

    /// Warm writers of the active generation become active.
    fn promote(&mut self) {
        let active = self.plan.generations.active;
        let warm: Vec<WriterKey> = self
            .writers
            .iter()
            .filter(|(_, writer)| writer.is_warm() && writer.generation == active)
            .map(|(key, _)| key)
            .collect();
        for key in warm {
            if let Some(writer) = self.writers.get_mut(key) {
                writer.state = WriterState::Active;
            }
        }
    }

    /// Writers that the plan has no use for drain.
    fn drain_by_plan(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let generations = plan.generations;
        let (mut old, mut unmapped) = (BTreeSet::new(), BTreeSet::new());
        for (key, writer) in self.writers.iter().filter(|(_, writer)| writer.is_usable()) {
            let before = match plan.group(writer.dc) {
                Some(planned) => planned.drain_before,
                None => generations.drain_others_before,
            };
            let is_abandoned = writer.is_warm() && generations.warming != Some(writer.generation);
            if writer.generation < before || is_abandoned {
                old.insert(key);
            } else if self.may_leave_unmapped(writer.dc) && !self.is_mapped(writer) {
                unmapped.insert(key);
            }
        }
        self.drain(&old, false, now);
        self.drain(&unmapped, true, now);
    }

    /// Without hardswap: writers of a group that are not in the map may go.
    fn may_leave_unmapped(&self, dc: i16) -> bool {
        let covered = self.plan.group(dc).is_none_or(|planned| planned.covered);
        self.plan.generations.drain_unmapped && covered
    }

    /// Groups that are in no plan and have nothing left.
    pub(super) fn tidy_groups(&mut self) {
        let (plan, waiting) = (&self.plan, &self.waiting);
        self.groups.retain(|dc, group| {
            let is_busy = !group.writers.is_empty() || group.dials > 0;
            is_busy || plan.group(*dc).is_some() || waiting.has(*dc)
        });
    }
}
