//! Lost writers are dialled again: one refill per group and family, steps, pauses, quarantine.

use super::*;
use crate::{policy::me::report::KeyFacts, proto::middle::address::Source};

/// A world with all writers open, old enough that a loss is no reason for quarantine.
fn settled(groups: &[(i16, &[SocketAddr], u32)]) -> (World, Vec<WriterKey>) {
    let mut world = World::new(groups);
    world.tick();
    let keys = world.open_all();
    world.pass_answering(21_000);
    world.take_log();
    (world, keys)
}

fn writer_at(world: &World, keys: &[WriterKey], endpoint: SocketAddr) -> WriterKey {
    let mut keys = keys.iter().copied();
    let found = keys.find(|key| {
        world
            .pool
            .writer(*key)
            .is_some_and(|w| w.endpoint == endpoint)
    });
    found.expect("one there")
}

#[test]
fn a_lost_writer_is_dialled_again_at_its_endpoint_at_once() {
    let (mut world, keys) = settled(&[(1, &[at(1), at(2)], 2)]);
    let lost = writer_at(&world, &keys, at(2));
    world.lose(lost, Loss::Eof);
    assert_eq!(world.dials.len(), 1);
    assert_eq!(world.dials[0].endpoint, at(2));
    assert_eq!(world.dials[0].limits, DialLimits::Fast);
    assert_eq!(world.pool.snapshot().refills.len(), 1);
    world.open();
    let pool = world.totals();
    assert_eq!(pool.refill_triggered_total, 1);
    assert_eq!(pool.writer_restored_same_endpoint_total, 1);
    assert_eq!(
        (
            pool.writer_removed_total,
            pool.writer_removed_unexpected_total
        ),
        (1, 1)
    );
    let me = world.me();
    assert_eq!((me.reader_eof_total, me.idle_close_by_peer_total), (1, 1));
    assert_eq!(
        (me.reconnect_attempt_total, me.reconnect_success_total),
        (3, 3)
    );
    world.tick();
    assert!(world.dials.is_empty());
}

#[test]
fn a_second_loss_finds_the_refill_running_and_is_left_to_the_tick() {
    let (mut world, keys) = settled(&[(1, &[at(1)], 2)]);
    world.lose(keys[0], Loss::Reset);
    world.lose(keys[1], Loss::Reset);
    let pool = world.totals();
    assert_eq!(
        (
            pool.refill_triggered_total,
            pool.refill_skipped_inflight_total
        ),
        (1, 1)
    );
    assert_eq!(world.dials.len(), 1);
    world.tick();
    assert_eq!(world.dials.len(), 2, "the refill counts as one of the two");
    world.open_all();
    assert_eq!(world.rows().len(), 2);
    assert_eq!(world.me().reader_eof_total, 0);
}

#[test]
fn families_refill_side_by_side() {
    let (mut world, keys) = settled(&[(1, &[at(1), at6(1)], 2)]);
    for key in keys {
        world.lose(key, Loss::Eof);
    }
    assert_eq!(world.totals().refill_triggered_total, 2);
    assert_eq!(world.dials.len(), 2);
}

#[test]
fn a_refill_pauses_between_attempts_changes_to_other_endpoints_and_gives_up_after_twenty() {
    let (mut world, keys) = settled(&[(1, &[at(1), at(2)], 2)]);
    let lost = writer_at(&world, &keys, at(1));
    world.lose(lost, Loss::Eof);
    let mut tried = Vec::new();
    let mut gaps = Vec::new();
    while !world.dials.is_empty() {
        tried.push(world.fail().endpoint);
        let since = world.now;
        while world.dials.is_empty() && world.now.since(since) < 600 {
            world.pass(1);
        }
        gaps.extend(world.dials.first().map(|dial| dial.at.since(since)));
    }
    assert_eq!(tried.len(), 20);
    assert!(tried.iter().take(16).all(|endpoint| *endpoint == at(1)));
    assert!(tried.iter().skip(16).any(|endpoint| *endpoint == at(2)));
    for (n, gap) in (0_u64..).zip(&gaps) {
        let least = (50 + n * 50).min(500);
        assert!(
            (least..=(least + 50).min(500)).contains(gap),
            "{n}: {gaps:?}"
        );
    }
    let pool = world.totals();
    assert_eq!(
        (pool.refill_triggered_total, pool.refill_failed_total),
        (1, 1)
    );
    world.tick();
    assert_eq!(world.dials.len(), 1, "the tick goes on");
}

#[test]
fn a_lone_endpoint_has_its_own_number_of_attempts() {
    let (mut world, keys) = settled(&[(1, &[at(1)], 1)]);
    world.settings(|me| me.dial.single_retries = 2);
    world.apply();
    world.lose(keys[0], Loss::Eof);
    let mut dials = 0;
    for _ in 0..100 {
        while !world.dials.is_empty() {
            world.fail();
            dials += 1;
        }
        world.pass(100);
    }
    assert_eq!(dials, 4, "two attempts in each step");
}

#[test]
fn a_restored_fallback_is_counted_as_such() {
    let (mut world, keys) = settled(&[(1, &[at(1), at(2)], 2)]);
    world.settings(|me| me.dial.fast_retries = 1);
    world.apply();
    let lost = writer_at(&world, &keys, at(1));
    world.lose(lost, Loss::Eof);
    world.fail();
    world.pass(500);
    world.open();
    let pool = world.totals();
    assert_eq!(pool.writer_restored_fallback_total, 1);
    assert_eq!(pool.writer_restored_same_endpoint_total, 0);
}

#[test]
fn a_writer_lost_early_bars_its_endpoint_here_and_is_reported() {
    let mut world = World::new(&[(1, &[at(1), at(2)], 2)]);
    world.tick();
    let keys = world.open_all();
    world.pass_answering(20_000);
    world.reports.clear();
    let lost = writer_at(&world, &keys, at(1));
    world.lose(lost, Loss::Eof);
    assert_eq!(world.dials[0].endpoint, at(2), "barred at once");
    world.pass(20);
    let events = world.reports.iter().flat_map(|report| &report.events);
    let early = PoolEvent::LostEarly { endpoint: at(1) };
    assert_eq!(events.filter(|event| **event == early).count(), 1);
}

#[test]
fn a_rotation_by_the_me_after_twenty_seconds_bars_nothing() {
    let (mut world, keys) = settled(&[(1, &[at(1)], 1)]);
    world.reports.clear();
    world.lose(keys[0], Loss::Eof);
    world.pass(20);
    let events = world.reports.iter().flat_map(|report| &report.events);
    assert_eq!(
        events
            .filter(|e| matches!(e, PoolEvent::LostEarly { .. }))
            .count(),
        0
    );
}

#[test]
fn neither_warm_nor_draining_nor_surplus_writers_are_refilled() {
    let (mut world, keys) = settled(&[(1, &[at(1)], 2)]);
    let id = world.row(keys[0]).id;
    world.task(TaskKind::Drain { writer: id });
    world.bind_to_some(1, 1);
    world.lose(keys[0], Loss::Eof);
    assert!(world.dials.is_empty());
    assert_eq!(world.totals().writer_removed_unexpected_total, 0);
    world.group(1, |group| group.shares = Arc::new([0]));
    world.apply();
    world.lose(keys[1], Loss::Eof);
    assert!(world.dials.is_empty());
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.plan.generations.warming = Some(2);
    world.plan.generations.warm_round = 1;
    world.apply();
    world.pass(2_000);
    let warm = world.open();
    world.lose(warm, Loss::Eof);
    assert!(world.dials.is_empty());
    let pool = world.totals();
    assert_eq!(
        (
            pool.refill_triggered_total,
            pool.writer_removed_unexpected_total
        ),
        (0, 1)
    );
}

#[test]
fn a_refill_ends_with_its_group_and_its_dial_is_given_up() {
    let (mut world, keys) = settled(&[(1, &[at(1)], 1)]);
    world.lose(keys[0], Loss::Eof);
    let dial = world.dials[0].dial;
    world.set_groups(&[(2, &[at(2)], 1)]);
    world.apply();
    assert!(world.take_log().contains(&Action::CancelDial(dial)));
    assert_eq!(world.totals().refill_failed_total, 1);
    let opened = Opened { secret_epoch: 1 };
    assert_eq!(world.pool.dial_ended(dial, Ok(opened), world.now), None);
    world.settle();
    assert!(world.rows().is_empty());
}

#[test]
fn refused_handshakes_and_socks_are_counted_by_kind() {
    let (mut world, _) = settled(&[(1, &[at(1)], 3)]);
    world.group(1, |group| group.shares = Arc::new([6]));
    world.tick();
    let whys = [
        DialFailure::Rejected(Some(-3)),
        DialFailure::Rejected(None),
        DialFailure::NoBound,
    ];
    for why in whys {
        let dial = world.dials.remove(0);
        world.pool.dial_ended(dial.dial, Err(why), world.now);
        world.settle();
    }
    assert_eq!(world.pool.handshake_error_codes(), [(-3, 1), (-1, 1)]);
    let me = world.me();
    assert_eq!(
        (me.handshake_reject_total, me.socks_kdf_strict_reject_total),
        (2, 1)
    );
}

#[test]
fn what_dials_learn_of_our_address_is_passed_on() {
    let (mut world, _) = settled(&[(1, &[at(1)], 1)]);
    world.reports.clear();
    let facts = KeyFacts {
        me: at(1),
        proxy_ip: [192, 0, 2, 99].into(),
        proxy_port: 5,
        source: Source::LocalBogon,
        reflected: None,
        bound: None,
    };
    let fell_back = true;
    world.pool.keys_derived(Derived { facts, fell_back });
    world.pass(20);
    let events = world
        .reports
        .iter()
        .flat_map(|report| report.events.clone());
    assert_eq!(events.collect::<Vec<_>>(), [PoolEvent::Keys(facts)]);
    assert_eq!(world.me().socks_kdf_compat_fallback_total, 1);
    assert_eq!(world.pool.plan().serial, world.plan.serial);
}

#[test]
fn counters_stand_still_while_silent_but_the_pool_works_on() {
    let mut world = World::new(&[(1, &[at(1)], 2)]);
    world.settings(|me| me.counts = crate::settings::MeCounts::Off);
    world.tick();
    let keys = world.open_all();
    world.lose(keys[0], Loss::Eof);
    let id = world.row(keys[1]).id;
    world.bind_to_some(1, 1);
    world.task(TaskKind::Drain { writer: id });
    world.pass(1);
    assert_eq!(world.me(), MeCounters::default());
    let gauge = PoolCounters {
        pool_drain_active: 1,
        ..PoolCounters::default()
    };
    assert_eq!(world.totals(), gauge);
    // What began uncounted ends uncounted.
    world.settings(|me| me.counts = crate::settings::MeCounts::On);
    world.apply();
    world.open_all();
    let (me, pool) = (world.me(), world.totals());
    assert_eq!(
        (me.reconnect_attempt_total, me.reconnect_success_total),
        (0, 0)
    );
    assert_eq!(pool.writer_restored_same_endpoint_total, 0);
}
