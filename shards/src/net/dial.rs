//! From a known client to a connected DC: attempts, pauses, and the client's bytes meanwhile.

use rand::RngExt;

use super::{
    client::{Side, State, owner},
    connector::{Advance, Connector, Failure, Ready},
    relay::Relay,
    shard::Shard,
};
use crate::{
    engine::{Buf, SocketId},
    policy::{
        end::SessionEnd,
        handshake::Accepted,
        meter::{Direction, Meter},
        upstream::{Dial, Step},
    },
    proto::{dc::Resolved, obfuscated2::dc_header},
};

/// A client whose DC is being reached.
pub(super) struct Dialing {
    dial: Dial,
    connector: Connector,
    /// The DC header and what the client sent since, already encrypted for the DC.
    pending: Vec<u8>,
    relay: Box<Relay>,
    pub(super) client_ended: bool,
    paused: bool,
}

/// What a waiting client may send ahead before it is no longer read.
const PENDING_BYTES_MAX: usize = 64 * 1024;

impl Shard {
    /// Starts reaching the client's DC.
    pub(super) fn dial(&mut self, key: u32, accepted: Accepted, meter: Option<Box<Meter>>) {
        let settings = self.settings.clone();
        let wanted = accepted.opening.dc;
        let fast = settings.upstream.fast_mode;
        let keys = &accepted.keys;
        let mut random = |out: &mut [u8]| self.rng.fill(out);
        let header = dc_header(
            &mut random,
            &accepted.opening,
            fast.then_some((&keys.p2c_key, &keys.p2c_iv)),
        );
        let mut relay = Box::new(Relay::new(&accepted, &header, fast, self.now));
        let mut pending = Vec::with_capacity(header.wire.len() + accepted.early.len());
        pending.extend_from_slice(&header.wire);
        let mut early = accepted.early;
        relay.encrypt_up(&mut early);
        pending.extend_from_slice(&early);
        relay.meter = meter;
        relay.sizes = self.record_sizes(accepted.records.is_some());
        let (user, early_bytes) = (relay.user, early.len());
        let fits = relay.charge(Direction::Up, early_bytes, self.now);
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let Resolved::Found(found) = settings.upstream.dcs.resolve(wanted) else {
            session.state = State::Relay(relay);
            self.note_unknown_dc(wanted.0);
            return self.end(key, SessionEnd::UnknownDc);
        };
        let dial = Dial::new(found.dc, self.now);
        let known = found.known;
        session.state = State::Dialing(Box::new(Dialing {
            dial,
            connector: Connector::NONE,
            pending,
            relay,
            client_ended: accepted.ended,
            paused: false,
        }));
        if !known {
            self.note_unknown_dc(wanted.0);
        }
        self.bound_receives(key);
        if !fits {
            return self.end(key, SessionEnd::Quota);
        }
        self.count_up(user, early_bytes);
        self.wait_if_ahead(key);
        self.try_connect(key);
    }

    fn try_connect(&mut self, key: u32) {
        self.upstream.follow(&self.board, self.now);
        let draw = self.rng.random_range(0.0..1.0);
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Dialing(dialing) = &mut session.state else {
            return;
        };
        let step =
            self.upstream
                .connect(&mut dialing.dial, &self.settings.upstream, self.now, draw);
        self.take_step(key, step);
    }

    fn take_step(&mut self, key: u32, step: Step) {
        let mut step = step;
        // Ends: each round uses up an attempt or an address family.
        loop {
            match step {
                Step::Connect(hop) => {
                    self.upstream_counters.connect_attempt_total += 1;
                    let owner = owner(key, Side::Dc);
                    match self.connect_through(hop.route, hop.addr, owner, None) {
                        Ok(connector) => {
                            if let Some(dialing) = self.dialing(key) {
                                dialing.connector = connector;
                            }
                            return self.set_deadline(key, hop.until);
                        }
                        Err(failure) => {
                            let Some(next) = self.next_step(key, failure) else {
                                return;
                            };
                            step = next;
                        }
                    }
                }
                Step::Pause(until) => return self.set_deadline(key, until),
                Step::Fail => return self.dial_failed(key),
            }
        }
    }

    fn next_step(&mut self, key: u32, failure: Failure) -> Option<Step> {
        let draws = (
            self.rng.random_range(0.0..0.5),
            self.rng.random_range(0.0..1.0),
        );
        let now = self.now;
        let session = self.sessions.get_mut(key as usize)?;
        let State::Dialing(dialing) = &mut session.state else {
            return None;
        };
        dialing.connector = Connector::NONE;
        let dial = &mut dialing.dial;
        let (route, dc) = (dial.route(), dial.dc());
        tracing::debug!(?route, dc, %failure, "not connected");
        let settings = &self.settings.upstream;
        let step = self
            .upstream
            .failed(dial, failure.cause(), settings, now, draws);
        if let Some(route) = route {
            self.connect_failed(route);
        }
        Some(step)
    }

    /// A connect failed; its socket is gone.
    pub(super) fn dc_refused(&mut self, key: u32, errno: i32) {
        if let Some(dialing) = self.dialing(key) {
            let failure = dialing.connector.refused(errno);
            self.connect_lost(key, failure);
        }
    }

    /// A connect took too long, or a pause is over.
    pub(super) fn dial_expired(&mut self, key: u32) {
        let Some(dialing) = self.dialing(key) else {
            return;
        };
        if dialing.connector.socket() == SocketId::NONE {
            return self.try_connect(key);
        }
        let failure = dialing.connector.refused(0);
        self.connect_lost(key, failure);
    }

    /// A connect is given up: what there is of it is closed, and the next one is tried.
    fn connect_lost(&mut self, key: u32, failure: Failure) {
        if let Some(dialing) = self.dialing(key) {
            let socket = dialing.connector.socket();
            self.engine.close(socket);
        }
        if let Some(step) = self.next_step(key, failure) {
            self.take_step(key, step);
        }
    }

    fn dial_failed(&mut self, key: u32) {
        let now = self.now;
        let Some(dialing) = self.dialing(key) else {
            return;
        };
        let dial = dialing.dial.clone();
        dial.count(false, now, &mut self.upstream_counters);
        tracing::debug!(
            dc = dial.dc(),
            fast = dial.has_failed_fast(),
            "no way leads to it"
        );
        self.end(key, SessionEnd::DcUnreachable);
    }

    /// The first hop is there.
    pub(super) fn dc_connected(&mut self, key: u32, socket: SocketId) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return self.engine.close(socket);
        };
        let State::Dialing(dialing) = &mut session.state else {
            debug_assert!(false, "a connect outlived its dial");
            self.engine.close(socket);
            return self.end(key, SessionEnd::Internal);
        };
        let routes = &self.settings.upstream.routes;
        let advance = dialing.connector.connected(&mut self.engine, routes);
        self.dial_advanced(key, advance, None);
    }

    /// Bytes of the first hop before the stream begins.
    pub(super) fn dial_answer(&mut self, key: u32, buf: Buf) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Dialing(dialing) = &mut session.state else {
            return;
        };
        let routes = &self.settings.upstream.routes;
        let connector = &mut dialing.connector;
        let advance = connector.received(&mut self.engine, routes, buf.bytes());
        self.dial_advanced(key, advance, Some(buf));
    }

    /// The first hop hung up before the stream began; whether that concerned a dial at all.
    pub(super) fn dial_cut_off(&mut self, key: u32) -> bool {
        let dials = self.dialing(key).is_some();
        if dials {
            self.connect_lost(key, Failure::HungUp);
        }
        dials
    }

    fn dial_advanced(&mut self, key: u32, advance: Result<Advance, Failure>, buf: Option<Buf>) {
        match advance {
            Ok(Advance::Wait) => {}
            Ok(Advance::Ready(Ready { rest, .. })) => {
                self.dc_reached(key);
                if let Some(mut buf) = buf
                    && rest > 0
                {
                    buf.skip(buf.len().saturating_sub(rest));
                    self.relay_down(key, buf);
                }
            }
            Err(failure) => self.connect_lost(key, failure),
        }
    }

    /// The DC is there: header and first bytes leave in one write, and the relay begins.
    fn dc_reached(&mut self, key: u32) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Dialing(dialing) = std::mem::replace(&mut session.state, State::Refused) else {
            debug_assert!(false, "only a dial is connected");
            return self.end(key, SessionEnd::Internal);
        };
        let Dialing {
            dial,
            connector,
            pending,
            mut relay,
            client_ended,
            paused,
        } = *dialing;
        let socket = connector.socket();
        let client = session.client;
        relay.dc = socket;
        relay.last_active = self.now;
        let _ = relay.up.is_paid(self.now);
        let open = relay.up.is_open();
        self.begin_leg(&mut relay, socket, dial, pending);
        if let Some(session) = self.sessions.get_mut(key as usize) {
            session.state = State::Relay(relay);
        }
        self.totals.core.sessions_total += 1;
        self.engine.resume(socket);
        self.bound_receives(key);
        if paused && open {
            self.engine.resume(client);
        }
        self.hold_back(key, Side::Client);
        let idle = self.now.after(self.idle_limit());
        let due = self.answer_due(key).map_or(idle, |due| due.min(idle));
        self.set_deadline(key, due);
        if client_ended {
            self.client_ended(key);
        }
    }

    /// Bytes of a client whose DC is not there yet.
    pub(super) fn dialing_bytes(&mut self, key: u32, mut buf: Buf) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Dialing(dialing) = &mut session.state else {
            return;
        };
        let client = session.client;
        let Some(len) = dialing.relay.take_up(&mut buf, &mut dialing.client_ended) else {
            return self.end(key, SessionEnd::Done);
        };
        if !dialing.relay.charge(Direction::Up, len, self.now) {
            return self.end(key, SessionEnd::Quota);
        }
        dialing.pending.extend_from_slice(buf.bytes());
        let user = dialing.relay.user;
        if dialing.pending.len() > PENDING_BYTES_MAX {
            dialing.paused = true;
            self.engine.pause(client);
        }
        self.count_up(user, len);
        self.wait_if_ahead(key);
    }

    /// A client ahead of its rate is not read before its relay begins.
    fn wait_if_ahead(&mut self, key: u32) {
        if let Some(session) = self.sessions.get_mut(key as usize)
            && let State::Dialing(dialing) = &mut session.state
            && dialing.relay.up.until.is_some()
        {
            dialing.paused = true;
            self.engine.pause(session.client);
        }
    }

    fn dialing(&mut self, key: u32) -> Option<&mut Dialing> {
        match &mut self.sessions.get_mut(key as usize)?.state {
            State::Dialing(dialing) => Some(dialing),
            _ => None,
        }
    }

    /// Counts a client whose DC no table knows; the log tells of the first ids only.
    pub(super) fn note_unknown_dc(&mut self, dc: i16) {
        const LOGGED_MAX: u32 = 64;
        self.totals.core.unknown_dc_total += 1;
        let new = self.unknown_dcs.note(dc);
        if new.is_some_and(|before| before < LOGGED_MAX) {
            tracing::warn!(dc, "a client asks for a DC that no table knows");
        }
    }
}

impl Dialing {
    /// The connect in flight, to be closed with the session.
    pub(super) fn socket(&self) -> SocketId {
        self.connector.socket()
    }

    /// The relay it was to become.
    pub(super) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The same, to be changed.
    pub(super) fn relay_mut(&mut self) -> &mut Relay {
        &mut self.relay
    }
}
