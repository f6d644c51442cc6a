//! Self-test: do our addresses in the keys wander, is the clock right, what do SOCKS servers say.
//!
//! Source: middle-proxy.md 24.2 and 26.10.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use super::super::Millis;
use super::{
    report::KeyFacts,
    status::{BoundStatus, SelftestStatus, SkewStatus},
    supervisor::SkewSource,
};
use crate::proto::middle::bound::{self, AddrState, PortState};

/// What a handshake's address material is against the one before with the same ME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drift {
    /// The same, or the first.
    None,
    /// Another port only: nearly every reconnect.
    Port,
    /// Something else.
    Address,
}

/// Everything the self-test remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selftest {
    material: BTreeMap<SocketAddr, KeyFacts>,
    rate: ErrorRate,
    errors: u64,
    skews: VecDeque<SkewStatus>,
    bound: Option<BoundStatus>,
}

/// Moving average of errors per minute.
#[derive(Clone, Copy, Debug, Default)]
struct ErrorRate {
    per_minute: f64,
    seen: u64,
    at: Option<Millis>,
}

impl Selftest {
    /// The keys of a handshake were derived.
    pub(crate) fn keys(&mut self, facts: &KeyFacts) -> Drift {
        if self.material.len() >= MATERIAL_MAX && !self.material.contains_key(&facts.me) {
            self.material.pop_first();
        }
        let drift = match self.material.insert(facts.me, *facts) {
            None => Drift::None,
            Some(before) if before == *facts => Drift::None,
            Some(before) => match same_address(&before, facts) {
                true => Drift::Port,
                false => Drift::Address,
            },
        };
        self.errors += u64::from(drift == Drift::Address);
        drift
    }

    /// A dial to `me` through a SOCKS server was connected; `refused` for lack of a usable address.
    pub(crate) fn socks(
        &mut self,
        me: SocketAddr,
        reported: Option<SocketAddr>,
        refused: bool,
        now: Millis,
    ) {
        self.errors += u64::from(refused);
        let verdict = bound::judge(reported, me);
        self.bound = Some(BoundStatus {
            addr_state: match verdict.addr {
                AddrState::Ok => "ok",
                AddrState::Bogon => "bogon",
                AddrState::Error => "error",
            },
            port_state: match verdict.port {
                PortState::Ok => "ok",
                PortState::Zero => "zero",
                PortState::Error => "error",
            },
            addr: reported,
            at: now,
        });
    }

    /// Endpoints that left the map are forgotten.
    pub(crate) fn retain(&mut self, mut in_map: impl FnMut(&SocketAddr) -> bool) {
        self.material.retain(|endpoint, _| in_map(endpoint));
    }

    /// A `Date` header differed.
    pub(crate) fn skew(&mut self, source: SkewSource, secs: u64, now: Millis) {
        self.skews.push_back(SkewStatus {
            secs,
            source: source.label(),
            at: now,
        });
        let old = |sample: &SkewStatus| now.since(sample.at) > KEPT_MS;
        // The newest is kept however old: the next call may be long after.
        while self.skews.len() > SAMPLES_MAX || self.skews.front().is_some_and(old) {
            self.skews.pop_front();
        }
    }

    /// Takes the sample of the error rate that is due; returns when the next one is.
    pub(crate) fn advance(&mut self, now: Millis) -> Millis {
        let due = self.rate.at.map_or(now, |at| at.after(RATE_EVERY));
        if due > now {
            return due;
        }
        self.rate.sample(self.errors, now);
        now.after(RATE_EVERY)
    }

    /// For the API.
    pub(crate) fn status(&self, now: Millis) -> SelftestStatus {
        let recent = self
            .skews
            .iter()
            .filter(|sample| now.since(sample.at) <= WINDOW_MS);
        let max = recent.clone().map(|sample| sample.secs).max();
        SelftestStatus {
            kdf_errors_per_min: self.rate.per_minute,
            kdf_errors_total: self.errors,
            kdf_error: self.rate.per_minute >= KDF_ERRORS_PER_MINUTE,
            max_skew_secs_15m: max,
            samples_15m: recent.count(),
            last_skew: self.skews.back().copied(),
            skew_error: max.is_some_and(|secs| secs > SKEW_SECS_MAX),
            bound: self.bound,
        }
    }
}

impl ErrorRate {
    fn sample(&mut self, errors: u64, now: Millis) {
        if let Some(before) = self.at {
            let secs = Duration::from_millis(now.since(before)).as_secs_f64();
            // Errors between two samples are few: exact as f64.
            let delta = errors.saturating_sub(self.seen) as f64;
            let weight = 1.0 - (-secs / TAU_SECS).exp();
            if secs > 0.0 {
                self.per_minute += weight * (delta * 60.0 / secs - self.per_minute);
            }
        }
        self.seen = errors;
        self.at = Some(now);
    }
}

fn same_address(a: &KeyFacts, b: &KeyFacts) -> bool {
    let ip = |facts: &KeyFacts| facts.bound.map(|bound| bound.ip());
    a.proxy_ip == b.proxy_ip && a.source == b.source && a.reflected == b.reflected && ip(a) == ip(b)
}

/// Threshold of `kdf.state`.
pub(crate) const KDF_ERRORS_PER_MINUTE: f64 = 0.30;
const TAU_SECS: f64 = 600.0;
const RATE_EVERY: Duration = Duration::from_secs(10);
const SAMPLES_MAX: usize = 512;
const KEPT_MS: u64 = 30 * 60 * 1000;
const WINDOW_MS: u64 = 15 * 60 * 1000;
const SKEW_SECS_MAX: u64 = 60;
/// Endpoints remembered: as many as a map may have.
const MATERIAL_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::middle::address::Source;

    fn facts() -> KeyFacts {
        KeyFacts {
            me: "9.9.9.9:8888".parse().unwrap(),
            proxy_ip: "5.5.5.5".parse().unwrap(),
            proxy_port: 1000,
            source: Source::Reflected,
            reflected: "5.5.5.5".parse().ok(),
            bound: None,
        }
    }

    #[test]
    fn tells_drift_from_another_port() {
        let mut selftest = Selftest::default();
        let first = facts();
        let mut port = first;
        port.proxy_port += 1;
        let mut ip = port;
        ip.proxy_ip = "5.5.5.6".parse().unwrap();
        let mut source = ip;
        source.source = Source::NatIp;
        let mut elsewhere = first;
        elsewhere.me = "9.9.9.8:8888".parse().unwrap();
        for (facts, drift) in [
            (first, Drift::None),
            (first, Drift::None),
            (port, Drift::Port),
            (ip, Drift::Address),
            (elsewhere, Drift::None),
            (source, Drift::Address),
        ] {
            assert_eq!(selftest.keys(&facts), drift);
        }
        assert_eq!(selftest.status(Millis(0)).kdf_errors_total, 2);
        selftest.retain(|endpoint| *endpoint == elsewhere.me);
        assert_eq!(selftest.keys(&first), Drift::None, "forgotten with the map");
    }

    #[test]
    fn averages_errors_per_minute() {
        let mut selftest = Selftest::default();
        assert_eq!(selftest.advance(Millis(0)), Millis(10_000));
        selftest.socks(facts().me, None, true, Millis(5_000));
        assert_eq!(selftest.advance(Millis(9_999)), Millis(10_000));
        selftest.advance(Millis(10_000));
        let rate = selftest.status(Millis(10_000)).kdf_errors_per_min;
        let expected = (1.0 - (-10.0_f64 / 600.0).exp()) * 6.0;
        assert!((rate - expected).abs() < 1e-9, "{rate}");
        assert!(!selftest.status(Millis(10_000)).kdf_error);
        for at in 2..6 {
            selftest.socks(facts().me, None, true, Millis(at * 10_000));
            selftest.advance(Millis(at * 10_000));
        }
        assert!(selftest.status(Millis(60_000)).kdf_error);
        for at in 6..300 {
            selftest.advance(Millis(at * 10_000));
        }
        assert!(selftest.status(Millis(0)).kdf_errors_per_min < 0.01);
    }

    #[test]
    fn keeps_skews_of_a_quarter_of_an_hour() {
        let mut selftest = Selftest::default();
        assert_eq!(selftest.status(Millis(0)).max_skew_secs_15m, None);
        selftest.skew(SkewSource::ProxySecret, 61, Millis(0));
        selftest.skew(SkewSource::ProxyConfig, 2, Millis(600_000));
        let status = selftest.status(Millis(900_000));
        assert_eq!(
            (status.max_skew_secs_15m, status.samples_15m),
            (Some(61), 2)
        );
        assert!(status.skew_error);
        let status = selftest.status(Millis(900_001));
        assert_eq!((status.max_skew_secs_15m, status.samples_15m), (Some(2), 1));
        assert!(!status.skew_error);
        let last = selftest.status(Millis(9_000_000)).last_skew.unwrap();
        assert_eq!((last.secs, last.source), (2, "proxy_config_date_header"));
        for _ in 0..600 {
            selftest.skew(SkewSource::ProxyConfig, 0, Millis(9_000_000));
        }
        assert_eq!(selftest.skews.len(), SAMPLES_MAX);
    }

    #[test]
    fn reports_the_last_bound_address() {
        let mut selftest = Selftest::default();
        assert_eq!(selftest.status(Millis(0)).bound, None);
        for (reported, addr, port) in [
            (None, "error", "error"),
            (Some("10.0.0.1:0"), "bogon", "zero"),
            (Some("8.8.8.8:5"), "ok", "ok"),
        ] {
            let reported = reported.map(|text| text.parse().unwrap());
            selftest.socks(facts().me, reported, false, Millis(7));
            let bound = selftest.status(Millis(9)).bound.unwrap();
            assert_eq!((bound.addr_state, bound.port_state), (addr, port));
            assert_eq!((bound.addr, bound.at), (reported, Millis(7)));
        }
    }
}
