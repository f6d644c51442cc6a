//! `[server.api]` as this crate needs it: parsed and in range.
//!
//! Built by the binary; values are not checked again here.

use std::{fmt, net::SocketAddr};

use ipnet::IpNet;

/// The control API's own settings. Source: v1.json, `config`.
#[derive(Clone)]
pub struct ApiSettings {
    /// Serve the API at all.
    pub enabled: bool,
    /// Where to listen; port 0 means that no listener is opened.
    pub listen: SocketAddr,
    /// Peers that may speak; empty means everybody. A bare address is a full-length prefix.
    pub whitelist: Vec<IpNet>,
    /// The whole `Authorization` value; empty means no check.
    pub auth_header: String,
    /// Largest request body, bytes; 1 to 1,048,576.
    pub request_body_limit_bytes: usize,
    /// Serve the snapshots of upstreams and ME writers.
    pub minimal_runtime_enabled: bool,
    /// Life time of the ME snapshot, milliseconds; 0 turns the cache off.
    pub minimal_runtime_cache_ttl_ms: u64,
    /// Serve connections/summary and events/recent.
    pub runtime_edge_enabled: bool,
    /// Life time of the connection summary, milliseconds; 0 turns the cache off.
    pub runtime_edge_cache_ttl_ms: u64,
    /// Rows of a leader board; 1 to 1,000.
    pub runtime_edge_top_n: usize,
    /// Events remembered; 16 to 4,096.
    pub runtime_edge_events_capacity: usize,
    /// Refuse every change.
    pub read_only: bool,
    /// What a peer outside the whitelist gets.
    pub refused: RefusedPeer,
    /// Connections held at most, idle ones included; a further one displaces the one that has
    /// idled longest.
    pub connections_max: usize,
}

/// What a peer outside the whitelist gets (`gray_action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RefusedPeer {
    /// `403 forbidden` (`api`, and when the key is absent).
    #[default]
    Forbidden,
    /// An empty `200` (`200`).
    Empty,
    /// The connection is closed without an answer (`drop`).
    Close,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: SocketAddr::from(([127, 0, 0, 1], 9091)),
            whitelist: Vec::new(),
            auth_header: String::new(),
            request_body_limit_bytes: 65_536,
            minimal_runtime_enabled: true,
            minimal_runtime_cache_ttl_ms: 1_000,
            runtime_edge_enabled: false,
            runtime_edge_cache_ttl_ms: 1_000,
            runtime_edge_top_n: 10,
            runtime_edge_events_capacity: 256,
            read_only: false,
            refused: RefusedPeer::Forbidden,
            connections_max: 8_192,
        }
    }
}

impl fmt::Debug for ApiSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `auth_header` is a credential: whether it is set is all that may be seen.
        f.debug_struct("ApiSettings")
            .field("enabled", &self.enabled)
            .field("listen", &self.listen)
            .field("whitelist", &self.whitelist)
            .field("auth_header_set", &!self.auth_header.is_empty())
            .field("read_only", &self.read_only)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_the_auth_header() {
        let settings = ApiSettings {
            auth_header: "Bearer abc".to_owned(),
            ..Default::default()
        };
        let text = format!("{settings:?}");
        assert!(!text.contains("abc"), "{text}");
        assert!(text.contains("auth_header_set: true"), "{text}");
    }
}
