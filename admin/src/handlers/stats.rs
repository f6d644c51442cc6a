//! stats/summary, stats/zero/all.

use std::collections::BTreeMap;

use shards::{
    control::ShardSnapshot,
    counters::{BadClass, FailureClass, FailureStage},
};

use super::ApiState;
use crate::{
    model::{
        summary::{ClassCount, StageCount, SummaryData},
        zero::{
            ZeroAllData, ZeroCodeCount, ZeroCoreData, ZeroDesyncData, ZeroMiddleProxyData,
            ZeroPoolData, ZeroUpstreamData,
        },
    },
    plane::now_epoch_secs,
};

impl ApiState {
    pub(super) fn summary(&self) -> SummaryData {
        let snapshot = self.snapshot_or_zero();
        let total = &snapshot.total;
        SummaryData {
            uptime_seconds: self.plane.process().uptime_seconds(),
            connections_total: total.core.connections_total,
            connections_bad_total: total.core.connections_bad_total,
            connections_bad_by_class: bad_by_class(total),
            handshake_failures_by_class: failures_by_class(total),
            handshake_failures_by_stage: failures_by_stage(total),
            handshake_timeouts_total: total.core.handshake_timeouts_total,
            configured_users: self.plane.running().users.len(),
        }
    }

    pub(super) fn zero_all(&self) -> ZeroAllData {
        let snapshot = self.snapshot_or_zero();
        let total = &snapshot.total;
        ZeroAllData {
            generated_at_epoch_secs: now_epoch_secs(),
            core: self.zero_core(total),
            upstream: ZeroUpstreamData(total.upstream),
            middle_proxy: ZeroMiddleProxyData {
                counters: total.me,
                handshake_error_codes: error_codes(&total.handshake_error_codes),
            },
            pool: ZeroPoolData(total.pool),
            desync: ZeroDesyncData(total.desync),
        }
    }

    fn zero_core(&self, total: &ShardSnapshot) -> ZeroCoreData {
        let running = self.plane.running();
        let conntrack = self.plane.conntrack();
        ZeroCoreData {
            uptime_seconds: self.plane.process().uptime_seconds(),
            connections_total: total.core.connections_total,
            connections_bad_total: total.core.connections_bad_total,
            connections_bad_by_class: bad_by_class(total),
            handshake_failures_by_class: failures_by_class(total),
            handshake_failures_by_stage: failures_by_stage(total),
            handshake_timeouts_total: total.core.handshake_timeouts_total,
            accept_permit_timeout_total: total.core.accept_permit_timeout_total,
            configured_users: running.users.len(),
            telemetry_core_enabled: running.telemetry.core_enabled,
            telemetry_user_enabled: running.telemetry.user_enabled,
            telemetry_me_level: running.telemetry.me_level,
            conntrack_control_enabled: running.conntrack_enabled,
            conntrack_control_available: conntrack.available,
            conntrack_pressure_active: conntrack.pressure_active,
            conntrack_event_queue_depth: conntrack.event_queue_depth,
            conntrack_rule_apply_ok: conntrack.rule_apply_ok,
            conntrack_delete_attempt_total: conntrack.delete_attempt_total,
            conntrack_delete_success_total: conntrack.delete_success_total,
            conntrack_delete_not_found_total: conntrack.delete_not_found_total,
            conntrack_delete_error_total: conntrack.delete_error_total,
            conntrack_close_event_drop_total: conntrack.close_event_drop_total,
        }
    }
}

/// Ascending by code; the rest under [`CODE_OTHER`] when there are many. Source: middle-proxy.md
/// 26.1.
fn error_codes(totals: &[(i32, u64)]) -> Vec<ZeroCodeCount> {
    let mut rows = BTreeMap::new();
    for &(code, total) in totals {
        let room = rows.len() < CODES_MAX || rows.contains_key(&code);
        let code = if room { code } else { CODE_OTHER };
        let sum: &mut u64 = rows.entry(code).or_default();
        *sum = sum.saturating_add(total);
    }
    let rows = rows.into_iter();
    rows.map(|(code, total)| ZeroCodeCount { code, total })
        .collect()
}

fn bad_by_class(total: &ShardSnapshot) -> Vec<ClassCount> {
    let labels = BadClass::ALL.iter().map(|class| class.label());
    by_class(labels, &total.bad_by_class)
}

fn failures_by_class(total: &ShardSnapshot) -> Vec<ClassCount> {
    let labels = FailureClass::ALL.iter().map(|class| class.label());
    by_class(labels, &total.failures_by_class)
}

/// Classes that counted something, sorted by name.
fn by_class(labels: impl Iterator<Item = &'static str>, totals: &[u64]) -> Vec<ClassCount> {
    let mut rows: Vec<_> = labels
        .zip(totals)
        .filter(|(_, total)| **total > 0)
        .map(|(class, &total)| ClassCount { class, total })
        .collect();
    rows.sort_unstable_by_key(|row| row.class);
    rows
}

/// All stages: their set is closed.
fn failures_by_stage(total: &ShardSnapshot) -> Vec<StageCount> {
    let stages = FailureStage::ALL.iter().zip(&total.failures_by_stage);
    stages
        .map(|(stage, &total)| StageCount {
            stage: stage.label(),
            total,
        })
        .collect()
}

/// What a payload too short for a code counts under, too.
const CODE_OTHER: i32 = -1;
/// Codes shown; [`CODE_OTHER`] may come on top.
const CODES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_sorted_and_few_and_lose_nothing() {
        let few = error_codes(&[(-3, 2), (-7, 1), (-3, 5)]);
        let rows: Vec<_> = few.iter().map(|row| (row.code, row.total)).collect();
        assert_eq!(rows, [(-7, 1), (-3, 7)]);

        let many: Vec<_> = (0..200).map(|code| (code, 2)).collect();
        let rows = error_codes(&many);
        assert_eq!(rows.len(), 64);
        assert!(rows.is_sorted_by_key(|row| row.code));
        assert_eq!(rows.iter().map(|row| row.total).sum::<u64>(), 400);
        assert_eq!(rows.first().map(|row| row.code), Some(CODE_OTHER));
    }
}
