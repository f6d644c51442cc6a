//! DC ids that clients asked for and no table knows: each is remembered once for the process.
//!
//! Anybody who has a secret can invent ids, so what is kept has a fixed size: a bit for each id
//! there can be. Shards set bits, anybody may look. Source: protocol.md 1.

use std::{
    iter,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Which ids were asked for. 8 KiB, shared by all shards.
#[derive(Debug)]
pub struct UnknownDcs {
    asked: Box<[AtomicU64]>,
    count: AtomicU32,
}

/// Words that have a bit for every `u16`.
const WORDS: usize = 1024;

impl Default for UnknownDcs {
    fn default() -> Self {
        Self {
            asked: iter::repeat_with(AtomicU64::default).take(WORDS).collect(),
            count: AtomicU32::new(0),
        }
    }
}

impl UnknownDcs {
    /// Remembers an id. How many were remembered before it; `None` when it is not new.
    pub(crate) fn note(&self, dc: i16) -> Option<u32> {
        let id = dc.cast_unsigned();
        let (word, bit) = (self.asked.get(usize::from(id / 64))?, 1 << (id % 64));
        // Most often it is known: reading keeps the line with all shards.
        let known = word.load(Ordering::Relaxed) & bit != 0;
        if known || word.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
            return None;
        }
        Some(self.count.fetch_add(1, Ordering::Relaxed))
    }

    /// How many ids are remembered.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// All of them: 0 and up, then the negative ones.
    pub fn ids(&self) -> impl Iterator<Item = i16> {
        let words = self.asked.iter().map(|word| word.load(Ordering::Relaxed));
        words.zip(0_u16..).flat_map(|(word, index)| {
            let set = (0..64_u16).filter(move |bit| word >> bit & 1 != 0);
            set.map(move |bit| (index * 64 + bit).cast_signed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_is_new_once() {
        let seen = UnknownDcs::default();
        let ids = [0, 7, 63, 64, i16::MAX, i16::MIN, -777, -1];
        for (before, id) in (0..).zip(ids) {
            assert_eq!(seen.note(id), Some(before), "{id}");
            assert_eq!(seen.note(id), None, "{id}");
        }
        assert_eq!(seen.ids().collect::<Vec<_>>(), ids);
        assert_eq!(seen.count(), 8);
    }

    #[test]
    fn every_id_has_room() {
        let seen = UnknownDcs::default();
        assert!((i16::MIN..=i16::MAX).all(|id| seen.note(id).is_some()));
        assert_eq!(seen.ids().count(), 1 << 16);
    }

    #[test]
    fn of_several_shards_one_is_first() {
        let seen = UnknownDcs::default();
        let firsts: usize = std::thread::scope(|scope| {
            let shard = || (0..1000).filter(|id| seen.note(*id).is_some()).count();
            let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
            shards.into_iter().map(|shard| shard.join().unwrap()).sum()
        });
        assert_eq!((firsts, seen.count()), (1000, 1000));
    }
}
