//! `EffectiveLimitsData`: limits in force. Public, because the binary fills it from its
//! configuration; the defaults are those of the configuration reference.

use serde::Serialize;

/// Limits and time-outs in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveLimitsData {
    /// Period of the updater of ME data, seconds.
    pub update_every_secs: u64,
    /// Period of the ME pool's renewal, seconds.
    pub me_reinit_every_secs: u64,
    /// Draining ME writers are closed after this, seconds; never 0.
    pub me_pool_force_close_secs: u64,
    /// Time-outs.
    pub timeouts: EffectiveTimeoutLimits,
    /// Connects to DCs.
    pub upstream: EffectiveUpstreamLimits,
    /// ME pool.
    pub middle_proxy: EffectiveMiddleProxyLimits,
    /// Addresses per user.
    pub user_ip_policy: EffectiveUserIpPolicyLimits,
    /// Connections per user.
    pub user_tcp_policy: EffectiveUserTcpPolicyLimits,
}

/// Time-outs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveTimeoutLimits {
    /// First byte to authenticated, seconds.
    pub client_handshake_secs: u64,
    /// Accept to first byte, seconds.
    pub client_first_byte_idle_secs: u64,
    /// One connect to a DC, seconds.
    pub tg_connect_secs: u64,
    /// TCP keepalive of clients, seconds.
    pub client_keepalive_secs: u64,
    /// Unacknowledged data to a client, seconds.
    pub client_ack_secs: u64,
    /// Attempts with one ME endpoint.
    pub me_one_retry: u8,
    /// Limit of one such attempt, milliseconds.
    pub me_one_timeout_ms: u64,
}

/// Connects to DCs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveUpstreamLimits {
    /// Connects per client.
    pub connect_retry_attempts: u32,
    /// Pause between them, milliseconds.
    pub connect_retry_backoff_ms: u64,
    /// Limit of all of them, milliseconds.
    pub connect_budget_ms: u64,
    /// Failures in a row that make an upstream unhealthy.
    pub unhealthy_fail_threshold: u32,
    /// Hard errors are not retried.
    pub connect_failfast_hard_errors: bool,
}

/// ME pool: floor, caps, reconnects, choice of writers. Names are those of the configuration
/// without their `me_` prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(
    missing_docs,
    reason = "each field is a key of the configuration reference"
)]
pub struct EffectiveMiddleProxyLimits {
    pub floor_mode: &'static str,
    pub adaptive_floor_idle_secs: u64,
    pub adaptive_floor_min_writers_single_endpoint: u8,
    pub adaptive_floor_min_writers_multi_endpoint: u8,
    pub adaptive_floor_recover_grace_secs: u64,
    pub adaptive_floor_writers_per_core_total: u16,
    pub adaptive_floor_cpu_cores_override: u16,
    pub adaptive_floor_max_extra_writers_single_per_core: u16,
    pub adaptive_floor_max_extra_writers_multi_per_core: u16,
    pub adaptive_floor_max_active_writers_per_core: u16,
    pub adaptive_floor_max_warm_writers_per_core: u16,
    pub adaptive_floor_max_active_writers_global: u32,
    pub adaptive_floor_max_warm_writers_global: u32,
    pub reconnect_max_concurrent_per_dc: u32,
    pub reconnect_backoff_base_ms: u64,
    pub reconnect_backoff_cap_ms: u64,
    pub reconnect_fast_retry_count: u32,
    pub writer_pick_mode: &'static str,
    pub writer_pick_sample_size: u8,
    pub me2dc_fallback: bool,
    /// As configured, unlike the gate of the same name.
    pub me2dc_fast: bool,
}

/// Addresses per user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveUserIpPolicyLimits {
    /// For users without a limit of their own; 0 is none.
    pub global_each: u64,
    /// `active_window`, `time_window` or `combined`.
    pub mode: &'static str,
    /// How long an address counts as recent, seconds.
    pub window_secs: u64,
}

/// Connections per user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EffectiveUserTcpPolicyLimits {
    /// For users without a limit of their own; 0 is none.
    pub global_each: u64,
}

impl Default for EffectiveLimitsData {
    fn default() -> Self {
        Self {
            update_every_secs: 300,
            me_reinit_every_secs: 900,
            me_pool_force_close_secs: 90,
            timeouts: EffectiveTimeoutLimits::default(),
            upstream: EffectiveUpstreamLimits::default(),
            middle_proxy: EffectiveMiddleProxyLimits::default(),
            user_ip_policy: EffectiveUserIpPolicyLimits {
                global_each: 0,
                mode: "active_window",
                window_secs: 30,
            },
            user_tcp_policy: EffectiveUserTcpPolicyLimits { global_each: 0 },
        }
    }
}

impl Default for EffectiveTimeoutLimits {
    fn default() -> Self {
        Self {
            client_handshake_secs: 60,
            client_first_byte_idle_secs: 300,
            tg_connect_secs: 10,
            client_keepalive_secs: 15,
            client_ack_secs: 90,
            me_one_retry: 12,
            me_one_timeout_ms: 1_200,
        }
    }
}

impl Default for EffectiveUpstreamLimits {
    fn default() -> Self {
        Self {
            connect_retry_attempts: 2,
            connect_retry_backoff_ms: 100,
            connect_budget_ms: 3_000,
            unhealthy_fail_threshold: 5,
            connect_failfast_hard_errors: false,
        }
    }
}

impl Default for EffectiveMiddleProxyLimits {
    fn default() -> Self {
        Self {
            floor_mode: "adaptive",
            adaptive_floor_idle_secs: 90,
            adaptive_floor_min_writers_single_endpoint: 1,
            adaptive_floor_min_writers_multi_endpoint: 1,
            adaptive_floor_recover_grace_secs: 180,
            adaptive_floor_writers_per_core_total: 48,
            adaptive_floor_cpu_cores_override: 0,
            adaptive_floor_max_extra_writers_single_per_core: 1,
            adaptive_floor_max_extra_writers_multi_per_core: 2,
            adaptive_floor_max_active_writers_per_core: 64,
            adaptive_floor_max_warm_writers_per_core: 64,
            adaptive_floor_max_active_writers_global: 256,
            adaptive_floor_max_warm_writers_global: 256,
            reconnect_max_concurrent_per_dc: 8,
            reconnect_backoff_base_ms: 500,
            reconnect_backoff_cap_ms: 30_000,
            reconnect_fast_retry_count: 16,
            writer_pick_mode: "p2c",
            writer_pick_sample_size: 3,
            me2dc_fallback: true,
            me2dc_fast: true,
        }
    }
}
