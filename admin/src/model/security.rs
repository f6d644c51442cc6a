//! `SecurityPostureData`, `SecurityWhitelistData`.

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct SecurityPostureData {
    pub(crate) api_read_only: bool,
    pub(crate) api_whitelist_enabled: bool,
    pub(crate) api_whitelist_entries: usize,
    pub(crate) api_auth_header_enabled: bool,
    pub(crate) proxy_protocol_enabled: bool,
    pub(crate) log_level: &'static str,
    pub(crate) telemetry_core_enabled: bool,
    pub(crate) telemetry_user_enabled: bool,
    pub(crate) telemetry_me_level: &'static str,
}

#[derive(Serialize)]
pub(crate) struct SecurityWhitelistData {
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) enabled: bool,
    pub(crate) entries_total: usize,
    pub(crate) entries: Vec<String>,
}
