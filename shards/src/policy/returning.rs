//! Addresses that got a full answer to their hello a moment ago, and get short ones meanwhile.
//!
//! A session that is resumed needs no certificate. One per shard, only where the configuration
//! asks for it (`censorship.serverhello_compact`); bounded, the oldest is forgotten first.

use std::{
    collections::{HashSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::Millis;

/// Who got a full answer lately.
#[derive(Debug)]
pub(crate) struct Returning {
    ttl: Duration,
    full: HashSet<IpAddr>,
    /// The same with when that was, oldest first.
    order: VecDeque<(Millis, IpAddr)>,
}

impl Returning {
    /// Nobody yet.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            full: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether `from` gets a full answer now; then it gets short ones until the time is up.
    pub(crate) fn wants_full(&mut self, from: IpAddr, now: Millis) -> bool {
        while let Some((at, _)) = self.order.front()
            && at.after(self.ttl) <= now
        {
            self.forget_oldest();
        }
        if self.full.contains(&from) {
            return false;
        }
        if self.full.len() >= ADDRESSES_MAX {
            self.forget_oldest();
        }
        if !self.ttl.is_zero() {
            self.full.insert(from);
            self.order.push_back((now, from));
        }
        debug_assert_eq!(self.full.len(), self.order.len());
        true
    }

    fn forget_oldest(&mut self) {
        if let Some((_, who)) = self.order.pop_front() {
            self.full.remove(&who);
        }
    }
}

/// Remembered at most: about half a megabyte.
const ADDRESSES_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(90);

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn second_answer_is_short_until_the_time_is_up() {
        let mut returning = Returning::new(TTL);
        assert!(returning.wants_full(address(1), Millis(0)));
        assert!(!returning.wants_full(address(1), Millis(89_999)));
        assert!(returning.wants_full(address(2), Millis(89_999)));
        // Counted from the full answer, not from the last one.
        assert!(returning.wants_full(address(1), Millis(90_000)));
        assert!(!returning.wants_full(address(1), Millis(90_001)));
    }

    #[test]
    fn no_time_means_no_short_answers() {
        let mut returning = Returning::new(Duration::ZERO);
        for _ in 0..3 {
            assert!(returning.wants_full(address(1), Millis(5)));
        }
        assert!(returning.full.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let mut returning = Returning::new(TTL);
        for number in 0..3 * ADDRESSES_MAX as u32 {
            assert!(returning.wants_full(address(number), Millis(1)));
        }
        assert_eq!(returning.full.len(), ADDRESSES_MAX);
        assert!(!returning.wants_full(address(3 * ADDRESSES_MAX as u32 - 1), Millis(2)));
        assert!(returning.wants_full(address(0), Millis(2)));
    }
}
