//! [`Cache`]: the connection summary, and the snapshot that the ME answers share.
//!
//! Source: control-api.md 12.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A value that is recomputed at most once per life time, by one caller at a time.
pub(crate) struct Cache<T> {
    ttl: Duration,
    entry: Mutex<Option<Entry<T>>>,
    /// Held while recomputing.
    computing: Mutex<()>,
}

struct Entry<T> {
    value: T,
    at: Instant,
}

/// A value with where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached<T> {
    /// Computed for this call.
    Fresh(T),
    /// From the cache, within its life time.
    Hit(T),
    /// From the cache, beyond its life time, because another call is recomputing.
    Stale(T),
}

impl<T: Clone> Cache<T> {
    /// A life time of zero turns the cache off.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entry: Mutex::new(None),
            computing: Mutex::new(()),
        }
    }

    /// The value; `None` when `compute` gives none, or when another call is computing and there
    /// is no old value. A missing value is not cached.
    pub(crate) fn get(&self, compute: impl FnOnce() -> Option<T>) -> Option<Cached<T>> {
        if self.ttl.is_zero() {
            return compute().map(Cached::Fresh);
        }
        if let Some(value) = self.stored(Some(self.ttl)) {
            return Some(Cached::Hit(value));
        }
        // Poisoned: an earlier computation panicked; nothing is lost by trying again.
        let computing = match self.computing.try_lock() {
            Ok(computing) => computing,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {
                return self.stored(None).map(Cached::Stale);
            }
        };
        let value = compute()?;
        let entry = Entry {
            value: value.clone(),
            at: Instant::now(),
        };
        *self.entry.lock().unwrap_or_else(PoisonError::into_inner) = Some(entry);
        drop(computing);
        Some(Cached::Fresh(value))
    }

    /// The stored value if it is younger than `age_max`.
    fn stored(&self, age_max: Option<Duration>) -> Option<T> {
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entry.as_ref()?;
        let young = age_max.is_none_or(|age_max| entry.at.elapsed() < age_max);
        young.then(|| entry.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_live_for_their_time() {
        let cache = Cache::new(Duration::from_secs(60));
        assert_eq!(cache.get(|| None::<u32>), None);
        assert_eq!(cache.get(|| Some(1)), Some(Cached::Fresh(1)));
        assert_eq!(cache.get(|| Some(2)), Some(Cached::Hit(1)));
    }

    #[test]
    fn zero_turns_the_cache_off() {
        let cache = Cache::new(Duration::ZERO);
        assert_eq!(cache.get(|| Some(1)), Some(Cached::Fresh(1)));
        assert_eq!(cache.get(|| Some(2)), Some(Cached::Fresh(2)));
    }

    #[test]
    fn expired_value_goes_out_while_another_call_computes() {
        let cache = Cache::new(Duration::from_nanos(1));
        let inner = cache.get(|| {
            assert_eq!(cache.get(|| Some(9)), None);
            Some(1)
        });
        assert_eq!(inner, Some(Cached::Fresh(1)));
        cache.get(|| {
            assert_eq!(cache.get(|| Some(9)), Some(Cached::Stale(1)));
            Some(2)
        });
    }
}
