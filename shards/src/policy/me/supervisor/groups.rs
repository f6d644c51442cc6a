//! DC groups: what the families in use leave of the map, their floors and shares, and what is
//! remembered of each.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use super::super::{
    super::Millis,
    floor::{Caps, Class, Demand, Floor, Floors, shares},
    refresh::Map,
    report::Report,
};
use super::view::{View, count};
use crate::settings::MeSettings;

/// All groups with endpoints in a family in use, ascending by DC.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    pub(super) rows: Vec<Group>,
    pub(super) caps: Caps,
    pub(super) spread: bool,
    /// `active_cap_effective`.
    pub(super) cap: u32,
    uses: BTreeMap<i16, Use>,
}

/// One group.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) dc: i16,
    /// Sorted, without doubles.
    pub(super) endpoints: Arc<[SocketAddr]>,
    pub(super) floor: Floor,
    /// By shard: the target given out, without what is grown.
    pub(super) given: Vec<u32>,
    /// By shard: writers beyond the target, for the many sessions there.
    pub(super) grown: Vec<u32>,
}

/// How a group is used, whatever becomes of its endpoints.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    /// Since when it has had no sessions; `None` while it has.
    idle_since: Option<Millis>,
    last_bind: Option<Millis>,
}

impl Groups {
    /// Cuts the map down to the families in use; floors follow with [`fit`](Self::fit).
    pub(super) fn rebuild(&mut self, map: &Map, in_use: [bool; 2], shards: usize) {
        let mut before: BTreeMap<i16, Group> =
            self.rows.drain(..).map(|row| (row.dc, row)).collect();
        for (&dc, endpoints) in map {
            let used = endpoints
                .iter()
                .filter(|endpoint| in_use[usize::from(endpoint.is_ipv6())]);
            let used: Arc<[SocketAddr]> = used.copied().collect();
            if used.is_empty() {
                continue;
            }
            let grown = before.remove(&dc).map(|row| row.grown);
            self.rows.push(Group {
                dc,
                endpoints: used,
                floor: Floor {
                    dc,
                    base: 0,
                    required: 0,
                    min: 0,
                    max: 0,
                    target: 0,
                    capped: false,
                },
                given: vec![0; shards],
                grown: grown.unwrap_or_else(|| vec![0; shards]),
            });
        }
    }

    /// Recomputes caps, floors, targets and shares.
    pub(super) fn fit(
        &mut self,
        settings: &MeSettings,
        cores: u32,
        reports: &[Report],
        now: Millis,
    ) {
        let view = View::new(reports);
        let floor = &settings.floor;
        self.caps = Caps::of(floor, cores);
        self.note_uses(reports, now);
        let demand = |group: &Group| {
            let used = self.uses.get(&group.dc).copied().unwrap_or_default();
            let idle = used.idle_since.map(|since| since.after(floor.idle));
            let recent = used.last_bind.map(|at| at.after(floor.recover_grace));
            Demand {
                dc: group.dc,
                class: Class::of(settings, group.endpoints.len(), self.caps.cores),
                idle: idle.is_some_and(|due| due <= now),
                recent: recent.is_some_and(|until| until > now),
                excess: i64::from(count(view.active_of(group))) - i64::from(group.floor.target),
            }
        };
        let demands: Vec<Demand> = self.rows.iter().map(demand).collect();
        let shards = reports.len();
        let count = u32::try_from(shards).unwrap_or(u32::MAX);
        let floors = Floors::of(&demands, &self.caps, count, floor.adaptive);
        self.spread = floors.spread;
        self.cap = floors.cap;
        for (row, floor) in self.rows.iter_mut().zip(floors.groups) {
            row.floor = floor;
            row.given = shares(row.dc, floor.target, shards);
        }
        self.trim_growth();
    }

    /// One more writer on a shard whose writers of a group are all full, if floors and cap allow.
    pub(super) fn grow(&mut self, reports: &[Report]) {
        let view = View::new(reports);
        let mut total = self.wanted();
        for row in &mut self.rows {
            let mut crowded = vec![(0_u32, true); row.given.len()];
            for (shard, writer) in view.active_of(row) {
                if let Some((writers, full)) = crowded.get_mut(shard) {
                    *writers += 1;
                    *full &= writer.bound_clients >= SESSIONS_FULL || writer.busy;
                }
            }
            let full = crowded
                .iter()
                .enumerate()
                .position(|(shard, &(writers, full))| {
                    full && writers > 0 && writers >= row.share(shard)
                });
            if let Some(shard) = full
                && row.wanted() < row.floor.max
                && total < self.caps.active
                && let Some(grown) = row.grown.get_mut(shard)
            {
                *grown += 1;
                total += 1;
            }
        }
    }

    /// Takes growth back where a writer of the shard had no clients for `idle`.
    pub(super) fn shrink(&mut self, reports: &[Report], idle: Duration, now: Millis) {
        let view = View::new(reports);
        for row in self.rows.iter_mut() {
            if row.grown.iter().all(|grown| *grown == 0) {
                continue;
            }
            let aged = |since: Millis| since.after(idle) <= now;
            let quiet = view
                .active_of(row)
                .filter(|(_, writer)| writer.idle_since.is_some_and(aged));
            let quiet: Vec<usize> = quiet.map(|(shard, _)| shard).collect();
            for (shard, grown) in row.grown.iter_mut().enumerate() {
                if *grown > 0 && quiet.contains(&shard) {
                    *grown -= 1;
                }
            }
        }
    }

    /// Targets and growth of all groups together.
    pub(super) fn wanted(&self) -> u32 {
        self.rows.iter().map(Group::wanted).sum()
    }

    /// `R(e)` of all groups together.
    pub(super) fn base(&self) -> u32 {
        self.rows.iter().map(|row| row.floor.base).sum()
    }

    /// The group of a DC.
    pub(super) fn get(&self, dc: i16) -> Option<&Group> {
        let at = self.rows.binary_search_by_key(&dc, |row| row.dc);
        self.rows.get(at.ok()?)
    }

    fn note_uses(&mut self, reports: &[Report], now: Millis) {
        let mut sessions: BTreeMap<i16, u32> = BTreeMap::new();
        for used in reports.iter().flat_map(|report| &report.groups) {
            *sessions.entry(used.dc).or_default() += used.sessions;
            let kept = self.uses.entry(used.dc).or_default();
            kept.last_bind = kept.last_bind.max(used.last_bind);
        }
        let known: Vec<i16> = self.rows.iter().map(|row| row.dc).collect();
        self.uses.retain(|dc, _| known.binary_search(dc).is_ok());
        for dc in known {
            let kept = self.uses.entry(dc).or_default();
            let quiet = sessions.get(&dc).is_none_or(|count| *count == 0);
            kept.idle_since = quiet.then_some(kept.idle_since.unwrap_or(now));
        }
    }

    /// Growth gives way where settings no longer allow it.
    fn trim_growth(&mut self) {
        let mut over = self.wanted().saturating_sub(self.cap.max(self.caps.active));
        for row in &mut self.rows {
            let mut beyond = row.wanted().saturating_sub(row.floor.max);
            for grown in &mut row.grown {
                let gives = beyond.max(over).min(*grown);
                *grown -= gives;
                beyond = beyond.saturating_sub(gives);
                over = over.saturating_sub(gives);
            }
        }
    }
}

impl Group {
    /// A writer of this group at one of its current endpoints.
    pub(super) fn has(&self, dc: i16, endpoint: &SocketAddr) -> bool {
        dc == self.dc && self.endpoints.binary_search(endpoint).is_ok()
    }

    /// Endpoints of one family.
    pub(super) fn endpoints_of(&self, ipv6: bool) -> impl Iterator<Item = SocketAddr> {
        let of_family = move |endpoint: &&SocketAddr| endpoint.is_ipv6() == ipv6;
        self.endpoints.iter().filter(of_family).copied()
    }

    /// The only endpoint of a family, if there is just one.
    pub(super) fn single(&self, ipv6: bool) -> Option<SocketAddr> {
        let mut endpoints = self.endpoints_of(ipv6);
        let first = endpoints.next()?;
        endpoints.next().is_none().then_some(first)
    }

    /// The part of the target that falls to one family (13).
    pub(super) fn required(&self, ipv6: bool) -> u32 {
        let all = self.endpoints.len() as u64;
        let part = count(self.endpoints_of(ipv6));
        let share = u64::from(self.floor.target) * u64::from(part);
        u32::try_from(share.div_ceil(all.max(1))).unwrap_or(u32::MAX)
    }

    /// What one shard is to have.
    pub(super) fn share(&self, shard: usize) -> u32 {
        let given = self.given.get(shard).copied().unwrap_or_default();
        given + self.grown.get(shard).copied().unwrap_or_default()
    }

    /// What every shard is to have.
    pub(super) fn shares(&self) -> Vec<u32> {
        (0..self.given.len())
            .map(|shard| self.share(shard))
            .collect()
    }

    /// Target and growth.
    pub(super) fn wanted(&self) -> u32 {
        self.floor.target + self.grown.iter().sum::<u32>()
    }
}

/// Sessions from which a writer counts as full.
const SESSIONS_FULL: u32 = 300;
