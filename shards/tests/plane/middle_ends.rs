//! How sessions through an ME end, and what their ends leave to others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use shards::{
    control::Command,
    counters::BadClass,
    me::{Plan, Route},
    proto::middle::{
        far_side::{write_ack, write_close},
        ops::{ConnId, Note},
        proxy_req::flag,
    },
};

use crate::{
    fake_me::{FakeMe, until},
    middle::{framed, next_message, read_all, round_trip, through},
    support::{LIMIT, pause},
    talk::Talk,
};

fn bad(now: &shards::control::ShardSnapshot, class: BadClass) -> u64 {
    now.bad_by_class[class as usize]
}

/// An answer of so many bytes for each request, which names it in its first word.
fn on_demand() -> FakeMe {
    FakeMe::start(|message, hand| {
        let wanted = message
            .data
            .first_chunk()
            .map(|word| u32::from_le_bytes(*word));
        let mut left = wanted.unwrap_or(0) as usize;
        while left > 0 {
            let now = left.min(1 << 20);
            hand.answer(message.conn, &vec![7; now]);
            left -= now;
        }
    })
}

fn request(bytes: u32) -> Vec<u8> {
    let mut message = bytes.to_le_bytes().to_vec();
    message.extend_from_slice(&[1; 28]);
    framed(&message)
}

#[test]
fn me_that_closes_a_client_has_its_last_answers_delivered() {
    let me = FakeMe::start(|message, hand| {
        hand.answer(message.conn, &[]);
        hand.answer(message.conn, &vec![3; 300_000]);
        hand.answer(message.conn, &[4; 8]);
        hand.say(|out| write_close(message.conn, out));
        hand.answer(message.conn, &[5; 8]);
    });
    let (proxy, _) = through(&me, |_, _| {});
    for tls in [false, true] {
        let mut talk = if tls {
            Talk::tls(proxy.addr)
        } else {
            Talk::secure(proxy.addr)
        };
        talk.write(&framed(&[1; 32]));
        assert!(
            next_message(&mut talk) == vec![3; 300_000],
            "an empty answer is skipped"
        );
        assert_eq!(next_message(&mut talk), [4; 8]);
        talk.expect_end();
        talk.finish();
    }
    let end = proxy.until_idle();
    assert_eq!(end.me.d2c_data_frames_total, 4);
    assert!(end.me.d2c_flush_reason_close_total >= 2);
    assert_eq!(
        end.me.route_drop_no_conn_total, 2,
        "what came behind the close"
    );
}

#[test]
fn quick_acks_come_at_once_and_frames_in_batches() {
    let me = FakeMe::start(|message, hand| {
        if message.flags & flag::QUICK_ACK != 0 {
            hand.say(|out| write_ack(message.conn, 0x8000_0042, out));
        }
        for n in 0..100 {
            hand.answer(message.conn, &[n; 16]);
        }
    });
    let (proxy, _) = through(&me, |_, _| {});
    let mut talk = Talk::secure(proxy.addr);
    let mut asked = framed(&[1; 32]);
    asked[3] |= 0x80;
    talk.write(&asked);
    let mut ack = [0; 4];
    read_all(&mut talk, &mut ack);
    assert_eq!(ack, 0x8000_0042_u32.to_le_bytes());
    for n in 0..100 {
        assert_eq!(next_message(&mut talk), [n; 16]);
    }
    let me_counters = proxy.snapshot().me;
    assert_eq!(
        (
            me_counters.d2c_ack_frames_total,
            me_counters.d2c_data_frames_total
        ),
        (1, 100)
    );
    assert_eq!(me_counters.d2c_batch_frames_total, 101);
    assert_eq!(me_counters.d2c_batch_bytes_total, 1_604);
    assert_eq!(me_counters.d2c_flush_reason_ack_immediate_total, 1);
    assert!(me_counters.d2c_flush_reason_batch_frames_total >= 1);
    let reasons = me_counters.d2c_flush_reason_ack_immediate_total
        + me_counters.d2c_flush_reason_batch_frames_total
        + me_counters.d2c_flush_reason_queue_drain_total
        + me_counters.d2c_flush_reason_max_delay_total;
    assert_eq!(reasons, me_counters.d2c_batches_total);
    assert_eq!(me_counters.d2c_write_mode_coalesced_total, 100);
}

#[test]
fn client_that_reads_nothing_is_closed_and_no_other_suffers() {
    let me = on_demand();
    let (proxy, _) = through(&me, |_, knobs| {
        knobs.downlink.backpressure = true;
    });
    let mut slow = Talk::secure(proxy.addr);
    let mut quick = Talk::secure(proxy.addr);
    slow.write(&request(200 << 20));
    let begun = Instant::now();
    quick.write(&request(4 << 20));
    for _ in 0..4 {
        assert_eq!(next_message(&mut quick).len(), 1 << 20);
    }
    assert!(begun.elapsed() < LIMIT);
    let end = proxy.until("the slow one closed", |now| {
        now.me.route_drop_queue_full_total == 1 && now.core.sessions_current == 1
    });
    let base = end.me.route_drop_queue_full_base_total;
    assert_eq!(base + end.me.route_drop_queue_full_high_total, 1);
    quick.write(&request(64));
    assert_eq!(next_message(&mut quick).len(), 64);
    assert!(proxy.snapshot().me.route_drop_no_conn_total > 0);
    until("the ME hears of it", || me.heard().closed.len() == 1);
}

#[test]
fn stream_out_of_step_is_counted_once_and_closed() {
    let me = FakeMe::echo();
    let (proxy, _) = through(&me, |_, _| {});
    for (good, wrong) in [(0, [0, 0, 0, 0x7f]), (2, *b"GET "), (4, [9, 9, 9, 9])] {
        let mut talk = Talk::secure(proxy.addr);
        for n in 0..good {
            round_trip(&mut talk, n, 64);
        }
        talk.write(&wrong);
        talk.expect_end_or_reset();
    }
    let mut talk = Talk::secure(proxy.addr);
    talk.write(&[2, 0, 0, 0]);
    talk.expect_end_or_reset();
    let end = proxy.until_idle();
    let desync = end.desync;
    assert_eq!(
        (desync.desync_total, desync.secure_padding_invalid_total),
        (3, 1)
    );
    assert_eq!(
        (
            desync.desync_full_logged_total,
            desync.desync_suppressed_total
        ),
        (1, 2)
    );
    let buckets = [
        desync.desync_frames_bucket_0,
        desync.desync_frames_bucket_1_2,
        desync.desync_frames_bucket_3_10,
        desync.desync_frames_bucket_gt_10,
    ];
    assert_eq!(buckets, [1, 1, 1, 0]);
    assert_eq!(
        (
            bad(&end, BadClass::MeDesync),
            bad(&end, BadClass::MeBadFrame)
        ),
        (3, 1)
    );
}

#[test]
fn session_moves_when_its_me_hangs_up_and_ends_in_a_key_exchange() {
    let me = FakeMe::echo();
    let (proxy, _) = through(&me, |_, _| {});
    let mut talk = Talk::secure(proxy.addr);
    round_trip(&mut talk, 1, 64);
    let mut exchanging = Talk::secure(proxy.addr);
    exchanging.write(&framed(&[0; 40]));
    assert_eq!(next_message(&mut exchanging), [0; 40]);
    me.hang_up();
    exchanging.expect_end_or_reset();
    proxy.until("the loss is noticed", |now| {
        now.pool.writer_removed_unexpected_total >= 1
    });
    // The pool has dialled another one at once.
    round_trip(&mut talk, 2, 64);
    drop(exchanging);
    let now = proxy.until("one is left", |now| now.sessions_me == 1);
    assert!((1..=now.pool.writer_removed_total).contains(&now.me.reader_eof_total));
    assert!(me.opened.load(Ordering::Acquire) >= 2);
}

#[test]
fn client_without_a_writer_waits_and_is_closed() {
    let me = FakeMe::echo();
    let (proxy, plan) = through(&me, |_, knobs| {
        knobs.pick.no_writer_wait = Duration::from_millis(50);
        knobs.pick.no_writer = shards::settings::NoWriterMode::FailFast;
    });
    let nobody = Plan {
        serial: 2,
        groups: Arc::new([]),
        map: Arc::default(),
        ..plan
    };
    proxy.post(&nobody);
    pause(50);
    let mut talk = Talk::secure(proxy.addr);
    talk.write(&framed(&[1; 32]));
    talk.expect_end_or_reset();
    let end = proxy.until_idle();
    assert_eq!(bad(&end, BadClass::MeNoWriter), 1);
}

#[test]
fn quota_ends_a_session_before_or_behind_the_answer_that_breaks_it() {
    for (overshoot, quota, answers, before) in [(0, 1_000, 1, false), (100_000, 1_000, 1, true)] {
        let me = on_demand();
        let (proxy, _) = through(&me, |settings, knobs| {
            knobs.downlink.quota_overshoot_bytes = overshoot;
            let mut users = settings.users.to_vec();
            users[1].quota_bytes = Some(quota);
            settings.users = users.into();
        });
        let mut talk = Talk::secure(proxy.addr);
        talk.write(&request(60_000));
        assert_eq!(next_message(&mut talk).len(), 60_000, "{answers}");
        if before {
            // A second one is beyond the overshoot too.
            talk.try_write(&request(60_000));
        }
        talk.expect_end_or_reset();
        drop(talk);
        let end = proxy.until_idle();
        let rejects = (
            end.me.d2c_quota_reject_pre_write_total,
            end.me.d2c_quota_reject_post_write_total,
        );
        // The quota is used up by then: its second request is refused on the way up.
        assert_eq!(rejects, if before { (0, 0) } else { (0, 1) });
        assert_eq!(end.core.sessions_quota_closed_total, 1);
    }
}

#[test]
fn answer_beyond_quota_and_overshoot_is_not_written() {
    let me = FakeMe::start(|message, hand| {
        for _ in 0..5 {
            hand.answer(message.conn, &[7; 600]);
        }
    });
    let (proxy, _) = through(&me, |settings, knobs| {
        knobs.downlink.quota_overshoot_bytes = 500;
        let mut users = settings.users.to_vec();
        users[1].quota_bytes = Some(800);
        settings.users = users.into();
    });
    let mut talk = Talk::secure(proxy.addr);
    talk.write(&framed(&[1; 32]));
    assert_eq!(next_message(&mut talk).len(), 600);
    assert_eq!(next_message(&mut talk).len(), 600);
    talk.expect_end_or_reset();
    drop(talk);
    let end = proxy.until_idle();
    assert_eq!(end.me.d2c_quota_reject_pre_write_total, 1);
    assert_eq!(end.me.route_drop_channel_closed_total, 2, "those behind it");
    assert_eq!(end.me.route_drop_no_conn_total, 0);
    until("the ME hears of it, once", || me.heard().closed.len() == 1);
    assert_eq!(end.me.d2c_quota_reject_post_write_total, 0);
}

#[test]
fn silent_client_is_closed_after_the_hard_limit() {
    let me = FakeMe::echo();
    let (proxy, _) = through(&me, |_, knobs| {
        knobs.uplink.idle_soft = Duration::from_millis(50);
        knobs.uplink.idle_hard = Duration::from_millis(150);
        knobs.uplink.idle_grace = Duration::from_millis(50);
    });
    let mut talk = Talk::secure(proxy.addr);
    round_trip(&mut talk, 1, 64);
    let begun = Instant::now();
    talk.expect_end_or_reset();
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!(proxy.until_idle().core.sessions_idle_closed_total, 1);
}

#[test]
fn silent_client_makes_room_for_a_new_one() {
    let me = FakeMe::echo();
    let (proxy, _) = through(&me, |settings, knobs| {
        settings.plane.connections_max = 2;
        knobs.uplink.idle_soft = Duration::from_millis(20);
    });
    let mut first = Talk::secure(proxy.addr);
    round_trip(&mut first, 1, 64);
    pause(100);
    let mut second = Talk::secure(proxy.addr);
    round_trip(&mut second, 2, 64);
    let mut third = Talk::secure(proxy.addr);
    round_trip(&mut third, 3, 64);
    first.expect_end_or_reset();
    let now = proxy.snapshot();
    assert_eq!(
        (
            now.core.accept_overflow_total,
            now.core.sessions_idle_closed_total
        ),
        (0, 1)
    );
}

#[test]
fn client_stops_while_its_me_reads_nothing_and_is_closed_in_time() {
    let stuck = Arc::new(AtomicUsize::new(1));
    let gate = Arc::clone(&stuck);
    let me = FakeMe::start(move |_, _| {
        while gate.load(Ordering::Acquire) == 1 {
            pause(5);
        }
    });
    let (proxy, _) = through(&me, |_, knobs| {
        knobs.uplink.stopped_max = Duration::from_millis(300);
    });
    let mut talk = Talk::secure(proxy.addr);
    let message = framed(&vec![1; 1 << 20]);
    let mut written = 0;
    while written < 100 && talk.try_write(&message) {
        written += 1;
    }
    assert!(written < 100, "somebody took 100 MiB that nobody reads");
    let end = proxy.until_idle();
    assert_eq!(bad(&end, BadClass::MeWriterFull), 1);
    stuck.store(0, Ordering::Release);
}

#[test]
fn every_client_is_reported_gone_when_the_process_goes_down() {
    let me = FakeMe::echo();
    let (proxy, _) = through(&me, |_, _| {});
    let mut talks: Vec<Talk> = (0..20).map(|_| Talk::secure(proxy.addr)).collect();
    for (seed, talk) in (0..).zip(&mut talks) {
        round_trip(talk, seed, 64);
    }
    proxy.tell(|| Command::Stop);
    proxy.join();
    until("all are reported", || me.heard().closed.len() == 20);
}

#[test]
fn pings_of_an_me_are_answered_and_nonsense_is_ignored() {
    let me = FakeMe::start(|message, hand| {
        hand.say(|out| Note::Ping(99).write(out));
        hand.say(|out| out.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]));
        hand.say(|out| Note::Pong(12_345).write(out));
        hand.answer(ConnId(0xdead_beef_0000_0001), &[1; 8]);
        hand.answer(message.conn, &[2; 8]);
    });
    let (proxy, _) = through(&me, |_, _| {});
    let mut talk = Talk::secure(proxy.addr);
    talk.write(&framed(&[1; 32]));
    assert_eq!(next_message(&mut talk), [2; 8]);
    until("the ping is answered", || me.heard().pongs == vec![99]);
    until("the stranger is told", || {
        me.heard().closed == vec![ConnId(0xdead_beef_0000_0001)]
    });
    assert_eq!(proxy.snapshot().me.route_drop_no_conn_total, 1);
}

#[test]
fn message_names_the_client_and_the_tag_of_its_user() {
    let me = FakeMe::start(|message, hand| {
        let tag = message.ad_tag.map_or([0; 16], |tag| tag.0);
        hand.answer(message.conn, &tag);
    });
    let (proxy, _) = through(&me, |settings, _| {
        let mut users = settings.users.to_vec();
        users[0].ad_tag = Some(shards::proto::middle::proxy_req::AdTag([1; 16]));
        settings.users = users.into();
        settings.hot.ad_tag = Some(shards::proto::middle::proxy_req::AdTag([2; 16]));
    });
    let stream = crate::talk::connect(proxy.addr);
    let from = stream.local_addr().expect("connected");
    let mut talk = Talk::secure_from(stream);
    talk.write(&framed(&[1; 32]));
    assert_eq!(next_message(&mut talk), [2; 16]);
    let stream = crate::talk::connect(proxy.addr);
    let mut talk = Talk::secure_as(stream, &shards::proto::secret::Secret([1; 16]));
    talk.write(&framed(&[1; 4_000]));
    assert_eq!(next_message(&mut talk), [1; 16]);
    let heard = me.heard();
    let (client, ours, flags) = heard.clients[0];
    assert_eq!(client, from);
    assert_eq!((ours.ip(), ours.port()), (me.addr.ip(), proxy.addr.port()));
    assert_eq!(flags, 0x2802_1008);
}

#[test]
fn route_changes_for_new_clients_only() {
    let me = FakeMe::echo();
    let dc = crate::talk::echo();
    let (proxy, plan) = through(&me, |settings, _| {
        settings.upstream.dcs.overrides = [(crate::support::DC, vec![dc])].into();
    });
    let mut through_me = Talk::secure(proxy.addr);
    round_trip(&mut through_me, 1, 64);
    let direct = Plan {
        serial: 2,
        route: Route::Direct,
        ..plan
    };
    proxy.post(&direct);
    let mut straight = Talk::secure(proxy.addr);
    straight.round_trip(2, 1_000);
    round_trip(&mut through_me, 3, 64);
    let now = proxy.snapshot();
    assert_eq!((now.sessions_me, now.sessions_direct), (1, 1));
}
