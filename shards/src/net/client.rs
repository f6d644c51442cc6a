//! One client connection: its state, and its way to a relay.

use std::net::IpAddr;

use rand::RngExt;

use super::{
    accept::Proxied, dial::Dialing, mask::Approach, me::Middle, relay::Relay, shard::Shard,
    splice::Splice,
};
use crate::{
    counters::FailureStage,
    engine::{Buf, Owner, SocketId},
    policy::{
        Millis,
        admission::{Hold, Visit},
        end::{Refusal, SessionEnd},
        handshake::{Accepted, Context, Handshake, Progress},
        mask::STALL_MAX,
        meter::Meter,
        record_sizes::RecordSizes,
        timer::Armed,
    },
    proto::faketls::client_hello::HelloError,
    settings::RstOnClose,
};

/// One client connection of a shard.
///
/// ```text
///   Handshake ──> Dialing ──> Relay ──> (gone)
///    ^  │  │ └──> Middle ──> (gone)
///    │  │  └──delay──┐
///    │  │            └> Answering ──> Handshake
///    │  └──> Approach ──> Splice ──> (gone)
///    │  └──> Refused ──> (gone)
///   Proxied (behind a load balancer only)
/// ```
pub(super) struct Session {
    pub(super) client: SocketId,
    pub(super) from: IpAddr,
    /// The client's port.
    pub(super) port: u16,
    pub(super) armed: Armed,
    /// When the present phase is over at the latest. Relays move it lazily.
    pub(super) deadline: Millis,
    /// Its places, from the moment it is served until its end, whatever that is.
    pub(super) hold: Option<Hold>,
    pub(super) state: State,
}

/// What a session is doing.
pub(super) enum State {
    /// Its PROXY header is not complete.
    Proxied(Box<Proxied>),
    /// Not known yet.
    Handshake(Box<Handshake>),
    /// The answer waits for its delay.
    Answering(Box<(Handshake, Box<[u8]>)>),
    /// Not one of ours: read and discarded until it goes or its time is up.
    Refused,
    /// Refused with an answer of a few bytes, which are on their way.
    Closing,
    /// Known; its DC is being reached.
    Dialing(Box<Dialing>),
    /// Bytes go both ways.
    Relay(Box<Relay>),
    /// Messages go both ways, through an ME.
    Middle(Box<Middle>),
    /// Not one of ours; the mask host is being reached.
    Approach(Box<Approach>),
    /// Not one of ours; bytes go both ways between it and the mask host.
    Splice(Box<Splice>),
}

impl State {
    /// The relay that is, or is to be.
    pub(super) fn relay_mut(&mut self) -> Option<&mut Relay> {
        match self {
            Self::Relay(relay) => Some(relay),
            Self::Dialing(dialing) => Some(dialing.relay_mut()),
            Self::Proxied(_)
            | Self::Handshake(_)
            | Self::Answering(_)
            | Self::Refused
            | Self::Closing
            | Self::Middle(_)
            | Self::Approach(_)
            | Self::Splice(_) => None,
        }
    }

    /// Bytes go both ways.
    pub(super) fn is_relay(&self) -> bool {
        matches!(self, Self::Relay(_))
    }
}

/// Which socket of a session an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Dc,
    /// A connect of the health probes; the key is the probe's.
    Probe,
    /// A connection to an ME; the key is the link's.
    Me,
    /// The mask host of a stranger.
    Mask,
}

/// Packs a session key and a side for the engine.
pub(super) fn owner(key: u32, side: Side) -> Owner {
    let side = match side {
        Side::Client => 0,
        Side::Dc => 1,
        Side::Probe => 2,
        Side::Me => 3,
        Side::Mask => 4,
    };
    Owner(u64::from(key) << 3 | side)
}

/// The reverse of [`owner`].
pub(super) fn unpack(owner: Owner) -> (u32, Side) {
    let side = match owner.0 & 7 {
        0 => Side::Client,
        1 => Side::Dc,
        2 => Side::Probe,
        3 => Side::Me,
        _ => Side::Mask,
    };
    ((owner.0 >> 3) as u32, side)
}

impl Shard {
    /// First byte to authenticated; up to half is added so that the limit is no fingerprint.
    pub(super) fn handshake_deadline(&mut self) -> Millis {
        let limit = self.settings.timeouts.handshake;
        self.now
            .after(limit.mul_f64(1.0 + self.rng.random_range(0.0..0.5)))
    }

    /// Bytes of a client that is not relaying yet.
    pub(super) fn handshake_bytes(&mut self, key: u32, buf: Buf) {
        self.handshake_slice(key, buf.bytes());
    }

    /// The same, wherever they are.
    pub(super) fn handshake_slice(&mut self, key: u32, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let (from, now) = (session.from, self.now);
        let handshake = match &mut session.state {
            State::Handshake(handshake) => handshake,
            State::Answering(waiting) => {
                // No client sends anything before it is answered.
                let mut seen = waiting.0.take_seen();
                let (began, until) = (waiting.0.began, waiting.0.until);
                seen.extend_from_slice(bytes);
                self.set_deadline(key, until);
                let extra = bytes.len();
                let why = Refusal::TlsMalformed(HelloError::Trailing { extra });
                return self.refuse(key, why, seen, began);
            }
            State::Proxied(_)
            | State::Refused
            | State::Closing
            | State::Dialing(_)
            | State::Relay(_)
            | State::Middle(_)
            | State::Approach(_)
            | State::Splice(_) => return,
        };
        let mut handshake = std::mem::take(handshake);
        if !handshake.has_bytes() {
            handshake.began = now;
            handshake.until = self.handshake_deadline();
            self.set_deadline(key, handshake.until);
        }
        let progress = self.judge(&mut handshake, bytes, from);
        if matches!(progress, Progress::More) && handshake.is_unanswered() {
            let deadline = self.stall_deadline(&handshake);
            self.set_deadline(key, deadline);
        }
        self.proceed(key, handshake, progress);
    }

    /// A stranger who stands still is sent to the mask host sooner than the handshake's limit:
    /// whoever waits for an answer to half a request would be surprised (protocol.md 7.2).
    fn stall_deadline(&self, handshake: &Handshake) -> Millis {
        match self.settings.mask {
            Some(_) => handshake.until.min(self.now.after(STALL_MAX)),
            None => handshake.until,
        }
    }

    fn judge(&mut self, handshake: &mut Handshake, bytes: &[u8], from: IpAddr) -> Progress {
        let visit = self.visit(from);
        let Self {
            settings,
            users,
            hints,
            replay,
            rng,
            keys,
            fingerprints,
            fronts,
            returning,
            totals,
            ..
        } = self;
        let mut random = |out: &mut [u8]| rng.fill(out);
        let mut public_key = || keys.public_key();
        handshake.receive(
            bytes,
            &mut Context {
                modes: settings.modes,
                tls: &settings.tls,
                fronts,
                returning: returning.as_deref_mut(),
                users,
                hints,
                replay,
                visit,
                random: &mut random,
                public_key: &mut public_key,
                fingerprints: settings.plane.fingerprints.then_some(fingerprints),
                evicted_early: &mut totals.core.replay_evicted_early_total,
            },
        )
    }

    fn proceed(&mut self, key: u32, mut handshake: Box<Handshake>, progress: Progress) {
        match progress {
            Progress::More => self.set_state(key, State::Handshake(handshake)),
            Progress::Answer(bytes) => self.answer(key, handshake, bytes),
            Progress::Accepted(accepted) => self.serve(key, *accepted),
            Progress::Refused(refusal) => {
                let (seen, began) = (handshake.take_seen(), handshake.began);
                self.refuse(key, refusal, seen, began);
            }
            Progress::Close(refusal, bytes) => {
                self.count_end_of(key, SessionEnd::Refused(refusal));
                if bytes.is_empty() && handshake.is_unanswered() {
                    // The close comes when the answer would.
                    let at = self.answer_at().unwrap_or(self.now);
                    self.set_state(key, State::Refused);
                    return self.set_deadline(key, at);
                }
                let Some(session) = self.sessions.get_mut(key as usize) else {
                    return;
                };
                session.state = State::Closing;
                let client = session.client;
                if !bytes.is_empty() {
                    self.engine.send_bytes(client, bytes.into());
                }
                if bytes.is_empty() || self.engine.finish(client) {
                    self.remove(key);
                } else {
                    let limit = self.now.after(self.settings.timeouts.half_close);
                    self.set_deadline(key, limit);
                }
            }
        }
    }

    fn answer(&mut self, key: u32, handshake: Box<Handshake>, bytes: Box<[u8]>) {
        let Some(at) = self.answer_at() else {
            return self.send_answer(key, handshake, bytes);
        };
        self.set_state(key, State::Answering(Box::new((*handshake, bytes))));
        self.set_deadline(key, at);
    }

    /// When a hello that came now is answered; `None`: at once.
    fn answer_at(&mut self) -> Option<Millis> {
        let (least, most) = self.settings.tls.hello_delay_ms;
        if most == 0 {
            return None;
        }
        let delay = self.rng.random_range(least.min(most)..=most);
        Some(Millis(self.now.0 + u64::from(delay)))
    }

    fn send_answer(&mut self, key: u32, mut handshake: Box<Handshake>, bytes: Box<[u8]>) {
        handshake.answered();
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        session.state = State::Handshake(handshake);
        let client = session.client;
        self.engine.send_bytes(client, bytes);
        let limit = self.now.after(self.settings.timeouts.inner_header);
        self.set_deadline(key, limit);
    }

    /// Not to be served: a stranger, with all that was `seen` of it since `began`.
    fn refuse(&mut self, key: u32, refusal: Refusal, seen: Vec<u8>, began: Millis) {
        self.count_end_of(key, SessionEnd::Refused(refusal));
        if let Some(session) = self.sessions.get(key as usize) {
            let what = match self.settings.mask {
                Some(_) => "relayed to the mask host",
                None => "not served",
            };
            tracing::debug!(from = %session.from, ?refusal, "{what}");
        }
        self.mask(key, seen, began, false);
    }

    fn visit(&self, from: IpAddr) -> Visit {
        Visit {
            from,
            now: self.now,
            now_unix: self.now_unix,
            addresses: self.hot.addresses,
        }
    }

    /// Takes the client's places and goes on to its DC, or turns it away.
    fn serve(&mut self, key: u32, accepted: Accepted) {
        let user = accepted.user;
        let Some(from) = self.sessions.get(key as usize).map(|session| session.from) else {
            return;
        };
        let visit = self.visit(from);
        let Some(row) = self.users.served(user) else {
            debug_assert!(false, "accepted by this very table");
            return self.end(key, SessionEnd::Internal);
        };
        let meter = Meter::new(row, &self.nets, from);
        let expires_at = row.limits.expires_at;
        match row.enter(user, &visit) {
            Ok(hold) => {
                if let Some(session) = self.sessions.get_mut(key as usize) {
                    session.hold = Some(hold);
                    if self.settings.plane.rst_on_close == RstOnClose::Errors {
                        self.engine.close_plainly(session.client);
                    }
                }
            }
            // The client has seen our answer: silence would be none.
            Err(why) if accepted.records.is_some() => {
                let stage = FailureStage::TlsPostServerhelloMtproto;
                return self.end(key, SessionEnd::Refused(Refusal::User(why, stage)));
            }
            Err(why) => {
                let refusal = Refusal::User(why, FailureStage::DirectMtproto);
                let (seen, now) = (accepted.into_seen(), self.now);
                return self.refuse(key, refusal, seen, now);
            }
        }
        if let Some(row) = self.user_rows.get_mut(user.0 as usize) {
            row.current_connections += 1;
            row.connections_total += u64::from(self.counts_users);
        }
        self.watch_expiry(expires_at);
        self.sources.open(user, from, self.now);
        self.totals.core.sessions_current += 1;
        if self.goes_to_me() {
            self.serve_middle(key, accepted, meter);
        } else {
            self.dial(key, accepted, meter);
        }
    }

    pub(super) fn set_state(&mut self, key: u32, state: State) {
        if let Some(session) = self.sessions.get_mut(key as usize) {
            session.state = state;
        }
    }

    /// How the records towards a new client are cut, if it reads records.
    pub(super) fn record_sizes(&mut self, reads_records: bool) -> RecordSizes {
        let ramp = self.settings.tls.record_ramp && reads_records;
        RecordSizes::new(ramp, if ramp { self.rng.random() } else { 0 })
    }

    /// The phase of a session is over: its time is up.
    pub(super) fn expired(&mut self, key: u32) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        match session.state {
            State::Relay(_) => return self.relay_expired(key),
            State::Middle(_) => return self.middle_expired(key),
            State::Approach(_) | State::Splice(_) => return self.mask_expired(key),
            State::Proxied(_)
            | State::Handshake(_)
            | State::Answering(_)
            | State::Refused
            | State::Closing
            | State::Dialing(_) => {}
        }
        if session.deadline > self.now {
            return self.rearm(key);
        }
        match std::mem::replace(&mut session.state, State::Refused) {
            State::Proxied(_) => self.header_late(key),
            State::Answering(waiting) => {
                let (handshake, bytes) = *waiting;
                self.send_answer(key, Box::new(handshake), bytes);
            }
            State::Handshake(mut handshake) => {
                if !handshake.has_bytes() {
                    return self.end(key, SessionEnd::FirstByteTimeout);
                }
                let stage = handshake.stage();
                self.count_end_of(key, SessionEnd::HandshakeTimeout { stage });
                if handshake.is_unanswered() && self.settings.mask.is_some() {
                    let (seen, began) = (handshake.take_seen(), handshake.began);
                    return self.mask(key, seen, began, false);
                }
                self.remove(key);
            }
            State::Dialing(dialing) => {
                session.state = State::Dialing(dialing);
                self.dial_expired(key);
            }
            State::Refused
            | State::Closing
            | State::Relay(_)
            | State::Middle(_)
            | State::Approach(_)
            | State::Splice(_) => self.remove(key),
        }
    }

    /// A client that is not relaying yet closed or broke off.
    pub(super) fn client_left(&mut self, key: u32, broken: bool) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        match &mut session.state {
            State::Proxied(proxied) => {
                let end = SessionEnd::ClosedEarly {
                    stage: FailureStage::FirstPacketPrelude,
                    any_bytes: proxied.has_bytes(),
                    broken,
                };
                self.end(key, end);
            }
            State::Handshake(handshake) => {
                let any_bytes = handshake.has_bytes();
                let end = SessionEnd::ClosedEarly {
                    stage: handshake.stage(),
                    any_bytes,
                    broken,
                };
                let masked = any_bytes && !broken && handshake.is_unanswered();
                if masked && self.settings.mask.is_some() {
                    // Its direction is over, not ours: the mask host may have an answer.
                    let (seen, began) = (handshake.take_seen(), handshake.began);
                    self.count_end_of(key, end);
                    return self.mask(key, seen, began, true);
                }
                self.end(key, end);
            }
            State::Answering(waiting) => {
                let stage = waiting.0.stage();
                self.end(
                    key,
                    SessionEnd::ClosedEarly {
                        stage,
                        any_bytes: true,
                        broken,
                    },
                );
            }
            State::Refused | State::Closing => self.remove(key),
            State::Approach(_) | State::Splice(_) => self.stranger_left(key, broken),
            State::Dialing(dialing) if !broken => dialing.client_ended = true,
            State::Middle(_) if broken => self.middle_client_broke(key),
            State::Middle(_) => self.middle_client_ended(key),
            State::Dialing(_) | State::Relay(_) => self.end(key, SessionEnd::Done),
        }
    }
}
