//! Which addresses each user's sessions of this shard come from.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use crate::{
    control::UserIpRow,
    policy::{Millis, users::UserId},
};

/// Live and recent source addresses by user.
#[derive(Debug, Default)]
pub(super) struct Sources {
    rows: HashMap<(UserId, IpAddr), Row>,
    /// Rows without a live session; counted so that tidying is not done in vain.
    idle: usize,
    tidied: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    active: u32,
    last_seen: Millis,
}

/// Idle rows kept at least; beyond, those out of the window go, and beyond four times as many all.
const IDLE_MAX: usize = 4096;
/// Pause between two walks over all rows, milliseconds: most may be within the window.
const TIDY_EVERY_MS: u64 = 1_000;

impl Sources {
    /// A session began.
    pub(super) fn open(&mut self, user: UserId, ip: IpAddr, now: Millis) {
        let row = self.rows.entry((user, ip)).or_insert_with(|| {
            self.idle += 1;
            Row {
                active: 0,
                last_seen: now,
            }
        });
        if row.active == 0 {
            self.idle -= 1;
        }
        row.active += 1;
        row.last_seen = now;
    }

    /// A session ended.
    pub(super) fn close(&mut self, user: UserId, ip: IpAddr, now: Millis, window: Duration) {
        if let Some(row) = self.rows.get_mut(&(user, ip)) {
            row.active = row.active.saturating_sub(1);
            row.last_seen = now;
            if row.active == 0 {
                self.idle += 1;
                let due = self.idle > IDLE_MAX && now.since(self.tidied) >= TIDY_EVERY_MS;
                if due || self.idle > 4 * IDLE_MAX {
                    self.tidy(now, window);
                }
            }
        }
    }

    /// Users are gone, and their sessions with them.
    pub(super) fn forget(&mut self, users: &HashSet<UserId>) {
        self.rows.retain(|(user, _), _| !users.contains(user));
        self.idle = self.rows.values().filter(|row| row.active == 0).count();
    }

    /// Live rows, and idle ones within the window.
    pub(super) fn rows(&mut self, now: Millis, window: Duration) -> Vec<UserIpRow> {
        self.tidy(now, window);
        let row = |(key, row): (&(UserId, IpAddr), &Row)| UserIpRow {
            user: key.0.0,
            ip: key.1,
            active: row.active,
            idle_ms: if row.active > 0 {
                0
            } else {
                now.since(row.last_seen)
            },
        };
        self.rows.iter().map(row).collect()
    }

    fn tidy(&mut self, now: Millis, window: Duration) {
        self.tidied = now;
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self.rows
            .retain(|_, row| row.active > 0 || now.since(row.last_seen) <= window);
        self.idle = self.rows.values().filter(|row| row.active == 0).count();
        // All within the window: the memory is bounded all the same.
        if self.idle > 4 * IDLE_MAX {
            self.rows.retain(|_, row| row.active > 0);
            self.idle = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    #[test]
    fn lists_live_addresses_and_those_of_the_window() {
        let mut sources = Sources::default();
        let (a, b): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        sources.open(UserId(1), a, Millis(0));
        sources.open(UserId(1), a, Millis(10));
        sources.open(UserId(1), b, Millis(10));
        sources.close(UserId(1), a, Millis(20), WINDOW);
        sources.close(UserId(1), b, Millis(1_000), WINDOW);
        let mut rows = sources.rows(Millis(2_000), WINDOW);
        rows.sort_by_key(|row| row.ip);
        assert_eq!(
            rows.iter()
                .map(|row| (row.active, row.idle_ms))
                .collect::<Vec<_>>(),
            [(1, 0), (0, 1_000)]
        );
        assert_eq!(sources.rows(Millis(31_001), WINDOW).len(), 1);
    }

    #[test]
    fn closing_walks_over_all_rows_now_and_then_only() {
        let mut sources = Sources::default();
        for index in 0..3 * IDLE_MAX as u32 {
            let ip = IpAddr::V4(index.into());
            sources.open(UserId(0), ip, Millis(5_000));
            sources.close(UserId(0), ip, Millis(5_000 + u64::from(index % 2)), WINDOW);
        }
        assert_eq!(sources.tidied, Millis(5_000));
        sources.open(UserId(0), [192, 0, 2, 1].into(), Millis(60_000));
        sources.close(UserId(0), [192, 0, 2, 1].into(), Millis(60_000), WINDOW);
        assert_eq!(sources.rows.len(), 1);
    }

    #[test]
    fn memory_is_bounded_under_churn_of_addresses() {
        let mut sources = Sources::default();
        for index in 0..100_000_u32 {
            let ip = IpAddr::V4(index.into());
            sources.open(UserId(0), ip, Millis(1));
            sources.close(UserId(0), ip, Millis(1), WINDOW);
        }
        assert!(sources.rows.len() <= 4 * IDLE_MAX + 1);
    }
}
