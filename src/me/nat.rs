//! Our public address: which family is asked for when, what is believed, how long it holds.
//!
//! State and `now` in, verdicts out; the asking itself is `stun.rs` and `http.rs`, the thread is
//! `nat_thread.rs`. Source: middle-proxy.md 9.1 and 9.2.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use shards::proto::middle::address::is_bogon;

use super::sources::NatSources;

/// What is known of our address in both families. One round per family at a time is its caller's
/// promise.
#[derive(Clone, Debug)]
pub(crate) struct Nat {
    sources: NatSources,
    families: [Family; 2],
}

/// One family.
#[derive(Clone, Debug, Default)]
struct Family {
    /// The interface that would reach the Internet.
    local: Option<IpAddr>,
    /// What STUN said last, and when; kept while nothing newer is known.
    reflection: Option<(SocketAddr, Instant)>,
    /// What a web server said; good until the process ends.
    by_http: Option<IpAddr>,
    /// Rounds that failed since the last success.
    failed: u8,
    /// No round before this.
    backoff_until: Option<Instant>,
    /// Those that answered in the last round, in the order of the settings.
    live: Vec<String>,
    /// A round has ended.
    settled: bool,
}

/// What a round of one family came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Round {
    /// Servers that answered, in the order they were asked, and what they saw.
    pub(crate) answers: Vec<(String, SocketAddr)>,
}

impl Round {
    /// The address named by most servers; of several, the one named first. The port is that of the
    /// first who named it.
    fn winner(&self) -> Option<SocketAddr> {
        let votes = |ip: IpAddr| self.answers.iter().filter(|(_, at)| at.ip() == ip).count();
        let mut best: Option<(SocketAddr, usize)> = None;
        for (_, at) in &self.answers {
            let count = votes(at.ip());
            if best.is_none_or(|(_, most)| count > most) {
                best = Some((*at, count));
            }
        }
        best.map(|(at, _)| at)
    }
}

impl Nat {
    /// Nothing is known yet.
    pub(crate) fn new(sources: NatSources) -> Self {
        Self {
            sources,
            families: Default::default(),
        }
    }

    /// The settings.
    pub(crate) fn sources(&self) -> &NatSources {
        &self.sources
    }

    /// The address of the interface that would reach the Internet, looked up anew.
    pub(crate) fn set_local(&mut self, ipv6: bool, local: Option<IpAddr>) {
        let family = self.family_mut(ipv6);
        family.local = local;
    }

    /// Whether a family is to be asked for now.
    pub(crate) fn is_due(&self, ipv6: bool, now: Instant) -> bool {
        self.due_at(ipv6, now) == Some(now)
    }

    /// When a family is to be asked for: `now` if it is overdue, `None` if never.
    pub(crate) fn due_at(&self, ipv6: bool, now: Instant) -> Option<Instant> {
        if !self.is_asked_for(ipv6) {
            return None;
        }
        let family = self.family(ipv6);
        let stale_at = family.reflection.map_or(now, |(_, at)| at + CACHE);
        let may_at = family.backoff_until.unwrap_or(now);
        Some(stale_at.max(may_at).max(now))
    }

    /// Somebody may say something new about this family.
    fn is_asked_for(&self, ipv6: bool) -> bool {
        self.is_probed(ipv6) || (!ipv6 && self.wants_http())
    }

    /// STUN may say anything about this family.
    fn is_probed(&self, ipv6: bool) -> bool {
        let sources = &self.sources;
        let wanted = sources.wanted.get(usize::from(ipv6)) == Some(&true);
        let able = self.family(ipv6).local.is_some();
        sources.stun && wanted && able && !sources.servers.is_empty()
    }

    /// Who is asked: those that answered last time, else all.
    pub(crate) fn servers(&self, ipv6: bool) -> &[String] {
        match self.family(ipv6).live.as_slice() {
            _ if !self.is_probed(ipv6) => &[],
            [] => &self.sources.servers,
            live => live,
        }
    }

    /// A round has ended.
    pub(crate) fn round_ended(&mut self, ipv6: bool, round: Round, now: Instant) {
        let winner = round.winner();
        let family = self.family_mut(ipv6);
        family.settled = true;
        family.live = round
            .answers
            .into_iter()
            .map(|(server, _)| server)
            .collect();
        match winner {
            Some(at) => {
                family.reflection = Some((at, now));
                family.failed = 0;
                family.backoff_until = None;
            }
            None => {
                let factor = 1 << family.failed.min(BACKOFF_DOUBLINGS);
                family.backoff_until = Some(now + BACKOFF * factor);
                family.failed = family.failed.saturating_add(1);
            }
        }
    }

    /// Whether web servers are to be asked for our IPv4 address: STUN said nothing, and the
    /// interface's is of no use.
    pub(crate) fn wants_http(&self) -> bool {
        let [family, _] = &self.families;
        let wanted = self.sources.wanted.first() == Some(&true);
        let bogon = family.local.is_some_and(is_bogon);
        let known = family.reflection.is_some() || family.by_http.is_some();
        self.sources.http && wanted && bogon && !known && !self.sources.http_urls.is_empty()
    }

    /// Our IPv4 address is needed and unknown, and nobody may be asked for it.
    pub(crate) fn is_helpless(&self) -> bool {
        let [family, _] = &self.families;
        let wanted = self.sources.wanted.first() == Some(&true);
        let private = family.local.is_some_and(is_bogon) && self.reflected(false).is_none();
        wanted && private && !self.is_asked_for(false)
    }

    /// A web server's word.
    pub(crate) fn http_said(&mut self, ip: IpAddr) {
        self.family_mut(false).by_http = Some(ip);
    }

    /// No family is being waited for: one whose address cannot be the right one has been asked for.
    pub(crate) fn is_settled(&self) -> bool {
        let awaited = |ipv6| {
            let family = self.family(ipv6);
            !family.settled && family.local.is_some_and(is_bogon) && self.is_asked_for(ipv6)
        };
        !awaited(false) && !awaited(true)
    }

    /// What others say our address is.
    pub(crate) fn reflected(&self, ipv6: bool) -> Option<IpAddr> {
        let family = self.family(ipv6);
        let by_stun = family.reflection.map(|(at, _)| at.ip());
        by_stun.or(family.by_http)
    }

    /// The family can carry MEs: its address is public, reflected or configured.
    ///
    /// Source: middle-proxy.md 9.1, family use.
    pub(crate) fn is_usable(&self, ipv6: bool) -> bool {
        let configured = self.sources.wanted.get(usize::from(ipv6)) == Some(&false);
        let local = self.family(ipv6).local;
        let public = local.is_some_and(|ip| !is_bogon(ip));
        configured || public || (local.is_some() && self.reflected(ipv6).is_some())
    }

    /// Forgets failed rounds and who answered, not what they said; a running back-off goes on
    /// (middle-proxy.md 23).
    pub(crate) fn reset(&mut self) {
        for family in &mut self.families {
            family.failed = 0;
            family.live.clear();
        }
    }

    /// For the control API.
    pub(crate) fn status(&self, now: Instant) -> NatStatus {
        let probed = [false, true].map(|ipv6| self.is_probed(ipv6));
        let of = |ipv6: bool| Some(self.family(ipv6)).filter(|_| probed[usize::from(ipv6)]);
        let both = || [false, true].into_iter().filter_map(of);
        let failed = both().map(|family| family.failed).max().unwrap_or(0);
        let left = |family: &Family| {
            let until = family.backoff_until?;
            let left = until.saturating_duration_since(now);
            (!left.is_zero()).then_some(left)
        };
        let mut live: Vec<String> = both().flat_map(|family| family.live.clone()).collect();
        live.sort_unstable();
        live.dedup();
        let mut configured = self.sources.servers.clone();
        configured.sort_unstable();
        let age = |family: &Family| {
            let (at, since) = family.reflection?;
            Some((at, now.saturating_duration_since(since)))
        };
        let [v4, v6] = &self.families;
        NatStatus {
            enabled: self.sources.stun,
            disabled_runtime: failed >= FAILED_CEILING,
            failed_rounds: failed,
            configured,
            live,
            reflections: [age(v4), age(v6)],
            backoff_left: both().filter_map(left).max(),
        }
    }

    fn family(&self, ipv6: bool) -> &Family {
        let [v4, v6] = &self.families;
        if ipv6 { v6 } else { v4 }
    }

    fn family_mut(&mut self, ipv6: bool) -> &mut Family {
        let [v4, v6] = &mut self.families;
        if ipv6 { v6 } else { v4 }
    }
}

/// `RuntimeNatStunData` (middle-proxy.md 26.9).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NatStatus {
    /// `nat_probe_enabled`.
    pub(crate) enabled: bool,
    /// `nat_probe_disabled_runtime`: the back-off is at its ceiling.
    pub(crate) disabled_runtime: bool,
    /// `nat_probe_attempts`: failed rounds since the last success.
    pub(crate) failed_rounds: u8,
    /// `servers.configured`: sorted, each once.
    pub(crate) configured: Vec<String>,
    /// `servers.live`: sorted, each once.
    pub(crate) live: Vec<String>,
    /// `reflection`, v4 and v6, with its age.
    pub(crate) reflections: [Option<(SocketAddr, Duration)>; 2],
    /// `stun_backoff_remaining_ms`.
    pub(crate) backoff_left: Option<Duration>,
}

/// A reflection is good for so long (middle-proxy.md 9.2).
const CACHE: Duration = Duration::from_secs(600);
const BACKOFF: Duration = Duration::from_secs(60);
/// 60 s to 64 min.
const BACKOFF_DOUBLINGS: u8 = 6;
/// So many failed rounds and the back-off is at its ceiling (middle-proxy.md 26.9).
const FAILED_CEILING: u8 = 6;

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(wanted: [bool; 2]) -> NatSources {
        NatSources {
            stun: true,
            http: true,
            servers: vec!["b:1".to_owned(), "a:1".to_owned(), "c:1".to_owned()],
            concurrency: 8,
            tcp_fallback: true,
            http_urls: vec!["http://x/".to_owned()],
            wanted,
        }
    }

    fn nat() -> Nat {
        let mut nat = Nat::new(sources([true, false]));
        nat.set_local(false, Some("10.0.0.1".parse().unwrap()));
        nat
    }

    fn round(answers: &[(&str, &str)]) -> Round {
        let answers = answers.iter();
        Round {
            answers: answers
                .map(|(server, at)| ((*server).to_owned(), at.parse().unwrap()))
                .collect(),
        }
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn most_servers_win_and_the_first_of_equals() {
        for (answers, want) in [
            (&[][..], None),
            (&[("a", "1.1.1.1:5")], Some("1.1.1.1:5")),
            (
                &[("a", "1.1.1.1:5"), ("b", "2.2.2.2:6"), ("c", "2.2.2.2:7")],
                Some("2.2.2.2:6"),
            ),
            (&[("a", "1.1.1.1:5"), ("b", "2.2.2.2:6")], Some("1.1.1.1:5")),
        ] {
            assert_eq!(round(answers).winner(), want.map(|at| at.parse().unwrap()));
        }
    }

    #[test]
    fn reflections_hold_for_ten_minutes_and_then_until_there_is_another() {
        let (mut nat, start) = (nat(), Instant::now());
        assert!(nat.is_due(false, start) && !nat.is_settled());
        nat.round_ended(false, round(&[("a:1", "9.9.9.9:5")]), start);
        assert!(nat.is_settled());
        assert_eq!(nat.reflected(false), "9.9.9.9".parse().ok());
        assert!(!nat.is_due(false, start + secs(599)));
        let later = start + secs(600);
        assert!(nat.is_due(false, later));
        assert_eq!(nat.servers(false), ["a:1"]);
        nat.round_ended(false, round(&[]), later);
        assert_eq!(nat.reflected(false), "9.9.9.9".parse().ok());
        // Nothing live: all are asked again.
        assert_eq!(nat.servers(false).len(), 3);
        let status = nat.status(later + secs(10));
        assert_eq!(status.backoff_left, Some(secs(50)));
        let (at, age) = status.reflections[0].unwrap();
        assert_eq!((at.to_string().as_str(), age), ("9.9.9.9:5", secs(610)));
    }

    #[test]
    fn failed_rounds_wait_longer_and_longer() {
        let (mut nat, mut now) = (nat(), Instant::now());
        for (failed, minutes) in [1, 2, 4, 8, 16, 32, 64, 64].into_iter().enumerate() {
            let disabled = nat.status(now).disabled_runtime;
            assert_eq!(disabled, failed >= 6, "{failed}");
            nat.round_ended(false, round(&[]), now);
            let pause = secs(minutes * 60);
            assert_eq!(nat.due_at(false, now), Some(now + pause));
            now += pause;
        }
        assert_eq!(nat.status(now).failed_rounds, 8);
        nat.reset();
        assert_eq!(nat.status(now).failed_rounds, 0);
        nat.round_ended(false, round(&[]), now);
        assert_eq!(nat.due_at(false, now), Some(now + secs(60)));
        // The count is forgotten, the pause is not.
        nat.reset();
        assert!(!nat.is_due(false, now + secs(59)) && nat.is_due(false, now + secs(60)));
    }

    #[test]
    fn web_servers_are_asked_only_for_want_of_anything_else() {
        let mut nat = nat();
        assert!(nat.wants_http());
        nat.set_local(false, Some("8.8.8.8".parse().unwrap()));
        assert!(!nat.wants_http());
        nat.set_local(false, Some("10.0.0.1".parse().unwrap()));
        nat.http_said("7.7.7.7".parse().unwrap());
        assert!(!nat.wants_http());
        assert_eq!(nat.reflected(false), "7.7.7.7".parse().ok());
        nat.round_ended(false, round(&[("a:1", "9.9.9.9:5")]), Instant::now());
        assert_eq!(nat.reflected(false), "9.9.9.9".parse().ok());
    }

    #[test]
    fn web_servers_are_asked_without_stun_too_until_one_answers() {
        let now = Instant::now();
        let mut only = sources([true, false]);
        only.stun = false;
        let mut nat = Nat::new(only);
        nat.set_local(false, Some("10.0.0.1".parse().unwrap()));
        assert!(nat.is_due(false, now) && !nat.is_settled());
        assert!(nat.servers(false).is_empty());
        nat.round_ended(false, round(&[]), now);
        assert_eq!(nat.due_at(false, now), Some(now + secs(60)));
        nat.http_said("7.7.7.7".parse().unwrap());
        assert_eq!((nat.due_at(false, now), nat.is_settled()), (None, true));
    }

    #[test]
    fn nobody_is_asked_what_is_known_or_switched_off() {
        let now = Instant::now();
        let mut off = sources([true, true]);
        (off.stun, off.http) = (false, false);
        for sources in [sources([false, false]), off] {
            let helpless = sources.wanted[0];
            let mut nat = Nat::new(sources);
            nat.set_local(false, Some("10.0.0.1".parse().unwrap()));
            assert_eq!((nat.due_at(false, now), nat.is_settled()), (None, true));
            assert_eq!(nat.is_helpless(), helpless);
        }
        // Without an interface there is nobody to ask.
        let mut nat = Nat::new(sources([true, true]));
        assert!(nat.is_settled());
        assert_eq!(nat.due_at(true, now), None);
        nat.set_local(true, Some("2a00::1".parse().unwrap()));
        assert!(nat.is_due(true, now) && nat.is_settled());
        nat.set_local(true, Some("fe80::1".parse().unwrap()));
        assert!(!nat.is_settled());
    }

    #[test]
    fn family_is_usable_by_public_reflected_or_configured_address() {
        let mut nat = Nat::new(sources([true, false]));
        assert!(!nat.is_usable(false) && nat.is_usable(true));
        nat.set_local(false, Some("10.0.0.1".parse().unwrap()));
        assert!(!nat.is_usable(false));
        nat.http_said("7.7.7.7".parse().unwrap());
        assert!(nat.is_usable(false));
        nat.set_local(false, None);
        assert!(!nat.is_usable(false));
        nat.set_local(false, Some("8.8.8.8".parse().unwrap()));
        assert!(nat.is_usable(false));
    }
}
