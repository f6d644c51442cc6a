//! The health tick: which groups are short, in outage, due for a refresh, a rotation or a swap, and
//! which writers nobody needs.
//!
//! It dials nothing itself: shards below their share dial with each new tick of the plan, and what
//! concerns one writer is a task.
//!
//! Source: middle-proxy.md 11.4, 11.5, 13 and 16.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::super::{
    super::Millis,
    floor::{by_family, order},
    plan::{Replacing, TaskKind, WriterId},
    report::WriterRow,
};
use super::{
    Supervisor,
    exchange::MeEventKind,
    groups::Group,
    tasks::{Line, Open, Owner},
    view::View,
};

/// What the tick remembers.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    /// Ticks so far.
    pub(super) tick: u64,
    /// When the next is due; `None` before the first.
    pub(super) next: Option<Millis>,
    /// Groups that are short or in outage at the last tick.
    pub(super) degraded: bool,
    lines: BTreeMap<Line, LineState>,
    /// Until when a group's idle writers are left alone.
    refresh_after: BTreeMap<i16, Millis>,
    /// Outage dials that this tick still has.
    outage_dials: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct LineState {
    outage: Option<Outage>,
    /// When the next shadow rotation is due; `None` while the group was not yet at its floor.
    rotate_at: Option<Millis>,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    next: Millis,
    delay: Duration,
    dials: usize,
}

impl Health {
    /// By family: the only endpoint has no writer.
    pub(super) fn outage(&self, dc: i16) -> [bool; 2] {
        [false, true].map(|ipv6| {
            let line = self.lines.get(&Line { dc, ipv6 });
            line.is_some_and(|line| line.outage.is_some())
        })
    }

    /// When an outage dial is due.
    pub(super) fn deadline(&self) -> Option<Millis> {
        let outages = self.lines.values().filter_map(|line| line.outage);
        outages.map(|outage| outage.next).chain(self.next).min()
    }
}

impl Supervisor {
    /// Dials per tick of the whole process (13).
    pub(super) fn dial_budget(&self) -> u32 {
        let groups = u32::try_from(self.groups.rows.len()).unwrap_or(u32::MAX);
        let cores = self.groups.caps.cores.saturating_mul(2);
        cores.saturating_add(groups).clamp(4, 128)
    }

    /// One health tick.
    pub(super) fn tick(&mut self, now: Millis) {
        self.health.tick += 1;
        self.health.outage_dials = self.dial_budget();
        self.refit(now);
        self.groups.grow(&self.reports);
        let groups = self.groups.rows.clone();
        let mut degraded = false;
        for ipv6 in [false, true] {
            if !self.in_use[usize::from(ipv6)] {
                continue;
            }
            let mut bad = false;
            for group in &groups {
                if group.endpoints_of(ipv6).next().is_some() {
                    bad |= View::new(&self.reports).alive(group, ipv6) == 0;
                    degraded |= self.tend(group, ipv6, now);
                }
            }
            if let Some(state) = self.families.tick(ipv6, bad, now) {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                let text = format!("{family} is {}", state.label());
                self.tell(MeEventKind::Family, text);
            }
        }
        self.leave_lost_outages(&groups);
        let idle = self.settings().floor.idle;
        self.groups.shrink(&self.reports, idle, now);
        self.health.degraded = degraded;
        let health = &self.settings().health;
        let pause = match degraded {
            true => health.unhealthy,
            false => health.healthy,
        };
        self.health.next = Some(now.after(pause));
    }

    /// One group's family at a tick; returns whether it is degraded.
    fn tend(&mut self, group: &Group, ipv6: bool, now: Millis) -> bool {
        let line = Line { dc: group.dc, ipv6 };
        let alive = View::new(&self.reports).alive(group, ipv6);
        let required = group.required(ipv6);
        let single = group.single(ipv6);
        if single.is_some() && alive == 0 && self.settings().single.outage_mode {
            self.enter_outage(line, now);
            return true;
        }
        self.leave_outage(line);
        if alive < required {
            self.warn_short(group, alive, required, now);
            self.swap_under_cap(group, alive, now);
            return true;
        }
        self.refresh_idle(group, ipv6, now);
        if let Some(endpoint) = single {
            self.rotate(group, line, endpoint, now);
        }
        false
    }

    fn warn_short(&mut self, group: &Group, alive: u32, required: u32, now: Millis) {
        let text = format!("DC {}: {alive} of {required} writers", group.dc);
        self.warn(Topic::Group(group.dc), text, now);
    }

    fn enter_outage(&mut self, line: Line, now: Millis) {
        let delay = self.settings().single.outage_backoff_min;
        let state = self.health.lines.entry(line).or_default();
        if state.outage.is_some() {
            return;
        }
        state.outage = Some(Outage {
            next: now,
            delay,
            dials: 0,
        });
        state.rotate_at = None;
        self.count(|me| me.single_endpoint_outage_enter_total += 1);
        let text = format!("outage of DC {} begins", line.dc);
        self.tell(MeEventKind::Outage, text);
    }

    fn leave_outage(&mut self, line: Line) {
        let state = self.health.lines.get_mut(&line);
        if state.and_then(|state| state.outage.take()).is_some() {
            self.count(|me| me.single_endpoint_outage_exit_total += 1);
            let text = format!("outage of DC {} is over", line.dc);
            self.tell(MeEventKind::Outage, text);
        }
    }

    /// Groups and families that are no longer tended have no outage, and nothing to remember.
    fn leave_lost_outages(&mut self, groups: &[Group]) {
        let in_use = self.in_use;
        let tended = |line: &Line| {
            let group = groups.iter().find(|group| group.dc == line.dc);
            in_use[usize::from(line.ipv6)]
                && group.is_some_and(|group| group.single(line.ipv6).is_some())
        };
        let lost: Vec<Line> = self.health.lines.keys().copied().collect();
        for line in lost.into_iter().filter(|line| !tended(line)) {
            self.leave_outage(line);
            self.health.lines.remove(&line);
        }
        let known: BTreeSet<i16> = groups.iter().map(|group| group.dc).collect();
        self.health.refresh_after.retain(|dc, _| known.contains(dc));
    }

    /// Outage dials whose time has come: one at a time for each group and family, shard after
    /// shard.
    pub(super) fn dial_outages(&mut self, now: Millis) {
        let due = self.health.lines.iter().filter_map(|(line, state)| {
            let outage = state.outage.filter(|outage| outage.next <= now)?;
            Some((*line, outage))
        });
        let due: Vec<(Line, Outage)> = due.collect();
        for (line, mut outage) in due {
            let group = self.groups.get(line.dc);
            let endpoint = group.and_then(|group| group.single(line.ipv6));
            let Some(endpoint) = endpoint else {
                // No longer tended; the next tick ends it.
                outage.next = now.after(self.tasks.patience());
                self.set_outage(line, outage);
                continue;
            };
            let alive = group.map(|group| View::new(&self.reports).alive(group, line.ipv6));
            if self.tasks.has(Owner::Outage(line)) {
                // Its end sets the next one.
                outage.next = now.after(self.tasks.patience());
            } else if alive.is_some_and(|alive| alive > 0) {
                // It is over; the next tick says so.
                outage.next = now.after(self.settings().single.outage_backoff_max);
            } else if self.health.outage_dials == 0 {
                let pause = self.settings().single.outage_backoff_min;
                outage.next = now.after(pause.max(NO_BUDGET_PAUSE));
            } else {
                self.health.outage_dials -= 1;
                let shard = order(line.dc, self.reports.len())
                    .nth(outage.dials % self.reports.len())
                    .unwrap_or(0);
                outage.dials += 1;
                outage.next = now.after(self.tasks.patience());
                let kind = TaskKind::Outage {
                    dc: line.dc,
                    endpoint,
                };
                self.tasks.add(shard, kind, Owner::Outage(line), now);
            }
            self.set_outage(line, outage);
        }
    }

    fn set_outage(&mut self, line: Line, outage: Outage) {
        if let Some(state) = self.health.lines.get_mut(&line) {
            state.outage = Some(outage);
        }
    }

    /// The longest idle empty writer is replaced before its ME cuts it (13).
    fn refresh_idle(&mut self, group: &Group, ipv6: bool, now: Millis) {
        let owner = Owner::Refresh(group.dc);
        let rest = self.health.refresh_after.get(&group.dc);
        if rest.is_some_and(|until| *until > now) || self.tasks.has(owner) {
            return;
        }
        let surplus = self.surplus(group);
        let idle = self.idle_writers(group, now, |row| {
            row.endpoint.is_ipv6() == ipv6 && !surplus.contains(&row.id) && is_aged(row, now)
        });
        if let Some((shard, writer, endpoint)) = idle.first().copied() {
            let kind = TaskKind::Replace {
                writer,
                endpoint,
                why: Replacing::IdleRefresh,
            };
            self.tasks.add(shard, kind, owner, now);
        }
    }

    /// At the cap a group below `R` may at least renew what the ME is about to cut (11.5).
    fn swap_under_cap(&mut self, group: &Group, alive: u32, now: Millis) {
        let owner = Owner::Refresh(group.dc);
        let rest = self.health.refresh_after.get(&group.dc);
        let waits = rest.is_some_and(|until| *until > now) || self.tasks.has(owner);
        let active = View::new(&self.reports).in_state(super::WriterState::Active);
        if waits || active < self.groups.caps.active || alive >= group.floor.base {
            return;
        }
        let idle = self.idle_writers(group, now, |row| is_aged(row, now));
        if let Some((shard, writer, endpoint)) = idle.first().copied() {
            let kind = TaskKind::Replace {
                writer,
                endpoint,
                why: Replacing::UnderCap,
            };
            self.tasks.add(shard, kind, owner, now);
        }
    }

    /// Spare writers of groups with one endpoint are renewed now and then (16).
    fn rotate(&mut self, group: &Group, line: Line, endpoint: SocketAddr, now: Millis) {
        let every = self.settings().single.rotate_every;
        let state = self.health.lines.entry(line).or_default();
        if every.is_zero() {
            state.rotate_at = None;
            return;
        }
        // A period that shrank counts from now.
        let due = state
            .rotate_at
            .map_or(now.after(every), |at| at.min(now.after(every)));
        state.rotate_at = Some(due);
        if due > now || self.tasks.has(Owner::Rotation(line)) {
            return;
        }
        if self.quarantine.holds(&endpoint, now) {
            self.count(|me| me.single_endpoint_shadow_rotate_skipped_quarantine_total += 1);
            self.rotate_again(line, now.after(ROTATION_RETRY));
            return;
        }
        let idle = self.idle_writers(group, now, |row| row.endpoint == endpoint);
        let Some((shard, writer, _)) = idle.first().copied() else {
            self.rotate_again(line, now.after(ROTATION_RETRY));
            return;
        };
        let kind = TaskKind::Replace {
            writer,
            endpoint,
            why: Replacing::ShadowRotation,
        };
        self.tasks.add(shard, kind, Owner::Rotation(line), now);
    }

    fn rotate_again(&mut self, line: Line, at: Millis) {
        if let Some(state) = self.health.lines.get_mut(&line) {
            state.rotate_at = Some(at);
        }
    }

    /// A task of the tick is over.
    pub(super) fn tended(&mut self, open: &Open, done: bool, now: Millis) {
        match open.owner {
            Owner::Refresh(dc) => {
                let rest = if done { REFRESH_REST } else { REFRESH_RETRY };
                self.health.refresh_after.insert(dc, now.after(rest));
            }
            Owner::Rotation(line) => {
                let pause = match done {
                    true => self.settings().single.rotate_every,
                    false => ROTATION_RETRY,
                };
                self.rotate_again(line, now.after(pause));
            }
            Owner::Outage(line) => self.outage_dialled(line, done, now),
            Owner::Secret(_) => {}
        }
    }

    fn outage_dialled(&mut self, line: Line, done: bool, now: Millis) {
        let single = &self.setup.settings.single;
        let (min, max) = (single.outage_backoff_min, single.outage_backoff_max);
        let state = self.health.lines.get_mut(&line);
        let Some(outage) = state.and_then(|state| state.outage.as_mut()) else {
            return;
        };
        let wait = match done {
            true => min,
            false => outage.delay,
        };
        outage.next = now.after(wait + self.dice.part_of(wait / 2));
        outage.delay = match done {
            true => min,
            false => (outage.delay * 2).min(max),
        };
    }

    /// Of each shard's empty writers of a group, the longest idle ones beyond its share: they are
    /// left to idle until the shard drains them (11.4).
    fn surplus(&self, group: &Group) -> BTreeSet<WriterId> {
        let view = View::new(&self.reports);
        let endpoints = [false, true].map(|ipv6| group.endpoints_of(ipv6).count());
        let mut surplus = BTreeSet::new();
        for shard in 0..group.given.len() {
            let wanted = by_family(group.dc, &group.given, shard, endpoints);
            for (ipv6, wanted) in [false, true].into_iter().zip(wanted) {
                let here = view
                    .active_of(group)
                    .filter(|(at, row)| *at == shard && row.endpoint.is_ipv6() == ipv6);
                let rows: Vec<&WriterRow> = here.map(|(_, row)| row).collect();
                let idle = rows
                    .iter()
                    .filter_map(|row| Some((row.idle_since?, row.id)));
                let mut idle: Vec<_> = idle.collect();
                idle.sort_unstable();
                let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
                let beyond = rows.len().saturating_sub(wanted);
                surplus.extend(idle.into_iter().take(beyond).map(|(_, id)| id));
            }
        }
        surplus
    }

    /// Empty active writers of a group that no task concerns, longest idle first.
    fn idle_writers(
        &self,
        group: &Group,
        now: Millis,
        mut which: impl FnMut(&WriterRow) -> bool,
    ) -> Vec<(usize, WriterId, SocketAddr)> {
        let view = View::new(&self.reports);
        let idle = view.active_of(group).filter_map(|(shard, row)| {
            let since = row.idle_since.filter(|since| *since <= now)?;
            let free = row.bound_clients == 0 && !self.tasks.concerns(row.id) && which(row);
            free.then_some((since, row.id, shard, row.endpoint))
        });
        let mut idle: Vec<_> = idle.collect();
        idle.sort_unstable_by_key(|(since, id, ..)| (*since, *id));
        let strip = |(_, id, shard, endpoint)| (shard, id, endpoint);
        idle.into_iter().map(strip).collect()
    }
}

/// What a warning is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    Group(i16),
    Endpoint(SocketAddr),
}

/// Idle for so long that its ME may be about to cut it.
fn is_aged(row: &WriterRow, now: Millis) -> bool {
    let secs = IDLE_SECS + row.id.0 % IDLE_SPREAD_SECS;
    let aged = |since: Millis| since.after(Duration::from_secs(secs)) <= now;
    row.idle_since.is_some_and(aged)
}

const IDLE_SECS: u64 = 45;
const IDLE_SPREAD_SECS: u64 = 6;
const REFRESH_REST: Duration = Duration::from_secs(5);
const REFRESH_RETRY: Duration = Duration::from_secs(8);
const ROTATION_RETRY: Duration = Duration::from_secs(30);
const NO_BUDGET_PAUSE: Duration = Duration::from_millis(250);
