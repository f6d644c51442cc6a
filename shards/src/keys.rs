//! Fresh X25519 public keys for server answers, made cheaply.

use curve25519_dalek::edwards::EdwardsPoint;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Secret random points that are added up in random pairs: each sum is a real public key, and
/// without the points nobody can tell it from one made by a multiplication, which costs four times
/// as much. The points themselves are never shown, and change with every key.
pub(crate) struct KeyPool {
    points: [EdwardsPoint; POINTS],
    rng: StdRng,
}

/// A power of two, so that an index is a mask of random bits.
const POINTS: usize = 64;

impl KeyPool {
    /// A pool of its own randomness.
    pub(crate) fn new(rng: &mut StdRng) -> Self {
        let mut rng = StdRng::from_rng(rng);
        let points = std::array::from_fn(|_| {
            let mut scalar = [0; 32];
            rng.fill_bytes(&mut scalar);
            EdwardsPoint::mul_base_clamped(scalar)
        });
        Self { points, rng }
    }

    /// The next public key.
    pub(crate) fn public_key(&mut self) -> [u8; 32] {
        let draw = self.rng.next_u64() as usize;
        // Three different points: the second and third are offset by 1..=31 from one another.
        let changed = draw % POINTS;
        let by = (changed + 1 + (draw >> 8) % 31) % POINTS;
        let with = (by + 1 + (draw >> 16) % 31) % POINTS;
        self.points[changed] += self.points[by];
        (self.points[changed] + self.points[with])
            .to_montgomery()
            .to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_are_points_of_the_prime_order_group_and_never_repeat() {
        let mut pool = KeyPool::new(&mut StdRng::seed_from_u64(1));
        let mut seen = HashSet::new();
        for _ in 0..1_000 {
            assert!(seen.insert(pool.public_key()));
        }
        {
            assert!(pool.points.iter().all(EdwardsPoint::is_torsion_free));
        }
    }
}
