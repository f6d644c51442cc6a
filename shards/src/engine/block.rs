//! Blocks: memory of our own that is filled, sent and used again.
//!
//! What is put together from several sources cannot leave in the buffer it came in. A block is
//! taken from the store, filled, queued like a received buffer, and goes back when the kernel has
//! taken its bytes; an idle connection has none. No `unsafe` here: a block in a send queue is owned
//! by it.

use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
    rc::Rc,
};

/// Where blocks of one shard come from. Cloning it is sharing it.
#[derive(Clone, Default)]
pub(crate) struct Blocks(Rc<Store>);

/// Bytes on their way out. Goes back to its store when dropped.
pub(crate) struct Block {
    bytes: Vec<u8>,
    store: Rc<Store>,
}

#[derive(Default)]
struct Store {
    spare: [RefCell<Vec<Vec<u8>>>; CLASSES.len()],
    /// Bytes of all spare blocks.
    spare_bytes: Cell<usize>,
    /// A block that grew beyond twice this is cut back to it; 0 is no limit.
    shrink_bytes: Cell<usize>,
    shrunk: Cell<Shrunk>,
}

/// What was given back of blocks that had grown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shrunk {
    /// How often.
    pub(crate) times: u64,
    /// How much.
    pub(crate) bytes: u64,
}

/// Sizes kept. Those above 16 KiB take a power of two and what is put around it.
const CLASSES: [usize; 6] = [1 << 10, 4 << 10, 16 << 10, 66 << 10, 132 << 10, 264 << 10];
/// Spare memory kept per shard.
const SPARE_BYTES_MAX: usize = 16 << 20;

impl Blocks {
    /// An empty block with room for at least so many bytes.
    pub(crate) fn take(&self, bytes: usize) -> Block {
        let class = CLASSES.iter().position(|size| *size >= bytes);
        let spare = class.and_then(|class| self.0.spare[class].borrow_mut().pop());
        let bytes = match (spare, class) {
            (Some(spare), _) => {
                let kept = self.0.spare_bytes.get() - spare.capacity();
                self.0.spare_bytes.set(kept);
                spare
            }
            (None, Some(class)) => Vec::with_capacity(CLASSES[class]),
            (None, None) => Vec::with_capacity(bytes),
        };
        Block {
            bytes,
            store: Rc::clone(&self.0),
        }
    }

    /// Cuts blocks that grew beyond twice so many bytes back to it when they come back.
    pub(crate) fn shrink_beyond(&self, bytes: usize) {
        self.0.shrink_bytes.set(bytes);
    }

    /// What was given back so far.
    pub(crate) fn shrunk(&self) -> Shrunk {
        self.0.shrunk.get()
    }
}

impl Block {
    /// Bytes it takes without growing.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }
}

impl Deref for Block {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.store.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Store {
    fn give_back(&self, mut bytes: Vec<u8>) {
        let limit = self.shrink_bytes.get();
        bytes.clear();
        if limit > 0 && bytes.capacity() > 2 * limit {
            let before = bytes.capacity();
            bytes.shrink_to(limit);
            let shrunk = self.shrunk.get();
            self.shrunk.set(Shrunk {
                times: shrunk.times + 1,
                bytes: shrunk.bytes + (before - bytes.capacity()) as u64,
            });
        }
        let capacity = bytes.capacity();
        let total = self.spare_bytes.get() + capacity;
        // Only whole classes: a block of another size would be looked for in vain.
        let class = CLASSES.iter().position(|size| *size == capacity);
        if let Some(class) = class
            && total <= SPARE_BYTES_MAX
        {
            self.spare_bytes.set(total);
            self.spare[class].borrow_mut().push(bytes);
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_used_again_and_comes_empty() {
        let blocks = Blocks::default();
        let mut first = blocks.take(100);
        assert_eq!(first.room(), 1 << 10);
        first.extend_from_slice(&[7; 100]);
        let memory = first.as_ptr();
        drop(first);
        let again = blocks.take(1_000);
        assert_eq!((again.as_ptr(), again.len()), (memory, 0));
        assert_eq!(blocks.0.spare_bytes.get(), 0);
        assert!(blocks.take(1_025).room() == 4 << 10);
    }

    #[test]
    fn spare_memory_is_bounded() {
        let blocks = Blocks::default();
        let many: Vec<Block> = (0..200).map(|_| blocks.take(200 << 10)).collect();
        drop(many);
        let kept = blocks.0.spare_bytes.get();
        assert!((1..=SPARE_BYTES_MAX).contains(&kept));
        let odd = blocks.take(1 << 20);
        drop(odd);
        assert_eq!(blocks.0.spare_bytes.get(), kept);
    }

    #[test]
    fn block_that_grew_is_cut_back_and_counted() {
        let blocks = Blocks::default();
        blocks.shrink_beyond(4 << 10);
        drop(blocks.take(4 << 10));
        assert_eq!(blocks.shrunk(), Shrunk::default());
        let mut grown = blocks.take(1 << 10);
        grown.extend_from_slice(&[1; 40 << 10]);
        drop(grown);
        let shrunk = blocks.shrunk();
        assert_eq!(shrunk.times, 1);
        assert!(shrunk.bytes >= (40 << 10) - (4 << 10));
    }
}
