//! What the plan orders: warm-up, commit, tasks.

use super::{super::super::plan::Replacing, *};

#[test]
fn warm_up_waits_before_each_dial_and_becomes_active_at_the_commit() {
    let mut world = World::new(&[(1, &[at(1), at(2)], 2)]);
    world.tick();
    world.open_all();
    world.plan.generations.warming = Some(2);
    world.plan.generations.warm_round = 1;
    world.apply();
    assert!(world.dials.is_empty());
    let since = world.now;
    while world.dials.is_empty() {
        world.pass(10);
    }
    assert!((1_000..=2_010).contains(&world.now.since(since)));
    let mut endpoints = vec![world.dials[0].endpoint];
    world.open();
    while world.dials.is_empty() {
        world.pass(10);
    }
    endpoints.push(world.dials[0].endpoint);
    world.open();
    endpoints.sort();
    assert_eq!(endpoints, [at(1), at(2)]);
    assert_eq!(world.pool.snapshot().warm_done, 1);
    assert_eq!(world.states(), ["active", "warm", "active", "warm"]);
    world.plan.generations.active = 2;
    world.plan.generations.warming = None;
    world.group(1, |group| group.drain_before = 2);
    world.apply();
    assert_eq!(world.states(), ["draining", "active", "draining", "active"]);
    let fallback = world
        .rows()
        .iter()
        .any(|row| matches!(row.state, WriterState::Draining { fallback, .. } if fallback));
    assert!(!fallback, "there are others");
    assert_eq!(
        world.me().reconnect_attempt_total,
        2,
        "warm-up is not counted"
    );
    world.tick();
    assert!(world.dials.is_empty(), "the share is met");
}

#[test]
fn warm_up_gives_up_after_its_passes_and_begins_anew_with_the_round() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.plan.generations.warming = Some(2);
    world.plan.generations.warm_round = 1;
    world.apply();
    let mut dials = 0;
    for _ in 0..600 {
        world.pass(100);
        while !world.dials.is_empty() {
            world.fail();
            dials += 1;
        }
    }
    assert_eq!(dials, 4, "one and three extra passes");
    assert_eq!(world.pool.snapshot().warm_done, 1);
    world.plan.generations.warm_round = 2;
    world.apply();
    assert_eq!(world.pool.snapshot().warm_done, 1);
    world.pass(2_000);
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn warm_writers_of_an_abandoned_generation_drain_and_their_dials_are_given_up() {
    let mut world = World::new(&[(1, &[at(1)], 2)]);
    world.plan.generations.warming = Some(2);
    world.plan.generations.warm_round = 1;
    world.apply();
    world.pass(2_000);
    world.open();
    world.pass(2_000);
    assert_eq!(world.dials.len(), 1);
    world.plan.generations.warming = Some(3);
    world.plan.generations.warm_round = 2;
    world.apply();
    assert_eq!(world.states(), ["draining"]);
    assert!(world.dials.is_empty());
}

#[test]
fn a_commit_without_preparation_drains_the_old_and_dials() {
    let mut world = World::new(&[(1, &[at(1)], 2)]);
    world.tick();
    world.open_all();
    world.plan.generations.active = 2;
    world.group(1, |group| group.drain_before = 2);
    world.tick();
    assert_eq!(world.states(), ["draining"; 2]);
    assert!(
        world
            .rows()
            .iter()
            .all(|row| { matches!(row.state, WriterState::Draining { fallback: true, .. }) })
    );
    assert_eq!(world.dials.len(), 2);
}

#[test]
fn replaced_writers_drain_when_the_new_one_is_there() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.tick();
    let old = world.open();
    let (writer, endpoint) = (world.row(old).id, at(1));
    let why = Replacing::IdleRefresh;
    world.task(TaskKind::Replace {
        writer,
        endpoint,
        why,
    });
    assert_eq!(world.states(), ["active"]);
    world.fail();
    assert_eq!(world.tasks_done(), [(1, false)]);
    world.task(TaskKind::Replace {
        writer,
        endpoint,
        why,
    });
    world.open();
    assert_eq!(world.states(), ["draining", "active"]);
    assert_eq!(world.tasks_done(), [(2, true)]);
    assert_eq!(world.me().reconnect_attempt_total, 1, "the tick's alone");
}

#[test]
fn a_writer_that_got_sessions_meanwhile_stays_unless_its_secret_is_old() {
    for (why, drains) in [
        (Replacing::UnderCap, false),
        (Replacing::SecretChange, true),
    ] {
        let mut world = World::new(&[(1, &[at(1)], 1)]);
        world.tick();
        let old = world.open();
        let (writer, endpoint) = (world.row(old).id, at(1));
        world.task(TaskKind::Replace {
            writer,
            endpoint,
            why,
        });
        world.bind_to_some(1, 7);
        world.open();
        assert_eq!(world.row(old).state.is_draining(), drains, "{why:?}");
        assert_eq!(world.tasks_done(), [(1, drains)]);
    }
}

#[test]
fn rotation_drains_an_empty_writer_and_is_counted() {
    let mut world = World::new(&[(1, &[at(1)], 2)]);
    world.tick();
    let old = world.open_all();
    let (busy, _) = world.bind_to_some(1, 7);
    let (writer, endpoint) = (world.row(busy).id, at(1));
    let why = Replacing::ShadowRotation;
    world.task(TaskKind::Replace {
        writer,
        endpoint,
        why,
    });
    world.open();
    assert!(!world.row(busy).state.is_draining());
    let other = old.into_iter().find(|key| *key != busy).expect("two");
    assert!(world.row(other).state.is_draining());
    assert_eq!(world.me().single_endpoint_shadow_rotate_total, 1);
    assert_eq!(world.tasks_done(), [(1, true)]);
}

#[test]
fn each_task_is_taken_once_and_only_by_its_shard() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.group(1, |group| group.outage = [true, false]);
    let kind = TaskKind::Outage {
        dc: 1,
        endpoint: at(1),
    };
    world.plan.tasks = Arc::new([
        Task {
            id: 4,
            shard: 1,
            kind,
        },
        Task {
            id: 5,
            shard: 0,
            kind,
        },
    ]);
    world.apply();
    assert_eq!(world.dials.len(), 1);
    world.apply();
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn groups_in_outage_are_left_to_tasks() {
    let mut world = World::new(&[(1, &[at(1)], 3)]);
    world.group(1, |group| group.outage = [true, false]);
    world.tick();
    assert!(world.dials.is_empty());
    let endpoint = at(1);
    world.plan.quarantine = Arc::new([(at(1), Millis(u64::MAX))]);
    world.task(TaskKind::Outage { dc: 1, endpoint });
    assert_eq!(world.dials.len(), 1);
    world.fail();
    assert_eq!(world.tasks_done(), [(1, false)]);
    world.plan.quarantine = Arc::new([]);
    world.task(TaskKind::Outage { dc: 1, endpoint });
    world.open();
    assert_eq!(world.tasks_done(), [(2, true)]);
    let me = world.me();
    assert_eq!(me.single_endpoint_outage_reconnect_attempt_total, 2);
    assert_eq!(me.single_endpoint_outage_reconnect_success_total, 1);
    assert_eq!(me.single_endpoint_quarantine_bypass_total, 1);
    assert_eq!(
        (me.reconnect_attempt_total, me.reconnect_success_total),
        (2, 1)
    );
}
