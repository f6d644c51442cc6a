//! Strangers and the site they see: the way to the mask host, then bytes both ways, untouched.
//!
//! ```text
//!   Handshake ──> Approach ──> Splice ──> (gone)
//!                    └──────> Refused ──> (gone)      the mask host cannot be reached
//! ```
//!
//! Here is the way to the splice; the splice is in `splice.rs`. Which site and which limits:
//! `policy/mask`. Source: protocol.md 7.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rand::RngExt as _;

use super::{
    client::{Side, State, owner},
    shard::Shard,
    splice::Splice,
};
use crate::{
    engine::{Buf, SocketId},
    policy::{
        Millis,
        mask::{Attempt, Attempts, CONNECT_MAX, DISCARD_MAX, Limits, choose},
    },
    proto::proxy_protocol,
    settings::{MaskSettings, MaskTarget, RstOnClose},
};

/// A stranger whose mask host is not there yet.
pub(super) struct Approach {
    /// All that was read, from the first byte.
    seen: Vec<u8>,
    target: Arc<MaskTarget>,
    attempts: Attempts,
    step: Step,
    client_ended: bool,
    paused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// For the time that a failed handshake is to take.
    Pacing,
    /// For a place.
    Waiting,
    /// For the name of the mask host, with a place of its own already.
    Resolving,
    /// For this connect.
    Connecting(SocketId),
    /// For nothing: the target is ourselves. So many bytes are still read.
    Discarding(usize),
}

/// How often a stranger looks whether the mask host's name is resolved.
const NAME_PAUSE: Duration = Duration::from_millis(50);

/// What the kernel holds of a site's answer at either socket.
const KERNEL_BYTES: usize = 128 * 1024;

/// What is taken of a site's answer at once. A few hundred KiB for a stranger who then does not
/// read must be copied out of the shared buffer, which took milliseconds of a turn.
const RECEIVE_BYTES: usize = 64 * 1024;

/// What a waiting stranger may send ahead before it is no longer read.
const AHEAD_BYTES_MAX: usize = 64 * 1024;

impl Approach {
    /// The connect in flight, to be closed with the session.
    pub(super) fn socket(&self) -> Option<SocketId> {
        match self.step {
            Step::Connecting(socket) => Some(socket),
            Step::Pacing | Step::Waiting | Step::Resolving | Step::Discarding(_) => None,
        }
    }
}

impl Shard {
    /// Sends a stranger to the mask host with all that was `seen` of them since `began`; without
    /// one, reads on and discards until the deadline that is set.
    pub(super) fn mask(&mut self, key: u32, seen: Vec<u8>, began: Millis, ended: bool) {
        let settings = self.settings.clone();
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let Some(mask) = &settings.mask else {
            session.state = State::Refused;
            return;
        };
        let client = session.client;
        session.state = State::Approach(Box::new(Approach {
            target: Arc::clone(choose(mask, &seen)),
            seen,
            attempts: Attempts::begin(self.now),
            step: Step::Pacing,
            client_ended: ended,
            paused: false,
        }));
        if settings.plane.rst_on_close != RstOnClose::Off {
            self.engine.close_plainly(client);
        }
        if self.has_rates {
            self.engine.limit_receives(client, None);
        }
        let due = mask
            .pace_ms
            .map(|(least, most)| Millis(began.0 + self.rng.random_range(least..=most.max(least))));
        match due.filter(|due| *due > self.now) {
            Some(due) => self.set_deadline(key, due),
            None => self.approach(key, mask),
        }
    }

    /// Takes a place and connects, or waits for a place.
    fn approach(&mut self, key: u32, mask: &MaskSettings) {
        if self.strangers.take(mask.splices_max) {
            return self.connect_to_mask(key, mask);
        }
        self.totals.core.mask_waits_total += 1;
        let limit = self.now.after(CONNECT_MAX);
        if let Some(approach) = self.approach_mut(key) {
            approach.step = Step::Waiting;
        }
        self.strangers.wait(key);
        self.set_deadline(key, limit);
        if self.strangers.waiting() > 2 * self.sessions.len() + 64 {
            let sessions = &self.sessions;
            self.strangers.tidy(|key| {
                let session = sessions.get(key as usize);
                session.is_some_and(|session| is_waiting(&session.state))
            });
        }
    }

    /// Lets in who waits, as far as there are places. Once per turn: giving a place back in the
    /// middle of one must not begin a connect that gives it back.
    pub(super) fn admit_strangers(&mut self) {
        if self.strangers.waiting() == 0 {
            return;
        }
        let settings = self.settings.clone();
        let Some(mask) = &settings.mask else { return };
        while let Some(key) = self.strangers.next(mask.splices_max) {
            let session = self.sessions.get(key as usize);
            if session.is_some_and(|session| is_waiting(&session.state))
                && self.strangers.take(mask.splices_max)
            {
                self.connect_to_mask(key, mask);
            }
        }
    }

    /// Tries the next way to the mask host.
    fn connect_to_mask(&mut self, key: u32, mask: &MaskSettings) {
        let now = self.now;
        // Ends: every round uses up an address.
        loop {
            let names = Arc::clone(&self.names);
            let Some(approach) = self.approach_mut(key) else {
                return;
            };
            let target = Arc::clone(&approach.target);
            let attempt = approach.attempts.next(&target, &mask.own, &names, now);
            let owner = owner(key, Side::Mask);
            let (connect, until) = match attempt {
                Attempt::Tcp(addr, until) => (self.engine.connect(addr, owner), until),
                Attempt::Unix(path, until) => (self.engine.connect_unix(path, owner), until),
                Attempt::Own(addr) => return self.mask_is_ourselves(key, &target, addr),
                Attempt::Unknown => return self.await_name(key),
                Attempt::Fail => return self.mask_unreachable(key, &target),
            };
            match connect {
                Ok(socket) => {
                    if let Some(approach) = self.approach_mut(key) {
                        approach.step = Step::Connecting(socket);
                    }
                    return self.set_deadline(key, until);
                }
                Err(error) => tracing::debug!(%error, %target, "cannot connect to the mask host"),
            }
        }
    }

    /// Looks again in a moment, until the time of a connect is over.
    fn await_name(&mut self, key: u32) {
        let again = self.now.after(NAME_PAUSE);
        if let Some(approach) = self.approach_mut(key) {
            approach.step = Step::Resolving;
            let again = again.min(approach.attempts.until);
            self.set_deadline(key, again);
        }
    }

    /// A connect to the mask host failed.
    pub(super) fn mask_refused(&mut self, key: u32, errno: i32) {
        let error = std::io::Error::from_raw_os_error(errno);
        tracing::debug!(%error, "the mask host does not answer");
        let settings = self.settings.clone();
        if let Some(mask) = &settings.mask {
            self.connect_to_mask(key, mask);
        }
    }

    /// Nobody is there: silence, for as long as a connect may take.
    fn mask_unreachable(&mut self, key: u32, target: &MaskTarget) {
        self.totals.core.mask_failures_total += 1;
        self.complain_of_mask(format_args!("mask host {target} cannot be reached"));
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Approach(approach) = std::mem::replace(&mut session.state, State::Refused)
        else {
            return;
        };
        let client = session.client;
        self.strangers.give_back();
        self.engine.resume(client);
        self.set_deadline(key, approach.attempts.until);
    }

    /// To connect would be to talk to ourselves.
    fn mask_is_ourselves(&mut self, key: u32, target: &MaskTarget, addr: SocketAddr) {
        self.totals.core.mask_failures_total += 1;
        self.complain_of_mask(format_args!(
            "mask host {target} is this proxy itself ({addr}): see censorship.mask_host, \
             mask_port and tls_domain"
        ));
        self.strangers.give_back();
        let Some(approach) = self.approach_mut(key) else {
            return;
        };
        let left = DISCARD_MAX.saturating_sub(approach.seen.len());
        approach.seen = Vec::new();
        approach.step = Step::Discarding(left);
        let until = approach.attempts.until;
        if left == 0 {
            return self.remove(key);
        }
        self.set_deadline(key, until);
    }

    /// Once a minute is enough: strangers come in thousands.
    fn complain_of_mask(&mut self, what: std::fmt::Arguments<'_>) {
        const PAUSE: Duration = Duration::from_secs(60);
        if self
            .mask_complained
            .is_none_or(|at| at.after(PAUSE) <= self.now)
        {
            self.mask_complained = Some(self.now);
            tracing::warn!("{what}");
        }
    }

    /// Bytes of a stranger whose mask host is not there yet.
    pub(super) fn approach_bytes(&mut self, key: u32, buf: &Buf) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let client = session.client;
        let State::Approach(approach) = &mut session.state else {
            return;
        };
        if let Step::Discarding(left) = &mut approach.step {
            *left = left.saturating_sub(buf.len());
            if *left == 0 {
                self.remove(key);
            }
            return;
        }
        approach.seen.extend_from_slice(buf.bytes());
        if approach.seen.len() > AHEAD_BYTES_MAX && !approach.paused {
            approach.paused = true;
            self.engine.pause(client);
        }
    }

    /// The mask host is there: it gets everything so far in one write, and the splice begins.
    pub(super) fn mask_connected(&mut self, key: u32, socket: SocketId) {
        let settings = self.settings.clone();
        let (Some(mask), Some(session)) = (&settings.mask, self.sessions.get_mut(key as usize))
        else {
            return self.engine.close(socket);
        };
        let State::Approach(approach) = std::mem::replace(&mut session.state, State::Refused)
        else {
            debug_assert!(false, "a connect outlived its stranger");
            return self.engine.close(socket);
        };
        let Approach {
            mut seen,
            client_ended,
            paused,
            ..
        } = *approach;
        let client = session.client;
        let mut limits = Limits::new(mask, self.now);
        let fits = limits.take(true, seen.len(), self.now);
        let over = fits < seen.len();
        seen.truncate(fits);
        session.state = State::Splice(Box::new(Splice::new(socket, limits)));
        let source = SocketAddr::new(session.from, session.port);
        if let Some(version) = mask.proxy_header {
            let mut first = Vec::with_capacity(seen.len() + 128);
            proxy_protocol::encode(&mut first, version, source, self.met_at(key, source));
            first.extend_from_slice(&seen);
            seen = first;
        }
        // Strangers who ask for much and do not read it would fill the host's TCP memory, which
        // clients need: two socket buffers as large as they grow by themselves hold megabytes.
        self.engine.bound_kernel_bytes(socket, client, KERNEL_BYTES);
        self.totals.core.masks_total += 1;
        self.totals.core.masks_current += 1;
        self.engine.send_bytes(socket, seen.into_boxed_slice());
        self.engine.limit_receives(socket, Some(RECEIVE_BYTES));
        self.engine.resume(socket);
        if paused {
            self.engine.resume(client);
        }
        self.set_deadline(key, limits.deadline(mask.idle));
        if over {
            self.splice_over(key);
        } else if client_ended {
            self.splice_ended(key, Side::Client);
        }
    }

    /// Our address as the client sees it. What is unknown gets the other family, which a PROXY
    /// header turns into "unknown".
    fn met_at(&self, key: u32, source: SocketAddr) -> SocketAddr {
        let other = match source {
            SocketAddr::V4(_) => SocketAddr::from(([0u16; 8], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0u8; 4], 0)),
        };
        self.own_addr(key).unwrap_or(other)
    }

    fn approach_mut(&mut self, key: u32) -> Option<&mut Approach> {
        match &mut self.sessions.get_mut(key as usize)?.state {
            State::Approach(approach) => Some(approach),
            _ => None,
        }
    }

    /// The time of a stranger's present step is up.
    pub(super) fn mask_expired(&mut self, key: u32) {
        let settings = self.settings.clone();
        let (Some(mask), Some(session)) = (&settings.mask, self.sessions.get_mut(key as usize))
        else {
            return;
        };
        if let State::Splice(splice) = &session.state {
            session.deadline = splice.deadline(mask.idle).unwrap_or(session.deadline);
        }
        if session.deadline > self.now {
            return self.rearm(key);
        }
        let approach = match &session.state {
            State::Approach(approach) => approach,
            State::Splice(splice) => {
                let (client, broken) = (session.client, splice.is_broken());
                if broken {
                    // What came before the reset is not taken: no reason to hide it any longer.
                    self.engine.reset(client);
                }
                return self.remove(key);
            }
            _ => return self.remove(key),
        };
        match approach.step {
            Step::Pacing => self.approach(key, mask),
            Step::Connecting(socket) => {
                self.engine.close(socket);
                self.connect_to_mask(key, mask);
            }
            Step::Resolving => self.connect_to_mask(key, mask),
            Step::Waiting | Step::Discarding(_) => self.remove(key),
        }
    }

    /// A stranger closed or broke off.
    pub(super) fn stranger_left(&mut self, key: u32, broken: bool) {
        match self.approach_mut(key) {
            // They may still read what the mask host says.
            Some(approach) if !broken => approach.client_ended = true,
            Some(_) => self.remove(key),
            None if broken => self.splice_broke(key, Side::Client),
            None => self.splice_ended(key, Side::Client),
        }
    }

    /// Closes what a stranger holds besides the client's socket.
    pub(super) fn approach_gone(&mut self, approach: &Approach) {
        if let Some(socket) = approach.socket() {
            self.engine.close(socket);
        }
        if matches!(approach.step, Step::Connecting(_) | Step::Resolving) {
            self.strangers.give_back();
        }
    }
}

fn is_waiting(state: &State) -> bool {
    matches!(state, State::Approach(approach) if approach.step == Step::Waiting)
}
