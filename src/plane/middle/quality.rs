//! Generations, refills, families, round trips and the self-test. Source: middle-proxy.md 24, 26.6,
//! 26.7 and 26.10.

use std::{collections::BTreeSet, net::IpAddr};

use admin::{
    DcStatus, LastSkew, RuntimeMePoolStateGenerationData, RuntimeMePoolStateHardswapData,
    RuntimeMePoolStatePayload, RuntimeMePoolStateRefillData, RuntimeMePoolStateRefillDcData,
    RuntimeMePoolStateWriterContourData, RuntimeMePoolStateWriterData,
    RuntimeMePoolStateWriterHealthData, RuntimeMeQualityCountersData, RuntimeMeQualityDcRttData,
    RuntimeMeQualityDrainGateData, RuntimeMeQualityFamilyStateData, RuntimeMeQualityPayload,
    RuntimeMeQualityRouteDropData, RuntimeMeSelftestBndData, RuntimeMeSelftestIpData,
    RuntimeMeSelftestIpFamilyData, RuntimeMeSelftestKdfData, RuntimeMeSelftestPayload,
    RuntimeMeSelftestPidData, RuntimeMeSelftestTimeskewData,
};
use shards::{
    counters::MeCounters,
    me::{MeStatus, Millis, RefillRow, WriterRow, WriterState},
    proto::middle::address::is_bogon,
};

use super::{Moment, runtime::pending_age_secs};

/// Generations, writers by state, refills.
pub(super) fn pool_state(moment: &Moment<'_>) -> RuntimeMePoolStatePayload {
    let generations = &moment.status.generations;
    let draining = moment.total.writers.iter();
    let draining = draining.filter(|row| row.state.is_draining());
    let draining: BTreeSet<u64> = draining.map(|row| row.generation).collect();
    RuntimeMePoolStatePayload {
        generations: RuntimeMePoolStateGenerationData {
            active_generation: generations.active,
            warm_generation: generations.warm,
            pending_hardswap_generation: generations.pending,
            pending_hardswap_age_secs: pending_age_secs(moment),
            draining_generations: draining.into_iter().collect(),
        },
        hardswap: RuntimeMePoolStateHardswapData {
            enabled: moment.status.settings.reinit.hardswap,
            pending: generations.pending != 0,
        },
        writers: writers(&moment.total.writers),
        refill: refill(&moment.total.refills),
    }
}

fn writers(rows: &[WriterRow]) -> RuntimeMePoolStateWriterData {
    let count = |is: &dyn Fn(&WriterRow) -> bool| rows.iter().filter(|row| is(row)).count();
    let draining = count(&|row| row.state.is_draining());
    let degraded = count(&|row| row.degraded && !row.state.is_draining());
    let total = rows.len();
    RuntimeMePoolStateWriterData {
        total,
        alive_non_draining: total - draining,
        draining,
        degraded,
        contour: RuntimeMePoolStateWriterContourData {
            warm: count(&|row| row.state == WriterState::Warm),
            active: count(&|row| row.state == WriterState::Active),
            draining,
        },
        health: RuntimeMePoolStateWriterHealthData {
            healthy: count(&|row| !row.degraded && !row.state.is_draining()),
            degraded,
            draining,
        },
    }
}

/// `rows` ascend; each shard that refills a DC's family has one.
fn refill(rows: &[RefillRow]) -> RuntimeMePoolStateRefillData {
    let by_dc: Vec<_> = rows
        .chunk_by(|a, b| a == b)
        .filter_map(|same| {
            same.first().map(|row| RuntimeMePoolStateRefillDcData {
                dc: row.dc,
                family: if row.ipv6 { "V6" } else { "V4" },
                inflight: same.len(),
            })
        })
        .collect();
    RuntimeMePoolStateRefillData {
        inflight_endpoints_total: rows.len(),
        inflight_dc_total: by_dc.len(),
        by_dc,
    }
}

/// Counters, families, the gate, and what the DCs' rows say of round trips.
pub(super) fn quality(moment: &Moment<'_>, dcs: &[DcStatus]) -> RuntimeMeQualityPayload {
    let status = moment.status;
    let (counters, route_drops) = counters(&moment.total.me);
    let gate = &status.gate;
    RuntimeMeQualityPayload {
        counters,
        route_drops,
        family_states: families(status),
        drain_gate: RuntimeMeQualityDrainGateData {
            route_quorum_ok: gate.route_quorum_ok,
            redundancy_ok: gate.redundancy_ok,
            block_reason: gate.block_reason.label(),
            updated_at_epoch_secs: status.epoch_secs(gate.updated_at),
        },
        dc_rtt: dcs
            .iter()
            .map(|dc| RuntimeMeQualityDcRttData {
                dc: dc.dc,
                rtt_ema_ms: dc.rtt_ms,
                alive_writers: dc.alive_writers,
                required_writers: dc.required_writers,
                coverage_pct: dc.coverage_pct,
            })
            .collect(),
    }
}

/// Of the snapshot that zero/all shows, the supervisor's own included.
fn counters(me: &MeCounters) -> (RuntimeMeQualityCountersData, RuntimeMeQualityRouteDropData) {
    let counters = RuntimeMeQualityCountersData {
        idle_close_by_peer_total: me.idle_close_by_peer_total,
        reader_eof_total: me.reader_eof_total,
        kdf_drift_total: me.kdf_drift_total,
        kdf_port_only_drift_total: me.kdf_port_only_drift_total,
        reconnect_attempt_total: me.reconnect_attempt_total,
        reconnect_success_total: me.reconnect_success_total,
    };
    let drops = RuntimeMeQualityRouteDropData {
        no_conn_total: me.route_drop_no_conn_total,
        channel_closed_total: me.route_drop_channel_closed_total,
        queue_full_total: me.route_drop_queue_full_total,
        queue_full_base_total: me.route_drop_queue_full_base_total,
        queue_full_high_total: me.route_drop_queue_full_high_total,
    };
    (counters, drops)
}

fn families(status: &MeStatus) -> Vec<RuntimeMeQualityFamilyStateData> {
    let rows = status.families.iter();
    rows.map(|row| RuntimeMeQualityFamilyStateData {
        family: if row.ipv6 { "v6" } else { "v4" },
        state: row.state.label(),
        state_since_epoch_secs: status.epoch_secs(row.since),
        suppressed_until_epoch_secs: row.suppressed_until.map(|at| status.epoch_secs(at)),
        fail_streak: row.fail_streak,
        recover_success_streak: row.recover_success_streak,
    })
    .collect()
}

/// `local` is the address of the interface towards the Internet, by family (v4, v6).
pub(super) fn selftest(
    moment: &Moment<'_>,
    [v4, v6]: [Option<IpAddr>; 2],
) -> RuntimeMeSelftestPayload {
    let test = &moment.status.selftest;
    let age_secs = |at: Millis| moment.now.since(at) / 1_000;
    let last = test.last_skew.map(|last| LastSkew {
        skew_secs: last.secs,
        source: last.source,
        age_secs: age_secs(last.at),
    });
    let bnd = test.bound.map(|bound| RuntimeMeSelftestBndData {
        addr_state: bound.addr_state,
        port_state: bound.port_state,
        last_addr: bound.addr.map(|addr| addr.to_string()),
        last_seen_age_secs: Some(age_secs(bound.at)),
    });
    RuntimeMeSelftestPayload {
        kdf: RuntimeMeSelftestKdfData::new(test.kdf_errors_per_min, test.kdf_errors_total),
        timeskew: RuntimeMeSelftestTimeskewData::new(
            test.max_skew_secs_15m,
            test.samples_15m,
            last,
        ),
        ip: RuntimeMeSelftestIpData {
            v4: v4.map(interface),
            v6: v6.map(interface),
        },
        pid: RuntimeMeSelftestPidData::default(),
        bnd: bnd.unwrap_or_default(),
    }
}

fn interface(ip: IpAddr) -> RuntimeMeSelftestIpFamilyData {
    let state = match ip {
        _ if ip.is_loopback() => "loopback",
        _ if is_bogon(ip) => "bogon",
        _ => "good",
    };
    RuntimeMeSelftestIpFamilyData {
        addr: ip.to_string(),
        state,
    }
}
