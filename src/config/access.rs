//! `[access]`: users, their limits, replay protection.

use ipnet::IpNet;

use super::{
    keys::keys,
    kinds::{Moment, Rate},
    secrets::{AdTag, UserSecret},
    sockets::NetRates,
    value::{Map, choices},
};

keys! {
    /// `[access]`.
    Access in "access" {
        /// Maps user names to secrets.
        users: Map<UserSecret> = Map::default(); Hot, Now; secret
        /// Disables users without deleting them.
        user_enabled: Map<bool> = Map::default(); Hot, Now
        /// Sets a sponsored-channel tag per user.
        user_ad_tags: Map<AdTag> = Map::default(); Hot, Now; secret
        /// Limits concurrent connections per user.
        user_max_tcp_conns: Map<usize> = Map::default(); Hot, Now
        /// Limits concurrent connections for users without their own limit.
        user_max_tcp_conns_global_each: usize = 0; Hot, Now
        /// Sets when a user stops being accepted.
        user_expirations: Map<Moment> = Map::default(); Hot, Now
        /// Limits total traffic per user.
        user_data_quota: Map<u64> = Map::default(); Hot, Now
        /// Limits transfer speed per user.
        user_rate_limits: Map<Rate> = Map::default(); Hot, Now
        /// Limits transfer speed per source network.
        cidr_rate_limits: NetRates = NetRates::default(); Hot, Now
        /// Rejects a user from the listed source networks.
        user_source_deny: Map<Vec<IpNet>> = Map::default(); Hot, Now
        /// Limits distinct source addresses per user.
        user_max_unique_ips: Map<usize> = Map::default(); Hot, Now
        /// Limits distinct source addresses for users without their own limit.
        user_max_unique_ips_global_each: usize = 0; Hot, Now
        /// Chooses whether live addresses, recent addresses or both are counted.
        user_max_unique_ips_mode: UniqueIpsMode = UniqueIpsMode::ActiveWindow; Hot, Now
        /// Sets how long an address counts as recent.
        user_max_unique_ips_window_secs: u64 = 30, from 1; Hot, Now
        /// Sets how many handshakes are remembered to detect replays.
        replay_check_len: usize = 65_536; Restart, Now
        /// Sets how long a handshake is remembered.
        replay_window_secs: u64 = 120; Restart, Now
        /// Accepts fake-TLS clients whose clock is wrong.
        ignore_time_skew: bool = false; Restart, Now
    }
}

impl Access {
    /// Drops everything that is kept by user name, for copies that are about other keys.
    pub(crate) fn forget_users(&mut self) {
        self.users = Map::default();
        self.user_enabled = Map::default();
        self.user_ad_tags = Map::default();
        self.user_max_tcp_conns = Map::default();
        self.user_expirations = Map::default();
        self.user_data_quota = Map::default();
        self.user_rate_limits = Map::default();
        self.user_source_deny = Map::default();
        self.user_max_unique_ips = Map::default();
    }
}

choices! {
    /// Which addresses of a user are counted.
    UniqueIpsMode {
        /// Live ones.
        ActiveWindow = "active_window",
        /// Recent ones.
        TimeWindow = "time_window",
        /// Both.
        Combined = "combined",
    }
}
