//! What holds after every call, whatever was called.

use super::{Pool, group::family};

impl Pool {
    /// Panics if lists, counts and gauges disagree.
    pub(crate) fn check_invariants(&self) {
        self.check_writers();
        self.check_groups();
        self.waiting.check_invariants();
        self.check_totals();
        if let Some(known) = self.deadline.known {
            assert_eq!(known, self.search_deadline(), "a deadline moved unnoticed");
        }
        for until in self.dials.keys() {
            assert!(until.0 <= self.next_dial);
        }
    }

    fn check_writers(&self) {
        let mut ids: Vec<u64> = Vec::new();
        for (key, writer) in self.writers.iter() {
            writer.registry.check_invariants();
            assert_eq!(writer.idle_since.is_none(), !writer.is_empty());
            let group = &self.groups[&writer.dc];
            let places = group.writers.iter().filter(|other| **other == key);
            assert_eq!(places.count(), 1, "in its group once");
            let (shard, shards) = (self.place.shard as u64, self.place.shards as u64);
            assert_eq!(writer.id.0 % shards, (shard + 1) % shards);
            ids.push(writer.id.0);
        }
        assert_eq!(ids.len(), self.writers.len());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), self.writers.len(), "ids are given once");
        let in_groups: usize = self.groups.values().map(|group| group.writers.len()).sum();
        assert_eq!(in_groups, self.writers.len());
    }

    fn check_groups(&self) {
        for (dc, group) in &self.groups {
            for key in &group.open {
                let writer = self.writers.get(*key).expect("open ones live");
                assert!(writer.is_active() && self.is_mapped(writer));
            }
            let open = group.writers.iter().filter(|key| {
                let writer = self.writers.get(**key);
                writer.is_some_and(|writer| writer.is_active() && self.is_mapped(writer))
            });
            assert_eq!(open.count(), group.open.len());
            let dials = self.dials.values().filter(|dial| dial.dc == *dc);
            assert_eq!(dials.count(), group.dials as usize);
            for wanted in [0, 1] {
                let refills = self.dials.values().filter(|dial| {
                    dial.dc == *dc
                        && dial.purpose == super::dial::Purpose::Refill { family: wanted }
                });
                let refills = refills.count();
                assert!(refills <= 1, "single flight");
                let is_pausing = group.refill[wanted].is_some_and(|refill| refill.next.is_some());
                assert!(refills == 0 || !is_pausing);
            }
            assert!(group.fails.keys().all(|at| family(*at) < 2));
        }
    }

    fn check_totals(&self) {
        if !self.tally.is_on() {
            return;
        }
        let (me, pool) = (self.me_counters(), self.pool_counters());
        let refills = self
            .groups
            .values()
            .flat_map(|group| group.refill.iter().flatten());
        let running = refills.filter(|refill| refill.counted).count() as u64;
        let ended = pool.writer_restored_same_endpoint_total
            + pool.writer_restored_fallback_total
            + pool.refill_failed_total;
        assert_eq!(pool.refill_triggered_total, ended + running);
        assert!(me.reconnect_success_total <= me.reconnect_attempt_total);
        assert!(me.idle_close_by_peer_total <= me.reader_eof_total);
        assert!(me.reader_eof_total <= pool.writer_removed_total);
        assert!(pool.writer_removed_unexpected_total <= pool.writer_removed_total);
        assert!(pool.pool_force_close_total <= pool.writer_removed_total);
        assert!(me.keepalive_pong_total + me.keepalive_timeout_total <= me.keepalive_sent_total);
        let ended = me.rpc_proxy_req_signal_close_sent_total;
        assert!(ended <= me.rpc_proxy_req_signal_sent_total);
        assert!(me.rpc_proxy_req_signal_response_total <= me.rpc_proxy_req_signal_sent_total);
        let codes: u64 = self.handshake_error_codes().iter().map(|(_, n)| n).sum();
        assert_eq!(codes, me.handshake_reject_total);
    }
}
