//! Sources that are ahead of their rate: paused, and read again when their time has come.
//!
//! One timer per session that is paused, for the earlier of its two directions. How long a pause
//! takes is `policy::rates`'s; that a side stalls is `relay.rs`'s. A source is read only while
//! neither speaks against it.

use super::{
    client::{Session, Side, State},
    shard::Shard,
};
use crate::policy::meter::Direction;

impl Shard {
    /// Stops reading the side that is ahead, until the time noted in its flow.
    pub(super) fn hold_back(&mut self, key: u32, side: Side) {
        let Some(Session { client, state, .. }) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let (source, until, pace) = match (state, side) {
            (State::Relay(relay), Side::Client) => (*client, relay.up.until, &mut relay.pace),
            (State::Relay(relay), _) => (relay.dc, relay.down.until, &mut relay.pace),
            // What an ME sends for a client waits in the client's queue.
            (State::Middle(middle), _) => (*client, middle.up_until(), &mut middle.pace),
            _ => return,
        };
        if let Some(until) = until {
            self.paces.arm(pace, key, until);
            self.engine.pause(source);
        }
    }

    /// Reads again what is paid for.
    pub(super) fn run_paces(&mut self) {
        while let Some((at, key)) = self.paces.pop(self.now) {
            let Some(Session { client, state, .. }) = self.sessions.get_mut(key as usize) else {
                continue;
            };
            let State::Relay(relay) = state else {
                // Gone, or still without its DC: then the relay starts with what is noted.
                self.middle_paid(key, at);
                continue;
            };
            if !relay.pace.spend(at) {
                continue;
            }
            if relay.up.is_paid(self.now) && relay.up.is_open() {
                self.engine.resume(*client);
            }
            if relay.down.is_paid(self.now) && relay.down.is_open() && !relay.dc_ended {
                self.engine.resume(relay.dc);
            }
            for until in [relay.up.until, relay.down.until].into_iter().flatten() {
                self.paces.arm(&mut relay.pace, key, until);
            }
        }
    }

    /// Bounds what one receive of a metered session takes.
    pub(super) fn bound_receives(&mut self, key: u32) {
        let Some(session) = self.sessions.get(key as usize) else {
            return;
        };
        let relay = match &session.state {
            State::Relay(relay) => relay,
            State::Dialing(dialing) => dialing.relay(),
            State::Middle(middle) => {
                let up = middle.meter.as_ref();
                let up = up.and_then(|meter| meter.receive_bytes_max(Direction::Up));
                return self.engine.limit_receives(session.client, up);
            }
            State::Proxied(_)
            | State::Handshake(_)
            | State::Answering(_)
            | State::Refused
            | State::Closing
            | State::Approach(_)
            | State::Splice(_) => return,
        };
        let of = |direction| relay.meter.as_ref()?.receive_bytes_max(direction);
        let (up, down) = (of(Direction::Up), of(Direction::Down));
        let dc = relay.dc;
        self.engine.limit_receives(session.client, up);
        self.engine.limit_receives(dc, down);
    }
}
