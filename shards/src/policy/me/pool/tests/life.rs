//! Pings, round trips, activity signals, reports.

use super::*;

fn one() -> (World, WriterKey) {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.tick();
    let key = world.open();
    (world, key)
}

fn pings(world: &mut World, ms: u64) -> Vec<(u64, u64)> {
    let mut pings = Vec::new();
    for _ in 0..ms {
        world.pass(1);
        for action in world.take_log() {
            if let Action::Ping { writer, id } = action {
                world.pool.pong(writer, id, world.now);
                pings.push((world.now.0, id));
            }
        }
    }
    pings
}

fn gaps(pings: &[(u64, u64)]) -> Vec<u64> {
    pings.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

#[test]
fn empty_writers_are_pinged_every_five_seconds_others_by_the_setting() {
    let (mut world, _) = one();
    let born = world.now.0;
    let sent = pings(&mut world, 60_000);
    assert!(sent[0].0 - born <= 2_000, "the first within the jitter");
    assert!(
        gaps(&sent).iter().all(|gap| (5_000..=7_000).contains(gap)),
        "{sent:?}"
    );
    world.bind_to_some(1, 1);
    let sent = pings(&mut world, 60_000);
    assert!(
        gaps(&sent).iter().all(|gap| (8_000..=10_000).contains(gap)),
        "{sent:?}"
    );
    let me = world.me();
    assert_eq!(me.keepalive_sent_total, me.keepalive_pong_total);
    assert_eq!(
        (me.keepalive_failed_total, me.keepalive_timeout_total),
        (0, 0)
    );
}

#[test]
fn switched_off_pings_come_every_twenty_five_seconds_or_so_and_ids_may_count_up() {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.settings(|me| {
        me.keepalive.enabled = false;
        me.keepalive.random_payload = false;
    });
    world.tick();
    world.open();
    let sent = pings(&mut world, 200_000);
    assert!(
        gaps(&sent)
            .iter()
            .all(|gap| (20_000..=30_000).contains(gap)),
        "{sent:?}"
    );
    let ids: Vec<u64> = sent.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_ping_without_room_for_fifty_milliseconds_fails() {
    let (mut world, key) = one();
    world.pool.set_queue(key, 100, false);
    world.pass(2_049);
    assert_eq!(world.me().keepalive_sent_total, 0);
    world.pass(11);
    assert_eq!(world.me().keepalive_failed_total, 1);
    world.pool.set_queue(key, 0, true);
    world.pass(7_100);
    assert_eq!(world.me().keepalive_sent_total, 1);
}

#[test]
fn room_in_time_lets_a_due_ping_out() {
    let (mut world, _) = one();
    let (due, _) = pings(&mut world, 2_001)[0];
    let (mut world, key) = one();
    world.pool.set_queue(key, 100, false);
    world.pass(due + 40 - world.now.0);
    assert_eq!(world.me().keepalive_sent_total, 0);
    world.pool.set_queue(key, 50, true);
    world.pass(10);
    let me = world.me();
    assert_eq!((me.keepalive_sent_total, me.keepalive_failed_total), (1, 0));
}

#[test]
fn two_pings_in_a_row_without_answer_lose_the_writer() {
    let (mut world, key) = one();
    world.bind_to_some(1, 1);
    world.pass(31_900);
    assert!(world.me().keepalive_timeout_total <= 1);
    world.pass(15_000);
    let log = world.take_log();
    assert_eq!(world.me().keepalive_timeout_total, 2);
    assert!(log.contains(&Action::CloseWriter(key)));
    assert!(
        log.iter()
            .any(|action| matches!(action, Action::Move(u) if !u.tell))
    );
    assert_eq!(world.totals().writer_removed_unexpected_total, 1);
    assert_eq!(world.totals().refill_triggered_total, 1);
    assert_eq!(world.me().reader_eof_total, 0);
}

#[test]
fn an_answer_between_timeouts_starts_the_count_anew() {
    let (mut world, _) = one();
    let mut sent = 0;
    for _ in 0..1_200 {
        world.pass(100);
        for action in world.take_log() {
            if let Action::Ping { writer, id } = action {
                sent += 1;
                if sent % 3 != 0 {
                    world.pool.pong(writer, id, world.now);
                }
            }
        }
    }
    assert!(world.me().keepalive_timeout_total > 3);
    assert_eq!(world.rows().len(), 1);
}

#[test]
fn round_trips_are_averaged_and_slow_ones_degrade() {
    let (mut world, key) = one();
    let reply = |world: &mut World, rtt: u64| {
        loop {
            world.pass(1);
            let ping = world
                .take_log()
                .into_iter()
                .find_map(|action| match action {
                    Action::Ping { id, .. } => Some(id),
                    _ => None,
                });
            if let Some(id) = ping {
                world.now = Millis(world.now.0 + rtt);
                world.pool.pong(key, id, world.now);
                world.pool.pong(key, id, world.now);
                return;
            }
        }
    };
    assert_eq!(world.row(key).rtt_ema_ms, None);
    reply(&mut world, 20);
    assert_eq!(world.row(key).rtt_ema_ms, Some(20.0));
    reply(&mut world, 120);
    let row = world.row(key);
    assert!((row.rtt_ema_ms.expect("two samples") - 40.0).abs() < 1e-9);
    assert!(!row.degraded, "40 is not more than twice 21");
    reply(&mut world, 120);
    assert!(world.row(key).degraded);
    assert_eq!(world.me().keepalive_pong_total, 3, "each answer once");
}

fn signalling() -> (World, WriterKey) {
    let mut world = World::new(&[(1, &[at(1)], 1)]);
    world.settings(|me| me.keepalive.signal_every = std::time::Duration::from_secs(10));
    world.tick();
    let key = world.open();
    (world, key)
}

fn signal(world: &mut World) -> ConnId {
    for _ in 0..200 {
        world.pass(100);
        for action in world.take_log() {
            match action {
                Action::Ping { writer, id } => world.pool.pong(writer, id, world.now),
                Action::Signal { conn, .. } => return conn,
                _ => {}
            }
        }
    }
    panic!("no signal");
}

#[test]
fn signals_are_skipped_until_a_session_was_bound() {
    let (mut world, _) = signalling();
    world.pass_answering(12_000);
    assert_eq!(world.me().rpc_proxy_req_signal_skipped_no_meta_total, 1);
    world.bind_to_some(1, 1);
    world.unbind(1);
    signal(&mut world);
    assert_eq!(world.me().rpc_proxy_req_signal_sent_total, 1);
}

#[test]
fn a_signal_is_answered_at_most_once_and_closed() {
    let (mut world, key) = signalling();
    world.bind_to_some(1, 1);
    let conn = signal(&mut world);
    assert_eq!(world.row(key).bound_clients, 1, "no load");
    for _ in 0..2 {
        assert_eq!(world.pool.target(key, conn, world.now), Target::Service);
    }
    world.pass(1);
    assert!(
        world
            .take_log()
            .contains(&Action::CloseSignal { writer: key, conn })
    );
    let late = world.pool.target(key, conn, world.now);
    assert_eq!(late, Target::Unknown { answer: false });
    let me = world.me();
    assert_eq!(me.rpc_proxy_req_signal_response_total, 1);
    assert_eq!(me.rpc_proxy_req_signal_close_sent_total, 1);
}

#[test]
fn a_signal_without_answer_is_closed_after_seven_hundred_milliseconds() {
    let (mut world, key) = signalling();
    world.bind_to_some(1, 1);
    let conn = signal(&mut world);
    world.pass(599);
    assert!(
        !world
            .take_log()
            .contains(&Action::CloseSignal { writer: key, conn })
    );
    world.pass(120);
    assert!(
        world
            .take_log()
            .contains(&Action::CloseSignal { writer: key, conn })
    );
    assert_eq!(world.me().rpc_proxy_req_signal_response_total, 0);
}

#[test]
fn a_signal_without_room_or_writer_fails_and_one_the_me_closed_ends_quietly() {
    let (mut world, key) = signalling();
    world.bind_to_some(1, 1);
    world.pool.set_queue(key, 100, false);
    world.pass(12_100);
    assert_eq!(world.me().rpc_proxy_req_signal_failed_total, 1);
    world.pool.set_queue(key, 0, true);
    let conn = signal(&mut world);
    assert!(world.pool.unbind(key, conn, ClosedBy::Me, world.now));
    assert!(!world.pool.unbind(key, conn, ClosedBy::Me, world.now));
    world.pass(1_000);
    let me = world.me();
    assert_eq!(me.rpc_proxy_req_signal_close_sent_total, 0);
    signal(&mut world);
    world.lose(key, Loss::Reset);
    assert_eq!(world.me().rpc_proxy_req_signal_failed_total, 2);
}

#[test]
fn reports_come_within_twenty_milliseconds_of_a_change_and_every_second_besides() {
    let (mut world, key) = one();
    world.pass(20);
    world.reports.clear();
    world.pass_answering(10_000);
    assert!(
        (9..=10).contains(&world.reports.len()),
        "{}",
        world.reports.len()
    );
    world.reports.clear();
    world.pass(500);
    let at = world.now;
    world.lose(key, Loss::Eof);
    world.pass(20);
    let report = world.reports.last().expect("one");
    assert!(report.writers.is_empty());
    assert_eq!((report.dials, report.refills.len()), (1, 1));
    assert!(world.now.since(at) <= 20);
    world.dials.clear();
    let mut empty = World::empty(0, 1);
    assert_eq!(empty.pool.next_deadline(), None, "an idle pool sleeps");
    empty.apply();
    empty.pass(1_000);
    assert_eq!(empty.reports.len(), 1);
}
