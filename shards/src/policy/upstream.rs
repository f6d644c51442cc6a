//! The way out: which address of a DC is tried next, how long, and how healthy the route is.
//!
//! Source: protocol.md 9.5, 9.6.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::Millis;
use crate::{
    control::{DcRow, FamilyState, UpstreamRow},
    counters::UpstreamCounters,
    proto::dc::DcAddrs,
    settings::UpstreamSettings,
};

/// The direct route of one shard: what it has learned.
#[derive(Debug, Default)]
pub(crate) struct Upstream {
    dcs: BTreeMap<i16, Dc>,
    fails: u32,
    unhealthy: bool,
    last_check: Option<Millis>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dc {
    latency_ema_ms: Option<f64>,
    v4: FamilyState,
    v6: FamilyState,
}

/// One client's connect to its DC, over all attempts.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    /// Row the addresses come from.
    pub(crate) dc: i16,
    addrs: Vec<SocketAddr>,
    next: usize,
    attempts: u32,
    started: Millis,
    attempt_started: Millis,
    /// Set when the first attempt failed: everything after it has to fit.
    budget_until: Option<Millis>,
}

/// What to do next for a client that waits for its DC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Connect, and give up by then.
    Connect(SocketAddr, Millis),
    /// Ask again at that time.
    Pause(Millis),
    /// Give up.
    Fail,
}

/// New samples of a latency average weigh so much.
const EMA_WEIGHT: f64 = 0.3;
/// A probe round needs so many answers, or all where there are fewer DCs.
const PROBE_ANSWERS_MIN: usize = 3;

impl Upstream {
    /// Starts a client's connect. The addresses of a family known to fail come last.
    pub(crate) fn dial(&self, dc: &DcAddrs<'_>, settings: &UpstreamSettings, now: Millis) -> Dial {
        let row = self.dcs.get(&dc.dc).copied().unwrap_or_default();
        let mut families = Vec::with_capacity(2);
        if settings.ipv4 {
            families.push((row.v4 == FamilyState::Fails, settings.prefer_ipv6, false));
        }
        if settings.ipv6 {
            families.push((row.v6 == FamilyState::Fails, !settings.prefer_ipv6, true));
        }
        families.sort_unstable();
        let mut addrs = Vec::new();
        for (_, _, v6) in families {
            if v6 {
                addrs.extend(dc.v6())
            } else {
                addrs.extend(dc.v4())
            }
        }
        Dial {
            dc: dc.dc,
            addrs,
            next: 0,
            attempts: 0,
            started: now,
            attempt_started: now,
            budget_until: None,
        }
    }

    /// Takes in how a connect or probe of one address ended.
    pub(crate) fn learn(&mut self, dc: i16, addr: SocketAddr, took_ms: Option<u64>, now: Millis) {
        self.last_check = Some(now);
        let row = self.dcs.entry(dc).or_default();
        let state = if took_ms.is_some() {
            FamilyState::Works
        } else {
            FamilyState::Fails
        };
        if addr.is_ipv4() {
            row.v4 = state
        } else {
            row.v6 = state
        }
        if let Some(ms) = took_ms {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a connect")]
            let sample = ms as f64;
            let ema = row
                .latency_ema_ms
                .map_or(sample, |ema| ema + EMA_WEIGHT * (sample - ema));
            row.latency_ema_ms = Some(ema);
        }
    }

    /// A client reached its DC, or did not after all attempts.
    pub(crate) fn cycle_ended(&mut self, reached: bool, settings: &UpstreamSettings) {
        if reached {
            self.fails = 0;
            self.unhealthy = false;
        } else {
            self.fails = self.fails.saturating_add(1);
            self.unhealthy |= self.fails >= settings.unhealthy_fails;
        }
    }

    /// A round of probes is over.
    pub(crate) fn probed(&mut self, answered: usize, tried: usize) {
        let healthy = tried > 0 && answered >= PROBE_ANSWERS_MIN.min(tried);
        self.unhealthy = !healthy;
        if healthy {
            self.fails = 0;
        }
    }

    /// What the API shows.
    pub(crate) fn row(&self, now: Millis) -> UpstreamRow {
        let dcs = self.dcs.iter().map(|(dc, row)| DcRow {
            dc: *dc,
            latency_ema_ms: row.latency_ema_ms,
            v4: row.v4,
            v6: row.v6,
        });
        UpstreamRow {
            healthy: !self.unhealthy,
            fails: self.fails,
            last_check_ms: self.last_check.map(|at| now.since(at)),
            dcs: dcs.collect(),
        }
    }
}

impl Dial {
    /// The next connect. To be called at the start and when a pause is over.
    pub(crate) fn connect(&mut self, settings: &UpstreamSettings, now: Millis) -> Step {
        let Some(addr) = self.addr() else {
            return Step::Fail;
        };
        let mut until = now.after(settings.connect_timeout);
        if let Some(budget) = self.budget_until {
            until = until.min(budget);
        }
        self.attempts += 1;
        self.attempt_started = now;
        Step::Connect(addr, until)
    }

    /// The address now tried.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.addrs.get(self.next % self.addrs.len().max(1)).copied()
    }

    /// How long the present attempt has taken, milliseconds.
    pub(crate) fn attempt_ms(&self, now: Millis) -> u64 {
        now.since(self.attempt_started)
    }

    /// An attempt failed; `errno` is 0 for a time-out. `jitter` is drawn from 0.0..0.5.
    pub(crate) fn failed(
        &mut self,
        errno: i32,
        settings: &UpstreamSettings,
        now: Millis,
        jitter: f64,
    ) -> Step {
        let family = self.addr().map(|addr| addr.is_ipv4());
        self.next += 1;
        let budget = *self
            .budget_until
            .get_or_insert(now.after(settings.connect_budget));
        // No route in this family: the other one, at once and within the same attempt.
        let other_left = self.next < self.addrs.len()
            && self
                .addrs
                .iter()
                .skip(self.next)
                .any(|addr| Some(addr.is_ipv4()) != family);
        if is_family_error(errno) && other_left {
            while self.addr().map(|addr| addr.is_ipv4()) == family {
                self.next += 1;
            }
            self.attempts = self.attempts.saturating_sub(1);
            return self.connect(settings, now);
        }
        if settings.failfast_hard_errors && is_hard_error(errno) {
            return Step::Fail;
        }
        let pause = settings.connect_backoff.mul_f64(1.0 + jitter);
        let again = now.after(pause);
        if self.attempts > settings.connect_retries || again >= budget {
            return Step::Fail;
        }
        if pause < Duration::from_millis(1) {
            return self.connect(settings, now);
        }
        Step::Pause(again)
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
            *match ms {
                0..=100 => &mut c.connect_duration_fail_bucket_le_100ms,
                101..=500 => &mut c.connect_duration_fail_bucket_101_500ms,
                501..=1000 => &mut c.connect_duration_fail_bucket_501_1000ms,
                1001.. => &mut c.connect_duration_fail_bucket_gt_1000ms,
            } += 1;
        }
    }
}

/// The family has no way out: trying its other addresses is useless.
fn is_family_error(errno: i32) -> bool {
    matches!(
        errno,
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL
    )
}

/// An error that does not pass by itself.
pub(crate) fn is_hard_error(errno: i32) -> bool {
    is_family_error(errno) || matches!(errno, libc::EACCES | libc::EPERM | libc::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::dc::{DcId, DcTable, Resolved},
        settings::RouteSettings,
    };

    fn settings() -> UpstreamSettings {
        UpstreamSettings {
            dcs: DcTable::builtin(),
            ipv4: true,
            ipv6: true,
            prefer_ipv6: false,
            routes: vec![RouteSettings::direct(true, true, false)],
            fast_mode: true,
            connect_timeout: Duration::from_secs(10),
            connect_retries: 2,
            connect_backoff: Duration::from_millis(100),
            connect_budget: Duration::from_secs(3),
            failfast_hard_errors: false,
            unhealthy_fails: 2,
            probe_every: Duration::ZERO,
        }
    }

    fn dial(upstream: &Upstream, settings: &UpstreamSettings, dc: i16) -> Dial {
        match settings.dcs.resolve(DcId(dc)) {
            Resolved::Found(found) => upstream.dial(&found, settings, Millis(0)),
            Resolved::Rejected => panic!("DC {dc} is known"),
        }
    }

    fn target(step: Step) -> SocketAddr {
        match step {
            Step::Connect(addr, _) => addr,
            other => panic!("expected a connect, got {other:?}"),
        }
    }

    #[test]
    fn retries_with_pauses_inside_the_budget() {
        let settings = settings();
        let mut dial = dial(&Upstream::default(), &settings, 1);
        assert_eq!(
            target(dial.connect(&settings, Millis(0))).to_string(),
            "149.154.175.50:443"
        );
        let step = dial.failed(libc::ECONNREFUSED, &settings, Millis(10), 0.5);
        assert_eq!(step, Step::Pause(Millis(160)));
        let step = dial.connect(&settings, Millis(160));
        assert_eq!(
            step,
            Step::Connect("[2001:b28:f23d:f001::a]:443".parse().unwrap(), Millis(3010))
        );
        assert_eq!(dial.failed(0, &settings, Millis(3010), 0.0), Step::Fail);
        let mut counters = UpstreamCounters::default();
        dial.count(false, Millis(3010), &mut counters);
        assert_eq!(counters.connect_attempts_bucket_2, 1);
        assert_eq!(counters.connect_duration_fail_bucket_gt_1000ms, 1);
    }

    #[test]
    fn stops_after_the_configured_attempts() {
        let settings = settings();
        let mut dial = dial(&Upstream::default(), &settings, 4);
        let mut now = Millis(0);
        let mut connects = 0;
        let mut step = dial.connect(&settings, now);
        loop {
            match step {
                Step::Connect(..) => {
                    connects += 1;
                    step = dial.failed(libc::ECONNREFUSED, &settings, now, 0.0);
                }
                Step::Pause(until) => {
                    now = until;
                    step = dial.connect(&settings, now);
                }
                Step::Fail => break,
            }
        }
        assert_eq!(connects, 3);
    }

    #[test]
    fn family_without_a_route_hands_over_at_once() {
        let settings = settings();
        let mut dial = dial(&Upstream::default(), &settings, 2);
        let _ = dial.connect(&settings, Millis(0));
        let step = dial.failed(libc::ENETUNREACH, &settings, Millis(1), 0.0);
        assert!(target(step).is_ipv6());
        assert_eq!(dial.attempts, 1);
    }

    #[test]
    fn preference_and_state_order_the_families() {
        let mut settings = settings();
        settings.prefer_ipv6 = true;
        let mut upstream = Upstream::default();
        assert!(dial(&upstream, &settings, 1).addr().unwrap().is_ipv6());
        upstream.learn(1, "[::1]:443".parse().unwrap(), None, Millis(5));
        assert!(dial(&upstream, &settings, 1).addr().unwrap().is_ipv4());
        settings.ipv4 = false;
        assert!(dial(&upstream, &settings, 1).addr().unwrap().is_ipv6());
    }

    #[test]
    fn route_turns_unhealthy_by_failed_clients_and_healthy_by_probes() {
        let settings = settings();
        let mut upstream = Upstream::default();
        upstream.cycle_ended(false, &settings);
        assert!(upstream.row(Millis(0)).healthy);
        upstream.cycle_ended(false, &settings);
        assert!(!upstream.row(Millis(0)).healthy);
        upstream.probed(2, 5);
        assert!(!upstream.row(Millis(0)).healthy);
        upstream.probed(3, 5);
        assert_eq!(upstream.row(Millis(0)).fails, 0);
        assert!(upstream.row(Millis(0)).healthy);
    }
}
