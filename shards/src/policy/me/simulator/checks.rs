//! What holds at any time, after calm, and at the end.

use std::time::Duration;

use super::{
    super::{
        floor::by_family,
        report::{WriterRow, WriterState},
    },
    world::World,
};
use crate::counters::{MeCounters, PoolCounters};

impl World {
    /// Counters of all shards and the supervisor together.
    pub(super) fn totals(&self) -> (MeCounters, PoolCounters) {
        let status = self.supervisor.status(self.now);
        let (mut me, mut pool) = (status.me, status.pool);
        for shard in &self.shards {
            me.merge(&shard.pool.me_counters());
            pool.merge(&shard.pool.pool_counters());
        }
        (me, pool)
    }

    /// At any time.
    pub(super) fn check(&self) {
        let at = format!("seed {} at {} s", self.seed, self.now.0 / 1_000);
        for shard in &self.shards {
            shard.pool.check_invariants();
            let report = shard.pool.snapshot();
            assert_eq!(
                report.writers.len(),
                shard.links.len(),
                "writers and sockets, {at}"
            );
            assert_eq!(report.dials as usize, shard.dials.len(), "dials, {at}");
            let bound: u32 = report.writers.iter().map(|row| row.bound_clients).sum();
            let sessions = shard
                .sessions
                .values()
                .filter(|session| session.bound.is_some());
            assert_eq!(bound as usize, sessions.count(), "bound sessions, {at}");
        }
        self.check_identities(&at);
        self.check_caps(&at);
    }

    fn check_identities(&self, at: &str) {
        let (me, pool) = self.totals();
        assert!(
            me.reconnect_success_total <= me.reconnect_attempt_total,
            "{at}"
        );
        assert!(me.idle_close_by_peer_total <= me.reader_eof_total, "{at}");
        assert!(me.reader_eof_total <= pool.writer_removed_total, "{at}");
        assert!(
            pool.writer_removed_unexpected_total <= pool.writer_removed_total,
            "{at}"
        );
        assert!(me.keepalive_pong_total + me.keepalive_timeout_total <= me.keepalive_sent_total);
        let outage = me.single_endpoint_outage_reconnect_attempt_total;
        assert!(
            me.single_endpoint_outage_reconnect_success_total <= outage,
            "{at}"
        );
        assert!(outage <= me.reconnect_attempt_total, "{at}");
        assert!(me.single_endpoint_quarantine_bypass_total <= outage, "{at}");
        let codes = self
            .shards
            .iter()
            .flat_map(|shard| shard.pool.handshake_error_codes());
        let codes: u64 = codes.map(|(_, count)| count).sum();
        assert_eq!(codes, me.handshake_reject_total, "{at}");
        let status = self.supervisor.status(self.now);
        let outages = status.groups.iter().flat_map(|group| group.outage);
        let outages = outages.filter(|out| *out).count() as u64;
        let (enter, exit) = (
            me.single_endpoint_outage_enter_total,
            me.single_endpoint_outage_exit_total,
        );
        assert_eq!(enter - exit, outages, "{at}");
        let reports = self.shards.iter().map(|shard| shard.pool.snapshot());
        let reports: Vec<_> = reports.collect();
        let running: usize = reports.iter().map(|report| report.refills.len()).sum();
        let ended = pool.writer_restored_same_endpoint_total
            + pool.writer_restored_fallback_total
            + pool.refill_failed_total;
        assert_eq!(
            pool.refill_triggered_total,
            ended + running as u64,
            "refills, {at}"
        );
        let rows = reports.iter().flat_map(|report| &report.writers);
        let draining = rows.clone().filter(|row| row.state.is_draining()).count();
        assert_eq!(pool.pool_drain_active, draining as u64, "{at}");
        let opened: u64 = self.shards.iter().map(|shard| shard.totals.opened).sum();
        let alive = rows.clone().count() as u64;
        assert_eq!(opened, alive + pool.writer_removed_total, "writers, {at}");
        let mut ids: Vec<_> = rows.map(|row| row.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len() as u64, alive, "ids, {at}");
    }

    /// A few above the cap are harmless (11.5): what several shards begin in the same moment. Those
    /// outside the map wait for the next commit and are replaced before.
    fn check_caps(&self, at: &str) {
        let status = self.supervisor.status(self.now);
        let count = |state| {
            let writers = self
                .shards
                .iter()
                .flat_map(|shard| shard.pool.snapshot().writers);
            let counts =
                |row: &WriterRow| row.state == state && status.is_mapped(row.dc, &row.endpoint);
            writers.filter(counts).count()
        };
        let (shards, groups) = (self.shards.len(), status.groups.len());
        let active = count(WriterState::Active);
        // On demand every shard may open one of a group that is below its base at that moment.
        let cap = match status.floor.spread {
            true => status.floor.active_cap as usize,
            false => (status.floor.active_cap as usize).max(shards * groups),
        };
        assert!(
            active <= cap + shards * 4 + groups,
            "{active} active writers under a cap of {cap}, {at}",
        );
        let warm = count(WriterState::Warm);
        let cap = status.floor.warm_cap as usize;
        assert!(
            warm <= cap + shards * 4 + groups,
            "{warm} warm writers, {at}"
        );
        assert!(status.plan.tasks.len() <= 4 * groups + shards, "{at}");
    }

    /// After faults: what is still missing of every shard's share and of readiness.
    pub(super) fn missing(&self) -> Option<String> {
        let status = self.supervisor.status(self.now);
        if !status.route.ready || !status.route.middle {
            return Some(format!("{:?}", status.route));
        }
        if !status.quarantine.is_empty() {
            return Some(format!("{:?}", status.quarantine));
        }
        status.plan.groups.iter().find_map(|group| {
            if group.outage != [false; 2] {
                return Some(format!("DC {} is in outage", group.dc));
            }
            let active = |shard: usize| {
                let writers = self.shards[shard].pool.snapshot().writers;
                let counts = |row: &WriterRow| {
                    let mapped = group.endpoints.contains(&row.endpoint);
                    row.state == WriterState::Active && row.dc == group.dc && mapped
                };
                writers.into_iter().filter(counts).count()
            };
            if !status.floor.spread {
                // What sessions opened elsewhere on demand may stand for a shard's share.
                let all: usize = (0..self.shards.len()).map(active).sum();
                return (all == 0).then(|| format!("DC {} has no writer", group.dc));
            }
            group.shares.iter().enumerate().find_map(|(shard, share)| {
                // A moment ago an ME may have ended one; its refill takes three round trips.
                let near = (*share as usize)
                    .saturating_sub(1)
                    .max(usize::from(*share > 0));
                let active = active(shard);
                (active < near).then(|| format!("DC {}: {active} of {share}", group.dc))
            })
        })
    }

    /// Lets time pass until nothing is missing; returns how many seconds that took.
    pub(super) fn recover(&mut self, secs_max: u64) -> u64 {
        for secs in 0..=secs_max {
            let Some(missing) = self.missing() else {
                return secs;
            };
            assert!(
                secs < secs_max,
                "{missing} after {secs} s, seed {}",
                self.seed
            );
            self.run(Duration::from_secs(1));
        }
        secs_max
    }

    /// Nobody is left: no session, no wait, no more writers than wanted, nothing to be done.
    pub(super) fn check_quiet(&mut self) {
        // Not in the middle of a swap.
        for _ in 0..60 {
            let status = self.supervisor.status(self.now);
            let mut shards = self.shards.iter();
            let swaps = shards.any(|shard| shard.pool.pool_counters().pool_drain_active > 0);
            if status.generations.pending == 0 && !swaps {
                break;
            }
            self.run(Duration::from_secs(1));
        }
        let at = format!("seed {} at {} s", self.seed, self.now.0 / 1_000);
        let status = self.supervisor.status(self.now);
        for (at_shard, shard) in self.shards.iter().enumerate() {
            assert!(shard.sessions.is_empty(), "{at}");
            let report = shard.pool.snapshot();
            let draining = report.writers.iter().filter(|row| row.state.is_draining());
            assert!(draining.count() <= 2, "{at}");
            let shares = status.plan.groups.iter().map(|group| {
                let of = |ipv6| {
                    group
                        .endpoints
                        .iter()
                        .filter(|at| at.is_ipv6() == ipv6)
                        .count()
                };
                let parts = by_family(group.dc, &group.shares, at_shard, [of(false), of(true)]);
                parts.iter().sum::<u32>()
            });
            let wanted: u32 = shares.sum();
            let active = report.writers.len();
            assert!(
                active <= wanted as usize + 4,
                "{active} writers of {wanted} on shard {at_shard}, {at}"
            );
            // An idle refresh of each group at most.
            let dials = report.dials as usize;
            assert!(dials <= status.groups.len(), "{dials} dials, {at}");
        }
        assert!(status.plan.tasks.len() <= status.groups.len() + 4, "{at}");
    }
}
