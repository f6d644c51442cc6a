//! Single rules, by example.

use super::*;
use crate::policy::me::{
    plan::{Fill, Route},
    report::GroupUse,
    startup::Stage,
    status::{BlockReason, InitStatus},
    supervisor::*,
};

/// Twelve groups of three endpoints, as in section 25.
pub(super) fn twelve() -> String {
    let mut map = String::new();
    for dc in [1, 2, 3, 4, 5, 203] {
        for endpoint in 0..3 {
            map += &format!("proxy_for {dc} 149.154.{dc}.{endpoint}:8888;\n");
        }
    }
    map
}

#[test]
fn the_table_of_shards_and_caps() {
    for (shards, required, spread) in [(1, 36, true), (2, 36, true), (8, 96, true), (32, 36, false)]
    {
        let mut process = Process::started(MeSettings::default(), shards, &twelve());
        process.run(3);
        let status = process.status();
        assert_eq!(status.groups.len(), 12);
        let sum: u32 = status.groups.iter().map(|group| group.required).sum();
        assert_eq!((sum, status.floor.spread), (required, spread));
        assert_eq!(status.floor.targets_total, required);
        assert_eq!(process.rows().len(), required as usize, "{shards} shards");
        assert!(
            process
                .rows()
                .iter()
                .all(|row| row.state == WriterState::Active)
        );
    }
}

#[test]
fn a_plan_comes_only_when_something_changed() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    process.run(2);
    let next = process.settle();
    for _ in 0..3 {
        process.supervisor.advance(process.now);
        assert!(process.supervisor.take_plan().is_none());
    }
    assert!(next > process.now);
    // Reports that say nothing new, likewise.
    for shard in 0..2 {
        process.report(shard);
    }
    process.supervisor.advance(process.now);
    assert!(process.supervisor.take_plan().is_none());
    let (plans, ticks) = (process.plans, process.plan.tick);
    process.run(30);
    let ticked = process.plan.tick - ticks;
    assert!((9..=11).contains(&ticked), "every 3 s, not {ticked} times");
    assert_eq!(process.plans - plans, ticked, "one plan for each tick");
}

#[test]
fn dials_and_removals_are_budgeted() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    process.run(5);
    let limits = process.plan.limits;
    assert_eq!(limits.dials_per_tick, 8, "clamp(2 * 2 + 12, 4, 128) / 2");
    assert_eq!(limits.dials_per_group, 4);
    assert_eq!(limits.draining_max, Some(16));
    assert_eq!(limits.removals_per_second, 16);
    assert_eq!(limits.active_room, 32, "(128 - 36) / 2, in steps");
    assert_eq!(limits.override_room, 0);
    assert_eq!(limits.warm_room, 64);
}

#[test]
fn an_early_loss_bars_the_endpoint_for_25_s() {
    let mut process = Process::started(MeSettings::default(), 1, &twelve());
    process.run(5);
    let endpoint = process.rows()[0].endpoint;
    process.lose(true, |row| row.endpoint == endpoint);
    let barred: Vec<_> = process.plan.quarantine.iter().map(|(at, _)| *at).collect();
    assert_eq!(barred, [endpoint]);
    assert_eq!(process.status().quarantine[0].remaining_ms, 25_000);
    process.run(24);
    assert_eq!(process.plan.quarantine.len(), 1);
    process.run(1);
    assert!(process.plan.quarantine.is_empty());
    let status = process.status();
    // The endpoint serves two groups: one writer of each was lost.
    assert_eq!(status.me.endpoint_quarantine_total, 2);
    assert_eq!(process.told(MeEventKind::Quarantine), 1);
    // Elsewhere, nothing is barred.
    process.lose(true, |row| row.endpoint == endpoint);
    process.offer("proxy_for 1 9.9.9.9:1", Origin::Startup);
    process.run(1);
    assert!(process.plan.quarantine.is_empty(), "it left the map");
}

#[test]
fn silence_freezes_the_counters() {
    let settings = MeSettings {
        counts: crate::settings::MeCounts::Off,
        ..MeSettings::default()
    };
    let mut process = Process::started(settings, 1, &twelve());
    process.run(5);
    process.lose(true, |_| true);
    process.run(1_000);
    assert_eq!(process.status().me, MeCounters::default());
    assert_eq!(process.status().pool, PoolCounters::default());
}

#[test]
fn the_floor_mode_switches_by_reload() {
    let mut process = Process::started(MeSettings::default(), 1, &twelve());
    process.run(5);
    for adaptive in [false, false, true, false] {
        let mut settings = MeSettings::clone(&process.plan.settings);
        settings.floor.adaptive = adaptive;
        process
            .supervisor
            .set_settings(Arc::new(settings), process.now);
        process.run(1);
    }
    let me = process.status().me;
    assert_eq!(me.floor_mode_switch_total, 3);
    assert_eq!(me.floor_mode_switch_adaptive_to_static_total, 2);
    assert_eq!(me.floor_mode_switch_static_to_adaptive_total, 1);
    let group = &process.status().groups[0];
    assert_eq!((group.floor_min, group.floor_max), (3, 3));
}

#[test]
fn quiet_groups_give_way_under_the_cap() {
    let mut settings = MeSettings::default();
    settings.floor.active_max = 20;
    let mut process = Process::started(settings, 1, &twelve());
    process.shards[0].groups = vec![GroupUse {
        dc: 2,
        sessions: 4,
        last_bind: Some(Millis(0)),
        wanted: false,
    }];
    process.run(120);
    let status = process.status();
    assert_eq!(status.floor.targets_total, 20);
    assert_eq!(status.floor.active_cap, 20);
    let group = |dc| status.groups.iter().find(|group| group.dc == dc).unwrap();
    assert!(!group(2).capped && group(2).target == 3, "bound lately");
    assert!(group(1).capped && group(1).required == 3);
    process.run(240);
    let active = process
        .rows()
        .iter()
        .filter(|row| row.state == WriterState::Active)
        .count();
    assert_eq!(active, 20, "what is too much went when it was idle");
}

#[test]
fn a_crowded_shard_grows_and_shrinks() {
    let mut process = Process::started(MeSettings::default(), 2, &twelve());
    process.run(10);
    let crowd = |process: &mut Process, clients: u32| {
        let now = process.now;
        for row in &mut process.shards[0].writers {
            if row.dc == 2 && row.bound_clients != clients {
                row.bound_clients = clients;
                row.idle_since = (clients == 0).then_some(now);
            }
        }
        process.report(0);
    };
    let before = process.active(2);
    for _ in 0..30 {
        crowd(&mut process, 300);
        process.run(1);
    }
    let grown = process.active(2);
    let status = process.status();
    let group = status.groups.iter().find(|group| group.dc == 2).unwrap();
    assert_eq!(group.floor_max, 7);
    assert_eq!(grown.iter().sum::<u32>(), 7, "{before:?} to {grown:?}");
    assert_eq!(group.target, 7);
    assert_eq!(grown[1], before[1]);
    crowd(&mut process, 0);
    process.run(300);
    assert_eq!(process.active(2), before);
}

#[test]
fn startup_steps_progress() {
    let mut process = Process::new(MeSettings::default(), 1, 1);
    assert_eq!(process.status().startup.status, InitStatus::Pending);
    assert_eq!(process.plan.fill, Fill::Not);
    assert_eq!(process.plan.route, Route::Direct);
    let stage = |process: &mut Process, stage, what| {
        process.supervisor.startup_stage(stage, what, process.now);
    };
    stage(&mut process, Stage::SecretFetch, StageMove::Started);
    assert_eq!(process.status().startup.current_stage, "me_secret_fetch");
    stage(
        &mut process,
        Stage::SecretFetch,
        StageMove::Failed("no route".into()),
    );
    let startup = process.status().startup;
    assert_eq!(startup.current_stage, "background_init");
    assert_eq!(
        startup.last_error.as_deref(),
        Some("me_secret_fetch: no route")
    );
    assert_eq!(startup.status, InitStatus::Initializing);
    process.offer_secret(1, Origin::Startup);
    process.offer(&twelve(), Origin::Startup);
    process.run(3);
    let startup = process.status().startup;
    assert_eq!(
        (startup.status, startup.current_stage),
        (InitStatus::Ready, "ready")
    );
    assert_eq!((startup.init_attempt, startup.last_error), (1, None));
    assert_eq!(process.plan.fill, Fill::Steady);
    assert_eq!(process.plan.route, Route::Middle);
}

#[test]
fn the_gate_is_open_and_false_before_the_first_cycle() {
    let mut process = Process::started(MeSettings::default(), 1, &twelve());
    process.run(60);
    let gate = process.status().gate;
    assert!(!gate.route_quorum_ok && !gate.redundancy_ok);
    assert_eq!(
        (gate.block_reason, gate.updated_at),
        (BlockReason::Open, Millis(0))
    );
}
