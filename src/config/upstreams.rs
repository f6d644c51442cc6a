//! `[[upstreams]]`, and `[general]` for the policy of connecting.

use std::net::IpAddr;

use super::{
    keys::keys,
    kinds::{Family, HostPort},
    sockets::SsUrl,
    value::choices,
};

keys! {
    /// Connects to Telegram: attempts, pauses, limits.
    Connect in "general" {
        /// Sets connect attempts on one upstream before giving up.
        upstream_connect_retry_attempts: u32 = 2, from 1; Restart, Now
        /// Sets the pause between connect attempts on one upstream.
        upstream_connect_retry_backoff_ms: u64 = 100; Restart, Now
        /// Limits the total time spent on all connect attempts of one request.
        upstream_connect_budget_ms: u64 = 3000, from 1; Restart, Now
        /// Sets the timeout in seconds of one connect attempt to Telegram; older configs put it
        /// under timeouts.
        tg_connect: u64 = 10, from 1; Restart, Now
        /// Marks an upstream unhealthy after this many failures in a row.
        upstream_unhealthy_fail_threshold: u32 = 5, from 1; Restart, Now
        /// Skips retries after errors that a retry cannot fix.
        upstream_connect_failfast_hard_errors: bool = false; Restart, Now
    }
}

keys! {
    /// One `[[upstreams]]`.
    Upstream in "upstreams" {
        /// Selects the kind of outbound route.
        kind as "type": Option<UpstreamKind> = None; Restart, Now
        /// Sets the relative share of traffic for this upstream.
        weight: u16 = 1; Restart, Now
        /// Keeps or skips this upstream entry.
        enabled: bool = true; Restart, Now
        /// Reserves this entry for requests with a matching scope.
        scopes: String = String::new(); Restart, Now
        /// Allows IPv4 Telegram addresses through this entry.
        ipv4: Option<bool> = None; Restart, Now
        /// Allows IPv6 Telegram addresses through this entry.
        ipv6: Option<bool> = None; Restart, Now
        /// Chooses the address family to try first through this entry.
        prefer: Option<Family> = None; Restart, Now
        /// Binds outgoing connections to an interface or address.
        interface: Option<String> = None; Restart, Now
        /// Rotates outgoing connections over these local addresses.
        bind_addresses: Option<Vec<IpAddr>> = None; Restart, Now
        /// Pins outgoing connections to a network device.
        bindtodevice: Option<String> = None; Restart, Now
        /// Older name of bindtodevice.
        force_bind: Option<String> = None; Restart, Now, old "upstreams.bindtodevice"
        /// Sets the Shadowsocks server.
        url: Option<SsUrl> = None; Restart, Now; secret
        /// Sets the SOCKS server.
        address: Option<HostPort> = None; Restart, Now
        /// Sets the SOCKS4 user id.
        user_id: Option<String> = None; Restart, Now; secret
        /// Sets the SOCKS5 user name.
        username: Option<String> = None; Restart, Now; secret
        /// Sets the SOCKS5 password.
        password: Option<String> = None; Restart, Now; secret
    }
}

choices! {
    /// The kind of a route.
    UpstreamKind {
        /// Straight out.
        Direct = "direct",
        /// SOCKS4.
        Socks4 = "socks4",
        /// SOCKS5.
        Socks5 = "socks5",
        /// Shadowsocks.
        Shadowsocks = "shadowsocks",
    }
}
