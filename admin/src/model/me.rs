//! Answers about the ME pool around what `minimal`, `pool_state`, `quality`, `nat_stun` and
//! `selftest` describe.

use serde::Serialize;

use super::{
    SOURCE_UNAVAILABLE,
    minimal::{
        DcStatus, MeWriterStatus, MeWritersSummary, MinimalDcPathData, MinimalMeRuntimeData,
    },
};

/// `RuntimeMePoolStateData`, `RuntimeMeQualityData`, `RuntimeNatStunData` and
/// `RuntimeMeSelftestData`, which differ in their payload.
#[derive(Serialize)]
pub(crate) struct RuntimePoolData<'a, T> {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    /// Null without a pool (conflict C2).
    pub(crate) data: Option<&'a T>,
}

impl<'a, T> RuntimePoolData<'a, T> {
    /// No switch turns these off: they are there when there is a pool (conflict C19).
    pub(crate) fn new(data: Option<&'a T>, generated_at_epoch_secs: u64) -> Self {
        Self {
            enabled: data.is_some(),
            reason: data.is_none().then_some(SOURCE_UNAVAILABLE),
            generated_at_epoch_secs,
            data,
        }
    }
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
