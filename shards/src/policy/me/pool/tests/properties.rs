//! Random days: whatever happens in whatever order, what must hold holds after each step.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Bind { dc: i16 },
    Unbind { which: usize, by_me: bool },
    Lose { which: usize, why: u8 },
    Drain { which: usize },
    DialEnds { which: usize, won: bool },
    Pass { ms: u64, answer: bool },
    Queue { which: usize, has_room: bool },
    Plan { what: u8 },
    Facts { session: u32, kind: u8 },
    Frame { which: usize, conn: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    let which = 0_usize..1_000;
    prop_oneof![
        6 => prop_oneof![Just(1), Just(2), Just(-3), Just(9)].prop_map(|dc| Step::Bind { dc }),
        3 => (which.clone(), any::<bool>())
            .prop_map(|(which, by_me)| Step::Unbind { which, by_me }),
        2 => (which.clone(), 0_u8..3).prop_map(|(which, why)| Step::Lose { which, why }),
        1 => which.clone().prop_map(|which| Step::Drain { which }),
        6 => (which.clone(), prop::bool::weighted(0.7))
            .prop_map(|(which, won)| Step::DialEnds { which, won }),
        4 => (prop_oneof![0_u64..50, 0_u64..3_000, 0_u64..100_000], prop::bool::weighted(0.8))
            .prop_map(|(ms, answer)| Step::Pass { ms, answer }),
        1 => (which.clone(), prop::bool::weighted(0.7))
            .prop_map(|(which, has_room)| Step::Queue { which, has_room }),
        3 => (0_u8..12).prop_map(|what| Step::Plan { what }),
        1 => (0_u32..40, 0_u8..4).prop_map(|(session, kind)| Step::Facts { session, kind }),
        1 => (which, any::<u64>()).prop_map(|(which, conn)| Step::Frame { which, conn }),
    ]
}

/// Sessions are named by their turn; those that wait are kept apart from those that are bound.
struct Day {
    world: World,
    waiting: BTreeMap<u32, i16>,
    next: u32,
}

impl Day {
    fn new() -> Self {
        let mut world = World::new(&[
            (-3, &[at(1)], 1),
            (1, &[at(1), at(2), at6(1)], 3),
            (2, &[at(3), at(4)], 0),
        ]);
        world.settings(|me| me.keepalive.signal_every = std::time::Duration::from_secs(10));
        world.tick();
        Self {
            world,
            waiting: BTreeMap::new(),
            next: 0,
        }
    }

    fn writer(&self, which: usize) -> Option<WriterKey> {
        let keys: Vec<WriterKey> = self.world.pool.writers.iter().map(|(key, _)| key).collect();
        (!keys.is_empty()).then(|| keys[which % keys.len()])
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Bind { dc } => {
                self.next += 1;
                self.bind(dc, self.next);
            }
            Step::Unbind { which, by_me } => self.unbind(which, by_me),
            Step::Lose { which, why } => {
                let why = [Loss::Eof, Loss::Reset, Loss::Broken][usize::from(why)];
                if let Some(key) = self.writer(which) {
                    self.world.lose(key, why);
                }
            }
            Step::Drain { which } => {
                if let Some(key) = self.writer(which) {
                    let writer = self.world.row(key).id;
                    self.world.task(TaskKind::Drain { writer });
                }
            }
            Step::DialEnds { which, won } if !self.world.dials.is_empty() => {
                let which = which % self.world.dials.len();
                self.world.dials.swap(0, which);
                let dial = self.world.dials.remove(0);
                let result = match won {
                    true => Ok(Opened { secret_epoch: 1 }),
                    false => Err(DialFailure::Rejected(Some(-4))),
                };
                let key = self
                    .world
                    .pool
                    .dial_ended(dial.dial, result, self.world.now);
                assert_eq!(key.is_some(), won);
                self.world.settle();
            }
            Step::DialEnds { .. } => {}
            Step::Pass { ms, answer: true } => self.world.pass_answering_all(ms),
            Step::Pass { ms, answer: false } => self.world.pass(ms),
            Step::Queue { which, has_room } => {
                if let Some(key) = self.writer(which) {
                    self.world
                        .pool
                        .set_queue(key, if has_room { 30 } else { 100 }, has_room);
                    self.world.settle();
                }
            }
            Step::Plan { what } => self.plan(what),
            Step::Facts { session, kind } => {
                let facts = SessionFacts {
                    unsent: kind == 1,
                    acknowledged: kind != 2,
                    key_exchange: kind == 3,
                    last_c2d: Some(self.world.now),
                    last_d2c: None,
                };
                self.world.facts.insert(session, facts);
            }
            Step::Frame { which, conn } => {
                if let Some(key) = self.writer(which) {
                    self.world
                        .pool
                        .target(key, ConnId(conn % (3 << 32)), self.world.now);
                    self.world.settle();
                }
            }
        }
        self.react();
    }

    fn bind(&mut self, dc: i16, session: u32) {
        self.waiting.remove(&session);
        match self.world.bind(dc, session) {
            Bind::To(..) => {}
            Bind::Wait => {
                self.waiting.insert(session, dc);
            }
            Bind::Refused => panic!("so many do not wait here"),
        }
    }

    fn unbind(&mut self, which: usize, by_me: bool) {
        let sessions: Vec<u32> = self.world.bound.keys().copied().collect();
        if sessions.is_empty() {
            if let Some((session, _)) = self.waiting.pop_first() {
                self.world.pool.forget(session);
                self.world.settle();
            }
            return;
        }
        let session = sessions[which % sessions.len()];
        if by_me {
            let (writer, conn) = self.world.bound.remove(&session).expect("bound");
            assert!(
                self.world
                    .pool
                    .unbind(writer, conn, ClosedBy::Me, self.world.now)
            );
            self.world.settle();
        } else {
            self.world.unbind(session);
        }
    }

    /// Does what the edge does about actions.
    fn react(&mut self) {
        for _ in 0..100 {
            let log = self.world.take_log();
            if log.is_empty() {
                break;
            }
            for action in log {
                match action {
                    Action::Woken { session } => {
                        let dc = self.waiting.get(&session).copied();
                        self.bind(dc.expect("only those who wait are woken"), session);
                    }
                    Action::GiveUp { session } => {
                        assert!(self.waiting.remove(&session).is_some());
                    }
                    // It has another message at once.
                    Action::Move(unbound) if unbound.session % 2 == 0 => {
                        self.bind(1, unbound.session);
                    }
                    _ => {}
                }
            }
        }
        for session in self.waiting.keys() {
            assert!(self.world.pool.waiting.contains(*session));
        }
    }

    fn plan(&mut self, what: u8) {
        let world = &mut self.world;
        let active = world.plan.generations.active;
        match what {
            0..=3 => {}
            4 => {
                world.plan.generations.warming = Some(active + 1);
                world.plan.generations.warm_round += 1;
            }
            5 => {
                world.plan.generations.active = active + 1;
                world.plan.generations.warming = None;
                world.plan.generations.drain_others_before = active + 1;
                for dc in [-3, 1, 2] {
                    if world.plan.group(dc).is_some() {
                        world.group(dc, |group| group.drain_before = active + 1);
                    }
                }
            }
            6 => world.set_groups(&[(1, &[at(2), at(5)], 2), (2, &[at(3)], 1)]),
            7 => world.set_groups(&[
                (-3, &[at(1)], 1),
                (1, &[at(1), at(2), at6(1)], 3),
                (2, &[at(3), at(4)], 0),
            ]),
            8 => {
                let until = Millis(world.now.0 + 25_000);
                world.plan.quarantine = Arc::new([(at(1), until), (at(3), until)]);
            }
            9 => {
                world.plan.fill = match world.plan.fill {
                    Fill::Steady => Fill::First,
                    Fill::First => Fill::Rest,
                    Fill::Rest | Fill::Not => Fill::Steady,
                };
                world.plan.fill_round += 1;
            }
            10 => world.plan.generations.drain_unmapped = !world.plan.generations.drain_unmapped,
            _ => {
                let limit = world.plan.limits.draining_max;
                world.plan.limits.draining_max = limit.map_or(Some(1), |_| None);
                world.settings(|me| me.drain.soft_evict_grace = std::time::Duration::ZERO);
            }
        }
        world.tick();
    }
}

impl World {
    /// As [`World::pass_answering`], keeping the rest of the log.
    fn pass_answering_all(&mut self, ms: u64) {
        let step = (ms / 20).max(1);
        let mut kept = Vec::new();
        for _ in 0..ms / step {
            self.pass(step);
            for action in std::mem::take(&mut self.log) {
                match action {
                    Action::Ping { writer, id } => self.pool.pong(writer, id, self.now),
                    other => kept.push(other),
                }
            }
        }
        self.log = kept;
    }
}

proptest! {
    #[test]
    fn any_day_keeps_routes_counts_and_gauges_right(steps in vec(steps(), 1..120)) {
        let mut day = Day::new();
        for step in steps {
            day.step(step);
        }
        // And at the end of it, everything can be given back.
        let sessions: Vec<u32> = day.world.bound.keys().copied().collect();
        for session in sessions {
            day.world.unbind(session);
        }
        prop_assert_eq!(day.world.rows().iter().map(|row| row.bound_clients).sum::<u32>(), 0);
    }
}
