//! What shards do while the host is short of something: shorter limits, and a word on every
//! client connection that ends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_channel::{Receiver, Sender};

/// Limits under pressure; each only lowers what the settings say.
#[derive(Clone, Debug)]
pub struct Pressure {
    /// Accept to first byte.
    pub first_byte: Duration,
    /// Direct relay with nothing in either direction.
    pub idle: Duration,
    /// Silence of a client that goes through an ME until it may be closed to make room.
    pub me_soft: Duration,
    /// Silence of a client that goes through an ME until it is closed.
    pub me_hard: Duration,
    /// Who wants to hear of connections that end.
    pub closed: Option<CloseEvents>,
}

/// A client connection that has ended: its addresses as the kernel knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedClient {
    /// The peer of the socket.
    pub peer: SocketAddr,
    /// Our end.
    pub ours: SocketAddr,
}

/// Where ends are told, with room for a bounded number.
#[derive(Clone, Debug)]
pub struct CloseEvents {
    to: Sender<ClosedClient>,
    dropped: Arc<AtomicU64>,
}

impl CloseEvents {
    /// Room for `most` ends that nobody has looked at, and the end where they come out.
    #[must_use]
    pub fn new(most: usize) -> (Self, Receiver<ClosedClient>) {
        let (to, from) = async_channel::bounded(most.max(1));
        let dropped = Arc::default();
        (Self { to, dropped }, from)
    }

    /// Tells of one; it is dropped, and counted, when there is no room. Never blocks.
    pub fn tell(&self, closed: ClosedClient) {
        if self.to.try_send(closed).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let (events, told) = CloseEvents::new(2);
        let closed = ClosedClient {
            peer: "192.0.2.1:5".parse().expect("an address"),
            ours: "192.0.2.2:443".parse().expect("an address"),
        };
        (0..5).for_each(|_| events.tell(closed));
        assert_eq!((told.len(), events.dropped()), (2, 3));
        assert_eq!(told.try_recv(), Ok(closed));
        events.tell(closed);
        assert_eq!((told.len(), events.dropped()), (2, 3));
    }
}
