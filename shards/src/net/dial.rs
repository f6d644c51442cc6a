//! From a known client to a connected DC: attempts, pauses, and the client's bytes meanwhile.

use rand::RngExt;

use super::{
    client::{Side, State, owner},
    relay::Relay,
    shard::Shard,
};
use crate::{
    engine::{Buf, SocketId},
    policy::{
        Millis,
        end::SessionEnd,
        handshake::Accepted,
        meter::{Direction, Meter},
        upstream::{Dial, Step, is_hard_error},
    },
    proto::{dc::Resolved, obfuscated2::dc_header},
};

/// A client whose DC is being reached.
pub(super) struct Dialing {
    dial: Dial,
    socket: SocketId,
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
        let (user, early_bytes) = (relay.user, early.len());
        let fits = relay.charge(Direction::Up, early_bytes, self.now);
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let Resolved::Found(found) = settings.upstream.dcs.resolve(wanted) else {
            session.state = State::Relay(relay);
            self.totals.core.unknown_dc_total += 1;
            self.note_unknown_dc(wanted.0);
            return self.end(key, SessionEnd::UnknownDc);
        };
        let dial = self.upstream.dial(&found, &settings.upstream, self.now);
        let known = found.known;
        session.state = State::Dialing(Box::new(Dialing {
            dial,
            socket: SocketId::NONE,
            pending,
            relay,
            client_ended: accepted.ended,
            paused: false,
        }));
        if !known {
            self.totals.core.unknown_dc_total += 1;
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
        let Some(dialing) = self.dialing(key) else {
            return;
        };
        let settings = dialing.2;
        let step = dialing.0.dial.connect(&settings.upstream, dialing.1);
        self.take_step(key, step);
    }

    fn take_step(&mut self, key: u32, step: Step) {
        let mut step = step;
        // Ends: each round uses up an attempt or an address family.
        loop {
            match step {
                Step::Connect(addr, until) => {
                    self.upstream_counters.connect_attempt_total += 1;
                    match self.engine.connect(addr, owner(key, Side::Dc)) {
                        Ok(socket) => {
                            if let Some((dialing, ..)) = self.dialing(key) {
                                dialing.socket = socket;
                            }
                            return self.set_deadline(key, until);
                        }
                        Err(error) => {
                            let errno = error.raw_os_error().unwrap_or(libc::EIO);
                            let Some(next) = self.next_step(key, errno) else {
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

    fn next_step(&mut self, key: u32, errno: i32) -> Option<Step> {
        let jitter = self.rng.random_range(0.0..0.5);
        let (dialing, now, settings) = self.dialing(key)?;
        dialing.socket = SocketId::NONE;
        let (dc, addr) = (dialing.dial.dc, dialing.dial.addr());
        let step = dialing.dial.failed(errno, &settings.upstream, now, jitter);
        if let Some(addr) = addr {
            self.upstream.learn(dc, addr, None, now);
        }
        if step == Step::Fail && settings.upstream.failfast_hard_errors && is_hard_error(errno) {
            self.upstream_counters.connect_failfast_hard_error_total += 1;
        }
        Some(step)
    }

    /// A connect failed.
    pub(super) fn dc_refused(&mut self, key: u32, errno: i32) {
        if let Some(step) = self.next_step(key, errno) {
            self.take_step(key, step);
        }
    }

    /// A connect took too long, or a pause is over.
    pub(super) fn dial_expired(&mut self, key: u32) {
        let Some((dialing, ..)) = self.dialing(key) else {
            return;
        };
        let socket = dialing.socket;
        if socket == SocketId::NONE {
            return self.try_connect(key);
        }
        self.engine.close(socket);
        self.dc_refused(key, 0);
    }

    fn dial_failed(&mut self, key: u32) {
        let Some((dialing, now, settings)) = self.dialing(key) else {
            return;
        };
        let dial = dialing.dial.clone();
        dial.count(false, now, &mut self.upstream_counters);
        self.upstream.cycle_ended(false, &settings.upstream);
        tracing::debug!(dc = dial.dc, "no address answers");
        self.end(key, SessionEnd::DcUnreachable);
    }

    /// The DC is there: header and first bytes leave in one write, and the relay begins.
    pub(super) fn dc_connected(&mut self, key: u32, socket: SocketId) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return self.engine.close(socket);
        };
        let State::Dialing(dialing) = std::mem::replace(&mut session.state, State::Refused) else {
            debug_assert!(false, "a connect outlived its dial");
            self.engine.close(socket);
            return self.end(key, SessionEnd::Internal);
        };
        let Dialing {
            dial,
            pending,
            mut relay,
            client_ended,
            paused,
            ..
        } = *dialing;
        let client = session.client;
        relay.dc = socket;
        relay.last_active = self.now;
        let _ = relay.up.is_paid(self.now);
        let open = relay.up.is_open();
        session.state = State::Relay(relay);
        if let Some(addr) = dial.addr() {
            self.upstream
                .learn(dial.dc, addr, Some(dial.attempt_ms(self.now)), self.now);
        }
        dial.count(true, self.now, &mut self.upstream_counters);
        self.upstream.cycle_ended(true, &self.settings.upstream);
        self.totals.core.sessions_total += 1;
        self.engine.send_bytes(socket, pending.into_boxed_slice());
        self.engine.resume(socket);
        self.bound_receives(key);
        if paused && open {
            self.engine.resume(client);
        }
        self.hold_back(key, Side::Client);
        let idle = self.now.after(self.settings.timeouts.idle);
        self.set_deadline(key, idle);
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

    fn dialing(
        &mut self,
        key: u32,
    ) -> Option<(&mut Dialing, Millis, std::rc::Rc<crate::settings::Settings>)> {
        match &mut self.sessions.get_mut(key as usize)?.state {
            State::Dialing(dialing) => Some((dialing, self.now, self.settings.clone())),
            _ => None,
        }
    }

    fn note_unknown_dc(&mut self, dc: i16) {
        const NOTED_MAX: usize = 64;
        if self.unknown_dcs.len() < NOTED_MAX && self.unknown_dcs.insert(dc) {
            tracing::warn!(dc, "a client asks for a DC that no table knows");
        }
    }
}

impl Dialing {
    /// The connect in flight, to be closed with the session.
    pub(super) fn socket(&self) -> SocketId {
        self.socket
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
