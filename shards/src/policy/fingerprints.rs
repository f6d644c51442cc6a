//! How often each kind of TLS client came, in all and by address, network and user.
//!
//! Rows are kept by JA4, which does not change when a client shuffles its extensions; the JA3 shown
//! is that of the last hello. Bounded in number and in age; what finds no room is counted.
//!
//! Not here: reading a hello (`proto/faketls/fingerprint.rs`).

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    rc::Rc,
};

use ipnet::IpNet;

use crate::{
    control::{FingerprintRow, FingerprintScope, TlsFingerprints},
    policy::users::UserId,
    proto::faketls::fingerprint::Fingerprint,
};

/// What is known of TLS clients on one shard.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    /// By JA4.
    kinds: HashMap<Rc<str>, Fingerprint>,
    counts: HashMap<(FingerprintScope, Rc<str>), Count>,
    dropped_total: u64,
    parse_error_total: u64,
    /// Unix time of the last walk for old rows: a full table is not walked for every hello.
    tidied_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    auth_success: u64,
    bad_or_probe: u64,
    first_seen: u64,
    last_seen: u64,
}

/// Rows of all scopes together, per shard: about a mebibyte.
const ROWS_MAX: usize = 4096;
/// A row not seen for this long goes.
const RETENTION_SECS: u64 = 6 * 3600;
/// Pause between two walks over a full table.
const TIDY_EVERY_SECS: u64 = 10;

impl Fingerprints {
    /// Counts a hello; `user` is set when a secret fitted.
    pub(crate) fn note(&mut self, hello: &[u8], from: IpAddr, user: Option<UserId>, now: u64) {
        let Ok(kind) = Fingerprint::of(hello) else {
            self.parse_error_total += 1;
            return;
        };
        let name = match self.kinds.get_key_value(kind.ja4.as_str()) {
            Some((name, _)) => Rc::clone(name),
            None => Rc::from(kind.ja4.as_str()),
        };
        let scopes = [
            Some(FingerprintScope::All),
            Some(FingerprintScope::Address(from)),
            network(from).map(FingerprintScope::Network),
            user.map(|user| FingerprintScope::User(user.0)),
        ];
        let mut kept = false;
        for scope in scopes.into_iter().flatten() {
            kept |= self.count(scope, &name, user.is_some(), now);
        }
        if kept {
            self.kinds.insert(name, kind);
        }
    }

    fn count(&mut self, scope: FingerprintScope, name: &Rc<str>, known: bool, now: u64) -> bool {
        if self.counts.len() >= ROWS_MAX && now >= self.tidied_at + TIDY_EVERY_SECS {
            self.tidy(now);
        }
        let full = self.counts.len() >= ROWS_MAX;
        let count = match self.counts.entry((scope, Rc::clone(name))) {
            Entry::Occupied(row) => row.into_mut(),
            Entry::Vacant(_) if full => {
                self.dropped_total += 1;
                return false;
            }
            Entry::Vacant(row) => row.insert(Count {
                auth_success: 0,
                bad_or_probe: 0,
                first_seen: now,
                last_seen: now,
            }),
        };
        count.auth_success += u64::from(known);
        count.bad_or_probe += u64::from(!known);
        count.last_seen = now;
        true
    }

    fn tidy(&mut self, now: u64) {
        self.tidied_at = now;
        self.counts
            .retain(|_, count| now.saturating_sub(count.last_seen) <= RETENTION_SECS);
        // Each row holds its name once more.
        self.kinds.retain(|name, _| Rc::strong_count(name) > 1);
    }

    /// Drops the rows of a user whose id may come to mean another one.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "comes into use with changes of users")
    )]
    pub(crate) fn forget(&mut self, user: UserId) {
        let scope = FingerprintScope::User(user.0);
        self.counts.retain(|(of, _), _| *of != scope);
    }

    /// A copy of everything not too old.
    pub(crate) fn rows(&mut self, now: u64) -> TlsFingerprints {
        self.tidy(now);
        let row = |((scope, name), count): (&(FingerprintScope, Rc<str>), &Count)| {
            let kind = self.kinds.get(name)?.clone();
            Some(FingerprintRow {
                scope: *scope,
                kind,
                auth_success: count.auth_success,
                bad_or_probe: count.bad_or_probe,
                first_seen_epoch_secs: count.first_seen,
                last_seen_epoch_secs: count.last_seen,
            })
        };
        TlsFingerprints {
            capacity: ROWS_MAX,
            retention_secs: RETENTION_SECS,
            dropped_total: self.dropped_total,
            parse_error_total: self.parse_error_total,
            rows: self.counts.iter().filter_map(row).collect(),
        }
    }
}

/// The /24 or /56 around an address.
fn network(ip: IpAddr) -> Option<IpNet> {
    let prefix = if ip.is_ipv4() { 24 } else { 56 };
    IpNet::new(ip, prefix).ok().map(|net| net.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        faketls::client_hello::{HelloKind, build_hello},
        secret::Secret,
    };

    fn hello(kind: HelloKind) -> Vec<u8> {
        let mut next = 1_u8;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                next = next.wrapping_mul(31).wrapping_add(17);
                *byte = next;
            }
        };
        build_hello(&mut random, &Secret([7; 16]), "example.com", 5, kind)
    }

    #[test]
    fn counts_by_everything_the_contract_lists() {
        let mut table = Fingerprints::default();
        let from: IpAddr = "192.0.2.77".parse().unwrap();
        let hello = hello(HelloKind::Classic517);
        table.note(&hello, from, Some(UserId(3)), 100);
        table.note(&hello, from, None, 200);
        table.note(b"no hello", from, None, 200);
        let all = table.rows(200);
        assert_eq!((all.rows.len(), all.parse_error_total), (4, 1));
        let of = |scope| all.rows.iter().find(|row| row.scope == scope).unwrap();
        let net = "192.0.2.0/24".parse().unwrap();
        for scope in [
            FingerprintScope::All,
            FingerprintScope::Address(from),
            FingerprintScope::Network(net),
        ] {
            let row = of(scope);
            assert_eq!((row.auth_success, row.bad_or_probe), (1, 1));
            let seen = (row.first_seen_epoch_secs, row.last_seen_epoch_secs);
            assert_eq!(seen, (100, 200));
        }
        assert_eq!(of(FingerprintScope::User(3)).auth_success, 1);
        table.forget(UserId(3));
        assert_eq!(table.rows(200).rows.len(), 3);
    }

    #[test]
    fn number_and_age_of_rows_are_bounded() {
        let mut table = Fingerprints::default();
        let hello = hello(HelloKind::PostQuantum);
        for index in 0..10_000_u32 {
            table.note(&hello, IpAddr::V4(index.into()), None, 5);
        }
        let full = table.rows(5);
        assert_eq!(full.rows.len(), ROWS_MAX);
        assert!(full.dropped_total > 0);
        table.note(
            &hello,
            IpAddr::V4(0x0900_0001.into()),
            None,
            6 + RETENTION_SECS,
        );
        assert_eq!(table.rows(6 + RETENTION_SECS).rows.len(), 3);
    }
}
