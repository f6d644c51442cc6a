//! Warm-up of the generation to come: per group one dial after the other, in passes.
//!
//! ```text
//!   pass: wait rand(delay), dial; so often as writers are missing
//!   between passes: min(base * 2^pass, cap) + rand(half)
//!   over: nothing is missing, or all passes are through
//! ```
//!
//! Source: middle-proxy.md 15.

use std::{sync::Arc, time::Duration};

use super::{
    super::super::Millis,
    Pool,
    dial::Purpose,
    endpoints::{Choice, Wish},
};
use crate::policy::me::plan::GroupPlan;

/// The warm-up of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Warm {
    pass: u32,
    /// Dials left of this pass.
    left: u32,
    /// The next one; `None` while one is under way, or there is nothing to do.
    pub(super) next: Option<Millis>,
    has_begun: bool,
    is_over: bool,
}

/// Which warm-up is under way: its generation and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Warmup {
    pub(super) generation: u64,
    round: u64,
}

impl Pool {
    /// A new plan: a warm-up begins, begins anew, or is over.
    pub(super) fn plan_warmup(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let generations = plan.generations;
        let wanted = generations.warming.map(|generation| Warmup {
            generation,
            round: generations.warm_round,
        });
        if wanted != self.warmup {
            self.warmup = wanted;
            for group in self.groups.values_mut() {
                group.warm = Warm::default();
            }
        }
        for (dc, group) in &mut self.groups {
            if plan.group(*dc).is_none() {
                group.warm = Warm::default();
            }
        }
        for planned in plan.groups.iter().filter(|_| wanted.is_some()) {
            let group = self.groups.get(&planned.dc);
            // A group may also be new to a warm-up under way.
            if group.is_some_and(|group| !group.warm.has_begun) {
                self.begin_pass(planned, 0, now);
            }
        }
        self.deadline.touch();
        self.judge_warmup();
    }

    /// Warm writers of the generation to come that a group still lacks here.
    fn cold(&self, planned: &GroupPlan) -> u32 {
        let (Some(warmup), Some(group)) = (self.warmup, self.groups.get(&planned.dc)) else {
            return 0;
        };
        let writers = group
            .writers
            .iter()
            .filter_map(|key| self.writers.get(*key));
        let warm = writers.filter(|writer| {
            writer.is_warm()
                && writer.generation == warmup.generation
                && planned.endpoints.contains(&writer.endpoint)
        });
        let warm = u32::try_from(warm.count()).unwrap_or(u32::MAX);
        self.share(planned).saturating_sub(warm)
    }

    /// Warm-up dials of a group under way: one, or one more after passes began anew.
    fn warming(&self, dc: i16) -> u32 {
        let dials = self.dials.values();
        let warming = dials.filter(|dial| dial.dc == dc && dial.purpose.is_warm());
        u32::try_from(warming.count()).unwrap_or(u32::MAX)
    }

    fn begin_pass(&mut self, planned: &GroupPlan, pass: u32, now: Millis) {
        let missing = self.cold(planned);
        let pause = match pass {
            0 => Duration::ZERO,
            _ => self.pass_pause(pass - 1),
        };
        let first = now.after(pause + self.warm_delay());
        let Some(group) = self.groups.get_mut(&planned.dc) else {
            return;
        };
        group.warm = Warm {
            pass,
            left: missing,
            next: (missing > 0).then_some(first),
            has_begun: true,
            is_over: missing == 0,
        };
        self.deadline.touch();
    }

    fn warm_delay(&mut self) -> Duration {
        let reinit = &self.plan.settings.reinit;
        self.dice
            .between(reinit.warm_delay_min, reinit.warm_delay_max)
    }

    fn pass_pause(&mut self, pass: u32) -> Duration {
        let settings = &self.plan.settings;
        let grown = settings
            .reinit
            .warm_pass_backoff
            .saturating_mul(1 << pass.min(20));
        let pause = grown.min(settings.dial.backoff_cap);
        pause + self.dice.part_of(pause / 2)
    }

    /// Warm-up dials that are due.
    pub(super) fn advance_warmup(&mut self, now: Millis) {
        let Some(warmup) = self.warmup else {
            return;
        };
        let plan = Arc::clone(&self.plan);
        for planned in plan.groups.iter() {
            let warm = self.groups.get(&planned.dc).map(|group| group.warm);
            if warm.is_some_and(|warm| warm.next.is_some_and(|at| at <= now)) {
                self.warm_one(planned, warmup.generation, now);
            }
        }
        self.judge_warmup();
    }

    fn warm_one(&mut self, planned: &GroupPlan, generation: u64, now: Millis) {
        let dc = planned.dc;
        let again = now.after(self.warm_delay());
        let is_full = !self.has_dial_slot(dc);
        let may = self.may_dial() && self.has_warm_room() && self.cold(planned) > self.warming(dc);
        let wish = Wish {
            family: None,
            warm: Some(generation),
            shuffled: false,
        };
        let choice = match may && !is_full {
            true => self.choose(dc, wish, now),
            false => Choice::Nowhere,
        };
        let Some(group) = self.groups.get_mut(&dc) else {
            return;
        };
        self.deadline.touch();
        if may && is_full {
            group.warm.next = Some(again);
            return;
        }
        group.warm.next = None;
        group.warm.left = group.warm.left.saturating_sub(1);
        match choice {
            Choice::To(endpoint) => {
                self.dial(dc, endpoint, Purpose::Warm { generation });
            }
            Choice::At(_) | Choice::Nowhere => self.warm_dialled(dc, now),
        }
    }

    /// A dial of the warm-up ended, or could not be begun.
    pub(super) fn warm_dialled(&mut self, dc: i16, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let (Some(planned), Some(_)) = (plan.group(dc), self.warmup) else {
            return;
        };
        let missing = self.cold(planned);
        let next = now.after(self.warm_delay());
        let passes = plan.settings.reinit.warm_extra_passes;
        let Some(group) = self.groups.get_mut(&dc) else {
            return;
        };
        let warm = &mut group.warm;
        if missing == 0 {
            warm.is_over = true;
            warm.next = None;
        } else if warm.left > 0 {
            warm.next = Some(next);
        } else if warm.pass < passes {
            let pass = warm.pass + 1;
            self.begin_pass(planned, pass, now);
        } else {
            warm.is_over = true;
        }
        self.deadline.touch();
        self.judge_warmup();
    }

    fn judge_warmup(&mut self) {
        let Some(warmup) = self.warmup else {
            return;
        };
        let plan = Arc::clone(&self.plan);
        let mut groups = plan.groups.iter();
        let is_over = groups.all(|planned| {
            let group = self.groups.get(&planned.dc);
            group.is_none_or(|group| group.warm.is_over)
        });
        if is_over && self.warm_done != warmup.round {
            self.warm_done = warmup.round;
            self.outbox.changed();
        }
    }
}
