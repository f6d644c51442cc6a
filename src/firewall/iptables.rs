//! A wish as input for iptables-restore and ip6tables-restore: chains of our own, and jumps to
//! them.
//!
//! What is there besides stays as it is.

use std::{fmt::Write as _, net::IpAddr};

use super::wish::{Limit, Target};

/// Our chains: table, what the name begins with before its owner's, and where the jump to it is.
pub(super) const CHAINS: [(&str, &str, &str); 3] = [
    ("raw", "PINNACE_IN_", "PREROUTING"),
    ("raw", "PINNACE_OUT_", "OUTPUT"),
    ("filter", "PINNACE_SYN_", "INPUT"),
];

/// Rules of one family; `None` when it has none. Tables of sources are named after their owner,
/// since all processes share them, and after the `number` of this change: the kernel would go on
/// with an earlier one's settings.
pub(super) fn script(
    untracked: &[Target],
    limits: &[Limit],
    v6: bool,
    (owner, number): (&str, u32),
) -> Option<String> {
    let untracked: Vec<_> = untracked.iter().filter(|t| t.ip.is_ipv6() == v6).collect();
    let limits = limits.iter().enumerate();
    let limits: Vec<_> = limits
        .filter(|(_, l)| l.target.ip.is_ipv6() == v6)
        .collect();
    let mut out = String::new();
    if !untracked.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "*raw\n:PINNACE_IN_{owner} - [0:0]\n:PINNACE_OUT_{owner} - [0:0]\n\
             -A PREROUTING -j PINNACE_IN_{owner}\n-A OUTPUT -j PINNACE_OUT_{owner}"
        );
        for target in untracked {
            let (to, from) = (side(target, "-d", "--dport"), side(target, "-s", "--sport"));
            let _ = writeln!(
                out,
                "-A PINNACE_IN_{owner} -p tcp{to} -m addrtype --dst-type LOCAL -j CT --notrack"
            );
            let _ = writeln!(out, "-A PINNACE_OUT_{owner} -p tcp{from} -j CT --notrack");
            // Clients on this host: a web server in front of us, for one.
            let _ = writeln!(
                out,
                "-A PINNACE_OUT_{owner} -p tcp{to} -m addrtype --dst-type LOCAL -j CT --notrack"
            );
        }
        out.push_str("COMMIT\n");
    }
    if !limits.is_empty() {
        let _ = writeln!(
            out,
            "*filter\n:PINNACE_SYN_{owner} - [0:0]\n-I INPUT -j PINNACE_SYN_{owner}"
        );
        for (at, limit) in limits {
            rules(&mut out, (at, owner, number), limit);
        }
        out.push_str("COMMIT\n");
    }
    (!out.is_empty()).then_some(out)
}

/// One that looks like those of iOS goes by its own rate only.
fn rules(out: &mut String, (at, owner, number): (usize, &str, u32), limit: &Limit) {
    let to = side(&limit.target, "-d", "--dport");
    // The whole packet: 44 bytes of TCP and a header of the family.
    let ios = match limit.target.ip {
        IpAddr::V4(_) => "-m length --length 64",
        IpAddr::V6(_) => "-m length --length 84",
    };
    let over = |name: &str, rate: super::wish::Rate| {
        format!(
            "-m hashlimit --hashlimit-above {} --hashlimit-burst {} --hashlimit-mode srcip \
             --hashlimit-name pinnace_{name}{at}_{owner}_{number} --hashlimit-htable-expire {} \
             --hashlimit-htable-size {} -j DROP",
            rate.per(),
            rate.burst,
            limit.expire_ms,
            limit.table_size
        )
    };
    let syn = format!("-A PINNACE_SYN_{owner} -p tcp{to} --syn");
    let _ = writeln!(out, "{syn} {ios} {}", over("ios", limit.ios));
    let _ = writeln!(out, "{syn} {ios} -j RETURN");
    let _ = writeln!(out, "{syn} {}", over("all", limit.general));
}

fn side(target: &Target, addr: &str, port: &str) -> String {
    let number = target.port;
    match target.ip.is_unspecified() {
        true => format!(" {port} {number}"),
        false => format!(" {addr} {} {port} {number}", target.ip),
    }
}

#[cfg(test)]
mod tests {
    use super::super::wish::tests::wish;

    use super::*;

    #[test]
    fn families_have_their_own_rules() {
        let all = wish(
            "[network]\nipv6 = true\n[server.conntrack_control]\nmode = \"notrack\"\n\
             [[server.listeners]]\nip = \"192.0.2.1\"\nsynlimit = \"iptables\"\n\
             synlimit_hashlimit_expire_ms = 9\nsynlimit_hashlimit_size = 77\n\
             [[server.listeners]]\nip = \"::\"\nport = 5\n",
        );
        let v4 = script(&all.untracked, &all.limits, false, ("7", 1)).unwrap();
        for part in [
            "-A PINNACE_IN_7 -p tcp -d 192.0.2.1 --dport 443 -m addrtype --dst-type LOCAL -j CT",
            "-A PINNACE_OUT_7 -p tcp -s 192.0.2.1 --sport 443 -j CT --notrack",
            "-A PREROUTING -j PINNACE_IN_7\n-A OUTPUT -j PINNACE_OUT_7\n",
            "-I INPUT -j PINNACE_SYN_7\n-A PINNACE_SYN_7 ",
            "--hashlimit-name pinnace_all0_7_1 ",
            "--syn -m length --length 64 -m hashlimit --hashlimit-above 12/second",
            "--hashlimit-above 48/minute --hashlimit-burst 1 --hashlimit-mode srcip",
            "--hashlimit-htable-expire 9 --hashlimit-htable-size 77 -j DROP",
        ] {
            assert!(v4.contains(part), "{part}\n{v4}");
        }
        let v6 = script(&all.untracked, &all.limits, true, ("7", 1)).unwrap();
        assert!(v6.contains("-A PINNACE_IN_7 -p tcp --dport 5"));
        assert!(!v6.contains("192.0.2.1") && !v6.contains("PINNACE_SYN"));
        assert_eq!(script(&[], &[], false, ("7", 1)), None);
    }
}
