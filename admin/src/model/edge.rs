//! `RuntimeEdgeConnectionsSummaryData`, `RuntimeEdgeEventsData`.

use std::sync::Arc;

use serde::Serialize;

use crate::events::RuntimeEdgeEventsPayload;

#[derive(Serialize)]
pub(crate) struct RuntimeEdgeConnectionsSummaryData {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) data: Option<RuntimeEdgeConnectionsSummaryPayload>,
}

#[derive(Clone, Serialize)]
pub(crate) struct RuntimeEdgeConnectionsSummaryPayload {
    pub(crate) cache: RuntimeEdgeConnectionCacheData,
    pub(crate) totals: RuntimeEdgeConnectionTotalsData,
    pub(crate) top: RuntimeEdgeConnectionTopData,
    pub(crate) telemetry: RuntimeEdgeConnectionTelemetryData,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct RuntimeEdgeConnectionCacheData {
    pub(crate) ttl_ms: u64,
    pub(crate) served_from_cache: bool,
    pub(crate) stale_cache_used: bool,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct RuntimeEdgeConnectionTotalsData {
    pub(crate) current_connections: u64,
    pub(crate) current_connections_me: u64,
    pub(crate) current_connections_direct: u64,
    pub(crate) active_users: usize,
}

#[derive(Clone, Serialize)]
pub(crate) struct RuntimeEdgeConnectionTopData {
    pub(crate) limit: usize,
    pub(crate) by_connections: Vec<RuntimeEdgeConnectionUserData>,
    pub(crate) by_throughput: Vec<RuntimeEdgeConnectionUserData>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct RuntimeEdgeConnectionUserData {
    #[serde(serialize_with = "name")]
    pub(crate) username: Arc<str>,
    pub(crate) current_connections: u64,
    pub(crate) total_octets: u64,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct RuntimeEdgeConnectionTelemetryData {
    pub(crate) user_enabled: bool,
    pub(crate) throughput_is_cumulative: bool,
}

#[derive(Serialize)]
pub(crate) struct RuntimeEdgeEventsData {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) data: Option<RuntimeEdgeEventsPayload>,
}

fn name<S: serde::Serializer>(name: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}
