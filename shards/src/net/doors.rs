//! The listeners of a shard: which of them accept now, and who waits inside for a place.
//!
//! Clients that find all places of the process taken wait in order, for as long as the settings
//! say; when too many wait, the rest is left to the kernel's queue. What becomes of a client that
//! has a place is in `accept.rs`.

use std::{collections::VecDeque, io, time::Duration};

use super::shard::Shard;
use crate::{
    engine::{Owner, SocketId},
    policy::Millis,
};

/// What is special about the clients of one listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Door {
    /// They begin with a PROXY header.
    pub(super) proxy: bool,
    /// They come by a Unix socket and have no address.
    pub(super) unix: bool,
}

/// All listeners of a shard.
pub(super) struct Doors {
    all: Vec<(SocketId, Door)>,
    /// The ports of all listeners, each once.
    pub(super) ports: Vec<u16>,
    /// New clients are let in, as far as the route says.
    pub(super) open: bool,
    /// Too many wait for a place.
    crowded: bool,
    /// Listeners that ran out of descriptors, and when they are tried again.
    resting: Vec<(SocketId, Millis)>,
    /// Clients without a place, first come first.
    waiting: VecDeque<Waiting>,
}

/// A client without a place.
struct Waiting {
    socket: SocketId,
    door: Door,
    /// When it is closed; `None`: never for that.
    until: Option<Millis>,
}

/// Pause after accepting ran out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// A place that another shard gave back is seen so much later at most.
const PLACE_LOOK: Duration = Duration::from_millis(5);
/// Clients that wait for a place in one shard; further ones wait in the kernel.
const WAITING_MAX: usize = 128;

impl Doors {
    /// Listeners that accept already.
    pub(super) fn new(all: Vec<(SocketId, Door)>, ports: Vec<u16>) -> Self {
        Self {
            all,
            ports,
            open: true,
            crowded: false,
            resting: Vec::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The port of all listeners, if they have one.
    pub(super) fn port(&self) -> Option<u16> {
        match self.ports.as_slice() {
            [port] => Some(*port),
            _ => None,
        }
    }

    /// Somebody listens, and lets clients in.
    pub(super) fn is_accepting(&self) -> bool {
        !self.all.is_empty() && self.open
    }

    /// When something here is due.
    pub(super) fn next(&self, now: Millis) -> Option<Millis> {
        let look = (!self.waiting.is_empty()).then(|| now.after(PLACE_LOOK));
        let until = self.waiting.front().and_then(|first| first.until);
        let resting = self.resting.iter().map(|(_, at)| *at).min();
        [look, until, resting].into_iter().flatten().min()
    }

    /// The door that an engine's event names.
    pub(super) fn door(&self, owner: Owner) -> Door {
        let at = usize::try_from(owner.0).unwrap_or(usize::MAX);
        self.all.get(at).map(|(_, door)| *door).unwrap_or_default()
    }

    /// Too many wait for a place.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded
    }

    fn lets_in(&self) -> bool {
        self.open && !self.crowded
    }
}

impl Shard {
    /// Opens and closes the doors as the route and the crowd inside say.
    pub(super) fn set_doors(&mut self, open: bool, crowded: bool) {
        let before = self.doors.lets_in();
        (self.doors.open, self.doors.crowded) = (open, crowded);
        let now = self.doors.lets_in();
        if before == now {
            return;
        }
        for (listener, _) in &self.doors.all {
            if now {
                self.engine.accept(*listener);
            } else {
                self.engine.stop_accepting(*listener);
            }
        }
    }

    /// Accepts no more, ever; who waits for a place is closed.
    pub(super) fn shut_doors(&mut self) {
        for (listener, _) in self.doors.all.drain(..) {
            self.engine.close(listener);
        }
        for waiting in self.doors.waiting.drain(..) {
            self.engine.close(waiting.socket);
        }
        self.doors.resting.clear();
    }

    /// A client has come.
    pub(super) fn accepted(&mut self, socket: SocketId, listener: Owner) {
        let door = self.doors.door(listener);
        self.totals.core.connections_total += 1;
        let most = self.settings.plane.connections_max;
        if self.sessions.len() >= most && !self.middle_make_room() {
            self.totals.core.accept_overflow_total += 1;
            self.engine.close(socket);
            return;
        }
        let first = self.doors.waiting.is_empty();
        if first && (self.permits.take() || (self.middle_make_room() && self.permits.take())) {
            return self.admit(socket, door);
        }
        let until = self.settings.places.wait.map(|wait| self.now.after(wait));
        self.doors.waiting.push_back(Waiting {
            socket,
            door,
            until,
        });
        if self.doors.waiting.len() >= WAITING_MAX {
            self.set_doors(self.doors.open, true);
        }
    }

    /// Lets those in for whom there is a place now, and closes those whose time is up.
    fn look_for_places(&mut self) {
        while let Some(first) = self.doors.waiting.front() {
            if self.permits.take() {
                let Some(Waiting { socket, door, .. }) = self.doors.waiting.pop_front() else {
                    return self.permits.give();
                };
                self.admit(socket, door);
            } else if first.until.is_some_and(|until| until <= self.now) {
                self.totals.core.accept_permit_timeout_total += 1;
                self.engine.close(first.socket);
                self.doors.waiting.pop_front();
            } else {
                break;
            }
        }
        if self.doors.crowded && self.doors.waiting.len() <= WAITING_MAX / 2 {
            self.set_doors(self.doors.open, false);
        }
    }

    /// A listener could not accept.
    pub(super) fn rest(&mut self, listener: SocketId, errno: i32) {
        if self.totals.core.accept_errors_total.is_power_of_two()
            || self.totals.core.accept_errors_total == 0
        {
            let error = io::Error::from_raw_os_error(errno);
            tracing::warn!(%error, "cannot accept; raise `ulimit -n` or LimitNOFILE if this lasts");
        }
        self.totals.core.accept_errors_total += 1;
        let at = self.now.after(ACCEPT_REST);
        self.doors.resting.push((listener, at));
    }

    /// What is due here.
    pub(super) fn run_doors(&mut self) {
        let (now, open) = (self.now, self.doors.lets_in());
        let engine = &mut self.engine;
        self.doors.resting.retain(|(listener, at)| {
            let due = *at <= now;
            if due && open {
                engine.accept(*listener);
            }
            !due
        });
        self.look_for_places();
    }
}
