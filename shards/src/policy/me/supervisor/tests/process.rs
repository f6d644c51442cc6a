//! A whole process without sockets: shards that open and drain writers as plans say.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use super::super::*;
use crate::{
    policy::me::{
        plan::{Fill, GroupPlan, WriterId},
        report::{GroupUse, WriterRow},
        status::MeStatus,
    },
    proto::middle::config_file::ConfigFile,
};

/// A supervisor and its shards.
pub(super) struct Process {
    pub(super) supervisor: Supervisor,
    pub(super) now: Millis,
    pub(super) plan: Arc<Plan>,
    /// All plans were looked at; how many there were.
    pub(super) plans: u64,
    /// Endpoints where no dial succeeds.
    pub(super) dead: BTreeSet<SocketAddr>,
    /// Shards that neither take plans nor report.
    pub(super) silent: BTreeSet<usize>,
    pub(super) shards: Vec<Shard>,
    pub(super) events: Vec<MeEvent>,
    pub(super) dials: u64,
}

/// One shard.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) plan: u64,
    tick: u64,
    pub(super) writers: Vec<WriterRow>,
    pub(super) groups: Vec<GroupUse>,
    done: u64,
    events: Vec<PoolEvent>,
    ids: u64,
}

impl Process {
    pub(super) fn new(settings: MeSettings, shards: usize, cores: usize) -> Self {
        let setup = Setup {
            settings: Arc::new(settings),
            shards,
            cores,
            seed: 7,
            started_unix_ms: 1_000_000_000,
        };
        let mut supervisor = Supervisor::new(setup, Millis(0));
        let plan = supervisor.take_plan().unwrap();
        Self {
            supervisor,
            now: Millis(0),
            plan,
            plans: 0,
            dead: BTreeSet::new(),
            silent: BTreeSet::new(),
            shards: (0..shards).map(|_| Shard::default()).collect(),
            events: Vec::new(),
            dials: 0,
        }
    }

    /// One that has its secret and map.
    pub(super) fn started(settings: MeSettings, shards: usize, map: &str) -> Self {
        let mut process = Self::new(settings, shards, shards);
        process.offer_secret(1, Origin::Startup);
        process.offer(map, Origin::Startup);
        process
    }

    pub(super) fn offer_secret(&mut self, byte: u8, origin: Origin) {
        let secret = ProxySecret::new(&[byte; 32], 256).unwrap();
        self.supervisor.offer_secret(secret, origin, self.now);
    }

    /// A map of both families.
    pub(super) fn offer(&mut self, map: &str, origin: Origin) {
        let offered = Offered {
            file: ConfigFile::parse(map.as_bytes()),
            http_ok: true,
        };
        let has_v6 = map.contains('[');
        let v6 = has_v6.then(|| offered.clone());
        self.supervisor
            .offer_maps(Some(offered), v6, origin, self.now);
    }

    /// Lets `secs` pass.
    pub(super) fn run(&mut self, secs: u64) {
        let end = self.now.after(Duration::from_secs(secs));
        loop {
            let next = self.settle();
            if next > end {
                break;
            }
            self.now = next;
        }
        self.now = end;
        self.settle();
    }

    /// Exchanges plans and reports until nobody has anything new to say.
    pub(super) fn settle(&mut self) -> Millis {
        for _ in 0..1_000 {
            let next = self.supervisor.advance(self.now);
            self.events.extend(self.supervisor.take_events());
            let Some(plan) = self.supervisor.take_plan() else {
                return next;
            };
            check_plan(&self.plan, &plan, self.shards.len());
            self.plan = plan;
            self.plans += 1;
            for shard in 0..self.shards.len() {
                if !self.silent.contains(&shard) {
                    self.apply(shard);
                    self.report(shard);
                }
            }
        }
        panic!("plans without end at {:?}", self.now);
    }

    /// Sends a shard's state.
    pub(super) fn report(&mut self, at: usize) {
        let shard = &mut self.shards[at];
        let report = Report {
            shard: at,
            plan: shard.plan,
            tick: shard.tick,
            writers: shard.writers.clone(),
            groups: shard.groups.clone(),
            fill_done: true,
            warm_done: self.plan.generations.warm_round,
            events: std::mem::take(&mut shard.events),
            ..Report::default()
        };
        self.supervisor.report(report, self.now);
    }

    fn apply(&mut self, at: usize) {
        let plan = Arc::clone(&self.plan);
        self.shards[at].plan = plan.serial;
        self.drain(at, &plan);
        for task in plan.tasks.iter().filter(|task| task.shard == at) {
            if task.id > self.shards[at].done {
                self.shards[at].done = task.id;
                let done = self.perform(at, task.kind);
                let event = PoolEvent::TaskDone { id: task.id, done };
                self.shards[at].events.push(event);
            }
        }
        let filled = plan.fill != Fill::Not;
        let ticked = plan.fill != Fill::Steady || plan.tick > self.shards[at].tick;
        self.shards[at].tick = plan.tick;
        for group in plan.groups.iter().filter(|_| filled) {
            if ticked {
                self.fill(at, group, &plan);
            }
            self.warm(at, group, &plan);
        }
        for group in plan.groups.iter().filter(|_| filled) {
            self.drain_surplus(at, group, plan.settings.floor.idle);
        }
        self.shards[at].clean();
    }

    fn drain_surplus(&mut self, at: usize, group: &GroupPlan, idle: Duration) {
        let now = self.now;
        let beyond = self.shards[at]
            .active(group)
            .saturating_sub(group.shares[at]);
        let mut rows: Vec<_> = self.shards[at].writers.iter_mut().collect();
        rows.retain(|row| {
            let aged = row.idle_since.is_some_and(|since| since.after(idle) <= now);
            row.dc == group.dc && row.state == WriterState::Active && aged
        });
        rows.sort_by_key(|row| row.idle_since);
        rows.into_iter()
            .take(beyond as usize)
            .for_each(|row| row.drain(now));
    }

    fn drain(&mut self, at: usize, plan: &Plan) {
        let generations = plan.generations;
        for row in &mut self.shards[at].writers {
            if row.state == WriterState::Warm && row.generation == generations.active {
                row.state = WriterState::Active;
            }
            let group = plan.group(row.dc);
            let before = group.map_or(generations.drain_others_before, |group| group.drain_before);
            let mapped = plan
                .map
                .get(&row.dc)
                .is_some_and(|list| list.contains(&row.endpoint));
            let covered = group.is_none_or(|group| group.covered);
            let lost = generations.drain_unmapped && !mapped && covered;
            let stray = row.state == WriterState::Warm
                && Some(row.generation) != generations.warming
                && row.generation != generations.active;
            if row.generation < before || lost || stray {
                row.drain(self.now);
            }
        }
    }

    fn fill(&mut self, at: usize, group: &GroupPlan, plan: &Plan) {
        let share = match plan.fill {
            Fill::First if group.endpoints.len() > 1 => group.shares[at].min(1),
            _ => group.shares[at],
        };
        for _ in self.shards[at].active(group)..share {
            let mut endpoints: Vec<_> = group.endpoints.to_vec();
            endpoints
                .retain(|endpoint| !plan.quarantine.iter().any(|(barred, _)| barred == endpoint));
            let outage = |endpoint: &SocketAddr| group.outage[usize::from(endpoint.is_ipv6())];
            endpoints.retain(|endpoint| !outage(endpoint));
            let count = |endpoint: &SocketAddr| {
                let rows = self.shards[at].writers.iter();
                rows.filter(|row| row.dc == group.dc && row.endpoint == *endpoint)
                    .count()
            };
            endpoints.sort_by_key(|endpoint| (count(endpoint), *endpoint));
            if let Some(endpoint) = endpoints.into_iter().find(|at| !self.dead.contains(at)) {
                self.open(at, group.dc, endpoint, WriterState::Active);
            }
        }
    }

    fn warm(&mut self, at: usize, group: &GroupPlan, plan: &Plan) {
        let Some(number) = plan.generations.warming else {
            return;
        };
        let rows = self.shards[at].writers.iter();
        let warm = rows
            .filter(|row| row.generation == number && row.dc == group.dc)
            .count();
        for _ in warm..group.shares[at] as usize {
            let endpoint = group
                .endpoints
                .iter()
                .find(|endpoint| !self.dead.contains(endpoint));
            if let Some(endpoint) = endpoint {
                self.open(at, group.dc, *endpoint, WriterState::Warm);
                self.shards[at].writers.last_mut().unwrap().generation = number;
            }
        }
    }

    fn perform(&mut self, at: usize, kind: TaskKind) -> bool {
        match kind {
            TaskKind::Drain { writer } => {
                self.shards[at].drain(writer, self.now);
                true
            }
            TaskKind::Outage { dc, endpoint } => self.open(at, dc, endpoint, WriterState::Active),
            TaskKind::Replace {
                writer, endpoint, ..
            } => {
                let rows = &self.shards[at].writers;
                let Some(dc) = rows.iter().find(|row| row.id == writer).map(|row| row.dc) else {
                    return false;
                };
                let opened = self.open(at, dc, endpoint, WriterState::Active);
                if opened {
                    self.shards[at].drain(writer, self.now);
                }
                opened
            }
        }
    }

    fn open(&mut self, at: usize, dc: i16, endpoint: SocketAddr, state: WriterState) -> bool {
        self.dials += 1;
        if self.dead.contains(&endpoint) {
            return false;
        }
        let shards = self.shards.len() as u64;
        let shard = &mut self.shards[at];
        let id = WriterId(shard.ids * shards + at as u64 + 1);
        shard.ids += 1;
        shard.writers.push(WriterRow {
            id,
            dc,
            endpoint,
            generation: self.plan.generations.active,
            state,
            degraded: false,
            bound_clients: 0,
            idle_since: Some(self.now),
            rtt_ema_ms: None,
            secret_epoch: self.plan.secret.as_ref().map_or(0, |secret| secret.epoch),
            busy: false,
        });
        true
    }

    /// Ends every writer that `which` names; early ones are reported.
    pub(super) fn lose(&mut self, early: bool, which: impl Fn(&WriterRow) -> bool) {
        for at in 0..self.shards.len() {
            let shard = &mut self.shards[at];
            let (lost, kept) = shard.writers.drain(..).partition(&which);
            let lost: Vec<WriterRow> = lost;
            shard.writers = kept;
            for row in lost.iter().filter(|_| early) {
                let endpoint = row.endpoint;
                shard.events.push(PoolEvent::LostEarly { endpoint });
            }
            if !self.silent.contains(&at) {
                self.report(at);
            }
        }
        self.settle();
    }

    /// Every writer of every shard.
    pub(super) fn rows(&self) -> Vec<&WriterRow> {
        self.shards
            .iter()
            .flat_map(|shard| &shard.writers)
            .collect()
    }

    /// Active writers of a DC, by shard.
    pub(super) fn active(&self, dc: i16) -> Vec<u32> {
        let group = self.plan.group(dc).unwrap();
        self.shards
            .iter()
            .map(|shard| shard.active(group))
            .collect()
    }

    pub(super) fn status(&self) -> MeStatus {
        self.supervisor.status(self.now)
    }

    /// How often an event of this kind was told.
    pub(super) fn told(&self, kind: MeEventKind) -> usize {
        self.events
            .iter()
            .filter(|event| event.kind == kind)
            .count()
    }
}

impl Shard {
    fn active(&self, group: &GroupPlan) -> u32 {
        let of = |row: &&WriterRow| {
            row.dc == group.dc
                && row.state == WriterState::Active
                && group.endpoints.contains(&row.endpoint)
        };
        self.writers.iter().filter(of).count() as u32
    }

    fn drain(&mut self, writer: WriterId, now: Millis) {
        if let Some(row) = self.writers.iter_mut().find(|row| row.id == writer) {
            row.drain(now);
        }
    }

    fn clean(&mut self) {
        self.writers
            .retain(|row| !row.state.is_draining() || row.bound_clients > 0);
    }
}

impl WriterRow {
    fn drain(&mut self, now: Millis) {
        if !self.state.is_draining() {
            self.state = WriterState::Draining {
                fallback: false,
                started: now,
                deadline: now,
                over_ttl: false,
            };
        }
    }
}

/// What holds for every plan and from each to the next.
fn check_plan(before: &Plan, plan: &Plan, shards: usize) {
    assert!(plan.serial > before.serial, "serials grow");
    assert!(plan.tick >= before.tick && plan.map_epoch >= before.map_epoch);
    assert!(plan.fill_round >= before.fill_round);
    let (old, new) = (before.generations, plan.generations);
    assert!(new.active >= old.active && new.warm_round >= old.warm_round);
    assert!(new.warming.is_none_or(|warming| warming > new.active));
    assert!(new.drain_others_before <= new.active);
    assert!(plan.groups.is_sorted_by_key(|group| group.dc));
    assert!(plan.tasks.is_sorted_by_key(|task| task.id));
    let limits = plan.limits;
    assert!(limits.dials_per_group >= 1 && limits.removals_per_second >= 1);
    for group in plan.groups.iter() {
        assert_eq!(group.shares.len(), shards);
        assert!(!group.endpoints.is_empty() && group.endpoints.is_sorted());
        assert!(group.drain_before <= new.active);
        let earlier = before.group(group.dc).map_or(0, |group| group.drain_before);
        assert!(group.drain_before >= earlier);
    }
}
