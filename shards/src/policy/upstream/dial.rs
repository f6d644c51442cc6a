//! One client's connect over all attempts: addresses of the present route, pauses, budget.

use std::net::SocketAddr;

use super::Probed;
use crate::{counters::UpstreamCounters, policy::Millis, settings::UpstreamSettings};

/// One client's connect to its DC.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    dc: i16,
    route: Option<u16>,
    addrs: Vec<SocketAddr>,
    next: usize,
    /// The next attempt picks its route anew.
    repick: bool,
    /// Routes this client has failed on and was moved away from.
    left: Vec<u16>,
    attempts: u32,
    started: Millis,
    attempt_started: Millis,
    /// Set when the first attempt failed: everything after it has to fit.
    budget_until: Option<Millis>,
    failed_fast: bool,
}

/// One connect: through which route, to which address, until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    /// Index of the route.
    pub(crate) route: u16,
    /// The DC's address.
    pub(crate) addr: SocketAddr,
    /// When to give it up.
    pub(crate) until: Millis,
}

/// What to do next for a client that waits for its DC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Connect.
    Connect(Hop),
    /// Ask again at that time.
    Pause(Millis),
    /// Give up.
    Fail,
}

/// Why an attempt failed, as far as it decides about the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The address's family has no way out here: trying its other addresses is useless.
    Family,
    /// Does not pass by itself: credentials, permissions, a bad local address.
    Hard,
    /// Anything else, a time-out among it.
    Other,
}

impl Cause {
    /// What a failed connect to the DC itself means; 0 is a time-out.
    pub(crate) fn of_connect(errno: i32) -> Self {
        match errno {
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL => {
                Self::Family
            }
            errno => Self::of_local(errno),
        }
    }

    /// What the error of a socket means that does not go to the DC itself.
    pub(crate) fn of_local(errno: i32) -> Self {
        match errno {
            libc::EACCES
            | libc::EPERM
            | libc::EINVAL
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT
            | libc::ENODEV => Self::Hard,
            _ => Self::Other,
        }
    }
}

/// What a failed attempt leaves to do.
pub(super) enum Failed {
    /// Try the next address or route at once.
    Again,
    /// Try again then.
    Pause(Millis),
    /// Nothing: attempts or budget are used up.
    Over,
    /// The route cannot do it, now or later.
    Hard,
}

impl Dial {
    /// A client wants this DC; `dc` is the row its addresses come from.
    pub(crate) fn new(dc: i16, now: Millis) -> Self {
        Self {
            dc,
            route: None,
            addrs: Vec::new(),
            next: 0,
            repick: true,
            left: Vec::new(),
            attempts: 0,
            started: now,
            attempt_started: now,
            budget_until: None,
            failed_fast: false,
        }
    }

    /// Row the addresses come from.
    pub(crate) fn dc(&self) -> i16 {
        self.dc
    }

    /// The route of the last attempt.
    pub(crate) fn route(&self) -> Option<u16> {
        self.route
    }

    /// The address now tried.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.addrs.get(self.next % self.addrs.len().max(1)).copied()
    }

    /// How long the present attempt has taken, milliseconds.
    pub(crate) fn attempt_ms(&self, now: Millis) -> u64 {
        now.since(self.attempt_started)
    }

    /// It ended because of an error that a retry cannot mend.
    pub(crate) fn has_failed_fast(&self) -> bool {
        self.failed_fast
    }

    pub(super) fn wants_route(&self) -> bool {
        self.repick
    }

    /// It has failed on this route, or is about to.
    pub(super) fn has_tried(&self, route: u16) -> bool {
        self.route == Some(route) || self.left.contains(&route)
    }

    /// Notes that it has failed on a route; whether that is news.
    pub(super) fn leave(&mut self, route: u16) -> bool {
        let news = !self.left.contains(&route);
        if news {
            self.left.push(route);
        }
        news
    }

    /// Goes on through a route: the same one with its next address, another with its first.
    pub(super) fn take_route(&mut self, route: u16, order: impl FnOnce() -> Vec<SocketAddr>) {
        self.repick = false;
        if self.route != Some(route) {
            self.route = Some(route);
            self.addrs = order();
            self.next = 0;
        }
    }

    /// Attempts and budget are used up.
    pub(super) fn is_over(&self, settings: &UpstreamSettings, now: Millis) -> bool {
        self.attempts > settings.connect_retries
            || self.budget_until.is_some_and(|until| until <= now)
    }

    pub(super) fn begin_attempt(
        &mut self,
        settings: &UpstreamSettings,
        now: Millis,
    ) -> Option<Hop> {
        let (route, addr) = (self.route?, self.addr()?);
        let mut until = now.after(settings.connect_timeout);
        if let Some(budget) = self.budget_until {
            until = until.min(budget);
        }
        self.attempts += 1;
        self.attempt_started = now;
        Some(Hop { route, addr, until })
    }

    /// What the present attempt teaches of its route.
    pub(super) fn outcome(&self, took_ms: Option<u64>) -> Option<Probed> {
        Some(Probed {
            route: usize::from(self.route?),
            dc: self.dc,
            addr: self.addr()?,
            took_ms,
        })
    }

    pub(super) fn failed(
        &mut self,
        cause: Cause,
        settings: &UpstreamSettings,
        now: Millis,
        jitter: f64,
    ) -> Failed {
        let v4 = self.addr().map(|addr| addr.is_ipv4());
        self.next += 1;
        let budget = *self
            .budget_until
            .get_or_insert(now.after(settings.connect_budget));
        // The other family, at once and within the same attempt.
        if cause == Cause::Family {
            let rest = self.addrs.iter().skip(self.next);
            let other = rest.take_while(|addr| Some(addr.is_ipv4()) == v4).count();
            if self.next + other < self.addrs.len() {
                self.next += other;
                self.attempts = self.attempts.saturating_sub(1);
                return Failed::Again;
            }
        }
        self.repick = true;
        if settings.failfast_hard_errors && cause != Cause::Other {
            return Failed::Hard;
        }
        let pause = settings.connect_backoff.mul_f64(1.0 + jitter);
        let again = now.after(pause);
        if self.attempts > settings.connect_retries || again >= budget {
            Failed::Over
        } else if again == now {
            Failed::Again
        } else {
            Failed::Pause(again)
        }
    }

    pub(super) fn fail_fast(&mut self) {
        self.failed_fast = true;
    }

    /// Counts the outcome of all attempts together.
    pub(crate) fn count(&self, reached: bool, now: Millis, counters: &mut UpstreamCounters) {
        let c = counters;
        let ms = now.since(self.started);
        *match self.attempts {
            0 | 1 => &mut c.connect_attempts_bucket_1,
            2 => &mut c.connect_attempts_bucket_2,
            3 | 4 => &mut c.connect_attempts_bucket_3_4,
            5.. => &mut c.connect_attempts_bucket_gt_4,
        } += 1;
        if reached {
            c.connect_success_total += 1;
            *match ms {
                0..=100 => &mut c.connect_duration_success_bucket_le_100ms,
                101..=500 => &mut c.connect_duration_success_bucket_101_500ms,
                501..=1000 => &mut c.connect_duration_success_bucket_501_1000ms,
                1001.. => &mut c.connect_duration_success_bucket_gt_1000ms,
            } += 1;
        } else {
            c.connect_fail_total += 1;
            c.connect_failfast_hard_error_total += u64::from(self.failed_fast);
            *match ms {
                0..=100 => &mut c.connect_duration_fail_bucket_le_100ms,
                101..=500 => &mut c.connect_duration_fail_bucket_101_500ms,
                501..=1000 => &mut c.connect_duration_fail_bucket_501_1000ms,
                1001.. => &mut c.connect_duration_fail_bucket_gt_1000ms,
            } += 1;
        }
    }
}
