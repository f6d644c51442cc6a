//! The files `proxy-config`: which middle proxies serve which DC.
//!
//! A tolerant reading: what parses is kept, and whoever fetched the file judges the whole
//! ([`ConfigFile::accepted`]). Equality of two [`ConfigFile::map`]s tells whether anything changed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::super::dc::DcId;

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// Endpoints and default, as written: without the mirror rule.
    pub map: EndpointMap,
    /// `proxy_for` lines that were understood, repeated endpoints included.
    pub accepted: usize,
    /// Statements that were not, those we do not use included.
    pub ignored: usize,
}

/// Endpoints of every DC group.
///
/// Source: middle-proxy.md 2.2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointMap {
    /// The DC of the last `default` line; [`EndpointMap::default_dc`] fills in for a missing one.
    pub default: Option<i16>,
    /// By signed DC id; each list sorted, without doubles, not empty.
    pub groups: BTreeMap<i16, Vec<SocketAddr>>,
}

impl ConfigFile {
    /// Reads a file. Bytes that are no UTF-8 spoil their statement only.
    ///
    /// Bounded: reads [`CONFIG_BYTES_MAX`] bytes and keeps [`ENDPOINTS_MAX`] endpoints; what is
    /// beyond counts as ignored.
    pub fn parse(text: &[u8]) -> Self {
        let (text, beyond) = match text.split_at_checked(CONFIG_BYTES_MAX) {
            Some((text, beyond)) => (text, beyond),
            None => (text, &[][..]),
        };
        let mut file = Self {
            ignored: usize::from(!beyond.is_empty()),
            ..Self::default()
        };
        let mut kept = 0;
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
            for statement in line.split(|&byte| byte == b';') {
                file.statement(statement, &mut kept);
            }
        }
        for endpoints in file.map.groups.values_mut() {
            endpoints.sort_unstable();
            endpoints.dedup();
        }
        file
    }

    fn statement(&mut self, statement: &[u8], kept: &mut usize) {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
        let mut words = statement.split(blank).filter(|word| !word.is_empty());
        let words: [Option<&[u8]>; 4] = std::array::from_fn(|_| words.next());
        match words {
            [None, ..] => {}
            [Some(b"default"), Some(dc), None, _] => match dc_id(dc) {
                Some(dc) => self.map.default = Some(dc),
                None => self.ignored += 1,
            },
            [Some(b"proxy_for"), Some(dc), Some(at), None] if *kept < ENDPOINTS_MAX => {
                match (dc_id(dc), endpoint(at)) {
                    (Some(dc), Some(at)) => {
                        self.map.groups.entry(dc).or_default().push(at);
                        self.accepted += 1;
                        *kept += 1;
                    }
                    _ => self.ignored += 1,
                }
            }
            _ => self.ignored += 1,
        }
    }
}

impl EndpointMap {
    /// The endpoints of one family only, IPv4 or IPv6. The mirror rule comes after this.
    pub fn of_family(&self, ipv6: bool) -> Self {
        let groups = self.groups.iter().filter_map(|(&dc, endpoints)| {
            let wanted = endpoints.iter().filter(|at| at.is_ipv6() == ipv6);
            let wanted: Vec<_> = wanted.copied().collect();
            (!wanted.is_empty()).then_some((dc, wanted))
        });
        Self {
            default: self.default,
            groups: groups.collect(),
        }
    }

    /// Gives `-n` the endpoints of `n` where only `n > 0` has some. Returns the ids it added.
    ///
    /// Source: middle-proxy.md 2.2, mirror rule.
    pub fn mirror(&mut self) -> Vec<i16> {
        let positive = self.groups.range(1..);
        let missing = positive.filter(|(dc, _)| !self.groups.contains_key(&-**dc));
        let added: Vec<_> = missing.map(|(&dc, list)| (-dc, list.clone())).collect();
        let ids = added.iter().map(|&(dc, _)| dc).collect();
        self.groups.extend(added);
        ids
    }

    /// Where id 0 and ids without endpoints go: the file's choice, else 2.
    pub fn default_dc(&self) -> i16 {
        self.default.unwrap_or(DEFAULT_DC)
    }

    /// The group that serves a client's DC id, as it stands in its header.
    ///
    /// `None`: neither the id nor the default has an endpoint.
    ///
    /// Source: middle-proxy.md 2.2, default rule.
    pub fn resolve(&self, dc: DcId) -> Option<(i16, &[SocketAddr])> {
        [dc.0, self.default_dc()].into_iter().find_map(|id| {
            let endpoints = self.groups.get(&id).filter(|_| id != 0)?;
            Some((id, endpoints.as_slice()))
        })
    }

    /// All groups' endpoints, a shared one once per group.
    pub fn endpoint_count(&self) -> usize {
        self.groups.values().map(Vec::len).sum()
    }
}

/// `'-'? digits`, not 0, within i16.
fn dc_id(word: &[u8]) -> Option<i16> {
    let digits = word.strip_prefix(b"-").unwrap_or(word);
    let plain = digits.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(word).ok().filter(|_| plain)?.parse().ok()?;
    (number != 0).then_some(number)
}

/// `ipv4:port`, `[ipv6]:port` or `ipv6:port`, of which the port is behind the last colon.
fn endpoint(word: &[u8]) -> Option<SocketAddr> {
    let (host, port) = str::from_utf8(word).ok()?.rsplit_once(':')?;
    let plain = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|&port| plain && port != 0)?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let ip = match bracketed {
        Some(host) => IpAddr::V6(host.parse().ok()?),
        None => host.parse().ok()?,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// Longest file that is read, bytes. Telegram's are under 4 KiB.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;
/// Most endpoints kept of one file. Telegram's have under 50.
pub const ENDPOINTS_MAX: usize = 4096;
const DEFAULT_DC: i16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ConfigFile {
        ConfigFile::parse(text.as_bytes())
    }

    #[test]
    fn counts_what_it_ignores() {
        for text in [
            "proxy_for 1",
            "proxy_for 1 1.2.3.4",
            "proxy_for 1 1.2.3.4:5 6",
            "proxy_for +1 1.2.3.4:5",
            "proxy_for - 1.2.3.4:5",
            "proxy_for 32768 1.2.3.4:5",
            "proxy_for 1 1.2.3.4:+5",
            "proxy_for 1 1.2.3.4:",
            "proxy_for 1 [1.2.3.4]:5",
            "proxy_for 1 [::1:5",
            "proxy_for 1 host:5",
            "default",
            "default 0",
            "default 1 2",
            "Default 1",
            "proxy_for 1 1.2.3.4:5\u{fe}",
        ] {
            let file = parse(text);
            assert_eq!((file.accepted, file.ignored), (0, 1), "{text}");
            assert_eq!(file.map, EndpointMap::default(), "{text}");
        }
        assert_eq!(parse("").ignored + parse(" ;\n;;\t#;x;\r\n").ignored, 0);
        assert_eq!(ConfigFile::parse(b"\xff\n\xfe;").ignored, 2);
    }

    #[test]
    fn routes_by_default_rule() {
        let mut map = parse("proxy_for 4 1.1.1.1:1; proxy_for -4 2.2.2.2:2\rproxy").map;
        assert!(map.resolve(DcId(4)).is_some(), "the second one was spoiled");
        map = parse("proxy_for 4 1.1.1.1:1; proxy_for -4 2.2.2.2:2;proxy_for 2 3.3.3.3:3").map;
        let at = |map: &EndpointMap, dc| map.resolve(DcId(dc)).map(|(dc, list)| (dc, list.len()));
        assert_eq!(at(&map, -4), Some((-4, 1)));
        assert_eq!(at(&map, 0), Some((2, 1)));
        assert_eq!(at(&map, i16::MIN), Some((2, 1)));
        map.default = Some(7);
        assert_eq!(at(&map, 0), None);
        assert_eq!(at(&map, 4), Some((4, 1)));
    }

    #[test]
    fn mirrors_within_a_family() {
        let text = "proxy_for 1 1.1.1.1:1\nproxy_for -1 [::2]:1\nproxy_for -3 1.1.1.1:1\n\
                    proxy_for -32768 1.1.1.1:1\nproxy_for 32767 [::ffff:1.2.3.4]:5";
        let map = parse(text).map;
        let (mut v4, mut v6) = (map.of_family(false), map.of_family(true));
        assert_eq!(v4.mirror(), [-1, -32767]);
        assert_eq!(v4.groups[&-1], v4.groups[&1]);
        assert_eq!(v6.mirror(), [0_i16; 0]);
        assert_eq!(v6.endpoint_count(), 1);
        assert_eq!(v4.endpoint_count(), 6);
    }

    #[test]
    fn is_bounded() {
        let line = "proxy_for 1 1.2.3.4:5\n";
        let file = parse(&line.repeat(ENDPOINTS_MAX + 5));
        assert_eq!((file.accepted, file.ignored), (ENDPOINTS_MAX, 5));
        let file = ConfigFile::parse(&vec![b' '; CONFIG_BYTES_MAX + 1]);
        assert_eq!(file.ignored, 1);
    }
}
