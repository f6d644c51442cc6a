//! `RuntimeGatesData`, `RuntimeInitializationData` and their parts.

use serde::Serialize;

use crate::{
    plane::{RerouteReason, RouteMode},
    startup::{StartupStatus, StepStatus},
};

#[derive(Serialize)]
pub(crate) struct RuntimeGatesData {
    pub(crate) accepting_new_connections: bool,
    pub(crate) conditional_cast_enabled: bool,
    pub(crate) me_runtime_ready: bool,
    pub(crate) me2dc_fallback_enabled: bool,
    pub(crate) me2dc_fast_enabled: bool,
    pub(crate) use_middle_proxy: bool,
    pub(crate) route_mode: &'static str,
    pub(crate) reroute_active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reroute_to_direct_at_epoch_secs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reroute_reason: Option<&'static str>,
    pub(crate) startup_status: &'static str,
    pub(crate) startup_stage: &'static str,
    pub(crate) startup_progress_pct: f64,
}

#[derive(Serialize)]
pub(crate) struct RuntimeInitializationData {
    pub(crate) status: &'static str,
    pub(crate) degraded: bool,
    pub(crate) current_stage: &'static str,
    pub(crate) progress_pct: f64,
    pub(crate) started_at_epoch_secs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready_at_epoch_secs: Option<u64>,
    pub(crate) total_elapsed_ms: u64,
    pub(crate) transport_mode: &'static str,
    pub(crate) me: RuntimeInitializationMeData,
    pub(crate) components: Vec<RuntimeInitializationComponentData>,
}

#[derive(Serialize)]
pub(crate) struct RuntimeInitializationMeData {
    pub(crate) status: &'static str,
    pub(crate) current_stage: &'static str,
    pub(crate) progress_pct: f64,
    pub(crate) init_attempt: u32,
    pub(crate) retry_limit: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct RuntimeInitializationComponentData {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) status: &'static str,
    pub(crate) started_at_epoch_ms: Option<u64>,
    pub(crate) finished_at_epoch_ms: Option<u64>,
    pub(crate) duration_ms: Option<u64>,
    pub(crate) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<String>,
}

impl StartupStatus {
    /// The contract's word.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl StepStatus {
    /// The contract's word.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

impl RouteMode {
    /// The contract's word.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Middle => "middle",
        }
    }
}

impl RerouteReason {
    /// The contract's word.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::FastNotReady => "fast_not_ready_fallback",
            Self::StrictGrace => "strict_grace_fallback",
        }
    }
}
