//! Writers on their way out: how a drain begins, and the cleaning that ends it, once per second.
//!
//! ```text
//!   1 no sessions             removed          4 past its deadline         forced
//!   2 me_instadrain           forced           5 older than the TTL        marked
//!   3 too many with sessions  oldest forced    6 older still               some sessions released
//! ```
//!
//! Force: all sessions are released and the writer is removed.
//!
//! Source: middle-proxy.md 17, and 11.3 and 11.4 for writers beyond the share.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::super::Millis,
    Pool,
    exchange::{Action, Ask, SessionFacts, WriterKey},
    group::family,
    loss::{Ending, survives},
};
use crate::{
    policy::me::{plan::Fill, report::WriterState},
    proto::middle::ops::ConnId,
    settings::DrainSettings,
};

/// Between two cleanings.
const CLEAN_MS: u64 = 1_000;

impl Pool {
    /// Drains some writers. `may_take`: they may take sessions for lack of others, whoever else
    /// there is; without it only those may that leave no usable writer of their group behind.
    pub(super) fn drain(&mut self, keys: &BTreeSet<WriterKey>, may_take: bool, now: Millis) {
        let deadline = now.after(self.plan.settings.drain.force_close);
        let mut groups = BTreeSet::new();
        for key in keys {
            let Some(dc) = self.writers.get(*key).map(|writer| writer.dc) else {
                continue;
            };
            let fallback = may_take || !self.has_other_usable(dc, keys);
            let Some(writer) = self.writers.get_mut(*key) else {
                continue;
            };
            match writer.state {
                WriterState::Draining { .. } => continue,
                WriterState::Warm => self.warm_delta -= 1,
                WriterState::Active => self.active_delta -= 1,
            }
            writer.state = WriterState::Draining {
                fallback,
                started: now,
                deadline,
                over_ttl: false,
            };
            groups.insert(dc);
        }
        for dc in groups {
            self.regroup(dc);
            self.outbox.changed();
            self.deadline.touch();
        }
    }

    pub(super) fn drain_one(&mut self, key: WriterKey, now: Millis) {
        self.drain(&BTreeSet::from([key]), false, now);
    }

    fn has_other_usable(&self, dc: i16, leaving: &BTreeSet<WriterKey>) -> bool {
        self.groups.get(&dc).is_some_and(|group| {
            let others = group.writers.iter().filter(|key| !leaving.contains(key));
            let mut others = others.filter_map(|key| self.writers.get(*key));
            others.any(|writer| writer.is_usable() && self.is_mapped(writer))
        })
    }

    /// Writers draining now: the gauge `pool_drain_active`.
    pub(super) fn draining(&self) -> u64 {
        let draining = self
            .writers
            .iter()
            .filter(|(_, writer)| !writer.is_usable());
        draining.count() as u64
    }

    /// When the next cleaning is due; `None` without writers.
    pub(super) fn clean_due(&self) -> Option<Millis> {
        let due = Millis(self.cleaned.0.saturating_add(CLEAN_MS));
        let has_work = self.writers.len() > 0 || self.groups.values().any(|g| g.demand.is_some());
        has_work.then_some(due)
    }

    /// One cleaning, if a second has passed since the last.
    pub(super) fn clean(&mut self, now: Millis, ask: Ask<'_>) {
        if now.since(self.cleaned) < CLEAN_MS {
            return;
        }
        self.cleaned = now;
        self.deadline.touch();
        let plan = Arc::clone(&self.plan);
        let settings = &plan.settings.drain;
        let mut budget = plan.limits.removals_per_second.max(1);
        for key in self.draining_by_age() {
            if budget > 0
                && self
                    .writers
                    .get(key)
                    .is_some_and(|writer| writer.is_empty())
            {
                budget -= 1;
                self.remove_drained(key);
            }
        }
        // What is left has sessions, but for those the budget did not reach.
        let over = self.force_due(settings, now);
        for key in over.into_iter().take(budget as usize) {
            self.force(key, now, ask);
        }
        self.mark_over_ttl(settings, now);
        self.soft_evict(settings, now, ask);
        self.drop_demand(now);
        self.drain_surplus(now);
        self.tidy_groups();
    }

    /// Draining writers, the oldest drain first.
    fn draining_by_age(&self) -> Vec<WriterKey> {
        let draining = self.writers.iter();
        let mut draining: Vec<(Millis, WriterKey)> = draining
            .filter_map(|(key, writer)| Some((writer.drained_since()?, key)))
            .collect();
        draining.sort_unstable();
        draining.into_iter().map(|(_, key)| key).collect()
    }

    /// Who is to be forced, in the order of the rules.
    fn force_due(&self, settings: &DrainSettings, now: Millis) -> Vec<WriterKey> {
        let mut full: Vec<WriterKey> = self.draining_by_age();
        full.retain(|key| {
            self.writers
                .get(*key)
                .is_some_and(|writer| !writer.is_empty())
        });
        if settings.instant {
            return full;
        }
        let max = self
            .plan
            .limits
            .draining_max
            .map_or(usize::MAX, |max| max as usize);
        let late = full.split_off(full.len().saturating_sub(max));
        let late = late.into_iter().filter(|key| {
            let state = self.writers.get(*key).map(|writer| writer.state);
            matches!(state, Some(WriterState::Draining { deadline, .. }) if deadline <= now)
        });
        full.extend(late.collect::<Vec<_>>());
        full
    }

    fn force(&mut self, key: WriterKey, now: Millis, ask: Ask<'_>) {
        self.tally.pool(|pool| pool.pool_force_close_total += 1);
        self.release_all(key, Ending::Release, now, ask);
        self.remove_drained(key);
    }

    fn remove_drained(&mut self, key: WriterKey) {
        if self.take_writer(key).is_some() {
            self.actions.push_back(Action::CloseWriter(key));
        }
    }

    fn mark_over_ttl(&mut self, settings: &DrainSettings, now: Millis) {
        if settings.ttl.is_zero() {
            return;
        }
        for key in self.draining_by_age() {
            let Some(writer) = self.writers.get_mut(key) else {
                continue;
            };
            if let WriterState::Draining {
                started, over_ttl, ..
            } = &mut writer.state
                && started.after(settings.ttl) < now
                && !*over_ttl
            {
                *over_ttl = true;
                self.outbox.changed();
            }
        }
    }

    fn soft_evict(&mut self, settings: &DrainSettings, now: Millis, ask: Ask<'_>) {
        if !settings.soft_evict || settings.ttl.is_zero() {
            return;
        }
        let age = settings.ttl + settings.soft_evict_grace;
        let mut budget = settings.soft_evict_budget_per_core as usize;
        for key in self.draining_by_age() {
            let Some(writer) = self.writers.get_mut(key) else {
                continue;
            };
            let is_old = writer.drained_since().is_some_and(|at| at.after(age) < now);
            if budget == 0 || !is_old || writer.is_empty() || writer.evict_after > now {
                continue;
            }
            writer.evict_after = now.after(settings.soft_evict_cooldown);
            let few = budget.min(settings.soft_evict_per_writer as usize);
            let silent = self.longest_silent(key, few, now, ask);
            budget -= silent.len();
            for bound in silent {
                self.release(key, bound, true, true, now);
            }
        }
    }

    /// Sessions of a writer that can be moved, the longest silent first.
    fn longest_silent(
        &self,
        key: WriterKey,
        few: usize,
        now: Millis,
        ask: Ask<'_>,
    ) -> Vec<(u32, ConnId)> {
        let Some(writer) = self.writers.get(key) else {
            return Vec::new();
        };
        let spoke = |facts: &SessionFacts| facts.last_c2d.max(facts.last_d2c);
        let mut bound: Vec<_> = writer
            .registry
            .bound()
            .map(|(session, conn)| (ask(key, session), (session, conn)))
            .filter(|(facts, _)| survives(Ending::Release, facts, now))
            .collect();
        bound.sort_by_key(|(facts, _)| spoke(facts));
        bound
            .into_iter()
            .take(few)
            .map(|(_, bound)| bound)
            .collect()
    }

    /// A group this shard has no share of is kept up while it has clients, and some time after.
    fn drop_demand(&mut self, now: Millis) {
        let idle = self.plan.settings.floor.idle;
        for group in self.groups.values_mut() {
            let Some(until) = group.demand else {
                continue;
            };
            let mut writers = group
                .writers
                .iter()
                .filter_map(|key| self.writers.get(*key));
            if writers.any(|writer| writer.is_usable() && !writer.is_empty()) {
                group.demand = Some(now.after(idle));
            } else if until <= now {
                group.demand = None;
                self.outbox.changed();
            }
        }
    }

    /// Active writers beyond the share drain when they were idle for long: one per group a second.
    fn drain_surplus(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        if plan.fill != Fill::Steady {
            return;
        }
        let idle_ms = plan.settings.floor.idle.as_millis();
        for planned in plan.groups.iter() {
            let (alive, wanted) = (self.alive(planned), self.share_by_family(planned));
            let has_surplus = |at: usize| alive[at] > wanted[at];
            let Some(group) = self.groups.get(&planned.dc) else {
                continue;
            };
            if !has_surplus(0) && !has_surplus(1) {
                continue;
            }
            let mut idle: Vec<WriterKey> = group.open.clone();
            idle.retain(|key| {
                self.writers.get(*key).is_some_and(|writer| {
                    writer.is_empty()
                        && u128::from(writer.idle_ms(now)) >= idle_ms
                        && has_surplus(family(writer.endpoint))
                })
            });
            self.by_idleness(&mut idle, now);
            if let Some(key) = idle.first() {
                self.drain_one(*key, now);
            }
        }
    }
}
