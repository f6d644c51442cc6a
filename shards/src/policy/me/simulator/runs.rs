//! Hours with faults.

use std::{net::SocketAddr, time::Duration};

use super::{
    super::{super::Millis, pool::Loss, supervisor::Origin},
    network::Mood,
    world::World,
};
use crate::settings::MeSettings;

/// Telegram's ids; `moved` tells endpoints of one map from those of another.
fn map(moved: u8, endpoints: u8, ipv6: bool) -> Vec<(i16, SocketAddr)> {
    let mut map = Vec::new();
    for (dc, place) in [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (203, 6)] {
        // Two groups have one endpoint, as Telegram's have.
        let count = if place > 4 { 1 } else { endpoints };
        for at in 1..=count {
            map.push((dc, SocketAddr::from(([91, moved, place, at], 8888))));
            if ipv6 {
                let at = [
                    0x2001,
                    0x67c,
                    0,
                    0,
                    0,
                    moved.into(),
                    place.into(),
                    at.into(),
                ];
                map.push((dc, SocketAddr::from((at, 8888))));
            }
        }
    }
    map
}

fn settings() -> MeSettings {
    let mut settings = MeSettings::default();
    settings.refresh.config_stable = 1;
    settings.refresh.secret_stable = 1;
    settings.refresh.config_cooldown = Duration::from_secs(10);
    settings.reinit.every = Duration::from_secs(300);
    settings
}

impl World {
    fn any_endpoint(&mut self) -> SocketAddr {
        let at = self.dice.index(self.map.len());
        self.map[at].1
    }

    /// One thing goes wrong, or changes.
    fn fault(&mut self, moved: &mut u8, endpoints: u8, ipv6: bool) {
        match self.dice.up_to(11) {
            0..=5 => {
                for _ in 0..=self.dice.up_to(4) {
                    let endpoint = self.any_endpoint();
                    let mood = Mood::BAD[self.dice.index(Mood::BAD.len())];
                    self.network.set(endpoint, mood);
                    if self.dice.up_to(1) == 0 {
                        self.cut(endpoint, Loss::Reset);
                    }
                }
            }
            6 | 7 => {
                let endpoint = self.any_endpoint();
                self.cut(endpoint, Loss::Eof);
            }
            8 => {
                for at in 0..self.map.len() {
                    let endpoint = self.map[at].1;
                    self.cut(endpoint, Loss::Broken);
                }
            }
            9 => {
                *moved = moved.wrapping_add(1);
                self.offer_map(map(*moved, endpoints, ipv6), Origin::Refresh);
            }
            10 => {
                self.secret = self.secret.wrapping_add(1).max(1);
                self.offer_secret(Origin::Refresh);
                self.network.secret_min = self.supervisor.status(self.now).refresh.secret_epoch;
            }
            _ => {
                let shard = self.dice.index(self.shards.len());
                self.late.insert(shard);
            }
        }
    }

    /// All is well again, but for what is remembered of it.
    fn calm(&mut self) {
        self.network.calm();
        self.late.clear();
    }
}

/// An hour of faults, checked as it goes; then calm, then silence.
fn run(seed: u64, shards: usize, ipv6: bool, change: impl Fn(&mut MeSettings)) -> World {
    let mut settings = settings();
    change(&mut settings);
    let mut world = World::new(settings, shards, seed);
    let endpoints = u8::try_from(1 + world.dice.up_to(3)).expect("few");
    let mut moved = 1;
    world.offer_map(map(moved, endpoints, ipv6), Origin::Startup);
    world.recover(20);
    world.run(Duration::from_secs(60));
    world.check();
    let hour = world.now.after(Duration::from_secs(3_600));
    while world.now < hour {
        world.fault(&mut moved, endpoints, ipv6);
        let pause = world
            .dice
            .between(Duration::from_secs(2), Duration::from_secs(45));
        world.run(pause);
        world.check();
        if world.dice.up_to(3) == 0 {
            world.calm();
        }
    }
    world.calm();
    world.recovered_in = world.recover(RECOVERED_SECS);
    world.check();
    world.arrivals = None;
    world.run(Duration::from_secs(900));
    world.check();
    world.recover(5);
    world.check_quiet();
    world
}

/// The longest back-off of a tick and half as much by chance, the tick, and a slow dial that began
/// before the calm.
const RECOVERED_SECS: u64 = 30 + 15 + 3 + 15;

/// Seeds to run: `SIM_SEED`, or some.
fn seeds(some: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("SIM_SEED").map(|seed| seed.parse()) {
        Ok(Ok(seed)) => vec![seed],
        _ => some.collect(),
    }
}

fn tell(world: &World) {
    let mut lines = Vec::new();
    for shard in &world.shards {
        lines.push(format!("{:?}", shard.totals));
    }
    let (me, pool) = world.totals();
    println!(
        "seed {}: {} events, {} plans, well again after {} s\n{}\n{me:?}\n{pool:?}",
        world.seed,
        world.events,
        world.plans,
        world.recovered_in,
        lines.join("\n")
    );
}

#[test]
fn an_hour_of_faults_leaves_nothing_behind() {
    for seed in seeds(1..4) {
        tell(&run(seed, 2, false, |_| ()));
    }
}

#[test]
fn the_same_with_two_families_and_without_hardswap() {
    for seed in seeds(10..12) {
        let world = run(seed, 3, true, |settings| {
            settings.reinit.hardswap = false;
            settings.families.ipv6 = true;
            settings.families.multipath = seed % 2 == 0;
        });
        tell(&world);
    }
}

#[test]
fn the_same_under_a_cap_on_demand() {
    for seed in seeds(20..22) {
        let world = run(seed, 8, false, |settings| {
            settings.floor.active_max = 50;
            settings.keepalive.signal_every = Duration::from_secs(30);
        });
        tell(&world);
    }
}

#[test]
fn runs_are_repeatable() {
    let totals = |seed| {
        let world = run(seed, 1, false, |_| ());
        (world.events, world.plans, world.totals())
    };
    assert_eq!(totals(99), totals(99));
}

#[test]
fn a_start_opens_what_the_floors_ask_for_and_no_more() {
    for shards in [1, 2, 4] {
        let mut world = World::new(settings(), shards, 5);
        world.arrivals = None;
        world.offer_map(map(1, 3, false), Origin::Startup);
        let opened =
            |world: &World| -> u64 { world.shards.iter().map(|shard| shard.totals.opened).sum() };
        // When all groups are served, and when all writers are there.
        let (mut first, mut full) = (None, Millis(0));
        for _ in 0..200 {
            let before = opened(&world);
            world.run(Duration::from_millis(100));
            let status = world.supervisor.status(world.now);
            assert!(opened(&world) <= u64::from(status.floor.targets_total));
            if opened(&world) > before {
                full = world.now;
            }
            if status.startup.ready_at.is_some() {
                first = first.or(Some((world.now, opened(&world))));
            }
        }
        let status = world.supervisor.status(world.now);
        let opened = opened(&world);
        // Twelve groups; on four shards each of them has one of every group.
        let required = 12 * u64::try_from(shards.max(3)).expect("few");
        assert_eq!(opened, required);
        assert_eq!(u64::from(status.floor.targets_total), required);
        let dials: u64 = world.shards.iter().map(|shard| shard.totals.dialled).sum();
        assert_eq!(dials, required, "no dial in vain");
        // Groups of one endpoint (four of them) get all of theirs first, the others one per shard.
        let (at, at_first) = first.expect("it starts");
        let per_shard = 8 * u64::try_from(shards).expect("few");
        assert!(at.0 < 1_000 && at_first >= per_shard.min(24) + 12);
        // The rest comes in rounds with pauses between them.
        assert!(full.since(at) >= 500 || shards > 1, "{at:?} to {full:?}");
    }
}
