//! Clients that are not tracked: either tool, either family, all listeners or some addresses.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, process::Command};

use bench::{
    client::{Client, Dial, Mode},
    fake_dc::FakeDc,
};

use super::{
    applied,
    support::{
        Config, Proxy,
        config::ALICE,
        fake_dc,
        namespace::{alone, chains, says, table},
        servers::find,
        wait_until,
    },
    track, zero,
};

#[test]
fn nft_leaves_either_family_untracked() {
    alone("untracked::child_by_nft", &["nft", "conntrack"]);
}

#[test]
fn iptables_leaves_either_family_untracked() {
    let programs = ["nft", "iptables", "ip6tables", "conntrack"];
    alone("untracked::child_by_iptables", &programs);
}

#[test]
fn iptables_is_used_where_there_is_no_nft() {
    let programs = ["nft", "iptables", "ip6tables", "conntrack"];
    alone("untracked::child_without_nft", &programs);
}

#[test]
fn iptables_of_a_killed_process_go_with_the_next() {
    let programs = ["nft", "iptables", "ip6tables"];
    alone("untracked::child_after_a_kill", &programs);
}

#[tokio::test]
#[ignore = "child of another test"]
async fn child_by_nft() {
    check_both_modes("nftables").await;
}

#[tokio::test]
#[ignore = "child of another test"]
async fn child_by_iptables() {
    check_both_modes("iptables").await;
}

/// Listens on all addresses of both families.
fn config(dc: &FakeDc, hybrid: bool) -> Config {
    let control = "server.conntrack_control";
    let config = Config::new(dc.addr())
        .set("network.ipv6", true)
        .set("server.listen_addr_ipv4", "\"0.0.0.0\"")
        .set("server.listen_addr_ipv6", "\"::\"");
    match hybrid {
        false => config.set(&format!("{control}.mode"), "\"notrack\""),
        true => config.set(&format!("{control}.mode"), "\"hybrid\"").set(
            &format!("{control}.hybrid_listener_ips"),
            "[\"127.0.0.1\", \"::1\"]",
        ),
    }
}

fn more_addresses() {
    says("ip", &["address", "add", "fd00::5/128", "dev", "lo"]).expect("one more address");
}

async fn check_both_modes(backend: &str) {
    track();
    more_addresses();
    let dc = fake_dc();
    for hybrid in [false, true] {
        let mut proxy = config(&dc, hybrid)
            .set("server.conntrack_control.backend", format!("\"{backend}\""))
            .start();
        applied(&proxy, 1);
        let rules = rules(backend == "nftables");
        for rule in expected(backend == "nftables", hybrid, &proxy) {
            assert!(rules.contains(&rule), "{rule}\n{rules}");
        }
        check_tracking(&proxy, hybrid).await;
        proxy.signal("TERM");
        assert_eq!(proxy.wait_for_end().1, Some(0));
        assert_eq!(left(), [None, None, None], "{backend}");
    }
}

/// In mode `hybrid` the addresses that are not listed are tracked.
async fn check_tracking(proxy: &Proxy, hybrid: bool) {
    for (ip, tracked) in [
        ("127.0.0.1", false),
        ("::1", false),
        ("127.0.0.5", hybrid),
        ("fd00::5", hybrid),
    ] {
        let addr = SocketAddr::new(ip.parse().unwrap(), proxy.addr.port());
        let mut client = Client::connect(&Dial::new(Mode::Ee, addr, ALICE))
            .await
            .unwrap_or_else(|error| unreachable!("{addr}: {error}"));
        client.exchange(5_000, 5_000).await.unwrap();
        assert_eq!(entries(addr) > 0, tracked, "{addr}");
    }
    assert_eq!(zero(proxy, "conntrack_control_available"), true);
    assert_eq!(zero(proxy, "conntrack_rule_apply_ok"), true);
}

/// Entries of connections to this address.
fn entries(addr: SocketAddr) -> usize {
    let family = if addr.is_ipv4() { "ipv4" } else { "ipv6" };
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let list = says(
        "conntrack",
        &[
            "-L",
            "-f",
            family,
            "-p",
            "tcp",
            "--orig-dst",
            &ip,
            "--orig-port-dst",
            &port,
        ],
    );
    list.expect("conntrack lists").lines().count()
}

/// All our rules of a tool, both families.
fn rules(nft: bool) -> String {
    if nft {
        return table().unwrap();
    }
    let [_, v4, v6] = left();
    v4.unwrap() + &v6.unwrap()
}

/// What there is of ours: nft's table, and the raw tables of iptables and ip6tables.
fn left() -> [Option<String>; 3] {
    let raw = |program: &str| chains(program, "raw");
    [table(), raw("iptables"), raw("ip6tables")]
}

fn expected(nft: bool, hybrid: bool, proxy: &Proxy) -> Vec<String> {
    let rules: &[&str] = match (nft, hybrid) {
        (true, false) => &[
            "meta nfproto ipv4 tcp dport PORT fib daddr type local notrack",
            "meta nfproto ipv6 tcp dport PORT fib daddr type local notrack",
            "meta nfproto ipv6 tcp sport PORT notrack",
        ],
        (true, true) => &[
            "ip daddr 127.0.0.1 tcp dport PORT fib daddr type local notrack",
            "ip6 daddr ::1 tcp dport PORT fib daddr type local notrack",
            "ip6 saddr ::1 tcp sport PORT notrack",
        ],
        (false, false) => &[
            "-A PINNACE_IN_PID -p tcp -m tcp --dport PORT -m addrtype --dst-type LOCAL -j CT --notrack",
            "-A PINNACE_OUT_PID -p tcp -m tcp --sport PORT -j CT --notrack",
        ],
        (false, true) => &[
            "-A PINNACE_OUT_PID -s 127.0.0.1/32 -p tcp -m tcp --sport PORT -j CT --notrack",
            "-A PINNACE_OUT_PID -s ::1/128 -p tcp -m tcp --sport PORT -j CT --notrack",
        ],
    };
    let (port, pid) = (proxy.addr.port().to_string(), proxy.pid().to_string());
    let filled = |rule: &&str| rule.replace("PORT", &port).replace("PID", &pid);
    rules.iter().map(filled).collect()
}

/// Directory of programs without nft.
fn without_nft() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "iptables",
        "iptables-restore",
        "ip6tables",
        "ip6tables-restore",
    ] {
        let file = fs::canonicalize(find("iptables").unwrap().with_file_name(name)).unwrap();
        symlink(file, dir.path().join(name)).unwrap();
    }
    dir
}

#[tokio::test]
#[ignore = "child of another test"]
async fn child_without_nft() {
    track();
    more_addresses();
    let dc = fake_dc();
    let dir = without_nft();
    let change = |mut command: Command| {
        command.env("PATH", dir.path());
        command
    };
    let mut proxy = Proxy::start_with(config(&dc, true), &change);
    applied(&proxy, 1);
    assert_eq!(table(), None);
    let text = rules(false);
    for rule in expected(false, true, &proxy) {
        assert!(text.contains(&rule), "{rule}\n{text}");
    }
    check_tracking(&proxy, true).await;
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    assert_eq!(left(), [None, None, None]);
}

#[test]
#[ignore = "child of another test"]
fn child_after_a_kill() {
    let dc = fake_dc();
    let by_iptables = config(&dc, false).set("server.conntrack_control.backend", "\"iptables\"");
    let mut first = by_iptables.clone().start();
    applied(&first, 1);
    first.signal("KILL");
    first.wait_for_end();
    let [_, v4, v6] = left();
    assert!(v4.is_some() && v6.is_some(), "a killed process leaves them");
    let mut second = by_iptables.start();
    applied(&second, 1);
    let [_, v4, v6] = left();
    let (old, new) = (first.addr.port(), second.addr.port());
    for text in [v4.unwrap(), v6.unwrap()] {
        assert_eq!(text.matches("-j PINNACE_IN").count(), 1, "{text}");
        assert_eq!(text.matches("-j PINNACE_OUT").count(), 1, "{text}");
        assert!(text.contains(&format!("--dport {new} ")), "{text}");
        assert!(
            old == new || !text.contains(&format!("--dport {old} ")),
            "{text}"
        );
    }
    // A live process's stay where another wants none.
    let mut plain = Config::new(dc.addr()).start();
    plain.signal("TERM");
    plain.wait_for_end();
    assert!(rules(false).contains(&format!("--dport {new} ")));
    second.signal("KILL");
    second.wait_for_end();
    // The next one uses the other tool, and the one after that none.
    let other = config(&dc, false).set("server.conntrack_control.backend", "\"nftables\"");
    let mut third = other.start();
    applied(&third, 1);
    let [nft, v4, v6] = left();
    assert_eq!((v4, v6), (None, None));
    assert!(nft.is_some_and(|text| text.contains("notrack")));
    third.signal("KILL");
    third.wait_for_end();
    let _plain = Config::new(dc.addr()).start();
    wait_until("nothing is left", || {
        (left() == [None, None, None]).then_some(())
    });
}
