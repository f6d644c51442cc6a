//! The whole process, its clients and its MEs on one clock.

use std::{
    cmp::Ordering, collections::BTreeSet, collections::BinaryHeap, net::SocketAddr, sync::Arc,
    time::Duration,
};

use super::{
    super::{
        super::Millis,
        dice::Dice,
        plan::Plan,
        pool::{Action, ClosedBy, Derived, DialFailure, DialId, Loss, Opened, WriterKey},
        report::{KeyFacts, Report},
        supervisor::{Offered, Origin, Setup, Supervisor},
    },
    network::{Mood, Network},
    shard::{Link, Shard},
};
use crate::{
    proto::middle::{
        address::Source, config_file::ConfigFile, ops::ConnId, secret_file::ProxySecret,
    },
    settings::MeSettings,
};

/// Everything.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Millis,
    pub(super) supervisor: Supervisor,
    pub(super) shards: Vec<Shard>,
    pub(super) network: Network,
    pub(super) dice: Dice,
    /// Shards whose mail is seconds late, both ways.
    pub(super) late: BTreeSet<usize>,
    /// Mean milliseconds between two clients of a shard; `None`: nobody comes.
    pub(super) arrivals: Option<u64>,
    pub(super) map: Vec<(i16, SocketAddr)>,
    pub(super) secret: u8,
    pub(super) plans: u64,
    /// Seconds from the last fault to full floors.
    pub(super) recovered_in: u64,
    pub(super) events: u64,
    heap: BinaryHeap<Entry>,
    order: u64,
    supervise_at: Option<Millis>,
    /// When the last plan to each shard, and its last report, arrive.
    mail: Vec<[Millis; 2]>,
}

struct Entry {
    at: Millis,
    order: u64,
    event: Event,
}

enum Event {
    Supervise,
    Wake(usize),
    Plan(usize, Arc<Plan>),
    Report(Box<Report>),
    DialEnds(usize, DialId, Result<Opened, DialFailure>),
    Ends(usize, WriterKey, Loss),
    Pong(usize, WriterKey, u64),
    Answer(usize, WriterKey, ConnId),
    Arrives(usize),
    Message(usize, u32, u64),
    Leaves(usize, u32, u64),
}

impl World {
    /// A process whose secret and map were just read.
    pub(super) fn new(settings: MeSettings, shards: usize, seed: u64) -> Self {
        let settings = Arc::new(settings);
        let setup = Setup {
            settings: Arc::clone(&settings),
            shards,
            cores: shards,
            seed,
            started_unix_ms: 1_700_000_000_000,
        };
        let mut dice = Dice::new(seed);
        let shard = |at| Shard::new(at, shards, &settings, seed ^ (at as u64 + 1));
        let mut world = Self {
            seed,
            now: Millis(0),
            supervisor: Supervisor::new(setup, Millis(0)),
            shards: (0..shards).map(shard).collect(),
            network: Network::new(),
            late: BTreeSet::new(),
            arrivals: Some(500 + dice.up_to(2_000)),
            dice,
            map: Vec::new(),
            secret: 1,
            plans: 0,
            recovered_in: 0,
            events: 0,
            heap: BinaryHeap::new(),
            order: 0,
            supervise_at: None,
            mail: vec![[Millis(0); 2]; shards],
        };
        world.offer_secret(Origin::Startup);
        for shard in 0..shards {
            world.push(0, Event::Arrives(shard));
        }
        world.push(0, Event::Supervise);
        world
    }

    /// Puts a map in place of the last one.
    pub(super) fn offer_map(&mut self, map: Vec<(i16, SocketAddr)>, origin: Origin) {
        let lines = map.iter().map(|(dc, at)| format!("proxy_for {dc} {at};\n"));
        let offered = Offered {
            file: ConfigFile::parse(lines.collect::<String>().as_bytes()),
            http_ok: true,
        };
        let has_v6 = map.iter().any(|(_, at)| at.is_ipv6());
        self.map = map;
        let v6 = has_v6.then(|| offered.clone());
        self.supervisor
            .offer_maps(Some(offered), v6, origin, self.now);
        self.push(0, Event::Supervise);
    }

    /// Puts the secret of `self.secret` in place of the last one.
    pub(super) fn offer_secret(&mut self, origin: Origin) {
        let secret = ProxySecret::new(&[self.secret; 40], 256).expect("long enough");
        self.supervisor.offer_secret(secret, origin, self.now);
        self.push(0, Event::Supervise);
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, span: Duration) {
        let end = self.now.after(span);
        while self.heap.peek().is_some_and(|entry| entry.at <= end) {
            let Some(entry) = self.heap.pop() else { break };
            assert!(entry.at >= self.now);
            self.now = entry.at;
            self.events += 1;
            self.handle(entry.event);
        }
        self.now = end;
    }

    /// Ends every connection to an endpoint.
    pub(super) fn cut(&mut self, endpoint: SocketAddr, why: Loss) {
        for shard in 0..self.shards.len() {
            let links = self.shards[shard].links.iter();
            let cut: Vec<WriterKey> = links
                .filter(|(_, link)| link.endpoint == endpoint)
                .map(|(key, _)| *key)
                .collect();
            for key in cut {
                self.push(0, Event::Ends(shard, key, why));
            }
        }
    }

    fn push(&mut self, after_ms: u64, event: Event) {
        self.order += 1;
        self.heap.push(Entry {
            at: Millis(self.now.0 + after_ms),
            order: self.order,
            event,
        });
    }

    fn push_after(&mut self, after: Duration, event: Event) {
        self.push(
            u64::try_from(after.as_millis()).expect("within a day"),
            event,
        );
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Supervise => self.supervise(),
            Event::Report(report) => {
                self.supervisor.report(*report, self.now);
                self.supervise();
            }
            Event::Wake(shard) => self.pump(shard),
            Event::Plan(shard, plan) => {
                self.shards[shard].pool.apply(&plan, self.now);
                self.pump(shard);
            }
            Event::DialEnds(shard, dial, result) => self.dial_ends(shard, dial, result),
            Event::Ends(shard, key, why) => self.ends(shard, key, why),
            Event::Pong(shard, key, id) => {
                self.shards[shard].pool.pong(key, id, self.now);
                self.pump(shard);
            }
            Event::Answer(shard, key, conn) => {
                if self.shards[shard].links.contains_key(&key) {
                    self.shards[shard].answer(key, conn, self.now);
                    self.pump(shard);
                }
            }
            Event::Arrives(shard) => self.arrives(shard),
            Event::Message(shard, place, nonce) => self.message(shard, place, nonce),
            Event::Leaves(shard, place, nonce) => {
                if self.shards[shard].session(place, nonce).is_some() {
                    let by = match self.dice.up_to(3) {
                        0 => ClosedBy::Me,
                        _ => ClosedBy::Us,
                    };
                    self.shards[shard].leave(place, by, self.now);
                    self.pump(shard);
                }
            }
        }
    }

    fn supervise(&mut self) {
        let next = self.supervisor.advance(self.now);
        assert!(next > self.now, "the supervisor would not rest");
        self.supervisor.take_events();
        self.supervisor.wants_stun_reset();
        if let Some(plan) = self.supervisor.take_plan() {
            self.plans += 1;
            for shard in 0..self.shards.len() {
                let delay = self.mail_ms(shard, 0);
                self.push(delay, Event::Plan(shard, Arc::clone(&plan)));
            }
        }
        if self
            .supervise_at
            .is_none_or(|at| at > next || at <= self.now)
        {
            self.supervise_at = Some(next);
            self.push(next.since(self.now), Event::Supervise);
        }
    }

    /// How long mail from or to a shard takes; its order is kept.
    fn mail_ms(&mut self, shard: usize, way: usize) -> u64 {
        let delay = if self.late.contains(&shard) { 4_000 } else { 1 };
        let last = &mut self.mail[shard][way];
        *last = (*last).max(Millis(self.now.0 + delay));
        last.since(self.now)
    }

    /// Lets a pool do what is due and does what it asks for, until it has nothing more to say.
    fn pump(&mut self, at: usize) {
        let now = self.now;
        for round in 0.. {
            assert!(round < 10_000, "a pool without rest, seed {}", self.seed);
            let Shard {
                pool,
                sessions,
                links,
                ..
            } = &mut self.shards[at];
            if pool.next_deadline().is_some_and(|due| due <= now) {
                pool.advance(now, &mut |writer, place| {
                    Shard::facts(sessions, links, writer, place)
                });
            }
            let mut rests = true;
            while let Some(action) = self.shards[at].pool.next_action() {
                rests = false;
                self.perform(at, action);
            }
            while let Some(report) = self.shards[at].pool.report(now) {
                rests = false;
                let delay = self.mail_ms(at, 1);
                self.push(delay, Event::Report(Box::new(report)));
            }
            let due = self.shards[at].pool.next_deadline();
            if rests && due.is_none_or(|due| due > now) {
                self.wake_by(at, due);
                break;
            }
        }
    }

    fn wake_by(&mut self, at: usize, due: Option<Millis>) {
        let Some(due) = due else { return };
        let known = self.shards[at].wakes_at;
        if known.is_none_or(|known| known > due || known <= self.now) {
            self.shards[at].wakes_at = Some(due);
            self.push(due.since(self.now), Event::Wake(at));
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Dial {
                dial,
                dc,
                endpoint,
                limits,
            } => {
                let plan = Arc::clone(self.shards[at].pool.plan());
                assert!(plan.map[&dc].contains(&endpoint), "dialled outside the map");
                let secret = plan
                    .secret
                    .as_ref()
                    .expect("dialled without a secret")
                    .epoch;
                let fate = self.network.dial(&endpoint, secret, limits, &mut self.dice);
                let opened = Opened {
                    secret_epoch: secret,
                };
                let result = fate.result.map(|()| opened);
                self.shards[at].dials.insert(dial, endpoint);
                self.shards[at].totals.dialled += 1;
                self.push_after(fate.after, Event::DialEnds(at, dial, result));
            }
            Action::CancelDial(dial) => {
                let dials = &mut self.shards[at].dials;
                dials
                    .remove(&dial)
                    .expect("cancelled what was not under way");
            }
            Action::CloseWriter(key) => self.shards[at].close(key),
            Action::Ping { writer, id } => {
                let link = self.shards[at].links[&writer];
                if self.network.mood(&link.endpoint) != Mood::Stalls {
                    let rtt = 20 + self.dice.up_to(60);
                    self.push(rtt, Event::Pong(at, writer, id));
                }
            }
            Action::Signal { writer, conn } => self.push(50, Event::Answer(at, writer, conn)),
            Action::CloseSignal { writer, conn } => {
                self.shards[at]
                    .pool
                    .unbind(writer, conn, ClosedBy::Us, self.now);
            }
            Action::Move(unbound) => {
                let from = (unbound.writer, unbound.conn);
                self.shards[at].unbound(unbound.session, from, true);
                if self.dice.up_to(4) == 0 {
                    self.shards[at].bind(unbound.session, self.now);
                }
            }
            Action::Close(unbound) => {
                let from = (unbound.writer, unbound.conn);
                self.shards[at].unbound(unbound.session, from, false);
            }
            Action::Woken { session } => self.shards[at].bind(session, self.now),
            Action::GiveUp { session } => {
                let gone = self.shards[at].sessions.remove(&session);
                let gone = gone.expect("gave up nobody");
                assert!(gone.waits && gone.bound.is_none());
                self.shards[at].totals.gave_up += 1;
            }
        }
    }

    fn dial_ends(&mut self, at: usize, dial: DialId, result: Result<Opened, DialFailure>) {
        let Some(endpoint) = self.shards[at].dials.remove(&dial) else {
            return;
        };
        let is_open = result.is_ok();
        if is_open {
            let port = u16::try_from(1_024 + self.dice.up_to(60_000)).expect("a port");
            let facts = KeyFacts {
                me: endpoint,
                proxy_ip: SocketAddr::from(([5, 5, 5, 5], 1)).ip(),
                proxy_port: port,
                source: Source::Local,
                reflected: None,
                bound: None,
            };
            let derived = Derived {
                facts,
                fell_back: false,
            };
            self.shards[at].pool.keys_derived(derived);
        }
        let key = self.shards[at].pool.dial_ended(dial, result, self.now);
        assert!(is_open || key.is_none());
        if let Some(key) = key {
            let shard = &mut self.shards[at];
            let facts = shard.pool.writer(key).expect("a new writer");
            assert_eq!(facts.endpoint, endpoint);
            let link = Link {
                dc: facts.dc,
                endpoint,
            };
            shard.totals.opened += 1;
            assert!(
                shard.links.insert(key, link).is_none(),
                "a key was used twice"
            );
            let (after, why) = self.network.life(&endpoint, &mut self.dice);
            self.push_after(after, Event::Ends(at, key, why));
        }
        self.pump(at);
    }

    fn ends(&mut self, at: usize, key: WriterKey, why: Loss) {
        let Some(link) = self.shards[at].links.get(&key).copied() else {
            return;
        };
        // Who stalls says nothing, not even goodbye.
        if self.network.mood(&link.endpoint) == Mood::Stalls {
            self.push(60_000, Event::Ends(at, key, why));
            return;
        }
        let Shard {
            pool,
            sessions,
            links,
            ..
        } = &mut self.shards[at];
        pool.lost(key, why, self.now, &mut |writer, place| {
            Shard::facts(sessions, links, writer, place)
        });
        // Its actions name it still; then it is gone.
        while let Some(action) = self.shards[at].pool.next_action() {
            self.perform(at, action);
        }
        self.shards[at].close(key);
        self.pump(at);
    }

    fn arrives(&mut self, at: usize) {
        let Some(mean) = self.arrivals else {
            self.push(1_000, Event::Arrives(at));
            return;
        };
        let pause = 1 + self.dice.up_to(mean * 2);
        self.push(pause, Event::Arrives(at));
        let known = self.dice.index(self.map.len().max(1));
        let dc = match (self.dice.up_to(20), self.map.get(known)) {
            (0, _) => 99,
            (1, _) | (_, None) => 0,
            (2..=6, Some((dc, _))) => -dc,
            (_, Some((dc, _))) => *dc,
        };
        if let Some((place, nonce)) = self.shards[at].arrive(dc) {
            let stays = self
                .dice
                .between(Duration::from_secs(1), Duration::from_secs(400));
            self.push_after(stays, Event::Leaves(at, place, nonce));
            self.push(0, Event::Message(at, place, nonce));
        }
    }

    fn message(&mut self, at: usize, place: u32, nonce: u64) {
        if self.shards[at].session(place, nonce).is_none() {
            return;
        }
        let in_flight = self.dice.up_to(9) == 0;
        if let Some((writer, conn)) = self.shards[at].message(place, in_flight, self.now) {
            self.push(80, Event::Answer(at, writer, conn));
        }
        let next = self
            .dice
            .between(Duration::from_millis(500), Duration::from_secs(25));
        self.push_after(next, Event::Message(at, place, nonce));
        self.pump(at);
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
