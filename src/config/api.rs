//! `[server.api]`: the control API.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::{keys::keys, sockets::nets, value::choices};

keys! {
    /// `[server.api]`.
    Api in "server.api" {
        /// Turns the control API on.
        enabled: bool = true; Restart, Now
        /// Sets the control API bind address.
        listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 9091)); Restart, Now
        /// Lists source networks allowed to use the control API.
        whitelist: Vec<IpNet> = nets(&["127.0.0.0/8"]); Restart, Now
        /// Chooses the answer for sources outside the whitelist: drop the connection, a 403 error,
        /// or an empty 200.
        gray_action: GrayAction = GrayAction::Drop; Restart, Now
        /// Requires this exact Authorization header value.
        auth_header: String = String::new(); Restart, Now; secret
        /// Limits the size of API request bodies.
        request_body_limit_bytes: usize = 65_536, within 1..=1_048_576; Restart, Now
        /// Turns the detailed pool, data-centre and upstream endpoints on.
        minimal_runtime_enabled: bool = true; Restart, Now
        /// Caches the detailed pool, data-centre and upstream answers for this long.
        minimal_runtime_cache_ttl_ms: u64 = 1000, within 0..=60_000; Restart, Now
        /// Turns the connection summary and recent events endpoints on.
        runtime_edge_enabled: bool = false; Restart, Now
        /// Caches the connection summary for this long.
        runtime_edge_cache_ttl_ms: u64 = 1000, within 0..=60_000; Restart, Now
        /// Sets how many users the connection summary ranks.
        runtime_edge_top_n: usize = 10, within 1..=1000; Restart, Now
        /// Sets how many recent events are kept.
        runtime_edge_events_capacity: usize = 256, within 16..=4096; Restart, Now
        /// Rejects every changing API request.
        read_only: bool = false; Restart, Now
    }
}

choices! {
    /// The answer to a source outside the whitelist.
    GrayAction {
        /// 403.
        Api = "api",
        /// An empty 200.
        Ok = "200",
        /// The connection is closed.
        Drop = "drop",
    }
}
