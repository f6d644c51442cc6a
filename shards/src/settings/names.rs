//! Hosts as a configuration names them, and what their names mean at present.
//!
//! Shards never resolve: somebody on the control side does, and hands every shard another
//! [`NameTable`] when an answer has changed.

use std::{collections::HashMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

/// A host: an address, or a name that a [`NameTable`] knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Needs no table.
    Addr(IpAddr),
    /// In lower case, without a trailing dot.
    Name(Arc<str>),
}

impl Host {
    /// Reads an address, with or without brackets; everything else is a name.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        match bare.unwrap_or(text).parse::<IpAddr>() {
            Ok(ip) => Self::Addr(ip.to_canonical()),
            Err(_) => Self::Name(canonical(text).into()),
        }
    }

    /// The name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Addr(_) => None,
            Self::Name(name) => Some(name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Addr(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// A host and a TCP port on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Where.
    pub host: Host,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// A host as [`Host::new`] reads it.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        Self {
            host: Host::new(host),
            port,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A text that is no `host:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected host:port, IPv6 in brackets")]
pub struct NoHostPort;

impl FromStr for HostPort {
    type Err = NoHostPort;

    /// Reads `host:port`, IPv6 in brackets.
    fn from_str(text: &str) -> Result<Self, NoHostPort> {
        let (host, port) = text.trim().rsplit_once(':').ok_or(NoHostPort)?;
        let port = port.parse().map_err(|_| NoHostPort)?;
        let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare_v6 {
            return Err(NoHostPort);
        }
        Ok(Self::new(host, port))
    }
}

/// What host names mean at present, and which addresses are this host's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameTable {
    resolved: HashMap<String, Vec<IpAddr>>,
    pins: HashMap<String, HashMap<u16, IpAddr>>,
    own: Vec<IpAddr>,
}

impl NameTable {
    /// A table of answers; a pin (`network.dns_overrides`) wins over them for its port. `own`:
    /// addresses of local interfaces.
    pub fn new(
        resolved: impl IntoIterator<Item = (String, Vec<IpAddr>)>,
        pins: impl IntoIterator<Item = (String, u16, IpAddr)>,
        own: Vec<IpAddr>,
    ) -> Self {
        let mut table = Self {
            own,
            ..Self::default()
        };
        for (name, addresses) in resolved {
            table.resolved.insert(canonical(&name), addresses);
        }
        for (name, port, ip) in pins {
            let ports = table.pins.entry(canonical(&name)).or_default();
            ports.insert(port, ip);
        }
        table
    }

    /// Addresses of a target, best first; none while its name has never been resolved.
    #[must_use]
    pub fn addresses<'a>(&'a self, target: &'a HostPort) -> &'a [IpAddr] {
        let name = match &target.host {
            Host::Addr(ip) => return std::slice::from_ref(ip),
            Host::Name(name) => &**name,
        };
        let pinned = self.pins.get(name).and_then(|own| own.get(&target.port));
        match pinned {
            Some(ip) => std::slice::from_ref(ip),
            None => self.resolved.get(name).map_or(&[], Vec::as_slice),
        }
    }

    /// Whether an address is one of this host's interfaces. IPv4-mapped IPv6 is unwrapped.
    #[must_use]
    pub fn is_own(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip.to_canonical())
    }
}

fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_and_ports() {
        for (text, shown) in [
            ("Example.ORG:443", "example.org:443"),
            ("example.org.:8443", "example.org:8443"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[::ffff:192.0.2.1]:443", "192.0.2.1:443"),
        ] {
            let read = text.parse::<HostPort>().map(|host| host.to_string());
            assert_eq!(read.as_deref(), Ok(shown));
        }
        for bad in ["", "example.org", ":443", "a:65536", "2001:db8::1:443"] {
            assert_eq!(bad.parse::<HostPort>(), Err(NoHostPort), "{bad}");
        }
    }

    #[test]
    fn a_pin_wins_for_its_port_and_an_address_needs_no_entry() {
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let table = NameTable::new(
            [("Mask.example".to_owned(), vec![one])],
            [("mask.example.".to_owned(), 8443, two)],
            vec![two],
        );
        let at = |text: &str| {
            let target: HostPort = text.parse().unwrap();
            table.addresses(&target).to_vec()
        };
        assert_eq!(at("mask.example:443"), [one]);
        assert_eq!(at("mask.example:8443"), [two]);
        assert_eq!(at("192.0.2.7:1"), [IpAddr::from([192, 0, 2, 7])]);
        assert_eq!(at("other.example:443"), [] as [IpAddr; 0]);
        let mapped: IpAddr = "::ffff:192.0.2.2".parse().unwrap();
        assert!(table.is_own(two) && table.is_own(mapped) && !table.is_own(one));
    }
}
