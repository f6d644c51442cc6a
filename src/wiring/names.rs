//! The host names that have to be resolved for the shards.

use shards::settings::{Host, HostPort};

use crate::{config::Config, names::Families};

/// Names of every host that a shard may connect to; addresses may be among them.
pub(crate) fn names(config: &Config) -> Vec<String> {
    mask_names(config)
}

/// Which addresses of a host are of use.
pub(crate) fn families(config: &Config) -> Families {
    let network = &config.network;
    Families {
        ipv4: network.ipv4,
        ipv6: network.ipv6 == Some(true),
        prefer_ipv6: network.prefer == crate::config::kinds::Family::V6,
    }
}

/// Where strangers may be sent to.
fn mask_names(config: &Config) -> Vec<String> {
    let (mask, tls) = (&config.mask, &config.censorship);
    if !mask.mask {
        return Vec::new();
    }
    let targets = mask.exclusive_mask.0.iter();
    let exclusive = targets.filter_map(|(_, at)| match at.0.parse::<HostPort>() {
        Ok(HostPort {
            host: Host::Name(name),
            ..
        }) => Some(name.to_string()),
        _ => None,
    });
    let mut names: Vec<String> = exclusive.collect();
    match (&mask.mask_unix_sock, &mask.mask_host) {
        (Some(_), _) => {}
        (None, Some(host)) => names.push(host.clone()),
        (None, None) => {
            names.push(tls.tls_domain.0.clone());
            if mask.mask_dynamic {
                names.extend(tls.tls_domains.iter().map(|domain| domain.0.clone()));
            }
        }
    }
    names
}
