//! Deadlines of all connections in one heap, at most one live entry each.
//!
//! A deadline that moves later costs nothing: the old entry fires, the connection says when it is
//! really due and goes back. So a relay pays for its idle limit once per limit, not per message.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::Millis;

/// Deadlines by key; the key's owner knows which entry is the live one.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Millis, u32)>>,
}

/// What an owner keeps beside its key: when its live entry fires, if it has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Armed {
    at: Option<Millis>,
}

impl Timers {
    /// Makes sure that `key` is looked at by `due`.
    pub(crate) fn arm(&mut self, armed: &mut Armed, key: u32, due: Millis) {
        if armed.at.is_none_or(|at| at > due) {
            armed.at = Some(due);
            self.heap.push(Reverse((due, key)));
        }
    }

    /// Entries, dead ones included.
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Drops entries that no owner knows any more.
    pub(crate) fn retain(&mut self, mut is_live: impl FnMut(Millis, u32) -> bool) {
        self.heap.retain(|Reverse((at, key))| is_live(*at, *key));
    }

    /// When the next entry fires.
    pub(crate) fn next(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes an entry that is due: when it was set for, and its key. An entry left behind by an
    /// earlier owner of the key does no harm: its owner looks, and is not due.
    pub(crate) fn pop(&mut self, now: Millis) -> Option<(Millis, u32)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

impl Armed {
    /// Whether the entry set for `at` is the live one.
    pub(crate) fn is(&self, at: Millis) -> bool {
        self.at == Some(at)
    }

    /// Whether the entry popped for `at` is the live one; if so it is spent.
    pub(crate) fn spend(&mut self, at: Millis) -> bool {
        let live = self.at == Some(at);
        if live {
            self.at = None;
        }
        live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_and_only_the_live_entry_counts() {
        let mut timers = Timers::default();
        let mut a = Armed::default();
        let mut b = Armed::default();
        timers.arm(&mut a, 1, Millis(50));
        timers.arm(&mut b, 2, Millis(20));
        timers.arm(&mut a, 1, Millis(90));
        timers.arm(&mut a, 1, Millis(10));
        assert_eq!(timers.next(), Some(Millis(10)));
        assert_eq!(timers.pop(Millis(5)), None);
        let mut fired = Vec::new();
        while let Some((at, key)) = timers.pop(Millis(100)) {
            let armed = if key == 1 { &mut a } else { &mut b };
            if armed.spend(at) {
                fired.push((at.0, key));
            }
        }
        assert_eq!(fired, [(10, 1), (20, 2)]);
        assert_eq!(timers.next(), None);
    }
}
