//! Clients whose stream is out of step: counted always, logged in full now and then.
//!
//! Source: middle-proxy.md 21.5.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    counters::DesyncCounters,
    policy::{Millis, users::UserId},
    proto::framing::Framing,
};

/// Who it happened to.
type Who = (UserId, IpAddr, Framing);

/// What is counted, and who was logged when.
#[derive(Debug, Default)]
pub(super) struct Desync {
    pub(super) counters: DesyncCounters,
    logged: HashMap<Who, Millis>,
    /// When a full log was written although the table is full.
    crowded: Option<Millis>,
}

/// One full log per key in so long.
const LOG_EVERY_MS: u64 = 60_000;
const LOGGED_MAX: usize = 65_536;
/// One full log for all others in so long, when the table is full.
const CROWDED_EVERY_MS: u64 = 1_000;

impl Desync {
    /// Counts a stream that broke after so many good frames; calls `log` if its turn has come.
    pub(super) fn note(&mut self, who: Who, frames: u64, all: bool, now: Millis, log: &dyn Fn()) {
        let counters = &mut self.counters;
        counters.desync_total += 1;
        let bucket = match frames {
            0 => &mut counters.desync_frames_bucket_0,
            1..=2 => &mut counters.desync_frames_bucket_1_2,
            3..=10 => &mut counters.desync_frames_bucket_3_10,
            _ => &mut counters.desync_frames_bucket_gt_10,
        };
        *bucket += 1;
        if self.may_log(who, now) || all {
            self.counters.desync_full_logged_total += 1;
            log();
        } else {
            self.counters.desync_suppressed_total += 1;
        }
    }

    fn may_log(&mut self, who: Who, now: Millis) -> bool {
        if let Some(at) = self.logged.get_mut(&who) {
            let due = now.since(*at) >= LOG_EVERY_MS;
            if due {
                *at = now;
            }
            return due;
        }
        if self.logged.len() >= LOGGED_MAX {
            self.logged.retain(|_, at| now.since(*at) < LOG_EVERY_MS);
        }
        if self.logged.len() < LOGGED_MAX {
            self.logged.insert(who, now);
            return true;
        }
        let due = self
            .crowded
            .is_none_or(|at| now.since(at) >= CROWDED_EVERY_MS);
        if due {
            self.crowded = Some(now);
        }
        due
    }
}

/// What else begins with these four bytes.
pub(super) fn looks_like(seen: [u8; 4]) -> &'static str {
    match &seen {
        [0x16, 0x03, ..] => "TLS",
        b"GET " | b"POST" | b"HEAD" | b"PUT " | b"HTTP" | b"OPTI" | b"CONN" => "HTTP",
        _ => "nothing known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_and_logged_once_a_minute() {
        let mut desync = Desync::default();
        let who = |n: u8| (UserId(1), IpAddr::from([1, 2, 3, n]), Framing::Padded);
        let logged = std::cell::Cell::new(0);
        let log = || logged.set(logged.get() + 1);
        for (n, frames, now) in [(1, 0, 0), (1, 1, 100), (2, 3, 100), (1, 11, 60_000)] {
            desync.note(who(n), frames, false, Millis(now), &log);
        }
        desync.note(who(1), 2, true, Millis(60_001), &log);
        let c = desync.counters;
        assert_eq!(logged.get(), 4);
        assert_eq!(
            (c.desync_full_logged_total, c.desync_suppressed_total),
            (4, 1)
        );
        let buckets = [
            c.desync_frames_bucket_0,
            c.desync_frames_bucket_1_2,
            c.desync_frames_bucket_3_10,
            c.desync_frames_bucket_gt_10,
        ];
        assert_eq!((buckets, c.desync_total), ([1, 2, 1, 1], 5));
    }

    #[test]
    fn crowd_of_keys_is_logged_once_a_second() {
        let mut desync = Desync::default();
        for n in 0..LOGGED_MAX as u32 {
            assert!(desync.may_log((UserId(n), [1; 4].into(), Framing::Padded), Millis(5)));
        }
        let other = |n| (UserId(n), IpAddr::from([2; 4]), Framing::Padded);
        assert!(desync.may_log(other(1), Millis(10)));
        assert!(!desync.may_log(other(2), Millis(500)));
        assert!(desync.may_log(other(3), Millis(1_010)));
        assert!(
            desync.may_log(other(4), Millis(70_000)),
            "old ones make room"
        );
    }

    #[test]
    fn knows_what_strangers_begin_with() {
        assert_eq!(looks_like([0x16, 3, 1, 2]), "TLS");
        assert_eq!(looks_like(*b"GET "), "HTTP");
        assert_eq!(looks_like([1; 4]), "nothing known");
    }
}
