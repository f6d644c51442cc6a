//! A socket from accept or connect to its close; a slot is freed when none of its operations is in
//! flight.

use std::{
    io,
    net::SocketAddr,
    os::fd::{IntoRawFd, OwnedFd, RawFd},
};

use io_uring::{opcode, types};
use socket2::SockAddr;

use super::{
    Event, Owner,
    driver::Engine,
    op::{GENERATION_MASK, OpKind, Ops, SocketId, token},
    send::SendQueue,
    socket::{self, OutgoingOptions},
};

/// State of one socket.
pub(super) struct Socket {
    pub(super) fd: RawFd,
    pub(super) generation: u32,
    pub(super) rx: Rx,
    /// The owner wants bytes.
    pub(super) wanted: bool,
    /// Receives into large buffers, one at a time.
    pub(super) bulk: bool,
    /// What one receive may take; 0 for as much as fits a buffer.
    pub(super) receive_max: u32,
    /// Receives in a row that speak for the other buffer size.
    pub(super) streak: u8,
    pub(super) cancelling: bool,
    pub(super) tx: SendQueue,
    pub(super) sending: bool,
    /// The send in flight is being cancelled to get its buffers back.
    pub(super) recalled: bool,
    /// Why sending is over, to be told when the operation in flight completes; 0 while it is not.
    pub(super) broken: i32,
    pub(super) dirty: bool,
    pub(super) notify: bool,
    pub(super) fin: Fin,
    /// A watched reset was told.
    pub(super) reset_told: bool,
    /// Closing sends a reset and no end.
    pub(super) resets: bool,
    pub(super) closing: bool,
    /// A listener that other rings take from, too: each of them in turn.
    pub(super) in_turn: bool,
    /// In flight.
    pub(super) ops: Ops,
    pub(super) connect_to: Option<Box<SockAddr>>,
    pub(super) owner: Owner,
}

/// The receiving side of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rx {
    /// No receive in flight.
    Idle,
    /// Multishot receive into small buffers.
    Multi,
    /// One receive into a large buffer.
    Once,
    /// One receive into a small buffer.
    OnceSmall,
    /// Waits for a free buffer.
    Starved,
    /// The peer has ended.
    Ended,
}

/// Our end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    Open,
    AfterFlush,
    /// Nothing ends, but it is to be told when all is sent.
    TellFlushed,
    Sent,
}

impl Engine {
    /// Puts a listening socket on the ring and starts accepting; `owner` comes with every client.
    ///
    /// `in_turn`: other rings have descriptors of the same socket. The kernel wakes one of them per
    /// client, and a ring that never lets go of its place in that queue would get them all.
    pub(crate) fn add_listener(&mut self, fd: OwnedFd, owner: Owner, in_turn: bool) -> SocketId {
        let resets = socket::has_reset(&fd);
        let id = self.insert(fd.into_raw_fd());
        if let Some(socket) = self.live(id) {
            (socket.owner, socket.in_turn) = (owner, in_turn);
            // Those that are accepted inherit it.
            socket.resets = resets;
        }
        self.accept(id);
        id
    }

    /// Accepts no more until [`Engine::accept`]; who comes waits in the kernel. Clients already on
    /// their way may still be told.
    pub(crate) fn stop_accepting(&mut self, listener: SocketId) {
        let Some(socket) = self.live(listener) else {
            return;
        };
        socket.wanted = false;
        if socket.ops.contains(OpKind::Accept) {
            self.cancel(OpKind::Accept, listener);
        }
    }

    /// Accepts (again) on a listener.
    pub(crate) fn accept(&mut self, listener: SocketId) {
        let Some(socket) = self.live(listener) else {
            return;
        };
        socket.wanted = true;
        if socket.ops.contains(OpKind::Accept) {
            // Still accepting, or about to stop: that it is wanted again is seen then.
            return;
        }
        socket.ops.insert(OpKind::Accept);
        let (fd, flags) = (types::Fd(socket.fd), libc::SOCK_CLOEXEC);
        let entry = match socket.in_turn {
            false => opcode::AcceptMulti::new(fd).flags(flags).build(),
            true => opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .flags(flags)
                .build(),
        };
        self.push(entry.user_data(token(OpKind::Accept, listener)));
    }

    /// Starts a connect with the usual options.
    ///
    /// # Errors
    /// As for [`Engine::connect_with`].
    pub(crate) fn connect(&mut self, addr: SocketAddr, owner: Owner) -> io::Result<SocketId> {
        self.connect_with(addr, owner, self.usual_options())
    }

    /// Options of outgoing sockets that have none of their own.
    pub(crate) fn usual_options(&self) -> OutgoingOptions<'static> {
        OutgoingOptions {
            keepalive: self.settings.keepalive,
            keepalive_interval: self.settings.keepalive,
            ..OutgoingOptions::default()
        }
    }

    /// Starts a connect; [`Event::Connected`] or [`Event::ConnectFailed`] follows unless the
    /// socket is closed first.
    ///
    /// # Errors
    /// No descriptor, the family is not supported, or the socket cannot be bound as asked for.
    pub(crate) fn connect_with(
        &mut self,
        addr: SocketAddr,
        owner: Owner,
        options: OutgoingOptions<'_>,
    ) -> io::Result<SocketId> {
        let fd = socket::outgoing(addr, options)?;
        Ok(self.start_connect(fd, SockAddr::from(addr), owner))
    }

    /// Address of the other side; `None` once it is gone.
    pub(crate) fn peer_addr(&self, id: SocketId) -> Option<SocketAddr> {
        let socket = self.sockets.get(id.index as usize)?;
        (socket.generation == id.generation).then(|| socket::peer_addr(socket.fd))?
    }

    /// Our own address on a connected socket; `None` once it is gone.
    pub(crate) fn local_addr(&self, id: SocketId) -> Option<SocketAddr> {
        let socket = self.sockets.get(id.index as usize)?;
        (socket.generation == id.generation).then(|| socket::local_addr(socket.fd))?
    }

    /// Bytes that were sent and that the peer has not acknowledged; `None` once it is gone.
    pub(crate) fn unacknowledged(&self, id: SocketId) -> Option<usize> {
        let socket = self.sockets.get(id.index as usize)?;
        (socket.generation == id.generation).then(|| socket::unacknowledged(socket.fd))?
    }

    /// Ends our direction once everything queued is sent. True when that is already so; otherwise
    /// [`Event::Finished`] says when.
    pub(crate) fn finish(&mut self, id: SocketId) -> bool {
        let Some(socket) = self.live(id) else {
            return true;
        };
        match socket.fin {
            Fin::Open => {
                socket.fin = Fin::AfterFlush;
                socket.end_if_flushed()
            }
            Fin::AfterFlush | Fin::TellFlushed => false,
            Fin::Sent => true,
        }
    }

    /// Sets what the socket's events carry.
    pub(crate) fn set_owner(&mut self, id: SocketId, owner: Owner) {
        if let Some(socket) = self.live(id) {
            socket.owner = owner;
        }
    }

    /// Closing this socket will send an ordinary end, whatever its listener had set.
    pub(crate) fn close_plainly(&mut self, id: SocketId) {
        if let Some(own) = self.live(id) {
            own.resets = false;
            socket::without_reset(own.fd);
        }
    }

    /// Bounds what the kernel holds of a stream from `source` to `sink`, at each about so many
    /// bytes beside what is on its way to the peer.
    pub(crate) fn bound_kernel_bytes(&self, source: SocketId, sink: SocketId, bytes: usize) {
        let fd = |id: SocketId| {
            let socket = self.sockets.get(id.index as usize);
            let socket = socket.filter(|socket| socket.generation == id.generation);
            socket.map(|socket| socket.fd)
        };
        if let (Some(source), Some(sink)) = (fd(source), fd(sink)) {
            socket::bound_received(source, bytes);
            socket::bound_unsent(sink, bytes);
        }
    }

    /// Closes now; what is still queued is lost. No event of this socket follows.
    pub(crate) fn close(&mut self, id: SocketId) {
        let Some(socket) = self.live(id) else { return };
        socket.closing = true;
        socket.wanted = false;
        let (fd, ops, resets) = (socket.fd, socket.ops, socket.resets);
        if !socket.sending {
            let freed = socket.tx.clear();
            self.spill_bytes -= freed;
        }
        if ops.is_empty() {
            self.free(id);
        } else if ops.is_only(OpKind::Receive) && !resets {
            // Ends the receive as well, and is the end that the close would send. A cancel would
            // cost the more the more sockets are idle.
            socket::break_off(fd);
        } else {
            for kind in ops.iter() {
                self.cancel(kind, id);
            }
        }
    }

    /// Cancels what the socket has in flight of this kind. By token, which the kernel finds in a
    /// hash table (of 256 rows at most): by descriptor it would look at each operation of the ring.
    pub(super) fn cancel(&mut self, kind: OpKind, id: SocketId) {
        let cancel = types::CancelBuilder::user_data(token(kind, id));
        let entry = opcode::AsyncCancel2::new(cancel)
            .build()
            .user_data(token(OpKind::Ignore, id));
        self.push(entry);
    }

    pub(super) fn accepted(
        &mut self,
        listener: SocketId,
        result: i32,
        more: bool,
    ) -> Option<Event> {
        if !more && let Some(socket) = self.sockets.get_mut(listener.index as usize) {
            socket.ops.remove(OpKind::Accept);
        }
        if result >= 0 {
            let found = self.live(listener).map(|own| (own.owner, own.resets));
            let Some((owner, resets)) = found else {
                socket::close_now(result);
                self.free_if_done(listener);
                return None;
            };
            let socket = self.insert(result);
            if let Some(own) = self.live(socket) {
                own.resets = resets;
            }
            if !more {
                self.accept_if_wanted(listener);
            }
            return Some(Event::Accepted {
                socket,
                listener: owner,
            });
        }
        if self.live(listener).is_none() {
            self.free_if_done(listener);
            return None;
        }
        if more {
            return None;
        }
        match -result {
            libc::ECONNABORTED | libc::EAGAIN | libc::EINTR | libc::ECANCELED => {
                self.accept_if_wanted(listener);
                None
            }
            // Out of descriptors, most likely. To go on at once would be to turn for nothing.
            errno => Some(Event::AcceptFailed { listener, errno }),
        }
    }

    fn accept_if_wanted(&mut self, listener: SocketId) {
        if self.live(listener).is_some_and(|socket| socket.wanted) {
            self.accept(listener);
        }
    }

    pub(super) fn connected(&mut self, id: SocketId, result: i32) -> Option<Event> {
        let socket = self.sockets.get_mut(id.index as usize)?;
        socket.ops.remove(OpKind::Connect);
        socket.connect_to = None;
        if socket.closing {
            self.free_if_done(id);
            return None;
        }
        let owner = socket.owner;
        if result < 0 {
            self.close(id);
            return Some(Event::ConnectFailed {
                owner,
                errno: -result,
            });
        }
        Some(Event::Connected { owner, socket: id })
    }

    pub(super) fn insert(&mut self, fd: RawFd) -> SocketId {
        self.generation = self.generation.wrapping_add(1) & GENERATION_MASK;
        let generation = self.generation;
        let index = self.sockets.insert(Socket {
            fd,
            generation,
            rx: Rx::Idle,
            wanted: false,
            bulk: false,
            receive_max: 0,
            streak: 0,
            cancelling: false,
            tx: SendQueue::default(),
            sending: false,
            recalled: false,
            broken: 0,
            dirty: false,
            notify: false,
            fin: Fin::Open,
            reset_told: false,
            resets: false,
            closing: false,
            in_turn: false,
            ops: Ops::default(),
            connect_to: None,
            owner: Owner::default(),
        });
        SocketId {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            generation,
        }
    }

    pub(super) fn free_if_done(&mut self, id: SocketId) {
        let done = self
            .sockets
            .get(id.index as usize)
            .is_some_and(|socket| socket.closing && socket.ops.is_empty());
        if done {
            self.free(id);
        }
    }

    pub(super) fn free(&mut self, id: SocketId) {
        let socket = self.sockets.remove(id.index as usize);
        debug_assert!(socket.ops.is_empty() && socket.generation == id.generation);
        let entry = opcode::Close::new(types::Fd(socket.fd))
            .build()
            .user_data(token(OpKind::Ignore, id));
        self.push(entry);
    }
}

impl Socket {
    /// Ends our direction if that is wanted and nothing is left to send; whether it did.
    pub(super) fn end_if_flushed(&mut self) -> bool {
        let over = matches!(self.fin, Fin::AfterFlush | Fin::TellFlushed);
        let ends = over && self.tx.bytes() == 0 && !self.sending;
        if ends {
            if self.fin == Fin::AfterFlush {
                socket::shutdown_write(self.fd);
            }
            self.fin = Fin::Sent;
        }
        ends
    }
}
