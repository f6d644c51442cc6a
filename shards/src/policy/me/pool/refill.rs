//! Refill: a lost writer is dialled again at once, one refill per group and family at a time.
//!
//! ```text
//!   triggered ─> same endpoint ─(budget, or barred)─> any endpoint ─(budget)─> failed
//!                     └──────────> restored <───────────────┘
//! ```
//!
//! `triggered = same + fallback + failed + running`.
//!
//! Source: middle-proxy.md 14.2.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    super::super::Millis,
    Pool,
    dial::Purpose,
    endpoints::{Choice, Wish},
    group::family,
};
use crate::policy::me::report::RefillRow;

/// A refill under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refill {
    /// Where the lost writer was, while that is tried.
    same: Option<SocketAddr>,
    /// Attempts left there.
    same_left: u32,
    /// Attempts left anywhere in the group.
    any_left: u32,
    /// Attempts left of both steps together.
    all_left: u32,
    attempts: u32,
    /// The next attempt; `None` while one is under way.
    pub(super) next: Option<Millis>,
    /// A session has no writer at all: the cap may be passed as for coverage.
    over_cap: bool,
    /// Its start was counted, so its end is.
    pub(super) counted: bool,
}

/// Attempts of both steps together.
const ATTEMPTS_MAX: u32 = 20;
const PAUSE_STEP_MS: u64 = 50;
const PAUSE_MAX_MS: u64 = 500;
/// A group whose dials are all taken is looked at again.
const SLOT_LOOK: Duration = Duration::from_millis(50);

impl Pool {
    /// An active writer is lost, or a session found none (`same` is `None` then).
    pub(super) fn trigger_refill(
        &mut self,
        dc: i16,
        wanted: usize,
        same: Option<SocketAddr>,
        now: Millis,
    ) {
        let plan = Arc::clone(&self.plan);
        let Some(planned) = plan.group(dc) else {
            return;
        };
        let has_family = planned.endpoints.iter().any(|at| family(*at) == wanted);
        if !has_family || planned.outage[wanted] || !self.may_dial() {
            return;
        }
        let Some(group) = self.groups.get_mut(&dc) else {
            return;
        };
        if group.refill[wanted].is_some() {
            self.tally
                .pool(|pool| pool.refill_skipped_inflight_total += 1);
            return;
        }
        let dial = &plan.settings.dial;
        let budget = match planned.endpoints.len() {
            1 => dial.single_retries,
            _ => dial.fast_retries,
        };
        let same = same.filter(|at| planned.endpoints.contains(at));
        group.refill[wanted] = Some(Refill {
            same,
            same_left: budget.max(1),
            any_left: budget.max(1),
            all_left: ATTEMPTS_MAX,
            attempts: 0,
            next: Some(now),
            over_cap: same.is_none(),
            counted: self.tally.is_on(),
        });
        self.tally.pool(|pool| pool.refill_triggered_total += 1);
        self.outbox.changed();
        self.attempt_refill(dc, wanted, now);
    }

    /// The next attempt of a refill, if it is time.
    pub(super) fn attempt_refill(&mut self, dc: i16, wanted: usize, now: Millis) {
        self.deadline.touch();
        let plan = Arc::clone(&self.plan);
        let Some(group) = self.groups.get(&dc) else {
            return;
        };
        let Some(mut refill) = group.refill[wanted] else {
            return;
        };
        if refill.next.is_none_or(|at| at > now) {
            return;
        }
        let planned = plan.group(dc).filter(|planned| !planned.outage[wanted]);
        let Some(planned) = planned.filter(|_| self.may_dial()) else {
            self.end_refill(dc, wanted, false);
            return;
        };
        if !self.has_dial_slot(dc) {
            refill.next = Some(now.after(SLOT_LOOK));
            self.set_refill(dc, wanted, refill);
            return;
        }
        let ignores =
            planned.endpoints.len() == 1 && plan.settings.single.outage_ignores_quarantine;
        if let Some(same) = refill.same {
            let is_barred = !ignores && self.barred(same, now).is_some();
            if refill.same_left == 0 || is_barred || !planned.endpoints.contains(&same) {
                refill.same = None;
            }
        }
        let is_spent = refill.all_left == 0 || (refill.same.is_none() && refill.any_left == 0);
        if is_spent || !self.has_active_room(dc, refill.over_cap) {
            self.end_refill(dc, wanted, false);
            return;
        }
        let choice = match refill.same {
            Some(same) => Choice::To(same),
            None => self.choose_refill(dc, wanted, now),
        };
        match choice {
            Choice::To(endpoint) => {
                match refill.same {
                    Some(_) => refill.same_left -= 1,
                    None => refill.any_left -= 1,
                }
                refill.all_left -= 1;
                refill.attempts += 1;
                refill.next = None;
                self.set_refill(dc, wanted, refill);
                self.dial(dc, endpoint, Purpose::Refill { family: wanted });
            }
            Choice::At(at) => {
                refill.next = Some(at);
                self.set_refill(dc, wanted, refill);
            }
            Choice::Nowhere => self.end_refill(dc, wanted, false),
        }
    }

    /// Any endpoint of the group, of the lost writer's family if one of these is free.
    fn choose_refill(&mut self, dc: i16, wanted: usize, now: Millis) -> Choice {
        let wish = Wish {
            family: Some(wanted),
            warm: None,
            shuffled: false,
        };
        match self.choose(dc, wish, now) {
            Choice::To(endpoint) => Choice::To(endpoint),
            Choice::At(_) | Choice::Nowhere => {
                let wish = Wish {
                    family: None,
                    ..wish
                };
                self.choose(dc, wish, now)
            }
        }
    }

    fn set_refill(&mut self, dc: i16, wanted: usize, refill: Refill) {
        if let Some(group) = self.groups.get_mut(&dc) {
            group.refill[wanted] = Some(refill);
        }
    }

    /// A refill's dial ended.
    pub(super) fn refill_dialled(&mut self, dc: i16, wanted: usize, won: bool, now: Millis) {
        let Some(group) = self.groups.get_mut(&dc) else {
            return;
        };
        let Some(refill) = &mut group.refill[wanted] else {
            return;
        };
        if won {
            self.end_refill(dc, wanted, true);
            return;
        }
        let step = u64::from(refill.attempts.saturating_sub(1)).saturating_mul(PAUSE_STEP_MS);
        let pause = PAUSE_STEP_MS + self.dice.up_to(PAUSE_STEP_MS) + step;
        refill.next = Some(Millis(now.0.saturating_add(pause.min(PAUSE_MAX_MS))));
        self.deadline.touch();
    }

    /// Ends a refill, with a writer or without.
    pub(super) fn end_refill(&mut self, dc: i16, wanted: usize, won: bool) {
        let Some(group) = self.groups.get_mut(&dc) else {
            return;
        };
        let Some(refill) = group.refill[wanted].take() else {
            return;
        };
        self.outbox.changed();
        self.deadline.touch();
        if !refill.counted {
            return;
        }
        let is_same = refill.same.is_some();
        self.tally.pool(|pool| match (won, is_same) {
            (true, true) => pool.writer_restored_same_endpoint_total += 1,
            (true, false) => pool.writer_restored_fallback_total += 1,
            (false, _) => pool.refill_failed_total += 1,
        });
    }

    /// Refills whose next attempt is due.
    pub(super) fn advance_refills(&mut self, now: Millis) {
        let due: Vec<(i16, usize)> = self
            .groups
            .iter()
            .flat_map(|(dc, group)| [0, 1].map(|at| (*dc, at, group.refill[at])))
            .filter(|(_, _, refill)| {
                refill.is_some_and(|refill| refill.next.is_some_and(|at| at <= now))
            })
            .map(|(dc, at, _)| (dc, at))
            .collect();
        for (dc, wanted) in due {
            self.attempt_refill(dc, wanted, now);
        }
    }

    /// Refills under way, for reports.
    pub(super) fn refill_rows(&self) -> Vec<RefillRow> {
        let rows = self.groups.iter().flat_map(|(dc, group)| {
            let busy = [false, true].into_iter();
            busy.filter(|ipv6| group.refill[usize::from(*ipv6)].is_some())
                .map(|ipv6| RefillRow { dc: *dc, ipv6 })
        });
        rows.collect()
    }
}
