//! Limits on connection attempts: each key shows in the rules of the firewall, in a network of its
//! own. That rules limit is shown in `tests/firewall.rs`.

use super::{
    reload, start,
    support::{
        Config, Proxy, fake_dc,
        namespace::{alone, chains, table},
        wait_until,
    },
};

/// Key without `server.listeners.`, its value, and what nft then lists.
const BY_NFT: &[(&str, &str, &str)] = &[
    (
        "synlimit_seconds",
        "30",
        "limit rate over 96/minute burst 7 ",
    ),
    (
        "synlimit_hitcount",
        "50",
        "limit rate over 50/minute burst 7 ",
    ),
    ("synlimit_burst", "8", "limit rate over 48/minute burst 8 "),
    (
        "synlimit_ios_seconds",
        "60",
        "limit rate over 12/minute burst 24 ",
    ),
    (
        "synlimit_ios_hitcount",
        "13",
        "limit rate over 13/second burst 24 ",
    ),
    (
        "synlimit_ios_burst",
        "25",
        "limit rate over 12/second burst 25 ",
    ),
];

/// The same for iptables.
const BY_IPTABLES: &[(&str, &str, &str)] = &[
    (
        "synlimit_hashlimit_expire_ms",
        "61000",
        "--hashlimit-htable-expire 61000",
    ),
    (
        "synlimit_hashlimit_size",
        "1024",
        "--hashlimit-htable-size 1024",
    ),
];

/// Keys that this file proves.
pub(super) fn proven() -> impl Iterator<Item = String> {
    let keys = BY_NFT.iter().chain(BY_IPTABLES).map(|(key, ..)| *key);
    let all = keys.chain(["synlimit"]);
    all.map(|key| format!("server.listeners.{key}"))
}

#[test]
fn limits_of_attempts_show_in_nft() {
    alone("synlimit::child_with_nft", &["nft"]);
}

#[test]
fn limits_of_attempts_show_in_iptables() {
    alone("synlimit::child_with_iptables", &["iptables", "nft"]);
}

const FIRST: &str = "synlimit_burst = 7\n";

fn limited(tool: &str) -> Proxy {
    let dc = fake_dc();
    start(Config::new(dc.addr()).more(&format!(
        "[[server.listeners]]\nip = \"127.0.0.1\"\nsynlimit = \"{tool}\"\n{FIRST}"
    )))
}

/// One key more, or another value for the one there is.
fn with(proxy: &Proxy, key: &str, value: &str) -> Config {
    let line = format!("{key} = {value}\n");
    let kept = if key == "synlimit_burst" { "" } else { FIRST };
    proxy.config().edit(FIRST, &format!("{kept}{line}"))
}

#[test]
#[ignore = "child of another test"]
fn child_with_nft() {
    let proxy = limited("nftables");
    wait_until("the table is there", table);
    for (key, value, listed) in BY_NFT {
        reload(
            &proxy,
            &format!("server.listeners.{key}"),
            &with(&proxy, key, value),
        );
        wait_until(key, || table().filter(|text| text.contains(listed)));
        reload(&proxy, &format!("server.listeners.{key}"), &proxy.config());
    }
    let off = proxy.config().edit("\"nftables\"", "false");
    reload(&proxy, "server.listeners.synlimit", &off);
    wait_until("the table is gone", || table().is_none().then_some(()));
}

#[test]
#[ignore = "child of another test"]
fn child_with_iptables() {
    let rules = || chains("iptables", "filter");
    let mut proxy = limited("iptables");
    wait_until("the chain is there", rules);
    for (key, value, listed) in BY_IPTABLES {
        reload(
            &proxy,
            &format!("server.listeners.{key}"),
            &with(&proxy, key, value),
        );
        wait_until(key, || rules().filter(|text| text.contains(listed)));
        reload(&proxy, &format!("server.listeners.{key}"), &proxy.config());
    }
    let other = proxy.config().edit("\"iptables\"", "\"nftables\"");
    reload(&proxy, "server.listeners.synlimit", &other);
    wait_until("it is nft's now", table);
    wait_until("and not iptables's", || rules().is_none().then_some(()));
    reload(&proxy, "server.listeners.synlimit", &proxy.config());
    wait_until("and back", rules);
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    assert_eq!((rules(), table()), (None, None));
}
