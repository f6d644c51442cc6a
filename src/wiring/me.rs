//! The Middle-End's keys to settings: those of the pool and the relay, which supervisor and shards
//! get, and those of the sources, which stay with `me`: downloads, caches, public address.
//!
//! Not here: what a key may be (`config/`), what it does (`shards`, `me`). Called by `wiring`,
//! `serve` and `live`. Source: middle-proxy.md 10.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shards::{
    proto::middle::{address::BoundPolicy, client_frames::MESSAGE_BYTES_MAX},
    settings::{
        AdmissionSettings, DialSettings, DownlinkSettings, DrainSettings, FamilySettings,
        FloorSettings, HealthSettings, KeepaliveSettings, MeCounts, MeSettings, MeSetup,
        NoWriterMode, PickMode, PickSettings, RefreshSettings, ReinitSettings,
        SingleEndpointSettings, StaleBind, UplinkSettings,
    },
};

use crate::{
    config::{
        Config,
        general::MeLevel,
        kinds::Family,
        me_pool::{BindStaleMode, FloorMode, KdfPolicy, WriterPickMode},
        me_route::NoWriterMode as NoWriter,
    },
    me::sources::{NatSources, Remote, Sources},
};

/// What pool and relay go by.
pub(crate) fn settings(config: &Config) -> MeSettings {
    MeSettings {
        families: families(config),
        admission: AdmissionSettings {
            fallback: config.general.me2dc_fallback,
            fast: config.general.me2dc_fast,
            poll: millis(config.me_pool.me_admission_poll_ms),
            init_attempts: config.me_pool.me_init_retry_attempts,
        },
        floor: floor(config),
        single: single(config),
        dial: dial(config),
        health: HealthSettings {
            unhealthy: millis(config.me_pool.me_health_interval_ms_unhealthy),
            healthy: millis(config.me_pool.me_health_interval_ms_healthy),
            warn_every: millis(config.me_pool.me_warn_rate_limit_ms),
        },
        reinit: reinit(config),
        drain: drain(config),
        keepalive: KeepaliveSettings {
            enabled: config.me_pool.me_keepalive_enabled,
            interval: secs(config.me_pool.me_keepalive_interval_secs),
            jitter: secs(config.me_pool.me_keepalive_jitter_secs),
            random_payload: config.me_pool.me_keepalive_payload_random,
            signal_every: secs(config.me_pool.rpc_proxy_req_every),
        },
        pick: pick(config),
        uplink: uplink(config),
        downlink: downlink(config),
        refresh: refresh(config),
        counts: match config.telemetry.me_level {
            MeLevel::Silent => MeCounts::Off,
            MeLevel::Normal | MeLevel::Debug => MeCounts::On,
        },
    }
}

fn families(config: &Config) -> FamilySettings {
    let network = &config.network;
    FamilySettings {
        ipv4: network.ipv4,
        ipv6: network.ipv6 == Some(true),
        prefer_ipv6: network.prefer == Family::V6,
        multipath: network.multipath,
        nat_ip: config.me_source.middle_proxy_nat_ip,
        bound_policy: match config.me_pool.me_socks_kdf_policy {
            KdfPolicy::Strict => BoundPolicy::Strict,
            KdfPolicy::Compat => BoundPolicy::Compat,
        },
    }
}

fn floor(config: &Config) -> FloorSettings {
    let floor = &config.me_floor;
    FloorSettings {
        adaptive: floor.me_floor_mode == FloorMode::Adaptive,
        idle: secs(floor.me_adaptive_floor_idle_secs),
        recover_grace: secs(floor.me_adaptive_floor_recover_grace_secs),
        min_single: floor.me_adaptive_floor_min_writers_single_endpoint.into(),
        min_multi: floor.me_adaptive_floor_min_writers_multi_endpoint.into(),
        extra_single_per_core: floor
            .me_adaptive_floor_max_extra_writers_single_per_core
            .into(),
        extra_multi_per_core: floor
            .me_adaptive_floor_max_extra_writers_multi_per_core
            .into(),
        writers_per_core: floor.me_adaptive_floor_writers_per_core_total.into(),
        cores_override: floor.me_adaptive_floor_cpu_cores_override.into(),
        active_per_core_max: floor.me_adaptive_floor_max_active_writers_per_core.into(),
        warm_per_core_max: floor.me_adaptive_floor_max_warm_writers_per_core.into(),
        active_max: floor.me_adaptive_floor_max_active_writers_global,
        warm_max: floor.me_adaptive_floor_max_warm_writers_global,
    }
}

fn single(config: &Config) -> SingleEndpointSettings {
    let floor = &config.me_floor;
    SingleEndpointSettings {
        shadow_writers: floor.me_single_endpoint_shadow_writers.into(),
        outage_mode: floor.me_single_endpoint_outage_mode_enabled,
        outage_ignores_quarantine: floor.me_single_endpoint_outage_disable_quarantine,
        outage_backoff_min: millis(floor.me_single_endpoint_outage_backoff_min_ms),
        outage_backoff_max: millis(floor.me_single_endpoint_outage_backoff_max_ms),
        rotate_every: secs(floor.me_single_endpoint_shadow_rotate_every_secs),
    }
}

fn dial(config: &Config) -> DialSettings {
    let pool = &config.me_pool;
    DialSettings {
        single_retries: config.timeouts.me_one_retry.into(),
        fast_timeout: millis(config.timeouts.me_one_timeout_ms),
        concurrent_per_dc: pool.me_reconnect_max_concurrent_per_dc.max(1),
        backoff_base: millis(pool.me_reconnect_backoff_base_ms),
        backoff_cap: millis(pool.me_reconnect_backoff_cap_ms),
        fast_retries: pool.me_reconnect_fast_retry_count.max(1),
        stagger: pool.me_warmup_stagger_enabled,
        stagger_step: millis(pool.me_warmup_step_delay_ms),
        stagger_jitter: millis(pool.me_warmup_step_jitter_ms),
    }
}

fn reinit(config: &Config) -> ReinitSettings {
    let reinit = &config.me_reinit;
    ReinitSettings {
        hardswap: reinit.hardswap,
        every: secs(reinit.me_reinit_every_secs),
        coalesce: millis(reinit.me_reinit_coalesce_window_ms),
        triggers_max: reinit.me_reinit_trigger_channel,
        warm_delay_min: millis(reinit.me_hardswap_warmup_delay_min_ms),
        warm_delay_max: millis(reinit.me_hardswap_warmup_delay_max_ms),
        warm_extra_passes: reinit.me_hardswap_warmup_extra_passes.into(),
        warm_pass_backoff: millis(reinit.me_hardswap_warmup_pass_backoff_base_ms),
        fresh_ratio_min: reinit.me_pool_min_fresh_ratio.into(),
    }
}

fn drain(config: &Config) -> DrainSettings {
    let reinit = &config.me_reinit;
    DrainSettings {
        ttl: secs(reinit.me_pool_drain_ttl_secs),
        force_close: secs(force_close_secs(config)),
        instant: reinit.me_instadrain,
        threshold: u32::try_from(reinit.me_pool_drain_threshold).unwrap_or(u32::MAX),
        soft_evict: reinit.me_pool_drain_soft_evict_enabled,
        soft_evict_grace: secs(reinit.me_pool_drain_soft_evict_grace_secs),
        soft_evict_per_writer: reinit.me_pool_drain_soft_evict_per_writer.into(),
        soft_evict_budget_per_core: reinit.me_pool_drain_soft_evict_budget_per_core.into(),
        soft_evict_cooldown: millis(reinit.me_pool_drain_soft_evict_cooldown_ms),
        stale_bind: match reinit.me_bind_stale_mode {
            BindStaleMode::Never => StaleBind::Never,
            BindStaleMode::Ttl => StaleBind::Ttl,
            BindStaleMode::Always => StaleBind::Always,
        },
        stale_bind_ttl: secs(reinit.me_bind_stale_ttl_secs),
    }
}

/// When a draining writer is closed in any case, seconds; never 0.
pub(crate) fn force_close_secs(config: &Config) -> u64 {
    let reinit = &config.me_reinit;
    let own = match reinit.me_reinit_drain_timeout_secs {
        0 => FORCE_CLOSE_SECS,
        own => own,
    };
    own.max(reinit.me_pool_drain_ttl_secs)
}

fn pick(config: &Config) -> PickSettings {
    let (pool, route) = (&config.me_pool, &config.me_route);
    PickSettings {
        deterministic: pool.me_deterministic_writer_sort,
        mode: match pool.me_writer_pick_mode {
            WriterPickMode::SortedRr => PickMode::SortedRoundRobin,
            WriterPickMode::P2c => PickMode::PowerOfChoices,
        },
        sample: pool.me_writer_pick_sample_size.into(),
        no_writer: match route.me_route_no_writer_mode {
            NoWriter::HybridAsyncPersistent => NoWriterMode::Hybrid,
            NoWriter::AsyncRecoveryFailfast => NoWriterMode::FailFast,
            NoWriter::InlineRecoveryLegacy => NoWriterMode::Inline,
        },
        no_writer_wait: millis(route.me_route_no_writer_wait_ms),
        hybrid_wait: millis(route.me_route_hybrid_max_wait_ms),
        inline_attempts: route.me_route_inline_recovery_attempts,
        inline_wait: millis(route.me_route_inline_recovery_wait_ms),
        full_wait: millis(route.me_route_blocking_send_timeout_ms),
    }
}

fn uplink(config: &Config) -> UplinkSettings {
    let (route, timeouts) = (&config.me_route, &config.timeouts);
    let frame = u32::try_from(route.max_client_frame).unwrap_or(u32::MAX);
    // Without the policy nobody is marked or closed for being silent.
    let idle = |limit| match timeouts.relay_idle_policy_v2_enabled {
        true => secs(limit),
        false => NEVER,
    };
    UplinkSettings {
        writer_frames_max: route.me_writer_cmd_channel_capacity,
        writer_bytes_max: route.me_writer_byte_budget_bytes,
        session_messages_max: route.me_c2me_channel_capacity,
        stopped_max: match route.me_c2me_send_timeout_ms {
            0 => STOPPED_MAX,
            own => millis(own),
        },
        message_bytes_max: frame.min(MESSAGE_BYTES_MAX),
        idle_soft: idle(timeouts.relay_client_idle_soft_secs),
        idle_hard: idle(timeouts.relay_client_idle_hard_secs),
        idle_grace: secs(timeouts.relay_idle_grace_after_downstream_activity_secs),
        desync_all_full: config.general.desync_all_full,
    }
}

fn downlink(config: &Config) -> DownlinkSettings {
    let route = &config.me_route;
    DownlinkSettings {
        session_frames_max: route.me_route_channel_capacity,
        wait: millis(route.me_reader_route_data_wait_ms),
        backpressure: route.me_route_backpressure_enabled,
        wait_base: millis(route.me_route_backpressure_base_timeout_ms),
        wait_high: millis(route.me_route_backpressure_high_timeout_ms),
        high_watermark_pct: route.me_route_backpressure_high_watermark_pct,
        batch_frames_max: route.me_d2c_flush_batch_max_frames,
        batch_bytes_max: route.me_d2c_flush_batch_max_bytes,
        batch_delay: Duration::from_micros(route.me_d2c_flush_batch_max_delay_us),
        ack_immediate: route.me_d2c_ack_flush_immediate,
        shrink_bytes: route.me_d2c_frame_buf_shrink_threshold_bytes,
        quota_overshoot_bytes: route.me_quota_soft_overshoot_bytes,
    }
}

fn refresh(config: &Config) -> RefreshSettings {
    let source = &config.me_source;
    RefreshSettings {
        every: secs(update_every_secs(config)),
        config_stable: source.me_config_stable_snapshots.into(),
        config_cooldown: secs(source.me_config_apply_cooldown_secs),
        require_2xx: source.me_snapshot_require_http_2xx,
        reject_empty: source.me_snapshot_reject_empty_map,
        lines_min: source.me_snapshot_min_proxy_for_lines,
        secret_stable: source.proxy_secret_stable_snapshots.into(),
        rotate_secret: source.proxy_secret_rotate_runtime,
    }
}

/// Pause between downloads, seconds.
pub(crate) fn update_every_secs(config: &Config) -> u64 {
    config.me_source.update_every.unwrap_or(UPDATE_EVERY_SECS)
}

/// Where secret, maps and our address come from. Relative paths resolve against `data_path`.
pub(crate) fn sources(config: &Config, data_path: &Path) -> Sources {
    let source = &config.me_source;
    let url = |own: &Option<String>, usual: &str| {
        let own = own.as_deref().map(str::trim).filter(|url| !url.is_empty());
        own.unwrap_or(usual).to_owned()
    };
    let path = |own: Option<&str>, usual: &str| {
        let own = own.filter(|path| !path.trim().is_empty());
        data_path.join(own.unwrap_or(usual))
    };
    let cache = |own: &Option<crate::config::kinds::Filled>, usual| -> PathBuf {
        path(own.as_ref().map(|own| own.0.as_str()), usual)
    };
    Sources {
        secret: Remote {
            url: url(&source.proxy_secret_url, SECRET_URL),
            cache: path(source.proxy_secret_path.as_deref(), "proxy-secret"),
        },
        config_v4: Remote {
            url: url(&source.proxy_config_v4_url, CONFIG_V4_URL),
            cache: cache(
                &source.proxy_config_v4_cache_path,
                "cache/proxy-config-v4.txt",
            ),
        },
        config_v6: Remote {
            url: url(&source.proxy_config_v6_url, CONFIG_V6_URL),
            cache: cache(
                &source.proxy_config_v6_cache_path,
                "cache/proxy-config-v6.txt",
            ),
        },
        secret_bytes_max: source.proxy_secret_len_max,
        nat: nat(config),
    }
}

fn nat(config: &Config) -> NatSources {
    let (source, network) = (&config.me_source, &config.network);
    let mut servers = network.stun_servers.clone();
    servers.extend(source.middle_proxy_nat_stun.clone());
    servers.extend(source.middle_proxy_nat_stun_servers.iter().cloned());
    let fits = |ip: &IpAddr, ipv6: bool| ip.to_canonical().is_ipv6() == ipv6;
    let nat_ip = source.middle_proxy_nat_ip;
    NatSources {
        stun: source.middle_proxy_nat_probe && network.stun_use,
        http: source.middle_proxy_nat_probe,
        servers: trimmed(servers),
        concurrency: source.stun_nat_probe_concurrency.max(1),
        tcp_fallback: network.stun_tcp_fallback,
        http_urls: trimmed(network.http_ip_detect_urls.clone()),
        wanted: [
            network.ipv4 && !nat_ip.is_some_and(|ip| fits(&ip, false)),
            network.ipv6 == Some(true) && !nat_ip.is_some_and(|ip| fits(&ip, true)),
        ],
    }
}

/// Without empty ones and doubles; the order stays.
fn trimmed(texts: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(texts.len());
    for text in texts {
        let text = text.trim();
        if !text.is_empty() && !kept.iter().any(|known| known == text) {
            kept.push(text.to_owned());
        }
    }
    kept
}

/// For the data plane: settings, and what names this process to MEs; `None` without the
/// Middle-End.
pub(crate) fn setup(config: &Config) -> Option<MeSetup> {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    let unix_secs = since_epoch.unwrap_or_default().as_secs();
    config.general.use_middle_proxy.then(|| MeSetup {
        settings: Arc::new(settings(config)),
        pid: std::process::id(),
        start_unix_secs: u32::try_from(unix_secs).unwrap_or(u32::MAX),
    })
}

const fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn secs(secs: u64) -> Duration {
    // So many that nobody waits for them, and few enough to be added to a clock.
    Duration::from_secs(secs).min(NEVER)
}

/// A hundred years.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// `me_c2me_send_timeout_ms = 0` (middle-proxy.md 20).
const STOPPED_MAX: Duration = Duration::from_secs(60);
/// `me_reinit_drain_timeout_secs = 0` (middle-proxy.md 10).
const FORCE_CLOSE_SECS: u64 = 300;
/// `general.update_every` when only unset.
const UPDATE_EVERY_SECS: u64 = 300;
/// Source: middle-proxy.md 2.1 and 2.2.
const SECRET_URL: &str = "https://core.telegram.org/getProxySecret";
const CONFIG_V4_URL: &str = "https://core.telegram.org/getProxyConfig";
const CONFIG_V6_URL: &str = "https://core.telegram.org/getProxyConfigV6";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        keys::{Effect, Group as _, Row},
        me_pool::{MeFloor, MePool, MeReinit},
        me_route::MeRoute,
        me_source::MeSource,
        parse,
    };

    const USER: &str = "\n[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";

    type Both = (MeSettings, Sources);

    fn read(text: &str) -> Option<Both> {
        let loaded = parse(Path::new("config.toml"), format!("{text}{USER}")).ok()?;
        let config = &loaded.config;
        Some((settings(config), sources(config, Path::new("/data"))))
    }

    /// Values to try for a key, one of which is not its default and is allowed.
    fn values(row: &Row) -> Vec<String> {
        let default = (row.default)();
        let words = (row.choices)().iter().map(|word| format!("\"{word}\""));
        let mut values: Vec<String> = words.collect();
        if let Ok(number) = default.parse::<f64>() {
            let all = [number + 1.0, number - 1.0, number / 2.0, number * 2.0, 60.0];
            values.extend(all.map(|number| number.to_string()));
            values.push((number + 16_384.0).to_string());
        }
        let text = [
            "true",
            "false",
            "\"203.0.113.9\"",
            "[\"203.0.113.9:1\"]",
            "7",
        ];
        values.extend(text.map(str::to_owned));
        values.retain(|value| *value != default);
        values
    }

    fn is_read(table: &str, key: &str, values: &[String]) -> bool {
        let before = read("").unwrap();
        values.iter().any(|value| {
            let after = read(&format!("[{table}]\n{key} = {value}"));
            after.is_some_and(|after| after != before)
        })
    }

    #[test]
    fn every_key_in_effect_is_read() {
        let groups = [
            MeSource::ROWS,
            MePool::ROWS,
            MeFloor::ROWS,
            MeReinit::ROWS,
            MeRoute::ROWS,
        ];
        // Bounds of queues and buffers: `buffers.rs` reads them.
        let others = [
            "crypto_pending_buffer",
            "direct_relay_buffer_budget_max_bytes",
        ];
        let ours = |row: &&Row| !others.contains(&row.key);
        for row in groups.into_iter().flatten().filter(ours) {
            let read = is_read(row.table, row.key, &values(row));
            assert_eq!(read, row.effect == Effect::Now, "{}", row.name());
        }
        for (table, key, value) in [
            ("general", "me2dc_fallback", "false"),
            ("general", "me2dc_fast", "false"),
            ("general", "desync_all_full", "true"),
            ("general.telemetry", "me_level", "\"silent\""),
            ("network", "ipv4", "false\nipv6 = true"),
            ("network", "ipv6", "true"),
            ("network", "prefer", "6\nipv6 = true"),
            ("network", "multipath", "true"),
            ("network", "stun_use", "false"),
            ("network", "stun_servers", "[\"127.0.0.1:1\"]"),
            ("network", "stun_tcp_fallback", "false"),
            ("network", "http_ip_detect_urls", "[]"),
            ("timeouts", "relay_idle_policy_v2_enabled", "false"),
            ("timeouts", "relay_client_idle_soft_secs", "7"),
            ("timeouts", "relay_client_idle_hard_secs", "700"),
            (
                "timeouts",
                "relay_idle_grace_after_downstream_activity_secs",
                "7",
            ),
            ("timeouts", "me_one_retry", "7"),
            ("timeouts", "me_one_timeout_ms", "7"),
        ] {
            assert!(is_read(table, key, &[value.to_owned()]), "{table}.{key}");
        }
    }

    #[test]
    fn defaults_are_the_specifications() {
        let (settings, sources) = read("").unwrap();
        let defaults = MeSettings::default();
        assert_eq!(settings.floor, defaults.floor);
        assert_eq!(settings.reinit.every, defaults.reinit.every);
        let ratio = settings.reinit.fresh_ratio_min - defaults.reinit.fresh_ratio_min;
        assert!(ratio.abs() < 1e-6);
        let rest = MeSettings {
            reinit: defaults.reinit.clone(),
            ..settings
        };
        assert_eq!(rest, defaults);
        assert_eq!(sources.secret.url, SECRET_URL);
        assert_eq!(sources.secret.cache, Path::new("/data/proxy-secret"));
        let cache = Path::new("/data/cache/proxy-config-v6.txt");
        assert_eq!(sources.config_v6.cache, cache);
        assert_eq!(sources.nat.servers.len(), 13);
        assert_eq!(sources.nat.wanted, [true, false]);
    }

    #[test]
    fn zeros_mean_what_the_specification_says() {
        let text = "[general]\nme_reinit_drain_timeout_secs = 0\nme_c2me_send_timeout_ms = 0\n\
                    me_reconnect_max_concurrent_per_dc = 0\nme_reconnect_fast_retry_count = 0\n";
        let (settings, _) = read(text).unwrap();
        assert_eq!(settings.drain.force_close, secs(300));
        assert_eq!(settings.uplink.stopped_max, secs(60));
        let dial = &settings.dial;
        assert_eq!((dial.concurrent_per_dc, dial.fast_retries), (1, 1));
        let (settings, _) = read(&format!("{text}me_pool_drain_ttl_secs = 400\n")).unwrap();
        assert_eq!(settings.drain.force_close, secs(400));
        let (settings, _) = read("[general]\nmiddle_proxy_nat_ip = \"9.9.9.9\"").unwrap();
        assert_eq!(settings.families.nat_ip, "9.9.9.9".parse().ok());
    }

    #[test]
    fn paths_of_the_file_win_and_absolute_ones_stay() {
        let text = "[general]\nproxy_secret_path = \"\"\nproxy_config_v4_cache_path = \"/tmp/v4\"\n\
                    proxy_config_v6_cache_path = \"v6\"\nproxy_secret_url = \" http://x/ \"\n\
                    middle_proxy_nat_stun = \"a:1\"\nmiddle_proxy_nat_stun_servers = [\"a:1\"]\n\
                    middle_proxy_nat_ip = \"9.9.9.9\"\n[network]\nstun_servers = [\"b:2\", \"\"]\n";
        let (_, sources) = read(text).unwrap();
        assert_eq!(sources.secret.cache, Path::new("/data/proxy-secret"));
        assert_eq!(sources.config_v4.cache, Path::new("/tmp/v4"));
        assert_eq!(sources.config_v6.cache, Path::new("/data/v6"));
        assert_eq!(sources.secret.url, "http://x/");
        assert_eq!(sources.nat.servers, ["b:2", "a:1"]);
        assert_eq!(sources.nat.wanted, [false, false]);
    }
}
