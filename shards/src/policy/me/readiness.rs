//! The gate in front of the listeners and the route of new sessions.
//!
//! Source: middle-proxy.md 22.

use std::time::Duration;

use super::super::Millis;
use super::{
    plan::Route,
    status::{RerouteReason, RouteStatus},
};
use crate::settings::AdmissionSettings;

/// Readiness and its past.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admission {
    ready: bool,
    ready_ever: bool,
    not_ready_since: Option<Millis>,
    failed: bool,
    verdict: Verdict,
    direct_at: Option<Millis>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The gate and the route in one.
    pub(crate) route: Route,
    /// Set for direct.
    pub(crate) reason: Option<RerouteReason>,
}

impl Admission {
    /// At process start: not ready.
    pub(crate) fn new(settings: &AdmissionSettings, now: Millis) -> Self {
        let mut admission = Self {
            ready: false,
            ready_ever: false,
            not_ready_since: Some(now),
            failed: false,
            verdict: Verdict {
                route: Route::Closed,
                reason: None,
            },
            direct_at: None,
        };
        admission.judge(settings, now);
        admission
    }

    /// Whether the pool is ready, and whether its start was given up. Returns the verdict before,
    /// if it changed.
    pub(crate) fn update(
        &mut self,
        settings: &AdmissionSettings,
        ready: bool,
        failed: bool,
        now: Millis,
    ) -> Option<Verdict> {
        self.failed = failed;
        self.ready = ready;
        self.ready_ever |= ready;
        self.not_ready_since = match (ready, self.not_ready_since) {
            (true, _) => None,
            (false, since) => since.or(Some(now)),
        };
        let before = self.verdict;
        self.judge(settings, now);
        (self.verdict != before).then_some(before)
    }

    /// Where new sessions go.
    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// When the grace ends, while that would change anything.
    pub(crate) fn deadline(&self, settings: &AdmissionSettings) -> Option<Millis> {
        let waits = self.verdict.route == Route::Closed && settings.fallback;
        let since = self.not_ready_since.filter(|_| waits)?;
        Some(Millis(since.after(self.grace()).0 + 1))
    }

    /// For the API.
    pub(crate) fn status(&self) -> RouteStatus {
        RouteStatus {
            accepting: self.verdict.route != Route::Closed,
            middle: self.verdict.route != Route::Direct,
            ready: self.ready,
            ready_ever: self.ready_ever,
            not_ready_since: self.not_ready_since,
            reason: self.verdict.reason,
            direct_at: self.direct_at,
        }
    }

    fn judge(&mut self, settings: &AdmissionSettings, now: Millis) {
        let waited = self.not_ready_since.map_or(0, |since| now.since(since));
        let over = self.failed || Millis(waited) > Millis(0).after(self.grace());
        let (route, reason) = match (self.ready, settings.fallback, settings.fast, over) {
            (true, _, _, _) => (Route::Middle, None),
            (false, true, true, _) => (Route::Direct, Some(RerouteReason::FastNotReady)),
            (false, true, false, true) => (Route::Direct, Some(RerouteReason::StrictGrace)),
            (false, true, false, false) | (false, false, _, _) => (Route::Closed, None),
        };
        if route == Route::Direct && self.verdict.route != Route::Direct {
            self.direct_at = Some(now);
        }
        self.verdict = Verdict { route, reason };
    }

    fn grace(&self) -> Duration {
        match self.ready_ever {
            false => GRACE_AT_START,
            true => GRACE_LATER,
        }
    }
}

/// Without a first writer.
const GRACE_AT_START: Duration = Duration::from_secs(80);
/// After the pool was ready once.
const GRACE_LATER: Duration = Duration::from_secs(6);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(fallback: bool, fast: bool) -> AdmissionSettings {
        AdmissionSettings {
            fallback,
            fast,
            ..AdmissionSettings::default()
        }
    }

    /// The table of section 22: ready for a while or never, then not for `waited` seconds.
    fn check(keys: (bool, bool), ever: bool, waited: u64, route: Route) -> Option<&'static str> {
        let settings = settings(keys.0, keys.1);
        let mut admission = Admission::new(&settings, Millis(0));
        if ever {
            admission.update(&settings, true, false, Millis(0));
            assert_eq!(admission.verdict().route, Route::Middle);
        }
        admission.update(&settings, false, false, Millis(0));
        admission.update(&settings, false, false, Millis(waited * 1000));
        assert_eq!(admission.verdict().route, route, "{keys:?} {ever} {waited}");
        admission.verdict().reason.map(RerouteReason::label)
    }

    #[test]
    fn follows_the_table() {
        let fast = Some("fast_not_ready_fallback");
        let strict = Some("strict_grace_fallback");
        for ever in [false, true] {
            assert_eq!(check((true, true), ever, 0, Route::Direct), fast);
            assert_eq!(check((true, true), ever, 100, Route::Direct), fast);
            assert_eq!(check((false, true), ever, 1_000, Route::Closed), None);
            assert_eq!(check((false, false), ever, 1_000, Route::Closed), None);
        }
        assert_eq!(check((true, false), false, 80, Route::Closed), None);
        assert_eq!(check((true, false), false, 81, Route::Direct), strict);
        assert_eq!(check((true, false), true, 6, Route::Closed), None);
        assert_eq!(check((true, false), true, 7, Route::Direct), strict);
    }

    #[test]
    fn readiness_clears_the_clock() {
        let settings = settings(true, false);
        let mut admission = Admission::new(&settings, Millis(0));
        assert_eq!(admission.deadline(&settings), Some(Millis(80_001)));
        admission.update(&settings, true, false, Millis(70_000));
        assert_eq!(admission.deadline(&settings), None);
        admission.update(&settings, false, false, Millis(90_000));
        assert_eq!(admission.deadline(&settings), Some(Millis(96_001)));
        let before = admission.update(&settings, false, false, Millis(96_001));
        assert_eq!(before.map(|verdict| verdict.route), Some(Route::Closed));
        assert_eq!(admission.status().direct_at, Some(Millis(96_001)));
        admission.update(&settings, true, false, Millis(99_000));
        let status = admission.status();
        assert!(status.accepting && status.middle && status.reason.is_none());
        assert_eq!(status.direct_at, Some(Millis(96_001)));
    }

    #[test]
    fn a_start_given_up_waits_no_longer() {
        let settings = settings(true, false);
        let mut admission = Admission::new(&settings, Millis(0));
        admission.update(&settings, false, true, Millis(5));
        assert_eq!(admission.verdict().route, Route::Direct);
    }
}
