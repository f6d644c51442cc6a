//! `[server]`: listeners and admission; `[[server.listeners]]`; `[server.conntrack_control]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{
    keys::keys,
    sockets::{FileMode, Mss, SynLimit, UnixPath, nets},
    value::choices,
};

keys! {
    /// `[server]`.
    Server in "server" {
        /// Sets the client port.
        port: u16 = 443; Restart, Now
        /// Sets the IPv4 bind address for the implicit listener.
        listen_addr_ipv4: Option<Ipv4Addr> = Some(Ipv4Addr::UNSPECIFIED); Restart, Now
        /// Sets the IPv6 bind address for the implicit listener.
        listen_addr_ipv6: Option<Ipv6Addr> = Some(Ipv6Addr::UNSPECIFIED); Restart, Now
        /// Adds a Unix-socket client listener.
        listen_unix_sock: Option<UnixPath> = None; Restart, Now
        /// Sets the file mode of the Unix listener socket after binding.
        listen_unix_sock_perm: Option<FileMode> = None; Restart, Now
        /// Forces the implicit TCP listeners on or off.
        listen_tcp: Option<bool> = None; Restart, Now
        /// Lowers the TCP segment size announced to clients on all TCP listeners.
        client_mss: Option<Mss> = None; Restart, Now
        /// Raises the segment size again once the handshake is over.
        client_mss_bulk: Option<Mss> = None; Restart, Inert
        /// Expects PROXY v1 or v2 headers from a load balancer.
        proxy_protocol: bool = false; Restart, Now
        /// Limits the time to receive a PROXY header.
        proxy_protocol_header_timeout_ms: u64 = 500, from 1; Restart, Now
        /// Lists peers whose PROXY headers are believed.
        proxy_protocol_trusted_cidrs: Vec<IpNet> = nets(&["0.0.0.0/0", "::/0"]); Restart, Now
        /// Serves Prometheus metrics on this port on all interfaces.
        metrics_port: Option<u16> = None; Restart, Now
        /// Serves Prometheus metrics on this address only.
        metrics_listen: Option<SocketAddr> = None; Restart, Now
        /// Lists source networks allowed to read metrics.
        metrics_whitelist: Vec<IpNet> = nets(&["127.0.0.1/32", "::1/128"]); Restart, Now
        /// Sets the accept queue length for client and metrics sockets.
        listen_backlog: u32 = 1024, within 1..=2_147_483_647; Restart, Now
        /// Limits concurrent client connections.
        max_connections: u32 = 10_000; Restart, Now
        /// Limits the wait for a free connection slot before an accepted connection is dropped.
        accept_permit_timeout_ms: u64 = 250, within 0..=60_000; Restart, Now
    }
}

keys! {
    /// One `[[server.listeners]]`.
    Listener in "server.listeners" {
        /// Sets the bind address of this listener.
        ip: Option<IpAddr> = None; Restart, Now
        /// Sets the port of this listener.
        port: Option<u16> = None; Restart, Now
        /// Overrides the announced TCP segment size for this listener.
        client_mss: Option<Mss> = None; Restart, Now
        /// Limits new connection attempts per source with firewall rules on this listener.
        synlimit: SynLimit = SynLimit::Off; Hot, Now
        /// Sets the period of the general connection-attempt rate.
        synlimit_seconds: u32 = 60, from 1; Hot, Now
        /// Sets the connection attempts allowed per period by the general rate.
        synlimit_hitcount: u32 = 48, from 1; Hot, Now
        /// Sets the burst of the general connection-attempt rate.
        synlimit_burst: u32 = 1, from 1; Hot, Now
        /// Sets the period of the connection-attempt rate for iOS-like packets.
        synlimit_ios_seconds: u32 = 1, from 1; Hot, Now
        /// Sets the connection attempts allowed per period for iOS-like packets.
        synlimit_ios_hitcount: u32 = 12, from 1; Hot, Now
        /// Sets the connection-attempt burst for iOS-like packets.
        synlimit_ios_burst: u32 = 24, from 1; Hot, Now
        /// Sets how long iptables remembers a source.
        synlimit_hashlimit_expire_ms: u32 = 60_000, from 1; Hot, Now
        /// Sets the iptables source table size.
        synlimit_hashlimit_size: u32 = 32_768, from 1; Hot, Now
        /// Sets the host shown in links for this listener.
        announce: Option<String> = None; Restart, Now
        /// Deprecated link address; use announce.
        announce_ip: Option<IpAddr> = None; Restart, Now, old "server.listeners.announce"
        /// Overrides the PROXY header setting for this listener.
        proxy_protocol: Option<bool> = None; Restart, Now
        /// Lets several processes share this address and port.
        reuse_allow: bool = false; Restart, Now
    }
}

keys! {
    /// `[server.conntrack_control]`.
    Conntrack in "server.conntrack_control" {
        /// Lets the proxy manage connection-tracking rules itself.
        inline_conntrack_control: bool = true; Restart, Now
        /// Chooses which client connections bypass kernel tracking.
        mode: ConntrackMode = ConntrackMode::Tracked; Restart, Now
        /// Chooses the firewall tool used for the rules.
        backend: ConntrackBackend = ConntrackBackend::Auto; Restart, Now
        /// Chooses how hard timeouts are cut under pressure.
        profile: ConntrackProfile = ConntrackProfile::Balanced; Restart, Now
        /// Lists listener addresses that bypass tracking in hybrid mode.
        hybrid_listener_ips: Vec<IpAddr> = Vec::new(); Restart, Now
        /// Enters connection-tracking pressure mode at this usage percentage.
        pressure_high_watermark_pct: u8 = 85, within 1..=100; Restart, Now
        /// Leaves connection-tracking pressure mode at or below this usage percentage.
        pressure_low_watermark_pct: u8 = 70; Restart, Now
        /// Limits tracking-entry deletions per second.
        delete_budget_per_sec: u64 = 4096, from 1; Restart, Now
    }
}

choices! {
    /// Which client connections bypass kernel tracking.
    ConntrackMode {
        /// None.
        Tracked = "tracked",
        /// All.
        Notrack = "notrack",
        /// Those of the listed addresses.
        Hybrid = "hybrid",
    }
}

choices! {
    /// The firewall tool.
    ConntrackBackend {
        /// Whichever is there.
        Auto = "auto",
        /// nft.
        Nftables = "nftables",
        /// iptables.
        Iptables = "iptables",
    }
}

choices! {
    /// How hard time-outs are cut under pressure.
    ConntrackProfile {
        /// A little.
        Conservative = "conservative",
        /// By half.
        Balanced = "balanced",
        /// To the minimum.
        Aggressive = "aggressive",
    }
}
