//! Address families: which are in use, and when one is given a rest.
//!
//! ```text
//!   Healthy --bad--> Degraded --5 bad in a row--> Suppressed (60 s)
//!      ^                 ^  \--good--> Recovering <--good--/
//!      |                 \------bad------/ |
//!      \------------2 good in a row--------/
//! ```
//!
//! Source: middle-proxy.md 11.1 and 24.1.

use std::time::Duration;

use super::super::Millis;
use super::status::FamilyStatus;
use crate::settings::FamilySettings;

/// Where a family stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyState {
    /// Every group has a writer.
    #[default]
    Healthy,
    /// Some group has none.
    Degraded,
    /// Not used for a while, if another family can do.
    Suppressed,
    /// Good again, but not for long.
    Recovering,
}

impl FamilyState {
    /// The contract's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Suppressed => "suppressed",
            Self::Recovering => "recovering",
        }
    }
}

/// Both families; index 0 is IPv4, 1 is IPv6.
#[derive(Clone, Debug, Default)]
pub(crate) struct Families {
    of: [Family; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Family {
    state: FamilyState,
    since: Millis,
    suppressed_until: Option<Millis>,
    fail_streak: u32,
    recover_streak: u32,
    /// Since when it is in use.
    used_since: Option<Millis>,
}

impl Families {
    /// Which families' endpoints make the floors. `mapped`: which have any endpoint at all.
    ///
    /// One whose map is empty is never preferred to one that has endpoints [ours].
    pub(crate) fn in_use(
        &self,
        settings: &FamilySettings,
        mapped: [bool; 2],
        now: Millis,
    ) -> [bool; 2] {
        let enabled = enabled(settings);
        let mut able = [0, 1].map(|at| enabled[at] && mapped[at]);
        if able == [false; 2] {
            able = enabled;
        }
        let rested = [0, 1].map(|at| able[at] && !self.of[at].is_suppressed(now));
        if rested != [false; 2] {
            able = rested;
        } else if settings.multipath {
            return able;
        }
        if settings.multipath || able != [true; 2] {
            return able;
        }
        [!settings.prefer_ipv6, settings.prefer_ipv6]
    }

    /// A suppression is running for an enabled family.
    pub(crate) fn any_suppressed(&self, settings: &FamilySettings, now: Millis) -> bool {
        let enabled = enabled(settings);
        [0, 1]
            .into_iter()
            .any(|at| enabled[at] && self.of[at].is_suppressed(now))
    }

    /// The earliest end of a suppression that is still running.
    pub(crate) fn deadline(&self, now: Millis) -> Option<Millis> {
        let running = |family: &Family| family.suppressed_until.filter(|until| *until > now);
        self.of.iter().filter_map(running).min()
    }

    /// Which families are in use from now on.
    pub(crate) fn set_in_use(&mut self, in_use: [bool; 2], now: Millis) {
        for (family, used) in self.of.iter_mut().zip(in_use) {
            family.used_since = used.then_some(family.used_since.unwrap_or(now));
        }
    }

    /// The result of a health tick for a family in use. Returns the new state if it changed.
    ///
    /// One that has just come into use has no writers yet, and is not called bad for it [ours]: a
    /// suppressed one would never return.
    pub(crate) fn tick(&mut self, ipv6: bool, bad: bool, now: Millis) -> Option<FamilyState> {
        let family = &mut self.of[usize::from(ipv6)];
        let new = family
            .used_since
            .is_none_or(|since| since.after(ARRIVAL) > now);
        if bad && new {
            return None;
        }
        let before = family.state;
        family.tick(bad, now);
        if family.state == before {
            return None;
        }
        family.since = now;
        Some(family.state)
    }

    /// For the API.
    pub(crate) fn status(&self, in_use: [bool; 2]) -> [FamilyStatus; 2] {
        [0, 1].map(|at| {
            let family = &self.of[at];
            FamilyStatus {
                ipv6: at == 1,
                state: family.state,
                since: family.since,
                suppressed_until: family.suppressed_until,
                fail_streak: family.fail_streak,
                recover_success_streak: family.recover_streak,
                in_use: in_use[at],
            }
        })
    }
}

impl Family {
    fn is_suppressed(&self, now: Millis) -> bool {
        self.suppressed_until.is_some_and(|until| until > now)
    }

    fn tick(&mut self, bad: bool, now: Millis) {
        if bad {
            self.fail_streak = self.fail_streak.saturating_add(1);
        }
        if self.is_suppressed(now) {
            return;
        }
        match (bad, self.state) {
            (true, _) => {
                self.recover_streak = 0;
                let rest = self.fail_streak >= FAILS_TO_SUPPRESS;
                self.suppressed_until = rest.then(|| now.after(SUPPRESSION));
                self.state = match rest {
                    true => FamilyState::Suppressed,
                    false => FamilyState::Degraded,
                };
            }
            (false, FamilyState::Healthy) => {
                self.fail_streak = 0;
                self.recover_streak = 0;
            }
            (false, FamilyState::Degraded | FamilyState::Suppressed | FamilyState::Recovering) => {
                self.suppressed_until = None;
                self.fail_streak = 0;
                self.recover_streak += 1;
                self.state = FamilyState::Recovering;
                if self.recover_streak >= GOODS_TO_RECOVER {
                    self.recover_streak = 0;
                    self.state = FamilyState::Healthy;
                }
            }
        }
    }
}

fn enabled(settings: &FamilySettings) -> [bool; 2] {
    [settings.ipv4, settings.ipv6]
}

const FAILS_TO_SUPPRESS: u32 = 5;
const GOODS_TO_RECOVER: u32 = 2;
/// Enough for a round of fast dials after a tick.
const ARRIVAL: Duration = Duration::from_secs(5);
const SUPPRESSION: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(multipath: bool) -> FamilySettings {
        FamilySettings {
            ipv6: true,
            multipath,
            ..FamilySettings::default()
        }
    }

    /// Ticks of one second: `b`ad and `g`ood.
    fn after(ticks: &str) -> (Families, FamilyStatus) {
        let mut families = Families::default();
        families.set_in_use([true, true], Millis(0));
        for (at, tick) in ticks.chars().enumerate() {
            families.tick(false, tick == 'b', Millis(10_000 + at as u64 * 1_000));
        }
        let status = families.status([true, false])[0];
        (families, status)
    }

    #[test]
    fn states_follow_the_table() {
        use FamilyState::{Degraded, Healthy, Recovering, Suppressed};
        for (ticks, state, fails, goods) in [
            ("", Healthy, 0, 0),
            ("ggg", Healthy, 0, 0),
            ("b", Degraded, 1, 0),
            ("bbbb", Degraded, 4, 0),
            ("bbbbb", Suppressed, 5, 0),
            ("bbbbbb", Suppressed, 6, 0),
            ("bbbbbgg", Suppressed, 5, 0),
            ("bg", Recovering, 0, 1),
            ("bgb", Degraded, 1, 0),
            ("bgg", Healthy, 0, 0),
            ("bbbgbbbb", Degraded, 4, 0),
        ] {
            let (_, status) = after(ticks);
            assert_eq!(status.state, state, "{ticks}");
            let streaks = (status.fail_streak, status.recover_success_streak);
            assert_eq!(streaks, (fails, goods), "{ticks}");
            assert_eq!(status.suppressed_until.is_some(), state == Suppressed);
        }
        let (mut families, status) = after("bbbbb");
        assert_eq!(status.suppressed_until, Some(Millis(74_000)));
        assert_eq!(status.since, Millis(14_000));
        families.tick(false, true, Millis(74_000));
        assert_eq!(
            families.status([true; 2])[0].suppressed_until,
            Some(Millis(134_000))
        );
        families.tick(false, false, Millis(134_000));
        assert_eq!(families.status([true; 2])[0].state, Recovering);
        assert_eq!(families.status([true; 2])[0].suppressed_until, None);
    }

    #[test]
    fn one_family_is_in_use_or_all_that_work() {
        let both = [true, true];
        let (healthy, _) = after("");
        let (suppressed, _) = after("bbbbb");
        let now = Millis(20_000);
        let used = |families: &Families, multipath, mapped| {
            families.in_use(&settings(multipath), mapped, now)
        };
        assert_eq!(used(&healthy, false, both), [true, false]);
        assert_eq!(used(&healthy, true, both), both);
        assert_eq!(used(&suppressed, false, both), [false, true]);
        assert_eq!(used(&suppressed, true, both), [false, true]);
        assert_eq!(
            used(&suppressed, false, [true, false]),
            [true, false],
            "the only one"
        );
        assert_eq!(
            used(&healthy, false, [false, true]),
            [false, true],
            "no IPv4 map"
        );
        let sixth = FamilySettings {
            prefer_ipv6: true,
            ..settings(false)
        };
        assert_eq!(healthy.in_use(&sixth, both, now), [false, true]);
        assert!(suppressed.any_suppressed(&sixth, now));
        assert!(!suppressed.any_suppressed(&sixth, Millis(74_000)));
    }

    #[test]
    fn a_newcomer_is_not_called_bad() {
        let mut families = Families::default();
        families.set_in_use([true, false], Millis(0));
        assert_eq!(families.tick(false, true, Millis(4_999)), None);
        assert_eq!(families.status([true, false])[0].fail_streak, 0);
        assert!(families.tick(false, true, Millis(5_000)).is_some());
    }
}
