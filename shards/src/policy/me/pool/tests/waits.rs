//! Sessions without a writer.

use super::*;
use crate::settings::NoWriterMode;

fn woken(log: &[Action]) -> Vec<u32> {
    let woken = log.iter().filter_map(|action| match action {
        Action::Woken { session } => Some(*session),
        _ => None,
    });
    woken.collect()
}

fn given_up(log: &[Action]) -> Vec<u32> {
    let given_up = log.iter().filter_map(|action| match action {
        Action::GiveUp { session } => Some(*session),
        _ => None,
    });
    given_up.collect()
}

/// How long a session waits for a writer that never comes.
fn waits(world: &mut World, session: u32) -> u64 {
    assert_eq!(world.bind(1, session), Bind::Wait);
    let since = world.now;
    for _ in 0..10_000 {
        world.pass(10);
        if given_up(&world.take_log()) == [session] {
            return world.now.since(since);
        }
    }
    panic!("never given up");
}

#[test]
fn the_hybrid_wait_is_doubled_after_a_bind_within_two_minutes() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.apply();
    assert_eq!(waits(&mut world, 1), 3_000);
    world.dials.clear();
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.tick();
    let key = world.open();
    world.bind_to_some(1, 1);
    world.lose(key, Loss::Eof);
    assert_eq!(waits(&mut world, 2), 6_000);
}

#[test]
fn who_is_woken_when_the_wait_is_over_may_still_bind() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.apply();
    assert_eq!(world.bind(1, 7), Bind::Wait);
    let dial = world.dials.remove(0);
    world.now = Millis(world.now.0 + 3_000);
    let opened = Opened { secret_epoch: 1 };
    world.pool.dial_ended(dial.dial, Ok(opened), world.now);
    world.pool.advance(world.now, &mut |_, _| ACKNOWLEDGED);
    let actions: Vec<Action> = std::iter::from_fn(|| world.pool.next_action()).collect();
    assert_eq!(woken(&actions), [7]);
    assert!(given_up(&actions).is_empty(), "{actions:?}");
    assert!(matches!(world.bind(1, 7), Bind::To(..)));
    world.pass(10_000);
    assert!(given_up(&world.take_log()).is_empty());
}

#[test]
fn failfast_waits_briefly_and_starts_one_refill() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.settings(|me| me.pick.no_writer = NoWriterMode::FailFast);
    world.apply();
    assert_eq!(world.bind(1, 1), Bind::Wait);
    assert_eq!(world.bind(1, 2), Bind::Wait);
    let pool = world.totals();
    assert_eq!(
        (
            pool.refill_triggered_total,
            pool.refill_skipped_inflight_total
        ),
        (1, 1)
    );
    world.pass(249);
    assert!(given_up(&world.take_log()).is_empty());
    world.pass(1);
    assert_eq!(given_up(&world.take_log()), [1, 2]);
}

#[test]
fn inline_recovery_has_its_own_dials() {
    let mut world = World::new(&[(1, &[at(1), at(2)], 1)]);
    world.settings(|me| me.pick.no_writer = NoWriterMode::Inline);
    world.apply();
    assert_eq!(world.bind(1, 1), Bind::Wait);
    let mut dials = 0;
    while !world.dials.is_empty() {
        world.fail();
        dials += 1;
    }
    assert_eq!(dials, 3);
    assert_eq!(world.totals().refill_triggered_total, 0);
    assert_eq!(world.me().reconnect_attempt_total, 0);
    assert_eq!(world.bind(1, 2), Bind::Wait);
    world.open();
    assert_eq!(woken(&world.take_log()), [1, 2]);
}

#[test]
fn a_new_writer_wakes_everybody_in_line_and_the_woken_bind() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.apply();
    for session in 0..200 {
        assert_eq!(world.bind(1, session), Bind::Wait);
    }
    assert_eq!(
        world.totals().refill_triggered_total,
        1,
        "once per 5 s and shard"
    );
    assert_eq!(world.dials.len(), 1);
    world.open();
    let mut order = Vec::new();
    loop {
        let woken = woken(&world.take_log());
        if woken.is_empty() {
            break;
        }
        for session in woken {
            order.push(session);
            world.bind_to_some(1, session);
        }
    }
    assert_eq!(order, (0..200).collect::<Vec<_>>());
    assert_eq!(world.totals().writer_restored_fallback_total, 1);
    world.pass_answering(10_000);
    assert!(given_up(&world.take_log()).is_empty());
}

#[test]
fn a_woken_session_that_finds_no_place_goes_on_waiting_as_it_was() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.tick();
    let key = world.open();
    world.pool.set_queue(key, 100, false);
    assert_eq!(world.bind(1, 1), Bind::Wait);
    world.pass(200);
    world.pool.set_queue(key, 90, true);
    world.settle();
    assert_eq!(woken(&world.take_log()), [1]);
    world.pool.set_queue(key, 100, false);
    assert_eq!(world.bind(1, 1), Bind::Wait);
    // 250 ms for room in the queue, then 3 s for another writer.
    world.pass(3_049);
    assert!(given_up(&world.take_log()).is_empty());
    world.pass(1);
    assert_eq!(given_up(&world.take_log()), [1]);
}

#[test]
fn who_left_while_waiting_is_forgotten_and_passes_its_turn_on() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.apply();
    for session in 0..100 {
        world.bind(1, session);
    }
    world.pool.forget(0);
    world.pool.forget(0);
    world.open();
    let first = woken(&world.take_log());
    assert_eq!(first.first(), Some(&1));
    for session in &first {
        world.pool.forget(*session);
    }
    world.settle();
    assert_eq!(woken(&world.take_log()).len(), 100 - 1 - first.len());
    assert!(world.pool.waiting.contains(99));
}

#[test]
fn so_many_wait_and_no_more() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.apply();
    let binds = (0..=1 << 17).map(|session| world.pool.bind(1, session, world.now));
    let refused = binds.filter(|bind| *bind == Bind::Refused).count();
    assert_eq!(refused, 1);
    // Who waits already is not refused.
    assert_eq!(world.bind(1, 0), Bind::Wait);
}

#[test]
fn ids_that_nobody_configured_start_no_recovery() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.plan.default_dc = 1;
    world.apply();
    assert_eq!(world.bind(42, 1), Bind::Wait);
    assert_eq!(world.totals().refill_triggered_total, 0);
    world.plan.groups = Arc::new([]);
    world.plan.map = Arc::default();
    world.apply();
    assert_eq!(world.bind(1, 2), Bind::Wait, "no map yet: it may come");
    world.pass(3_000);
    assert_eq!(given_up(&world.take_log()), [1, 2]);
}

#[test]
fn every_fourth_recovery_is_for_all_groups_that_are_short() {
    let groups: [(i16, &[SocketAddr], u32); 3] =
        [(1, &[at(1)], 1), (2, &[at(2)], 1), (3, &[at(3)], 0)];
    let mut world = World::new(&groups);
    world.apply();
    for session in 0..4 {
        assert_eq!(world.bind(1, session), Bind::Wait);
        let dials = world.dials.len();
        assert!(
            world.dials.iter().all(|dial| dial.dc == 1) || session == 3,
            "{dials}"
        );
        world.pass(5_000);
        while world.dials.iter().any(|dial| dial.dc == 1) && session < 3 {
            world.fail();
            world.pass(5_000);
        }
    }
    assert!(world.dials.iter().any(|dial| dial.dc == 2));
    assert!(world.dials.iter().all(|dial| dial.dc != 3));
}

#[test]
fn a_group_without_a_share_here_is_opened_on_demand_and_kept_while_it_has_clients() {
    let mut world = World::new(&[(1, &[at(1)], 0), (2, &[at(2)], 1)]);
    world.plan.limits.active_room = 0;
    world.tick();
    assert!(world.dials.is_empty(), "at the cap");
    assert_eq!(world.bind(1, 1), Bind::Wait);
    assert_eq!(world.dials.len(), 1, "over the cap for coverage");
    assert!(world.pool.snapshot().groups[0].wanted);
    world.open();
    assert_eq!(woken(&world.take_log()), [1]);
    world.bind_to_some(1, 1);
    world.pass_answering(200_000);
    assert_eq!(world.rows().len(), 1);
    world.unbind(1);
    world.pass_answering(89_000);
    assert_eq!(world.states(), ["active"]);
    world.pass_answering(5_000);
    assert!(world.rows().is_empty());
    assert!(!world.pool.snapshot().groups.iter().any(|row| row.wanted));
}

#[test]
fn an_on_demand_writer_with_clients_is_refilled_when_lost() {
    let mut world = World::new(&[(1, &[at(1)], 0)]);
    world.tick();
    world.bind(1, 1);
    let key = world.open();
    world.bind_to_some(1, 1);
    world.pass_answering(21_000);
    world.lose(key, Loss::Eof);
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn a_new_map_makes_everybody_ask_again() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.apply();
    world.bind(1, 1);
    world.set_groups(&[(1, &[at(2)], 1)]);
    world.apply();
    assert_eq!(woken(&world.take_log()), [1]);
    assert_eq!(world.bind(1, 1), Bind::Wait);
}
