//! One user's traffic on one shard.

use super::counters;

counters! {
    /// Per user: what `UserInfo` and the user metrics show.
    UserCounters {
        /// Sessions now open.
        current_connections: sum,
        /// Sessions opened.
        connections_total: sum,
        /// Bytes taken from the client.
        octets_from_client: sum,
        /// Bytes delivered to the client.
        octets_to_client: sum,
    }
}
