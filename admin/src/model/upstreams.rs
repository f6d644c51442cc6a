//! `UpstreamsData`, `RuntimeUpstreamQualityData` and the rows they share.

use serde::Serialize;
use shards::control::FamilyState;

use super::zero::ZeroUpstreamData;

#[derive(Serialize)]
pub(crate) struct UpstreamsData {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) zero: ZeroUpstreamData,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<UpstreamSummaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstreams: Option<Vec<UpstreamStatus>>,
}

#[derive(Serialize)]
pub(crate) struct RuntimeUpstreamQualityData {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) policy: RuntimeUpstreamQualityPolicyData,
    pub(crate) counters: RuntimeUpstreamQualityCountersData,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) summary: Option<UpstreamSummaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upstreams: Option<Vec<UpstreamStatus>>,
}

#[derive(Serialize)]
pub(crate) struct RuntimeUpstreamQualityPolicyData {
    pub(crate) connect_retry_attempts: u32,
    pub(crate) connect_retry_backoff_ms: u64,
    pub(crate) connect_budget_ms: u64,
    pub(crate) unhealthy_fail_threshold: u32,
    pub(crate) connect_failfast_hard_errors: bool,
}

#[derive(Serialize)]
pub(crate) struct RuntimeUpstreamQualityCountersData {
    pub(crate) connect_attempt_total: u64,
    pub(crate) connect_success_total: u64,
    pub(crate) connect_fail_total: u64,
    pub(crate) connect_failfast_hard_error_total: u64,
}

/// `UpstreamSummaryData` and `RuntimeUpstreamQualitySummaryData`, which are alike.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct UpstreamSummaryData {
    pub(crate) configured_total: usize,
    pub(crate) healthy_total: usize,
    pub(crate) unhealthy_total: usize,
    pub(crate) direct_total: usize,
    pub(crate) socks4_total: usize,
    pub(crate) socks5_total: usize,
    pub(crate) shadowsocks_total: usize,
}

/// `UpstreamStatus` and `RuntimeUpstreamQualityUpstreamData`, which are alike.
#[derive(Serialize)]
pub(crate) struct UpstreamStatus {
    pub(crate) upstream_id: usize,
    pub(crate) route_kind: &'static str,
    pub(crate) address: String,
    pub(crate) weight: u16,
    pub(crate) scopes: String,
    pub(crate) healthy: bool,
    pub(crate) fails: u32,
    pub(crate) last_check_age_secs: u64,
    pub(crate) effective_latency_ms: Option<f64>,
    pub(crate) dc: Vec<UpstreamDcStatus>,
}

/// `UpstreamDcStatus` and `RuntimeUpstreamQualityDcData`, which are alike.
#[derive(Serialize)]
pub(crate) struct UpstreamDcStatus {
    pub(crate) dc: i16,
    pub(crate) latency_ema_ms: Option<f64>,
    pub(crate) ip_preference: &'static str,
}

/// Which address family works, in the contract's words (conflict C7: `both_work`, not `both`).
#[must_use]
pub fn ip_preference(v4: FamilyState, v6: FamilyState) -> &'static str {
    match (v4, v6) {
        (FamilyState::Works, FamilyState::Works) => "both_work",
        (FamilyState::Works, FamilyState::Fails | FamilyState::Unknown) => "prefer_v4",
        (FamilyState::Fails | FamilyState::Unknown, FamilyState::Works) => "prefer_v6",
        (FamilyState::Fails, FamilyState::Fails) => "unavailable",
        (FamilyState::Unknown, _) | (_, FamilyState::Unknown) => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_become_one_preference() {
        use FamilyState::{Fails, Unknown, Works};
        for (v4, v6, expected) in [
            (Works, Works, "both_work"),
            (Works, Unknown, "prefer_v4"),
            (Fails, Works, "prefer_v6"),
            (Fails, Fails, "unavailable"),
            (Fails, Unknown, "unknown"),
            (Unknown, Unknown, "unknown"),
        ] {
            assert_eq!(ip_preference(v4, v6), expected);
        }
    }
}
