//! A wish as a script for nft: one table of our own, put in place of the last in one transaction.
//! Each process has a table by its owner's name.

use std::{fmt::Write as _, net::IpAddr};

use super::wish::{Limit, Target};

/// What the name of every table of ours begins with; its owner's follows.
pub(super) const PREFIX: &str = "pinnace_";

/// Takes the owner's table away, whether there is one or not.
pub(super) fn remove(owner: &str) -> String {
    format!("table inet {PREFIX}{owner}\ndelete table inet {PREFIX}{owner}\n")
}

/// Puts a table with these rules in the place of the owner's that is there.
pub(super) fn script(untracked: &[Target], limits: &[Limit], owner: &str) -> String {
    let mut out = remove(owner);
    // Writing to a String cannot fail.
    let _ = writeln!(out, "table inet {PREFIX}{owner} {{");
    for (at, limit) in limits.iter().enumerate() {
        sets(&mut out, at, limit);
    }
    if !untracked.is_empty() {
        chain(&mut out, "arriving", "prerouting", "raw");
        for target in untracked {
            let to = to(target, "daddr", "dport");
            let _ = writeln!(out, "    {to} fib daddr type local notrack");
        }
        chain_end(&mut out);
        chain(&mut out, "leaving", "output", "raw");
        for target in untracked {
            let from = to(target, "saddr", "sport");
            let _ = writeln!(out, "    {from} notrack");
            // Clients on this host: a web server in front of us, for one.
            let to = self::to(target, "daddr", "dport");
            let _ = writeln!(out, "    {to} fib daddr type local notrack");
        }
        chain_end(&mut out);
    }
    if !limits.is_empty() {
        // Targets of jumps come before the jumps.
        limits
            .iter()
            .enumerate()
            .for_each(|(at, limit)| rules(&mut out, at, limit));
        chain(&mut out, "attempts", "input", "filter - 10");
        for (at, limit) in limits.iter().enumerate() {
            let to = to(&limit.target, "daddr", "dport");
            let _ = writeln!(
                out,
                "    {to} tcp flags & (fin | syn | rst | ack) == syn jump limit_{at}"
            );
        }
        chain_end(&mut out);
    }
    out.push_str("}\n");
    out
}

fn chain(out: &mut String, name: &str, hook: &str, priority: &str) {
    let _ = writeln!(
        out,
        "  chain {name} {{\n    type filter hook {hook} priority {priority}; policy accept;"
    );
}

fn chain_end(out: &mut String) {
    out.push_str("  }\n");
}

/// Sources that are remembered: at least for their period, or they would begin anew.
fn sets(out: &mut String, at: usize, limit: &Limit) {
    let kind = match limit.target.ip {
        IpAddr::V4(_) => "ipv4_addr",
        IpAddr::V6(_) => "ipv6_addr",
    };
    for (name, rate) in [("sources", limit.general), ("ios", limit.ios)] {
        let secs = rate.period().as_secs().max(SOURCE_SECS_MIN);
        let _ = writeln!(
            out,
            "  set {name}_{at} {{\n    type {kind}; flags dynamic, timeout; size {SOURCES_MAX}; \
             timeout {secs}s;\n  }}"
        );
    }
}

/// What happens to an attempt: one that looks like those of iOS goes by its own rate only.
fn rules(out: &mut String, at: usize, limit: &Limit) {
    let family = match limit.target.ip {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    };
    let over = |set: &str, rate: super::wish::Rate| {
        format!(
            "update @{set}_{at} {{ {family} saddr limit rate over {} burst {} packets }} drop",
            rate.per(),
            rate.burst
        )
    };
    let _ = writeln!(out, "  chain limit_{at} {{");
    let _ = writeln!(out, "    {IOS} {}", over("ios", limit.ios));
    let _ = writeln!(out, "    {IOS} return");
    let _ = writeln!(out, "    {}\n  }}", over("sources", limit.general));
}

/// Packets of one target, as their destination or their source.
fn to(target: &Target, addr: &str, port: &str) -> String {
    let number = target.port;
    match target.ip {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            format!("meta nfproto ipv4 tcp {port} {number}")
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            format!("meta nfproto ipv6 tcp {port} {number}")
        }
        IpAddr::V4(ip) => format!("ip {addr} {ip} tcp {port} {number}"),
        IpAddr::V6(ip) => format!("ip6 {addr} {ip} tcp {port} {number}"),
    }
}

/// Apple's SYN has a TCP header of 44 bytes; Linux sends 40, Windows 32.
const IOS: &str = "tcp doff 11";
/// Sources remembered for one listener; further ones are not limited.
const SOURCES_MAX: usize = 65_536;
const SOURCE_SECS_MIN: u64 = 60;

#[cfg(test)]
mod tests {
    use super::super::wish::tests::wish;

    use super::*;

    #[test]
    fn table_has_what_is_wanted_and_no_more() {
        let all = wish(
            "[network]\nipv6 = true\n[server.conntrack_control]\nmode = \"notrack\"\n\
             [[server.listeners]]\nip = \"192.0.2.1\"\nsynlimit = \"nftables\"\n\
             [[server.listeners]]\nip = \"::\"\nport = 5\n",
        );
        let text = script(&all.untracked, &all.limits, "7");
        for part in [
            "table inet pinnace_7\ndelete table inet pinnace_7\ntable inet pinnace_7 {\n",
            "    ip daddr 192.0.2.1 tcp dport 443 fib daddr type local notrack",
            "    meta nfproto ipv6 tcp dport 5 fib daddr type local notrack",
            "    ip saddr 192.0.2.1 tcp sport 443 notrack",
            "update @sources_0 { ip saddr limit rate over 48/minute burst 1 packets } drop",
            "tcp doff 11 update @ios_0 { ip saddr limit rate over 12/second burst 24 packets }",
            "ip daddr 192.0.2.1 tcp dport 443 tcp flags & (fin | syn | rst | ack) == syn jump",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert_eq!(text.matches("chain limit_").count(), 1);
        assert!(!script(&all.untracked, &[], "7").contains("input"));
        assert!(!script(&[], &all.limits, "7").contains("notrack"));
    }
}
