//! Memory that a crowd has left behind goes back to the system: receive buffers that nobody takes
//! any more, and what stalled peers had on the heap.
//!
//! Spare buffers are a stack, so those at its bottom are the coldest. What was not taken for an
//! interval is given back a piece at a time, so that no turn takes long; what is in regular use
//! stays. Buffers that the kernel may write to are never touched: those posted beyond the window
//! come back by receives, or by reads of our own that take them.

use std::{cell::Cell, ops::Range, os::fd::AsRawFd as _};

use io_uring::{cqueue, opcode, squeue, types};

use super::{
    buffers::{PLACE_IN_PAGE, Pool, Shared},
    driver::{Engine, LARGE_GROUP, SMALL_GROUP},
    memory,
    op::{OpKind, SocketId, token},
};

/// What a pool knows of the use of its buffers.
pub(super) struct Heat {
    /// Bytes of each slot, from its start, that may have memory.
    touched: Box<[Cell<u32>]>,
    /// Spare buffers, from the bottom, that nobody took in this interval.
    low: Cell<usize>,
    /// Spare buffers, from the bottom, that nobody took in the interval before.
    cold: Cell<usize>,
    /// Some buffer came back in this interval.
    stirred: Cell<bool>,
    /// Buffers that were posted when the kernel was shown some last.
    shown: Cell<u16>,
    /// Most buffers taken from one showing to the next, in this interval.
    most_taken: Cell<u16>,
}

/// When the engine looks after its memory next.
#[derive(Default)]
pub(super) struct Tidying {
    /// Milliseconds of the caller's clock.
    due_ms: Option<u64>,
    interval_ends_ms: u64,
    /// Something was in use in the interval before: it may be cold at the end of this one.
    goes_on: bool,
    /// Bytes of stalled peers when it was looked at last.
    spill_bytes: usize,
    /// Collections of the heap that are still to be done in this interval.
    collections: u8,
}

/// What nobody takes for so long is cold.
const INTERVAL_MS: u64 = 3_000;
/// Between two pieces.
const STEP_MS: u64 = 20;
/// Bytes of one piece: 25 us where a page takes 0.2 us. Touching them again takes ten times that.
const STEP_BYTES: usize = 512 << 10;
/// Buffers taken out of the ring at once.
const STEP_BUFFERS: u16 = 64;
/// The allocator keeps the last page of a size, up to 4 MiB, for so many collections.
const COLLECTIONS: u8 = 4;
/// What one of our own reads takes.
const READ_BYTES: u32 = 8;

impl Heat {
    pub(super) fn new(count: u16) -> Self {
        Self {
            touched: (0..count).map(|_| Cell::new(0)).collect(),
            low: Cell::new(usize::from(count)),
            cold: Cell::new(0),
            stirred: Cell::new(false),
            shown: Cell::new(0),
            most_taken: Cell::new(0),
        }
    }

    /// So many bytes of the slot have memory now.
    pub(super) fn touch(&self, bid: u16, bytes: usize) {
        if let Some(touched) = self.touched.get(usize::from(bid)) {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            touched.set(touched.get().max(bytes));
        }
    }

    /// A buffer came back to the spare ones.
    pub(super) fn stir(&self) {
        self.stirred.set(true);
    }

    /// So many spare buffers are left.
    pub(super) fn took_spare(&self, left: usize) {
        self.low.set(self.low.get().min(left));
        self.cold.set(self.cold.get().min(left));
    }

    /// So many buffers are left of those the kernel was shown.
    pub(super) fn took_posted(&self, left: u16) {
        let taken = self.shown.get().saturating_sub(left);
        self.most_taken.set(self.most_taken.get().max(taken));
    }

    /// The kernel has been shown so many.
    pub(super) fn showed(&self, posted: u16) {
        self.shown.set(posted);
    }

    fn touched(&self, bid: usize) -> usize {
        self.touched
            .get(bid)
            .map_or(0, |bytes| bytes.get() as usize)
    }
}

impl Pool {
    /// An interval is over: what nobody took in it is cold from now on, and the window is no wider
    /// than twice what one turn needed. Whether any buffer was in use.
    fn interval_ends(&self) -> bool {
        let shared = &*self.shared;
        let (heat, spare) = (&shared.heat, shared.spare.borrow().len());
        heat.cold.set(heat.low.replace(spare).min(spare));
        let needed = heat.most_taken.take().saturating_mul(2);
        let window = shared.window.get();
        shared
            .window
            .set(window.min(needed.max(shared.window_least)));
        heat.stirred.take()
    }

    /// Buffers posted beyond the window.
    fn excess(&self) -> u16 {
        let shared = &*self.shared;
        shared.posted.get().saturating_sub(shared.window.get())
    }

    /// Takes back a buffer that a read of our own has taken out of the ring.
    fn withdrawn(&self, bid: u16) {
        let shown = &self.shared.heat.shown;
        shown.set(shown.get().saturating_sub(1));
        drop(self.claim(bid, READ_BYTES as usize));
    }

    /// Gives memory of cold buffers back to the system, about so many bytes at most; how many.
    fn give_back(&self, bytes_max: usize) -> usize {
        let shared = &*self.shared;
        let spare = shared.spare.borrow();
        let cold = &spare[..shared.heat.cold.get().min(spare.len())];
        let has_memory = |bid: &u16| shared.heat.touched(usize::from(*bid)) > 0;
        if !cold.iter().any(has_memory) {
            shared.heat.cold.set(0);
            return 0;
        }
        let mut is_cold = vec![false; usize::from(shared.count)];
        for bid in cold {
            is_cold[usize::from(*bid)] = true;
        }
        let (mut given, mut first) = (0, 0);
        // Neighbours share a page: whole runs of cold buffers leave the fewest behind.
        for run in is_cold.chunk_by(|one, next| one == next) {
            if run[0] && given < bytes_max {
                given += shared.give_back_run(first, first + run.len(), bytes_max - given);
            }
            first += run.len();
        }
        given
    }
}

impl Shared {
    /// Gives back what cold slots from `first` to before `end` have, about so many bytes at most.
    fn give_back_run(&self, first: usize, end: usize, bytes_max: usize) -> usize {
        let page = memory::page_bytes();
        let start_of = |slot: usize| PLACE_IN_PAGE + slot * self.slot_bytes;
        // Before the first slot and behind the last is nobody's memory.
        let lowest = if first == 0 { 0 } else { start_of(first) };
        let lowest = lowest.next_multiple_of(page);
        let highest = match end == usize::from(self.count) {
            true => start_of(end).next_multiple_of(page),
            false => start_of(end) / page * page,
        };
        let (mut given, mut pages) = (0, lowest..lowest);
        for slot in first..end {
            let touched = self.heat.touched(slot);
            let take = touched.min(bytes_max - given);
            if take == 0 {
                continue;
            }
            let to = start_of(slot) + touched;
            let from = ((to - take) / page * page).max(lowest);
            let to = to.next_multiple_of(page).min(highest);
            if from > pages.end {
                self.forget(pages);
                pages = from..to;
            }
            pages.end = pages.end.max(to);
            given += take;
            self.heat.touched[slot].set((touched - take) as u32);
        }
        self.forget(pages);
        given
    }

    /// Gives whole pages of the mapping back, in which nothing lies but cold buffers.
    fn forget(&self, pages: Range<usize>) {
        if pages.is_empty() {
            return;
        }
        debug_assert!(pages.end <= self.memory.bytes.next_multiple_of(memory::page_bytes()));
        // SAFETY: the pages lie inside our own mapping, and in them nothing but buffers that are
        // spare: no `Buf` refers to them and the kernel was not told of them, so what they say is
        // of no interest to anybody; they stay mapped and read as zeroes.
        unsafe {
            let start = self.memory.start.add(pages.start);
            libc::madvise(start.cast(), pages.len(), libc::MADV_DONTNEED);
        }
    }
}

impl Engine {
    /// When [`Engine::tidy`] has something to do, milliseconds of the same clock; `None` until
    /// memory is used again.
    pub(crate) fn tidy_due(&mut self, now_ms: u64) -> Option<u64> {
        let stirred = |pool: &Pool| pool.shared.heat.stirred.get();
        let own = &mut self.tidying;
        if own.due_ms.is_none()
            && (stirred(&self.small) || stirred(&self.large) || self.spill_bytes != own.spill_bytes)
        {
            own.interval_ends_ms = now_ms + INTERVAL_MS;
            own.due_ms = Some(own.interval_ends_ms);
        }
        own.due_ms
    }

    /// Gives a piece of what has not been used for a while back to the system, if it is time.
    pub(crate) fn tidy(&mut self, now_ms: u64) {
        if self.tidying.due_ms.is_none_or(|due| due > now_ms) {
            return;
        }
        if self.tidying.interval_ends_ms <= now_ms {
            self.tidying.interval_ends_ms = now_ms + INTERVAL_MS;
            let spilled = std::mem::replace(&mut self.tidying.spill_bytes, self.spill_bytes);
            let used = [self.small.interval_ends(), self.large.interval_ends()];
            self.tidying.goes_on = spilled != self.spill_bytes || used.contains(&true);
            self.tidying.collections = COLLECTIONS;
        }
        let mut done = self.collect();
        done += self.withdraw(SMALL_GROUP) + self.withdraw(LARGE_GROUP);
        done += self.large.give_back(STEP_BYTES);
        done += self.small.give_back(STEP_BYTES.saturating_sub(done));
        let own = &mut self.tidying;
        own.due_ms = match done {
            0 => own.goes_on.then_some(own.interval_ends_ms),
            _ => Some(now_ms + STEP_MS),
        };
    }

    /// Has the allocator look for pages that are free; 1 if it did.
    fn collect(&mut self) -> usize {
        let left = self.tidying.collections.checked_sub(1);
        if let Some(left) = left {
            self.tidying.collections = left;
            memory::let_go_of_free_pages();
        }
        usize::from(left.is_some())
    }

    /// Takes buffers that are posted beyond the window out of the ring by reading into them, since
    /// nothing else can; how many.
    fn withdraw(&mut self, group: u16) -> usize {
        let excess = self.pool(group).excess().min(STEP_BUFFERS);
        for _ in 0..excess {
            let fd = types::Fd(self.endless.as_raw_fd());
            let id = SocketId {
                index: u32::from(group),
                generation: 0,
            };
            let entry = opcode::Read::new(fd, std::ptr::null_mut(), READ_BYTES)
                .buf_group(group)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
                .user_data(token(OpKind::Withdraw, id));
            self.push(entry);
        }
        usize::from(excess)
    }

    /// A read of our own is done. One that found no buffer has come too late, which is as well.
    pub(super) fn withdrawn(&mut self, group: u32, flags: u32) {
        if let Some(bid) = cqueue::buffer_select(flags) {
            self.pool(u16::try_from(group).unwrap_or(0)).withdrawn(bid);
        }
    }

    fn pool(&self, group: u16) -> &Pool {
        match group {
            LARGE_GROUP => &self.large,
            _ => &self.small,
        }
    }
}

#[cfg(test)]
impl Pool {
    /// Bytes of the buffers' memory that are there.
    pub(super) fn resident_bytes(&self) -> usize {
        let (memory, page) = (&self.shared.memory, memory::page_bytes());
        let mut pages = vec![0_u8; memory.bytes.div_ceil(page)];
        // SAFETY: asks about our own mapping; there is a byte for each of its pages.
        let done = unsafe { libc::mincore(memory.start.cast(), memory.bytes, pages.as_mut_ptr()) };
        assert_eq!(done, 0, "mincore");
        pages.iter().filter(|page| **page & 1 != 0).count() * page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::buffers::Buf;
    use io_uring::IoUring;

    const PAGE: usize = 4096;

    /// A pool on a ring of its own, which must be dropped first.
    fn pool(slot_bytes: usize, count: u16, window: u16) -> (IoUring, Pool) {
        let ring = IoUring::new(8).expect("a ring");
        let pool = Pool::new(&ring.submitter(), 1, slot_bytes, count, window);
        (ring, pool.expect("a pool"))
    }

    fn used(pool: &Pool, count: u16) -> Vec<Buf> {
        let mut all = pool.withhold(count);
        for (n, buf) in all.iter_mut().enumerate() {
            buf.bytes_mut().fill(n as u8 + 1);
        }
        all
    }

    #[test]
    fn cold_buffers_go_back_and_all_others_keep_their_bytes() {
        let (ring, pool) = pool(4096, 64, 8);
        pool.publish();
        // As the kernel does, whenever it likes: the last eight were posted.
        for bid in 0..8 {
            // SAFETY: inside the slot, and nobody else refers to it.
            unsafe { pool.shared.slot(bid).write_bytes(0x77, 4096) };
        }
        let mut all = used(&pool, 40);
        let held = [all.remove(30), all.remove(12)];
        drop(all);
        let before = pool.resident_bytes();
        assert!(before >= 48 * 4096, "{before}");
        assert!(pool.interval_ends());
        assert_eq!(
            pool.give_back(usize::MAX),
            0,
            "they were used in this interval"
        );
        assert!(!pool.interval_ends());
        assert_eq!(pool.give_back(usize::MAX), 38 * 4096);
        let after = pool.resident_bytes();
        assert!(after <= (9 + 2 * 2) * PAGE, "{after}");
        assert!(held[0].bytes().iter().all(|byte| *byte == 31));
        assert!(held[1].bytes().iter().all(|byte| *byte == 13));
        for bid in 0..8 {
            let posted = pool.claim(bid, pool.capacity());
            assert!(posted.bytes().iter().all(|byte| *byte == 0x77));
        }
        assert_eq!(pool.give_back(usize::MAX), 0);
        drop((ring, held));
    }

    #[test]
    fn what_is_used_in_every_interval_stays() {
        let (_ring, pool) = pool(32_768, 16, 2);
        pool.publish();
        for _ in 0..5 {
            drop(used(&pool, 4));
            assert!(pool.interval_ends());
            assert_eq!(pool.give_back(usize::MAX), 0);
        }
        assert!(pool.resident_bytes() >= 4 * 32_000);
    }

    #[test]
    fn buffers_go_back_in_pieces() {
        let (_ring, pool) = pool(128 << 10, 4, 2);
        drop(used(&pool, 4));
        pool.interval_ends();
        pool.interval_ends();
        let mut left = pool.resident_bytes();
        for _ in 0..9 {
            assert!(pool.give_back(60_000) <= 60_000);
            let now = pool.resident_bytes();
            assert!(left - now.min(left) <= 60_000 + 2 * PAGE, "{left} {now}");
            left = now;
        }
        assert_eq!((left, pool.give_back(60_000)), (0, 0));
    }

    #[test]
    fn slots_smaller_than_a_page_share_its_fate() {
        let (_ring, pool) = pool(512, 64, 8);
        let mut all = used(&pool, 64);
        let held = all.remove(20);
        drop(all);
        pool.interval_ends();
        pool.interval_ends();
        assert!(pool.give_back(usize::MAX) > 60 * 500);
        assert!(held.bytes().iter().all(|byte| *byte == 21));
        assert!(pool.resident_bytes() <= 2 * PAGE);
    }

    #[test]
    fn window_is_as_wide_as_a_turn_needed_lately() {
        let (_ring, pool) = pool(4096, 64, 4);
        let post = |taken: u16| {
            // What a turn took comes back before the next.
            drop((0..taken).map(|bid| pool.claim(bid, 1)).collect::<Vec<_>>());
            pool.publish();
            pool.shared.window.get()
        };
        pool.publish();
        (0..3).for_each(|_| pool.widen());
        assert_eq!(post(4), 32);
        assert_eq!(post(9), 32);
        pool.interval_ends();
        assert_eq!(post(0), 18);
        assert_eq!(pool.excess(), 14);
        pool.interval_ends();
        assert_eq!(post(0), 4);
        (0..9).for_each(|_| pool.widen());
        assert_eq!(post(0), 64);
    }
}
