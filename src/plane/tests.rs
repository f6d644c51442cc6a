//! Rounds through all shards, and what is merged.

use std::sync::atomic::{AtomicUsize, Ordering};

use admin::{Build, DcAddresses};
use async_channel::Sender;
use shards::control::{DcRow, FamilyState};

use super::{
    middle::samples::{Canned, status},
    *,
};

fn plane(posts: Vec<Post>) -> ShardPlane {
    let process = Process::starting(Build::default(), "/config.toml".to_owned());
    let plane = ShardPlane::new(process, Arc::new(Startup::new(&[])), Running::default());
    plane.attach(posts);
    plane
}

fn answer(shard: usize, connections: u64, reply: &Sender<ShardSnapshot>) {
    let mut snapshot = ShardSnapshot {
        shard,
        accepting: true,
        ..ShardSnapshot::default()
    };
    snapshot.core.connections_total = connections;
    reply.try_send(snapshot).unwrap();
}

fn prompt(shard: usize, connections: u64) -> Post {
    Box::new(move |command| {
        if let Command::Snapshot { reply } = command {
            answer(shard, connections, &reply);
        }
        Posted::In
    })
}

#[test]
fn counters_of_all_shards_are_added() {
    let plane = plane(vec![prompt(0, 2), prompt(1, 3)]);
    let snapshot = plane.snapshot().unwrap();
    assert_eq!(snapshot.total.core.connections_total, 5);
    assert_eq!(snapshot.late_shards, 0);
}

#[test]
fn answers_from_other_threads_wake_the_request() {
    let slow: Post = Box::new(|command| {
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            if let Command::Snapshot { reply } = command {
                answer(0, 7, &reply);
            }
        });
        Posted::In
    });
    assert_eq!(
        plane(vec![slow])
            .snapshot()
            .unwrap()
            .total
            .core
            .connections_total,
        7
    );
}

#[test]
fn silent_shard_counts_with_what_it_said_before() {
    let calls = AtomicUsize::new(0);
    let kept = Mutex::new(Vec::new());
    let stalls: Post = Box::new(move |command| {
        let Command::Snapshot { reply } = command else {
            return Posted::In;
        };
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            answer(1, 3, &reply);
        } else {
            // In its mailbox, never looked at.
            kept.lock().unwrap().push(reply);
        }
        Posted::In
    });
    let plane = plane(vec![prompt(0, 2), stalls]);
    assert_eq!(plane.snapshot().unwrap().late_shards, 0);
    let asked = Instant::now();
    let snapshot = plane.snapshot().unwrap();
    assert!(asked.elapsed() < DEADLINE * 3, "{:?}", asked.elapsed());
    assert_eq!(
        (snapshot.total.core.connections_total, snapshot.late_shards),
        (5, 1)
    );
}

#[test]
fn shard_that_has_ended_holds_nothing_and_is_not_late() {
    let calls = AtomicUsize::new(0);
    let ends: Post = Box::new(move |command| {
        let Command::Snapshot { reply } = command else {
            return Posted::In;
        };
        if calls.fetch_add(1, Ordering::Relaxed) > 0 {
            return Posted::Gone;
        }
        let mut snapshot = ShardSnapshot::default();
        snapshot.core.connections_total = 3;
        snapshot.core.connections_current = 3;
        reply.try_send(snapshot).unwrap();
        Posted::In
    });
    let plane = plane(vec![ends]);
    assert_eq!(plane.snapshot().unwrap().total.core.connections_current, 3);
    let after = plane.snapshot().unwrap();
    let core = &after.total.core;
    assert_eq!((core.connections_total, core.connections_current), (3, 0));
    assert_eq!(after.late_shards, 0);
}

#[test]
fn full_mailboxes_and_strange_answers_do_not_wait_or_panic() {
    let full: Post = Box::new(|_| Posted::Full);
    let asked = Instant::now();
    assert!(plane(vec![full]).snapshot().is_none());
    assert!(asked.elapsed() < DEADLINE);
    assert!(plane(vec![prompt(9, 1)]).snapshot().is_none());
    assert!(plane(Vec::new()).snapshot().is_none());
}

#[test]
fn many_requests_at_once_share_rounds() {
    let rounds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rounds);
    let slow: Post = Box::new(move |command| {
        counted.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(50));
        if let Command::Snapshot { reply } = command {
            answer(0, 1, &reply);
        }
        Posted::In
    });
    let plane = plane(vec![slow]);
    thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| assert!(plane.snapshot().is_some()));
        }
    });
    assert!(rounds.load(Ordering::Relaxed) <= 8, "{rounds:?}");
}

#[test]
fn reloads_are_counted() {
    let plane = plane(Vec::new());
    plane.reloaded(Running {
        users: vec!["a".into()].into(),
        ..Running::default()
    });
    assert_eq!(plane.reloads().count, 1);
    assert_eq!(plane.running().users.len(), 1);
}

/// Ready to answer with one shard whose only writer is active.
fn with_middle(posts: Vec<Post>, status: MeStatus) -> ShardPlane {
    let plane = plane(posts);
    plane.attach_middle(Arc::new(Canned(status)));
    plane
}

#[test]
fn pool_is_shown_whole_or_not_at_all() {
    let plane = with_middle(vec![prompt(0, 2), prompt(1, 3)], status());
    assert_eq!(plane.me().unwrap().minimal.summary.configured_dc_groups, 2);
    let kept = Mutex::new(Vec::new());
    let silent: Post = Box::new(move |command| {
        kept.lock().unwrap().push(command);
        Posted::In
    });
    let plane = with_middle(vec![prompt(0, 2), silent], status());
    assert_eq!(plane.snapshot().unwrap().late_shards, 1);
    assert!(plane.me().is_none());
    assert!(plane.transport().me_pool_ready);
}

#[test]
fn without_a_supervisor_there_is_no_pool() {
    let plane = plane(vec![prompt(0, 2)]);
    assert!(plane.me().is_none());
    assert_eq!(plane.transport(), Transport::direct());
    assert_eq!(plane.me_startup(), MeStartup::skipped());
}

#[test]
fn supervisors_counters_are_added_once() {
    let mut status = status();
    status.me.endpoint_quarantine_total = 4;
    status.pool.pool_swap_total = 2;
    let plane = with_middle(vec![prompt(0, 2), prompt(1, 3)], status);
    for _ in 0..2 {
        let snapshot = plane.snapshot().unwrap();
        assert_eq!(snapshot.total.me.endpoint_quarantine_total, 4);
        assert_eq!(snapshot.total.pool.pool_swap_total, 2);
    }
}

#[test]
fn network_path_names_the_five_dcs() {
    let at = |dc| DcAddresses {
        dc,
        v4: Some(([192, 0, 2, 1], 443).into()),
        v6: None,
    };
    let running = Running {
        dc_addresses: vec![at(1), at(5), at(203)],
        ..Running::default()
    };
    let route = UpstreamRow {
        dcs: vec![DcRow {
            dc: 5,
            latency_ema_ms: None,
            v4: FamilyState::Works,
            v6: FamilyState::Unknown,
        }],
        ..UpstreamRow::default()
    };
    let path = network_path(&running, &[route]);
    let seen: Vec<_> = path.iter().map(|row| (row.dc, row.ip_preference)).collect();
    assert_eq!(seen, [(1, Some("unknown")), (5, Some("prefer_v4"))]);
    assert_eq!(path[0].selected_addr_v4.as_deref(), Some("192.0.2.1:443"));
    assert_eq!(network_path(&running, &[]).len(), 2);
}
