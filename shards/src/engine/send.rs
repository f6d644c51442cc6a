//! Ordered sends: one in flight per socket, everything queued meanwhile merged into the next.
//!
//! A chunk is a ring buffer or bytes of our own; it may be marked to leave as records, whose
//! headers are laid around the payload without moving it. The data stays where it is until the
//! kernel has taken all of it.

use std::{collections::VecDeque, ptr};

use super::{
    block::Block,
    buffers::{Buf, RECORD_HEADER, RECORD_PAYLOAD_MAX},
};

/// Makes the header of a record with so many payload bytes.
pub(crate) type RecordHeader = fn(usize) -> [u8; RECORD_HEADER];

/// Bytes on their way out.
pub(super) enum Chunk {
    /// A received buffer, sent as it is.
    Raw(Buf),
    /// A received buffer, sent as `records` records; headers are already in place.
    Records(Buf, usize),
    /// A received buffer, sent as records of various sizes.
    Sized(Box<SizedRecords>),
    /// A received buffer, sent in pieces with something around each.
    Framed(Box<Framed>),
    /// Bytes that were put together; their memory is used again.
    Block(Block),
    /// Bytes of our own: handshakes, and what was copied out of scarce buffers.
    Heap(Box<[u8]>),
}

/// A received buffer and the headers of its records, which are kept apart: there are more of them
/// than a buffer has room for.
pub(super) struct SizedRecords {
    buf: Buf,
    /// Payload bytes of each record and its header.
    records: Box<[(u16, [u8; RECORD_HEADER])]>,
}

/// A received buffer that leaves in pieces, each between a head and a tail of its own.
pub(crate) struct Framed {
    /// The payload.
    pub(crate) buf: Buf,
    /// Head and tail of each piece, one behind the other.
    pub(crate) frames: Block,
    /// Payload of each piece but the last, bytes.
    pub(crate) piece_bytes: usize,
    /// Of each head.
    pub(crate) head_bytes: usize,
    /// Of each tail.
    pub(crate) tail_bytes: usize,
}

impl Chunk {
    /// A received buffer that leaves as records of these sizes.
    pub(super) fn sized_records(buf: Buf, sizes: &[u16], header: RecordHeader) -> Self {
        let all: usize = sizes.iter().copied().map(usize::from).sum();
        debug_assert_eq!(all, buf.len());
        let records = sizes.iter().map(|size| (*size, header(usize::from(*size))));
        let records = records.collect();
        Self::Sized(Box::new(SizedRecords { buf, records }))
    }

    /// A received buffer that leaves as records.
    pub(super) fn records(mut buf: Buf, header: RecordHeader) -> Self {
        let records = buf.frame(header);
        Self::Records(buf, records)
    }

    /// Bytes on the wire.
    pub(super) fn wire_len(&self) -> usize {
        match self {
            Self::Raw(buf) => buf.len(),
            Self::Records(buf, records) => buf.len() + records * RECORD_HEADER,
            Self::Sized(sized) => sized.buf.len() + sized.records.len() * RECORD_HEADER,
            Self::Framed(framed) => framed.buf.len() + framed.frames.len(),
            Self::Block(block) => block.len(),
            Self::Heap(bytes) => bytes.len(),
        }
    }

    /// Appends the chunk's memory from wire offset `skip` on, until `iovecs` is full.
    fn gather(&self, skip: usize, iovecs: &mut IovecList) {
        match self {
            Self::Raw(buf) => iovecs.push(buf.bytes().as_ptr(), buf.len(), skip),
            Self::Block(block) => iovecs.push(block.as_ptr(), block.len(), skip),
            Self::Heap(bytes) => iovecs.push(bytes.as_ptr(), bytes.len(), skip),
            Self::Sized(sized) => sized.gather(skip, iovecs),
            Self::Framed(framed) => framed.gather(skip, iovecs),
            Self::Records(buf, records) => {
                let mut skip = skip;
                for record in 0..*records {
                    let payload = (buf.len() - record * RECORD_PAYLOAD_MAX).min(RECORD_PAYLOAD_MAX);
                    let (header, data) = buf.record_parts(record);
                    if record == 0 {
                        // The first header stands right in front of its payload.
                        let len = RECORD_HEADER + payload;
                        iovecs.push(header, len, skip.min(len));
                        skip = skip.saturating_sub(len);
                    } else {
                        iovecs.push(header, RECORD_HEADER, skip.min(RECORD_HEADER));
                        skip = skip.saturating_sub(RECORD_HEADER);
                        iovecs.push(data, payload, skip.min(payload));
                        skip = skip.saturating_sub(payload);
                    }
                }
            }
        }
    }

    /// The unsent rest, copied into memory of our own.
    pub(super) fn copy_rest(&self, skip: usize) -> Box<[u8]> {
        let rest = self.wire_len() - skip;
        let mut bytes = Vec::with_capacity(rest);
        // Records of various sizes may have more parts than a list takes.
        while bytes.len() < rest {
            let mut iovecs = IovecList::default();
            self.gather(skip + bytes.len(), &mut iovecs);
            debug_assert!(iovecs.len > 0);
            for part in &iovecs.parts[..iovecs.len] {
                // SAFETY: `gather` lists memory of this chunk, which is alive here.
                let part =
                    unsafe { std::slice::from_raw_parts(part.iov_base.cast(), part.iov_len) };
                bytes.extend_from_slice(part);
            }
        }
        bytes.into_boxed_slice()
    }

    /// Bytes that count as held for a peer that stands still.
    fn heap_bytes(&self) -> usize {
        match self {
            Self::Raw(_)
            | Self::Records(..)
            | Self::Sized(_)
            | Self::Framed(_)
            | Self::Block(_) => 0,
            Self::Heap(bytes) => bytes.len(),
        }
    }

    /// Holds a buffer of a ring pool that runs low.
    pub(super) fn is_scarce(&self) -> bool {
        match self {
            Self::Raw(buf) | Self::Records(buf, _) => buf.is_scarce(),
            Self::Sized(sized) => sized.buf.is_scarce(),
            Self::Framed(framed) => framed.buf.is_scarce(),
            Self::Block(_) | Self::Heap(_) => false,
        }
    }
}

impl SizedRecords {
    fn gather(&self, skip: usize, iovecs: &mut IovecList) {
        let mut skip = skip;
        let mut rest = self.buf.bytes();
        for (size, header) in &self.records {
            iovecs.push(header.as_ptr(), RECORD_HEADER, skip.min(RECORD_HEADER));
            skip = skip.saturating_sub(RECORD_HEADER);
            let (payload, later) = rest.split_at(usize::from(*size).min(rest.len()));
            iovecs.push(payload.as_ptr(), payload.len(), skip.min(payload.len()));
            skip = skip.saturating_sub(payload.len());
            rest = later;
        }
    }
}

impl Framed {
    fn gather(&self, skip: usize, iovecs: &mut IovecList) {
        let frame_bytes = self.head_bytes + self.tail_bytes;
        debug_assert_eq!(
            self.frames.len(),
            self.buf.len().div_ceil(self.piece_bytes) * frame_bytes
        );
        let mut skip = skip;
        let pieces = self.buf.bytes().chunks(self.piece_bytes);
        for (piece, frame) in pieces.zip(self.frames.chunks(frame_bytes)) {
            let (head, tail) = frame.split_at(self.head_bytes.min(frame.len()));
            for part in [head, piece, tail] {
                iovecs.push(part.as_ptr(), part.len(), skip.min(part.len()));
                skip = skip.saturating_sub(part.len());
            }
        }
    }
}

/// Memory areas of one send; room for one large buffer's records and some more.
pub(super) struct IovecList {
    parts: [libc::iovec; IOVECS_MAX],
    len: usize,
}

/// More parts than most chunks have (128 KiB make 8 records, 15 parts; 1 MiB 64 records). What does
/// not fit goes with the next send.
pub(super) const IOVECS_MAX: usize = 136;

impl Default for IovecList {
    fn default() -> Self {
        let empty = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            parts: [empty; IOVECS_MAX],
            len: 0,
        }
    }
}

impl IovecList {
    fn push(&mut self, start: *const u8, len: usize, skip: usize) {
        if skip >= len || self.len == IOVECS_MAX {
            return;
        }
        // SAFETY: `skip < len`, so the pointer stays inside the area.
        let start = unsafe { start.add(skip) };
        self.parts[self.len] = libc::iovec {
            iov_base: start.cast_mut().cast(),
            iov_len: len - skip,
        };
        self.len += 1;
    }

    pub(super) fn parts(&mut self) -> &mut [libc::iovec] {
        &mut self.parts[..self.len]
    }
}

/// What one socket still has to send.
#[derive(Default)]
pub(super) struct SendQueue {
    /// The oldest chunk, kept out of the deque: most sockets never have two.
    head: Option<Chunk>,
    rest: VecDeque<Chunk>,
    /// Wire bytes of `head` already taken by the kernel.
    head_sent: usize,
    /// Wire bytes not yet taken by the kernel.
    bytes: usize,
}

impl SendQueue {
    /// Unsent wire bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, chunk: Chunk) {
        let len = chunk.wire_len();
        if len == 0 {
            return;
        }
        self.bytes += len;
        if self.head.is_none() {
            self.head = Some(chunk);
        } else {
            self.rest.push_back(chunk);
        }
    }

    /// The memory of the next send, oldest first.
    pub(super) fn gather(&self, iovecs: &mut IovecList) {
        iovecs.len = 0;
        let mut skip = self.head_sent;
        for chunk in self.head.iter().chain(&self.rest) {
            if iovecs.len + 2 > IOVECS_MAX {
                break;
            }
            chunk.gather(skip, iovecs);
            skip = 0;
        }
        debug_assert!(self.bytes == 0 || iovecs.len > 0);
    }

    /// Forgets `sent` bytes; returns the heap bytes that were freed with them.
    pub(super) fn advance(&mut self, sent: usize) -> usize {
        debug_assert!(sent <= self.bytes);
        self.bytes = self.bytes.saturating_sub(sent);
        self.head_sent += sent;
        let mut freed = 0;
        while let Some(head) = &self.head {
            let len = head.wire_len();
            if self.head_sent < len {
                break;
            }
            self.head_sent -= len;
            if let Chunk::Heap(bytes) = head {
                freed += bytes.len();
            }
            self.head = self.rest.pop_front();
        }
        if self.rest.is_empty() && self.rest.capacity() > 0 {
            self.rest = VecDeque::new();
        }
        freed
    }

    /// Copies every scarce ring buffer into memory of its own. Must not be called while a send is
    /// in flight: the kernel reads the old memory. Returns the bytes now held on the heap.
    pub(super) fn spill(&mut self) -> usize {
        let mut copied = 0;
        if let Some(head) = &mut self.head
            && head.is_scarce()
        {
            let rest = head.copy_rest(self.head_sent);
            copied += rest.len();
            *head = Chunk::Heap(rest);
            self.head_sent = 0;
        }
        for chunk in &mut self.rest {
            if chunk.is_scarce() {
                let rest = chunk.copy_rest(0);
                copied += rest.len();
                *chunk = Chunk::Heap(rest);
            }
        }
        copied
    }

    /// Whether any unsent chunk sits in a buffer of a pool that runs low.
    pub(super) fn is_scarce(&self) -> bool {
        self.head.iter().chain(&self.rest).any(Chunk::is_scarce)
    }

    /// Drops everything; returns the heap bytes freed.
    pub(super) fn clear(&mut self) -> usize {
        let heap = self
            .head
            .iter()
            .chain(&self.rest)
            .map(Chunk::heap_bytes)
            .sum();
        *self = Self::default();
        heap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap(bytes: &[u8]) -> Chunk {
        Chunk::Heap(bytes.into())
    }

    fn collect(queue: &SendQueue) -> Vec<u8> {
        let mut iovecs = IovecList::default();
        queue.gather(&mut iovecs);
        let mut all = Vec::new();
        for part in iovecs.parts() {
            // SAFETY: `gather` lists memory of the queue, which is alive here.
            all.extend_from_slice(unsafe {
                std::slice::from_raw_parts(part.iov_base.cast::<u8>(), part.iov_len)
            });
        }
        all
    }

    #[test]
    fn queue_continues_where_a_short_send_stopped() {
        let mut queue = SendQueue::default();
        queue.push(heap(b"hello"));
        queue.push(heap(b", "));
        queue.push(heap(b""));
        queue.push(heap(b"world"));
        let mut seen = Vec::new();
        for step in [1, 5, 3, 3] {
            let all = collect(&queue);
            seen.extend_from_slice(&all[..step]);
            queue.advance(step);
            assert_eq!(queue.bytes(), all.len() - step);
        }
        assert_eq!(seen, b"hello, world");
        assert_eq!(queue.bytes(), 0);
        assert!(collect(&queue).is_empty());
    }
}
