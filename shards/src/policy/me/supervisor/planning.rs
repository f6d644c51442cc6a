//! The plan: the supervisor's state as far as shards act on it.
//!
//! Source: middle-proxy.md 10, 11.5, 13, 14.1 and 17.

use std::sync::Arc;

use super::super::{
    super::Millis,
    floor::split,
    plan::{Addresses, GroupPlan, Plan, ShardLimits},
    report::WriterState,
};
use super::{
    Supervisor,
    groups::Group,
    view::{View, count},
};

impl Supervisor {
    /// Makes a new plan if it would differ from the last one.
    pub(super) fn replan(&mut self, now: Millis) {
        let mut plan = self.draft(now);
        if plan == *self.plan {
            return;
        }
        plan.serial += 1;
        if self.start.round_plan.is_none() {
            self.start.round_plan = Some(plan.serial);
        }
        if self.reinit.round_plan.is_none() {
            self.reinit.round_plan = Some(plan.serial);
        }
        self.plan = Arc::new(plan);
    }

    /// The plan as it would be now, under the last one's serial.
    fn draft(&self, now: Millis) -> Plan {
        let before = &self.plan;
        let settings = self.settings();
        let groups: Vec<GroupPlan> = self.groups.rows.iter().map(|row| self.group(row)).collect();
        Plan {
            serial: before.serial,
            tick: self.health.tick,
            settings: Arc::clone(settings),
            route: self.admission.verdict().route,
            secret: self.secret.clone(),
            addresses: Addresses {
                nat_ip: settings.families.nat_ip,
                reflected_v4: self.reflected[0],
                reflected_v6: self.reflected[1],
            },
            groups: match *groups == *before.groups {
                true => Arc::clone(&before.groups),
                false => groups.into(),
            },
            map: Arc::clone(self.maps.current()),
            default_dc: self.maps.default_dc(),
            map_epoch: self.maps.epoch(),
            generations: self.reinit.generations(),
            fill: self.start.fill(&settings.admission),
            fill_round: self.start.round,
            quarantine: self.quarantine.plan(&before.quarantine),
            limits: self.limits(now),
            tasks: self.tasks.plan(&before.tasks),
        }
    }

    fn group(&self, row: &Group) -> GroupPlan {
        let alive = count(View::new(&self.reports).active_of(row));
        GroupPlan {
            dc: row.dc,
            endpoints: Arc::clone(&row.endpoints),
            base: row.floor.base,
            shares: row.shares().into(),
            at_floor: alive >= row.floor.target,
            under_base: alive < row.floor.base,
            covered: self.reinit.is_covered(row.dc),
            drain_before: self.reinit.drain_before(row.dc),
            outage: self.health.outage(row.dc),
        }
    }

    fn limits(&self, _now: Millis) -> ShardLimits {
        let shards = self.reports.len();
        let settings = self.settings();
        let view = View::new(&self.reports);
        let active = view.in_state(WriterState::Active);
        let warm = view.in_state(WriterState::Warm);
        let caps = &self.groups.caps;
        let room = |cap: u32, taken: u32| coarse(split(cap.saturating_sub(taken), shards));
        let threshold = settings.drain.threshold;
        let removals = caps.cores.saturating_mul(16).clamp(16, 256);
        ShardLimits {
            active_room: room(caps.active, active),
            override_room: room(self.groups.base(), active),
            warm_room: room(caps.warm, warm),
            dials_per_tick: split(self.dial_budget(), shards).max(1),
            dials_per_group: split(settings.dial.concurrent_per_dc, shards).max(1),
            draining_max: (threshold > 0).then(|| split(threshold, shards)),
            removals_per_second: split(removals, shards).max(1),
        }
    }
}

/// Much room is told in steps, so that not every writer that comes or goes makes a new plan.
fn coarse(room: u32) -> u32 {
    match room {
        0..ROOM_STEP => room,
        _ => room - room % ROOM_STEP,
    }
}

const ROOM_STEP: u32 = 16;
