//! `RuntimeEdgeTlsFingerprintsData`.

use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct RuntimeEdgeTlsFingerprintsData {
    pub(crate) enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'static str>,
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) data: Option<RuntimeEdgeTlsFingerprintsPayload>,
}

#[derive(Serialize)]
pub(crate) struct RuntimeEdgeTlsFingerprintsPayload {
    pub(crate) limit: usize,
    pub(crate) retention_secs: u64,
    pub(crate) capacity: usize,
    pub(crate) dropped_total: u64,
    pub(crate) parse_error_total: u64,
    pub(crate) by_fingerprint: Vec<RuntimeEdgeTlsFingerprintRow>,
    pub(crate) by_ip: Vec<RuntimeEdgeTlsFingerprintRow>,
    pub(crate) by_cidr: Vec<RuntimeEdgeTlsFingerprintRow>,
    pub(crate) by_user: Vec<RuntimeEdgeTlsFingerprintRow>,
}

#[derive(Serialize)]
pub(crate) struct RuntimeEdgeTlsFingerprintRow {
    /// Not in `by_fingerprint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    pub(crate) ja3: String,
    pub(crate) ja3_raw: String,
    pub(crate) ja4: String,
    pub(crate) ja4_raw: String,
    pub(crate) total: u64,
    pub(crate) auth_success: u64,
    pub(crate) bad_or_probe: u64,
    pub(crate) first_seen_epoch_secs: u64,
    pub(crate) last_seen_epoch_secs: u64,
}
