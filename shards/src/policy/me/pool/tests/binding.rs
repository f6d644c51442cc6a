//! Which writer a session gets, and whose a frame is.

use super::*;
use crate::settings::{PickMode, StaleBind};

fn open(share: u32) -> (World, Vec<WriterKey>) {
    let mut world = World::new(&[(1, &[at(1), at(2), at(3)], share)]);
    world.tick();
    let mut keys = world.open_all();
    keys.sort_by_key(|key| world.pool.writer(*key).expect("alive").endpoint);
    (world, keys)
}

#[test]
fn ids_are_routed_until_they_are_unbound_and_late_frames_are_passed_over() {
    let (mut world, _) = open(1);
    let (writer, conn) = world.bind_to_some(1, 7);
    assert_eq!(
        world.pool.target(writer, conn, world.now),
        Target::Session(7)
    );
    assert_eq!(world.row(writer).idle_since, None);
    world.unbind(7);
    assert_eq!(world.row(writer).idle_since, Some(world.now));
    let late = |world: &mut World| world.pool.target(writer, conn, world.now);
    assert_eq!(late(&mut world), Target::Unknown { answer: false });
    world.pass_answering(10_000);
    assert_eq!(late(&mut world), Target::Unknown { answer: true });
    assert_eq!(late(&mut world), Target::Unknown { answer: false });
    assert!(!world.pool.unbind(writer, conn, ClosedBy::Us, world.now));
    let stranger = ConnId(99 << 32 | 5);
    let target = world.pool.target(writer, stranger, world.now);
    assert_eq!(target, Target::Unknown { answer: true });
}

#[test]
fn keys_of_writers_that_are_gone_find_nothing() {
    let (mut world, keys) = open(1);
    let (writer, conn) = world.bind_to_some(1, 7);
    world.lose(keys[0], Loss::Eof);
    let again = world.open();
    assert_eq!(again.index(), writer.index(), "the place is used again");
    assert_ne!(again, writer);
    let target = world.pool.target(writer, conn, world.now);
    assert_eq!(target, Target::Unknown { answer: false });
    assert!(!world.pool.unbind(writer, conn, ClosedBy::Us, world.now));
    world.lose(writer, Loss::Eof);
    assert_eq!(world.rows().len(), 1);
}

#[test]
fn a_place_is_given_away_again_only_when_its_end_was_heard_of() {
    let (mut world, _) = open(2);
    world.settings(|me| me.drain.instant = true);
    world.apply();
    let (old, _) = world.bind_to_some(1, 7);
    let id = world.row(old).id;
    world.task(TaskKind::Drain { writer: id });
    world.tick();
    world.now = Millis(world.now.0 + 1_000);
    world.pool.advance(world.now, &mut |_, _| ACKNOWLEDGED);
    assert_eq!(world.pool.writer(old), None, "and nobody was told yet");
    let dial = world.dials.remove(0).dial;
    let opened = Opened { secret_epoch: 1 };
    let fresh = world.pool.dial_ended(dial, Ok(opened), world.now);
    assert_ne!(fresh.expect("a writer").index(), old.index());
    world.settle();
}

#[test]
fn ids_are_looked_up_as_they_stand_and_unknown_ones_go_by_default() {
    let mut world = World::new(&[(-2, &[at(1)], 1), (2, &[at(2)], 1), (3, &[at(3)], 1)]);
    world.plan.default_dc = 3;
    world.tick();
    world.open_all();
    let cases = [(2, 2), (-2, -2), (0, 3), (77, 3), (-1, 3), (3, 3)];
    for (session, (dc, want)) in (0..).zip(cases) {
        let (writer, _) = world.bind_to_some(dc, session);
        assert_eq!(
            world.pool.writer(writer).expect("alive").dc,
            want,
            "DC {dc}"
        );
    }
    let groups = world.pool.snapshot().groups;
    let loads: Vec<(i16, u32)> = groups.iter().map(|row| (row.dc, row.sessions)).collect();
    assert_eq!(loads, [(-2, 1), (2, 1), (3, 4)]);
}

#[test]
fn p2c_takes_the_best_of_consecutive_ones() {
    let (mut world, keys) = open(3);
    world.settings(|me| me.pick.sample = 2);
    world.apply();
    world.pool.set_queue(keys[0], 10, true);
    world.pool.set_queue(keys[1], 20, true);
    world.pool.set_queue(keys[2], 30, true);
    let mut counts = BTreeMap::new();
    for session in 0..30 {
        *counts.entry(world.bind_to_some(1, session).0).or_insert(0) += 1;
    }
    assert_eq!(
        counts.get(&keys[0]),
        Some(&20),
        "it is in two of three pairs"
    );
    assert_eq!(counts.get(&keys[1]), Some(&10));
    assert_eq!(counts.get(&keys[2]), None);
}

#[test]
fn p2c_falls_back_to_the_rest_when_its_sample_is_full() {
    let (mut world, keys) = open(3);
    world.settings(|me| me.pick.sample = 2);
    world.apply();
    world.pool.set_queue(keys[0], 100, false);
    world.pool.set_queue(keys[1], 100, false);
    for session in 0..6 {
        assert_eq!(world.bind_to_some(1, session).0, keys[2]);
    }
}

#[test]
fn idle_writers_are_pushed_back() {
    let (mut world, keys) = open(3);
    world.pass_answering(44_000);
    world.bind_to_some(1, 0);
    world.unbind(0);
    let fresh = keys
        .iter()
        .find(|key| world.row(**key).idle_since == Some(world.now));
    let fresh = *fresh.expect("the one just used");
    world.pass_answering(2_000);
    for session in 1..7 {
        assert_eq!(world.bind_to_some(1, session).0, fresh);
    }
}

#[test]
fn degraded_writers_are_pushed_back() {
    let (mut world, keys) = open(3);
    for _ in 0..800 {
        world.pass(100);
        for action in world.take_log() {
            if let Action::Ping { writer, id } = action {
                let slow = writer == keys[0] && world.now.0 > 140_000;
                let later = Millis(world.now.0 + if slow { 300 } else { 1 });
                world.pool.pong(writer, id, later);
            }
        }
    }
    assert!(world.row(keys[0]).degraded);
    for session in 0..6 {
        assert_ne!(world.bind_to_some(1, session).0, keys[0]);
    }
}

#[test]
fn sorted_rr_goes_round() {
    let (mut world, keys) = open(3);
    world.settings(|me| me.pick.mode = PickMode::SortedRoundRobin);
    world.apply();
    let picked: Vec<WriterKey> = (0..6).map(|s| world.bind_to_some(1, s).0).collect();
    assert_eq!(picked[..3], picked[3..]);
    let distinct: BTreeSet<WriterKey> = picked.into_iter().collect();
    assert_eq!(distinct, keys.into_iter().collect());
}

#[test]
fn warm_writers_take_sessions_only_without_active_ones() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.plan.generations.warming = Some(2);
    world.plan.generations.warm_round = 1;
    world.apply();
    world.pass(2_000);
    let warm = world.open();
    assert_eq!(world.bind_to_some(1, 1).0, warm);
    world.tick();
    let active = world.open();
    assert_eq!(world.bind_to_some(1, 2).0, active);
    assert_eq!(
        world.totals().pool_stale_pick_total,
        0,
        "younger is not stale"
    );
}

#[test]
fn draining_writers_take_sessions_as_the_mode_says() {
    let secs = std::time::Duration::from_secs;
    // (mode, ttl, age of the drain in seconds, takes)
    let cases = [
        (StaleBind::Never, 90, 0, false),
        (StaleBind::Always, 1, 60, true),
        (StaleBind::Ttl, 30, 30, true),
        (StaleBind::Ttl, 30, 31, false),
        (StaleBind::Ttl, 0, 80, true),
    ];
    for (mode, ttl, age, takes) in cases {
        let mut world = World::new(&[(1, &[at(1)], 1)]);
        world.settings(|me| {
            me.drain.stale_bind = mode;
            me.drain.stale_bind_ttl = secs(ttl);
        });
        world.tick();
        let old = world.open();
        world.bind_to_some(1, 1);
        // The only one, so it may fall back; of an older generation, so it is stale.
        world.plan.generations.active = 2;
        world.group(1, |group| group.drain_before = 2);
        world.apply();
        world.pass_answering(age * 1_000);
        world.dials.clear();
        let bind = world.bind(1, 2);
        assert_eq!(
            matches!(bind, Bind::To(key, _) if key == old),
            takes,
            "{mode:?} {ttl}"
        );
        assert_eq!(world.totals().pool_stale_pick_total, u64::from(takes));
    }
}

#[test]
fn a_drain_that_leaves_others_behind_takes_no_sessions() {
    let (mut world, keys) = open(2);
    world.settings(|me| me.drain.stale_bind = StaleBind::Always);
    world.apply();
    let id = world.row(keys[0]).id;
    world.bind_to_some(1, 1);
    world.bind_to_some(1, 2);
    world.task(TaskKind::Drain { writer: id });
    world.pool.set_queue(keys[1], 100, false);
    assert_eq!(world.bind(1, 3), Bind::Wait);
}
