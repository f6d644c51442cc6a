//! Shares: how many writers a shard wants of each group, and the dials of the health tick that get
//! them.
//!
//! ```text
//!   Steady  per tick, group and family one round that dials the difference; back-off after a round
//!           that did not reach the share
//! ```
//!
//! Source: middle-proxy.md 11.3, 13, 14.1.

use std::{sync::Arc, time::Duration};

use super::{
    super::super::Millis,
    Pool,
    dial::Purpose,
    endpoints::{Choice, Wish},
    group::family,
    startup::Startup,
};
use crate::policy::me::{
    floor::by_family,
    plan::{Fill as Stage, GroupPlan, Plan},
};

/// The health tick's dials of one group and family.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fill {
    /// No round before.
    due: Option<Millis>,
    /// What the next pause grows from; zero stands for the base.
    backoff: Duration,
    round: Option<Round>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    /// Dials not begun yet.
    left: u32,
    running: u32,
}

impl Pool {
    /// Writers wanted of this shard, by the plan or because a session needed one.
    pub(super) fn share(&self, planned: &GroupPlan) -> u32 {
        let share = self.planned_share(planned);
        let group = self.groups.get(&planned.dc);
        let demand = group.is_some_and(|group| group.demand.is_some());
        share.max(u32::from(demand))
    }

    pub(super) fn planned_share(&self, planned: &GroupPlan) -> u32 {
        planned.shares.get(self.place.shard).copied().unwrap_or(0)
    }

    /// What of the share falls on each family.
    pub(super) fn share_by_family(&self, planned: &GroupPlan) -> [u32; 2] {
        let of = |wanted| {
            let mut endpoints = planned.endpoints.iter();
            endpoints
                .by_ref()
                .filter(|at| family(**at) == wanted)
                .count()
        };
        let endpoints = [of(0), of(1)];
        let parts = by_family(planned.dc, &planned.shares, self.place.shard, endpoints);
        match (parts, self.share(planned)) {
            // On demand: one of the family that is preferred.
            ([0, 0], 1) => {
                let prefer = usize::from(self.plan.settings.families.prefer_ipv6);
                let at = if endpoints[prefer] > 0 {
                    prefer
                } else {
                    1 - prefer
                };
                std::array::from_fn(|wanted| u32::from(wanted == at))
            }
            (parts, _) => parts,
        }
    }

    /// Active writers on endpoints of the group, by family.
    pub(super) fn alive(&self, planned: &GroupPlan) -> [u32; 2] {
        let mut alive = [0; 2];
        let Some(group) = self.groups.get(&planned.dc) else {
            return alive;
        };
        for writer in group
            .writers
            .iter()
            .filter_map(|key| self.writers.get(*key))
        {
            if writer.is_active() && planned.endpoints.contains(&writer.endpoint) {
                alive[family(writer.endpoint)] += 1;
            }
        }
        alive
    }

    /// Alive, being dialled to fill a share, or being refilled, by family.
    pub(super) fn expected(&self, planned: &GroupPlan) -> [u32; 2] {
        let alive = self.alive(planned);
        let filling = self.filling(planned.dc);
        let group = self.groups.get(&planned.dc);
        std::array::from_fn(|at| {
            let refill = group.is_some_and(|group| group.refill[at].is_some());
            alive[at] + filling[at] + u32::from(refill)
        })
    }

    /// A new plan: stages and ticks.
    pub(super) fn plan_fill(&mut self, before: &Plan, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let ticked = plan.tick != self.ticked;
        let turned = plan.fill != before.fill || plan.fill_round != before.fill_round;
        self.ticked = plan.tick;
        if ticked {
            self.budget = plan.limits.dials_per_tick.max(1);
        }
        if turned {
            self.startup = Startup::default();
            self.deadline.touch();
            for group in self.groups.values_mut() {
                group.start.again();
            }
        }
        match plan.fill {
            Stage::Not => {}
            Stage::First => self.fill_first(now),
            Stage::Rest if turned => self.rest_round(now),
            Stage::Rest => {}
            Stage::Steady if ticked || turned => self.tick(now),
            Stage::Steady => {}
        }
        self.judge_startup(now);
    }

    /// One health tick: every group below its share may begin a round.
    fn tick(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let count = plan.groups.len().max(1);
        // Another group comes first each time, so that a small budget reaches all of them.
        let from = usize::try_from(plan.tick % count as u64).unwrap_or(0);
        let order = plan
            .groups
            .iter()
            .skip(from)
            .chain(plan.groups.iter().take(from));
        for planned in order {
            for wanted in [0, 1] {
                self.tick_of(planned, wanted, now);
            }
        }
    }

    fn missing(&self, planned: &GroupPlan, wanted: usize) -> u32 {
        let need = self.share_by_family(planned)[wanted];
        need.saturating_sub(self.expected(planned)[wanted])
    }

    fn tick_of(&mut self, planned: &GroupPlan, wanted: usize, now: Millis) {
        let dc = planned.dc;
        let missing = self.missing(planned, wanted);
        let base = self.plan.settings.dial.backoff_base;
        let budget = self.budget;
        let may_dial = self.may_dial();
        let Some(fill) = self
            .groups
            .get_mut(&dc)
            .map(|group| &mut group.fill[wanted])
        else {
            return;
        };
        if fill.round.is_some() {
            return;
        }
        if missing == 0 {
            *fill = Fill::default();
            return;
        }
        if planned.outage[wanted] || !may_dial || fill.due.is_some_and(|due| due > now) {
            return;
        }
        if budget == 0 {
            let step = fill.backoff.max(base);
            fill.due = Some(now.after(step));
            return;
        }
        fill.round = Some(Round {
            left: missing,
            running: 0,
        });
        self.pump_round(planned, wanted, now);
    }

    /// Begins the dials of a round as far as there is room, and ends it when there are no more.
    fn pump_round(&mut self, planned: &GroupPlan, wanted: usize, now: Millis) {
        let dc = planned.dc;
        // What was opened on demand counts as coverage.
        let over_cap = self
            .groups
            .get(&dc)
            .is_some_and(|group| group.demand.is_some());
        let wish = Wish {
            family: Some(wanted),
            warm: None,
            shuffled: false,
        };
        let mut not_before = None;
        while self
            .round_mut(dc, wanted)
            .is_some_and(|round| round.left > 0)
        {
            if !self.has_dial_slot(dc) {
                break;
            }
            let blocked =
                self.budget == 0 || !self.has_active_room(dc, over_cap) || !self.may_dial();
            let choice = match blocked || self.missing(planned, wanted) == 0 {
                true => Choice::Nowhere,
                false => self.choose(dc, wish, now),
            };
            let Some(round) = self.round_mut(dc, wanted) else {
                return;
            };
            match choice {
                Choice::To(endpoint) => {
                    round.left -= 1;
                    round.running += 1;
                    self.budget -= 1;
                    self.dial(dc, endpoint, Purpose::Health);
                }
                Choice::At(at) => {
                    round.left = 0;
                    not_before = Some(at);
                }
                Choice::Nowhere => round.left = 0,
            }
        }
        let is_over = self
            .round_mut(dc, wanted)
            .is_some_and(|round| round.left == 0 && round.running == 0);
        if is_over {
            self.end_round(planned, wanted, not_before, now);
        }
    }

    /// A dial of the group ended: rounds that waited for its place go on.
    pub(super) fn pump_group(&mut self, dc: i16, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let Some(planned) = plan.group(dc) else {
            return;
        };
        for wanted in [0, 1] {
            if self.round_mut(dc, wanted).is_some() {
                self.pump_round(planned, wanted, now);
            }
        }
        if plan.fill == Stage::First {
            self.fill_first_of(planned, now);
        }
    }

    fn round_mut(&mut self, dc: i16, wanted: usize) -> Option<&mut Round> {
        let group = self.groups.get_mut(&dc)?;
        group.fill[wanted].round.as_mut()
    }

    fn end_round(
        &mut self,
        planned: &GroupPlan,
        wanted: usize,
        not_before: Option<Millis>,
        now: Millis,
    ) {
        let need = self.share_by_family(planned)[wanted];
        let is_reached = self.alive(planned)[wanted] >= need;
        let (base, cap) = {
            let dial = &self.plan.settings.dial;
            (dial.backoff_base, dial.backoff_cap.max(dial.backoff_base))
        };
        let Some(group) = self.groups.get_mut(&planned.dc) else {
            return;
        };
        let fill = &mut group.fill[wanted];
        if is_reached {
            *fill = Fill::default();
            return;
        }
        let step = fill.backoff.clamp(base, cap);
        let pause = now.after(step + self.dice.part_of(step / 2));
        *fill = Fill {
            due: Some(not_before.map_or(pause, |at| at.max(now))),
            backoff: (step * 2).min(cap),
            round: None,
        };
    }

    /// A dial of the health tick ended; [`Self::pump_group`] does the rest.
    pub(super) fn fill_dialled(&mut self, dc: i16, wanted: usize) {
        let Some(round) = self.round_mut(dc, wanted) else {
            return;
        };
        round.running = round.running.saturating_sub(1);
        if self.plan.group(dc).is_none()
            && let Some(group) = self.groups.get_mut(&dc)
        {
            group.fill[wanted] = Fill::default();
        }
    }
}
