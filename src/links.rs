//! Proxy links: which hosts and port they name, one set per user, and QR codes for a terminal.
//!
//! Everything comes from the file; the only thing asked of the host is which of its addresses a
//! packet to the Internet would carry. Source: control-api.md 13, config.md 8.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};
use shards::proto::secret::{LinkSecret, Secret};

use crate::config::Config;

/// All links of one user; a mode that is off has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UserLinks {
    /// Bare secrets.
    pub(crate) classic: Vec<String>,
    /// `dd` secrets.
    pub(crate) secure: Vec<String>,
    /// `ee` secrets, for each host the main domain first.
    pub(crate) tls: Vec<String>,
    /// Those of the extra domains again, by domain.
    pub(crate) tls_domains: Vec<DomainLink>,
}

/// A link for an extra FakeTLS domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DomainLink {
    /// The domain.
    pub(crate) domain: String,
    /// The link.
    pub(crate) link: String,
}

impl UserLinks {
    /// Every link once, the hardest to recognise first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.tls
            .iter()
            .chain(&self.secure)
            .chain(&self.classic)
            .map(String::as_str)
    }
}

/// Our own addresses as the routing table knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detected {
    /// For IPv4.
    pub(crate) v4: Option<Ipv4Addr>,
    /// For IPv6.
    pub(crate) v6: Option<Ipv6Addr>,
}

impl Detected {
    /// Asks the routing table; sends nothing.
    pub(crate) fn find() -> Self {
        // A connected UDP socket has been given its source address without a packet on the wire.
        let source = |bind: IpAddr, target: IpAddr| {
            let socket = UdpSocket::bind(SocketAddr::new(bind, 0)).ok()?;
            socket.connect(SocketAddr::new(target, 443)).ok()?;
            let ip = socket.local_addr().ok()?.ip();
            (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
        };
        let v4 = source(Ipv4Addr::UNSPECIFIED.into(), TARGET_V4.into());
        let v6 = source(Ipv6Addr::UNSPECIFIED.into(), TARGET_V6.into());
        Self {
            v4: v4.and_then(|ip| {
                if let IpAddr::V4(v4) = ip {
                    Some(v4)
                } else {
                    None
                }
            }),
            v6: v6.and_then(|ip| {
                if let IpAddr::V6(v6) = ip {
                    Some(v6)
                } else {
                    None
                }
            }),
        }
    }
}

/// What all links have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkBase {
    /// Hosts in order, at least one.
    pub(crate) hosts: Vec<String>,
    /// The port.
    pub(crate) port: u16,
}

impl LinkBase {
    /// Hosts and port that the file and the host's addresses lead to.
    pub(crate) fn new(config: &Config, detected: Detected) -> Self {
        Self {
            hosts: hosts(config, detected),
            port: port(config),
        }
    }

    /// The links of a user with this secret.
    pub(crate) fn links(&self, config: &Config, secret: Secret) -> UserLinks {
        let each = |on: bool, secret: LinkSecret| {
            let hosts = self.hosts.iter().filter(|_| on);
            hosts
                .map(|host| self.link(host, &secret))
                .collect::<Vec<_>>()
        };
        let mut links = UserLinks {
            classic: each(config.modes.classic, LinkSecret::Classic(secret)),
            secure: each(config.modes.secure, LinkSecret::Secure(secret)),
            ..UserLinks::default()
        };
        for host in self.hosts.iter().filter(|_| config.modes.tls) {
            let tls = |domain: &str| {
                self.link(
                    host,
                    &LinkSecret::Tls {
                        secret,
                        domain: domain.to_owned(),
                    },
                )
            };
            links.tls.push(tls(&config.censorship.tls_domain.0));
            for domain in &config.censorship.tls_domains {
                let (domain, link) = (domain.0.clone(), tls(&domain.0));
                links.tls.push(link.clone());
                links.tls_domains.push(DomainLink { domain, link });
            }
        }
        links
    }

    /// Nothing is escaped: panels compare the text.
    fn link(&self, host: &str, secret: &LinkSecret) -> String {
        format!(
            "tg://proxy?server={host}&port={}&secret={}",
            self.port,
            secret.to_hex()
        )
    }
}

fn hosts(config: &Config, detected: Detected) -> Vec<String> {
    let public = config.links.public_host.as_deref().map(str::trim);
    if let Some(host) = public.filter(|host| !host.is_empty()) {
        return vec![host.to_owned()];
    }
    let mut hosts: Vec<String> = Vec::new();
    for listener in &config.listeners {
        let host = match (&listener.announce, listener.ip) {
            (Some(announced), _) => announced.trim().to_owned(),
            (None, Some(IpAddr::V4(ip))) if ip.is_unspecified() => {
                detected.v4.unwrap_or(ip).to_string()
            }
            (None, Some(IpAddr::V6(ip))) if ip.is_unspecified() => {
                detected.v6.unwrap_or(ip).to_string()
            }
            (None, Some(ip)) => ip.to_string(),
            (None, None) => continue,
        };
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        hosts.push(implicit_host(config, detected));
    }
    hosts
}

/// The host when no listener is configured.
fn implicit_host(config: &Config, detected: Detected) -> String {
    let v6 = detected.v6.filter(|_| config.network.ipv6 == Some(true));
    let found = detected.v4.map(IpAddr::V4).or(v6.map(IpAddr::V6));
    let server = &config.server;
    let bound = [
        server.listen_addr_ipv4.map(IpAddr::V4),
        server.listen_addr_ipv6.map(IpAddr::V6),
    ];
    let bound = bound.into_iter().flatten().find(|ip| !ip.is_unspecified());
    found
        .or(bound)
        .map_or_else(|| "UNKNOWN".to_owned(), |ip| ip.to_string())
}

fn port(config: &Config) -> u16 {
    let first = config.listeners.first().and_then(|listener| listener.port);
    config
        .links
        .public_port
        .filter(|port| *port != 0)
        .or(first)
        .unwrap_or(config.server.port)
}

/// Name and links of the chosen users, each with a QR code of its first link if asked for.
pub(crate) fn page(
    config: &Config,
    base: &LinkBase,
    chosen: &dyn Fn(&str) -> bool,
    qr: bool,
) -> String {
    let mut page = String::new();
    for (name, secret) in config
        .access
        .users
        .0
        .iter()
        .filter(|(name, _)| chosen(name))
    {
        let links = base.links(config, secret.0);
        let state = config.access.user_enabled.get(name).copied();
        let note = if state == Some(false) {
            " (disabled)"
        } else {
            ""
        };
        // Writing to a String cannot fail.
        let _ = writeln!(page, "{name}{note}");
        for link in links.all() {
            let _ = writeln!(page, "  {link}");
        }
        if let Some(code) = links.all().next().filter(|_| qr).and_then(qr_code) {
            let _ = writeln!(page, "{code}");
        }
    }
    page
}

/// A QR code of half blocks, light on dark; `None` when the text is too long for one.
fn qr_code(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let dark_terminal = code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build();
    Some(dark_terminal)
}

/// Documentation networks: routed like the Internet, owned by nobody.
const TARGET_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TARGET_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    const HEX: &str = "3f1c0e5ab2d94c7786f0a1b2c3d4e5f6";

    fn config(text: &str) -> Config {
        let text = format!("{text}\n[access.users]\nalice = \"{HEX}\"\n");
        parse(Path::new("config.toml"), text).unwrap().config
    }

    const FOUND: Detected = Detected {
        v4: Some(Ipv4Addr::new(203, 0, 113, 7)),
        v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
    };

    #[test]
    fn names_hosts_and_port_in_the_contracts_order() {
        let v6 = "[network]\nipv6 = true\n";
        let listeners = "[[server.listeners]]\nip = \"0.0.0.0\"\nport = 7\n\
                         [[server.listeners]]\nip = \"::\"\n\
                         [[server.listeners]]\nip = \"192.0.2.4\"\nannounce = \"a.example\"\n\
                         [[server.listeners]]\nip = \"203.0.113.7\"\n";
        let none = Detected::default();
        for (text, detected, hosts, port) in [
            (
                "[general.links]\npublic_host = \"p.example\"\npublic_port = 9",
                FOUND,
                "p.example",
                9,
            ),
            (
                "[general.links]\npublic_host = \" \"\n",
                FOUND,
                "203.0.113.7",
                443,
            ),
            (listeners, FOUND, "203.0.113.7 2001:db8::9 a.example", 7),
            (listeners, none, "0.0.0.0 :: a.example 203.0.113.7", 7),
            ("", none, "UNKNOWN", 443),
            (
                "[server]\nport = 8\nlisten_addr_ipv4 = \"192.0.2.5\"",
                none,
                "192.0.2.5",
                8,
            ),
            (v6, Detected { v4: None, ..FOUND }, "2001:db8::9", 443),
            ("", Detected { v4: None, ..FOUND }, "UNKNOWN", 443),
        ] {
            let base = LinkBase::new(&config(text), detected);
            assert_eq!(
                (base.hosts.join(" ").as_str(), base.port),
                (hosts, port),
                "{text}"
            );
        }
    }

    #[test]
    fn makes_the_links_of_every_mode() {
        let config = config(
            "[general.links]\npublic_host = \"h\"\n[general.modes]\nclassic = true\nsecure = true\n\
             [censorship]\ntls_domain = \"a.io\"\ntls_domains = [\"b.io\"]",
        );
        let base = LinkBase::new(&config, FOUND);
        let links = base.links(&config, config.access.users.0[0].1.0);
        let start = "tg://proxy?server=h&port=443&secret=";
        assert_eq!(links.classic, [format!("{start}{HEX}")]);
        assert_eq!(links.secure, [format!("{start}dd{HEX}")]);
        let extra = format!("{start}ee{HEX}622e696f");
        assert_eq!(
            links.tls,
            [format!("{start}ee{HEX}612e696f"), extra.clone()]
        );
        assert_eq!(
            links.tls_domains,
            [DomainLink {
                domain: "b.io".into(),
                link: extra
            }]
        );
        let page = page(&config, &base, &|name| name == "alice", true);
        assert!(page.starts_with("alice\n  tg://") && page.contains('▄'));
        assert_eq!(super::page(&config, &base, &|_| false, true), "");
    }
}
