//! Shares are filled: by the startup's two stages and by the health tick.

use super::*;

fn start(fill: Fill, groups: &[(i16, &[SocketAddr], u32)]) -> World {
    let mut world = World::new(groups);
    world.plan.fill = fill;
    world.plan.fill_round = 1;
    world.plan.limits.active_room = 0;
    world
}

fn fill_done(world: &mut World) -> bool {
    world.pass(20);
    world.pool.snapshot().fill_done
}

#[test]
fn nothing_is_dialled_without_a_secret_or_before_filling_begins() {
    let mut world = World::new(&[(2, &[at(1)], 3)]);
    let secret = world.plan.secret.take();
    world.tick();
    assert!(world.dials.is_empty());
    world.plan.secret = secret;
    world.plan.fill = Fill::Not;
    world.tick();
    assert!(world.dials.is_empty());
    world.plan.fill = Fill::Steady;
    world.tick();
    assert_eq!(world.dials.len(), 3);
}

#[test]
fn the_first_stage_dials_one_per_group_or_the_share_of_a_lone_endpoint_over_the_cap() {
    let mut world = start(
        Fill::First,
        &[(1, &[at(1), at(2)], 2), (2, &[at(3)], 3), (3, &[at(4)], 0)],
    );
    world.apply();
    let per_dc = |dc| world.dials.iter().filter(|dial| dial.dc == dc).count();
    assert_eq!([1, 2, 3].map(per_dc), [1, 3, 0]);
    assert!(
        world
            .dials
            .iter()
            .all(|dial| dial.limits == DialLimits::Slow)
    );
    assert!(!world.pool.snapshot().fill_done);
    world.open_all();
    assert!(fill_done(&mut world));
    assert_eq!(
        world.me().reconnect_attempt_total,
        0,
        "startup is not counted"
    );
    assert_eq!(world.states(), ["active"; 4]);
}

#[test]
fn the_first_stage_tries_each_endpoint_before_it_gives_a_group_up_until_the_next_round() {
    let mut world = start(Fill::First, &[(1, &[at(1), at(2), at(3)], 1)]);
    world.apply();
    let mut tried: Vec<SocketAddr> = Vec::new();
    while !world.dials.is_empty() {
        tried.push(world.fail().endpoint);
    }
    tried.sort();
    assert_eq!(tried, [at(1), at(2), at(3)]);
    assert!(fill_done(&mut world));
    world.apply();
    assert!(world.dials.is_empty(), "the same round");
    world.plan.fill_round += 1;
    world.apply();
    assert_eq!(world.dials.len(), 1);
    assert!(!world.pool.snapshot().fill_done);
}

#[test]
fn dials_of_one_group_at_a_time_are_limited() {
    let mut world = start(Fill::First, &[(1, &[at(1)], 3)]);
    world.plan.limits.dials_per_group = 2;
    world.apply();
    assert_eq!(world.dials.len(), 2);
    world.open();
    assert_eq!(world.dials.len(), 2);
}

#[test]
fn the_second_stage_dials_one_per_group_and_round_with_pauses() {
    let mut world = start(Fill::Rest, &[(1, &[at(1), at(2)], 3), (2, &[at(3)], 2)]);
    world.plan.limits.active_room = 100;
    world.apply();
    assert_eq!(world.dials.len(), 2);
    world.open();
    assert!(
        world.dials.iter().all(|dial| dial.dc == 2),
        "the round is not over"
    );
    world.open();
    let mut gaps = Vec::new();
    let mut since = world.now;
    while !world.pool.snapshot().fill_done {
        world.pass(10);
        if !world.dials.is_empty() {
            gaps.push(world.now.since(since));
            since = world.now;
            world.open_all();
        }
    }
    assert_eq!(gaps.len(), 2, "a share of 3 takes three rounds");
    assert!(gaps.iter().all(|gap| (500..=810).contains(gap)), "{gaps:?}");
    assert_eq!(world.rows().len(), 5);
}

#[test]
fn the_second_stage_does_not_pause_when_told_so_and_stops_where_a_round_failed() {
    let mut world = start(Fill::Rest, &[(1, &[at(1), at(2)], 3), (2, &[at(3)], 3)]);
    world.plan.limits.active_room = 100;
    world.settings(|me| me.dial.stagger = false);
    world.apply();
    let started = world.now;
    while !world.pool.snapshot().fill_done {
        world.pass(1);
        while let Some(dial) = world.dials.first().copied() {
            if dial.dc == 2 {
                world.fail();
            } else {
                world.open();
            }
        }
    }
    assert!(world.now.since(started) < 20);
    assert_eq!(world.rows().len(), 3);
}

#[test]
fn the_second_stage_keeps_to_the_cap() {
    let mut world = start(Fill::Rest, &[(1, &[at(1)], 3)]);
    world.plan.limits.active_room = 2;
    world.apply();
    while !world.pool.snapshot().fill_done {
        world.open_all();
        world.pass(100);
    }
    assert_eq!(world.rows().len(), 2);
}

#[test]
fn a_tick_dials_the_difference_and_no_more() {
    let mut world = World::new(&[(1, &[at(1), at(2), at(3)], 3)]);
    world.tick();
    let mut dialled: Vec<SocketAddr> = world.dials.iter().map(|dial| dial.endpoint).collect();
    dialled.sort();
    assert_eq!(dialled, [at(1), at(2), at(3)], "the fewest writers first");
    world.tick();
    assert_eq!(world.dials.len(), 3, "those under way count");
    world.open_all();
    world.tick();
    assert!(world.dials.is_empty());
    let me = world.me();
    assert_eq!(
        (me.reconnect_attempt_total, me.reconnect_success_total),
        (3, 3)
    );
    assert_eq!(world.pool.snapshot().tick, 3);
}

#[test]
fn backoff_doubles_from_base_to_cap_and_returns_to_base_when_the_share_is_reached() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    let mut gaps = Vec::new();
    world.tick();
    for _ in 0..9 {
        world.fail();
        let since = world.now;
        while world.dials.is_empty() {
            world.pass(50);
            world.tick();
        }
        gaps.push(world.now.since(since));
    }
    let mut base = 500;
    for gap in &gaps {
        assert!((base..=base * 3 / 2 + 50).contains(gap), "{base}: {gaps:?}");
        base = (base * 2).min(30_000);
    }
    let writer = world.open();
    world.tick();
    world.pass_answering(21_000);
    // Not for a refill: the writer was drained on purpose.
    let id = world.row(writer).id;
    world.task(TaskKind::Drain { writer: id });
    world.tick();
    world.fail();
    let since = world.now;
    while world.dials.is_empty() {
        world.pass(50);
        world.tick();
    }
    assert!(world.now.since(since) <= 800, "back at the base");
}

#[test]
fn the_budget_of_a_tick_is_kept_and_those_left_out_wait_a_step() {
    let mut world = World::new(&[(1, &[at(1)], 1), (2, &[at(2)], 1), (3, &[at(3)], 1)]);
    world.plan.limits.dials_per_tick = 2;
    world.tick();
    assert_eq!(world.dials.len(), 2);
    world.open_all();
    world.tick();
    assert!(world.dials.is_empty(), "waits one step");
    world.pass(500);
    world.tick();
    assert_eq!(world.dials.len(), 1);
}

#[test]
fn a_tick_keeps_to_the_cap() {
    let mut world = World::new(&[(1, &[at(1), at(2)], 5)]);
    world.plan.limits.active_room = 2;
    world.tick();
    assert_eq!(world.dials.len(), 2);
    world.open_all();
    assert!(world.dials.is_empty());
}

#[test]
fn families_in_use_get_their_part_of_the_share() {
    let mut world = World::new(&[(1, &[at(1), at6(1), at6(2)], 4)]);
    world.tick();
    let six = world
        .dials
        .iter()
        .filter(|dial| dial.endpoint.is_ipv6())
        .count();
    assert_eq!((six, world.dials.len()), (3, 5), "ceil(4/3) and ceil(8/3)");
}

#[test]
fn endpoints_in_quarantine_are_not_chosen_until_they_come_out() {
    let mut world = World::new(&[(1, &[at(1), at(2)], 2)]);
    let until = Millis(world.now.0 + 10_000);
    world.plan.quarantine = Arc::new([(at(1), until)]);
    world.tick();
    assert!(world.dials.iter().all(|dial| dial.endpoint == at(2)));
    let mut world = World::new(&[(1, &[at(1), at(2)], 1)]);
    world.plan.quarantine = Arc::new([(at(1), until), (at(2), Millis(until.0 + 5_000))]);
    world.tick();
    assert!(world.dials.is_empty());
    world.pass(9_999);
    world.tick();
    assert!(world.dials.is_empty());
    world.pass(1);
    world.tick();
    assert_eq!(world.dials[0].endpoint, at(1));
}

#[test]
fn a_lone_endpoint_is_dialled_in_quarantine_if_the_settings_say_so() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.plan.quarantine = Arc::new([(at(1), Millis(u64::MAX))]);
    world.tick();
    assert_eq!(world.dials.len(), 1);
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.plan.quarantine = Arc::new([(at(1), Millis(u64::MAX))]);
    world.settings(|me| me.single.outage_ignores_quarantine = false);
    world.tick();
    assert!(world.dials.is_empty());
}

#[test]
fn dead_endpoints_do_not_come_first_forever() {
    let mut world = World::new(&[(1, &[at(1), at(2)], 1)]);
    world.tick();
    let mut tried = BTreeSet::new();
    for _ in 0..4 {
        tried.insert(world.fail().endpoint);
        while world.dials.is_empty() {
            world.pass(1_000);
            world.tick();
        }
    }
    assert_eq!(tried.len(), 2);
}

#[test]
fn writer_ids_are_unique_in_the_process() {
    let mut ids = BTreeSet::new();
    for shard in 0..3 {
        let mut world = World::empty(shard, 3);
        world.set_groups(&[(1, &[at(1)], 2)]);
        world.group(1, |group| group.shares = Arc::new([2, 2, 2]));
        world.plan.fill = Fill::Steady;
        world.tick();
        world.open_all();
        ids.extend(world.rows().iter().map(|row| row.id.0));
    }
    assert_eq!(ids.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}
