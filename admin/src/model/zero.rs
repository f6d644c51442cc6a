//! `ZeroAllData` and its parts. Parts that are nothing but counters are written straight from the
//! counter rows; a test compares those with `v1.json`.

use serde::{Serialize, Serializer, ser::SerializeMap};
use shards::counters::{DesyncCounters, MeCounters, PoolCounters, Row, UpstreamCounters};

use super::summary::{ClassCount, StageCount};

#[derive(Serialize)]
pub(crate) struct ZeroAllData {
    pub(crate) generated_at_epoch_secs: u64,
    pub(crate) core: ZeroCoreData,
    pub(crate) upstream: ZeroUpstreamData,
    pub(crate) middle_proxy: ZeroMiddleProxyData,
    pub(crate) pool: ZeroPoolData,
    pub(crate) desync: ZeroDesyncData,
}

#[derive(Serialize)]
pub(crate) struct ZeroCoreData {
    pub(crate) uptime_seconds: f64,
    pub(crate) connections_total: u64,
    pub(crate) connections_bad_total: u64,
    pub(crate) connections_bad_by_class: Vec<ClassCount>,
    pub(crate) handshake_failures_by_class: Vec<ClassCount>,
    pub(crate) handshake_failures_by_stage: Vec<StageCount>,
    pub(crate) handshake_timeouts_total: u64,
    pub(crate) accept_permit_timeout_total: u64,
    pub(crate) configured_users: usize,
    pub(crate) telemetry_core_enabled: bool,
    pub(crate) telemetry_user_enabled: bool,
    pub(crate) telemetry_me_level: &'static str,
    pub(crate) conntrack_control_enabled: bool,
    pub(crate) conntrack_control_available: bool,
    pub(crate) conntrack_pressure_active: bool,
    pub(crate) conntrack_event_queue_depth: u64,
    pub(crate) conntrack_rule_apply_ok: bool,
    pub(crate) conntrack_delete_attempt_total: u64,
    pub(crate) conntrack_delete_success_total: u64,
    pub(crate) conntrack_delete_not_found_total: u64,
    pub(crate) conntrack_delete_error_total: u64,
    pub(crate) conntrack_close_event_drop_total: u64,
}

/// `ZeroUpstreamData`.
pub(crate) struct ZeroUpstreamData(pub(crate) UpstreamCounters);

/// `ZeroMiddleProxyData`: counters, and the error codes of ME handshakes among them.
pub(crate) struct ZeroMiddleProxyData {
    pub(crate) counters: MeCounters,
    pub(crate) handshake_error_codes: Vec<ZeroCodeCount>,
}

/// `ZeroPoolData`.
pub(crate) struct ZeroPoolData(pub(crate) PoolCounters);

/// `ZeroDesyncData`.
pub(crate) struct ZeroDesyncData(pub(crate) DesyncCounters);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ZeroCodeCount {
    pub(crate) code: i32,
    pub(crate) total: u64,
}

impl Serialize for ZeroUpstreamData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs(UpstreamCounters::ROWS, &self.0.values()))
    }
}

impl Serialize for ZeroMiddleProxyData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(MeCounters::ROWS.len() + 1))?;
        for (name, value) in pairs(MeCounters::ROWS, &self.counters.values()) {
            map.serialize_entry(name, &value)?;
            if name == "handshake_reject_total" {
                map.serialize_entry("handshake_error_codes", &self.handshake_error_codes)?;
            }
        }
        map.end()
    }
}

impl Serialize for ZeroPoolData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs(PoolCounters::ROWS, &self.0.values()))
    }
}

impl Serialize for ZeroDesyncData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(pairs(DesyncCounters::ROWS, &self.0.values()))
    }
}

fn pairs<'a>(rows: &'a [Row], values: &'a [u64]) -> impl ExactSizeIterator<Item = (&'a str, u64)> {
    rows.iter()
        .zip(values)
        .map(|(row, value)| (row.name, *value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field names of a contract type, as far as they are plain counters.
    fn contract_counters(name: &str) -> Vec<String> {
        let contract: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/v1.json")).unwrap();
        let fields = contract["types"][name]["fields"].as_array().unwrap();
        fields
            .iter()
            .filter(|field| field["type"] == "u64")
            .map(|field| field["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn names(rows: &[Row]) -> Vec<String> {
        rows.iter().map(|row| row.name.to_owned()).collect()
    }

    #[test]
    fn counter_rows_are_those_of_the_contract() {
        assert_eq!(
            names(UpstreamCounters::ROWS),
            contract_counters("ZeroUpstreamData")
        );
        assert_eq!(
            names(MeCounters::ROWS),
            contract_counters("ZeroMiddleProxyData")
        );
        assert_eq!(names(PoolCounters::ROWS), contract_counters("ZeroPoolData"));
        assert_eq!(
            names(DesyncCounters::ROWS),
            contract_counters("ZeroDesyncData")
        );
    }
}
