//! Rules of the pool in virtual time, with a network that does what the test says.

mod binding;
mod drains;
mod life;
mod orders;
mod properties;
mod refills;
mod shares;
mod waits;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use super::{
    super::plan::{Fill, GroupPlan, Plan, Route, Secret, ShardLimits, Task, TaskKind},
    super::report::{PoolEvent, Report, WriterRow, WriterState},
    *,
};
use crate::proto::middle::secret_file::ProxySecret;

/// A pool, its network and its clock.
struct World {
    pool: Pool,
    now: Millis,
    plan: Plan,
    /// Dials under way, oldest first.
    dials: Vec<Dialled>,
    /// What else the pool wanted done, since it was last taken.
    log: Vec<Action>,
    /// What is true of sessions; of all others: everything they sent is acknowledged.
    facts: BTreeMap<u32, SessionFacts>,
    /// Where sessions are bound.
    bound: BTreeMap<u32, (WriterKey, ConnId)>,
    /// Every id ever given.
    ids: BTreeSet<(WriterKey, ConnId)>,
    reports: Vec<Report>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dialled {
    dial: DialId,
    dc: i16,
    endpoint: SocketAddr,
    limits: DialLimits,
    at: Millis,
}

const ACKNOWLEDGED: SessionFacts = SessionFacts {
    unsent: false,
    acknowledged: true,
    last_c2d: None,
    last_d2c: None,
    key_exchange: false,
};

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 443))
}

fn at6(n: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, n], 443))
}

impl World {
    /// One shard of one, at 100 s, with groups of (dc, endpoints, share), in its steady state.
    fn new(groups: &[(i16, &[SocketAddr], u32)]) -> Self {
        let mut world = Self::empty(0, 1);
        world.set_groups(groups);
        world.plan.fill = Fill::Steady;
        world
    }

    fn empty(shard: usize, shards: usize) -> Self {
        let settings = Arc::new(MeSettings::default());
        let now = Millis(100_000);
        let place = Place {
            shard,
            shards,
            seed: 3,
        };
        let mut plan = Plan::empty(Arc::clone(&settings), Route::Middle);
        let bytes: Vec<u8> = (1..=32).collect();
        plan.secret = Some(Arc::new(Secret {
            epoch: 1,
            secret: ProxySecret::new(&bytes, 256).expect("a secret"),
        }));
        plan.limits = ShardLimits {
            active_room: 100,
            override_room: 100,
            warm_room: 100,
            dials_per_tick: 100,
            dials_per_group: 8,
            draining_max: None,
            removals_per_second: 100,
        };
        Self {
            pool: Pool::new(place, settings, now),
            now,
            plan,
            dials: Vec::new(),
            log: Vec::new(),
            facts: BTreeMap::new(),
            bound: BTreeMap::new(),
            ids: BTreeSet::new(),
            reports: Vec::new(),
        }
    }

    fn set_groups(&mut self, groups: &[(i16, &[SocketAddr], u32)]) {
        let before = self.plan.groups.clone();
        let drain_before = |dc| {
            before
                .iter()
                .find(|g| g.dc == dc)
                .map_or(1, |g| g.drain_before)
        };
        let rows = groups.iter().map(|(dc, endpoints, share)| GroupPlan {
            dc: *dc,
            endpoints: Arc::from(*endpoints),
            base: 3,
            shares: Arc::new([*share]),
            at_floor: true,
            under_base: false,
            covered: true,
            drain_before: drain_before(*dc),
            outage: [false; 2],
        });
        self.plan.groups = rows.collect();
        let map = groups
            .iter()
            .map(|(dc, endpoints, _)| (*dc, endpoints.to_vec()));
        self.plan.map = Arc::new(map.collect());
        self.plan.map_epoch += 1;
    }

    fn settings(&mut self, change: impl FnOnce(&mut MeSettings)) {
        change(Arc::make_mut(&mut self.plan.settings));
    }

    fn group(&mut self, dc: i16, change: impl FnOnce(&mut GroupPlan)) {
        let mut groups = self.plan.groups.to_vec();
        change(
            groups
                .iter_mut()
                .find(|group| group.dc == dc)
                .expect("known"),
        );
        self.plan.groups = groups.into();
    }

    /// Sends the plan.
    fn apply(&mut self) {
        self.plan.serial += 1;
        let plan = Arc::new(self.plan.clone());
        self.pool.apply(&plan, self.now);
        self.settle();
    }

    fn tick(&mut self) {
        self.plan.tick += 1;
        self.apply();
    }

    fn task(&mut self, kind: TaskKind) -> u64 {
        let id = self.plan.tasks.last().map_or(1, |task| task.id + 1);
        let task = Task { id, shard: 0, kind };
        self.plan.tasks = self.plan.tasks.iter().copied().chain([task]).collect();
        self.apply();
        id
    }

    /// Takes all actions in, and looks whether all is well.
    fn settle(&mut self) {
        while let Some(action) = self.pool.next_action() {
            match action {
                Action::Dial {
                    dial,
                    dc,
                    endpoint,
                    limits,
                } => {
                    self.dials.push(Dialled {
                        dial,
                        dc,
                        endpoint,
                        limits,
                        at: self.now,
                    });
                    continue;
                }
                Action::CancelDial(gone) => self.dials.retain(|other| other.dial != gone),
                Action::Move(unbound) | Action::Close(unbound) => {
                    let was = self.bound.remove(&unbound.session);
                    assert_eq!(was, Some((unbound.writer, unbound.conn)));
                }
                Action::CloseWriter(gone) => {
                    assert!(self.bound.values().all(|(writer, _)| *writer != gone));
                    assert_eq!(self.pool.writer(gone), None);
                }
                Action::Ping { .. }
                | Action::Signal { .. }
                | Action::CloseSignal { .. }
                | Action::Woken { .. }
                | Action::GiveUp { .. } => {}
            }
            self.log.push(action);
        }
        self.pool.check_invariants();
        self.check_routes();
        if let Some(report) = self.pool.report(self.now) {
            self.reports.push(report);
        }
    }

    /// Every bound session has its route, and there are no others.
    fn check_routes(&mut self) {
        for (session, (writer, conn)) in &self.bound {
            let target = self.pool.target(*writer, *conn, self.now);
            assert_eq!(target, Target::Session(*session));
        }
        let rows = self.pool.snapshot().writers;
        let counted: u32 = rows.iter().map(|row| row.bound_clients).sum();
        assert_eq!(counted as usize, self.bound.len());
        let draining = rows.iter().filter(|row| row.state.is_draining()).count();
        assert_eq!(self.pool.pool_counters().pool_drain_active, draining as u64);
    }

    /// Lets time pass, stopping wherever the pool wants to.
    fn pass(&mut self, ms: u64) {
        let end = Millis(self.now.0 + ms);
        for _ in 0..100_000 {
            let next = self.pool.next_deadline().filter(|at| *at <= end);
            self.now = next.map_or(end, |at| at.max(self.now));
            let facts = self.facts.clone();
            let mut ask =
                |_: WriterKey, session: u32| facts.get(&session).copied().unwrap_or(ACKNOWLEDGED);
            self.pool.advance(self.now, &mut ask);
            self.settle();
            if next.is_none() {
                return;
            }
        }
        panic!("the pool is never done");
    }

    /// Answers each ping while time passes.
    fn pass_answering(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(100) {
            self.pass(100);
            for action in std::mem::take(&mut self.log) {
                if let Action::Ping { writer, id } = action {
                    self.pool.pong(writer, id, self.now);
                }
            }
        }
    }

    /// The oldest dial succeeds.
    fn open(&mut self) -> WriterKey {
        let dial = self.dials.remove(0);
        let opened = Opened { secret_epoch: 1 };
        let key = self.pool.dial_ended(dial.dial, Ok(opened), self.now);
        self.settle();
        key.expect("a writer")
    }

    fn open_all(&mut self) -> Vec<WriterKey> {
        let mut keys = Vec::new();
        while !self.dials.is_empty() {
            keys.push(self.open());
        }
        keys
    }

    /// The oldest dial fails.
    fn fail(&mut self) -> Dialled {
        let dial = self.dials.remove(0);
        let why = DialFailure::Other("refused");
        assert_eq!(self.pool.dial_ended(dial.dial, Err(why), self.now), None);
        self.settle();
        dial
    }

    fn lose(&mut self, writer: WriterKey, why: Loss) {
        let facts = self.facts.clone();
        let mut ask =
            |_: WriterKey, session: u32| facts.get(&session).copied().unwrap_or(ACKNOWLEDGED);
        self.pool.lost(writer, why, self.now, &mut ask);
        self.settle();
    }

    fn bind(&mut self, dc: i16, session: u32) -> Bind {
        let bind = self.pool.bind(dc, session, self.now);
        if let Bind::To(writer, conn) = bind {
            assert!(self.ids.insert((writer, conn)), "an id came back");
            assert_eq!(self.bound.insert(session, (writer, conn)), None);
        }
        self.settle();
        bind
    }

    fn bind_to_some(&mut self, dc: i16, session: u32) -> (WriterKey, ConnId) {
        match self.bind(dc, session) {
            Bind::To(writer, conn) => (writer, conn),
            other => panic!("{other:?}"),
        }
    }

    fn unbind(&mut self, session: u32) {
        let (writer, conn) = self.bound.remove(&session).expect("bound");
        assert!(self.pool.unbind(writer, conn, ClosedBy::Us, self.now));
        self.settle();
    }

    fn rows(&self) -> Vec<WriterRow> {
        self.pool.snapshot().writers
    }

    fn row(&self, writer: WriterKey) -> WriterRow {
        let id = self.pool.writer(writer).expect("alive").id;
        let mut rows = self.rows().into_iter();
        rows.find(|row| row.id == id).expect("in the report")
    }

    fn states(&self) -> Vec<&'static str> {
        let name = |row: &WriterRow| match row.state {
            WriterState::Warm => "warm",
            WriterState::Active => "active",
            WriterState::Draining { .. } => "draining",
        };
        self.rows().iter().map(name).collect()
    }

    fn take_log(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.log)
    }

    /// Ends of tasks told since the last look.
    fn tasks_done(&mut self) -> Vec<(u64, bool)> {
        self.pass(20);
        let events = self.reports.drain(..).flat_map(|report| report.events);
        let ends = events.filter_map(|event| match event {
            PoolEvent::TaskDone { id, done } => Some((id, done)),
            _ => None,
        });
        ends.collect()
    }

    fn me(&self) -> MeCounters {
        self.pool.me_counters()
    }

    fn totals(&self) -> PoolCounters {
        self.pool.pool_counters()
    }
}
