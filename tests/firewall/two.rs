//! Two processes with rules at once, of either tool: each has its own, which go with it alone.

use super::{
    applied, connects,
    support::{
        Config, Proxy, fake_dc,
        namespace::{alone, chains, says},
        wait_until,
    },
};

#[test]
fn nft_rules_of_two_processes_stand_side_by_side() {
    alone("two::child_by_nft", &["nft"]);
}

#[test]
fn iptables_rules_of_two_processes_stand_side_by_side() {
    alone("two::child_by_iptables", &["nft", "iptables", "ip6tables"]);
}

#[test]
#[ignore = "child of another test"]
fn child_by_nft() {
    check("nftables", &|pid| {
        let name = format!("pinnace_{pid}");
        says("nft", &["list", "table", "inet", &name]).unwrap_or_default()
    });
}

#[test]
#[ignore = "child of another test"]
fn child_by_iptables() {
    check("iptables", &|pid| {
        let tables = [
            ("iptables", "raw"),
            ("iptables", "filter"),
            ("ip6tables", "raw"),
            ("ip6tables", "filter"),
        ];
        let all = tables.map(|(program, table)| chains(program, table).unwrap_or_default());
        let all = all.concat();
        let name = format!("_{pid}");
        let own = all.lines().filter(|line| {
            let mut words = line.split(' ');
            words.any(|word| word.starts_with("PINNACE_") && word.ends_with(&name))
        });
        own.map(|line| format!("{line}\n")).collect()
    });
}

/// `listed` are the rules of the process with this number.
fn check(tool: &str, listed: &dyn Fn(u32) -> String) {
    let dc = fake_dc();
    let config = || {
        Config::new(dc.addr())
            .set("network.ipv6", true)
            .set("server.conntrack_control.mode", "\"notrack\"")
            .set("server.conntrack_control.backend", format!("\"{tool}\""))
            .more(&format!(
                "[[server.listeners]]\nip = \"0.0.0.0\"\nsynlimit = \"{tool}\"\n\
                 synlimit_seconds = 3600\nsynlimit_hitcount = 60\nsynlimit_burst = 3\n\
                 [[server.listeners]]\nip = \"::\"\nsynlimit = \"{tool}\"\n"
            ))
    };
    let start = || {
        let proxy = config().start();
        applied(&proxy, 1);
        proxy
    };
    // Which rules of a process there are: those that name its port, and no other's.
    let rules = |proxy: &Proxy| {
        let port = format!("port {}", proxy.addr.port());
        let all = listed(proxy.pid());
        let own = all.lines().filter(|line| line.contains("port "));
        let own: Vec<String> = own.map(str::to_owned).collect();
        assert!(own.iter().all(|line| line.contains(&port)), "{port}\n{all}");
        own
    };
    let (mut first, second) = (start(), start());
    let all = [&first, &second].map(rules);
    assert!(all.iter().all(|own| own.len() >= 8), "{all:#?}");
    // All of them are in force.
    for proxy in [&first, &second] {
        let made = (0..8).filter(|_| connects(proxy.addr, [127, 0, 0, 1]));
        assert_eq!(made.count(), 3);
    }
    first.signal("TERM");
    assert_eq!(first.wait_for_end().1, Some(0));
    assert_eq!(listed(first.pid()), "");
    assert_eq!(rules(&second), all[1]);
    let mut third = start();
    let of_third = rules(&third);
    third.signal("KILL");
    third.wait_for_end();
    assert_eq!(rules(&third), of_third, "a killed process leaves them");
    let mut fourth = start();
    wait_until("the dead one's are gone", || {
        listed(third.pid()).is_empty().then_some(())
    });
    assert_eq!(rules(&second), all[1]);
    assert_eq!(rules(&fourth).len(), all[1].len());
    // One that wants none touches none of the living.
    let mut plain = Config::new(dc.addr()).start();
    plain.signal("TERM");
    plain.wait_for_end();
    assert_eq!(rules(&second), all[1]);
    fourth.signal("TERM");
    assert_eq!(fourth.wait_for_end().1, Some(0));
    let mut second = second;
    second.signal("TERM");
    assert_eq!(second.wait_for_end().1, Some(0));
    let tables = says("nft", &["list", "tables", "inet"]).unwrap_or_default();
    assert!(!tables.contains("pinnace"), "{tables}");
    let chains = ["raw", "filter"].map(|table| chains("iptables", table));
    assert_eq!(chains, [None, None]);
}
