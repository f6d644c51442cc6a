//! The startup's dials: first writers of all groups at once, then the rest with pauses.
//!
//! ```text
//!   First   all groups at once, one writer each (a group with one endpoint its share), endpoints
//!           in random order, until each endpoint has failed once; a new `fill_round` is a new
//!           attempt
//!   Rest    one dial per group and round, pauses between rounds; a failed round ends a group's
//!           part
//! ```
//!
//! Source: middle-proxy.md 12.

use std::{sync::Arc, time::Duration};

use super::{
    super::super::Millis,
    Pool,
    dial::Purpose,
    endpoints::{Choice, Wish},
    group::family,
};
use crate::policy::me::plan::{Fill as Stage, GroupPlan};

/// The startup's dials of one group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    running: u32,
    failures: u32,
    /// A whole round has failed.
    stopped: bool,
}

/// Progress of the startup on this shard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Startup {
    /// When the next round of the second stage begins.
    pub(super) next_round: Option<Millis>,
    pub(super) done: bool,
}

impl Start {
    /// Another attempt.
    pub(super) fn again(&mut self) {
        self.failures = 0;
        self.stopped = false;
    }
}

impl Pool {
    pub(super) fn fill_first(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        for planned in plan.groups.iter() {
            self.fill_first_of(planned, now);
        }
    }

    fn first_need(&self, planned: &GroupPlan) -> u32 {
        let share = self.planned_share(planned);
        if planned.endpoints.len() == 1 {
            share
        } else {
            share.min(1)
        }
    }

    pub(super) fn fill_first_of(&mut self, planned: &GroupPlan, now: Millis) {
        if self.is_left_to_tasks(planned) || !self.may_dial() {
            return;
        }
        let dc = planned.dc;
        let wish = Wish {
            family: None,
            warm: None,
            shuffled: true,
        };
        let need = self.first_need(planned);
        while self.expected(planned).iter().sum::<u32>() < need && self.has_dial_slot(dc) {
            if self.groups.get(&dc).is_none_or(|group| group.start.stopped) {
                break;
            }
            let choice = self.choose(dc, wish, now);
            let Some(group) = self.groups.get_mut(&dc) else {
                break;
            };
            match choice {
                Choice::To(endpoint) => {
                    group.start.running += 1;
                    self.dial(dc, endpoint, Purpose::Start);
                }
                Choice::At(_) | Choice::Nowhere => {
                    group.start.stopped = true;
                }
            }
        }
    }

    /// A group with one endpoint that is in outage in this plan.
    fn is_left_to_tasks(&self, planned: &GroupPlan) -> bool {
        planned
            .endpoints
            .iter()
            .all(|at| planned.outage[family(*at)])
    }

    pub(super) fn rest_round(&mut self, now: Millis) {
        self.startup.next_round = None;
        let plan = Arc::clone(&self.plan);
        let wish = Wish {
            family: None,
            warm: None,
            shuffled: false,
        };
        for planned in plan.groups.iter() {
            let dc = planned.dc;
            let is_stopped = self.groups.get(&dc).is_none_or(|group| group.start.stopped);
            let share = self.planned_share(planned);
            let expected: u32 = self.expected(planned).iter().sum();
            if is_stopped || expected >= share || self.is_left_to_tasks(planned) {
                continue;
            }
            if !self.has_dial_slot(dc) {
                continue;
            }
            let may = self.may_dial() && self.has_active_room(dc, false);
            let choice = match may {
                true => self.choose(dc, wish, now),
                false => Choice::Nowhere,
            };
            let Some(group) = self.groups.get_mut(&dc) else {
                continue;
            };
            match choice {
                Choice::To(endpoint) => {
                    group.start.running += 1;
                    self.dial(dc, endpoint, Purpose::Start);
                }
                Choice::At(_) | Choice::Nowhere => group.start.stopped = true,
            }
        }
    }

    /// A dial of the startup ended.
    pub(super) fn start_dialled(&mut self, dc: i16, won: bool, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let Some(group) = self.groups.get_mut(&dc) else {
            return;
        };
        debug_assert!(group.start.running > 0);
        group.start.running = group.start.running.saturating_sub(1);
        group.start.failures += u32::from(!won);
        let failures = group.start.failures;
        let planned = plan.group(dc);
        match (plan.fill, planned) {
            (Stage::First, Some(planned)) => {
                let endpoints = u32::try_from(planned.endpoints.len()).unwrap_or(u32::MAX);
                let enough = endpoints.max(self.first_need(planned));
                if let Some(group) = self.groups.get_mut(&dc) {
                    group.start.stopped |= failures >= enough;
                }
                self.fill_first_of(planned, now);
            }
            (Stage::Rest, Some(_)) => group.start.stopped |= !won,
            (Stage::First | Stage::Rest, None) | (Stage::Not | Stage::Steady, _) => {}
        }
        self.judge_startup(now);
    }

    /// Whether a stage of the startup is over on this shard; if not, when it goes on.
    pub(super) fn judge_startup(&mut self, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let stage = plan.fill;
        if !matches!(stage, Stage::First | Stage::Rest) || self.startup.done {
            return;
        }
        let mut is_done = true;
        let mut is_running = false;
        for planned in plan.groups.iter() {
            let Some(group) = self.groups.get(&planned.dc) else {
                continue;
            };
            is_running |= group.start.running > 0;
            let need = match stage {
                Stage::First => self.first_need(planned),
                Stage::Rest | Stage::Not | Stage::Steady => self.planned_share(planned),
            };
            let alive: u32 = self.alive(planned).iter().sum();
            let is_over = alive >= need || group.start.stopped || self.is_left_to_tasks(planned);
            is_done &= is_over;
        }
        if is_done && !is_running {
            self.startup.done = true;
            self.outbox.changed();
        } else if stage == Stage::Rest && !is_running && self.startup.next_round.is_none() {
            let dial = &plan.settings.dial;
            let pause = match dial.stagger {
                true => dial.stagger_step + self.dice.part_of(dial.stagger_jitter),
                false => Duration::ZERO,
            };
            self.startup.next_round = Some(now.after(pause));
            self.deadline.touch();
        }
    }

    /// The startup's next round, if it is time.
    pub(super) fn advance_startup(&mut self, now: Millis) {
        if self.startup.next_round.is_some_and(|at| at <= now) {
            self.startup.next_round = None;
            self.deadline.touch();
            if self.plan.fill == Stage::Rest {
                self.rest_round(now);
                self.judge_startup(now);
            }
        }
    }
}
