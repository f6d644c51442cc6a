//! The configuration as the control API shows it: limits in force, switches, users of the file.
//!
//! Not here: what the API does with it (`admin`), how the file is read (`config/`).

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use admin::{
    ApiSettings, DcAddresses, EffectiveLimitsData, EffectiveMiddleProxyLimits,
    EffectiveTimeoutLimits, EffectiveUpstreamLimits, EffectiveUserIpPolicyLimits,
    EffectiveUserTcpPolicyLimits, MetricsSettings, RefusedPeer, RouteKind, Running, Telemetry,
    UpstreamInfo,
};

use shards::settings::RouteKind as Way;

use crate::{
    config::{Config, Loaded, api::GrayAction, general::LogLevel},
    wiring,
};

/// What the process runs with; the names are those of the shards' ids.
pub(crate) fn running(config: &Config, log_level: LogLevel, names: Vec<Arc<str>>) -> Running {
    Running {
        users: names.into(),
        upstreams: upstreams(config),
        dc_addresses: dc_addresses(config),
        limits: limits(config),
        telemetry: Telemetry {
            log_level: log_level.as_str(),
            core_enabled: config.telemetry.core_enabled,
            user_enabled: config.telemetry.user_enabled,
            me_level: config.telemetry.me_level.as_str(),
        },
        proxy_protocol_enabled: config.server.proxy_protocol,
        conntrack_enabled: config.conntrack.inline_conntrack_control,
    }
}

/// The ways out, in the order of the shards' rows; never with credentials.
fn upstreams(config: &Config) -> Vec<UpstreamInfo> {
    let routes = wiring::upstream::routes(config).into_iter();
    routes
        .map(|route| UpstreamInfo {
            kind: match &route.kind {
                Way::Direct => RouteKind::Direct,
                Way::Socks4 { .. } => RouteKind::Socks4,
                Way::Socks5 { .. } => RouteKind::Socks5,
                Way::Shadowsocks { .. } => RouteKind::Shadowsocks,
            },
            address: route.server().map(ToString::to_string).unwrap_or_default(),
            weight: route.weight,
            scopes: route.scopes.join(","),
        })
        .collect()
}

/// The addresses that sessions without the middle proxy are connected to first.
fn dc_addresses(config: &Config) -> Vec<DcAddresses> {
    let direct = wiring::upstream::upstream(config);
    let first = |on: bool, list: &[SocketAddr]| list.first().copied().filter(|_| on);
    let mut dcs: Vec<_> = direct
        .dcs
        .probe_targets()
        .into_iter()
        .map(|target| DcAddresses {
            dc: target.dc,
            v4: first(direct.ipv4, &target.v4),
            v6: first(direct.ipv6, &target.v6),
        })
        .collect();
    dcs.sort_by_key(|at| at.dc);
    dcs
}

/// `[server.api]`.
pub(crate) fn api_settings(loaded: &Loaded) -> ApiSettings {
    let api = &loaded.config.api;
    // The contract's answer unless the file names another one (control-api.md, C10).
    let refused = if loaded.sets("server.api.gray_action") {
        match api.gray_action {
            GrayAction::Api => RefusedPeer::Forbidden,
            GrayAction::Ok => RefusedPeer::Empty,
            GrayAction::Drop => RefusedPeer::Close,
        }
    } else {
        RefusedPeer::Forbidden
    };
    ApiSettings {
        enabled: api.enabled,
        listen: api.listen,
        whitelist: api.whitelist.clone(),
        auth_header: api.auth_header.clone(),
        request_body_limit_bytes: api.request_body_limit_bytes,
        minimal_runtime_enabled: api.minimal_runtime_enabled,
        minimal_runtime_cache_ttl_ms: api.minimal_runtime_cache_ttl_ms,
        runtime_edge_enabled: api.runtime_edge_enabled,
        runtime_edge_cache_ttl_ms: api.runtime_edge_cache_ttl_ms,
        runtime_edge_top_n: api.runtime_edge_top_n,
        runtime_edge_events_capacity: api.runtime_edge_events_capacity,
        read_only: api.read_only,
        refused,
        ..ApiSettings::default()
    }
}

/// Where metrics are served; `None` when nobody asked for them.
pub(crate) fn metrics_settings(config: &Config) -> Option<MetricsSettings> {
    let server = &config.server;
    let port = server.metrics_port.filter(|port| *port != 0);
    let everywhere = port.map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    Some(MetricsSettings {
        listen: server.metrics_listen.or(everywhere)?,
        whitelist: server.metrics_whitelist.clone(),
        prefix: config.shards.metrics_prefix.0.clone(),
        top_n: config.api.runtime_edge_top_n,
    })
}

fn limits(config: &Config) -> EffectiveLimitsData {
    let (connect, timeouts) = (&config.connect, &config.timeouts);
    let access = &config.access;
    EffectiveLimitsData {
        update_every_secs: wiring::me::update_every_secs(config),
        me_reinit_every_secs: config.me_reinit.me_reinit_every_secs,
        me_pool_force_close_secs: wiring::me::force_close_secs(config),
        timeouts: EffectiveTimeoutLimits {
            client_handshake_secs: timeouts.client_handshake,
            client_first_byte_idle_secs: timeouts.client_first_byte_idle_secs,
            tg_connect_secs: connect.tg_connect,
            client_keepalive_secs: timeouts.client_keepalive,
            client_ack_secs: timeouts.client_ack,
            me_one_retry: timeouts.me_one_retry,
            me_one_timeout_ms: timeouts.me_one_timeout_ms,
        },
        upstream: EffectiveUpstreamLimits {
            connect_retry_attempts: connect.upstream_connect_retry_attempts,
            connect_retry_backoff_ms: connect.upstream_connect_retry_backoff_ms,
            connect_budget_ms: connect.upstream_connect_budget_ms,
            unhealthy_fail_threshold: connect.upstream_unhealthy_fail_threshold,
            connect_failfast_hard_errors: connect.upstream_connect_failfast_hard_errors,
        },
        middle_proxy: middle_proxy(config),
        user_ip_policy: EffectiveUserIpPolicyLimits {
            global_each: access.user_max_unique_ips_global_each as u64,
            mode: access.user_max_unique_ips_mode.as_str(),
            window_secs: access.user_max_unique_ips_window_secs,
        },
        user_tcp_policy: EffectiveUserTcpPolicyLimits {
            global_each: access.user_max_tcp_conns_global_each as u64,
        },
    }
}

fn middle_proxy(config: &Config) -> EffectiveMiddleProxyLimits {
    let (pool, floor) = (&config.me_pool, &config.me_floor);
    EffectiveMiddleProxyLimits {
        floor_mode: floor.me_floor_mode.as_str(),
        adaptive_floor_idle_secs: floor.me_adaptive_floor_idle_secs,
        adaptive_floor_min_writers_single_endpoint: floor
            .me_adaptive_floor_min_writers_single_endpoint,
        adaptive_floor_min_writers_multi_endpoint: floor
            .me_adaptive_floor_min_writers_multi_endpoint,
        adaptive_floor_recover_grace_secs: floor.me_adaptive_floor_recover_grace_secs,
        adaptive_floor_writers_per_core_total: floor.me_adaptive_floor_writers_per_core_total,
        adaptive_floor_cpu_cores_override: floor.me_adaptive_floor_cpu_cores_override,
        adaptive_floor_max_extra_writers_single_per_core: floor
            .me_adaptive_floor_max_extra_writers_single_per_core,
        adaptive_floor_max_extra_writers_multi_per_core: floor
            .me_adaptive_floor_max_extra_writers_multi_per_core,
        adaptive_floor_max_active_writers_per_core: floor
            .me_adaptive_floor_max_active_writers_per_core,
        adaptive_floor_max_warm_writers_per_core: floor.me_adaptive_floor_max_warm_writers_per_core,
        adaptive_floor_max_active_writers_global: floor.me_adaptive_floor_max_active_writers_global,
        adaptive_floor_max_warm_writers_global: floor.me_adaptive_floor_max_warm_writers_global,
        // 0 acts as 1, for both.
        reconnect_max_concurrent_per_dc: pool.me_reconnect_max_concurrent_per_dc.max(1),
        reconnect_backoff_base_ms: pool.me_reconnect_backoff_base_ms,
        reconnect_backoff_cap_ms: pool.me_reconnect_backoff_cap_ms,
        reconnect_fast_retry_count: pool.me_reconnect_fast_retry_count.max(1),
        writer_pick_mode: pool.me_writer_pick_mode.as_str(),
        writer_pick_sample_size: pool.me_writer_pick_sample_size,
        me2dc_fallback: config.general.me2dc_fallback,
        me2dc_fast: config.general.me2dc_fast,
    }
}
