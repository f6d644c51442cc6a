//! The ME pool; all zero while sessions go direct.

use super::counters;

counters! {
    /// `ZeroPoolData`: ME pool totals of one shard.
    PoolCounters {
        /// Times a new generation of ME writers took over.
        pool_swap_total: sum,
        /// Generations now draining.
        pool_drain_active: sum,
        /// Draining ME writers closed by force.
        pool_force_close_total: sum,
        /// Clients given to an ME writer of an old generation.
        pool_stale_pick_total: sum,
        /// ME writers removed.
        writer_removed_total: sum,
        /// ME writers removed although nobody wanted them to go.
        writer_removed_unexpected_total: sum,
        /// Refills of lost ME writers begun.
        refill_triggered_total: sum,
        /// Refills left out because one was under way.
        refill_skipped_inflight_total: sum,
        /// Refills that failed.
        refill_failed_total: sum,
        /// Lost ME writers replaced at the same endpoint.
        writer_restored_same_endpoint_total: sum,
        /// Lost ME writers replaced at another endpoint.
        writer_restored_fallback_total: sum,
    }
}
