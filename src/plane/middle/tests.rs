//! Numbers of the answers, field by field.

use std::sync::Arc;

use admin::{
    DcStatus, MeView, RouteMode, RuntimeMePoolStateRefillDcData, StartupStatus, StepStatus,
};
use shards::{
    me::{
        BlockReason, BoundStatus, InitStatus, MeStatus, Millis, QuarantineStatus, RefillRow,
        RerouteReason, SkewStatus, Stage, StepState, WriterRow, WriterState,
    },
    settings::MeSettings,
};

use super::{
    samples::{Canned, NOW, STARTED, endpoint, status, total, writer},
    *,
};

fn look(status: &MeStatus, total: &ShardSnapshot) -> Option<MeView> {
    let moment = Moment {
        status,
        total,
        now: NOW,
    };
    view(&Canned(status.clone()), &moment, Vec::new())
}

fn look_at(writers: Vec<WriterRow>) -> MeView {
    look(&status(), &total(writers)).unwrap()
}

fn near(value: f64, wanted: f64) {
    assert!((value - wanted).abs() < 1e-9, "{value}, expected {wanted}");
}

fn dc(view: &MeView, id: i16) -> &DcStatus {
    let mut rows = view.minimal.dcs.iter();
    rows.find(|row| row.dc == id).unwrap()
}

fn draining(id: u64, dc: i16, last: u8) -> WriterRow {
    WriterRow {
        generation: 6,
        state: WriterState::Draining {
            fallback: true,
            started: Millis(5_000),
            deadline: Millis(95_000),
            over_ttl: true,
        },
        ..writer(id, dc, last)
    }
}

#[test]
fn there_is_no_view_before_a_map_was_planned_for_nor_after_giving_up() {
    assert!(look(&status(), &total(Vec::new())).is_some());
    let mut early = status();
    for step in &mut early.startup.steps {
        if step.stage == Stage::PoolConstruct {
            step.state = StepState::Running;
        }
    }
    assert!(look(&early, &total(Vec::new())).is_none());
    let mut failed = status();
    failed.startup.status = InitStatus::Failed;
    assert!(look(&failed, &total(Vec::new())).is_none());
}

#[test]
fn writers_show_what_the_shards_know_of_them() {
    let busy = WriterRow {
        bound_clients: 3,
        idle_since: None,
        rtt_ema_ms: Some(20.5),
        degraded: true,
        ..writer(4, 2, 1)
    };
    let unmapped = WriterRow {
        state: WriterState::Warm,
        rtt_ema_ms: Some(f64::INFINITY),
        ..writer(5, 2, 9)
    };
    let view = look_at(vec![busy, unmapped, draining(6, -3, 3)]);
    let [busy, warm, old] = view.minimal.writers.as_slice() else {
        panic!("{:?}", view.minimal.writers)
    };
    assert_eq!(
        (busy.writer_id, busy.dc, busy.state),
        (4, Some(2), "active")
    );
    assert_eq!((busy.bound_clients, busy.idle_for_secs), (3, None));
    assert_eq!((busy.rtt_ema_ms, busy.degraded), (Some(20.5), true));
    assert!(busy.matches_active_generation && busy.in_desired_map && !busy.draining);
    assert_eq!((warm.state, warm.rtt_ema_ms), ("warm", None));
    assert_eq!((warm.in_desired_map, warm.idle_for_secs), (false, Some(1)));
    assert_eq!((old.state, old.draining), ("draining", true));
    assert!(old.allow_drain_fallback && old.drain_over_ttl);
    assert!(!old.matches_active_generation && old.in_desired_map);
    assert_eq!(
        (
            old.drain_started_at_epoch_secs,
            old.drain_deadline_epoch_secs
        ),
        (Some(STARTED + 5), Some(STARTED + 95))
    );
    assert_eq!(busy.drain_started_at_epoch_secs, None);
}

#[test]
fn groups_count_their_own_writers_that_do_not_drain() {
    let rtt = |ms, row| WriterRow {
        rtt_ema_ms: Some(ms),
        ..row
    };
    let view = look_at(vec![
        rtt(10.0, writer(1, 2, 1)),
        // Alive, not fresh: of another generation; warm counts.
        rtt(
            30.0,
            WriterRow {
                generation: 8,
                state: WriterState::Warm,
                ..writer(2, 2, 1)
            },
        ),
        // No sample.
        writer(3, 2, 1),
        // Its round trip does not count.
        rtt(999.0, draining(4, 2, 2)),
        // Of a group that is not configured.
        writer(5, 4, 1),
    ]);
    let two = dc(&view, 2);
    assert_eq!(two.endpoints, ["192.0.2.1:8888", "192.0.2.2:8888"]);
    let per_endpoint: Vec<_> = two
        .endpoint_writers
        .iter()
        .map(|row| row.active_writers)
        .collect();
    assert_eq!(per_endpoint, [3, 0]);
    assert_eq!(
        (
            two.available_endpoints,
            two.alive_writers,
            two.fresh_alive_writers
        ),
        (1, 3, 2)
    );
    near(two.available_pct, 50.0);
    near(two.coverage_pct, 100.0);
    near(two.fresh_coverage_pct, 200.0 / 3.0);
    near(two.rtt_ms.unwrap(), 20.0);
    assert_eq!(two.load, 4);
    let three = dc(&view, -3);
    assert_eq!(
        (three.alive_writers, three.rtt_ms, three.load),
        (0, None, 0)
    );

    let sums = &view.minimal.summary;
    assert_eq!(
        (sums.configured_dc_groups, sums.configured_endpoints),
        (2, 3)
    );
    assert_eq!((sums.available_endpoints, sums.required_writers), (1, 6));
    assert_eq!((sums.alive_writers, sums.fresh_alive_writers), (3, 2));
    near(sums.available_pct, 100.0 / 3.0);
    near(sums.coverage_pct, 50.0);
    near(sums.fresh_coverage_pct, 100.0 / 3.0);
    let rtt: Vec<_> = view
        .quality
        .dc_rtt
        .iter()
        .map(|row| (row.dc, row.alive_writers))
        .collect();
    assert_eq!(rtt, [(-3, 0), (2, 3)]);
    near(view.quality.dc_rtt[1].rtt_ema_ms.unwrap(), 20.0);
}

#[test]
fn percentages_end_at_a_hundred_and_are_zero_of_nothing() {
    let mut status = status();
    status.groups[0].required = 0;
    status.groups[1].required = 1;
    status.groups[1].target = 2;
    status.groups[1].capped = true;
    let view = look(&status, &total(vec![writer(1, 2, 1), writer(2, 2, 2)])).unwrap();
    near(dc(&view, 2).coverage_pct, 100.0);
    near(dc(&view, -3).coverage_pct, 0.0);
    let two = dc(&view, 2);
    assert_eq!(
        (
            two.required_writers,
            two.floor_min,
            two.floor_target,
            two.floor_max,
            two.floor_capped
        ),
        (1, 1, 2, 5, true)
    );
}

#[test]
fn pool_state_adds_up() {
    let slow = |row| WriterRow {
        degraded: true,
        ..row
    };
    let warm = WriterRow {
        state: WriterState::Warm,
        ..writer(3, 2, 1)
    };
    let rows = vec![
        writer(1, 2, 1),
        slow(writer(2, 2, 2)),
        warm,
        slow(draining(4, 2, 1)),
        draining(5, 2, 1),
    ];
    let mut status = status();
    status.generations.pending = 8;
    status.generations.warm = 8;
    status.generations.pending_since = Some(Millis(NOW.0 - 12_345));
    let mut total = total(rows);
    let refill = |dc, ipv6| RefillRow { dc, ipv6 };
    total.refills = vec![
        refill(-3, false),
        refill(2, false),
        refill(2, false),
        refill(2, true),
    ];
    let view = look(&status, &total).unwrap();
    let state = &view.pool_state;
    assert_eq!(state.generations.draining_generations, [6]);
    assert_eq!(state.generations.pending_hardswap_age_secs, Some(12));
    assert!(state.hardswap.enabled && state.hardswap.pending);
    let writers = &state.writers;
    assert_eq!(
        (writers.total, writers.alive_non_draining, writers.draining),
        (5, 3, 2)
    );
    assert_eq!(writers.degraded, 1);
    let contour = &writers.contour;
    assert_eq!((contour.warm, contour.active, contour.draining), (1, 2, 2));
    let health = &writers.health;
    assert_eq!(
        (health.healthy, health.degraded, health.draining),
        (2, 1, 2)
    );
    let row = |dc, family, inflight| RuntimeMePoolStateRefillDcData {
        dc,
        family,
        inflight,
    };
    assert_eq!(
        state.refill.by_dc,
        [row(-3, "V4", 1), row(2, "V4", 2), row(2, "V6", 1)]
    );
    assert_eq!(
        (
            state.refill.inflight_endpoints_total,
            state.refill.inflight_dc_total
        ),
        (4, 3)
    );
    let runtime = &view.minimal.runtime;
    assert_eq!(runtime.pending_hardswap_age_secs, Some(12));
    assert_eq!(
        (
            runtime.adaptive_floor_active_writers_current,
            runtime.adaptive_floor_warm_writers_current
        ),
        (2, 1)
    );
    // Nothing pending, no age.
    status.generations.pending = 0;
    let view = look(&status, &total).unwrap();
    assert_eq!(view.pool_state.generations.pending_hardswap_age_secs, None);
    assert!(!view.pool_state.hardswap.pending);
}

#[test]
fn quality_copies_counters_families_and_the_gate() {
    let mut status = status();
    status.families[1].state = shards::me::FamilyState::Suppressed;
    status.families[1].suppressed_until = Some(Millis(60_000));
    status.families[1].fail_streak = 5;
    status.gate.block_reason = BlockReason::Redundancy;
    status.gate.route_quorum_ok = true;
    status.gate.updated_at = Millis(9_000);
    let mut total = total(Vec::new());
    total.me.reader_eof_total = 2;
    total.me.route_drop_queue_full_high_total = 3;
    let view = look(&status, &total).unwrap();
    let quality = &view.quality;
    assert_eq!(quality.counters.reader_eof_total, 2);
    assert_eq!(quality.route_drops.queue_full_high_total, 3);
    let [v4, v6] = quality.family_states.as_slice() else {
        panic!("{:?}", quality.family_states)
    };
    assert_eq!(
        (v4.family, v4.state, v4.suppressed_until_epoch_secs),
        ("v4", "healthy", None)
    );
    assert_eq!(
        (v6.family, v6.state, v6.fail_streak),
        ("v6", "suppressed", 5)
    );
    assert_eq!(v6.suppressed_until_epoch_secs, Some(STARTED + 60));
    let gate = &quality.drain_gate;
    assert_eq!(
        (gate.block_reason, gate.updated_at_epoch_secs),
        ("redundancy", STARTED + 9)
    );
    assert!(gate.route_quorum_ok && !gate.redundancy_ok);
}

#[test]
fn runtime_shows_keys_in_force_and_what_they_come_to() {
    let mut settings = MeSettings::default();
    settings.reinit.fresh_ratio_min = 0.812_345;
    settings.floor.adaptive = false;
    settings.drain.force_close = std::time::Duration::from_secs(300);
    let mut status = status();
    status.settings = Arc::new(settings);
    status.floor.cap_raw = 134;
    status.floor.active_cap = 128;
    status.taken_at = Millis(NOW.0 - 1_000);
    status.quarantine = [(1, 1_000), (2, 1_001)]
        .map(|(last, remaining_ms)| QuarantineStatus {
            endpoint: endpoint(last),
            remaining_ms,
        })
        .to_vec();
    let view = look(&status, &total(Vec::new())).unwrap();
    let shown = &view.minimal.runtime;
    assert_eq!(shown.floor_mode, "static");
    assert!((shown.me_pool_min_fresh_ratio - 0.812).abs() < f32::EPSILON);
    assert_eq!(
        (shown.me_pool_force_close_secs, shown.me_pool_drain_ttl_secs),
        (300, 90)
    );
    assert_eq!(
        (
            shown.adaptive_floor_global_cap_raw,
            shown.adaptive_floor_global_cap_effective
        ),
        (134, 128)
    );
    assert_eq!(shown.adaptive_floor_active_cap_effective, 128);
    assert_eq!(
        (
            shown.me_keepalive_interval_secs,
            shown.me_keepalive_jitter_secs
        ),
        (8, 2)
    );
    assert_eq!(
        (shown.me_writer_pick_mode, shown.me_writer_pick_sample_size),
        ("p2c", 3)
    );
    assert_eq!(
        (shown.me_bind_stale_mode, shown.me_socks_kdf_policy),
        ("never", "strict")
    );
    assert_eq!(shown.me_single_endpoint_outage_backoff_max_ms, 3_000);
    assert_eq!(shown.me_reconnect_fast_retry_count, 16);
    // The first has run out since the supervisor spoke.
    assert_eq!(shown.quarantined_endpoints_total, 1);
    let left = &shown.quarantined_endpoints[0];
    assert_eq!(
        (left.endpoint.as_str(), left.remaining_ms),
        ("192.0.2.2:8888", 1)
    );
}

#[test]
fn selftest_tells_ages_and_kinds_of_addresses() {
    let mut status = status();
    status.selftest.kdf_errors_per_min = 0.5;
    status.selftest.kdf_errors_total = 4;
    status.selftest.max_skew_secs_15m = None;
    status.selftest.last_skew = Some(SkewStatus {
        secs: 90,
        source: "proxy_secret_date_header",
        at: Millis(NOW.0 - 5_000),
    });
    status.selftest.bound = Some(BoundStatus {
        addr_state: "ok",
        port_state: "zero",
        addr: Some(endpoint(1)),
        at: Millis(NOW.0 - 7_000),
    });
    let view = look(&status, &total(Vec::new())).unwrap();
    let test = &view.selftest;
    assert_eq!((test.kdf.state, test.kdf.errors_total), ("error", 4));
    // Old samples are shown, but do not count.
    assert_eq!(
        (test.timeskew.state, test.timeskew.max_skew_secs_15m),
        ("ok", None)
    );
    assert_eq!(
        (
            test.timeskew.last_skew_secs,
            test.timeskew.last_seen_age_secs
        ),
        (Some(90), Some(5))
    );
    assert_eq!(test.bnd.last_addr.as_deref(), Some("192.0.2.1:8888"));
    assert_eq!(
        (test.bnd.port_state, test.bnd.last_seen_age_secs),
        ("zero", Some(7))
    );
    assert_eq!(test.ip.v4.as_ref().map(|row| row.state), Some("loopback"));
    assert_eq!(test.ip.v6, None);
    let moment = Moment {
        status: &status,
        total: &total(Vec::new()),
        now: NOW,
    };
    let ips = ["10.0.0.1", "2a00::1"].map(|ip| ip.parse().ok());
    let ip = quality::selftest(&moment, ips).ip;
    let states = [ip.v4, ip.v6].map(|row| row.unwrap().state);
    assert_eq!(states, ["bogon", "good"]);
}

#[test]
fn transport_follows_the_supervisors_route() {
    let up = transport(&status());
    assert!(up.use_middle_proxy && up.admission_open && up.me_pool_ready);
    assert_eq!((up.route, up.reroute), (RouteMode::Middle, None));

    let mut bypassed = status();
    bypassed.route.ready = false;
    bypassed.route.middle = false;
    bypassed.route.reason = Some(RerouteReason::StrictGrace);
    bypassed.route.direct_at = Some(Millis(86_000));
    let shown = transport(&bypassed);
    assert_eq!(
        (shown.route, shown.admission_open),
        (RouteMode::Direct, true)
    );
    let reroute = shown.reroute.unwrap();
    assert_eq!(reroute.since_epoch_secs, STARTED + 86);

    let mut closed = status();
    closed.route.ready = false;
    closed.route.accepting = false;
    let shown = transport(&closed);
    assert_eq!(
        (shown.route, shown.admission_open),
        (RouteMode::Middle, false)
    );
}

#[test]
fn start_is_held_only_where_nothing_may_bypass_the_pool() {
    let shown = startup(&status());
    assert_eq!(
        (shown.status, shown.holds_start),
        (StartupStatus::Ready, false)
    );
    assert_eq!(shown.ready_at_epoch_secs, Some(STARTED + 2));
    assert_eq!(shown.steps.len(), 6);
    let step = &shown.steps[0];
    assert_eq!(
        (step.id, step.status),
        ("me_secret_fetch", StepStatus::Ready)
    );
    assert_eq!(step.started_at_epoch_ms, Some(STARTED * 1_000 + 1_301));

    let mut strict = status();
    let mut settings = MeSettings::default();
    settings.admission.fallback = false;
    strict.settings = Arc::new(settings);
    assert!(startup(&strict).holds_start);
}
