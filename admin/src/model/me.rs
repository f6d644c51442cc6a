//! Answers about the ME pool. Those without a switch have no payload yet: it comes with the pool.

use serde::Serialize;

use super::minimal::{
    DcStatus, MeWriterStatus, MeWritersSummary, MinimalDcPathData, MinimalMeRuntimeData,
};

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
pub(crate) struct MinimalAllData<'a> {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) data: Option<MinimalAllPayload<'a>>,
}

/// `MinimalAllPayload`; reduced when there is no pool.
#[derive(Serialize)]
pub(crate) struct MinimalAllPayload<'a> {
    pub(crate) me_writers: MeWritersData<'a>,
    pub(crate) dcs: DcStatusData<'a>,
    pub(crate) me_runtime: Option<&'a MinimalMeRuntimeData>,
    pub(crate) network_path: &'a [MinimalDcPathData],
}

#[derive(Serialize)]
pub(crate) struct MeWritersData<'a> {
    pub(crate) middle_proxy_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) summary: &'a MeWritersSummary,
    pub(crate) writers: &'a [MeWriterStatus],
}

#[derive(Serialize)]
pub(crate) struct DcStatusData<'a> {
    pub(crate) middle_proxy_enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) dcs: &'a [DcStatus],
}
