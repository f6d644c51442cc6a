//! What the configuration wants of the host's firewall. Pure. Source: config.md 8 and 9.

use std::{net::IpAddr, time::Duration};

use crate::{
    config::{
        Config,
        server::{ConntrackBackend, ConntrackMode, Listener},
        sockets::SynLimit,
    },
    wiring,
};

/// All rules that are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whose packets are not tracked.
    pub(super) untracked: Vec<Target>,
    /// With which tool that is done.
    pub(super) backend: Backend,
    /// Whose connection attempts are limited, and how.
    pub(super) limits: Vec<Limit>,
}

/// Which tool is used for untracked connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Backend {
    /// The first that is there.
    #[default]
    Auto,
    /// This one.
    Only(Tool),
}

/// A firewall tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    /// nft.
    Nft,
    /// iptables and ip6tables.
    Iptables,
}

/// Packets to one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its address, which may be the unspecified one.
    pub(super) ip: IpAddr,
    /// Its port.
    pub(super) port: u16,
}

/// Limits of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// Whom they protect.
    pub(super) target: Target,
    /// With which tool.
    pub(super) tool: Tool,
    /// For each source.
    pub(super) general: Rate,
    /// For each source, of packets that look like those of iOS.
    pub(super) ios: Rate,
    /// How long iptables remembers a source, milliseconds.
    pub(super) expire_ms: u32,
    /// Size of iptables's table of sources.
    pub(super) table_size: u32,
}

/// So many in a period, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Allowed per period.
    pub(super) hits: u32,
    /// The period, seconds.
    pub(super) seconds: u32,
    /// At once, after a pause.
    pub(super) burst: u32,
}

impl Rate {
    /// As the tools say it: `48/minute`. They know no other periods than these, so that the last
    /// one is rounded.
    pub(super) fn per(self) -> String {
        let (hits, seconds) = (u64::from(self.hits), u64::from(self.seconds.max(1)));
        let units = [
            (1, "second"),
            (60, "minute"),
            (3_600, "hour"),
            (86_400, "day"),
        ];
        let exact = units
            .iter()
            .find(|(unit, _)| (hits * unit).is_multiple_of(seconds));
        match exact {
            Some((unit, name)) => format!("{}/{name}", hits * unit / seconds),
            None => format!("{}/day", (hits * 86_400 / seconds).max(1)),
        }
    }

    /// The period.
    pub(super) fn period(self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }
}

impl Wish {
    /// What this configuration wants.
    pub(super) fn of(config: &Config) -> Self {
        let conntrack = &config.conntrack;
        let untracked = match conntrack.inline_conntrack_control {
            true => untracked(config),
            false => Vec::new(),
        };
        let mut limits: Vec<Limit> = Vec::new();
        for listener in &config.listeners {
            let limit = limit(config, listener).filter(|limit| {
                let target = limit.target;
                limits.iter().all(|other| other.target != target)
            });
            limits.extend(limit);
        }
        Self {
            untracked,
            backend: match conntrack.backend {
                ConntrackBackend::Auto => Backend::Auto,
                ConntrackBackend::Nftables => Backend::Only(Tool::Nft),
                ConntrackBackend::Iptables => Backend::Only(Tool::Iptables),
            },
            limits,
        }
    }

    /// No rule is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.untracked.is_empty() && self.limits.is_empty()
    }
}

/// Whose connections bypass the kernel's tracking.
fn untracked(config: &Config) -> Vec<Target> {
    let conntrack = &config.conntrack;
    let all = wiring::listen::listeners(config)
        .0
        .into_iter()
        .map(|own| Target {
            ip: own.addr.ip(),
            port: own.addr.port(),
        });
    // A port that the kernel picks is nobody's name.
    let all = all.filter(|target| target.port != 0);
    match conntrack.mode {
        ConntrackMode::Tracked => Vec::new(),
        ConntrackMode::Notrack => all.collect(),
        ConntrackMode::Hybrid => {
            let listed = &conntrack.hybrid_listener_ips;
            let of = |target: Target| {
                let here = listed.iter().filter(move |ip| covers(target.ip, **ip));
                here.map(move |ip| Target { ip: *ip, ..target })
            };
            all.flat_map(of).collect()
        }
    }
}

/// A listener at `own` takes what goes to `listed`.
fn covers(own: IpAddr, listed: IpAddr) -> bool {
    own == listed || (own.is_unspecified() && own.is_ipv4() == listed.is_ipv4())
}

fn limit(config: &Config, own: &Listener) -> Option<Limit> {
    let tool = match own.synlimit {
        SynLimit::Off => return None,
        SynLimit::Nftables => Tool::Nft,
        SynLimit::Iptables => Tool::Iptables,
    };
    let target = Target {
        ip: own.ip?,
        port: own.port.unwrap_or(config.server.port),
    };
    Some(Limit {
        target,
        tool,
        general: Rate {
            hits: own.synlimit_hitcount,
            seconds: own.synlimit_seconds,
            burst: own.synlimit_burst,
        },
        ios: Rate {
            hits: own.synlimit_ios_hitcount,
            seconds: own.synlimit_ios_seconds,
            burst: own.synlimit_ios_burst,
        },
        expire_ms: own.synlimit_hashlimit_expire_ms,
        table_size: own.synlimit_hashlimit_size,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    pub(in crate::firewall) fn wish(text: &str) -> Wish {
        let text = format!("{text}\n[access.users]\nalice = \"{}\"\n", "3f".repeat(16));
        Wish::of(&parse(Path::new("config.toml"), text).unwrap().config)
    }

    fn targets(wish: &Wish) -> Vec<String> {
        let targets = wish.untracked.iter();
        targets.map(|t| format!("{} {}", t.ip, t.port)).collect()
    }

    #[test]
    fn modes_choose_whose_packets_are_not_tracked() {
        let listeners = "[[server.listeners]]\nip = \"192.0.2.1\"\nport = 5\n\
                         [[server.listeners]]\nip = \"0.0.0.0\"\n\
                         [[server.listeners]]\nip = \"2001:db8::1\"\n";
        let with = |mode: &str| {
            wish(&format!(
                "[network]\nipv6 = true\n[server.conntrack_control]\n{mode}\n{listeners}"
            ))
        };
        assert!(wish("").is_empty() && with("mode = \"tracked\"").is_empty());
        let all = ["192.0.2.1 5", "0.0.0.0 443", "2001:db8::1 443"];
        assert_eq!(targets(&with("mode = \"notrack\"")), all);
        let off = "mode = \"notrack\"\ninline_conntrack_control = false";
        assert!(with(off).is_empty());
        let hybrid = "mode = \"hybrid\"\nhybrid_listener_ips = [\"192.0.2.1\", \"2001:db8::2\"]";
        assert_eq!(targets(&with(hybrid)), ["192.0.2.1 5", "192.0.2.1 443"]);
    }

    #[test]
    fn rates_are_said_in_the_units_that_tools_know() {
        let per = |hits, seconds| {
            Rate {
                hits,
                seconds,
                burst: 1,
            }
            .per()
        };
        assert_eq!(per(48, 60), "48/minute");
        assert_eq!(per(12, 1), "12/second");
        assert_eq!(per(90, 30), "3/second");
        assert_eq!(per(1, 120), "30/hour");
        assert_eq!(per(48, 7), "592457/day");
        assert_eq!(per(1, u32::MAX), "1/day");
        assert_eq!(per(u32::MAX, 1), "4294967295/second");
    }

    #[test]
    fn limits_are_the_listeners_own_and_one_for_each_address() {
        let wish = wish(
            "[server]\nport = 8\n[[server.listeners]]\nip = \"192.0.2.1\"\nsynlimit = \"nftables\"\n\
             synlimit_hitcount = 5\n[[server.listeners]]\nip = \"192.0.2.1\"\n\
             synlimit = \"iptables\"\n[[server.listeners]]\nip = \"::\"\n",
        );
        assert_eq!(wish.limits.len(), 1);
        let limit = wish.limits[0];
        assert_eq!((limit.tool, limit.target.port), (Tool::Nft, 8));
        assert_eq!(
            (limit.general.per(), limit.general.burst),
            ("5/minute".into(), 1)
        );
        assert_eq!((limit.ios.per(), limit.ios.burst), ("12/second".into(), 24));
    }
}
