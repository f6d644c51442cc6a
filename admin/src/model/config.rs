//! `ConfigData`, `PatchConfigResponse`, `ReloadAccepted`, `ReloadStatus`.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::store::{self, ConfigPatched};

/// Sections the file does not have are left out.
#[derive(Serialize)]
pub(crate) struct ConfigData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    general: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeouts: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    censorship: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstreams: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    show_link: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dc_overrides: Option<&'a Value>,
}

impl<'a> ConfigData<'a> {
    /// Whatever else the map holds is not shown.
    pub(crate) fn new(sections: &'a Map<String, Value>) -> Self {
        Self {
            general: sections.get("general"),
            timeouts: sections.get("timeouts"),
            censorship: sections.get("censorship"),
            upstreams: sections.get("upstreams"),
            show_link: sections.get("show_link"),
            dc_overrides: sections.get("dc_overrides"),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct PatchConfigResponse<'a> {
    revision: &'a str,
    restart_required: bool,
    runtime_reload_required: bool,
    process_restart_required: bool,
    deferred_process_fields: &'a [String],
    changed: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    reload: Option<ReloadAccepted<'a>>,
}

impl<'a> PatchConfigResponse<'a> {
    pub(crate) fn new(patched: &'a ConfigPatched) -> Self {
        let restart = !patched.restart_keys.is_empty();
        Self {
            revision: &patched.revision.0,
            restart_required: restart,
            // Hot keys are in effect before the answer goes out; a reload could add nothing.
            runtime_reload_required: false,
            process_restart_required: restart,
            deferred_process_fields: &patched.restart_keys,
            changed: &patched.changed,
            reload: patched.reload.as_ref().map(ReloadAccepted::new),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct ReloadAccepted<'a> {
    reload_id: u64,
    target_generation: u64,
    config_revision: &'a str,
    state: &'static str,
    mode: &'static str,
    failure_policy: &'static str,
}

impl<'a> ReloadAccepted<'a> {
    pub(crate) fn new(accepted: &'a store::ReloadAccepted) -> Self {
        Self {
            reload_id: accepted.reload_id,
            target_generation: accepted.target_generation,
            config_revision: &accepted.config_revision.0,
            state: store::ReloadState::Accepted.label(),
            mode: accepted.mode.label(),
            failure_policy: accepted.failure_policy.label(),
        }
    }
}

#[derive(Serialize)]
pub(crate) struct ReloadStatus<'a> {
    reload_id: u64,
    target_generation: u64,
    config_revision: &'a str,
    state: &'static str,
    mode: &'static str,
    failure_policy: &'static str,
    requested_at_epoch_secs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at_epoch_secs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at_epoch_secs: Option<u64>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    deferred_process_fields: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

impl<'a> ReloadStatus<'a> {
    pub(crate) fn new(status: &'a store::ReloadStatus) -> Self {
        Self {
            reload_id: status.reload_id,
            target_generation: status.target_generation,
            config_revision: &status.config_revision.0,
            state: status.state.label(),
            mode: status.mode.label(),
            failure_policy: status.failure_policy.label(),
            requested_at_epoch_secs: status.requested_at_epoch_secs,
            started_at_epoch_secs: status.started_at_epoch_secs,
            finished_at_epoch_secs: status.finished_at_epoch_secs,
            deferred_process_fields: &status.deferred_process_fields,
            warnings: &status.warnings,
            error: status.error.as_deref(),
        }
    }
}
