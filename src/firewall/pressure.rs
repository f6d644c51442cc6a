//! Whether the host is short of room for connections, and what that shortens. Pure.
//!
//! Source: config.md 9.

use std::time::{Duration, Instant};

use shards::control::{CloseEvents, Pressure};

use crate::config::server::{Conntrack, ConntrackProfile};

/// How much of each kind of room is used, percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signs {
    /// Client connections of those there may be.
    pub(super) connections: u64,
    /// Open files of those there may be.
    pub(super) files: u64,
    /// Ends of connections that nobody has looked at.
    pub(super) queue: u64,
}

impl Signs {
    fn most(self) -> u64 {
        self.connections.max(self.files).max(self.queue)
    }
}

/// Percent that `used` is of `max`.
pub(super) fn percent(used: usize, max: usize) -> u64 {
    let (used, max) = (used as u128, (max as u128).max(1));
    u64::try_from(used * 100 / max).unwrap_or(u64::MAX)
}

/// Goes up at one mark and down at another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gauge {
    high: u64,
    low: u64,
    active: bool,
    /// Since when all signs are at the low mark or below.
    quiet_since: Option<Instant>,
}

/// So long all must be quiet.
const QUIET: Duration = Duration::from_secs(3);

impl Gauge {
    /// Calm, with the marks of the configuration.
    pub(super) fn new(conntrack: &Conntrack) -> Self {
        Self {
            high: u64::from(conntrack.pressure_high_watermark_pct),
            low: u64::from(conntrack.pressure_low_watermark_pct),
            active: false,
            quiet_since: None,
        }
    }

    /// Whether there is pressure now.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Takes in how things are; true when that changes [`Self::is_active`].
    pub(super) fn look(&mut self, signs: Signs, now: Instant) -> bool {
        let before = self.active;
        let most = signs.most();
        if most >= self.high {
            self.active = true;
        }
        if most > self.low {
            self.quiet_since = None;
        } else {
            let since = *self.quiet_since.get_or_insert(now);
            if now.saturating_duration_since(since) >= QUIET {
                self.active = false;
            }
        }
        before != self.active
    }
}

/// The limits of a profile.
pub(super) fn limits(profile: ConntrackProfile, closed: Option<CloseEvents>) -> Pressure {
    let (first_byte, idle, me_soft, me_hard) = match profile {
        ConntrackProfile::Conservative => (30, 180, 60, 180),
        ConntrackProfile::Balanced => (20, 120, 30, 90),
        ConntrackProfile::Aggressive => (10, 60, 20, 60),
    };
    let secs = Duration::from_secs;
    Pressure {
        first_byte: secs(first_byte),
        idle: secs(idle),
        me_soft: secs(me_soft),
        me_hard: secs(me_hard),
        closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(high: u64, low: u64) -> Gauge {
        Gauge {
            high,
            low,
            active: false,
            quiet_since: None,
        }
    }

    fn signs(connections: u64) -> Signs {
        Signs {
            connections,
            ..Signs::default()
        }
    }

    #[test]
    fn begins_at_the_high_mark_and_ends_after_three_quiet_seconds() {
        let began = Instant::now();
        let at = |secs: u64| began + Duration::from_secs(secs);
        let mut gauge = gauge(85, 70);
        assert!(!gauge.look(signs(84), at(0)));
        assert!(gauge.look(signs(85), at(1)));
        assert!(!gauge.look(signs(71), at(2)) && gauge.is_active());
        assert!(!gauge.look(signs(70), at(3)));
        assert!(!gauge.look(signs(60), at(5)));
        // Not quiet any more: from the beginning.
        assert!(!gauge.look(signs(75), at(6)));
        assert!(!gauge.look(signs(70), at(7)) && gauge.is_active());
        assert!(gauge.look(signs(0), at(10)) && !gauge.is_active());
    }

    #[test]
    fn any_sign_is_enough_and_all_must_be_quiet() {
        let began = Instant::now();
        for signs in [
            Signs {
                connections: 85,
                files: 0,
                queue: 0,
            },
            Signs {
                connections: 0,
                files: 85,
                queue: 0,
            },
            Signs {
                connections: 0,
                files: 0,
                queue: 85,
            },
        ] {
            let mut gauge = gauge(85, 70);
            assert!(gauge.look(signs, began));
            assert!(!gauge.look(signs, began + QUIET * 2), "not quiet");
        }
    }

    #[test]
    fn percents_of_odd_bounds() {
        assert_eq!(percent(5, 10), 50);
        assert_eq!(percent(5, 0), 500);
        assert_eq!(percent(usize::MAX, usize::MAX), 100);
    }
}
