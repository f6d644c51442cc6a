//! Under which address the ME sees us: it enters the keys, and a wrong one ends the handshake
//! without an explanation.
//!
//! Source: middle-proxy.md 9.1.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::bound;

/// What is known when a dial is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The ME, as dialled.
    pub me: SocketAddr,
    /// Our socket.
    pub local: SocketAddr,
    /// The way out.
    pub via: Via,
    /// `middle_proxy_nat_ip`.
    pub nat_ip: Option<IpAddr>,
    /// What STUN, or HTTP for IPv4, says in the ME's family.
    pub reflected: Option<IpAddr>,
}

/// The way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// Straight.
    Direct,
    /// Through a SOCKS server.
    Socks {
        /// What it reported, see [`bound::reported`].
        reported: Option<SocketAddr>,
        /// What to do when that is not usable.
        policy: BoundPolicy,
    },
}

/// What to do without a usable address from a SOCKS server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BoundPolicy {
    /// Refuse the dial: such a server's exit mostly differs from ours.
    #[default]
    Strict,
    /// Go on as if connected straight.
    Compat,
}

/// Our address for the keys, and why this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyAddress {
    /// For [`super::keys::KeyMaterial::proxy`].
    pub addr: SocketAddr,
    /// Where its IP comes from.
    pub source: Source,
    /// A SOCKS server reported nothing usable: count `socks_kdf_compat_fallback_total`.
    pub fell_back: bool,
}

/// Where an IP comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The SOCKS server, port included.
    Bound,
    /// The setting.
    NatIp,
    /// The socket, a public address.
    Local,
    /// STUN or HTTP.
    Reflected,
    /// The socket, an address the Internet does not know; fine in tests.
    LocalBogon,
}

/// The SOCKS server reported nothing usable and the policy is strict: refuse the dial and count
/// `socks_kdf_strict_reject_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SOCKS server did not report a usable address")]
pub struct NoBound;

impl Known {
    /// The first row of the table that applies.
    ///
    /// STUN's port is never used: it belongs to another socket.
    ///
    /// # Errors
    /// [`NoBound`].
    pub fn proxy_address(&self) -> Result<ProxyAddress, NoBound> {
        let mut fell_back = false;
        if let Via::Socks { reported, policy } = self.via {
            match (bound::judge(reported, self.me).usable, policy) {
                (Some(addr), _) => {
                    let source = Source::Bound;
                    return Ok(ProxyAddress {
                        addr,
                        source,
                        fell_back,
                    });
                }
                (None, BoundPolicy::Strict) => return Err(NoBound),
                (None, BoundPolicy::Compat) => fell_back = true,
            }
        }
        let local = self.local.ip().to_canonical();
        let fits = |ip: &IpAddr| same_family(*ip, self.me.ip());
        let nat_ip = self.nat_ip.map(|ip| ip.to_canonical()).filter(fits);
        let reflected = self.reflected.map(|ip| ip.to_canonical()).filter(fits);
        let (ip, source) = match (nat_ip, is_bogon(local), reflected) {
            (Some(ip), _, _) => (ip, Source::NatIp),
            (None, false, _) => (local, Source::Local),
            (None, true, Some(ip)) => (ip, Source::Reflected),
            (None, true, None) => (local, Source::LocalBogon),
        };
        Ok(ProxyAddress {
            addr: SocketAddr::new(ip, self.local.port()),
            source,
            fell_back,
        })
    }
}

/// Both IPv4, mapped or not, or both IPv6.
pub fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.to_canonical().is_ipv4() == b.to_canonical().is_ipv4()
}

/// An address that cannot be anybody's on the Internet.
///
/// Source: middle-proxy.md 9.1, "Bogon".
pub fn is_bogon(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_bogon_v4(ip),
        IpAddr::V6(ip) => is_bogon_v6(ip),
    }
}

fn is_bogon_v4(ip: Ipv4Addr) -> bool {
    matches!(
        ip.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 168, ..]
            | [198, 18..=19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

fn is_bogon_v6(ip: Ipv6Addr) -> bool {
    matches!(
        ip.segments(),
        // ::, ::1 and the mapped addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1]
            | [0, 0, 0, 0, 0, 0xffff, ..]
            | [0x100, 0, 0, 0, ..]
            | [0x2001, 0xdb8, ..]
            | [0x2002, ..]
            | [0xfc00..=0xfdff, ..]
            | [0xfe80..=0xfebf, ..]
            | [0xff00..=0xffff, ..]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_bogons_to_their_edges() {
        for (ips, bogon) in [
            (
                "0.1.2.3 10.255.0.1 100.64.0.0 100.127.255.255 127.0.0.1 169.254.9.9 172.16.0.0 \
                 172.31.255.255 192.0.0.1 192.0.2.1 192.168.1.1 198.18.0.0 198.19.255.255 \
                 198.51.100.7 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1 \
                 ::ffff:8.8.8.8 100::1 2001:db8::1 2002:1::1 fc00::1 fdff::1 fe80::1 febf::1 ff02::1",
                true,
            ),
            (
                "1.1.1.1 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.0 169.253.1.1 172.15.1.1 \
                 172.32.0.1 192.0.1.1 192.1.0.1 192.167.1.1 198.17.1.1 198.20.0.1 198.51.101.1 \
                 203.0.112.1 223.255.255.255 ::2 ::1:0:0 100:1::1 2001:db9::1 2003::1 fbff::1 \
                 fe00::1 fec0::1 2a00::1",
                false,
            ),
        ] {
            for ip in ips.split_whitespace() {
                assert_eq!(is_bogon(ip.parse().unwrap()), bogon, "{ip}");
            }
        }
    }

    /// `local`, `nat_ip`, `reflected` and the way out; the ME is IPv4.
    fn check(
        local: &str,
        nat: &str,
        reflected: &str,
        via: Via,
    ) -> Result<(String, Source), NoBound> {
        let known = Known {
            me: "149.154.175.50:8888".parse().unwrap(),
            local: local.parse().unwrap(),
            via,
            nat_ip: nat.parse().ok(),
            reflected: reflected.parse().ok(),
        };
        let found = known.proxy_address()?;
        assert_eq!(
            found.fell_back,
            via != Via::Direct && found.source != Source::Bound
        );
        Ok((found.addr.to_string(), found.source))
    }

    #[test]
    fn first_row_that_applies_wins() {
        let socks = |reported: &str, policy| Via::Socks {
            reported: reported.parse().ok(),
            policy,
        };
        let (strict, compat) = (BoundPolicy::Strict, BoundPolicy::Compat);
        for (local, nat, reflected, via, want) in [
            (
                "1.1.1.1:5",
                "",
                "",
                Via::Direct,
                ("1.1.1.1:5", Source::Local),
            ),
            (
                "[::ffff:1.1.1.1]:5",
                "",
                "",
                Via::Direct,
                ("1.1.1.1:5", Source::Local),
            ),
            (
                "1.1.1.1:5",
                "9.9.9.9",
                "8.8.8.8",
                Via::Direct,
                ("9.9.9.9:5", Source::NatIp),
            ),
            (
                "1.1.1.1:5",
                "2a00::1",
                "8.8.8.8",
                Via::Direct,
                ("1.1.1.1:5", Source::Local),
            ),
            (
                "10.0.0.1:5",
                "",
                "8.8.8.8",
                Via::Direct,
                ("8.8.8.8:5", Source::Reflected),
            ),
            (
                "10.0.0.1:5",
                "",
                "2a00::1",
                Via::Direct,
                ("10.0.0.1:5", Source::LocalBogon),
            ),
            (
                "10.0.0.1:5",
                "",
                "",
                socks("7.7.7.7:70", strict),
                ("7.7.7.7:70", Source::Bound),
            ),
            (
                "10.0.0.1:5",
                "6.6.6.6",
                "",
                socks("7.7.7.7:0", compat),
                ("6.6.6.6:5", Source::NatIp),
            ),
            (
                "10.0.0.1:5",
                "",
                "8.8.8.8",
                socks("", compat),
                ("8.8.8.8:5", Source::Reflected),
            ),
        ] {
            let (addr, source) = check(local, nat, reflected, via).unwrap();
            assert_eq!((addr.as_str(), source), want);
        }
        for reported in ["", "10.0.0.1:7", "7.7.7.7:0", "[2a00::1]:7"] {
            let refused = check("1.1.1.1:5", "9.9.9.9", "", socks(reported, strict));
            assert_eq!(refused, Err(NoBound));
        }
    }
}
