//! Settings of the middle proxies (ME): the keys of middle-proxy.md 10, one struct per concern.
//!
//! They reach supervisor and shards with the plan, so all of them can change while the plane runs.
//! Defaults here are those of the specification.

use std::{net::IpAddr, time::Duration};

use crate::proto::middle::{address::BoundPolicy, client_frames::MESSAGE_BYTES_MAX};

/// Everything the pool and the relay through it need to know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeSettings {
    /// Which address families MEs are reached by.
    pub families: FamilySettings,
    /// What happens while the pool is not ready.
    pub admission: AdmissionSettings,
    /// How many writers a DC gets.
    pub floor: FloorSettings,
    /// DCs with one endpoint.
    pub single: SingleEndpointSettings,
    /// Dials and refills.
    pub dial: DialSettings,
    /// Pauses between health ticks.
    pub health: HealthSettings,
    /// Generations and their change.
    pub reinit: ReinitSettings,
    /// Writers on their way out.
    pub drain: DrainSettings,
    /// Pings and activity signals.
    pub keepalive: KeepaliveSettings,
    /// Choice of a writer for a session.
    pub pick: PickSettings,
    /// Clients towards writers.
    pub uplink: UplinkSettings,
    /// Writers towards clients.
    pub downlink: DownlinkSettings,
    /// When new snapshots of secret and map count.
    pub refresh: RefreshSettings,
    /// Totals of the ME side are counted (`telemetry.me_level` is not `silent`).
    pub counts: MeCounts,
}

/// Whether ME totals are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MeCounts {
    /// `normal` and `debug`.
    #[default]
    On,
    /// `silent`: counters stand still.
    Off,
}

/// Which address families MEs are reached by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilySettings {
    /// `network.ipv4`.
    pub ipv4: bool,
    /// `network.ipv6`.
    pub ipv6: bool,
    /// IPv6 first (`network.prefer`).
    pub prefer_ipv6: bool,
    /// All usable families at once instead of the preferred one.
    pub multipath: bool,
    /// `middle_proxy_nat_ip`.
    pub nat_ip: Option<IpAddr>,
    /// `me_socks_kdf_policy`.
    pub bound_policy: BoundPolicy,
}

/// What happens while the pool is not ready (section 22).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionSettings {
    /// `me2dc_fallback`.
    pub fallback: bool,
    /// `me2dc_fast`.
    pub fast: bool,
    /// `me_admission_poll_ms`.
    pub poll: Duration,
    /// `me_init_retry_attempts`; 0 never gives up.
    pub init_attempts: u32,
}

/// How many writers a DC gets (section 11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorSettings {
    /// `me_floor_mode` is `adaptive`.
    pub adaptive: bool,
    /// `me_adaptive_floor_idle_secs`.
    pub idle: Duration,
    /// `me_adaptive_floor_recover_grace_secs`.
    pub recover_grace: Duration,
    /// `me_adaptive_floor_min_writers_single_endpoint`.
    pub min_single: u32,
    /// `me_adaptive_floor_min_writers_multi_endpoint`.
    pub min_multi: u32,
    /// `me_adaptive_floor_max_extra_writers_single_per_core`.
    pub extra_single_per_core: u32,
    /// `me_adaptive_floor_max_extra_writers_multi_per_core`.
    pub extra_multi_per_core: u32,
    /// `me_adaptive_floor_writers_per_core_total`.
    pub writers_per_core: u32,
    /// `me_adaptive_floor_cpu_cores_override`; 0 counts the cores.
    pub cores_override: u32,
    /// `me_adaptive_floor_max_active_writers_per_core`.
    pub active_per_core_max: u32,
    /// `me_adaptive_floor_max_warm_writers_per_core`.
    pub warm_per_core_max: u32,
    /// `me_adaptive_floor_max_active_writers_global`.
    pub active_max: u32,
    /// `me_adaptive_floor_max_warm_writers_global`.
    pub warm_max: u32,
}

/// DCs with one endpoint (section 16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SingleEndpointSettings {
    /// `me_single_endpoint_shadow_writers`.
    pub shadow_writers: u32,
    /// `me_single_endpoint_outage_mode_enabled`.
    pub outage_mode: bool,
    /// `me_single_endpoint_outage_disable_quarantine`.
    pub outage_ignores_quarantine: bool,
    /// `me_single_endpoint_outage_backoff_min_ms`.
    pub outage_backoff_min: Duration,
    /// `me_single_endpoint_outage_backoff_max_ms`.
    pub outage_backoff_max: Duration,
    /// `me_single_endpoint_shadow_rotate_every_secs`; zero is off.
    pub rotate_every: Duration,
}

/// Dials, refills and warm-up (sections 12 and 14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialSettings {
    /// `timeouts.me_one_retry`.
    pub single_retries: u32,
    /// `timeouts.me_one_timeout_ms`.
    pub fast_timeout: Duration,
    /// `me_reconnect_max_concurrent_per_dc`, at least 1.
    pub concurrent_per_dc: u32,
    /// `me_reconnect_backoff_base_ms`.
    pub backoff_base: Duration,
    /// `me_reconnect_backoff_cap_ms`.
    pub backoff_cap: Duration,
    /// `me_reconnect_fast_retry_count`, at least 1.
    pub fast_retries: u32,
    /// `me_warmup_stagger_enabled`.
    pub stagger: bool,
    /// `me_warmup_step_delay_ms`.
    pub stagger_step: Duration,
    /// `me_warmup_step_jitter_ms`.
    pub stagger_jitter: Duration,
}

/// Pauses between health ticks (section 13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// `me_health_interval_ms_unhealthy`.
    pub unhealthy: Duration,
    /// `me_health_interval_ms_healthy`.
    pub healthy: Duration,
    /// `me_warn_rate_limit_ms`.
    pub warn_every: Duration,
}

/// Generations and their change (section 15).
#[derive(Clone, Debug, PartialEq)]
pub struct ReinitSettings {
    /// `hardswap`.
    pub hardswap: bool,
    /// `me_reinit_every_secs`.
    pub every: Duration,
    /// `me_reinit_coalesce_window_ms`.
    pub coalesce: Duration,
    /// `me_reinit_trigger_channel`.
    pub triggers_max: usize,
    /// `me_hardswap_warmup_delay_min_ms`.
    pub warm_delay_min: Duration,
    /// `me_hardswap_warmup_delay_max_ms`.
    pub warm_delay_max: Duration,
    /// `me_hardswap_warmup_extra_passes`.
    pub warm_extra_passes: u32,
    /// `me_hardswap_warmup_pass_backoff_base_ms`.
    pub warm_pass_backoff: Duration,
    /// `me_pool_min_fresh_ratio`, 0 to 1.
    pub fresh_ratio_min: f64,
}

/// Writers on their way out (section 17).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// `me_pool_drain_ttl_secs`; zero is no TTL.
    pub ttl: Duration,
    /// `me_reinit_drain_timeout_secs` after its clamps: never zero, at least the TTL.
    pub force_close: Duration,
    /// `me_instadrain`.
    pub instant: bool,
    /// `me_pool_drain_threshold`, whole process; 0 is off.
    pub threshold: u32,
    /// `me_pool_drain_soft_evict_enabled`.
    pub soft_evict: bool,
    /// `me_pool_drain_soft_evict_grace_secs`.
    pub soft_evict_grace: Duration,
    /// `me_pool_drain_soft_evict_per_writer`.
    pub soft_evict_per_writer: u32,
    /// `me_pool_drain_soft_evict_budget_per_core`.
    pub soft_evict_budget_per_core: u32,
    /// `me_pool_drain_soft_evict_cooldown_ms`.
    pub soft_evict_cooldown: Duration,
    /// `me_bind_stale_mode`.
    pub stale_bind: StaleBind,
    /// `me_bind_stale_ttl_secs`; zero is no limit.
    pub stale_bind_ttl: Duration,
}

/// Whether sessions may be bound to draining writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleBind {
    /// Not.
    Never,
    /// While the drain is young.
    Ttl,
    /// Always.
    Always,
}

/// Pings and activity signals (section 18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepaliveSettings {
    /// `me_keepalive_enabled`.
    pub enabled: bool,
    /// `me_keepalive_interval_secs`.
    pub interval: Duration,
    /// `me_keepalive_jitter_secs`.
    pub jitter: Duration,
    /// `me_keepalive_payload_random`.
    pub random_payload: bool,
    /// `rpc_proxy_req_every`; zero is off.
    pub signal_every: Duration,
}

/// Choice of a writer for a session (section 19).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickSettings {
    /// `me_deterministic_writer_sort`.
    pub deterministic: bool,
    /// `me_writer_pick_mode`.
    pub mode: PickMode,
    /// `me_writer_pick_sample_size`.
    pub sample: usize,
    /// `me_route_no_writer_mode`.
    pub no_writer: NoWriterMode,
    /// `me_route_no_writer_wait_ms`.
    pub no_writer_wait: Duration,
    /// `me_route_hybrid_max_wait_ms`.
    pub hybrid_wait: Duration,
    /// `me_route_inline_recovery_attempts`.
    pub inline_attempts: u32,
    /// `me_route_inline_recovery_wait_ms`.
    pub inline_wait: Duration,
    /// `me_route_blocking_send_timeout_ms`.
    pub full_wait: Duration,
}

/// `me_writer_pick_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickMode {
    /// Sorted, then rotated.
    SortedRoundRobin,
    /// The best of a few.
    PowerOfChoices,
}

/// `me_route_no_writer_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWriterMode {
    /// `hybrid_async_persistent`.
    Hybrid,
    /// `async_recovery_failfast`.
    FailFast,
    /// `inline_recovery_legacy`.
    Inline,
}

/// Clients towards writers (section 20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkSettings {
    /// `me_writer_cmd_channel_capacity`: frames waiting in one writer.
    pub writer_frames_max: usize,
    /// `me_writer_byte_budget_bytes`: bytes waiting in one writer.
    pub writer_bytes_max: usize,
    /// `me_c2me_channel_capacity`: messages of one session among them.
    pub session_messages_max: usize,
    /// `me_c2me_send_timeout_ms`, zero replaced by 60 s.
    pub stopped_max: Duration,
    /// `max_client_frame`, at most what fits a frame.
    pub message_bytes_max: u32,
    /// `timeouts.relay_client_idle_soft_secs`.
    pub idle_soft: Duration,
    /// `timeouts.relay_client_idle_hard_secs`.
    pub idle_hard: Duration,
    /// `timeouts.relay_idle_grace_after_downstream_activity_secs`.
    pub idle_grace: Duration,
    /// `desync_all_full`.
    pub desync_all_full: bool,
}

/// Writers towards clients (section 21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownlinkSettings {
    /// `me_route_channel_capacity`: frames waiting for one client.
    pub session_frames_max: usize,
    /// `me_reader_route_data_wait_ms`.
    pub wait: Duration,
    /// `me_route_backpressure_enabled`.
    pub backpressure: bool,
    /// `me_route_backpressure_base_timeout_ms`.
    pub wait_base: Duration,
    /// `me_route_backpressure_high_timeout_ms`.
    pub wait_high: Duration,
    /// `me_route_backpressure_high_watermark_pct`.
    pub high_watermark_pct: u8,
    /// `me_d2c_flush_batch_max_frames`.
    pub batch_frames_max: usize,
    /// `me_d2c_flush_batch_max_bytes`.
    pub batch_bytes_max: usize,
    /// `me_d2c_flush_batch_max_delay_us`.
    pub batch_delay: Duration,
    /// `me_d2c_ack_flush_immediate`.
    pub ack_immediate: bool,
    /// `me_d2c_frame_buf_shrink_threshold_bytes`.
    pub shrink_bytes: usize,
    /// `me_quota_soft_overshoot_bytes`.
    pub quota_overshoot_bytes: u64,
}

/// When new snapshots of secret and map count (section 23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshSettings {
    /// `update_every`.
    pub every: Duration,
    /// `me_config_stable_snapshots`.
    pub config_stable: u32,
    /// `me_config_apply_cooldown_secs`.
    pub config_cooldown: Duration,
    /// `me_snapshot_require_http_2xx`.
    pub require_2xx: bool,
    /// `me_snapshot_reject_empty_map`.
    pub reject_empty: bool,
    /// `me_snapshot_min_proxy_for_lines`.
    pub lines_min: u32,
    /// `proxy_secret_stable_snapshots`.
    pub secret_stable: u32,
    /// `proxy_secret_rotate_runtime`.
    pub rotate_secret: bool,
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

impl Default for FamilySettings {
    fn default() -> Self {
        Self {
            ipv4: true,
            ipv6: false,
            prefer_ipv6: false,
            multipath: false,
            nat_ip: None,
            bound_policy: BoundPolicy::Strict,
        }
    }
}

impl Default for AdmissionSettings {
    fn default() -> Self {
        Self {
            fallback: true,
            fast: true,
            poll: secs(1),
            init_attempts: 0,
        }
    }
}

impl Default for FloorSettings {
    fn default() -> Self {
        Self {
            adaptive: true,
            idle: secs(90),
            recover_grace: secs(180),
            min_single: 1,
            min_multi: 1,
            extra_single_per_core: 1,
            extra_multi_per_core: 2,
            writers_per_core: 48,
            cores_override: 0,
            active_per_core_max: 64,
            warm_per_core_max: 64,
            active_max: 256,
            warm_max: 256,
        }
    }
}

impl Default for SingleEndpointSettings {
    fn default() -> Self {
        Self {
            shadow_writers: 2,
            outage_mode: true,
            outage_ignores_quarantine: true,
            outage_backoff_min: ms(250),
            outage_backoff_max: ms(3_000),
            rotate_every: secs(900),
        }
    }
}

impl Default for DialSettings {
    fn default() -> Self {
        Self {
            single_retries: 12,
            fast_timeout: ms(1_200),
            concurrent_per_dc: 8,
            backoff_base: ms(500),
            backoff_cap: secs(30),
            fast_retries: 16,
            stagger: true,
            stagger_step: ms(500),
            stagger_jitter: ms(300),
        }
    }
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            unhealthy: ms(1_000),
            healthy: ms(3_000),
            warn_every: ms(5_000),
        }
    }
}

impl Default for ReinitSettings {
    fn default() -> Self {
        Self {
            hardswap: true,
            every: secs(900),
            coalesce: ms(200),
            triggers_max: 64,
            warm_delay_min: ms(1_000),
            warm_delay_max: ms(2_000),
            warm_extra_passes: 3,
            warm_pass_backoff: ms(500),
            fresh_ratio_min: 0.8,
        }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            ttl: secs(90),
            force_close: secs(90),
            instant: false,
            threshold: 32,
            soft_evict: true,
            soft_evict_grace: secs(10),
            soft_evict_per_writer: 2,
            soft_evict_budget_per_core: 16,
            soft_evict_cooldown: ms(1_000),
            stale_bind: StaleBind::Never,
            stale_bind_ttl: secs(90),
        }
    }
}

impl Default for KeepaliveSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: secs(8),
            jitter: secs(2),
            random_payload: true,
            signal_every: Duration::ZERO,
        }
    }
}

impl Default for PickSettings {
    fn default() -> Self {
        Self {
            deterministic: true,
            mode: PickMode::PowerOfChoices,
            sample: 3,
            no_writer: NoWriterMode::Hybrid,
            no_writer_wait: ms(250),
            hybrid_wait: ms(3_000),
            inline_attempts: 3,
            inline_wait: ms(3_000),
            full_wait: ms(250),
        }
    }
}

impl Default for UplinkSettings {
    fn default() -> Self {
        Self {
            writer_frames_max: 4_096,
            writer_bytes_max: (32 << 20) + (16 << 10),
            session_messages_max: 1_024,
            stopped_max: ms(4_000),
            message_bytes_max: MESSAGE_BYTES_MAX.min(16 << 20),
            idle_soft: secs(120),
            idle_hard: secs(360),
            idle_grace: secs(30),
            desync_all_full: false,
        }
    }
}

impl Default for DownlinkSettings {
    fn default() -> Self {
        Self {
            session_frames_max: 768,
            wait: ms(2),
            backpressure: false,
            wait_base: ms(25),
            wait_high: ms(120),
            high_watermark_pct: 80,
            batch_frames_max: 32,
            batch_bytes_max: 128 << 10,
            batch_delay: Duration::from_micros(500),
            ack_immediate: true,
            shrink_bytes: 256 << 10,
            quota_overshoot_bytes: 64 << 10,
        }
    }
}

impl Default for RefreshSettings {
    fn default() -> Self {
        Self {
            every: secs(300),
            config_stable: 2,
            config_cooldown: secs(300),
            require_2xx: true,
            reject_empty: true,
            lines_min: 1,
            secret_stable: 2,
            rotate_secret: true,
        }
    }
}
