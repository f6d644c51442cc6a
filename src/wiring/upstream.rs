//! `[[upstreams]]` and the policy of connecting, as the data plane takes them.
//!
//! Not here: what a key may be (`config/upstreams.rs`), rules between keys (`config/checks.rs`).

use std::time::Duration;

use shards::{
    proto::{dc::DcTable, shadowsocks::ServerUrl},
    settings::{
        HostPort, Interface, RouteKind, RouteSettings, SecretText, SourceSettings, UpstreamSettings,
    },
};

use crate::{
    config::{
        Config,
        kinds::Family,
        upstreams::{Upstream, UpstreamKind},
    },
    names,
    route_out::RouteOut,
};

/// How DCs are reached.
pub(crate) fn upstream(config: &Config) -> UpstreamSettings {
    let connect = &config.connect;
    let mut dcs = DcTable::builtin();
    for (dc, addrs) in config.root.dc_overrides.0.iter() {
        // The key was checked to be a number when the file was read.
        if let Ok(dc) = dc.parse()
            && !addrs.0.is_empty()
        {
            dcs.overrides.insert(dc, addrs.0.clone());
        }
    }
    dcs.default_dc = config.root.default_dc.map_or(dcs.default_dc, i16::from);
    UpstreamSettings {
        dcs,
        ipv4: config.network.ipv4,
        ipv6: config.network.ipv6 == Some(true),
        prefer_ipv6: config.network.prefer == Family::V6,
        routes: routes(config),
        fast_mode: config.general.fast_mode,
        connect_timeout: Duration::from_secs(connect.tg_connect),
        connect_retries: connect.upstream_connect_retry_attempts,
        connect_backoff: Duration::from_millis(connect.upstream_connect_retry_backoff_ms),
        connect_budget: Duration::from_millis(connect.upstream_connect_budget_ms),
        failfast_hard_errors: connect.upstream_connect_failfast_hard_errors,
        unhealthy_fails: connect.upstream_unhealthy_fail_threshold,
        probe_every: Duration::from_secs(config.shards.probe_secs),
    }
}

/// The enabled entries in their order; without any entry one direct route (config.md 7).
pub(crate) fn routes(config: &Config) -> Vec<RouteSettings> {
    if config.upstreams.is_empty() {
        let network = &config.network;
        let ipv6 = network.ipv6 == Some(true);
        let prefer_ipv6 = network.prefer == Family::V6;
        return vec![RouteSettings::direct(network.ipv4, ipv6, prefer_ipv6)];
    }
    let enabled = config.upstreams.iter().filter(|entry| entry.enabled);
    enabled.filter_map(|entry| route(config, entry)).collect()
}

/// Servers of the enabled entries, behind the key that each is from; entries are counted from zero.
pub(crate) fn servers(config: &Config) -> impl Iterator<Item = (String, HostPort)> {
    let entries = config.upstreams.iter().enumerate();
    entries.filter_map(|(at, entry)| {
        let route = entry.enabled.then(|| route(config, entry))??;
        let key = match route.kind {
            RouteKind::Shadowsocks { .. } => "url",
            _ => "address",
        };
        Some((format!("upstreams[{at}].{key}"), route.server()?.clone()))
    })
}

/// The ways out of threads that are no shards.
pub(crate) fn route_out(config: &Config) -> RouteOut {
    let families = super::names::families(config);
    let out = RouteOut::new(routes(config), families, names::resolve);
    out.pin(&config.network.dns_overrides);
    out
}

/// `None` for an entry that the checks have refused.
fn route(config: &Config, entry: &Upstream) -> Option<RouteSettings> {
    let server = || entry.address.as_ref()?.0.parse::<HostPort>().ok();
    let secret = |text: &Option<String>| SecretText(text.as_deref().unwrap_or_default().into());
    let (ipv4, ipv6) = (&config.network.ipv4, config.network.ipv6 == Some(true));
    let kind = match entry.kind? {
        UpstreamKind::Direct => RouteKind::Direct,
        UpstreamKind::Socks4 => RouteKind::Socks4 {
            server: server()?,
            user_id: secret(&entry.user_id),
        },
        UpstreamKind::Socks5 => RouteKind::Socks5 {
            server: server()?,
            credentials: (entry.username.as_deref().unwrap_or_default() != "")
                .then(|| (secret(&entry.username), secret(&entry.password))),
        },
        UpstreamKind::Shadowsocks => shadowsocks(&entry.url.as_ref()?.0)?,
    };
    let ipv4 = entry.ipv4.unwrap_or(*ipv4);
    let ipv6 = entry.ipv6.unwrap_or(ipv6) && !matches!(kind, RouteKind::Socks4 { .. });
    Some(RouteSettings {
        source: source(entry),
        kind,
        weight: entry.weight,
        scopes: scopes(&entry.scopes),
        ipv4,
        ipv6,
        prefer_ipv6: entry.prefer.unwrap_or(config.network.prefer) == Family::V6,
    })
}

fn shadowsocks(url: &str) -> Option<RouteKind> {
    let url = ServerUrl::parse(url).ok()?;
    Some(RouteKind::Shadowsocks {
        server: HostPort::new(&url.host, url.port),
        key: url.key,
    })
}

fn source(entry: &Upstream) -> SourceSettings {
    // Bound addresses and devices are for direct routes (config.md 7).
    let direct = entry.kind == Some(UpstreamKind::Direct);
    let named = |name: &String| match name.parse() {
        Ok(address) => Interface::Address(address),
        Err(_) => Interface::Name(name.clone()),
    };
    let filled = |text: &&String| !text.trim().is_empty();
    SourceSettings {
        addresses: match direct {
            true => entry.bind_addresses.clone().unwrap_or_default(),
            false => Vec::new(),
        },
        interface: entry.interface.as_ref().filter(filled).map(named),
        device: (entry.bindtodevice.clone()).filter(|name| direct && filled(&name)),
    }
}

/// `"a, b"`: blank ones are none.
fn scopes(text: &str) -> Vec<String> {
    let all = text.split(',').map(str::trim);
    all.filter(|scope| !scope.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn wired(text: &str) -> UpstreamSettings {
        let users = "[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";
        let text = format!("[general]\nuse_middle_proxy = false\n{text}\n{users}");
        upstream(&parse(Path::new("config.toml"), text).unwrap().config)
    }

    #[test]
    fn without_entries_there_is_one_direct_route() {
        let routes = wired("[network]\nipv6 = true\nprefer = 6").routes;
        assert_eq!(routes, [RouteSettings::direct(true, true, true)]);
    }

    #[test]
    fn entries_become_routes_in_their_order() {
        let text = "[[upstreams]]\ntype = \"socks4\"\naddress = \"Proxy.example:1080\"\n\
                    user_id = \"me\"\nipv6 = true\nweight = 7\n\
                    [[upstreams]]\ntype = \"direct\"\nenabled = false\n\
                    [[upstreams]]\ntype = \"socks5\"\naddress = \"[::1]:1\"\nusername = \"u\"\n\
                    password = \"p\"\nscopes = \" a,,b \"\nprefer = 6\nipv6 = true\n\
                    interface = \"10.0.0.1\"\n\
                    [[upstreams]]\ntype = \"direct\"\nforce_bind = \"eth1\"\ninterface = \"eth0\"\n\
                    bind_addresses = [\"10.0.0.2\", \"::2\"]\n";
        let routes = wired(text).routes;
        assert_eq!(routes.len(), 3);
        let [socks4, socks5, direct] = &routes[..] else {
            panic!("three routes");
        };
        assert_eq!(socks4.server().unwrap().to_string(), "proxy.example:1080");
        assert_eq!((socks4.weight, socks4.ipv4, socks4.ipv6), (7, true, false));
        assert_eq!(socks5.scopes, ["a", "b"]);
        assert!(socks5.prefer_ipv6 && socks5.ipv6);
        let RouteKind::Socks5 { credentials, .. } = &socks5.kind else {
            panic!("SOCKS 5");
        };
        let (user, password) = credentials.clone().unwrap();
        assert_eq!((&*user.0, &*password.0), ("u", "p"));
        let at = Interface::Address([10, 0, 0, 1].into());
        assert_eq!(socks5.source.interface, Some(at));
        assert_eq!(direct.source.device.as_deref(), Some("eth1"));
        assert_eq!(direct.source.addresses.len(), 2);
        let name = Interface::Name("eth0".to_owned());
        assert_eq!(direct.source.interface, Some(name));
    }

    #[test]
    fn only_disabled_entries_leave_no_way_out() {
        let users = "[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";
        let warned = |entry: &str| {
            let text = format!("[[upstreams]]\ntype = \"direct\"\n{entry}\n{users}");
            let loaded = parse(Path::new("config.toml"), text).unwrap();
            let mut said = loaded.warnings.iter().map(ToString::to_string);
            said.any(|line| line.contains("no way out"))
        };
        assert!(warned("enabled = false") && warned("scopes = \"a\""));
        assert!(!warned("scopes = \" , \""));
        assert_eq!(
            wired("[[upstreams]]\ntype = \"direct\"\nenabled = false").routes,
            []
        );
    }
}
