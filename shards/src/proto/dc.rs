//! DC ids and the addresses they stand for (protocol.md 1).
//!
//! Pure lookup; who dials, in which family and how often is decided by `policy` and `net`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The signed DC id of an obfuscated2 header; negative asks for media, 10001.. for test DCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DcId(pub i16);

impl DcId {
    /// A connection for uploads and downloads; in direct mode it goes where the others go.
    pub fn is_media(self) -> bool {
        self.0 < 0
    }

    /// The id without its sign. `i16::MIN` has no positive twin and stays as it is: unknown.
    pub fn base(self) -> Self {
        Self(self.0.wrapping_abs())
    }
}

/// Addresses of every DC: overrides, built-in tables, and what to do with an unknown id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcTable {
    /// Operator's addresses by exact id; an entry replaces the built-in addresses of its id.
    pub overrides: BTreeMap<i16, Vec<SocketAddr>>,
    /// The DC for id 0 and, by [`UnknownDc::Default`], for unknown ids.
    pub default_dc: i16,
    /// Policy for ids that no table knows.
    pub unknown: UnknownDc,
}

/// What to do with a DC id that no table knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownDc {
    /// Connect to the default DC: a TDLib client without a DC id sends random bytes.
    Default,
    /// Close.
    Reject,
}

impl DcTable {
    /// No overrides, default DC 2 for unknown ids.
    pub fn builtin() -> Self {
        Self {
            overrides: BTreeMap::new(),
            default_dc: 2,
            unknown: UnknownDc::Default,
        }
    }

    /// Where a client that asks for `dc` is connected.
    ///
    /// Order: override of the exact id, override of its absolute value, built-in table, policy.
    /// Id 0 means "not stated" and goes to the default DC without counting as unknown.
    ///
    /// Source: protocol.md 1.1.
    pub fn resolve(&self, dc: DcId) -> Resolved<'_> {
        if let Some(found) = self.look_up(dc) {
            return Resolved::Found(found);
        }
        if dc.0 != 0 && self.unknown == UnknownDc::Reject {
            return Resolved::Rejected;
        }
        match self.look_up(DcId(self.default_dc)) {
            Some(found) => Resolved::Found(DcAddrs {
                known: dc.0 == 0,
                ..found
            }),
            None => Resolved::Rejected,
        }
    }

    /// The DCs worth probing: 1 to 5 and 203, with the addresses clients are sent to.
    pub fn probe_targets(&self) -> Vec<ProbeTarget> {
        let found = PROBED.iter().filter_map(|&dc| self.look_up(DcId(dc)));
        found
            .map(|addrs| ProbeTarget {
                dc: addrs.dc,
                v4: addrs.v4().collect(),
                v6: addrs.v6().collect(),
            })
            .collect()
    }

    fn look_up(&self, dc: DcId) -> Option<DcAddrs<'_>> {
        let overridden = |dc: DcId| {
            self.overrides.get(&dc.0).map(|list| DcAddrs {
                dc: dc.0,
                known: true,
                list: List::Override(list),
            })
        };
        let builtin = |dc: DcId| {
            BUILTIN
                .iter()
                .find(|row| row.dc == dc.0)
                .map(|row| DcAddrs {
                    dc: dc.0,
                    known: true,
                    list: List::Builtin(row),
                })
        };
        overridden(dc)
            .or_else(|| overridden(dc.base()))
            .or_else(|| builtin(dc.base()))
    }
}

impl Default for DcTable {
    fn default() -> Self {
        Self::builtin()
    }
}

/// The outcome of [`DcTable::resolve`].
#[derive(Clone, Copy, Debug)]
pub enum Resolved<'a> {
    /// Connect to one of these.
    Found(DcAddrs<'a>),
    /// Close: the id is unknown and policy says so, or the default DC has no address.
    Rejected,
}

/// The addresses of one DC.
#[derive(Clone, Copy, Debug)]
pub struct DcAddrs<'a> {
    /// Canonical id: the row these addresses come from. Media ids share their DC's row unless the
    /// operator overrode the negative id itself; unknown ids get the default DC's.
    pub dc: i16,
    /// False if the client's id was in no table.
    pub known: bool,
    list: List<'a>,
}

impl<'a> DcAddrs<'a> {
    /// IPv4 addresses in order of preference.
    pub fn v4(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        self.all().filter(SocketAddr::is_ipv4)
    }

    /// IPv6 addresses in order of preference.
    pub fn v6(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        self.all().filter(SocketAddr::is_ipv6)
    }

    fn all(&self) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let (list, row) = match self.list {
            List::Override(list) => (list, None),
            List::Builtin(row) => (&[][..], Some(row)),
        };
        let v4 = row
            .into_iter()
            .flat_map(|row| row.v4)
            .map(|&ip| IpAddr::V4(ip));
        let v6 = row.into_iter().map(|row| IpAddr::V6(row.v6));
        let builtin = v4.chain(v6).map(|ip| SocketAddr::new(ip, DC_PORT));
        list.iter().copied().chain(builtin)
    }
}

#[derive(Clone, Copy, Debug)]
enum List<'a> {
    Override(&'a [SocketAddr]),
    Builtin(&'static Row),
}

/// A DC and all its addresses, for probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Canonical id.
    pub dc: i16,
    /// IPv4 addresses in order of preference.
    pub v4: Vec<SocketAddr>,
    /// IPv6 addresses in order of preference.
    pub v6: Vec<SocketAddr>,
}

/// One DC of the built-in tables.
#[derive(Debug)]
struct Row {
    dc: i16,
    v4: &'static [Ipv4Addr],
    v6: Ipv6Addr,
}

const DC_PORT: u16 = 443;
const PROBED: [i16; 6] = [1, 2, 3, 4, 5, 203];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(a, b, c, d)
}

/// `2001:b28:<site>:<network>::<host>`, or `2001:67c:…` for the European sites.
const fn v6(prefix: u16, site: u16, network: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, prefix, site, network, 0, 0, 0, host)
}

/// Built-in addresses: production 1.2, test 1.3 and CDN 1.4 of protocol.md.
static BUILTIN: [Row; 9] = [
    Row {
        dc: 1,
        v4: &[v4(149, 154, 175, 50)],
        v6: v6(0xb28, 0xf23d, 0xf001, 0xa),
    },
    Row {
        dc: 2,
        v4: &[v4(149, 154, 167, 51), v4(95, 161, 76, 100)],
        v6: v6(0x67c, 0x4e8, 0xf002, 0xa),
    },
    Row {
        dc: 3,
        v4: &[v4(149, 154, 175, 100)],
        v6: v6(0xb28, 0xf23d, 0xf003, 0xa),
    },
    Row {
        dc: 4,
        v4: &[v4(149, 154, 167, 91)],
        v6: v6(0x67c, 0x4e8, 0xf004, 0xa),
    },
    Row {
        dc: 5,
        v4: &[v4(149, 154, 171, 5)],
        v6: v6(0xb28, 0xf23f, 0xf005, 0xa),
    },
    Row {
        dc: 203,
        v4: &[v4(91, 105, 192, 100)],
        v6: Ipv6Addr::new(0x2a0a, 0xf280, 0x203, 0xa, 0x5000, 0, 0, 0x100),
    },
    Row {
        dc: 10001,
        v4: &[v4(149, 154, 175, 10)],
        v6: v6(0xb28, 0xf23d, 0xf001, 0xe),
    },
    Row {
        dc: 10002,
        v4: &[v4(149, 154, 167, 40)],
        v6: v6(0x67c, 0x4e8, 0xf002, 0xe),
    },
    Row {
        dc: 10003,
        v4: &[v4(149, 154, 175, 117)],
        v6: v6(0xb28, 0xf23d, 0xf003, 0xe),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(table: &DcTable, dc: i16, want: Option<(i16, bool, &str, &str)>) {
        let got = match table.resolve(DcId(dc)) {
            Resolved::Rejected => None,
            Resolved::Found(addrs) => {
                let join = |list: Vec<SocketAddr>| {
                    let texts: Vec<_> = list.iter().map(ToString::to_string).collect();
                    texts.join(" ")
                };
                let (v4, v6) = (join(addrs.v4().collect()), join(addrs.v6().collect()));
                Some((addrs.dc, addrs.known, v4, v6))
            }
        };
        let got = got
            .as_ref()
            .map(|(dc, known, v4, v6)| (*dc, *known, v4.as_str(), v6.as_str()));
        assert_eq!(got, want, "dc {dc}");
    }

    const DC2: (&str, &str) = (
        "149.154.167.51:443 95.161.76.100:443",
        "[2001:67c:4e8:f002::a]:443",
    );

    #[test]
    fn resolves_builtin_media_test_and_cdn_ids() {
        let table = DcTable::default();
        let dc4 = Some((4, true, "149.154.167.91:443", "[2001:67c:4e8:f004::a]:443"));
        check(&table, 4, dc4);
        check(&table, -4, dc4);
        let dc5 = Some((5, true, "149.154.171.5:443", "[2001:b28:f23f:f005::a]:443"));
        check(&table, 5, dc5);
        let test3 = Some((
            10003,
            true,
            "149.154.175.117:443",
            "[2001:b28:f23d:f003::e]:443",
        ));
        check(&table, -10003, test3);
        let cdn = Some((
            203,
            true,
            "91.105.192.100:443",
            "[2a0a:f280:203:a:5000::100]:443",
        ));
        check(&table, -203, cdn);
    }

    #[test]
    fn treats_zero_as_default_and_obeys_policy_for_unknown_ids() {
        let mut table = DcTable::builtin();
        check(&table, 0, Some((2, true, DC2.0, DC2.1)));
        for unknown in [6, -77, 10004, 10000, i16::MAX, i16::MIN] {
            check(&table, unknown, Some((2, false, DC2.0, DC2.1)));
        }
        table.unknown = UnknownDc::Reject;
        check(&table, 0, Some((2, true, DC2.0, DC2.1)));
        check(&table, 6, None);
        check(&table, i16::MIN, None);
    }

    #[test]
    fn prefers_overrides_exact_id_first() {
        let mut table = DcTable::builtin();
        let list = |text: &str| {
            text.split(' ')
                .map(|a| a.parse().unwrap())
                .collect::<Vec<_>>()
        };
        table
            .overrides
            .insert(4, list("127.0.0.1:1 [::1]:2 127.0.0.1:3"));
        check(
            &table,
            4,
            Some((4, true, "127.0.0.1:1 127.0.0.1:3", "[::1]:2")),
        );
        check(
            &table,
            -4,
            Some((4, true, "127.0.0.1:1 127.0.0.1:3", "[::1]:2")),
        );
        table.overrides.insert(-4, list("127.0.0.1:9"));
        check(&table, -4, Some((-4, true, "127.0.0.1:9", "")));
        table.overrides.insert(77, list("127.0.0.1:7"));
        check(&table, -77, Some((77, true, "127.0.0.1:7", "")));
        table.default_dc = 77;
        check(&table, 99, Some((77, false, "127.0.0.1:7", "")));
        table.default_dc = 78;
        check(&table, 99, None);
    }

    #[test]
    fn probes_production_and_cdn() {
        let mut table = DcTable::builtin();
        let own: SocketAddr = "127.0.0.1:1".parse().unwrap();
        table.overrides.insert(3, vec![own]);
        let targets = table.probe_targets();
        let ids: Vec<_> = targets.iter().map(|t| t.dc).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5, 203]);
        assert_eq!((&targets[2].v4, targets[2].v6.len()), (&vec![own], 0));
    }
}
