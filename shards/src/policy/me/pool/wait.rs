//! Sessions without a writer: how long they wait, what is done for them, who is woken.
//!
//! ```text
//!   bind ─(all full)─> Full ─(too long)─> Nothing ─(too long)─> given up
//!     └─────(none)────────────────────────^    └─(new writer)─> woken, binds again
//! ```
//!
//! Source: middle-proxy.md 19, and 11.3 for groups this shard has no share of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    super::super::Millis,
    Pool,
    dial::Purpose,
    endpoints::{Choice, Wish},
    exchange::{Action, Bind},
};
use crate::settings::NoWriterMode;

/// Everybody who waits, by session, by deadline, and in line for their group.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    rows: BTreeMap<u32, Waiter>,
    due: BTreeSet<(Millis, u32)>,
    lines: BTreeMap<(i16, u64), u32>,
    next_turn: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    dc: i16,
    /// Its group was not the one its client named.
    by_default: bool,
    stage: Stage,
    due: Millis,
    /// Place in the line of its group; kept for the whole wait.
    turn: u64,
    /// Was told to bind again, and is not in line.
    is_woken: bool,
    /// Dials of its own that it may still have.
    dials: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Full,
    Nothing,
}

/// When sessions without a writer last had a refill begun.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Recovery {
    last: Option<Millis>,
    count: u32,
}

/// At most so many wait on one shard.
const WAITING_MAX: usize = 1 << 17;
/// So many are woken at once; each that finds a place wakes the next.
const WAKE_MAX: usize = 64;
const HYBRID_WAIT_MIN: Duration = Duration::from_millis(50);
/// The hybrid wait is doubled after a bind within this time.
const HYBRID_BIND_MS: u64 = 120_000;
/// Who was woken when its wait was over is not given up before it has tried.
const WOKEN_MORE: Duration = Duration::from_millis(10);
const RECOVERY_EVERY_MS: u64 = 5_000;
/// Every so-manieth recovery is for all groups.
const RECOVERY_ALL: u32 = 4;

impl Waiting {
    pub(super) fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Somebody waits for this group, woken or not.
    pub(super) fn has(&self, dc: i16) -> bool {
        self.rows.values().any(|waiter| waiter.dc == dc)
    }

    #[cfg(test)]
    pub(super) fn contains(&self, session: u32) -> bool {
        self.rows.contains_key(&session)
    }

    fn remove(&mut self, session: u32) -> Option<Waiter> {
        let waiter = self.rows.remove(&session)?;
        self.due.remove(&(waiter.due, session));
        self.lines.remove(&(waiter.dc, waiter.turn));
        Some(waiter)
    }

    fn insert(&mut self, session: u32, waiter: Waiter) {
        self.rows.insert(session, waiter);
        self.due.insert((waiter.due, session));
        if !waiter.is_woken {
            self.lines.insert((waiter.dc, waiter.turn), session);
        }
    }

    /// The next in line of a group, told to bind again.
    fn wake(&mut self, dc: i16) -> Option<u32> {
        let mut line = self.lines.range((dc, 0)..=(dc, u64::MAX));
        let (place, session) = line.next().map(|(place, session)| (*place, *session))?;
        self.lines.remove(&place);
        let waiter = self.rows.get_mut(&session)?;
        waiter.is_woken = true;
        Some(session)
    }

    /// Lists agree.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        assert_eq!(self.rows.len(), self.due.len());
        for (session, waiter) in &self.rows {
            assert!(self.due.contains(&(waiter.due, *session)));
            let place = self.lines.get(&(waiter.dc, waiter.turn));
            assert_eq!(place.is_none(), waiter.is_woken);
        }
        assert!(
            self.lines
                .values()
                .all(|session| self.rows.contains_key(session))
        );
    }
}

impl Pool {
    /// The session is bound: it waits no longer, and the next in line has its chance.
    pub(super) fn stop_waiting(&mut self, session: u32) {
        // Almost always nobody waits.
        if self.waiting.rows.is_empty() {
            return;
        }
        if let Some(waiter) = self.waiting.remove(session) {
            self.deadline.touch();
            if waiter.is_woken {
                self.wake_few(waiter.dc, 1);
            }
        }
    }

    /// There may be a place in a group: those in line bind again.
    pub(super) fn wake(&mut self, dc: i16) {
        self.wake_few(dc, WAKE_MAX);
    }

    fn wake_few(&mut self, dc: i16, few: usize) {
        if self.waiting.lines.is_empty() {
            return;
        }
        for _ in 0..few {
            let Some(session) = self.waiting.wake(dc) else {
                return;
            };
            self.actions.push_back(Action::Woken { session });
        }
    }

    /// The map changed: everybody asks again, perhaps elsewhere.
    pub(super) fn wake_all(&mut self) {
        while let Some(dc) = self.waiting.lines.keys().next().map(|(dc, _)| *dc) {
            while let Some(session) = self.waiting.wake(dc) {
                self.actions.push_back(Action::Woken { session });
            }
        }
    }

    /// A session found no place in the group it was routed to.
    pub(super) fn wait(
        &mut self,
        (dc, by_default): (i16, bool),
        session: u32,
        is_full: bool,
        now: Millis,
    ) -> Bind {
        self.deadline.touch();
        if let Some(mut waiter) = self.waiting.remove(session) {
            (waiter.dc, waiter.by_default) = (dc, by_default);
            waiter.is_woken = false;
            let is_worse = waiter.stage == Stage::Full && !is_full;
            self.waiting.insert(session, waiter);
            if is_worse {
                self.wait_for_nothing(session, now);
            }
            return Bind::Wait;
        }
        if self.waiting.rows.len() >= WAITING_MAX {
            return Bind::Refused;
        }
        self.waiting.next_turn += 1;
        let waiter = Waiter {
            dc,
            by_default,
            stage: Stage::Full,
            due: now.after(self.plan.settings.pick.full_wait),
            turn: self.waiting.next_turn,
            is_woken: false,
            dials: 0,
        };
        self.waiting.insert(session, waiter);
        if !is_full {
            self.wait_for_nothing(session, now);
        }
        Bind::Wait
    }

    /// Waits for a new writer from now on; something is done for one.
    fn wait_for_nothing(&mut self, session: u32, now: Millis) {
        let wait = self.no_writer_wait(now);
        let mode = self.plan.settings.pick.no_writer;
        let dials = self.plan.settings.pick.inline_attempts;
        let Some(mut waiter) = self.waiting.remove(session) else {
            return;
        };
        waiter.stage = Stage::Nothing;
        waiter.due = now.after(wait);
        waiter.dials = if mode == NoWriterMode::Inline {
            dials
        } else {
            0
        };
        self.waiting.insert(session, waiter);
        if !waiter.by_default {
            self.recover(waiter.dc, now);
        } else {
            // An id that nobody configured starts nothing, but may need what is on demand.
            self.demand(waiter.dc, now);
        }
    }

    fn no_writer_wait(&self, now: Millis) -> Duration {
        let pick = &self.plan.settings.pick;
        match pick.no_writer {
            NoWriterMode::FailFast => pick.no_writer_wait,
            NoWriterMode::Inline => pick.inline_wait,
            NoWriterMode::Hybrid => {
                let wait = pick.hybrid_wait.max(HYBRID_WAIT_MIN);
                let lately = self
                    .last_bind
                    .is_some_and(|at| now.since(at) <= HYBRID_BIND_MS);
                if lately { wait * 2 } else { wait }
            }
        }
    }

    /// A session needs a group this shard has no share of: the share counts as one. Whether so.
    fn demand(&mut self, dc: i16, now: Millis) -> bool {
        let plan = Arc::clone(&self.plan);
        let idle = plan.settings.floor.idle;
        let Some(planned) = plan.group(dc) else {
            return false;
        };
        let has_share = self.planned_share(planned) > 0;
        let Some(group) = self.groups.get_mut(&dc) else {
            return false;
        };
        // The plan may have made a share of the demand meanwhile.
        let is_new = group.demand.is_none();
        if is_new && has_share {
            return false;
        }
        group.demand = Some(now.after(idle));
        if is_new {
            self.outbox.changed();
            self.refill_any(dc, now);
        }
        true
    }

    /// Does something for a group in which a session found no writer.
    fn recover(&mut self, dc: i16, now: Millis) {
        let on_demand = self.demand(dc, now);
        match self.plan.settings.pick.no_writer {
            NoWriterMode::Inline => self.recover_inline(dc, now),
            NoWriterMode::FailFast => self.refill_again(dc, on_demand, now),
            NoWriterMode::Hybrid => self.recover_hybrid(dc, on_demand, now),
        }
    }

    /// A refill; what the demand itself has begun is not counted as skipped.
    fn refill_again(&mut self, dc: i16, on_demand: bool, now: Millis) {
        let is_running = self
            .groups
            .get(&dc)
            .is_some_and(|group| group.refills() > 0);
        if !(on_demand && is_running) {
            self.refill_any(dc, now);
        }
    }

    fn recover_hybrid(&mut self, dc: i16, on_demand: bool, now: Millis) {
        let last = self.recovery.last;
        if last.is_some_and(|at| now.since(at) < RECOVERY_EVERY_MS) {
            return;
        }
        self.recovery.last = Some(now);
        self.recovery.count = self.recovery.count.wrapping_add(1);
        self.refill_again(dc, on_demand, now);
        if self.recovery.count.is_multiple_of(RECOVERY_ALL) {
            let plan = Arc::clone(&self.plan);
            for planned in plan.groups.iter().filter(|planned| planned.dc != dc) {
                if self.alive(planned).iter().sum::<u32>() < self.share(planned) {
                    self.refill_any(planned.dc, now);
                }
            }
        }
    }

    /// A refill that has no endpoint to prefer, of the preferred family that the group has.
    fn refill_any(&mut self, dc: i16, now: Millis) {
        let plan = Arc::clone(&self.plan);
        let Some(planned) = plan.group(dc) else {
            return;
        };
        let prefer = usize::from(plan.settings.families.prefer_ipv6);
        let has = |at: usize| {
            planned
                .endpoints
                .iter()
                .any(|e| usize::from(e.is_ipv6()) == at)
        };
        let wanted = if has(prefer) { prefer } else { 1 - prefer };
        self.trigger_refill(dc, wanted, None, now);
    }

    /// The next dial of those in line that recover on their own; one per group at a time, since
    /// its writer serves them all.
    pub(super) fn recover_inline(&mut self, dc: i16, now: Millis) {
        let Some(group) = self.groups.get(&dc) else {
            return;
        };
        let is_served = group.inline.is_some() || !group.open.is_empty();
        let room = self.has_dial_slot(dc) && self.has_active_room(dc, true) && self.may_dial();
        let planned = self.plan.group(dc);
        let is_out = planned.is_none_or(|planned| planned.outage.contains(&true));
        if is_served || !room || is_out {
            return;
        }
        let line = self.waiting.lines.range((dc, 0)..=(dc, u64::MAX));
        let mut line = line.map(|(_, session)| *session);
        let next = line.find(|session| {
            let waiter = self.waiting.rows.get(session);
            waiter.is_some_and(|waiter| waiter.dials > 0 && !waiter.by_default)
        });
        let Some(session) = next else {
            return;
        };
        let wish = Wish {
            family: None,
            warm: None,
            shuffled: false,
        };
        if let Choice::To(endpoint) = self.choose(dc, wish, now) {
            if let Some(waiter) = self.waiting.rows.get_mut(&session) {
                waiter.dials -= 1;
            }
            let dial = self.dial(dc, endpoint, Purpose::Inline);
            if let Some(group) = self.groups.get_mut(&dc) {
                group.inline = Some(dial);
            }
        }
    }

    /// Waits that are over.
    pub(super) fn advance_waits(&mut self, now: Millis) {
        while let Some((due, session)) = self.waiting.due.first().copied() {
            if due > now {
                return;
            }
            self.deadline.touch();
            let stage = self.waiting.rows.get(&session).map(|waiter| waiter.stage);
            if stage == Some(Stage::Full) {
                self.wait_for_nothing(session, now);
                continue;
            }
            let Some(mut waiter) = self.waiting.remove(session) else {
                // The lists agree, so this is not reached; it must not be tried forever.
                self.waiting.due.remove(&(due, session));
                continue;
            };
            if waiter.is_woken {
                // Told to bind again a moment ago: what comes of that decides. Whoever waits again
                // is given up then.
                waiter.due = now.after(WOKEN_MORE);
                self.waiting.insert(session, waiter);
                continue;
            }
            self.actions.push_back(Action::GiveUp { session });
        }
    }
}
