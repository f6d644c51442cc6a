//! Where strangers are sent, and how long they may stay (`[censorship]`, the keys of the mask).

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::HostPort;
use crate::proto::proxy_protocol::Version;

/// The site that strangers see. Source: protocol.md 7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskSettings {
    /// Where those go who name nothing that is listed below.
    pub target: Arc<MaskTarget>,
    /// Where those go who name a host in SNI: names in lower case. The operator's own map, and the
    /// FakeTLS domains where those are sites of their own.
    pub by_sni: HashMap<String, Arc<MaskTarget>>,
    /// A PROXY header goes before the first byte.
    pub proxy_header: Option<Version>,
    /// Bytes of each direction; `None` is no limit.
    pub bytes_max: Option<u64>,
    /// The longest life of a splice.
    pub lifetime: Duration,
    /// A splice with nothing in either direction for so long ends.
    pub idle: Duration,
    /// Splices of one shard at a time; further strangers wait.
    pub splices_max: usize,
    /// First byte to mask host, milliseconds, drawn uniformly; `None` does not wait.
    pub pace_ms: Option<(u64, u64)>,
    /// Listening and public addresses of ours: never a target.
    pub own: OwnAddresses,
}

/// One place that strangers can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskTarget {
    /// A TCP port.
    Tcp(HostPort),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for MaskTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => at.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What a mask target must not be. Source: protocol.md 7.3.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Where clients are accepted; filled in when they are bound.
    pub listeners: Vec<SocketAddr>,
    /// Public addresses from the configuration, for hosts behind NAT.
    pub public: Vec<IpAddr>,
}

impl OwnAddresses {
    /// Whether connecting to `target` would come back to us; `is_local` knows the addresses of
    /// this host's interfaces. IPv4-mapped IPv6 is unwrapped.
    #[must_use]
    pub fn has(&self, target: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> bool {
        let ip = target.ip().to_canonical();
        let ports = self
            .listeners
            .iter()
            .filter(|own| own.port() == target.port());
        let mut ours = ports.map(|own| own.ip().to_canonical()).peekable();
        if ours.peek().is_some() && self.public.contains(&ip) {
            return true;
        }
        ours.any(|own| {
            let here = ip.is_loopback() || ip.is_unspecified() || is_local(ip);
            // Connecting to the unspecified address of one family reaches its loopback.
            let meant = ip.is_unspecified() && own.is_loopback();
            ip == own || (own.is_unspecified() && here) || meant
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_leads_back_to_us_is_known() {
        let local: IpAddr = "10.0.0.1".parse().unwrap();
        let public: IpAddr = "203.0.113.9".parse().unwrap();
        let own = |listener: &str| OwnAddresses {
            listeners: vec![listener.parse().unwrap()],
            public: vec![public],
        };
        for (listener, target, want) in [
            ("0.0.0.0:443", "127.0.0.1:443", true),
            ("0.0.0.0:443", "127.9.9.9:443", true),
            ("0.0.0.0:443", "0.0.0.0:443", true),
            ("0.0.0.0:443", "10.0.0.1:443", true),
            ("0.0.0.0:443", "[::1]:443", true),
            ("0.0.0.0:443", "[::ffff:10.0.0.1]:443", true),
            ("[::]:443", "10.0.0.1:443", true),
            ("0.0.0.0:443", "10.0.0.1:8443", false),
            ("0.0.0.0:443", "10.0.0.2:443", false),
            ("10.0.0.1:443", "10.0.0.1:443", true),
            ("10.0.0.1:443", "127.0.0.1:443", false),
            ("127.0.0.1:443", "0.0.0.0:443", true),
            ("127.0.0.1:443", "127.0.0.2:443", false),
            ("10.0.0.1:443", "203.0.113.9:443", true),
            ("10.0.0.1:443", "203.0.113.9:80", false),
        ] {
            let got = own(listener).has(target.parse().unwrap(), |ip| ip == local);
            assert_eq!(got, want, "{target} with a listener on {listener}");
        }
    }
}
