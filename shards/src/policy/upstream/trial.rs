//! Connections to a DC through a server that does not say whether it reached it: only the DC's
//! first byte shows that server and key are good.
//!
//! A connect to a Shadowsocks server succeeds whatever its password is, and one that does not know
//! the key says nothing at all, so that nobody finds it. So the verdict on such a connect waits:
//! for the DC's first byte, for the end of the connection, or until the DC should have answered.
//! Who left in the meantime is no evidence. Source: protocol.md 9.4, 9.5.

use std::time::Duration;

use super::{Dial, Upstreams};
use crate::{counters::UpstreamCounters, policy::Millis, settings::UpstreamSettings};

/// A connection whose dial is not judged yet.
#[derive(Debug)]
pub(crate) struct Trial {
    dial: Dial,
    /// When the server was connected.
    connected: Millis,
    /// When the DC was first sent something that it answers.
    asked: Option<Millis>,
    /// It counts as failed; a late answer still shows that the server is good.
    failed: bool,
}

/// What speaks against a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It ended the connection: it may not know the key, or the DC may have refused.
    Ended,
    /// Nothing came in time.
    Silent,
    /// What came cannot be opened: no DC is the reason.
    Unreadable,
}

/// A DC answers sooner. Less than clients wait (protocol.md 10.1): of those that leave earlier
/// nothing is learned.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A server that has just passed on a DC's answer is not blamed for another DC: that of the last
/// probe, at its usual distance, counts.
const PROOF_LASTS_MS: u64 = 40_000;

impl Trial {
    /// The server is connected; `asks`: the first bytes are more than an opening.
    pub(crate) fn new(dial: Dial, asks: bool, now: Millis) -> Self {
        Self {
            dial,
            connected: now,
            asked: asks.then_some(now),
            failed: false,
        }
    }

    /// Something for the DC leaves.
    pub(crate) fn asks(&mut self, now: Millis) {
        self.asked.get_or_insert(now);
    }

    /// When the DC should have answered; `None`: it was not asked, or this has been counted.
    pub(crate) fn due(&self, settings: &UpstreamSettings) -> Option<Millis> {
        let limit = ANSWER_LIMIT.min(settings.connect_timeout);
        let asked = self.asked.filter(|_| !self.failed)?;
        Some(asked.after(limit))
    }

    /// How long connecting and asking have taken, milliseconds: not what the client took to ask.
    fn took_ms(&self, now: Millis) -> u64 {
        let waited = self.asked.map_or(0, |asked| now.since(asked));
        self.dial.attempt_ms(self.connected).saturating_add(waited)
    }

    fn count(&self, reached: bool, now: Millis, counters: &mut UpstreamCounters) {
        let waited = self.asked.map_or(0, |asked| now.since(asked));
        let at = Millis(self.connected.0.saturating_add(waited));
        self.dial.count(reached, at, counters);
    }
}

impl Upstreams {
    /// The DC's first byte has come.
    pub(crate) fn answered(&mut self, trial: &Trial, now: Millis, counters: &mut UpstreamCounters) {
        if !trial.failed {
            trial.count(true, now, counters);
        }
        self.recovered(&trial.dial, trial.took_ms(now), now);
    }

    /// Nothing of the DC has come and nothing will, or it is late: counts once. The route whose
    /// server is to be tried at its next address, if this was news.
    pub(crate) fn doubted(
        &mut self,
        trial: &mut Trial,
        doubt: Doubt,
        settings: &UpstreamSettings,
        now: Millis,
        counters: &mut UpstreamCounters,
    ) -> Option<u16> {
        if std::mem::replace(&mut trial.failed, true) {
            return None;
        }
        trial.count(false, now, counters);
        let route = trial.dial.route()?;
        let outcome = trial.dial.outcome(None)?;
        self.learn(&outcome, now);
        if doubt == Doubt::Unreadable || !self.is_proven(route, now) {
            self.count_failure(route, &mut trial.dial, settings);
        }
        Some(route)
    }

    /// A DC answered through this route a while ago at most.
    fn is_proven(&self, route: u16, now: Millis) -> bool {
        let route = self.routes.get(usize::from(route));
        let answered = route.and_then(super::Route::answered);
        answered.is_some_and(|at| now.since(at) < PROOF_LASTS_MS)
    }
}
