//! Settings in force and what they come to. Source: middle-proxy.md 26.8.

use std::time::Duration;

use admin::{MinimalMeRuntimeData, MinimalQuarantineData};
use shards::{
    me::WriterState,
    proto::middle::address::BoundPolicy,
    settings::{
        DialSettings, DrainSettings, FloorSettings, KeepaliveSettings, PickMode, PickSettings,
        SingleEndpointSettings, StaleBind,
    },
};

use super::Moment;

/// One group of fields after the other, in the contract's order.
pub(super) fn runtime(moment: &Moment<'_>) -> MinimalMeRuntimeData {
    let settings = &moment.status.settings;
    let mut shown = MinimalMeRuntimeData::default();
    generations(&mut shown, moment);
    floor_keys(&mut shown, &settings.floor);
    floor_state(&mut shown, moment);
    keepalive(&mut shown, &settings.keepalive);
    dials(&mut shown, &settings.dial);
    drain(&mut shown, &settings.drain);
    shown.me_pool_min_fresh_ratio = ratio(settings.reinit.fresh_ratio_min);
    single(&mut shown, &settings.single);
    pick(&mut shown, &settings.pick);
    shown.me_socks_kdf_policy = match settings.families.bound_policy {
        BoundPolicy::Strict => "strict",
        BoundPolicy::Compat => "compat",
    };
    quarantine(&mut shown, moment);
    shown
}

fn generations(shown: &mut MinimalMeRuntimeData, moment: &Moment<'_>) {
    let generations = &moment.status.generations;
    shown.active_generation = generations.active;
    shown.warm_generation = generations.warm;
    shown.pending_hardswap_generation = generations.pending;
    shown.pending_hardswap_age_secs = pending_age_secs(moment);
    shown.hardswap_enabled = moment.status.settings.reinit.hardswap;
}

/// `None` when no generation waits for its gate.
pub(super) fn pending_age_secs(moment: &Moment<'_>) -> Option<u64> {
    let generations = &moment.status.generations;
    let since = generations
        .pending_since
        .filter(|_| generations.pending != 0)?;
    Some(moment.now.since(since) / 1_000)
}

fn floor_keys(shown: &mut MinimalMeRuntimeData, floor: &FloorSettings) {
    shown.floor_mode = if floor.adaptive { "adaptive" } else { "static" };
    shown.adaptive_floor_idle_secs = floor.idle.as_secs();
    shown.adaptive_floor_min_writers_single_endpoint = byte(floor.min_single);
    shown.adaptive_floor_min_writers_multi_endpoint = byte(floor.min_multi);
    shown.adaptive_floor_recover_grace_secs = floor.recover_grace.as_secs();
    shown.adaptive_floor_writers_per_core_total = short(floor.writers_per_core);
    shown.adaptive_floor_cpu_cores_override = short(floor.cores_override);
    shown.adaptive_floor_max_extra_writers_single_per_core = short(floor.extra_single_per_core);
    shown.adaptive_floor_max_extra_writers_multi_per_core = short(floor.extra_multi_per_core);
    shown.adaptive_floor_max_active_writers_per_core = short(floor.active_per_core_max);
    shown.adaptive_floor_max_warm_writers_per_core = short(floor.warm_per_core_max);
    shown.adaptive_floor_max_active_writers_global = floor.active_max;
    shown.adaptive_floor_max_warm_writers_global = floor.warm_max;
}

fn floor_state(shown: &mut MinimalMeRuntimeData, moment: &Moment<'_>) {
    let floor = &moment.status.floor;
    shown.adaptive_floor_cpu_cores_detected = floor.cores_detected;
    shown.adaptive_floor_cpu_cores_effective = floor.cores;
    shown.adaptive_floor_global_cap_raw = floor.cap_raw.into();
    shown.adaptive_floor_global_cap_effective = floor.active_cap.into();
    shown.adaptive_floor_target_writers_total = floor.targets_total.into();
    shown.adaptive_floor_active_cap_configured = floor.active_cap_configured.into();
    shown.adaptive_floor_active_cap_effective = floor.active_cap.into();
    shown.adaptive_floor_warm_cap_configured = floor.warm_cap.into();
    shown.adaptive_floor_warm_cap_effective = floor.warm_cap.into();
    let in_state = |state| {
        let rows = moment.total.writers.iter();
        let count = rows.filter(|row| row.state == state).count();
        u64::try_from(count).unwrap_or(u64::MAX)
    };
    shown.adaptive_floor_active_writers_current = in_state(WriterState::Active);
    shown.adaptive_floor_warm_writers_current = in_state(WriterState::Warm);
}

fn keepalive(shown: &mut MinimalMeRuntimeData, keepalive: &KeepaliveSettings) {
    shown.me_keepalive_enabled = keepalive.enabled;
    shown.me_keepalive_interval_secs = keepalive.interval.as_secs();
    shown.me_keepalive_jitter_secs = keepalive.jitter.as_secs();
    shown.me_keepalive_payload_random = keepalive.random_payload;
    shown.rpc_proxy_req_every_secs = keepalive.signal_every.as_secs();
}

fn dials(shown: &mut MinimalMeRuntimeData, dial: &DialSettings) {
    shown.me_reconnect_max_concurrent_per_dc = dial.concurrent_per_dc;
    shown.me_reconnect_backoff_base_ms = millis(dial.backoff_base);
    shown.me_reconnect_backoff_cap_ms = millis(dial.backoff_cap);
    shown.me_reconnect_fast_retry_count = dial.fast_retries;
}

fn drain(shown: &mut MinimalMeRuntimeData, drain: &DrainSettings) {
    shown.me_pool_drain_ttl_secs = drain.ttl.as_secs();
    shown.me_pool_force_close_secs = drain.force_close.as_secs();
    shown.me_bind_stale_mode = match drain.stale_bind {
        StaleBind::Never => "never",
        StaleBind::Ttl => "ttl",
        StaleBind::Always => "always",
    };
    shown.me_bind_stale_ttl_secs = drain.stale_bind_ttl.as_secs();
}

fn single(shown: &mut MinimalMeRuntimeData, single: &SingleEndpointSettings) {
    shown.me_single_endpoint_shadow_writers = byte(single.shadow_writers);
    shown.me_single_endpoint_outage_mode_enabled = single.outage_mode;
    shown.me_single_endpoint_outage_disable_quarantine = single.outage_ignores_quarantine;
    shown.me_single_endpoint_outage_backoff_min_ms = millis(single.outage_backoff_min);
    shown.me_single_endpoint_outage_backoff_max_ms = millis(single.outage_backoff_max);
    shown.me_single_endpoint_shadow_rotate_every_secs = single.rotate_every.as_secs();
}

fn pick(shown: &mut MinimalMeRuntimeData, pick: &PickSettings) {
    shown.me_deterministic_writer_sort = pick.deterministic;
    shown.me_writer_pick_mode = match pick.mode {
        PickMode::SortedRoundRobin => "sorted_rr",
        PickMode::PowerOfChoices => "p2c",
    };
    shown.me_writer_pick_sample_size = u8::try_from(pick.sample).unwrap_or(u8::MAX);
}

/// Live ones only: those that have run out since the supervisor spoke are left out.
fn quarantine(shown: &mut MinimalMeRuntimeData, moment: &Moment<'_>) {
    let elapsed_ms = moment.now.since(moment.status.taken_at);
    let rows = moment.status.quarantine.iter();
    shown.quarantined_endpoints = rows
        .map(|row| MinimalQuarantineData {
            endpoint: row.endpoint.to_string(),
            remaining_ms: row.remaining_ms.saturating_sub(elapsed_ms),
        })
        .filter(|row| row.remaining_ms > 0)
        .collect();
    shown.quarantined_endpoints_total = shown.quarantined_endpoints.len();
}

/// Three decimals.
#[expect(clippy::cast_possible_truncation, reason = "a ratio of 0 to 1")]
fn ratio(value: f64) -> f32 {
    ((value * 1_000.0).round() / 1_000.0) as f32
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn byte(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn short(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
