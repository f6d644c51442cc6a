//! Draining writers: cleaning, force, threshold, TTL, soft evict; what becomes of sessions.

use super::*;

/// A world with one group of two endpoints and some sessions, all on one writer that drains.
fn draining(sessions: u32) -> (World, WriterKey) {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.tick();
    let old = world.open();
    for session in 0..sessions {
        world.bind_to_some(1, session);
    }
    world.group(1, |group| group.shares = Arc::new([2]));
    world.tick();
    world.open();
    let id = world.row(old).id;
    world.task(TaskKind::Drain { writer: id });
    world.take_log();
    (world, old)
}

fn moved(log: &[Action]) -> Vec<u32> {
    let moved = log.iter().filter_map(|action| match action {
        Action::Move(unbound) => Some(unbound.session),
        _ => None,
    });
    moved.collect()
}

fn closed(log: &[Action]) -> Vec<u32> {
    let closed = log.iter().filter_map(|action| match action {
        Action::Close(unbound) => Some(unbound.session),
        _ => None,
    });
    closed.collect()
}

#[test]
fn an_empty_draining_writer_is_removed_within_a_second() {
    let (mut world, old) = draining(0);
    assert_eq!(world.totals().pool_drain_active, 1);
    world.pass(1_000);
    assert!(world.take_log().contains(&Action::CloseWriter(old)));
    let pool = world.totals();
    assert_eq!((pool.pool_drain_active, pool.writer_removed_total), (0, 1));
    assert_eq!(
        (
            pool.writer_removed_unexpected_total,
            pool.pool_force_close_total
        ),
        (0, 0)
    );
    assert_eq!(pool.refill_triggered_total, 0);
}

#[test]
fn a_draining_writer_keeps_its_sessions_until_its_deadline() {
    let (mut world, old) = draining(2);
    let row = world.row(old);
    let started = world.now;
    let want = WriterState::Draining {
        fallback: false,
        started,
        deadline: started.after(std::time::Duration::from_secs(90)),
        over_ttl: false,
    };
    assert_eq!(row.state, want);
    world.pass_answering(89_000);
    assert_eq!(world.bound.len(), 2);
    world.facts.insert(
        1,
        SessionFacts {
            unsent: true,
            ..ACKNOWLEDGED
        },
    );
    world.pass(2_000);
    let log = world.take_log();
    assert_eq!((moved(&log), closed(&log)), (vec![0], vec![1]));
    let told = log.iter().all(|action| match action {
        Action::Move(unbound) | Action::Close(unbound) => unbound.tell,
        _ => true,
    });
    assert!(told);
    assert!(matches!(
        log.iter()
            .rev()
            .find(|action| !matches!(action, Action::Ping { .. })),
        Some(Action::CloseWriter(_))
    ));
    assert_eq!(world.totals().pool_force_close_total, 1);
}

#[test]
fn instadrain_forces_at_the_next_cleaning() {
    let (mut world, _) = draining(1);
    world.settings(|me| me.drain.instant = true);
    world.apply();
    world.pass(1_000);
    assert_eq!(moved(&world.take_log()), [0]);
    assert_eq!(world.totals().pool_force_close_total, 1);
}

#[test]
fn too_many_draining_writers_with_sessions_force_the_oldest() {
    let mut world = World::new(&[(1, &[at(1)], 3)]);
    world.settings(|me| me.pick.mode = crate::settings::PickMode::SortedRoundRobin);
    world.tick();
    let keys = world.open_all();
    for session in 0..30 {
        world.bind_to_some(1, session);
    }
    world.plan.limits.draining_max = Some(1);
    for key in &keys {
        let id = world.row(*key).id;
        world.task(TaskKind::Drain { writer: id });
        world.pass(1);
    }
    world.take_log();
    world.pass(1_000);
    let gone: Vec<WriterKey> = world
        .take_log()
        .iter()
        .filter_map(|action| match action {
            Action::CloseWriter(key) => Some(*key),
            _ => None,
        })
        .collect();
    assert_eq!(gone, keys[..2]);
    assert_eq!(world.totals().pool_force_close_total, 2);
}

#[test]
fn removals_per_second_are_limited() {
    let mut world = World::new(&[(1, &[at(1)], 5)]);
    world.tick();
    for key in world.open_all() {
        let id = world.row(key).id;
        world.task(TaskKind::Drain { writer: id });
    }
    world.plan.limits.removals_per_second = 2;
    world.apply();
    world.pass(1_000);
    assert_eq!(world.rows().len(), 3);
    world.pass(1_000);
    assert_eq!(world.rows().len(), 1);
}

#[test]
fn a_drain_past_the_ttl_is_marked_and_then_evicts_the_longest_silent_a_few_at_a_time() {
    let (mut world, old) = draining(5);
    world.settings(|me| me.drain.force_close = std::time::Duration::from_secs(600));
    // The drain keeps the deadline it began with, so begin anew.
    let (writer, _) = world.bind_to_some(1, 100);
    assert_ne!(writer, old);
    let id = world.row(writer).id;
    world.task(TaskKind::Drain { writer: id });
    for (session, at) in [(100, 5_000), (101, 1_000), (102, 3_000)] {
        if session != 100 {
            // Bound to nothing else: the other writers drain.
            continue;
        }
        let last_d2c = Some(Millis(at));
        world.facts.insert(
            session,
            SessionFacts {
                last_d2c,
                ..ACKNOWLEDGED
            },
        );
    }
    world.pass_answering(91_500);
    let over = |world: &World| {
        matches!(
            world.row(writer).state,
            WriterState::Draining { over_ttl: true, .. }
        )
    };
    assert!(over(&world));
    assert_eq!(
        world.bound.len(),
        1,
        "the old one was forced at its own deadline"
    );
    world.pass_answering(10_000);
    assert_eq!(world.bound.len(), 0);
    assert_eq!(world.totals().pool_force_close_total, 1);
}

#[test]
fn soft_evict_takes_the_longest_silent_per_writer_and_pauses() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.settings(|me| {
        me.drain.force_close = std::time::Duration::from_secs(600);
        me.drain.soft_evict_cooldown = std::time::Duration::from_millis(3_000);
    });
    world.tick();
    let old = world.open();
    for session in 0..5 {
        world.bind_to_some(1, session);
        let last_d2c = Some(Millis(1_000 * u64::from(5 - session)));
        world.facts.insert(
            session,
            SessionFacts {
                last_d2c,
                ..ACKNOWLEDGED
            },
        );
    }
    world.facts.get_mut(&4).expect("there").unsent = true;
    let id = world.row(old).id;
    world.task(TaskKind::Drain { writer: id });
    let mut evicted = Vec::new();
    for second in 0..110_u64 {
        for action in world.take_log() {
            match action {
                Action::Move(unbound) => evicted.push((second, unbound.session)),
                Action::Ping { writer, id } => world.pool.pong(writer, id, world.now),
                _ => {}
            }
        }
        world.pass(1_000);
    }
    let order: Vec<u32> = evicted.iter().map(|(_, session)| *session).collect();
    assert_eq!(
        order,
        [3, 2, 1, 0],
        "the silent first; what has bytes unsent stays"
    );
    let (first, third) = (evicted[0].0, evicted[2].0);
    assert!((100..=103).contains(&first), "{evicted:?}");
    assert_eq!((evicted[1].0, third - first), (first, 3));
    assert_eq!(world.bound.keys().copied().collect::<Vec<_>>(), [4]);
}

#[test]
fn soft_evict_keeps_to_the_budget_of_a_pass() {
    let mut world = World::new(&[(1, &[at(1)], 3)]);
    world.settings(|me| {
        me.drain.force_close = std::time::Duration::from_secs(600);
        me.drain.soft_evict_budget_per_core = 3;
        me.pick.mode = crate::settings::PickMode::SortedRoundRobin;
    });
    world.tick();
    let keys = world.open_all();
    for session in 0..60 {
        world.bind_to_some(1, session);
    }
    for key in keys {
        let id = world.row(key).id;
        world.task(TaskKind::Drain { writer: id });
    }
    world.pass_answering(100_000);
    let mut passes = Vec::new();
    for _ in 0..5 {
        let before = world.bound.len();
        world.pass(1_000);
        passes.push(before - world.bound.len());
    }
    assert_eq!(passes.iter().max(), Some(&3), "{passes:?}");
}

#[test]
fn losses_move_or_close_by_the_table_and_say_nothing_to_the_dead() {
    for (why, moves) in [
        (Loss::Eof, true),
        (Loss::Reset, true),
        (Loss::Broken, false),
    ] {
        let mut world = World::new(&[(1, &[at(1)], 1)]);
        world.tick();
        let key = world.open();
        world.bind_to_some(1, 1);
        world.lose(key, why);
        let log = world.take_log();
        assert_eq!(moved(&log).len(), usize::from(moves), "{why:?}");
        assert_eq!(closed(&log).len(), usize::from(!moves), "{why:?}");
        assert!(!log.iter().any(|action| matches!(
            action,
            Action::Move(Unbound { tell: true, .. }) | Action::CloseWriter(_)
        )));
        let me = world.me();
        let eof = u64::from(why == Loss::Eof);
        assert_eq!((me.reader_eof_total, me.idle_close_by_peer_total), (eof, 0));
    }
}

#[test]
fn who_got_something_lately_is_released_last() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.tick();
    let key = world.open();
    for session in 0..3 {
        world.bind_to_some(1, session);
    }
    let last_d2c = Some(Millis(world.now.0 - 999));
    world.facts.insert(
        0,
        SessionFacts {
            last_d2c,
            ..ACKNOWLEDGED
        },
    );
    world.lose(key, Loss::Eof);
    assert_eq!(moved(&world.take_log()), [1, 2, 0]);
}

#[test]
fn a_map_change_without_hardswap_drains_what_left_the_map_and_lets_it_take_sessions() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.settings(|me| me.drain.stale_bind = crate::settings::StaleBind::Always);
    world.tick();
    let old = world.open();
    world.set_groups(&[(1, &[at(2)], 1)]);
    world.plan.generations.drain_unmapped = true;
    world.group(1, |group| group.covered = false);
    world.apply();
    assert_eq!(world.states(), ["active"], "not covered yet");
    assert_eq!(world.bind(1, 1), Bind::Wait, "not in the map");
    world.pool.forget(1);
    world.group(1, |group| group.covered = true);
    world.apply();
    assert!(matches!(
        world.row(old).state,
        WriterState::Draining { fallback: true, .. }
    ));
    assert_eq!(world.bind_to_some(1, 2).0, old);
}

#[test]
fn groups_that_are_no_more_drain_by_their_own_rule() {
    let mut world = World::new(&[(1, &[at(1)], 1), (2, &[at(2)], 1)]);
    world.tick();
    world.open_all();
    world.set_groups(&[(2, &[at(2)], 1)]);
    world.apply();
    assert_eq!(world.states(), ["active", "active"]);
    world.plan.generations.drain_others_before = 2;
    world.apply();
    assert_eq!(world.states(), ["draining", "active"]);
}

#[test]
fn writers_beyond_the_share_drain_when_idle_for_long() {
    let mut world = World::new(&[(1, &[at(1)], 3)]);
    world.tick();
    world.open_all();
    world.bind_to_some(1, 1);
    world.group(1, |group| group.shares = Arc::new([0]));
    world.apply();
    world.pass_answering(89_900);
    assert_eq!(world.rows().len(), 3);
    world.pass_answering(10_000);
    assert_eq!(world.rows().len(), 1, "the busy one stays");
    assert_eq!(world.bound.len(), 1);
}
