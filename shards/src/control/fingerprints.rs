//! TLS fingerprints of clients as shards report them.

use std::{collections::HashMap, net::IpAddr};

use ipnet::IpNet;

use crate::proto::faketls::fingerprint::Fingerprint;

/// What shards know of the TLS clients that came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFingerprints {
    /// Rows one shard keeps at most.
    pub capacity: usize,
    /// A row not seen for this long is dropped, seconds.
    pub retention_secs: u64,
    /// Rows that found no room.
    pub dropped_total: u64,
    /// Hellos that could not be read to their end.
    pub parse_error_total: u64,
    /// In no order.
    pub rows: Vec<FingerprintRow>,
}

/// One kind of client within one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FingerprintRow {
    /// Whose hellos are counted.
    pub scope: FingerprintScope,
    /// JA4 names the row; JA3 is that of its last hello.
    pub kind: Fingerprint,
    /// Hellos that a user's secret fitted.
    pub auth_success: u64,
    /// All others.
    pub bad_or_probe: u64,
    /// Unix time of the first hello.
    pub first_seen_epoch_secs: u64,
    /// Unix time of the last hello.
    pub last_seen_epoch_secs: u64,
}

/// Whose hellos a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FingerprintScope {
    /// Everybody's.
    All,
    /// One address's.
    Address(IpAddr),
    /// A /24's or /56's.
    Network(IpNet),
    /// One user's, by id.
    User(u32),
}

impl TlsFingerprints {
    /// Takes another shard's rows in.
    pub fn merge(&mut self, other: Self) {
        self.capacity = self.capacity.saturating_add(other.capacity);
        self.retention_secs = self.retention_secs.max(other.retention_secs);
        self.dropped_total = self.dropped_total.saturating_add(other.dropped_total);
        self.parse_error_total = self
            .parse_error_total
            .saturating_add(other.parse_error_total);
        let mut rows: HashMap<_, _> = self
            .rows
            .drain(..)
            .map(|row| ((row.scope, row.kind.ja4.clone()), row))
            .collect();
        for row in other.rows {
            let Some(same) = rows.get_mut(&(row.scope, row.kind.ja4.clone())) else {
                rows.insert((row.scope, row.kind.ja4.clone()), row);
                continue;
            };
            same.auth_success = same.auth_success.saturating_add(row.auth_success);
            same.bad_or_probe = same.bad_or_probe.saturating_add(row.bad_or_probe);
            same.first_seen_epoch_secs = same.first_seen_epoch_secs.min(row.first_seen_epoch_secs);
            if row.last_seen_epoch_secs > same.last_seen_epoch_secs {
                same.last_seen_epoch_secs = row.last_seen_epoch_secs;
                same.kind = row.kind;
            }
        }
        self.rows = rows.into_values().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(scope: FingerprintScope, ja3: &str, seen: u64) -> FingerprintRow {
        FingerprintRow {
            scope,
            kind: Fingerprint {
                ja3: ja3.to_owned(),
                ja3_raw: String::new(),
                ja4: "one".to_owned(),
                ja4_raw: String::new(),
            },
            auth_success: 1,
            bad_or_probe: 2,
            first_seen_epoch_secs: seen,
            last_seen_epoch_secs: seen,
        }
    }

    #[test]
    fn rows_of_one_scope_and_kind_become_one() {
        let all = FingerprintScope::All;
        let mut total = TlsFingerprints {
            rows: vec![row(all, "old", 5)],
            ..TlsFingerprints::default()
        };
        total.merge(TlsFingerprints {
            dropped_total: 3,
            rows: vec![row(all, "new", 9), row(FingerprintScope::User(1), "new", 9)],
            ..TlsFingerprints::default()
        });
        assert_eq!((total.rows.len(), total.dropped_total), (2, 3));
        let one = total.rows.iter().find(|row| row.scope == all).unwrap();
        assert_eq!((one.auth_success, one.bad_or_probe), (2, 4));
        assert_eq!(one.kind.ja3, "new");
        assert_eq!(
            (one.first_seen_epoch_secs, one.last_seen_epoch_secs),
            (5, 9)
        );
    }
}
