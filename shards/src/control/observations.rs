//! Addresses that failed to become clients, as shards report them.

use std::{collections::HashMap, net::IpAddr};

use crate::counters::BadClass;

/// What shards saw of connections that ended badly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observations {
    /// Connections that found no room in the table.
    pub dropped_total: u64,
    /// In no order.
    pub rows: Vec<Observation>,
}

/// One address and one way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Where the connections came from.
    pub from: IpAddr,
    /// How they ended.
    pub class: BadClass,
    /// How many.
    pub count: u64,
    /// Unix time of the first.
    pub first_seen_epoch_secs: u64,
    /// Unix time of the last.
    pub last_seen_epoch_secs: u64,
}

impl Observations {
    /// Takes another shard's rows in; afterwards rows are sorted by address and class.
    pub fn merge(&mut self, other: Self) {
        self.dropped_total = self.dropped_total.saturating_add(other.dropped_total);
        let mut rows: HashMap<(IpAddr, BadClass), Observation> = HashMap::new();
        for row in self.rows.drain(..).chain(other.rows) {
            rows.entry((row.from, row.class))
                .and_modify(|same| {
                    same.count = same.count.saturating_add(row.count);
                    same.first_seen_epoch_secs =
                        same.first_seen_epoch_secs.min(row.first_seen_epoch_secs);
                    same.last_seen_epoch_secs =
                        same.last_seen_epoch_secs.max(row.last_seen_epoch_secs);
                })
                .or_insert(row);
        }
        self.rows = rows.into_values().collect();
        self.rows
            .sort_unstable_by_key(|row| (row.from, row.class as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_address_and_class_become_one() {
        let row = |last: u8, seen| Observation {
            from: [10, 0, 0, last].into(),
            class: BadClass::NotOurs,
            count: 2,
            first_seen_epoch_secs: seen,
            last_seen_epoch_secs: seen,
        };
        let mut total = Observations {
            rows: vec![row(2, 5), row(1, 7)],
            ..Observations::default()
        };
        total.merge(Observations {
            dropped_total: 1,
            rows: vec![row(2, 3)],
        });
        assert_eq!(total.dropped_total, 1);
        let both = Observation {
            count: 4,
            first_seen_epoch_secs: 3,
            ..row(2, 5)
        };
        assert_eq!(total.rows, [row(1, 7), both]);
    }
}
