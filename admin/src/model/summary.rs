//! `SummaryData`, `ClassCount`, `StageCount`.

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct SummaryData {
    pub(crate) uptime_seconds: f64,
    pub(crate) connections_total: u64,
    pub(crate) connections_bad_total: u64,
    pub(crate) connections_bad_by_class: Vec<ClassCount>,
    pub(crate) handshake_failures_by_class: Vec<ClassCount>,
    pub(crate) handshake_failures_by_stage: Vec<StageCount>,
    pub(crate) handshake_timeouts_total: u64,
    pub(crate) configured_users: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ClassCount {
    pub(crate) class: &'static str,
    pub(crate) total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct StageCount {
    pub(crate) stage: &'static str,
    pub(crate) total: u64,
}
