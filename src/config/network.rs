//! `[network]`: address families and how our public address is found.

use super::{
    keys::keys,
    kinds::{DnsPin, Family},
};

keys! {
    /// `[network]`.
    Network in "network" {
        /// Enables IPv4 for listeners and outbound traffic.
        ipv4: bool = true; Restart, Now
        /// Enables IPv6 for listeners and outbound traffic.
        ipv6: Option<bool> = Some(false); Restart, Now
        /// Chooses the address family to try first.
        prefer: Family = Family::V4; Restart, Now
        /// Uses both address families for the Middle-End at once.
        multipath: bool = false; Restart, Now
        /// Allows STUN queries at all.
        stun_use: bool = true; Restart, Now
        /// Lists STUN servers used to learn the public address.
        stun_servers: Vec<String> =
            STUN_SERVERS.iter().map(|&s| s.to_owned()).collect(); Restart, Now
        /// Tries STUN over TCP when UDP does not answer.
        stun_tcp_fallback: bool = true; Restart, Now
        /// Lists web addresses that return the public address when STUN fails.
        http_ip_detect_urls: Vec<String> =
            vec!["https://ifconfig.me/ip".into(), "https://api.ipify.org".into()]; Restart, Now
        /// Cache file for the detected public address, accepted but unused by the reference.
        cache_public_ip_path: String = "cache/public_ip.txt".into(); Restart, Inert
        /// Pins the address of a host and port without DNS.
        dns_overrides: Vec<DnsPin> = Vec::new(); Hot, Now
    }
}

/// Asked in this order.
const STUN_SERVERS: &[&str] = &[
    "stun.l.google.com:5349",
    "stun1.l.google.com:3478",
    "stun.gmx.net:3478",
    "stun.l.google.com:19302",
    "stun.1und1.de:3478",
    "stun1.l.google.com:19302",
    "stun2.l.google.com:19302",
    "stun3.l.google.com:19302",
    "stun4.l.google.com:19302",
    "stun.services.mozilla.com:3478",
    "stun.stunprotocol.org:3478",
    "stun.nextcloud.com:3478",
    "stun.voip.eutelia.it:3478",
];
