//! `[access]`: users, their limits, replay protection.

use std::collections::HashSet;

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

macro_rules! per_user {
    ( $( $field:ident ),+ ) => {
        /// Tables below `[access]` with one entry per user.
        pub(crate) const PER_USER: &[&str] = &[ $( stringify!($field) ),+ ];

        impl Access {
            /// Drops everything that is kept by user name, for copies that are about other keys.
            pub(crate) fn forget_users(&mut self) {
                $( self.$field = Map::default(); )+
            }

            /// Names in each of [`PER_USER`], in file order.
            pub(crate) fn names(&self) -> Vec<Box<dyn DoubleEndedIterator<Item = &str> + '_>> {
                vec![ $( Box::new(self.$field.names()) ),+ ]
            }

            /// These entries, but for users that `part` tells all of: those as it has them, new
            /// ones at the end.
            pub(crate) fn with_part(&self, part: &Self, told: &HashSet<&str>) -> Self {
                Self {
                    $( $field: self.$field.with_part(&part.$field, told), )+
                    ..part.clone()
                }
            }
        }
    };
}

per_user!(
    users,
    user_enabled,
    user_ad_tags,
    user_max_tcp_conns,
    user_expirations,
    user_data_quota,
    user_rate_limits,
    user_source_deny,
    user_max_unique_ips
);

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
