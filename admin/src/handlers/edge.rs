//! runtime/connections/summary, runtime/events/recent.

use std::{cmp::Reverse, sync::Arc};

use shards::counters::UserCounters;

use super::ApiState;
use crate::{
    cache::Cached,
    model::{
        FEATURE_DISABLED, SOURCE_UNAVAILABLE,
        edge::{
            RuntimeEdgeConnectionCacheData, RuntimeEdgeConnectionTelemetryData,
            RuntimeEdgeConnectionTopData, RuntimeEdgeConnectionTotalsData,
            RuntimeEdgeConnectionUserData, RuntimeEdgeConnectionsSummaryData,
            RuntimeEdgeConnectionsSummaryPayload, RuntimeEdgeEventsData,
        },
    },
    plane::{PlaneSnapshot, Running, now_epoch_secs},
    route::query_value,
};

/// What the cache holds of a connection summary.
#[derive(Clone)]
pub(super) struct Summary {
    generated_at_epoch_secs: u64,
    totals: RuntimeEdgeConnectionTotalsData,
    top: Arc<RuntimeEdgeConnectionTopData>,
}

impl ApiState {
    pub(super) fn connections_summary(&self) -> RuntimeEdgeConnectionsSummaryData {
        if !self.settings.runtime_edge_enabled {
            return without_summary(false, FEATURE_DISABLED);
        }
        let running = self.plane.running();
        let limit = self.settings.runtime_edge_top_n;
        let compute = || {
            self.plane
                .snapshot()
                .map(|all| summarize(&running, &all, limit))
        };
        let (summary, served_from_cache, stale_cache_used) = match self.connections.get(compute) {
            None => return without_summary(true, SOURCE_UNAVAILABLE),
            Some(Cached::Fresh(summary)) => (summary, false, false),
            Some(Cached::Hit(summary)) => (summary, true, false),
            Some(Cached::Stale(summary)) => (summary, true, true),
        };
        RuntimeEdgeConnectionsSummaryData {
            enabled: true,
            reason: None,
            generated_at_epoch_secs: summary.generated_at_epoch_secs,
            data: Some(RuntimeEdgeConnectionsSummaryPayload {
                cache: RuntimeEdgeConnectionCacheData {
                    ttl_ms: self.settings.runtime_edge_cache_ttl_ms,
                    served_from_cache,
                    stale_cache_used,
                },
                totals: summary.totals,
                top: RuntimeEdgeConnectionTopData::clone(&summary.top),
                telemetry: RuntimeEdgeConnectionTelemetryData {
                    user_enabled: running.telemetry.user_enabled,
                    throughput_is_cumulative: true,
                },
            }),
        }
    }

    pub(super) fn events_recent(&self, target: &str) -> RuntimeEdgeEventsData {
        let enabled = self.settings.runtime_edge_enabled;
        let limit = event_limit(query_value(target, "limit"), self.events.capacity());
        RuntimeEdgeEventsData {
            enabled,
            reason: (!enabled).then_some(FEATURE_DISABLED),
            generated_at_epoch_secs: now_epoch_secs(),
            data: enabled.then(|| self.events.newest(limit)),
        }
    }
}

/// Default 50, clamped to 1..=1000 and to the capacity. Source: control-api.md 15.
fn event_limit(value: Option<&str>, capacity: usize) -> usize {
    let limit = value
        .and_then(|text| text.parse().ok())
        .unwrap_or(EVENTS_DEFAULT);
    limit.clamp(1, EVENTS_MAX).min(capacity)
}

fn without_summary(enabled: bool, reason: &'static str) -> RuntimeEdgeConnectionsSummaryData {
    RuntimeEdgeConnectionsSummaryData {
        enabled,
        reason: Some(reason),
        generated_at_epoch_secs: now_epoch_secs(),
        data: None,
    }
}

fn summarize(running: &Running, snapshot: &PlaneSnapshot, limit: usize) -> Summary {
    let users = running.users.iter();
    let rows: Vec<_> = users
        .filter_map(|(id, name)| {
            let counters = snapshot.total.users.get(id)?;
            Some(RuntimeEdgeConnectionUserData {
                username: Arc::clone(name),
                current_connections: counters.current_connections,
                total_octets: octets(counters),
            })
        })
        .filter(|row| row.current_connections > 0 || row.total_octets > 0)
        .collect();
    let current = rows
        .iter()
        .map(|row| row.current_connections)
        .fold(0, u64::saturating_add);
    // Sessions of users that are gone are among those of the routes, and not shown.
    let through_me = snapshot.total.sessions_me.min(current);
    Summary {
        generated_at_epoch_secs: now_epoch_secs(),
        totals: RuntimeEdgeConnectionTotalsData {
            current_connections: current,
            current_connections_me: through_me,
            current_connections_direct: current - through_me,
            active_users: rows
                .iter()
                .filter(|row| row.current_connections > 0)
                .count(),
        },
        top: Arc::new(RuntimeEdgeConnectionTopData {
            limit,
            by_connections: top(&rows, limit, |row| row.current_connections),
            by_throughput: top(&rows, limit, |row| row.total_octets),
        }),
    }
}

/// The `limit` rows with the most, ties by name.
fn top(
    rows: &[RuntimeEdgeConnectionUserData],
    limit: usize,
    amount: impl Fn(&RuntimeEdgeConnectionUserData) -> u64,
) -> Vec<RuntimeEdgeConnectionUserData> {
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_unstable_by(|a, b| {
        (Reverse(amount(a)), &a.username).cmp(&(Reverse(amount(b)), &b.username))
    });
    sorted.into_iter().take(limit).cloned().collect()
}

/// Both directions added.
pub(super) fn octets(counters: &UserCounters) -> u64 {
    counters
        .octets_from_client
        .saturating_add(counters.octets_to_client)
}

const EVENTS_DEFAULT: usize = 50;
const EVENTS_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_limits_are_clamped() {
        for (text, expected) in [
            (None, 50),
            (Some("1"), 1),
            (Some("0"), 1),
            (Some("abc"), 50),
            (Some("-1"), 50),
            (Some(""), 50),
            (Some("100000"), 256),
        ] {
            assert_eq!(event_limit(text, 256), expected, "{text:?}");
        }
        assert_eq!(event_limit(None, 16), 16);
        assert_eq!(event_limit(Some("5000"), 4_096), 1_000);
    }

    #[test]
    fn leader_boards_descend_with_ties_by_name() {
        let names = ["b", "a", "idle", "c"];
        let counts = [(1, 10), (1, 30), (0, 0), (5, 0)];
        let running = Running {
            users: names.map(Arc::from).into_iter().collect(),
            ..Running::default()
        };
        let mut snapshot = PlaneSnapshot::default();
        snapshot.total.users = counts
            .map(|(current_connections, octets_to_client)| UserCounters {
                current_connections,
                octets_to_client,
                ..UserCounters::default()
            })
            .to_vec();
        let summary = summarize(&running, &snapshot, 2);
        let names = |rows: &[RuntimeEdgeConnectionUserData]| -> Vec<String> {
            rows.iter().map(|row| row.username.to_string()).collect()
        };
        assert_eq!(names(&summary.top.by_connections), ["c", "a"]);
        assert_eq!(names(&summary.top.by_throughput), ["a", "b"]);
        assert_eq!(
            (
                summary.totals.current_connections,
                summary.totals.active_users
            ),
            (7, 3)
        );
    }
}
