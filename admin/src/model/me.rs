//! Answers about the ME pool, as far as they can be given without one.
//!
//! Payload types come with the pool; until then the contract's `source_unavailable` and
//! `feature_disabled` forms are the whole truth.

use serde::Serialize;

/// `RuntimeMePoolStateData`, `RuntimeMeQualityData`, `RuntimeNatStunData` and
/// `RuntimeMeSelftestData` without their payload: alike.
#[derive(Serialize)]
pub(crate) struct NoPoolData {
    pub(crate) enabled: bool,
    pub(crate) reason: &'static str,
    pub(crate) generated_at_epoch_secs: u64,
    /// Always null (conflict C2).
    pub(crate) data: Option<()>,
}

#[derive(Serialize)]
pub(crate) struct MinimalAllData {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) data: Option<MinimalAllPayload>,
}

/// `MinimalAllPayload` in its reduced form.
#[derive(Serialize)]
pub(crate) struct MinimalAllPayload {
    pub(crate) me_writers: MeWritersData,
    pub(crate) dcs: DcStatusData,
    /// Always null (conflict C2).
    pub(crate) me_runtime: Option<()>,
    /// Always empty.
    pub(crate) network_path: [(); 0],
}

#[derive(Serialize)]
pub(crate) struct MeWritersData {
    pub(crate) middle_proxy_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) summary: MeWritersSummary,
    /// Always empty.
    pub(crate) writers: [(); 0],
}

#[derive(Default, Serialize)]
pub(crate) struct MeWritersSummary {
    pub(crate) configured_dc_groups: usize,
    pub(crate) configured_endpoints: usize,
    pub(crate) available_endpoints: usize,
    pub(crate) available_pct: f64,
    pub(crate) required_writers: usize,
    pub(crate) alive_writers: usize,
    pub(crate) coverage_pct: f64,
    pub(crate) fresh_alive_writers: usize,
    pub(crate) fresh_coverage_pct: f64,
}

#[derive(Serialize)]
pub(crate) struct DcStatusData {
    pub(crate) middle_proxy_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    /// Always empty.
    pub(crate) dcs: [(); 0],
}
