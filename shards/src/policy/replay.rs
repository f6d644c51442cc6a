//! Keys of hellos and headers seen before, shared by all shards of the process.
//!
//! A fixed table of 64-bit slots in buckets of 16; a slot holds 44 bits of a keyed hash and the
//! time in units of four seconds. "Insert if absent" is one compare-and-swap: two shards that get
//! the same key at once aim at the same slot (the first empty one, else the oldest), so exactly one
//! wins and the other looks again and finds it. Nobody waits and nothing is allocated.
//!
//! Source: protocol.md 3.7, 6.5, 6.6.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The store; one per process.
pub(crate) struct ReplayStore {
    slots: Box<[AtomicU64]>,
    /// Unguessable, so that nobody can aim keys at one bucket.
    hasher: RandomState,
    /// In units of [`TICK_SECS`].
    window: u64,
}

/// What kind of key: the same bytes of two kinds are different keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeyKind {
    /// First 16 bytes of a hello's random.
    Hello,
    /// Bytes 8..56 of an obfuscated2 header.
    Header,
}

/// The outcome of [`ReplayStore::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Never within the window; now remembered.
    Fresh {
        /// A key was forgotten before its time to make room.
        evicted_early: bool,
    },
    /// Within the window.
    Before,
}

/// Two cache lines. With 100,000 keys in a store for a million the chance that any bucket
/// overflows, so that a key is forgotten before its time, is one in ten million; with eight it was
/// 1.5 %.
const BUCKET: usize = 16;
/// Ticks an entry may lie in the future: one day. A window is at most half of all ticks.
const AHEAD_MAX: u64 = 86_400 / TICK_SECS;
const TICK_SECS: u64 = 4;
const TIME_BITS: u32 = 20;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

impl ReplayStore {
    /// Room for at least `entries` keys, remembered for `window` (at most 24 days).
    pub(crate) fn new(entries: usize, window: Duration) -> Self {
        let slots = entries.max(BUCKET).next_power_of_two();
        Self {
            slots: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            window: (window.as_secs() / TICK_SECS).clamp(1, TIME_MASK / 2),
        }
    }

    /// Whether the key was seen within the window, without remembering it.
    pub(crate) fn contains(&self, kind: KeyKind, key: &[u8], now_unix: u64) -> bool {
        let (bucket, print) = self.place(kind, key);
        let now = tick(now_unix);
        bucket
            .iter()
            .any(|slot| self.is_live(slot.load(Ordering::Acquire), print, now))
    }

    /// Remembers the key unless it was seen within the window.
    pub(crate) fn insert(&self, kind: KeyKind, key: &[u8], now_unix: u64) -> Seen {
        let (bucket, print) = self.place(kind, key);
        let now = tick(now_unix);
        loop {
            let mut target = (0, 0, 0);
            for (index, slot) in bucket.iter().enumerate() {
                let value = slot.load(Ordering::Acquire);
                if self.is_live(value, print, now) {
                    return Seen::Before;
                }
                let age = if value == 0 {
                    u64::MAX
                } else {
                    age(value, now)
                };
                if index == 0 || age > target.2 {
                    target = (index, value, age);
                }
            }
            let (index, old, age) = target;
            let new = print << TIME_BITS | now;
            let Some(slot) = bucket.get(index) else {
                return Seen::Before;
            };
            if slot
                .compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return Seen::Fresh {
                    evicted_early: age < self.window,
                };
            }
        }
    }

    fn is_live(&self, value: u64, print: u64, now: u64) -> bool {
        value >> TIME_BITS == print && age(value, now) <= self.window
    }

    /// The key's bucket and its print; never 0, which is an empty slot.
    fn place(&self, kind: KeyKind, key: &[u8]) -> (&[AtomicU64], u64) {
        let bucket = self.hasher.hash_one((kind, key));
        let print = self.hasher.hash_one((key, kind, 1_u8)) >> TIME_BITS;
        let buckets = self.slots.len() / BUCKET;
        // A power of two, so the mask keeps it in range.
        let start = (bucket as usize & (buckets - 1)) * BUCKET;
        (
            self.slots.get(start..start + BUCKET).unwrap_or_default(),
            print.max(1),
        )
    }
}

/// Ticks wrap after 48 days; a window is at most half of that.
fn tick(now_unix: u64) -> u64 {
    (now_unix / TICK_SECS) & TIME_MASK
}

fn age(value: u64, now: u64) -> u64 {
    let age = now.wrapping_sub(value & TIME_MASK) & TIME_MASK;
    // The clock may have been set back, or another shard's be ahead: that is no age of 48 days.
    if age > TIME_MASK - AHEAD_MAX { 0 } else { age }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    const FRESH: Seen = Seen::Fresh {
        evicted_early: false,
    };

    #[test]
    fn remembers_a_key_for_the_window() {
        let store = ReplayStore::new(1024, Duration::from_secs(100));
        assert_eq!(store.insert(KeyKind::Hello, b"one", 1_000), FRESH);
        assert_eq!(store.insert(KeyKind::Header, b"one", 1_000), FRESH);
        for now in [1_000, 1_004, 1_100] {
            assert_eq!(
                store.insert(KeyKind::Hello, b"one", now),
                Seen::Before,
                "at {now}"
            );
            assert!(store.contains(KeyKind::Hello, b"one", now));
        }
        assert!(!store.contains(KeyKind::Hello, b"one", 1_108));
        assert_eq!(store.insert(KeyKind::Hello, b"one", 1_108), FRESH);
    }

    #[test]
    fn a_clock_set_back_lets_nothing_in_again() {
        let store = ReplayStore::new(1024, Duration::from_secs(100));
        assert_eq!(store.insert(KeyKind::Hello, b"one", 100_000), FRESH);
        for now in [99_999, 99_000, 50_000] {
            assert_eq!(
                store.insert(KeyKind::Hello, b"one", now),
                Seen::Before,
                "at {now}"
            );
        }
    }

    #[test]
    fn forgets_the_oldest_first_and_says_so() {
        let store = ReplayStore::new(BUCKET, Duration::from_secs(1_000));
        for key in 0..BUCKET as u64 {
            assert_eq!(
                store.insert(KeyKind::Hello, &key.to_le_bytes(), 1_000 + key * 4),
                FRESH
            );
        }
        assert_eq!(
            store.insert(KeyKind::Hello, b"one more", 1_100),
            Seen::Fresh {
                evicted_early: true
            }
        );
        assert!(!store.contains(KeyKind::Hello, &0_u64.to_le_bytes(), 1_100));
        assert!(store.contains(KeyKind::Hello, &1_u64.to_le_bytes(), 1_100));
    }

    #[test]
    fn of_many_at_once_exactly_one_wins() {
        let store = ReplayStore::new(4096, Duration::from_secs(1_000));
        for round in 0..2_000_u64 {
            let wins = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        let seen = store.insert(KeyKind::Hello, &round.to_le_bytes(), 1_000);
                        // Some buckets are full by now, and forget another key.
                        if matches!(seen, Seen::Fresh { .. }) {
                            wins.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(wins.into_inner(), 1, "round {round}");
        }
    }
}
