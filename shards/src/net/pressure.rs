//! Shorter limits while the host is short of something, and a word on connections that end.
//!
//! When that is so is decided by the control side (`src/firewall`). Source: config.md 9.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    client::{Session, State},
    shard::Shard,
};
use crate::{
    control::{ClosedClient, Pressure},
    policy::Millis,
};

impl Shard {
    /// Goes by these limits from now on, or by the settings' own again.
    pub(super) fn set_pressure(&mut self, pressure: Option<Arc<Pressure>>) {
        self.pressure = pressure;
        if self.pressure.is_none() {
            return;
        }
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            let key = u32::try_from(key).unwrap_or(u32::MAX);
            if let Some(due) = self.pressed(key) {
                self.set_deadline(key, due);
            }
        }
    }

    /// When a session that is there already is looked at again; `None`: as it was to be.
    fn pressed(&self, key: u32) -> Option<Millis> {
        let session = self.sessions.get(key as usize)?;
        match &session.state {
            State::Handshake(handshake) if !handshake.has_bytes() => {
                let full = self.settings.timeouts.first_byte;
                let cap = self.pressure.as_ref()?.first_byte;
                let full_ms = u64::try_from(full.as_millis()).unwrap_or(u64::MAX);
                let came = Millis(session.deadline.0.saturating_sub(full_ms));
                (!full.is_zero() && cap < full).then(|| came.after(cap))
            }
            // These know themselves whether their time is up.
            State::Relay(relay) => (!relay.is_closing()).then_some(self.now),
            State::Middle(middle) => (!middle.is_closing()).then_some(self.now),
            State::Proxied(_)
            | State::Handshake(_)
            | State::Answering(_)
            | State::Refused
            | State::Closing
            | State::Dialing(_)
            | State::Approach(_)
            | State::Splice(_) => None,
        }
    }

    /// Accept to first byte.
    pub(super) fn first_byte_limit(&self) -> Duration {
        let own = self.settings.timeouts.first_byte;
        match &self.pressure {
            // Zero is no wait for a first byte at all.
            Some(pressure) if !own.is_zero() => own.min(pressure.first_byte),
            _ => own,
        }
    }

    /// Direct relay with nothing in either direction.
    pub(super) fn idle_limit(&self) -> Duration {
        let own = self.settings.timeouts.idle;
        let cap = self.pressure.as_ref().map(|pressure| pressure.idle);
        cap.map_or(own, |cap| own.min(cap))
    }

    /// Tells of a client that is about to be closed, if anybody wants to hear it. Of a connection
    /// that both sides have ended the kernel knows no port and no peer any more.
    pub(super) fn tell_closed(&self, key: u32, session: &Session) {
        let Some(events) = self.pressure.as_ref().and_then(|p| p.closed.as_ref()) else {
            return;
        };
        let known = || {
            let own = !self.stated.contains_key(&key);
            own.then(|| SocketAddr::new(session.from, session.port))
        };
        let peer = self.engine.peer_addr(session.client).or_else(known);
        let (Some(peer), Some(ours)) = (peer, self.engine.local_addr(session.client)) else {
            return;
        };
        if ours.port() != 0 {
            return events.tell(ClosedClient { peer, ours });
        }
        // With more than one port all but one of these find nothing.
        for port in &self.doors.ports {
            let ours = SocketAddr::new(ours.ip(), *port);
            events.tell(ClosedClient { peer, ours });
        }
    }
}
