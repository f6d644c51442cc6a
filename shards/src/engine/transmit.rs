//! Sending: what was queued in a turn leaves as one operation per socket; what a stalled peer holds
//! back is copied out of scarce buffers.

use std::io;

use io_uring::{opcode, types};

use super::{
    Event,
    block::{Block, Blocks},
    buffers::Buf,
    driver::Engine,
    lifecycle::Fin,
    op::{OpKind, SocketId, token},
    send::{Chunk, Framed, IovecList, RecordHeader, SendQueue},
    socket,
};

impl Engine {
    /// Queues a received buffer as it is. A gone socket drops it.
    pub(crate) fn send(&mut self, id: SocketId, buf: Buf) {
        self.queue(id, Chunk::Raw(buf));
    }

    /// Queues a received buffer as records of at most 16 KiB payload each.
    pub(crate) fn send_records(&mut self, id: SocketId, buf: Buf, header: RecordHeader) {
        if buf.len() > 0 {
            self.queue(id, Chunk::records(buf, header));
        }
    }

    /// Queues a received buffer as records of these payload sizes, which add up to its length.
    pub(crate) fn send_sized_records(
        &mut self,
        id: SocketId,
        buf: Buf,
        sizes: &[u16],
        header: RecordHeader,
    ) {
        if buf.len() > 0 {
            self.queue(id, Chunk::sized_records(buf, sizes, header));
        }
    }

    /// Queues a received buffer in pieces with something around each.
    pub(crate) fn send_framed(&mut self, id: SocketId, framed: Framed) {
        if framed.buf.len() > 0 {
            self.queue(id, Chunk::Framed(Box::new(framed)));
        }
    }

    /// Queues bytes of our own.
    pub(crate) fn send_bytes(&mut self, id: SocketId, bytes: Box<[u8]>) {
        self.spill_bytes += bytes.len();
        let len = bytes.len();
        if !self.queue(id, Chunk::Heap(bytes)) {
            self.spill_bytes -= len;
        }
    }

    /// Queues a block. A gone socket drops it.
    pub(crate) fn send_block(&mut self, id: SocketId, block: Block) {
        self.queue(id, Chunk::Block(block));
    }

    /// Where blocks come from.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Wire bytes the socket still has to send.
    pub(crate) fn queued(&self, id: SocketId) -> usize {
        self.sockets
            .get(id.index as usize)
            .filter(|socket| socket.generation == id.generation)
            .map_or(0, |socket| socket.tx.bytes())
    }

    /// Asks for one [`Event::Writable`] once the queue is under half its bound.
    pub(crate) fn notify_writable(&mut self, id: SocketId) {
        if let Some(socket) = self.live(id) {
            socket.notify = true;
        }
    }

    pub(super) fn flush_sends(&mut self) {
        let mut flush = std::mem::take(&mut self.flush);
        for id in flush.drain(..) {
            let Some(socket) = self.live(id) else {
                continue;
            };
            socket.dirty = false;
            if socket.tx.is_scarce() {
                self.send_directly(id);
            } else {
                self.start_send(id);
            }
        }
        // Sends that finished directly may have queued nothing new: keep the allocation.
        debug_assert!(self.flush.is_empty());
        self.flush = flush;
    }

    /// While receives find no buffer, sends that wait for their peer give theirs back: cancelled
    /// here, they go on by [`Engine::send_directly`]. Else a few peers that stand still would hold
    /// every buffer, and with them everybody.
    pub(super) fn recall_sends(&mut self) {
        self.short = false;
        let starves = self.starved.iter().any(|waiting| !waiting.is_empty());
        if !starves || self.may_feed_starved() {
            return;
        }
        let mut recalled = Vec::new();
        for (index, socket) in &mut self.sockets {
            if socket.sending && !socket.recalled && !socket.closing && socket.tx.is_scarce() {
                socket.recalled = true;
                recalled.push(SocketId {
                    index: u32::try_from(index).unwrap_or(u32::MAX),
                    generation: socket.generation,
                });
            }
        }
        for id in recalled {
            self.cancel(OpKind::Send, id);
        }
    }

    pub(super) fn sent(&mut self, id: SocketId, result: i32) -> Option<Event> {
        let bound = self.settings.buffers.queue_bytes_max;
        let socket = self.sockets.get_mut(id.index as usize)?;
        socket.sending = false;
        socket.ops.remove(OpKind::Send);
        if socket.closing {
            self.spill_bytes -= socket.tx.clear();
            self.free_if_done(id);
            return None;
        }
        socket.recalled = false;
        let errno = match -result {
            // Recalled, or nothing taken yet: it goes on below.
            ..=0 | libc::ECANCELED | libc::EAGAIN | libc::EINTR => socket.broken,
            errno => errno,
        };
        if errno != 0 {
            self.spill_bytes -= socket.tx.clear();
            return Some(Event::Failed {
                owner: socket.owner,
                errno,
            });
        }
        let sent = usize::try_from(result).unwrap_or(0);
        self.spill_bytes -= socket.tx.advance(sent);
        if socket.tx.bytes() > 0 && !socket.dirty {
            socket.dirty = true;
            self.flush.push(id);
        }
        let owner = socket.owner;
        if socket.end_if_flushed() {
            return Some(Event::Finished { owner });
        }
        if socket.notify && socket.tx.bytes() <= bound / 2 {
            socket.notify = false;
            return Some(Event::Writable { owner });
        }
        None
    }

    pub(super) fn queue(&mut self, id: SocketId, chunk: Chunk) -> bool {
        let Some(socket) = self.live(id) else {
            return false;
        };
        if socket.fin != Fin::Open {
            debug_assert!(false, "send after finish");
            return false;
        }
        socket.tx.push(chunk);
        if !socket.sending && !socket.dirty && socket.tx.bytes() > 0 {
            socket.dirty = true;
            self.flush.push(id);
        }
        true
    }

    pub(super) fn start_send(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id.index as usize) else {
            return;
        };
        if socket.tx.bytes() == 0 {
            return;
        }
        const FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        socket.sending = true;
        socket.ops.insert(OpKind::Send);
        let fd = types::Fd(socket.fd);
        let single = &mut self.scratch.single;
        socket.tx.gather(single);
        let entry = if let [part] = single.parts() {
            let len = u32::try_from(part.iov_len).unwrap_or(u32::MAX);
            opcode::Send::new(fd, part.iov_base.cast_const().cast(), len)
                .flags(FLAGS)
                .build()
        } else {
            let message = self.scratch.message(&socket.tx);
            opcode::SendMsg::new(fd, message)
                .flags(FLAGS as u32)
                .build()
        };
        self.push(entry.user_data(token(OpKind::Send, id)));
    }

    /// Sends without the ring what sits in scarce buffers, and copies what the socket does not
    /// take, so that a stalled peer holds memory of its own and not everybody's buffers.
    pub(super) fn send_directly(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id.index as usize) else {
            return;
        };
        let mut failed = None;
        while socket.tx.bytes() > 0 {
            socket.tx.gather(&mut self.scratch.single);
            match socket::send_now(socket.fd, self.scratch.single.parts()) {
                Ok(sent) => self.spill_bytes -= socket.tx.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failed = Some(error.raw_os_error().unwrap_or(libc::EIO));
                    break;
                }
            }
        }
        if failed.is_none() && self.spill_bytes < self.settings.buffers.spill_bytes_max {
            let copied = socket.tx.spill();
            self.spill_bytes += copied;
            self.stats.spilled_bytes += copied as u64;
        } else if failed.is_none() && socket.tx.bytes() > 0 {
            // Every shared buffer and all memory for stalled peers is taken: this one goes.
            failed = Some(libc::ENOBUFS);
        }
        match failed {
            Some(errno) => self.fail_later(id, errno),
            None if socket.tx.bytes() > 0 => self.start_send(id),
            None => self.nudge(id),
        }
    }

    /// Reports the outcome of a direct send through the ring, in its turn: a no-op that completes
    /// as a send of nothing.
    pub(super) fn nudge(&mut self, id: SocketId) {
        if let Some(socket) = self.sockets.get_mut(id.index as usize) {
            socket.sending = true;
            socket.ops.insert(OpKind::Send);
        }
        self.push(
            opcode::Nop::new()
                .build()
                .user_data(token(OpKind::Send, id)),
        );
    }

    pub(super) fn fail_later(&mut self, id: SocketId, errno: i32) {
        if let Some(socket) = self.sockets.get_mut(id.index as usize) {
            self.spill_bytes -= socket.tx.clear();
            socket.broken = errno;
        }
        self.nudge(id);
    }
}

/// Message headers of one submission; the kernel copies them while it submits.
#[derive(Default)]
pub(super) struct Scratch {
    #[expect(
        clippy::vec_box,
        reason = "a header's address must outlive the vector's growth"
    )]
    messages: Vec<Box<Message>>,
    pub(super) used: usize,
    pub(super) single: Box<IovecList>,
}

struct Message {
    header: libc::msghdr,
    iovecs: IovecList,
}

impl Scratch {
    /// A message header over everything `queue` has to send; lives until the next submission.
    pub(super) fn message(&mut self, queue: &SendQueue) -> *const libc::msghdr {
        if self.used == self.messages.len() {
            // SAFETY: all-zero is a valid, empty message header.
            let header = unsafe { std::mem::zeroed() };
            self.messages.push(Box::new(Message {
                header,
                iovecs: IovecList::default(),
            }));
        }
        let message = &mut self.messages[self.used];
        self.used += 1;
        queue.gather(&mut message.iovecs);
        let parts = message.iovecs.parts();
        message.header.msg_iov = parts.as_mut_ptr();
        message.header.msg_iovlen = parts.len();
        &raw const message.header
    }
}
