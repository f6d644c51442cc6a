//! `HealthData`, `HealthReadyData`, `SystemInfoData`.

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct HealthData {
    pub(crate) status: &'static str,
    pub(crate) read_only: bool,
}

#[derive(Serialize)]
pub(crate) struct HealthReadyData {
    pub(crate) ready: bool,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) admission_open: bool,
    pub(crate) healthy_upstreams: usize,
    pub(crate) total_upstreams: usize,
}

#[derive(Serialize)]
pub(crate) struct SystemInfoData<'a> {
    pub(crate) version: &'a str,
    pub(crate) target_arch: &'a str,
    pub(crate) target_os: &'a str,
    pub(crate) build_profile: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) git_commit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) build_time_utc: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rustc_version: Option<&'a str>,
    pub(crate) process_started_at_epoch_secs: u64,
    pub(crate) uptime_seconds: f64,
    pub(crate) config_path: &'a str,
    pub(crate) config_hash: &'a str,
    pub(crate) config_reload_count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_config_reload_epoch_secs: Option<u64>,
}
