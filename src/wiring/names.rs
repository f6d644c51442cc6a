//! The host names that have to be resolved for the shards.

use super::mask;
use crate::{
    config::{Config, kinds::Family},
    names::Families,
};

/// Names of every host that a shard may connect to; addresses may be among them.
pub(crate) fn names(config: &Config) -> Vec<String> {
    let mut names = mask::names(config);
    names.extend(server_names(config));
    names
}

/// Servers of the ways out.
fn server_names(config: &Config) -> impl Iterator<Item = String> {
    let routes = super::upstream::routes(config).into_iter();
    routes.filter_map(|route| route.server()?.host.name().map(str::to_owned))
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
