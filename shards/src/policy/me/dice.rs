//! Chances of supervisor and pools: jitter, shuffles, ping ids. Not for secrets.

use std::time::Duration;

/// SplitMix64: the same seed gives the same chances, so that a simulated day can be replayed.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    /// Chances that follow from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..=max`, evenly enough for jitter.
    pub(crate) fn up_to(&mut self, max: u64) -> u64 {
        match max.checked_add(1) {
            Some(sides) => self.bits() % sides,
            None => self.bits(),
        }
    }

    /// Zero to `max`, in milliseconds.
    pub(crate) fn part_of(&mut self, max: Duration) -> Duration {
        let max = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.up_to(max))
    }

    /// `min` to `max`, in milliseconds; `min` if the two are the wrong way round.
    pub(crate) fn between(&mut self, min: Duration, max: Duration) -> Duration {
        min + self.part_of(max.saturating_sub(min))
    }

    /// A place in a list of `len`, 0 for an empty one.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        let last = u64::try_from(len).unwrap_or(1).saturating_sub(1);
        usize::try_from(self.up_to(last)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_within_bounds_and_reaches_them() {
        let mut dice = Dice::new(7);
        let ms = Duration::from_millis;
        let drawn: Vec<u64> = (0..1_000).map(|_| dice.up_to(3)).collect();
        assert!((0..=3).all(|side| drawn.contains(&side)));
        assert!(drawn.iter().all(|side| *side <= 3));
        assert_eq!(dice.up_to(0), 0);
        assert_eq!(dice.index(0), 0);
        assert_eq!(dice.between(ms(5), ms(3)), ms(5));
        assert!((0..100).all(|_| (ms(2)..=ms(9)).contains(&dice.between(ms(2), ms(9)))));
    }
}
