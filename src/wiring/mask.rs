//! Where strangers are sent: the keys of the mask to `shards::settings::MaskSettings`.
//!
//! Source: config.md 9, protocol.md 7.3.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shards::{
    proto::proxy_protocol::Version,
    settings::{Host, HostPort, MaskSettings, MaskTarget, OwnAddresses},
};

use crate::config::Config;

/// `None` when strangers are read and discarded.
pub(crate) fn mask(config: &Config, shards: usize) -> Option<Arc<MaskSettings>> {
    let mask = &config.mask;
    if !mask.mask {
        return None;
    }
    let bytes_max = mask.mask_relay_max_bytes as u64;
    let pace = (
        mask.mask_timing_normalization_floor_ms,
        mask.mask_timing_normalization_ceiling_ms,
    );
    Some(Arc::new(MaskSettings {
        target: Arc::new(main_target(config)),
        by_sni: by_sni(config),
        proxy_header: match mask.mask_proxy_protocol {
            0 => None,
            1 => Some(Version::V1),
            _ => Some(Version::V2),
        },
        bytes_max: (bytes_max > 0).then_some(bytes_max),
        lifetime: Duration::from_millis(mask.mask_relay_timeout_ms),
        idle: Duration::from_millis(mask.mask_relay_idle_timeout_ms),
        splices_max: (SPLICES_MAX / shards.max(1)).max(SPLICES_MIN),
        pace_ms: mask.mask_timing_normalization_enabled.then_some(pace),
        own: OwnAddresses {
            listeners: Vec::new(),
            public: public(config),
        },
    }))
}

/// Every target there is, with the key that names it.
pub(crate) fn targets(config: &Config) -> Vec<(String, HostPort)> {
    let mask = &config.mask;
    if !mask.mask {
        return Vec::new();
    }
    let own = mask.exclusive_mask.0.iter().filter_map(|(domain, at)| {
        let key = format!("censorship.exclusive_mask.{domain}");
        Some((key, at.0.parse().ok()?))
    });
    let mut all: Vec<(String, HostPort)> = own.collect();
    if let MaskTarget::Tcp(at) = main_target(config) {
        let key = match mask.mask_host {
            Some(_) => "censorship.mask_host",
            None => "censorship.tls_domain",
        };
        all.push((key.to_owned(), at));
    }
    for domain in domains(config) {
        let at = HostPort::new(&domain, mask.mask_port);
        all.push(("censorship.tls_domains".to_owned(), at));
    }
    all
}

/// The first target that is this proxy itself, as far as that shows without resolving: its key,
/// itself, and the address of ours that it leads to. `own`: addresses of local interfaces.
pub(crate) fn loops(config: &Config, own: &[IpAddr]) -> Option<(String, HostPort, SocketAddr)> {
    let (listeners, _) = super::listen::listeners(config);
    let ours = OwnAddresses {
        listeners: listeners
            .into_iter()
            .map(|listener| listener.addr)
            .collect(),
        public: public(config),
    };
    targets(config).into_iter().find_map(|(key, at)| {
        let addresses: &[IpAddr] = match &at.host {
            Host::Addr(ip) => &[*ip],
            Host::Name(name) if &**name == "localhost" => &LOOPBACK,
            Host::Name(_) => &[],
        };
        let mut leads = addresses.iter().map(|ip| SocketAddr::new(*ip, at.port));
        let back = leads.find(|addr| ours.has(*addr, |ip| own.contains(&ip)))?;
        Some((key, at, back))
    })
}

fn main_target(config: &Config) -> MaskTarget {
    let mask = &config.mask;
    if let Some(path) = &mask.mask_unix_sock {
        return MaskTarget::Unix(path.0.clone().into());
    }
    let host = mask.mask_host.as_deref();
    let host = host.unwrap_or(&config.censorship.tls_domain.0);
    MaskTarget::Tcp(HostPort::new(host, mask.mask_port))
}

/// FakeTLS domains that are mask sites of their own, beside the main one.
fn domains(config: &Config) -> Vec<String> {
    let mask = &config.mask;
    let fixed = mask.mask_host.is_some() || mask.mask_unix_sock.is_some();
    if fixed || !mask.mask_dynamic {
        return Vec::new();
    }
    let domains = config.censorship.tls_domains.iter();
    domains.map(|domain| domain.0.clone()).collect()
}

fn by_sni(config: &Config) -> HashMap<String, Arc<MaskTarget>> {
    let mask = &config.mask;
    let domains = domains(config).into_iter().map(|domain| {
        let at = HostPort::new(&domain, mask.mask_port);
        (domain, Arc::new(MaskTarget::Tcp(at)))
    });
    let mut all: HashMap<_, _> = domains.collect();
    for (domain, at) in mask.exclusive_mask.0.iter() {
        if let Ok(at) = at.0.parse() {
            let domain = domain.strip_suffix('.').unwrap_or(domain);
            let target = Arc::new(MaskTarget::Tcp(at));
            all.insert(domain.to_ascii_lowercase(), target);
        }
    }
    all
}

/// Addresses that the configuration says are ours, for hosts behind NAT.
fn public(config: &Config) -> Vec<IpAddr> {
    let hosts = config.listeners.iter();
    let hosts = hosts.filter_map(|listener| listener.announce.as_deref());
    let hosts = hosts.chain(config.links.public_host.as_deref());
    let own = hosts.filter_map(|host| match Host::new(host.trim()) {
        Host::Addr(ip) => Some(ip),
        Host::Name(_) => None,
    });
    own.chain(config.me_source.middle_proxy_nat_ip).collect()
}

const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
/// Splices of the whole process at a time; each is two sockets.
const SPLICES_MAX: usize = 16_384;
/// Of one shard, however many there are.
const SPLICES_MIN: usize = 256;

#[cfg(test)]
mod tests;
