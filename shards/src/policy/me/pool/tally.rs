//! What the pool counts. Stands still while `me_level` is `silent`.
//!
//! Source: middle-proxy.md 26.1 and 26.2.

use std::collections::BTreeMap;

use crate::{
    counters::{MeCounters, PoolCounters},
    settings::MeCounts,
};

/// Totals of one shard's pool.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: MeCounts,
    me: MeCounters,
    pool: PoolCounters,
    codes: BTreeMap<i32, u64>,
}

/// Codes told apart; the rest is counted under [`CODE_OTHER`].
const CODES_MAX: usize = 64;
const CODE_OTHER: i32 = -1;

impl Tally {
    pub(super) fn set_counts(&mut self, counts: MeCounts) {
        self.counts = counts;
    }

    /// Something begins whose end is counted only if this is.
    pub(super) fn is_on(&self) -> bool {
        self.counts == MeCounts::On
    }

    pub(super) fn me(&mut self, count: impl FnOnce(&mut MeCounters)) {
        if self.is_on() {
            count(&mut self.me);
        }
    }

    pub(super) fn pool(&mut self, count: impl FnOnce(&mut PoolCounters)) {
        if self.is_on() {
            count(&mut self.pool);
        }
    }

    /// RPC_HANDSHAKE_ERROR; `None`: too short for a code.
    pub(super) fn rejected(&mut self, code: Option<i32>) {
        if !self.is_on() {
            return;
        }
        self.me.handshake_reject_total += 1;
        let code = code.unwrap_or(CODE_OTHER);
        // One row is kept for all codes that come too late.
        let others = usize::from(!self.codes.contains_key(&CODE_OTHER));
        let known = self.codes.contains_key(&code) || code == CODE_OTHER;
        let code = match known || self.codes.len() + others < CODES_MAX {
            true => code,
            false => CODE_OTHER,
        };
        *self.codes.entry(code).or_default() += 1;
    }

    pub(super) fn me_counters(&self) -> MeCounters {
        self.me
    }

    /// With the gauge, which does not stand still.
    pub(super) fn pool_counters(&self, draining: u64) -> PoolCounters {
        PoolCounters {
            pool_drain_active: draining,
            ..self.pool
        }
    }

    pub(super) fn codes(&self) -> Vec<(i32, u64)> {
        self.codes.iter().map(|(code, n)| (*code, *n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_bounded_and_add_up() {
        let mut tally = Tally::default();
        for code in (0..200).chain([-3, -3]) {
            tally.rejected(Some(code));
        }
        tally.rejected(None);
        let codes = tally.codes();
        assert_eq!(codes.len(), CODES_MAX);
        assert_eq!(codes.iter().map(|(_, n)| n).sum::<u64>(), 203);
        assert_eq!(tally.me_counters().handshake_reject_total, 203);
        assert_eq!(codes.first(), Some(&(CODE_OTHER, 140)));
    }

    #[test]
    fn silence_freezes_totals_but_not_the_gauge() {
        let mut tally = Tally::default();
        tally.set_counts(MeCounts::Off);
        tally.me(|me| me.reader_eof_total += 1);
        tally.rejected(Some(-3));
        assert_eq!(tally.me_counters(), MeCounters::default());
        assert_eq!(tally.pool_counters(3).pool_drain_active, 3);
        assert!(tally.codes().is_empty());
    }
}
