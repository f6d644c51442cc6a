//! What the supervisor hears: when, and what.
//!
//! Source: middle-proxy.md 25; when: the header of `report`.

use super::{super::super::Millis, Pool};
use crate::policy::me::{
    plan::Fill,
    report::{GroupUse, PoolEvent, Report, WriterRow},
};

/// What there is to tell, and when it was last done.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    events: Vec<PoolEvent>,
    has_changed: bool,
    last: Option<Millis>,
}

/// Between two reports, however much changes.
const CHANGES_MS: u64 = 20;
/// Without changes, while there are writers.
const QUIET_MS: u64 = 1_000;
/// Events of dials are dropped beyond this many; the rest is bounded by writers and tasks.
const EVENTS_MAX: usize = 4_096;

impl Outbox {
    pub(super) fn changed(&mut self) {
        self.has_changed = true;
    }

    pub(super) fn event(&mut self, event: PoolEvent) {
        self.has_changed = true;
        let is_minor = match event {
            PoolEvent::Keys(_) | PoolEvent::Socks { .. } | PoolEvent::DialFailed { .. } => true,
            PoolEvent::LostEarly { .. } | PoolEvent::TaskDone { .. } => false,
        };
        if !is_minor || self.events.len() < EVENTS_MAX {
            self.events.push(event);
        }
    }

    /// When the next report is due.
    pub(super) fn due(&self, has_writers: bool) -> Option<Millis> {
        let after = |ms| {
            self.last
                .map_or(Millis(0), |last| Millis(last.0.saturating_add(ms)))
        };
        match (self.has_changed, has_writers) {
            (true, _) => Some(after(CHANGES_MS)),
            (false, true) => Some(after(QUIET_MS)),
            (false, false) => None,
        }
    }
}

impl Pool {
    /// See [`Pool::report`].
    pub(super) fn take_report(&mut self, now: Millis) -> Option<Report> {
        let due = self.outbox.due(self.writers.len() > 0)?;
        if due > now {
            return None;
        }
        self.outbox.has_changed = false;
        self.outbox.last = Some(now);
        let mut report = self.rows();
        report.events = std::mem::take(&mut self.outbox.events);
        Some(report)
    }

    /// All of a report but its events.
    pub(super) fn rows(&self) -> Report {
        let mut writers: Vec<WriterRow> = self.writers.iter().map(|(_, w)| w.row()).collect();
        writers.sort_by_key(|row| (row.dc, row.endpoint, row.id));
        let is_starting = matches!(self.plan.fill, Fill::First | Fill::Rest);
        Report {
            shard: self.place.shard,
            plan: self.plan.serial,
            tick: self.ticked,
            groups: self.group_rows(),
            refills: self.refill_rows(),
            dials: u32::try_from(self.dials.len()).unwrap_or(u32::MAX),
            fill_done: is_starting && self.startup.done,
            warm_done: self.warm_done,
            writers,
            events: Vec::new(),
        }
    }

    fn group_rows(&self) -> Vec<GroupUse> {
        let rows = self.groups.iter().filter_map(|(dc, group)| {
            let writers = group
                .writers
                .iter()
                .filter_map(|key| self.writers.get(*key));
            let sessions = writers.map(|writer| writer.registry.sessions()).sum();
            let wanted = group.demand.is_some();
            let row = GroupUse {
                dc: *dc,
                sessions,
                last_bind: group.last_bind,
                wanted,
            };
            (sessions > 0 || wanted || group.last_bind.is_some()).then_some(row)
        });
        rows.collect()
    }
}
