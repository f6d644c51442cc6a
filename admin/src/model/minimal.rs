//! What `stats/minimal/all`, `stats/me-writers` and `stats/dcs` show of an ME pool.
//!
//! Plain data in the contract's order and words: whoever has a pool fills it.

use serde::Serialize;

/// All of it at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MinimalSnapshot {
    /// How much there is.
    pub summary: MeWritersSummary,
    /// Every writer.
    pub writers: Vec<MeWriterStatus>,
    /// Every DC.
    pub dcs: Vec<DcStatus>,
    /// Settings and state of the pool.
    pub runtime: MinimalMeRuntimeData,
    /// How DCs are reached.
    pub network_path: Vec<MinimalDcPathData>,
}

/// How much of the ME pool there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeWritersSummary {
    /// DCs there are.
    pub configured_dc_groups: usize,
    /// Endpoints of all DCs.
    pub configured_endpoints: usize,
    /// Endpoints that can be used now.
    pub available_endpoints: usize,
    /// Available over configured endpoints, percent.
    pub available_pct: f64,
    /// Writers there should be.
    pub required_writers: usize,
    /// Writers there are.
    pub alive_writers: usize,
    /// Alive over required writers, percent.
    pub coverage_pct: f64,
    /// Alive, of the active generation and still wanted by the topology.
    pub fresh_alive_writers: usize,
    /// Fresh over required writers, percent.
    pub fresh_coverage_pct: f64,
}

/// One ME writer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MeWriterStatus {
    /// Number of the writer.
    pub writer_id: u64,
    /// DC it serves.
    pub dc: Option<i16>,
    /// Where it is connected to.
    pub endpoint: String,
    /// Generation it belongs to.
    pub generation: u64,
    /// `warm`, `active` or `draining`.
    pub state: &'static str,
    /// Takes no new clients.
    pub draining: bool,
    /// Answers late.
    pub degraded: bool,
    /// Clients that use it.
    pub bound_clients: usize,
    /// Since it carried anything, seconds.
    pub idle_for_secs: Option<u64>,
    /// Moving average of its round trips, milliseconds.
    pub rtt_ema_ms: Option<f64>,
    /// Its generation is the active one.
    pub matches_active_generation: bool,
    /// The topology still names its endpoint.
    pub in_desired_map: bool,
    /// May be used while draining when nothing else is left.
    pub allow_drain_fallback: bool,
    /// When it began to drain, unix seconds.
    pub drain_started_at_epoch_secs: Option<u64>,
    /// When it will be closed by force, unix seconds.
    pub drain_deadline_epoch_secs: Option<u64>,
    /// Has drained for longer than it should.
    pub drain_over_ttl: bool,
}

/// Writers of one DC.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DcStatus {
    /// DC id.
    pub dc: i16,
    /// Its endpoints.
    pub endpoints: Vec<String>,
    /// Writers by endpoint.
    pub endpoint_writers: Vec<DcEndpointWriters>,
    /// Endpoints that can be used now.
    pub available_endpoints: usize,
    /// Available over all endpoints, percent.
    pub available_pct: f64,
    /// Writers there should be.
    pub required_writers: usize,
    /// Lowest floor.
    pub floor_min: usize,
    /// Floor now aimed at.
    pub floor_target: usize,
    /// Highest floor.
    pub floor_max: usize,
    /// A global cap keeps the floor lower than it should be.
    pub floor_capped: bool,
    /// Writers there are.
    pub alive_writers: usize,
    /// Alive over required writers, percent.
    pub coverage_pct: f64,
    /// Alive and of the active generation.
    pub fresh_alive_writers: usize,
    /// Fresh over required writers, percent.
    pub fresh_coverage_pct: f64,
    /// Mean round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Clients on its writers.
    pub load: usize,
}

/// Writers of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DcEndpointWriters {
    /// The endpoint.
    pub endpoint: String,
    /// Writers connected to it.
    pub active_writers: usize,
}

/// How one DC is reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MinimalDcPathData {
    /// DC id.
    pub dc: i16,
    /// Address family that answers.
    pub ip_preference: Option<&'static str>,
    /// IPv4 address in use.
    pub selected_addr_v4: Option<String>,
    /// IPv6 address in use.
    pub selected_addr_v6: Option<String>,
}

/// Settings and state of the ME pool. Most fields are as configured in `[general]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MinimalMeRuntimeData {
    /// Generation that takes new clients.
    pub active_generation: u64,
    /// Generation being warmed up.
    pub warm_generation: u64,
    /// Generation that waits to take over; 0 for none.
    pub pending_hardswap_generation: u64,
    /// For how long it has waited, seconds.
    pub pending_hardswap_age_secs: Option<u64>,
    /// As configured.
    pub hardswap_enabled: bool,
    /// As configured.
    pub floor_mode: &'static str,
    /// As configured.
    pub adaptive_floor_idle_secs: u64,
    /// As configured.
    pub adaptive_floor_min_writers_single_endpoint: u8,
    /// As configured.
    pub adaptive_floor_min_writers_multi_endpoint: u8,
    /// As configured.
    pub adaptive_floor_recover_grace_secs: u64,
    /// As configured.
    pub adaptive_floor_writers_per_core_total: u16,
    /// As configured.
    pub adaptive_floor_cpu_cores_override: u16,
    /// As configured.
    pub adaptive_floor_max_extra_writers_single_per_core: u16,
    /// As configured.
    pub adaptive_floor_max_extra_writers_multi_per_core: u16,
    /// As configured.
    pub adaptive_floor_max_active_writers_per_core: u16,
    /// As configured.
    pub adaptive_floor_max_warm_writers_per_core: u16,
    /// As configured.
    pub adaptive_floor_max_active_writers_global: u32,
    /// As configured.
    pub adaptive_floor_max_warm_writers_global: u32,
    /// Cores of the host.
    pub adaptive_floor_cpu_cores_detected: u32,
    /// Cores reckoned with.
    pub adaptive_floor_cpu_cores_effective: u32,
    /// Most writers before the cap on all.
    pub adaptive_floor_global_cap_raw: u64,
    /// Most writers after it.
    pub adaptive_floor_global_cap_effective: u64,
    /// Writers aimed at, all DCs.
    pub adaptive_floor_target_writers_total: u64,
    /// Most active writers as configured.
    pub adaptive_floor_active_cap_configured: u64,
    /// Most active writers in effect.
    pub adaptive_floor_active_cap_effective: u64,
    /// Most warm writers as configured.
    pub adaptive_floor_warm_cap_configured: u64,
    /// Most warm writers in effect.
    pub adaptive_floor_warm_cap_effective: u64,
    /// Active writers now.
    pub adaptive_floor_active_writers_current: u64,
    /// Warm writers now.
    pub adaptive_floor_warm_writers_current: u64,
    /// As configured.
    pub me_keepalive_enabled: bool,
    /// As configured.
    pub me_keepalive_interval_secs: u64,
    /// As configured.
    pub me_keepalive_jitter_secs: u64,
    /// As configured.
    pub me_keepalive_payload_random: bool,
    /// As configured.
    pub rpc_proxy_req_every_secs: u64,
    /// As configured.
    pub me_reconnect_max_concurrent_per_dc: u32,
    /// As configured.
    pub me_reconnect_backoff_base_ms: u64,
    /// As configured.
    pub me_reconnect_backoff_cap_ms: u64,
    /// As configured.
    pub me_reconnect_fast_retry_count: u32,
    /// As configured.
    pub me_pool_drain_ttl_secs: u64,
    /// As configured.
    pub me_pool_force_close_secs: u64,
    /// As configured.
    pub me_pool_min_fresh_ratio: f32,
    /// As configured.
    pub me_bind_stale_mode: &'static str,
    /// As configured.
    pub me_bind_stale_ttl_secs: u64,
    /// As configured.
    pub me_single_endpoint_shadow_writers: u8,
    /// As configured.
    pub me_single_endpoint_outage_mode_enabled: bool,
    /// As configured.
    pub me_single_endpoint_outage_disable_quarantine: bool,
    /// As configured.
    pub me_single_endpoint_outage_backoff_min_ms: u64,
    /// As configured.
    pub me_single_endpoint_outage_backoff_max_ms: u64,
    /// As configured.
    pub me_single_endpoint_shadow_rotate_every_secs: u64,
    /// As configured.
    pub me_deterministic_writer_sort: bool,
    /// As configured.
    pub me_writer_pick_mode: &'static str,
    /// As configured.
    pub me_writer_pick_sample_size: u8,
    /// As configured.
    pub me_socks_kdf_policy: &'static str,
    /// Endpoints in quarantine.
    pub quarantined_endpoints_total: usize,
    /// Endpoints in quarantine, one by one.
    pub quarantined_endpoints: Vec<MinimalQuarantineData>,
}

/// An endpoint in quarantine.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MinimalQuarantineData {
    /// The endpoint.
    pub endpoint: String,
    /// Until it may be tried again, milliseconds.
    pub remaining_ms: u64,
}
