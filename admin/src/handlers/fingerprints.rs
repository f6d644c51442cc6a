//! runtime/tls-fingerprints.

use std::cmp::Reverse;

use shards::control::{FingerprintRow, FingerprintScope, TlsFingerprints};

use super::ApiState;
use crate::{
    model::{
        FEATURE_DISABLED,
        fingerprints::{
            RuntimeEdgeTlsFingerprintRow, RuntimeEdgeTlsFingerprintsData,
            RuntimeEdgeTlsFingerprintsPayload,
        },
    },
    plane::now_epoch_secs,
    route::query_value,
    users::UserNames,
};

impl ApiState {
    pub(super) fn tls_fingerprints(&self, target: &str) -> RuntimeEdgeTlsFingerprintsData {
        let enabled = self.settings.runtime_edge_enabled;
        let limit = query_value(target, "limit").and_then(|text| text.parse().ok());
        let limit = limit.unwrap_or(self.settings.runtime_edge_top_n);
        let data = enabled.then(|| {
            // The contract knows no state without data: until a shard has answered, all is empty.
            let seen = self.plane.tls_fingerprints().unwrap_or_default();
            let users = &self.plane.running().users;
            payload(seen, users, limit.clamp(1, ROWS_MAX))
        });
        RuntimeEdgeTlsFingerprintsData {
            enabled,
            reason: (!enabled).then_some(FEATURE_DISABLED),
            generated_at_epoch_secs: now_epoch_secs(),
            data,
        }
    }
}

fn payload(
    seen: TlsFingerprints,
    users: &UserNames,
    limit: usize,
) -> RuntimeEdgeTlsFingerprintsPayload {
    let mut payload = RuntimeEdgeTlsFingerprintsPayload {
        limit,
        retention_secs: seen.retention_secs,
        capacity: seen.capacity,
        dropped_total: seen.dropped_total,
        parse_error_total: seen.parse_error_total,
        by_fingerprint: Vec::new(),
        by_ip: Vec::new(),
        by_cidr: Vec::new(),
        by_user: Vec::new(),
    };
    let mut rows = seen.rows;
    // Most first; ties in an order of their own, so that two answers do not differ by chance.
    rows.sort_unstable_by(|a, b| {
        (Reverse(total(a)), a.scope, &a.kind.ja4).cmp(&(Reverse(total(b)), b.scope, &b.kind.ja4))
    });
    for found in rows {
        let (list, scope) = match found.scope {
            FingerprintScope::All => (&mut payload.by_fingerprint, None),
            FingerprintScope::Address(ip) => (&mut payload.by_ip, Some(ip.to_string())),
            FingerprintScope::Network(net) => (&mut payload.by_cidr, Some(net.to_string())),
            FingerprintScope::User(id) => {
                let name = usize::try_from(id).ok().and_then(|id| users.name(id));
                let Some(name) = name else { continue };
                (&mut payload.by_user, Some(name.to_string()))
            }
        };
        if list.len() < limit {
            list.push(row(found, scope));
        }
    }
    payload
}

fn row(found: FingerprintRow, scope: Option<String>) -> RuntimeEdgeTlsFingerprintRow {
    RuntimeEdgeTlsFingerprintRow {
        scope,
        total: total(&found),
        ja3: found.kind.ja3,
        ja3_raw: found.kind.ja3_raw,
        ja4: found.kind.ja4,
        ja4_raw: found.kind.ja4_raw,
        auth_success: found.auth_success,
        bad_or_probe: found.bad_or_probe,
        first_seen_epoch_secs: found.first_seen_epoch_secs,
        last_seen_epoch_secs: found.last_seen_epoch_secs,
    }
}

fn total(row: &FingerprintRow) -> u64 {
    row.auth_success.saturating_add(row.bad_or_probe)
}

/// Source: v1.json, `query_parameters.limit_tls`.
const ROWS_MAX: usize = 1_000;
