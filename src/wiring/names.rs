//! The host names that have to be resolved for the shards.

use super::mask;
use crate::{
    config::{Config, kinds::Family},
    names::Families,
};

/// Names of every host that a shard may connect to; addresses may be among them.
pub(crate) fn names(config: &Config) -> Vec<String> {
    mask::names(config)
}

/// Which addresses of a host are of use.
pub(crate) fn families(config: &Config) -> Families {
    let network = &config.network;
    Families {
        ipv4: network.ipv4,
        ipv6: network.ipv6 == Some(true),
        prefer_ipv6: network.prefer == Family::V6,
    }
}
