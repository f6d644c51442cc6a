//! Stories over minutes and hours of virtual time.

use std::net::SocketAddr;

use super::{rules::twelve, *};
use crate::policy::me::{
    families::FamilyState,
    plan::{Fill, Route},
    status::{BlockReason, InitStatus},
    supervisor::*,
};

const SINGLE: &str = "proxy_for 1 1.1.1.1:1; proxy_for 2 1.1.2.1:1; proxy_for 2 1.1.2.2:1";

#[test]
fn a_hardswap_replaces_every_writer() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    process.run(890);
    assert_eq!(process.status().generations.active, 1);
    assert_eq!(process.status().pool.pool_swap_total, 0);
    process.run(20);
    let status = process.status();
    assert_eq!(
        (status.generations.active, status.generations.pending),
        (2, 0)
    );
    assert!(process.rows().iter().all(|row| row.generation == 2));
    assert_eq!(process.rows().len(), 36);
    assert_eq!(status.pool.pool_swap_total, 1);
    let gate = status.gate;
    assert!(gate.route_quorum_ok && gate.redundancy_ok);
    assert_eq!(gate.block_reason, BlockReason::Open);
    process.run(900);
    assert_eq!(process.status().pool.pool_swap_total, 2);
    assert_eq!(process.status().me.hardswap_pending_reuse_total, 0);
}

#[test]
fn a_closed_gate_keeps_the_old_writers() {
    let mut process = Process::started(MeSettings::default(), 1, &twelve());
    process.run(800);
    // Three of twelve groups cannot be warmed: 0.75 is under 0.8.
    let dead = ["149.154.1.", "149.154.2."];
    let endpoints = process.plan.map.values().flatten().copied();
    let endpoints: Vec<_> = endpoints.collect();
    for endpoint in endpoints {
        let name = endpoint.to_string();
        if dead.iter().any(|dead| name.starts_with(dead)) {
            process.dead.insert(endpoint);
        }
    }
    process.run(200);
    let status = process.status();
    assert_eq!(
        (status.generations.active, status.generations.pending),
        (1, 2)
    );
    assert_eq!(status.gate.block_reason, BlockReason::CoverageQuorum);
    assert!(process.rows().iter().any(|row| row.generation == 1));
    process.run(1_800);
    let me = process.status().me;
    assert_eq!(me.hardswap_pending_reuse_total, 2, "at 1800 and 2700 s");
    assert_eq!(process.status().generations.pending, 2);
    process.run(900);
    let me = process.status().me;
    assert_eq!(me.hardswap_pending_reuse_total, 2);
    assert_eq!(me.hardswap_pending_ttl_expired_total, 1);
    assert_eq!(process.status().generations.pending, 3);
    process.dead.clear();
    process.run(60);
    let status = process.status();
    assert_eq!(
        (status.generations.active, status.generations.pending),
        (3, 0)
    );
    assert!(process.rows().iter().all(|row| row.generation == 3));
}

#[test]
fn a_group_without_fresh_writers_keeps_its_old_ones() {
    let mut process = Process::started(MeSettings::default(), 1, &twelve());
    process.run(895);
    let endpoints: Vec<_> = process.plan.map[&203].clone();
    process
        .dead
        .extend(endpoints.iter().copied().filter(|at| at.port() == 8888));
    // Only one of the pair 203, -203 may be missing for the quorum of 0.8: both are 2 of 12.
    process.run(30);
    let status = process.status();
    assert_eq!(status.gate.block_reason, BlockReason::Redundancy);
    assert_eq!(status.generations.active, 2);
    for row in process.rows() {
        assert_eq!(row.generation, if row.dc.abs() == 203 { 1 } else { 2 });
        assert_eq!(row.state, WriterState::Active);
    }
    assert_eq!(status.pool.pool_swap_total, 1);
    process.dead.clear();
    // Idle refreshes bring in writers of the new generation; then the rest may go.
    process.run(300);
    assert_eq!(process.status().gate.block_reason, BlockReason::Open);
    assert!(process.rows().iter().all(|row| row.generation == 2));
    assert_eq!(process.status().pool.pool_swap_total, 1, "once per cycle");
}

#[test]
fn a_new_map_is_taken_when_stable_and_swapped_in() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    process.run(10);
    let moved = twelve().replace("149.154.", "91.108.");
    process.offer(&moved, Origin::Refresh);
    process.run(300);
    assert_eq!(process.plan.map_epoch, 1);
    process.offer(&moved, Origin::Refresh);
    assert!(process.supervisor.wants_stun_reset());
    assert!(!process.supervisor.wants_stun_reset());
    process.run(10);
    assert_eq!(process.plan.map_epoch, 2);
    let status = process.status();
    assert_eq!(status.generations.active, 2);
    let moved = |row: &&crate::policy::me::report::WriterRow| {
        row.endpoint.to_string().starts_with("91.108.")
    };
    assert!(process.rows().iter().all(moved));
    assert_eq!(process.rows().len(), 36);
    assert_eq!(status.pool.pool_swap_total, 1);
}

#[test]
fn without_hardswap_only_unmapped_writers_go() {
    let mut settings = MeSettings::default();
    settings.reinit.hardswap = false;
    let mut process = Process::started(settings, 2, SINGLE);
    process.run(10);
    let kept: Vec<_> = process
        .rows()
        .iter()
        .filter(|row| row.dc.abs() == 1)
        .map(|row| row.id)
        .collect();
    for _ in 0..2 {
        process.offer(
            "proxy_for 1 1.1.1.1:1; proxy_for 2 1.1.2.1:1",
            Origin::Refresh,
        );
    }
    process.run(10);
    let status = process.status();
    assert_eq!(status.generations.active, 1);
    assert_eq!(status.pool.pool_swap_total, 1);
    assert!(
        process
            .rows()
            .iter()
            .all(|row| row.endpoint.to_string() != "1.1.2.2:1")
    );
    let now: Vec<_> = process
        .rows()
        .iter()
        .filter(|row| row.dc.abs() == 1)
        .map(|row| row.id)
        .collect();
    assert_eq!(now, kept);
    assert_eq!(process.active(2).iter().sum::<u32>(), 3);
}

#[test]
fn a_new_secret_forces_a_new_generation() {
    let mut process = Process::started(MeSettings::default(), 1, SINGLE);
    process.run(10);
    for _ in 0..2 {
        process.offer_secret(2, Origin::Refresh);
    }
    process.run(5);
    assert_eq!(process.status().generations.active, 2);
    assert!(process.rows().iter().all(|row| row.secret_epoch == 2));
    assert_eq!(process.plan.secret.as_ref().unwrap().epoch, 2);
}

#[test]
fn without_hardswap_a_new_secret_comes_writer_by_writer() {
    let mut settings = MeSettings::default();
    settings.reinit.hardswap = false;
    let mut process = Process::started(settings, 2, SINGLE);
    process.run(10);
    for _ in 0..2 {
        process.offer_secret(2, Origin::Refresh);
    }
    let old = |process: &Process| {
        process
            .rows()
            .iter()
            .filter(|row| row.secret_epoch == 1)
            .count()
    };
    process.settle();
    assert_eq!(
        old(&process),
        10,
        "12 writers, one of each of two shards at once"
    );
    process.run(1);
    assert_eq!(old(&process), 10);
    process.run(1);
    assert_eq!(old(&process), 8);
    process.run(10);
    assert_eq!(old(&process), 0);
    assert_eq!(process.rows().len(), 12);
}

#[test]
fn an_outage_is_dialled_with_its_own_backoff() {
    let mut process = Process::started(MeSettings::default(), 2, SINGLE);
    process.run(10);
    let endpoint = "1.1.1.1:1".parse().unwrap();
    process.dead.insert(endpoint);
    let dials = process.dials;
    process.lose(true, |row| row.endpoint == endpoint);
    process.run(60);
    let status = process.status();
    assert_eq!(
        status.me.single_endpoint_outage_enter_total, 2,
        "DC 1 and its mirror"
    );
    assert_eq!(process.told(MeEventKind::Outage), 2);
    assert!(process.plan.group(1).unwrap().outage[0]);
    let dials = process.dials - dials;
    // 250 ms doubling to 3 s, and half of it at random: about one every 3.75 s for each group.
    assert!((26..=60).contains(&dials), "{dials} dials in a minute");
    process.dead.clear();
    process.run(6);
    let me = process.status().me;
    assert_eq!(me.single_endpoint_outage_exit_total, 2);
    assert!(!process.plan.group(1).unwrap().outage[0]);
    process.run(3);
    assert_eq!(process.active(1).iter().sum::<u32>(), 3);
}

#[test]
fn spare_writers_rotate() {
    let mut settings = MeSettings::default();
    settings.reinit.every = Duration::from_secs(100_000);
    let mut process = Process::started(settings, 1, "proxy_for 1 1.1.1.1:1");
    process.run(5);
    // Not empty ones for a while, so that no idle refresh interferes.
    for row in &mut process.shards[0].writers {
        row.idle_since = None;
        row.bound_clients = 1;
    }
    process.report(0);
    process.run(905);
    let ids: Vec<_> = process.rows().iter().map(|row| row.id).collect();
    process.lose(true, |_| false);
    let barred = PoolEvent::LostEarly {
        endpoint: "1.1.1.1:1".parse().unwrap(),
    };
    let report = Report {
        plan: process.plan.serial,
        writers: process.shards[0].writers.clone(),
        fill_done: true,
        events: vec![barred],
        ..Report::default()
    };
    process.supervisor.report(report, process.now);
    process.run(20);
    let skipped = process
        .status()
        .me
        .single_endpoint_shadow_rotate_skipped_quarantine_total;
    assert!(
        (1..=2).contains(&skipped),
        "once per group at most, not {skipped}"
    );
    for row in &mut process.shards[0].writers {
        row.idle_since = Some(process.now);
        row.bound_clients = 0;
    }
    process.report(0);
    process.run(35);
    let changed = process
        .rows()
        .iter()
        .filter(|row| !ids.contains(&row.id))
        .count();
    assert_eq!(changed, 2, "one of each group");
}

#[test]
fn idle_writers_are_renewed_before_they_are_cut() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    process.run(200);
    let oldest = process
        .rows()
        .iter()
        .filter_map(|row| row.idle_since)
        .min()
        .unwrap();
    let age = process.now.since(oldest) / 1000;
    assert!(age < 75, "one idle for {age} s");
    assert_eq!(process.rows().len(), 36);
}

#[test]
fn the_gate_waits_for_the_grace_and_opens() {
    let mut settings = MeSettings::default();
    settings.admission.fast = false;
    let mut process = Process::started(settings, 1, SINGLE);
    process.dead.insert("1.1.1.1:1".parse().unwrap());
    process.run(79);
    assert_eq!(process.plan.route, Route::Closed);
    assert!(!process.status().route.accepting);
    process.run(3);
    assert_eq!(process.plan.route, Route::Direct);
    let startup = process.status().startup;
    assert_eq!(startup.status, InitStatus::Initializing);
    assert!(startup.init_attempt > 3, "attempts go on");
    assert!(
        process
            .status()
            .startup
            .last_error
            .unwrap()
            .contains("-1, 1")
    );
    assert_eq!(
        process.active(2).iter().sum::<u32>(),
        3,
        "the others are filled meanwhile"
    );
    process.dead.clear();
    process.run(15);
    assert_eq!(process.plan.route, Route::Middle);
    let route = process.status().route;
    assert!(route.ready && route.reason.is_none() && route.direct_at.is_some());
    assert_eq!(process.status().startup.status, InitStatus::Ready);
}

#[test]
fn a_start_without_fallback_is_given_up_after_its_attempts() {
    let mut settings = MeSettings::default();
    settings.admission.fallback = false;
    settings.admission.init_attempts = 3;
    let mut process = Process::started(settings, 1, SINGLE);
    process.dead.insert("1.1.1.1:1".parse().unwrap());
    process.run(1);
    assert_eq!(process.plan.fill, Fill::Not, "between two attempts");
    assert_eq!(process.status().startup.init_attempt, 1);
    assert_eq!(process.plan.route, Route::Closed);
    process.run(10);
    let startup = process.status().startup;
    assert_eq!(
        (startup.status, startup.init_attempt),
        (InitStatus::Failed, 3)
    );
    assert_eq!(startup.current_stage, "failed");
    assert_eq!(process.plan.route, Route::Closed);
    process.dead.clear();
    process.run(10);
    assert_eq!(
        process.plan.route,
        Route::Middle,
        "the health tick found it"
    );
    assert_eq!(process.status().startup.status, InitStatus::Ready);
}

#[test]
fn a_bad_family_rests_while_the_other_serves() {
    let mut settings = MeSettings::default();
    settings.families.ipv6 = true;
    settings.families.prefer_ipv6 = true;
    let map = "proxy_for 1 1.1.1.1:1; proxy_for 1 1.1.1.2:1; proxy_for 1 [2001::1]:1; \
               proxy_for 1 [2001::2]:1";
    let mut process = Process::started(settings, 1, map);
    process.run(10);
    assert!(process.rows().iter().all(|row| row.endpoint.is_ipv6()));
    let sixth: Vec<SocketAddr> = process.plan.groups[0].endpoints.to_vec();
    process.dead.extend(&sixth);
    process.lose(false, |_| true);
    process.run(8);
    let families = process.status().families;
    assert_eq!(families[1].state, FamilyState::Suppressed);
    assert_eq!(families[1].fail_streak, 5);
    assert!(families[0].in_use && !families[1].in_use);
    assert!(process.rows().iter().all(|row| row.endpoint.is_ipv4()));
    assert_eq!(process.active(1), [3]);
    assert!(process.status().route.ready);
    process.dead.clear();
    process.run(75);
    let families = process.status().families;
    assert_eq!(families[1].state, FamilyState::Healthy);
    assert!(families[1].in_use && families[1].suppressed_until.is_none());
    assert!(process.told(MeEventKind::Family) >= 4);
}

#[test]
fn a_silent_shard_does_no_harm() {
    let mut process = Process::started(MeSettings::default(), 4, &twelve());
    process.run(10);
    process.silent.insert(3);
    process.run(4_000);
    let status = process.status();
    assert!(status.route.ready);
    for (shard, writers) in process.shards.iter().enumerate().take(3) {
        assert!(!writers.writers.is_empty(), "shard {shard}");
    }
    // It comes back and does what all plans it missed would have told it.
    process.silent.clear();
    process.run(1_000);
    let active = process.plan.generations.active;
    assert!(active >= 2);
    assert!(process.rows().iter().all(|row| row.generation == active));
    assert_eq!(process.rows().len(), 48);
}

#[test]
fn hours_pass_without_leaks() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    for hour in 0..6_u64 {
        process.run(1_800);
        process.lose(hour % 3 == 0, |row| row.id.0 % 5 == hour % 5);
        process.run(1_800);
        assert_eq!(process.rows().len(), 36, "hour {hour}");
        assert!(process.plan.tasks.len() <= 24, "hour {hour}");
    }
    let status = process.status();
    let me = status.me;
    let now = status
        .groups
        .iter()
        .flat_map(|group| group.outage)
        .filter(|out| *out)
        .count() as u64;
    assert_eq!(
        me.single_endpoint_outage_enter_total - me.single_endpoint_outage_exit_total,
        now
    );
    assert!(
        status.pool.pool_swap_total >= 20,
        "{}",
        status.pool.pool_swap_total
    );
}
