//! Permits for client connections, shared by all shards of the process.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many clients there are and may be.
#[derive(Debug)]
pub(crate) struct Permits {
    max: usize,
    taken: AtomicUsize,
}

impl Permits {
    /// All free.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            taken: AtomicUsize::new(0),
        }
    }

    /// Takes a place if one is free.
    #[must_use]
    pub(crate) fn take(&self) -> bool {
        let max = self.max;
        let more = |taken: usize| (taken < max).then_some(taken + 1);
        let order = Ordering::Relaxed;
        self.taken.fetch_update(order, order, more).is_ok()
    }

    /// Gives one back that was taken.
    pub(crate) fn give(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Permits taken now.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Permits there are.
    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are() {
        let permits = Permits::new(3);
        let threads = 4;
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if permits.take() {
                            assert!(permits.taken() <= 3);
                            permits.give();
                        }
                    }
                });
            }
        });
        assert_eq!(permits.taken(), 0);
        assert!((0..3).all(|_| permits.take()));
        assert!(!permits.take());
        assert_eq!(permits.max(), 3);
    }
}
