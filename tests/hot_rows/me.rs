//! Keys of the Middle-End that apply at once. Those that the pool's own view shows, as it is in
//! force there, are proven by it; ad tags by what a middle proxy sees; the telemetry level by a
//! counter that stands still. The rest goes to the shards in the same value, and that every key has
//! its place in it is proven beside the code (`wiring/me.rs`, `me/tests.rs`): for these the log's
//! word is asked for here.

use serde_json::Value;
use shards::proto::middle::proxy_req::AdTag;

use super::{
    alice, connect, reload,
    support::{Proxy, me::Middle, until},
};

/// Keys without `general.` that the view shows under their own name, with another value.
const SHOWN: &[(&str, &str)] = &[
    ("me_socks_kdf_policy", "\"compat\""),
    ("me_deterministic_writer_sort", "false"),
    ("me_writer_pick_mode", "\"sorted_rr\""),
    ("me_writer_pick_sample_size", "4"),
    ("me_single_endpoint_shadow_writers", "3"),
    ("me_single_endpoint_outage_mode_enabled", "false"),
    ("me_single_endpoint_outage_disable_quarantine", "false"),
    ("me_single_endpoint_outage_backoff_min_ms", "240"),
    ("me_single_endpoint_outage_backoff_max_ms", "2900"),
    ("me_single_endpoint_shadow_rotate_every_secs", "901"),
    ("me_pool_drain_ttl_secs", "80"),
    ("me_bind_stale_mode", "\"ttl\""),
    ("me_bind_stale_ttl_secs", "91"),
    ("me_pool_min_fresh_ratio", "0.5"),
];

/// Those it shows under another name.
const SHOWN_AS: &[(&str, &str, &str)] = &[
    ("me_floor_mode", "\"static\"", "floor_mode"),
    (
        "me_adaptive_floor_idle_secs",
        "91",
        "adaptive_floor_idle_secs",
    ),
    (
        "me_adaptive_floor_min_writers_single_endpoint",
        "2",
        "adaptive_floor_min_writers_single_endpoint",
    ),
    (
        "me_adaptive_floor_min_writers_multi_endpoint",
        "2",
        "adaptive_floor_min_writers_multi_endpoint",
    ),
    (
        "me_adaptive_floor_recover_grace_secs",
        "181",
        "adaptive_floor_recover_grace_secs",
    ),
    (
        "me_adaptive_floor_writers_per_core_total",
        "49",
        "adaptive_floor_writers_per_core_total",
    ),
    (
        "me_adaptive_floor_cpu_cores_override",
        "3",
        "adaptive_floor_cpu_cores_effective",
    ),
    (
        "me_adaptive_floor_max_extra_writers_single_per_core",
        "2",
        "adaptive_floor_max_extra_writers_single_per_core",
    ),
    (
        "me_adaptive_floor_max_extra_writers_multi_per_core",
        "3",
        "adaptive_floor_max_extra_writers_multi_per_core",
    ),
    (
        "me_adaptive_floor_max_active_writers_per_core",
        "65",
        "adaptive_floor_max_active_writers_per_core",
    ),
    (
        "me_adaptive_floor_max_warm_writers_per_core",
        "65",
        "adaptive_floor_max_warm_writers_per_core",
    ),
    (
        "me_adaptive_floor_max_active_writers_global",
        "255",
        "adaptive_floor_max_active_writers_global",
    ),
    (
        "me_adaptive_floor_max_warm_writers_global",
        "255",
        "adaptive_floor_max_warm_writers_global",
    ),
    ("hardswap", "false", "hardswap_enabled"),
    (
        "me_reinit_drain_timeout_secs",
        "95",
        "me_pool_force_close_secs",
    ),
];

/// Those `/v1/limits/effective` shows. The first two are older names of the third, and the smaller
/// one counts.
const LIMITS: &[(&str, &str, &str)] = &[
    ("proxy_secret_auto_reload_secs", "303", "update_every_secs"),
    ("proxy_config_auto_reload_secs", "302", "update_every_secs"),
    ("update_every", "301", "update_every_secs"),
    ("me_reinit_every_secs", "901", "me_reinit_every_secs"),
];

/// The rest.
const HANDED: &[(&str, &str)] = &[
    ("me_config_stable_snapshots", "3"),
    ("me_config_apply_cooldown_secs", "10"),
    ("me_snapshot_require_http_2xx", "false"),
    ("me_snapshot_reject_empty_map", "false"),
    ("me_snapshot_min_proxy_for_lines", "2"),
    ("proxy_secret_stable_snapshots", "3"),
    ("proxy_secret_rotate_runtime", "false"),
    ("proxy_secret_len_max", "300"),
    ("me_health_interval_ms_unhealthy", "1001"),
    ("me_health_interval_ms_healthy", "3001"),
    ("me_admission_poll_ms", "1001"),
    ("me_warn_rate_limit_ms", "5001"),
    ("me_hardswap_warmup_delay_min_ms", "999"),
    ("me_hardswap_warmup_delay_max_ms", "2001"),
    ("me_hardswap_warmup_extra_passes", "4"),
    ("me_hardswap_warmup_pass_backoff_base_ms", "501"),
    ("me_instadrain", "true"),
    ("me_pool_drain_threshold", "33"),
    ("me_reinit_coalesce_window_ms", "201"),
    ("me_reader_route_data_wait_ms", "3"),
    ("me_d2c_flush_batch_max_frames", "33"),
    ("me_d2c_flush_batch_max_bytes", "131073"),
    ("me_d2c_flush_batch_max_delay_us", "501"),
    ("me_d2c_ack_flush_immediate", "false"),
    ("me_quota_soft_overshoot_bytes", "65537"),
    ("me_d2c_frame_buf_shrink_threshold_bytes", "262145"),
    ("me_route_backpressure_enabled", "true"),
    ("me_route_backpressure_base_timeout_ms", "26"),
    ("me_route_backpressure_high_timeout_ms", "121"),
    ("me_route_backpressure_high_watermark_pct", "81"),
    ("desync_all_full", "true"),
];

proofs! {
    ad_tags: "general.ad_tag",
    ad_tags_of_users: "access.user_ad_tags",
    counters: "general.telemetry.me_level",
}

/// Full names of all of them.
pub(crate) fn proven() -> impl Iterator<Item = String> {
    let pairs = SHOWN.iter().chain(HANDED).map(|(key, _)| key);
    let triples = SHOWN_AS.iter().chain(LIMITS).map(|(key, ..)| key);
    let general = pairs.chain(triples).map(|key| format!("general.{key}"));
    general.chain(PROVEN.iter().map(|&key| key.to_owned()))
}

#[tokio::test]
async fn every_other_key_is_handed_on() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.config().start();
    let at = |path: &str, pointer: &str| proxy.get(path).pointer(pointer).cloned();
    let runtime = |name: &str| at("/v1/stats/minimal/all", &format!("/data/me_runtime/{name}"));
    until("there is a pool", || runtime("floor_mode")).await;
    let mut config = proxy.config();
    let mut change = |key: &str, value: &str| {
        let name = format!("general.{key}");
        config = config.clone().set(&name, value);
        let line = proxy.reload(&config);
        assert!(line.contains("applied") && line.contains(&name), "{line}");
    };
    let shown = SHOWN.iter().map(|&(key, value)| (key, value, key));
    for (key, value, name) in shown.chain(SHOWN_AS.iter().copied()) {
        let wanted: Value = serde_json::from_str(value).unwrap();
        assert_ne!(runtime(name), Some(wanted.clone()), "{key} beforehand");
        change(key, value);
        until(key, || (runtime(name)? == wanted).then_some(())).await;
    }
    for (key, value, name) in LIMITS {
        let wanted: Value = serde_json::from_str(value).unwrap();
        change(key, value);
        let shown = at("/v1/limits/effective", &format!("/{name}"));
        assert_eq!(shown, Some(wanted), "{key}");
    }
    for (key, value) in HANDED {
        change(key, value);
    }
}

const ONE: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn tag(text: &str) -> AdTag {
    AdTag(hex::decode(text).unwrap().try_into().unwrap())
}

/// The tag of a session that begins now.
async fn tag_seen(middle: &Middle, proxy: &Proxy) -> Option<AdTag> {
    middle.me.forget_seen();
    let mut client = connect(&alice(proxy)).await;
    client.ping().await.unwrap();
    middle
        .me
        .seen()
        .first()
        .expect("a session through a middle proxy")
        .ad_tag
}

mod proofs {
    use super::*;
    use bench::fake_dc::FakeDc;

    pub(super) async fn ad_tags(_: &FakeDc) {
        let middle = Middle::five_dcs(1);
        let proxy = middle.start(middle.config()).await;
        assert_eq!(tag_seen(&middle, &proxy).await, None);
        let key = "general.ad_tag";
        reload(&proxy, key, &proxy.config().set(key, format!("\"{ONE}\"")));
        assert_eq!(tag_seen(&middle, &proxy).await, Some(tag(ONE)));
        reload(&proxy, key, &proxy.config());
        assert_eq!(tag_seen(&middle, &proxy).await, None);
    }

    pub(super) async fn ad_tags_of_users(_: &FakeDc) {
        let middle = Middle::five_dcs(1);
        let proxy = middle.start(middle.config()).await;
        let all = proxy.config().set("general.ad_tag", format!("\"{ONE}\""));
        reload(&proxy, "general.ad_tag", &all);
        let own = all.set("access.user_ad_tags.alice", format!("\"{OTHER}\""));
        reload(&proxy, "access.user_ad_tags", &own);
        assert_eq!(tag_seen(&middle, &proxy).await, Some(tag(OTHER)));
    }

    pub(super) async fn counters(_: &FakeDc) {
        let middle = Middle::five_dcs(1);
        let proxy = middle.start(middle.config()).await;
        let frames = || proxy.zero("middle_proxy/d2c_data_frames_total");
        connect(&alice(&proxy)).await;
        until("frames are counted", || (frames() > 0).then_some(())).await;
        let key = "general.telemetry.me_level";
        reload(&proxy, key, &proxy.config().set(key, "\"silent\""));
        let before = frames();
        connect(&alice(&proxy)).await;
        assert_eq!(frames(), before);
        reload(&proxy, key, &proxy.config());
        connect(&alice(&proxy)).await;
        until("frames are counted again", || {
            (frames() > before).then_some(())
        })
        .await;
    }
}
