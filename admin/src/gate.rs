//! The gates that come before routing: switched on, peer address, `Authorization`.
//!
//! Source: control-api.md 2 and 14.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use subtle::ConstantTimeEq;

/// Peers that may speak.
pub(crate) struct Whitelist {
    /// IPv4-mapped IPv6 networks are kept as IPv4.
    nets: Vec<IpNet>,
}

impl Whitelist {
    pub(crate) fn new(entries: &[IpNet]) -> Self {
        Self {
            nets: entries.iter().map(unmapped).collect(),
        }
    }

    /// An empty list allows everybody. IPv4-mapped peers are unwrapped first (conflict C22).
    pub(crate) fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.nets.is_empty() || self.nets.iter().any(|net| net.contains(&peer))
    }
}

/// Whether the whole value of the first `Authorization` header is `expected`; time does not depend
/// on where they differ. An empty `expected` lets everything pass.
pub(crate) fn authorized(expected: &str, given: Option<&[u8]>) -> bool {
    if expected.is_empty() {
        return true;
    }
    let given = given.unwrap_or_default();
    given.ct_eq(expected.as_bytes()).into()
}

fn unmapped(net: &IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(prefix_len) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, prefix_len)
    {
        return IpNet::V4(v4);
    }
    *net
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(entries: &[&str], peer: &str) -> bool {
        let nets: Vec<IpNet> = entries.iter().map(|entry| entry.parse().unwrap()).collect();
        Whitelist::new(&nets).allows(peer.parse().unwrap())
    }

    #[test]
    fn whitelist_unwraps_mapped_addresses() {
        assert!(allows(&[], "203.0.113.9"));
        assert!(allows(&["127.0.0.0/8"], "127.1.2.3"));
        assert!(allows(&["127.0.0.0/8"], "::ffff:127.0.0.1"));
        assert!(!allows(&["127.0.0.0/8"], "::ffff:10.0.0.1"));
        assert!(!allows(&["127.0.0.0/8"], "::1"));
        assert!(allows(&["10.0.0.1/32", "fd00::/8"], "fd12::1"));
        assert!(allows(&["::ffff:10.0.0.0/104"], "10.1.2.3"));
        assert!(allows(&["::/0"], "::1"));
    }

    #[test]
    fn authorization_is_compared_as_a_whole() {
        assert!(authorized("", None));
        assert!(authorized("Bearer x", Some(b"Bearer x")));
        for given in [
            None,
            Some(&b""[..]),
            Some(b"Bearer"),
            Some(b"bearer x"),
            Some(b"Bearer xx"),
        ] {
            assert!(!authorized("Bearer x", given), "{given:?}");
        }
    }
}
