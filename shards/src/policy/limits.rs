//! What one user may, and the counters that all shards share to hold them to it.
//!
//! Not here: who is asked when (`admission.rs`, `meter.rs`), which user it is (`users.rs`). A
//! [`Gauge`] is made of atomics, so a limit is exact on any number of shards and nobody waits for
//! anybody; only the set of addresses is more than that, see `addresses.rs`.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

use super::{addresses::AddressSet, nets::Pair};
use crate::settings::{RateSettings, UserSettings};

/// Limits of one user, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Concurrent sessions; 0 is no limit.
    pub(crate) connections_max: u64,
    /// Source addresses; 0 is no limit.
    pub(crate) unique_ips_max: u64,
    /// Unix time, seconds.
    pub(crate) expires_at: Option<i64>,
    /// Payload bytes, both directions.
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) rate: RateSettings,
    /// Nets that are refused; `None` for none, which is what most users have.
    source_deny: Option<Arc<[IpNet]>>,
}

impl Limits {
    /// Takes over what the settings say.
    pub(crate) fn new(user: &UserSettings) -> Self {
        Self {
            connections_max: user.connections_max,
            unique_ips_max: user.unique_ips_max,
            expires_at: user.expires_at,
            quota_bytes: user.quota_bytes,
            rate: user.rate,
            source_deny: (!user.source_deny.is_empty()).then(|| user.source_deny.clone().into()),
        }
    }

    /// Whether `from` lies in a net that is refused.
    pub(crate) fn denies(&self, from: IpAddr) -> bool {
        self.source_deny
            .as_ref()
            .is_some_and(|nets| nets.iter().any(|net| net.contains(&from)))
    }

    /// Whether the user's time is over.
    pub(crate) fn is_expired(&self, now_unix: u64) -> bool {
        self.expires_at
            .is_some_and(|at| i64::try_from(now_unix).unwrap_or(i64::MAX) >= at)
    }
}

/// What one user uses, on all shards together.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    sessions: AtomicU64,
    used_bytes: AtomicU64,
    pub(crate) rates: Pair,
    pub(crate) addresses: AddressSet,
}

impl Gauge {
    /// A gauge that begins with so much of its quota used.
    pub(crate) fn new(used_bytes: u64) -> Self {
        Self {
            used_bytes: AtomicU64::new(used_bytes),
            ..Self::default()
        }
    }

    /// Takes a place for a session, of at most `max` (0: any number). Counts in any case, so that a
    /// limit set later is right.
    pub(crate) fn take_session(&self, max: u64) -> bool {
        let below = |open: u64| (max == 0 || open < max).then(|| open + 1);
        self.sessions
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, below)
            .is_ok()
    }

    /// Gives a place back.
    pub(crate) fn return_session(&self) {
        let before = self.sessions.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a place was given back twice");
    }

    /// Sessions now open.
    pub(crate) fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Acquire)
    }

    /// Uses so many bytes of the quota. When they do not fit, what is left of it is used up and
    /// false comes back: nobody else can begin a session that could only end like this one.
    pub(crate) fn use_quota(&self, bytes: u64, quota: u64) -> bool {
        let mut used = self.used_bytes.load(Ordering::Relaxed);
        loop {
            let next = used.checked_add(bytes).filter(|next| *next <= quota);
            // A quota that was lowered: what was used stays.
            let set = next.unwrap_or_else(|| used.max(quota));
            let swapped = self.used_bytes.compare_exchange_weak(
                used,
                set,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return next.is_some(),
                Err(seen) => used = seen,
            }
        }
    }

    /// Uses so many bytes of the quota for an answer: it fits as long as no more than `overshoot`
    /// bytes are beyond the quota with it, and one that begins within the quota is used whole.
    pub(crate) fn use_for_answer(&self, bytes: u64, quota: u64, overshoot: u64) -> AnswerFits {
        let mut used = self.used_bytes.load(Ordering::Relaxed);
        loop {
            let next = used.saturating_add(bytes);
            let fits = if next <= quota.saturating_add(overshoot) {
                AnswerFits::Yes
            } else if used < quota {
                AnswerFits::AsTheLast
            } else {
                return AnswerFits::No;
            };
            let swapped = self.used_bytes.compare_exchange_weak(
                used,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return fits,
                Err(seen) => used = seen,
            }
        }
    }

    /// Quota used.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Begins anew; what was used.
    pub(crate) fn reset_quota(&self) -> u64 {
        self.used_bytes.swap(0, Ordering::Relaxed)
    }
}

/// Whether an answer may still be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnswerFits {
    /// It may.
    Yes,
    /// It may, and nothing after it.
    AsTheLast,
    /// It may not.
    No,
}

#[cfg(test)]
mod tests;
