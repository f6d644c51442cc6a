//! Rates as points in time: when what was let through so far is paid for.
//!
//! A [`Bucket`] is one atomic, shared by all shards: the time by which everything charged so far
//! fits the rate (GCRA's theoretical arrival time). Charging moves it on; whoever is told a time
//! ahead of now stops reading until then. Each keeps to the time of its own charge, so many
//! sessions of one user take turns without a queue, and all of them together are ahead of the rate
//! by [`DEPTH_NS`] and one receive each at most, however long they run.
//!
//! ```text
//!   paid for ────────────┐ slack ┌── stop reading until here
//!   ───────────┬─────────┴───────┴──────> time
//!              now
//! ```
//!
//! Which networks share a bucket is in `nets.rs`; who charges in `meter.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Millis;

/// Bytes of one direction that several sessions share.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

/// Nanoseconds since the plane started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PaidUntil(u64);

/// Unused time that may be made up for: what timers fire late, and the burst of one that was idle.
const DEPTH_NS: u64 = 20 * MS;
/// How far ahead a session may be before it pauses: else it would pause after every buffer.
const SLACK_NS: u64 = 10 * MS;
const MS: u64 = 1_000_000;
/// What one receive may take, as time at the rate.
const RECEIVE_MS: u64 = 20;
/// Less than this at once costs more than it is good for.
const RECEIVE_BYTES_MIN: u64 = 1_024;

impl Bucket {
    /// Lets so many bytes through at `bps` bits per second (not 0); when they are paid for.
    pub(crate) fn charge(&self, bytes: usize, bps: u64, now: Millis) -> PaidUntil {
        let cost = (bytes as u64).saturating_mul(8 * 1_000 * MS) / bps.max(1);
        let least = now.0.saturating_mul(MS).saturating_sub(DEPTH_NS);
        let mut paid = self.0.load(Ordering::Relaxed);
        loop {
            let next = paid.max(least).saturating_add(cost);
            let swapped =
                self.0
                    .compare_exchange_weak(paid, next, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return PaidUntil(next),
                Err(seen) => paid = seen,
            }
        }
    }

    /// Forgets what is not paid for: the rate is another one.
    pub(crate) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// When everything so far is paid for, nanoseconds.
    pub(super) fn paid_until(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl PaidUntil {
    /// Until when to read no more; `None` to go on.
    pub(crate) fn pause(self, now: Millis) -> Option<Millis> {
        let ahead = self.0.saturating_sub(now.0.saturating_mul(MS));
        (ahead > SLACK_NS).then(|| Millis(self.0.div_ceil(MS)))
    }
}

/// What one receive may take at this rate so that it holds over a few seconds.
pub(crate) fn receive_bytes_max(bps: u64) -> u64 {
    (bps / 8 * RECEIVE_MS / 1_000).max(RECEIVE_BYTES_MIN)
}

#[cfg(test)]
mod tests;
