//! The shard's own io_uring: sockets, provided buffers, ordered sends. Knows no protocol.
//!
//! ```text
//!   enter ──> submit what was queued, wait, reap ──> next_event ... next_event ──> enter
//! ```
//!
//! One [`Engine`] belongs to one thread and is driven by one task (`net::shard`). All `unsafe` of
//! the crate is in this folder. The rules that keep it sound:
//!
//! - memory named by an operation in flight is owned by the engine until its completion: receive
//!   buffers by the pool, send chunks by the socket's queue;
//! - a socket's slot is freed only when none of its operations is in flight;
//! - the ring is torn down before the memory it may write to (`Drop`), or that memory is leaked.
//!
//! Back-pressure: [`Engine::queued`] says what a socket still has to send; its owner stops the
//! source with [`Engine::pause`] and hears [`Event::Writable`] when it may go on.
#![allow(
    unsafe_code,
    reason = "the one place where the crate talks to the kernel directly"
)]

mod block;
mod buffers;
pub(crate) mod descriptors;
mod driver;
mod lifecycle;
pub(crate) mod memory;
mod op;
pub(crate) mod probe;
mod receive;
mod send;
mod socket;
mod splice;
#[cfg(test)]
mod tests;
mod transmit;
mod trim;
mod unix;

pub(crate) use self::block::{Block, Blocks, Shrunk};
pub(crate) use self::buffers::Buf;
pub(crate) use self::driver::{Doorbell, Engine, EngineSettings};
pub(crate) use self::op::SocketId;
pub(crate) use self::send::Framed;
pub(crate) use self::socket::{
    ListenOptions, OutgoingOptions, check_free, listen, needs_program, steer_by_cpu,
};
pub(crate) use self::unix::{UnixFile, listen_unix};

/// What the engine tells the owner of a socket with each of its events; the engine only keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) u64);

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client was accepted by the listener with this owner; it is not read before
    /// [`Engine::resume`].
    Accepted { socket: SocketId, listener: Owner },
    /// Accepting stopped, descriptors or memory ran out; [`Engine::accept`] starts it again.
    AcceptFailed { listener: SocketId, errno: i32 },
    /// A connect succeeded; it is not read before [`Engine::resume`].
    Connected { owner: Owner, socket: SocketId },
    /// A connect failed; the socket is gone.
    ConnectFailed { owner: Owner, errno: i32 },
    /// Bytes arrived.
    Received { owner: Owner, buf: Buf },
    /// The peer will send no more.
    Ended { owner: Owner },
    /// The connection broke; only [`Engine::close`] is left to do.
    Failed { owner: Owner, errno: i32 },
    /// The send queue fell under half its bound after [`Engine::notify_writable`].
    Writable { owner: Owner },
    /// Everything queued before [`Engine::finish`] is sent, and the end after it; or what was
    /// queued before [`Engine::flush`].
    Finished { owner: Owner },
    /// A timer set with [`Engine::set_timer`] fired.
    Timer,
    /// Somebody rang the [`Doorbell`].
    Doorbell,
}
