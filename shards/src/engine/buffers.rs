//! Provided buffers: memory the kernel receives into, owned by no connection while it is idle.
//!
//! A [`Pool`] is one buffer group. The kernel takes a posted buffer when bytes arrive; from then
//! on a [`Buf`] owns it, through the cipher and the send, and gives it back when dropped. Only a
//! window of the pool is posted at a time and the buffer freed last is posted first, so that the
//! memory in use stays in the cache; the window grows when it was too small. How it gets smaller
//! again, and how memory that is no longer used goes back to the system, is in `trim.rs`.
//!
//! Layout of one slot: `HEADROOM` bytes for a record header, the received bytes, then (large
//! buffers) room for the headers of further records.

use std::{
    cell::{Cell, RefCell},
    io, ptr,
    rc::Rc,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{Submitter, types::BufRingEntry};

use super::trim::Heat;

/// Bytes in front of received data, for a record header.
pub(crate) const HEADROOM: usize = 8;
/// Where in a page long copies begin, bytes.
///
/// The kernel copies with `rep movsb`, and on the CPUs measured (EPYC) that runs at a fifth of its
/// speed while the target's place within its page is 1 to 15 bytes ahead of the source's. What
/// lies in the kernel mostly begins at the front of a page, or a header's length behind it, so
/// what lies here begins in the middle.
pub(super) const PLACE_IN_PAGE: usize = 2048;
/// Bytes of one record header.
pub(crate) const RECORD_HEADER: usize = 5;
/// Largest payload of one record.
pub(crate) const RECORD_PAYLOAD_MAX: usize = 16_384;

/// One buffer group.
pub(super) struct Pool {
    pub(super) shared: Rc<Shared>,
    group: u16,
}

/// What a pool and the buffers taken from it have in common.
pub(super) struct Shared {
    pub(super) memory: Mapping,
    ring: Mapping,
    pub(super) slot_bytes: usize,
    tail_bytes: usize,
    pub(super) count: u16,
    /// Next ring position to write; published to the kernel by [`Pool::publish`].
    tail: Cell<u16>,
    /// Buffers the kernel may take now.
    pub(super) posted: Cell<u16>,
    /// Buffers the kernel should have at most.
    pub(super) window: Cell<u16>,
    /// The window at first, and the smallest.
    pub(super) window_least: u16,
    /// Buffers nobody holds, last freed last.
    pub(super) spare: RefCell<Vec<u16>>,
    pub(super) heat: Heat,
}

impl Pool {
    /// Maps and registers `count` buffers of `slot_bytes` as buffer group `group`.
    ///
    /// # Errors
    /// The mapping or the registration failed.
    pub(super) fn new(
        submitter: &Submitter<'_>,
        group: u16,
        slot_bytes: usize,
        count: u16,
        window: u16,
    ) -> io::Result<Self> {
        debug_assert!(count.is_power_of_two() && slot_bytes > 256);
        let memory = Mapping::new(slot_bytes * usize::from(count) + PLACE_IN_PAGE)?;
        let ring = Mapping::new(size_of::<BufRingEntry>() * usize::from(count))?;
        // SAFETY: `ring` is page aligned, holds `count` entries and is unmapped only after the
        // ring itself is gone (`Engine` drops its ring before its pools).
        unsafe {
            submitter.register_buf_ring_with_flags(ring.start as u64, count, group, 0)?;
        }
        let records = slot_bytes.div_ceil(RECORD_PAYLOAD_MAX);
        let tail_bytes = if records > 1 {
            records * RECORD_HEADER
        } else {
            0
        };
        let shared = Shared {
            memory,
            ring,
            slot_bytes,
            tail_bytes,
            count,
            tail: Cell::new(0),
            posted: Cell::new(0),
            window: Cell::new(window.min(count)),
            window_least: window.min(count),
            spare: RefCell::new((0..count).rev().collect()),
            heat: Heat::new(count),
        };
        Ok(Self {
            shared: Rc::new(shared),
            group,
        })
    }

    /// Buffer group id.
    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Received bytes one buffer holds at most.
    pub(super) fn capacity(&self) -> usize {
        self.shared.capacity()
    }

    /// Buffers that nobody holds: posted or spare.
    pub(super) fn free(&self) -> usize {
        usize::from(self.shared.posted.get()) + self.shared.spare.borrow().len()
    }

    /// All buffers.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        usize::from(self.shared.count)
    }

    /// Posts more at a time from now on: a receive found none.
    pub(super) fn widen(&self) {
        let wider = self
            .shared
            .window
            .get()
            .saturating_mul(2)
            .min(self.shared.count);
        self.shared.window.set(wider);
    }

    /// Fills the window up and shows the kernel what was posted.
    pub(super) fn publish(&self) {
        let shared = &*self.shared;
        shared.heat.took_posted(shared.posted.get());
        if shared.posted.get() >= shared.window.get() {
            return shared.heat.showed(shared.posted.get());
        }
        let mut spare = shared.spare.borrow_mut();
        let mut wrote = false;
        while shared.posted.get() < shared.window.get() {
            let Some(bid) = spare.pop() else { break };
            shared.post(bid);
            wrote = true;
        }
        shared.heat.showed(shared.posted.get());
        if wrote {
            shared.heat.took_spare(spare.len());
            let base = shared.ring.start.cast::<BufRingEntry>();
            // SAFETY: the tail lies in the first entry of our mapping, is two-byte aligned, and is
            // only ever accessed as an atomic here and by the kernel.
            let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
            tail.store(shared.tail.get(), Ordering::Release);
        }
    }

    /// Takes over the buffer that a completion names, with `len` received bytes.
    pub(super) fn claim(&self, bid: u16, len: usize) -> Buf {
        debug_assert!(bid < self.shared.count && len <= self.shared.capacity());
        self.shared
            .posted
            .set(self.shared.posted.get().saturating_sub(1));
        self.shared.heat.touch(bid, HEADROOM + len);
        Buf {
            pool: Rc::clone(&self.shared),
            bid,
            start: HEADROOM as u32,
            end: (HEADROOM + len) as u32,
        }
    }

    /// Takes spare buffers away from everybody else until they are dropped, as if they had been
    /// received into.
    #[cfg(test)]
    pub(super) fn withhold(&self, count: u16) -> Vec<Buf> {
        let end = HEADROOM + self.capacity();
        let take = |bid| {
            self.shared.heat.touch(bid, end);
            Buf {
                pool: Rc::clone(&self.shared),
                bid,
                start: HEADROOM as u32,
                end: end as u32,
            }
        };
        let mut spare = self.shared.spare.borrow_mut();
        let from = spare.len().saturating_sub(usize::from(count));
        self.shared.heat.took_spare(from);
        spare.drain(from..).map(take).collect()
    }

    /// Leaks the memory: the kernel may still write to it.
    pub(super) fn leak(&self) {
        std::mem::forget(Rc::clone(&self.shared));
    }
}

impl Shared {
    fn capacity(&self) -> usize {
        self.slot_bytes - HEADROOM - self.tail_bytes
    }

    pub(super) fn slot(&self, bid: u16) -> *mut u8 {
        debug_assert!(bid < self.count);
        // SAFETY: `bid < count`, so the slot lies inside the mapping.
        unsafe {
            let first = self.memory.start.add(PLACE_IN_PAGE);
            first.add(usize::from(bid) * self.slot_bytes)
        }
    }

    fn post(&self, bid: u16) {
        let position = usize::from(self.tail.get() & (self.count - 1));
        // SAFETY: `position < count`, so the entry lies inside our mapping; the kernel reads it
        // only after the tail moved past it. The tail field shares the first entry's `resv`,
        // which `set_*` leave alone.
        let entry = unsafe { &mut *self.ring.start.cast::<BufRingEntry>().add(position) };
        entry.set_addr(self.slot(bid) as u64 + HEADROOM as u64);
        entry.set_len(self.capacity() as u32);
        entry.set_bid(bid);
        self.tail.set(self.tail.get().wrapping_add(1));
        self.posted.set(self.posted.get() + 1);
    }
}

/// Received bytes in a ring buffer. Gives the buffer back when dropped.
pub(crate) struct Buf {
    pool: Rc<Shared>,
    bid: u16,
    start: u32,
    end: u32,
}

impl Buf {
    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the slot is ours from the completion until drop, and `start..end` lies in it.
        unsafe {
            std::slice::from_raw_parts(
                self.pool.slot(self.bid).add(self.start as usize),
                self.len(),
            )
        }
    }

    /// The bytes, to be changed in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.pool.slot(self.bid).add(self.start as usize), len)
        }
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len as u32);
    }

    /// Drops the first `len` bytes.
    pub(crate) fn skip(&mut self, len: usize) {
        self.start = self.end.min(self.start.saturating_add(len as u32));
    }

    /// Writes a record header in front of the bytes and further headers into the slot's tail, one
    /// per 16 KiB; returns the number of records. The bytes must still start where the kernel put
    /// them or later.
    pub(super) fn frame(&mut self, header: fn(usize) -> [u8; RECORD_HEADER]) -> usize {
        let len = self.len();
        let records = len.div_ceil(RECORD_PAYLOAD_MAX);
        let slot = self.pool.slot(self.bid);
        if records > 1 {
            self.pool.heat.touch(self.bid, self.pool.slot_bytes);
        }
        for record in 0..records {
            let payload = (len - record * RECORD_PAYLOAD_MAX).min(RECORD_PAYLOAD_MAX);
            let at = if record == 0 {
                self.start as usize - RECORD_HEADER
            } else {
                self.pool.slot_bytes - self.pool.tail_bytes + record * RECORD_HEADER
            };
            let bytes = header(payload);
            // SAFETY: record 0 writes into the headroom (`start >= HEADROOM`); the others into the
            // tail, which has room for one header per 16 KiB of the slot. Nobody else holds it.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), slot.add(at), RECORD_HEADER) };
        }
        records
    }

    /// Start of record `record`'s header and of its payload, for a framed buffer.
    pub(super) fn record_parts(&self, record: usize) -> (*const u8, *const u8) {
        let slot = self.pool.slot(self.bid);
        let payload = self.start as usize + record * RECORD_PAYLOAD_MAX;
        let header = if record == 0 {
            self.start as usize - RECORD_HEADER
        } else {
            self.pool.slot_bytes - self.pool.tail_bytes + record * RECORD_HEADER
        };
        // SAFETY: both offsets lie inside the slot, see `frame`.
        unsafe {
            (
                slot.add(header).cast_const(),
                slot.add(payload).cast_const(),
            )
        }
    }

    /// Part of a pool that runs low.
    pub(super) fn is_scarce(&self) -> bool {
        let free = usize::from(self.pool.posted.get()) + self.pool.spare.borrow().len();
        free * 4 < usize::from(self.pool.count)
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        self.pool.spare.borrow_mut().push(self.bid);
        self.pool.heat.stir();
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} bytes)", self.len())
    }
}

/// Anonymous memory, page aligned, touched only where used.
pub(super) struct Mapping {
    pub(super) start: *mut u8,
    pub(super) bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: an anonymous private mapping at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
