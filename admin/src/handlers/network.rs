//! stats/upstreams, runtime/upstream_quality.

use shards::control::{DcRow, UpstreamRow};

use super::ApiState;
use crate::{
    model::{
        FEATURE_DISABLED, SOURCE_UNAVAILABLE,
        upstreams::{
            RuntimeUpstreamQualityCountersData, RuntimeUpstreamQualityData,
            RuntimeUpstreamQualityPolicyData, UpstreamDcStatus, UpstreamStatus,
            UpstreamSummaryData, UpstreamsData, ip_preference,
        },
        zero::ZeroUpstreamData,
    },
    plane::{PlaneSnapshot, RouteKind, UpstreamInfo, now_epoch_secs},
};

/// Summary and rows.
type Listing = (UpstreamSummaryData, Vec<UpstreamStatus>);

impl ApiState {
    /// `zero` is there in every state.
    pub(super) fn upstreams(&self) -> UpstreamsData {
        let enabled = self.settings.minimal_runtime_enabled;
        let snapshot = self.plane.snapshot();
        let listing = snapshot
            .as_deref()
            .filter(|_| enabled)
            .map(|all| self.listing(all));
        let reason = match (enabled, &listing) {
            (false, _) => Some(FEATURE_DISABLED),
            (true, None) => Some(SOURCE_UNAVAILABLE),
            (true, Some(_)) => None,
        };
        let (summary, upstreams) = listing.unzip();
        UpstreamsData {
            enabled,
            reason,
            generated_at_epoch_secs: now_epoch_secs(),
            zero: ZeroUpstreamData(snapshot.unwrap_or_default().total.upstream),
            summary,
            upstreams,
        }
    }

    /// Policy and counters are there in every state; no switch turns this off.
    pub(super) fn upstream_quality(&self) -> RuntimeUpstreamQualityData {
        let snapshot = self.plane.snapshot();
        let listing = snapshot.as_deref().map(|all| self.listing(all));
        let enabled = listing.is_some();
        let limits = self.plane.running().limits.upstream.clone();
        let counters = snapshot.unwrap_or_default().total.upstream;
        let (summary, upstreams) = listing.unzip();
        RuntimeUpstreamQualityData {
            enabled,
            reason: (!enabled).then_some(SOURCE_UNAVAILABLE),
            generated_at_epoch_secs: now_epoch_secs(),
            policy: RuntimeUpstreamQualityPolicyData {
                connect_retry_attempts: limits.connect_retry_attempts,
                connect_retry_backoff_ms: limits.connect_retry_backoff_ms,
                connect_budget_ms: limits.connect_budget_ms,
                unhealthy_fail_threshold: limits.unhealthy_fail_threshold,
                connect_failfast_hard_errors: limits.connect_failfast_hard_errors,
            },
            counters: RuntimeUpstreamQualityCountersData {
                connect_attempt_total: counters.connect_attempt_total,
                connect_success_total: counters.connect_success_total,
                connect_fail_total: counters.connect_fail_total,
                connect_failfast_hard_error_total: counters.connect_failfast_hard_error_total,
            },
            summary,
            upstreams,
        }
    }

    fn listing(&self, snapshot: &PlaneSnapshot) -> Listing {
        let running = self.plane.running();
        let uptime_secs = self.plane.process().started.elapsed().as_secs();
        let unseen = UpstreamRow::default();
        let rows: Vec<_> = running
            .upstreams
            .iter()
            .enumerate()
            .map(|(index, info)| {
                let row = snapshot.total.upstreams.get(index).unwrap_or(&unseen);
                status(index, info, row, uptime_secs)
            })
            .collect();
        (summary(&running.upstreams, &rows), rows)
    }
}

fn status(
    index: usize,
    info: &UpstreamInfo,
    row: &UpstreamRow,
    uptime_secs: u64,
) -> UpstreamStatus {
    let direct = info.kind == RouteKind::Direct;
    UpstreamStatus {
        upstream_id: index,
        route_kind: info.kind.label(),
        address: if direct {
            "direct".to_owned()
        } else {
            info.address.clone()
        },
        weight: info.weight,
        scopes: info.scopes.clone(),
        healthy: row.healthy,
        fails: row.fails,
        // Before the first check, its age is that of the process.
        last_check_age_secs: row.last_check_ms.map_or(uptime_secs, |ms| ms / 1_000),
        effective_latency_ms: mean(row.dcs.iter().filter_map(latency)),
        dc: row.dcs.iter().map(dc_status).collect(),
    }
}

fn dc_status(row: &DcRow) -> UpstreamDcStatus {
    UpstreamDcStatus {
        dc: row.dc,
        latency_ema_ms: latency(row),
        ip_preference: ip_preference(row.v4, row.v6),
    }
}

/// JSON has no infinities.
fn latency(row: &DcRow) -> Option<f64> {
    row.latency_ema_ms.filter(|ms| ms.is_finite())
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn summary(infos: &[UpstreamInfo], rows: &[UpstreamStatus]) -> UpstreamSummaryData {
    let of = |kind| infos.iter().filter(|info| info.kind == kind).count();
    let healthy_total = rows.iter().filter(|row| row.healthy).count();
    UpstreamSummaryData {
        configured_total: rows.len(),
        healthy_total,
        unhealthy_total: rows.len() - healthy_total,
        direct_total: of(RouteKind::Direct),
        socks4_total: of(RouteKind::Socks4),
        socks5_total: of(RouteKind::Socks5),
        shadowsocks_total: of(RouteKind::Shadowsocks),
    }
}
