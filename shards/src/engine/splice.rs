//! What a splice needs beyond a relay: far sides on a Unix socket, resets that are heard and passed
//! on, and a flush without an end.

use std::{
    io,
    os::fd::{IntoRawFd as _, RawFd},
    path::Path,
};

use io_uring::{cqueue, opcode, types};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{
    Event, Owner,
    driver::Engine,
    lifecycle::Fin,
    op::{OpKind, SocketId, token},
    socket,
};

impl Engine {
    /// Starts a connect to a Unix socket; events as for [`Engine::connect`].
    ///
    /// # Errors
    /// No descriptor, or the path is too long.
    pub(crate) fn connect_unix(&mut self, path: &Path, owner: Owner) -> io::Result<SocketId> {
        let to = SockAddr::unix(path)?;
        let fd = outgoing_unix()?;
        Ok(self.start_connect(fd, to, owner))
    }

    /// Submits the connect of a new socket.
    pub(super) fn start_connect(&mut self, fd: RawFd, to: SockAddr, owner: Owner) -> SocketId {
        let id = self.insert(fd);
        let to = Box::new(to);
        let entry = opcode::Connect::new(types::Fd(fd), to.as_ptr().cast(), to.len())
            .build()
            .user_data(token(OpKind::Connect, id));
        if let Some(socket) = self.live(id) {
            socket.ops.insert(OpKind::Connect);
            socket.connect_to = Some(to);
            socket.owner = owner;
        }
        self.push(entry);
        id
    }

    /// Closes now, with a reset; what is still queued is lost. No event of this socket follows.
    pub(crate) fn reset(&mut self, id: SocketId) {
        if let Some(own) = self.live(id) {
            own.resets = true;
            socket::with_reset(own.fd);
            self.close(id);
        }
    }

    /// Takes no more to send. True when everything queued is sent; otherwise [`Event::Finished`]
    /// says when. Our direction stays open.
    pub(crate) fn flush(&mut self, id: SocketId) -> bool {
        let Some(socket) = self.live(id) else {
            return true;
        };
        match socket.fin {
            Fin::Open | Fin::AfterFlush => {
                socket.fin = Fin::TellFlushed;
                socket.end_if_flushed()
            }
            Fin::TellFlushed => false,
            Fin::Sent => true,
        }
    }

    /// From now on a reset is told as [`Event::Failed`] though the peer has ended before. Without
    /// this it is noticed with the next send only.
    pub(crate) fn watch_reset(&mut self, id: SocketId) {
        let Some(socket) = self.live(id) else { return };
        if socket.ops.contains(OpKind::Watch) {
            return;
        }
        socket.ops.insert(OpKind::Watch);
        // Level triggered it would fire for the end that is known already, again and again.
        let entry = opcode::PollAdd::new(types::Fd(socket.fd), 0)
            .multi(true)
            .build()
            .user_data(token(OpKind::Watch, id));
        self.push(entry);
    }

    /// A watched socket has changed.
    pub(super) fn watched(&mut self, id: SocketId, result: i32, flags: u32) -> Option<Event> {
        let socket = self.sockets.get_mut(id.index as usize)?;
        if !cqueue::more(flags) {
            socket.ops.remove(OpKind::Watch);
        }
        if socket.closing {
            self.free_if_done(id);
            return None;
        }
        let broken = result > 0 && result & i32::from(libc::POLLERR) != 0;
        if !broken || socket.reset_told {
            return None;
        }
        socket.reset_told = true;
        Some(Event::Failed {
            owner: socket.owner,
            errno: libc::ECONNRESET,
        })
    }
}

fn outgoing_unix() -> io::Result<RawFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    Ok(socket.into_raw_fd())
}
