//! `[general]`: where the Middle-End's address lists, secret and our public address come from.

use std::net::IpAddr;

use super::{keys::keys, kinds::Filled};

keys! {
    /// Address lists, infrastructure secret, NAT.
    MeSource in "general" {
        /// Names the cache file for the Telegram infrastructure secret needed by the Middle-End
        /// handshake.
        proxy_secret_path: Option<String> = Some("proxy-secret".into()); Restart, Now
        /// Overrides where the infrastructure secret is downloaded from.
        proxy_secret_url: Option<String> = None; Restart, Now
        /// Names the cache file for the last good IPv4 Middle-End address list.
        proxy_config_v4_cache_path: Option<Filled> =
            Some(Filled("cache/proxy-config-v4.txt".into())); Restart, Now
        /// Overrides where the IPv4 Middle-End address list is downloaded from.
        proxy_config_v4_url: Option<String> = None; Restart, Now
        /// Names the cache file for the last good IPv6 Middle-End address list.
        proxy_config_v6_cache_path: Option<Filled> =
            Some(Filled("cache/proxy-config-v6.txt".into())); Restart, Now
        /// Overrides where the IPv6 Middle-End address list is downloaded from.
        proxy_config_v6_url: Option<String> = None; Restart, Now
        /// States the public address to use in Middle-End key derivation when the host sits behind
        /// NAT.
        middle_proxy_nat_ip: Option<IpAddr> = None; Restart, Now
        /// Discovers the public endpoint with STUN for Middle-End key derivation.
        middle_proxy_nat_probe: bool = true; Restart, Now
        /// Deprecated single STUN server; use network.stun_servers.
        middle_proxy_nat_stun: Option<String> = None; Restart, Now, old "network.stun_servers"
        /// Deprecated STUN server list; use network.stun_servers.
        middle_proxy_nat_stun_servers: Vec<String> =
            Vec::new(); Restart, Now, old "network.stun_servers"
        /// Limits how many STUN queries run at once.
        stun_nat_probe_concurrency: usize = 8, from 1; Restart, Now
        /// Override for a STUN and interface address mismatch, accepted but unused by the
        /// reference.
        stun_iface_mismatch_ignore: bool = false; Restart, Inert
        /// Sets how often Middle-End address lists and the infrastructure secret are refreshed.
        update_every: Option<u64> = Some(300), from 1; Hot, Now
        /// Requires this many identical address lists before one is applied.
        me_config_stable_snapshots: u8 = 2, from 1; Hot, Now
        /// Sets the minimum time between applied address-list changes.
        me_config_apply_cooldown_secs: u64 = 300; Hot, Now
        /// Accepts an address list only from a successful HTTP reply.
        me_snapshot_require_http_2xx: bool = true; Hot, Now
        /// Refuses an address list without endpoints.
        me_snapshot_reject_empty_map: bool = true; Hot, Now
        /// Requires this many address rows in a downloaded list.
        me_snapshot_min_proxy_for_lines: u32 = 1, from 1; Hot, Now
        /// Requires this many identical secret downloads before rotation.
        proxy_secret_stable_snapshots: u8 = 2, from 1; Hot, Now
        /// Allows the infrastructure secret to change while running.
        proxy_secret_rotate_runtime: bool = true; Hot, Now
        /// Reads the key selector and the secret from one download.
        me_secret_atomic_snapshot: bool = true; Hot, Inert
        /// Rejects an infrastructure secret longer than this many bytes.
        proxy_secret_len_max: usize = 256, within 32..=4096; Hot, Now
        /// Deprecated secret refresh period; use update_every.
        proxy_secret_auto_reload_secs: u64 = 3600, from 1; Hot, Now, old "general.update_every"
        /// Deprecated address-list refresh period; use update_every.
        proxy_config_auto_reload_secs: u64 = 3600, from 1; Hot, Now, old "general.update_every"
    }
}
