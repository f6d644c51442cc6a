//! Listeners, PROXY headers and places of the data plane. Source: config.md 8.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shards::settings::{ListenerSettings, PlaceSettings, ProxySettings, UnixListenerSettings};

use super::CONNECTIONS_MAX;
use crate::config::{Config, server::Listener, sockets::Mss};

/// Addresses to listen on, and those left out because their family is off (config.md 8).
pub(crate) fn listeners(config: &Config) -> (Vec<ListenerSettings>, Vec<SocketAddr>) {
    let server = &config.server;
    let each = config.listeners.iter();
    let mut wanted: Vec<_> = each.filter_map(|own| explicit(config, own)).collect();
    if config.listeners.is_empty() && server.listen_tcp != Some(false) {
        let v4 = server.listen_addr_ipv4.map(IpAddr::V4);
        let v6 = server.listen_addr_ipv6.map(IpAddr::V6);
        let here = |ip| common(config, SocketAddr::new(ip, server.port));
        wanted.extend(v4.map(here));
        // The default address of a family that is off is nothing to report.
        wanted.extend(v6.map(here).filter(|_| config.network.ipv6 == Some(true)));
    }
    // Of two at one address the first counts.
    wanted.dedup_by_key(|listener| listener.addr);
    let (v4, v6) = (config.network.ipv4, config.network.ipv6 == Some(true));
    let is_on = |addr: &SocketAddr| if addr.is_ipv4() { v4 } else { v6 };
    let (bound, skipped): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .partition(|listener| is_on(&listener.addr));
    let skipped = skipped.into_iter().map(|listener| listener.addr);
    (bound, skipped.collect())
}

/// One `[[server.listeners]]`; it has an address, or the file was refused.
fn explicit(config: &Config, own: &Listener) -> Option<ListenerSettings> {
    let addr = SocketAddr::new(own.ip?, own.port.unwrap_or(config.server.port));
    let common = common(config, addr);
    Some(ListenerSettings {
        proxy: own.proxy_protocol.unwrap_or(common.proxy),
        mss: own.client_mss.map_or(common.mss, |Mss(size)| size),
        shared: own.reuse_allow,
        ..common
    })
}

/// What all listeners have unless they say otherwise.
fn common(config: &Config, addr: SocketAddr) -> ListenerSettings {
    let server = &config.server;
    ListenerSettings {
        addr,
        backlog: server.listen_backlog,
        proxy: server.proxy_protocol,
        mss: server.client_mss.and_then(|Mss(size)| size),
        shared: false,
    }
}

/// `listen_unix_sock`.
pub(crate) fn unix(config: &Config) -> Option<UnixListenerSettings> {
    let server = &config.server;
    let path = server.listen_unix_sock.as_ref()?;
    Some(UnixListenerSettings {
        path: path.0.clone().into(),
        mode: server.listen_unix_sock_perm.map(|mode| mode.0),
        backlog: server.listen_backlog,
        proxy: server.proxy_protocol,
    })
}

/// Whose PROXY headers are believed.
pub(crate) fn proxy(config: &Config) -> ProxySettings {
    let server = &config.server;
    ProxySettings {
        trusted: server.proxy_protocol_trusted_cidrs.clone().into(),
        header_timeout: Duration::from_millis(server.proxy_protocol_header_timeout_ms),
    }
}

/// How many descriptors the process may come to need: two for each client, and some of its own.
pub(crate) fn descriptors(config: &Config) -> u64 {
    places(config).connections_max as u64 * 2 + OWN_DESCRIPTORS
}

/// How many clients there may be.
pub(crate) fn places(config: &Config) -> PlaceSettings {
    let server = &config.server;
    PlaceSettings {
        connections_max: match server.max_connections {
            0 => CONNECTIONS_MAX,
            some => some as usize,
        },
        wait: match server.accept_permit_timeout_ms {
            0 => None,
            ms => Some(Duration::from_millis(ms)),
        },
    }
}

/// Listeners, ME connections, files, connections of the API.
const OWN_DESCRIPTORS: u64 = 1_024;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn config(text: &str) -> Config {
        let text = format!("{text}\n[access.users]\nalice = \"{}\"\n", "3f".repeat(16));
        parse(Path::new("config.toml"), text).unwrap().config
    }

    #[test]
    fn listeners_have_their_own_settings_or_everybodys() {
        let config = config(
            "[network]\nipv6 = true\n\
             [server]\nport = 7\nclient_mss = \"tspu\"\nproxy_protocol = true\nlisten_backlog = 9\n\
             [[server.listeners]]\nip = \"192.0.2.1\"\n\
             [[server.listeners]]\nip = \"192.0.2.1\"\nreuse_allow = true\n\
             [[server.listeners]]\nip = \"::\"\nport = 8\nclient_mss = \"\"\n\
             proxy_protocol = false\nreuse_allow = true\n",
        );
        let (all, skipped) = listeners(&config);
        assert!(skipped.is_empty());
        let first = ListenerSettings {
            addr: "192.0.2.1:7".parse().unwrap(),
            backlog: 9,
            proxy: true,
            mss: Some(92),
            shared: false,
        };
        let second = ListenerSettings {
            addr: "[::]:8".parse().unwrap(),
            proxy: false,
            mss: None,
            shared: true,
            ..first.clone()
        };
        assert_eq!(all, [first, second]);
    }

    #[test]
    fn families_that_are_off_are_left_out_and_told() {
        let config = config(
            "[network]\nipv4 = false\nipv6 = true\n\
             [[server.listeners]]\nip = \"192.0.2.1\"\n[[server.listeners]]\nip = \"::1\"\n",
        );
        let (all, skipped) = listeners(&config);
        assert_eq!(all.len(), 1);
        assert_eq!(skipped, ["192.0.2.1:443".parse().unwrap()]);
    }

    #[test]
    fn zero_waits_without_limit_and_counts_without_bound() {
        let given = |text: &str| places(&config(&format!("[server]\n{text}")));
        let default = given("");
        assert_eq!(default.connections_max, 10_000);
        assert_eq!(default.wait, Some(Duration::from_millis(250)));
        let none = given("max_connections = 0\naccept_permit_timeout_ms = 0");
        assert_eq!(none.connections_max, CONNECTIONS_MAX);
        assert_eq!(none.wait, None);
    }

    #[test]
    fn everybody_is_trusted_unless_the_file_names_some() {
        let given = |text: &str| proxy(&config(&format!("[server]\n{text}")));
        assert_eq!(given("").trusted.len(), 2);
        assert_eq!(given("proxy_protocol_trusted_cidrs = []").trusted.len(), 0);
        let all = "listen_unix_sock = \"/run/x\"\nlisten_unix_sock_perm = \"0660\"";
        let unix = unix(&config(&format!("[server]\n{all}"))).unwrap();
        assert_eq!(
            (unix.mode, unix.backlog, unix.proxy),
            (Some(0o660), 1024, false)
        );
    }
}
