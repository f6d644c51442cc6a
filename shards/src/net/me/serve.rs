//! How a session through an ME begins, and which way new ones go.
//!
//! Source: middle-proxy.md 8.1 and 22.

use std::net::SocketAddr;

use super::{
    down::Down,
    session::{Middle, Up},
};
use crate::{
    net::{client::State, shard::Shard},
    policy::{
        end::SessionEnd,
        handshake::Accepted,
        me::plan::Route,
        meter::{Flow, Meter},
        timer::Armed,
    },
    proto::middle::client_frames::ClientReader,
};

impl Shard {
    /// Whether a client that is known now goes to an ME.
    pub(in crate::net) fn goes_to_me(&self) -> bool {
        self.me.as_ref().is_some_and(|me| match me.route() {
            Route::Middle | Route::Closed => true,
            Route::Direct => false,
        })
    }

    /// New clients are let in as far as the ME side is concerned.
    pub(in crate::net) fn me_lets_in(&self) -> bool {
        self.me
            .as_ref()
            .is_none_or(|me| me.route() != Route::Closed)
    }

    /// Serves a client through an ME; it is bound to one with its first message.
    pub(in crate::net) fn serve_middle(
        &mut self,
        key: u32,
        accepted: Accepted,
        meter: Option<Box<Meter>>,
    ) {
        let now = self.now;
        let listener_port = self.port_of(key);
        let sizes = self.record_sizes(accepted.records.is_some());
        let Some(me) = self.me.as_deref_mut() else {
            return self.end(key, SessionEnd::Internal);
        };
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let bytes_max = me.pool.plan().settings.uplink.message_bytes_max;
        let framing = accepted.opening.framing;
        let own_tag = self.users.row(accepted.user).and_then(|row| row.ad_tag);
        let down = accepted.keys.p2c();
        let dc = accepted.opening.dc.0;
        let mut up = Up::new(
            accepted.keys.c2p,
            accepted.records,
            ClientReader::new(framing, bytes_max),
        );
        let mut early = accepted.early;
        up.decrypt(&mut early);
        let middle = Middle {
            user: accepted.user,
            peer: SocketAddr::new(session.from, session.port),
            listener_port,
            ad_tag: own_tag.or(self.hot.ad_tag),
            framing,
            dc,
            bound: None,
            up,
            down: Down::new(down, accepted.records.map(|_| sizes)),
            meter,
            pace: Armed::default(),
            watch: Armed::default(),
            last_c2d: now,
            last_d2c: None,
            marked: false,
            closing: None,
            client_ended: accepted.ended,
        };
        me.sessions += 1;
        let (soft, _) = middle.idle_limits(me.pool.plan(), self.pressure.as_deref());
        session.state = State::Middle(Box::new(middle));
        // Id 0 is not stated, which is nothing unusual.
        let by_default = me
            .pool
            .plan()
            .resolve(dc)
            .is_some_and(|(_, default)| default);
        self.totals.core.sessions_total += 1;
        if dc != 0 && by_default {
            self.note_unknown_dc(dc);
        }
        self.bound_receives(key);
        self.set_deadline(key, soft);
        self.middle_read(key, &early);
    }

    /// A session's limits are others now.
    pub(in crate::net) fn middle_meter(&mut self, key: u32, meter: Option<Box<Meter>>) {
        let Some(middle) = self.middle_mut(key) else {
            return;
        };
        let same_rates = match (&meter, &middle.meter) {
            (Some(new), Some(old)) => new.has_rates_of(old),
            (Some(one), None) | (None, Some(one)) => !one.has_rates(),
            (None, None) => true,
        };
        middle.meter = meter;
        if same_rates {
            return;
        }
        // Pauses were measured by the old rate.
        middle.up.flow.until = None;
        middle.down.flow.until = None;
        let up: Flow = middle.up.flow;
        self.bound_receives(key);
        if up.is_open()
            && let Some(client) = self.sessions.get(key as usize).map(|s| s.client)
        {
            self.engine.resume(client);
        }
        self.middle_flush(key, super::down::Reason::Drain);
    }

    /// Goes on with what was ahead of its rate and is paid for now.
    pub(in crate::net) fn middle_paid(&mut self, key: u32, at: crate::policy::Millis) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let client = session.client;
        let Some(middle) = super::middle_of(session) else {
            return;
        };
        if !middle.pace.spend(at) {
            return;
        }
        let up = middle.up.flow.is_paid(now) && middle.up.flow.is_open();
        let down = middle.down.flow.is_paid(now);
        let next = [middle.up.flow.until, middle.down.flow.until];
        for until in next.into_iter().flatten() {
            self.paces.arm(&mut middle.pace, key, until);
        }
        if up {
            self.engine.resume(client);
        }
        if down {
            self.middle_flush(key, super::down::Reason::Drain);
        }
    }

    /// Opens and closes the doors for new clients as the route says.
    pub(in crate::net) fn follow_route(&mut self) {
        let open = self.me_lets_in();
        self.set_doors(open, self.doors.is_crowded());
    }
}
