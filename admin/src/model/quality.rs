//! `RuntimeMeQualityPayload` and its parts: counters of trouble, families, the drain gate, RTT.
//!
//! Plain data in the contract's order and words: whoever has a pool fills it. Source:
//! middle-proxy.md 26.7.

use serde::Serialize;

/// How well the ME pool works.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RuntimeMeQualityPayload {
    /// Copies of `ZeroMiddleProxyData`.
    pub counters: RuntimeMeQualityCountersData,
    /// Frames for clients that did not reach them.
    pub route_drops: RuntimeMeQualityRouteDropData,
    /// IPv4, then IPv6.
    pub family_states: Vec<RuntimeMeQualityFamilyStateData>,
    /// Whether old writers may drain.
    pub drain_gate: RuntimeMeQualityDrainGateData,
    /// Ascending by DC.
    pub dc_rtt: Vec<RuntimeMeQualityDcRttData>,
}

/// Copies of `ZeroMiddleProxyData`, of the same snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each field is a counter row of that name")]
pub struct RuntimeMeQualityCountersData {
    pub idle_close_by_peer_total: u64,
    pub reader_eof_total: u64,
    pub kdf_drift_total: u64,
    pub kdf_port_only_drift_total: u64,
    pub reconnect_attempt_total: u64,
    pub reconnect_success_total: u64,
}

/// The counters `route_drop_*`, of the same snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each field is a counter row of that name")]
pub struct RuntimeMeQualityRouteDropData {
    pub no_conn_total: u64,
    pub channel_closed_total: u64,
    pub queue_full_total: u64,
    pub queue_full_base_total: u64,
    pub queue_full_high_total: u64,
}

/// One address family (section 24.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMeQualityFamilyStateData {
    /// `v4` or `v6`.
    pub family: &'static str,
    /// `healthy`, `degraded`, `suppressed` or `recovering`.
    pub state: &'static str,
    /// Since when, unix seconds; process start at first.
    pub state_since_epoch_secs: u64,
    /// Set while suppressed, unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed_until_epoch_secs: Option<u64>,
    /// Bad ticks in a row.
    pub fail_streak: u32,
    /// Good ticks in a row since it was bad.
    pub recover_success_streak: u32,
}

/// Whether old writers may drain (section 15).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMeQualityDrainGateData {
    /// Enough groups are covered.
    pub route_quorum_ok: bool,
    /// All groups are covered.
    pub redundancy_ok: bool,
    /// `open`, `coverage_quorum`, `redundancy` or `suppression_active`.
    pub block_reason: &'static str,
    /// Last evaluation, unix seconds; process start before the first.
    pub updated_at_epoch_secs: u64,
}

/// Round trips of one DC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RuntimeMeQualityDcRttData {
    /// Signed DC id.
    pub dc: i16,
    /// Mean of its writers, milliseconds.
    pub rtt_ema_ms: Option<f64>,
    /// Writers that do not drain.
    pub alive_writers: usize,
    /// Writers there should be.
    pub required_writers: usize,
    /// Alive over required writers, percent.
    pub coverage_pct: f64,
}
