//! The ways out to Telegram: one [`RouteSettings`] for each enabled `[[upstreams]]`.
//!
//! Not here: what was learned of them (`policy/upstream`), how they are connected through
//! (`net/connector`). Built by `wiring`.

use std::{fmt, net::IpAddr};

use super::HostPort;
use crate::proto::shadowsocks::ServerKey;

/// One way out. Source: protocol.md 9, config.md 7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The first hop.
    pub kind: RouteKind,
    /// Where its sockets are bound. Of no effect where the first hop is told by name.
    pub source: SourceSettings,
    /// Share of new connections, against the other routes' and before their latencies count; a
    /// route with 0 is taken only when no other is left.
    pub weight: u16,
    /// What it is reserved for; empty: connections without a scope, which are those of clients.
    pub scopes: Vec<String>,
    /// DCs may be reached by IPv4.
    pub ipv4: bool,
    /// DCs may be reached by IPv6; never through SOCKS 4.
    pub ipv6: bool,
    /// IPv6 is tried before IPv4.
    pub prefer_ipv6: bool,
}

impl RouteSettings {
    /// Straight out, in the families that are on.
    #[must_use]
    pub fn direct(ipv4: bool, ipv6: bool, prefer_ipv6: bool) -> Self {
        Self {
            kind: RouteKind::Direct,
            source: SourceSettings::default(),
            weight: 1,
            scopes: Vec::new(),
            ipv4,
            ipv6,
            prefer_ipv6,
        }
    }

    /// Whether connections of this scope may take it.
    #[must_use]
    pub fn serves(&self, scope: Option<&str>) -> bool {
        match scope {
            None => self.scopes.is_empty(),
            Some(scope) => self.scopes.iter().any(|own| own == scope),
        }
    }

    /// The server of the first hop; `None` where that is the DC itself.
    #[must_use]
    pub fn server(&self) -> Option<&HostPort> {
        match &self.kind {
            RouteKind::Direct => None,
            RouteKind::Socks4 { server, .. }
            | RouteKind::Socks5 { server, .. }
            | RouteKind::Shadowsocks { server, .. } => Some(server),
        }
    }
}

/// The first hop of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// The DC itself.
    Direct,
    /// A SOCKS 4 server.
    Socks4 {
        /// Where it is.
        server: HostPort,
        /// May be empty; at most 255 bytes, none of them zero.
        user_id: SecretText,
    },
    /// A SOCKS 5 server.
    Socks5 {
        /// Where it is.
        server: HostPort,
        /// User name and password, 1 to 255 bytes each.
        credentials: Option<(SecretText, SecretText)>,
    },
    /// A Shadowsocks server.
    Shadowsocks {
        /// Where it is.
        server: HostPort,
        /// Method and key.
        key: ServerKey,
    },
}

/// Where outgoing sockets are bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSettings {
    /// Source addresses, used in turn; of a family without one nothing is reached. Wins over the
    /// interface.
    pub addresses: Vec<IpAddr>,
    /// An address, or an interface whose first usable address of the family is taken.
    pub interface: Option<Interface>,
    /// `SO_BINDTODEVICE`; needs `CAP_NET_RAW`.
    pub device: Option<String>,
}

/// What `interface` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// One of our addresses.
    Address(IpAddr),
    /// An interface, such as `eth0`.
    Name(String),
}

/// Text that is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(pub Box<str>);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_reserve_a_route() {
        let mut route = RouteSettings::direct(true, false, false);
        assert!(route.serves(None) && !route.serves(Some("front")));
        route.scopes = vec!["front".to_owned(), "me".to_owned()];
        assert!(!route.serves(None) && route.serves(Some("front")) && !route.serves(Some("fro")));
    }

    #[test]
    fn credentials_are_not_shown() {
        let kind = RouteKind::Socks5 {
            server: "127.0.0.1:1".parse().unwrap(),
            credentials: Some((SecretText("alice".into()), SecretText("pass".into()))),
        };
        let shown = format!("{kind:?}");
        assert!(
            !shown.contains("alice") && !shown.contains("pass"),
            "{shown}"
        );
    }
}
