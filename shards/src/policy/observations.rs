//! Which addresses failed to become clients, how often and how (`general.beobachten`).
//!
//! Bounded in number and in age; what finds no room is counted. Not here: the file it is written
//! to.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
};

use crate::{
    control::{Observation, Observations},
    counters::BadClass,
};

/// What one shard saw.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    rows: HashMap<(IpAddr, BadClass), Seen>,
    dropped_total: u64,
    /// Unix time of the last walk for old rows: a full table is not walked for every connection.
    tidied_at: u64,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    count: u64,
    first: u64,
    last: u64,
}

/// Rows of one shard: about a mebibyte.
const ROWS_MAX: usize = 16_384;
/// Pause between two walks over a full table.
const TIDY_EVERY_SECS: u64 = 10;

impl Observed {
    /// Notes a connection that ended badly; rows older than `keep_secs` make room.
    pub(crate) fn note(&mut self, from: IpAddr, class: BadClass, keep_secs: u64, now: u64) {
        let full = self.rows.len() >= ROWS_MAX;
        if full && now >= self.tidied_at.saturating_add(TIDY_EVERY_SECS) {
            self.tidy(keep_secs, now);
        }
        let full = self.rows.len() >= ROWS_MAX;
        match self.rows.entry((from, class)) {
            Entry::Occupied(mut row) => {
                let seen = row.get_mut();
                seen.count += 1;
                seen.last = now;
            }
            Entry::Vacant(_) if full => self.dropped_total += 1,
            Entry::Vacant(row) => {
                row.insert(Seen {
                    count: 1,
                    first: now,
                    last: now,
                });
            }
        }
    }

    fn tidy(&mut self, keep_secs: u64, now: u64) {
        self.tidied_at = now;
        self.rows
            .retain(|_, seen| now.saturating_sub(seen.last) <= keep_secs);
    }

    /// A copy of everything not too old.
    pub(crate) fn rows(&mut self, keep_secs: u64, now: u64) -> Observations {
        self.tidy(keep_secs, now);
        let row = |(&(from, class), seen): (&(IpAddr, BadClass), &Seen)| Observation {
            from,
            class,
            count: seen.count,
            first_seen_epoch_secs: seen.first,
            last_seen_epoch_secs: seen.last,
        };
        Observations {
            dropped_total: self.dropped_total,
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ip(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn rows_are_by_address_and_class_and_grow_old() {
        let mut observed = Observed::default();
        observed.note(ip(1), BadClass::NotOurs, 60, 100);
        observed.note(ip(1), BadClass::NotOurs, 60, 110);
        observed.note(ip(1), BadClass::Timeout, 60, 111);
        observed.note(ip(2), BadClass::NotOurs, 60, 170);
        assert_eq!(observed.rows(60, 170).rows.len(), 3);
        let left = observed.rows(60, 171).rows;
        assert_eq!(left.len(), 2);
        let timeout = left.iter().find(|row| row.class == BadClass::Timeout);
        assert_eq!(timeout.unwrap().count, 1);
    }

    #[test]
    fn a_full_table_counts_what_it_drops_until_rows_are_old() {
        let mut observed = Observed::default();
        let most = u32::try_from(ROWS_MAX).unwrap();
        for n in 0..most + 5 {
            observed.note(ip(n), BadClass::NotOurs, 60, 100);
        }
        let now = observed.rows(60, 100);
        assert_eq!((now.rows.len(), now.dropped_total), (ROWS_MAX, 5));
        observed.note(ip(most + 9), BadClass::NotOurs, 60, 200);
        assert_eq!(observed.rows(60, 200).rows.len(), 1);
    }
}
