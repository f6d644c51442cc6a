//! Writers, DCs and their sums. Source: middle-proxy.md 25, 26.4 and 26.5.

use std::net::SocketAddr;

use admin::{DcEndpointWriters, DcStatus, MeWriterStatus, MeWritersSummary};
use shards::me::{GroupStatus, WriterRow, WriterState};

use super::{Moment, wide};

/// Every writer, in the order of the snapshot.
pub(super) fn writers(moment: &Moment<'_>) -> Vec<MeWriterStatus> {
    let rows = moment.total.writers.iter();
    rows.map(|row| writer(moment, row)).collect()
}

fn writer(moment: &Moment<'_>, row: &WriterRow) -> MeWriterStatus {
    let status = moment.status;
    let shown = MeWriterStatus {
        writer_id: row.id.0,
        dc: Some(row.dc),
        endpoint: row.endpoint.to_string(),
        generation: row.generation,
        degraded: row.degraded,
        bound_clients: wide(row.bound_clients),
        idle_for_secs: row.idle_since.map(|at| moment.now.since(at) / 1_000),
        rtt_ema_ms: rtt(row),
        matches_active_generation: row.generation == status.generations.active,
        in_desired_map: status.is_mapped(row.dc, &row.endpoint),
        ..MeWriterStatus::default()
    };
    match row.state {
        WriterState::Warm => MeWriterStatus {
            state: "warm",
            ..shown
        },
        WriterState::Active => MeWriterStatus {
            state: "active",
            ..shown
        },
        WriterState::Draining {
            fallback,
            started,
            deadline,
            over_ttl,
        } => MeWriterStatus {
            state: "draining",
            draining: true,
            allow_drain_fallback: fallback,
            drain_started_at_epoch_secs: Some(status.epoch_secs(started)),
            drain_deadline_epoch_secs: Some(status.epoch_secs(deadline)),
            drain_over_ttl: over_ttl,
            ..shown
        },
    }
}

/// Every configured group.
pub(super) fn dcs(moment: &Moment<'_>) -> Vec<DcStatus> {
    let groups = moment.status.groups.iter();
    groups.map(|group| dc(moment, group)).collect()
}

fn dc(moment: &Moment<'_>, group: &GroupStatus) -> DcStatus {
    let status = moment.status;
    let alive: Vec<&WriterRow> = moment
        .total
        .writers
        .iter()
        .filter(|row| row.dc == group.dc && !row.state.is_draining())
        .collect();
    let fresh = alive.iter().filter(|row| {
        let current = row.generation == status.generations.active;
        current && status.is_mapped(row.dc, &row.endpoint)
    });
    let fresh = fresh.count();
    let endpoint_writers: Vec<_> = group
        .endpoints
        .iter()
        .map(|endpoint| endpoint_row(endpoint, &alive))
        .collect();
    let available = endpoint_writers.iter().filter(|row| row.active_writers > 0);
    let available = available.count();
    let required = wide(group.required);
    let users = moment.total.me_groups.iter();
    let load = users
        .filter(|row| row.dc == group.dc)
        .map(|row| wide(row.sessions))
        .sum();
    DcStatus {
        dc: group.dc,
        endpoints: group.endpoints.iter().map(SocketAddr::to_string).collect(),
        available_endpoints: available,
        available_pct: percent(available, group.endpoints.len()),
        required_writers: required,
        floor_min: wide(group.floor_min),
        floor_target: wide(group.target),
        floor_max: wide(group.floor_max),
        floor_capped: group.capped,
        alive_writers: alive.len(),
        coverage_pct: percent(alive.len(), required),
        fresh_alive_writers: fresh,
        fresh_coverage_pct: percent(fresh, required),
        rtt_ms: mean(alive.iter().filter_map(|row| rtt(row))),
        load,
        endpoint_writers,
    }
}

fn endpoint_row(endpoint: &SocketAddr, alive: &[&WriterRow]) -> DcEndpointWriters {
    let writers = alive.iter().filter(|row| row.endpoint == *endpoint);
    DcEndpointWriters {
        endpoint: endpoint.to_string(),
        active_writers: writers.count(),
    }
}

/// Sums over the DCs.
pub(super) fn summary(dcs: &[DcStatus]) -> MeWritersSummary {
    let sum = |of: fn(&DcStatus) -> usize| dcs.iter().map(of).sum::<usize>();
    let endpoints = sum(|dc| dc.endpoints.len());
    let available = sum(|dc| dc.available_endpoints);
    let required = sum(|dc| dc.required_writers);
    let alive = sum(|dc| dc.alive_writers);
    let fresh = sum(|dc| dc.fresh_alive_writers);
    MeWritersSummary {
        configured_dc_groups: dcs.len(),
        configured_endpoints: endpoints,
        available_endpoints: available,
        available_pct: percent(available, endpoints),
        required_writers: required,
        alive_writers: alive,
        coverage_pct: percent(alive, required),
        fresh_alive_writers: fresh,
        fresh_coverage_pct: percent(fresh, required),
    }
}

/// At most 100; 0 of nothing (conflict C29).
#[expect(clippy::cast_precision_loss, reason = "a few hundred writers")]
fn percent(part: usize, whole: usize) -> f64 {
    match whole {
        0 => 0.0,
        _ => (part as f64 / whole as f64 * 100.0).min(100.0),
    }
}

/// JSON has no infinities.
fn rtt(row: &WriterRow) -> Option<f64> {
    row.rtt_ema_ms.filter(|ms| ms.is_finite())
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}
