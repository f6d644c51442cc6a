//! All shards' latest reports, read as one.

use std::net::SocketAddr;

use super::super::report::{Report, WriterRow, WriterState};
use super::groups::Group;

/// The reports, in shard order.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    reports: &'a [Report],
}

impl<'a> View<'a> {
    pub(super) fn new(reports: &'a [Report]) -> Self {
        Self { reports }
    }

    /// Every writer with its shard.
    pub(super) fn writers(self) -> impl Iterator<Item = (usize, &'a WriterRow)> {
        let of = |(shard, report): (usize, &'a Report)| {
            report.writers.iter().map(move |row| (shard, row))
        };
        self.reports.iter().enumerate().flat_map(of)
    }

    /// Active writers of a group at its current endpoints.
    pub(super) fn active_of(self, group: &Group) -> impl Iterator<Item = (usize, &'a WriterRow)> {
        self.writers()
            .filter(|(_, row)| row.state == WriterState::Active && group.has(row.dc, &row.endpoint))
    }

    /// How many active writers of one family a group has at its current endpoints.
    pub(super) fn alive(self, group: &Group, ipv6: bool) -> u32 {
        let of_family = self
            .active_of(group)
            .filter(|(_, row)| row.endpoint.is_ipv6() == ipv6);
        count(of_family)
    }

    /// Writers in a state, of the whole process.
    pub(super) fn in_state(self, state: WriterState) -> u32 {
        count(self.writers().filter(|(_, row)| row.state == state))
    }

    /// A group has a writer that is not draining, warm ones included, at an endpoint of its map.
    pub(super) fn is_served(self, dc: i16, endpoints: &[SocketAddr]) -> bool {
        self.writers().any(|(_, row)| {
            row.dc == dc
                && !row.state.is_draining()
                && endpoints.binary_search(&row.endpoint).is_ok()
        })
    }

    /// Every shard with a share has a writer of the group that counts as fresh.
    pub(super) fn is_covered(
        self,
        group: &Group,
        shares: &[u32],
        mut fresh: impl FnMut(&WriterRow) -> bool,
    ) -> bool {
        let mut covered = vec![false; shares.len()];
        for (shard, row) in self.writers() {
            let counts = !row.state.is_draining() && group.has(row.dc, &row.endpoint);
            if let Some(covered) = covered.get_mut(shard).filter(|_| counts) {
                *covered |= fresh(row);
            }
        }
        let with_share = shares.iter().zip(covered).filter(|(share, _)| **share > 0);
        with_share.into_iter().all(|(_, covered)| covered)
    }

    /// Every shard has said something under a plan at least this new, and `over` of it.
    pub(super) fn all(self, plan: u64, mut over: impl FnMut(&Report) -> bool) -> bool {
        self.reports
            .iter()
            .all(|report| report.plan >= plan && over(report))
    }
}

pub(super) fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
