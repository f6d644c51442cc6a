//! Blocks: memory of our own that is filled, sent and used again.
//!
//! What is put together from several sources cannot leave in the buffer it came in. A block is
//! taken from the store, filled, queued like a received buffer, and goes back when the kernel has
//! taken its bytes; an idle connection has none. No `unsafe` here: a block in a send queue is owned
//! by it, and all of its memory was written once.

use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
    rc::Rc,
};

use super::buffers::PLACE_IN_PAGE;

/// Where blocks of one shard come from. Cloning it is sharing it.
#[derive(Clone, Default)]
pub(crate) struct Blocks(Rc<Store>);

/// Bytes on their way out, as a slice. Goes back to its store when dropped.
pub(crate) struct Block {
    memory: Memory,
    len: usize,
    store: Rc<Store>,
}

/// Memory of a block: so many bytes from `start` on.
#[derive(Default)]
struct Memory {
    bytes: Box<[u8]>,
    start: usize,
}

#[derive(Default)]
struct Store {
    spare: [RefCell<Vec<Memory>>; CLASSES.len()],
    /// Bytes of all spare blocks.
    spare_bytes: Cell<usize>,
    /// A block that grew beyond twice this is given back to the system; 0 is no limit.
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
const PAGE_BYTES: usize = 4096;

impl Blocks {
    /// An empty block with room for at least so many bytes.
    pub(crate) fn take(&self, bytes: usize) -> Block {
        let class = CLASSES.iter().position(|size| *size >= bytes);
        let spare = class.and_then(|class| self.0.spare[class].borrow_mut().pop());
        let memory = match (spare, class) {
            (Some(spare), _) => {
                let kept = self.0.spare_bytes.get() - spare.room();
                self.0.spare_bytes.set(kept);
                spare
            }
            (None, Some(class)) => Memory::new(CLASSES[class]),
            (None, None) => Memory::new(bytes),
        };
        Block {
            memory,
            len: 0,
            store: Rc::clone(&self.0),
        }
    }

    /// Gives blocks that grew beyond twice so many bytes back to the system, as they come back.
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
        self.memory.room() - self.len
    }

    /// Appends `bytes`; grows if there is no room.
    pub(crate) fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.extend_with(bytes.len(), |place| place.copy_from_slice(bytes));
    }

    /// Appends so many bytes, which `write` is to write; before, the place holds any. Grows if
    /// there is no room.
    pub(crate) fn extend_with(&mut self, bytes: usize, write: impl FnOnce(&mut [u8])) {
        if bytes > self.room() {
            self.grow(bytes);
        }
        let from = self.memory.start + self.len;
        self.len += bytes;
        write(&mut self.memory.bytes[from..from + bytes]);
    }

    #[cold]
    fn grow(&mut self, bytes: usize) {
        let wanted = (self.len + bytes).max(2 * self.memory.room());
        let mut memory = Memory::new(wanted);
        let start = memory.start;
        memory.bytes[start..start + self.len].copy_from_slice(self);
        self.memory = memory;
    }
}

impl Memory {
    /// Zeroes: written once, when the block is new, and from then on by those who fill it.
    fn new(room: usize) -> Self {
        if room <= 4 * PAGE_BYTES {
            return Self {
                bytes: vec![0; room].into(),
                start: 0,
            };
        }
        let bytes: Box<[u8]> = vec![0; room + PAGE_BYTES].into();
        let in_page = bytes.as_ptr().addr() % PAGE_BYTES;
        let start = (PAGE_BYTES + PLACE_IN_PAGE - in_page) % PAGE_BYTES;
        // What lies behind the room is never used, so that a block's size is one of the classes.
        Self { bytes, start }
    }

    fn room(&self) -> usize {
        match self.bytes.len() {
            small if small <= 4 * PAGE_BYTES => small,
            large => large - PAGE_BYTES,
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes[self.memory.start..][..self.len]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory.bytes[self.memory.start..][..self.len]
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.store.give_back(std::mem::take(&mut self.memory));
    }
}

impl Store {
    fn give_back(&self, memory: Memory) {
        let limit = self.shrink_bytes.get();
        let room = memory.room();
        // Only whole classes: a block of another size would be looked for in vain.
        let class = CLASSES.iter().position(|size| *size == room);
        if limit > 0 && room > 2 * limit {
            let shrunk = self.shrunk.get();
            self.shrunk.set(Shrunk {
                times: shrunk.times + 1,
                bytes: shrunk.bytes + room as u64,
            });
            return;
        }
        let total = self.spare_bytes.get() + room;
        if let Some(class) = class
            && total <= SPARE_BYTES_MAX
        {
            self.spare_bytes.set(total);
            self.spare[class].borrow_mut().push(memory);
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({} bytes)", self.len)
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
    fn long_block_begins_away_from_the_front_of_a_page() {
        let blocks = Blocks::default();
        for bytes in [20_000, 100_000, 200_000, 1_000_000] {
            let mut block = blocks.take(bytes);
            block.extend_from_slice(&vec![1; bytes]);
            assert_eq!(block.as_ptr().addr() % PAGE_BYTES, PLACE_IN_PAGE);
            assert!(block.iter().all(|byte| *byte == 1) && block.len() == bytes);
        }
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let mut block = Blocks::default().take(10);
        for round in 0..100_u8 {
            block.extend_with(1_000, |place| place.fill(round));
        }
        let parts: Vec<&[u8]> = block.chunks(1_000).collect();
        assert!((0..100).all(|round: u8| parts[usize::from(round)].iter().all(|b| *b == round)));
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
        assert!(shrunk.bytes >= 40 << 10);
    }
}
