//! The firewall as a file configures it, in a network of its own: attempts are really limited,
//! packets really not tracked, entries really deleted, and nothing is left at the end.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

#[path = "firewall/two.rs"]
mod two;
#[path = "firewall/untracked.rs"]
mod untracked;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use bench::client::{Client, Dial, Mode};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use support::{
    Config, PATIENCE, Proxy,
    config::ALICE,
    fake_dc,
    namespace::{alone, is_root, says, table},
    servers::find,
    until, wait_until,
};

#[test]
fn attempts_over_the_limit_get_no_answer() {
    alone("child_limits", &["nft"]);
}

#[test]
fn rules_go_with_the_process_and_stale_ones_with_the_next() {
    alone("child_leaves_nothing", &["nft"]);
}

#[test]
fn clients_are_not_tracked_where_the_file_says_so() {
    alone("child_tracks", &["nft", "conntrack"]);
}

#[test]
fn pressure_shortens_limits_and_deletes_entries() {
    alone("child_under_pressure", &["nft", "conntrack"]);
}

fn listener(more: &str) -> String {
    format!("[[server.listeners]]\nip = \"0.0.0.0\"\n{more}")
}

/// Whether a connection is made at once, without a second SYN.
fn connects(addr: SocketAddr, from: [u8; 4]) -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::from(from)), 0);
    socket.bind(&from.into()).unwrap();
    socket
        .connect_timeout(&addr.into(), Duration::from_millis(400))
        .is_ok()
}

fn applied(proxy: &Proxy, times: usize) {
    wait_until("the rules are applied", || {
        let told = proxy.log().matches("firewall: connection attempts").count();
        (told >= times).then_some(())
    });
}

fn zero(proxy: &Proxy, field: &str) -> Value {
    proxy.get("/v1/stats/zero/all")["core"][field].clone()
}

#[test]
#[ignore = "child of another test"]
fn child_limits() {
    let dc = fake_dc();
    let text = listener(
        "synlimit = \"nftables\"\nsynlimit_seconds = 3600\nsynlimit_hitcount = 60\n\
         synlimit_burst = 3\n",
    );
    let config = Config::new(dc.addr()).more(&text);
    let proxy = config.clone().start();
    applied(&proxy, 1);
    let made = |from| (0..8).filter(|_| connects(proxy.addr, from)).count();
    assert_eq!(made([127, 0, 0, 1]), 3);
    // Another source has its own.
    assert_eq!(made([127, 0, 0, 9]), 3);
    // The API's port is nobody's listener.
    assert!(TcpStream::connect_timeout(&proxy.api, PATIENCE).is_ok());
    let more = proxy.config().edit("burst = 3", "burst = 100");
    proxy.reload(&more);
    applied(&proxy, 2);
    assert_eq!(made([127, 0, 0, 1]), 8);
    proxy.reload(&more.edit("\"nftables\"", "false"));
    wait_until("the table is gone", || table().is_none().then_some(()));
    assert_eq!(made([127, 0, 0, 1]), 8);
}

#[test]
#[ignore = "child of another test"]
fn child_leaves_nothing() {
    let dc = fake_dc();
    let text = listener("synlimit = \"nftables\"\n");
    let with = Config::new(dc.addr()).more(&text);
    for (signal, stays) in [("TERM", false), ("KILL", true)] {
        let mut proxy = with.clone().start();
        applied(&proxy, 1);
        assert!(table().is_some());
        proxy.signal(signal);
        proxy.wait_for_end();
        assert_eq!(table().is_some(), stays, "{signal}");
    }
    // One whose file wants none removes what a dead one left, but nothing of a live one.
    let _plain = Config::new(dc.addr()).start();
    wait_until("the stale table is gone", || {
        table().is_none().then_some(())
    });
    let live = with.start();
    applied(&live, 1);
    let mut second = Config::new(dc.addr()).start();
    second.signal("TERM");
    second.wait_for_end();
    assert!(table().is_some());
    assert_eq!(zero(&live, "conntrack_rule_apply_ok"), true);
}

/// Entries of connections to `port`.
fn entries(port: u16) -> usize {
    entries_of("ipv4", port)
}

/// The same of either family.
fn entries_of(family: &str, port: u16) -> usize {
    let port = port.to_string();
    let of_port = ["-L", "-f", family, "-p", "tcp", "--orig-port-dst", &port];
    let list = says("conntrack", &of_port);
    list.unwrap_or_default().lines().count()
}

/// Makes the kernel track connections in this network.
fn track() {
    let rules = "table inet tracked {\nchain seen {\ntype filter hook input priority 10;\n\
                 ct state new accept\n}\n}\n";
    let script = format!("nft -f - <<'X'\n{rules}X\n");
    assert!(
        Command::new("sh")
            .args(["-c", &script])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
#[ignore = "child of another test"]
fn child_tracks() {
    track();
    let dc = fake_dc();
    let key = "server.conntrack_control.mode";
    let base = Config::new(dc.addr());
    let hybrid = base
        .clone()
        .set(key, "\"hybrid\"")
        .set(
            "server.conntrack_control.hybrid_listener_ips",
            "[\"127.0.0.1\"]",
        )
        .set("server.listen_addr_ipv4", "\"0.0.0.0\"");
    let not = base.clone().set(key, "\"notrack\"");
    for (config, rules, tracked) in [
        (base, None, true),
        (hybrid, Some("ip daddr 127.0.0.1 tcp dport"), false),
        (not, Some("notrack"), false),
    ] {
        let proxy = config.start();
        if let Some(part) = rules {
            applied(&proxy, 1);
            let listed = table().unwrap();
            assert!(
                listed.contains(part) && listed.contains("notrack"),
                "{listed}"
            );
        }
        assert!(connects(proxy.addr, [127, 0, 0, 1]));
        assert_eq!(entries(proxy.addr.port()) > 0, tracked);
        assert_eq!(zero(&proxy, "conntrack_control_enabled"), true);
        assert_eq!(zero(&proxy, "conntrack_control_available"), true);
        assert_eq!(zero(&proxy, "conntrack_rule_apply_ok"), true);
        if rules == Some("ip daddr 127.0.0.1 tcp dport") {
            // Another address of the same listener.
            let other = SocketAddr::from(([127, 0, 0, 5], proxy.addr.port()));
            assert!(connects(other, [127, 0, 0, 1]));
            assert!(entries(proxy.addr.port()) > 0);
        }
    }
    assert!(table().is_some(), "killed proxies leave it");
}

#[tokio::test]
#[ignore = "child of another test"]
async fn child_under_pressure() {
    track();
    let dc = fake_dc();
    let control = "server.conntrack_control";
    let proxy = Config::new(dc.addr())
        .set("server.max_connections", 10)
        .set(&format!("{control}.pressure_high_watermark_pct"), 40)
        .set(&format!("{control}.pressure_low_watermark_pct"), 15)
        .set(&format!("{control}.profile"), "\"aggressive\"")
        .set("network.ipv6", true)
        .start();
    let active = |wanted: bool| {
        wait_until("pressure is as it should be", || {
            (zero(&proxy, "conntrack_pressure_active") == wanted).then_some(())
        });
    };
    active(false);
    let began = Instant::now();
    let silent = TcpStream::connect(proxy.addr).unwrap();
    let mut held = Vec::new();
    for ip in ["127.0.0.1", "127.0.0.1", "127.0.0.1", "::1"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), proxy.addr.port());
        let dial = Dial::new(Mode::Dd, addr, ALICE);
        let mut client = Client::connect(&dial).await.unwrap();
        client.ping().await.unwrap();
        held.push(client);
    }
    active(true);
    assert!(proxy.log().contains("pressure: connections 50%"));
    // Of its five minutes for a first byte ten seconds are left.
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut none = [0];
    assert_eq!(std::io::Read::read(&mut &silent, &mut none).unwrap_or(0), 0);
    assert!(began.elapsed() >= Duration::from_secs(9));
    let port = proxy.addr.port();
    assert_eq!(entries_of("ipv6", port), 1);
    held.pop();
    wait_until("its entry is deleted", || {
        let deleted = zero(&proxy, "conntrack_delete_success_total").as_u64()?;
        (deleted >= 2).then_some(())
    });
    until("only the live ones are left", || {
        (entries(port) == 3).then_some(())
    })
    .await;
    assert_eq!(entries_of("ipv6", port), 0);
    assert_eq!(zero(&proxy, "conntrack_delete_error_total"), 0);
    held.clear();
    active(false);
    assert!(proxy.log().contains("pressure is over"));
}

/// As root without the right to change the firewall.
fn without_right(command: Command) -> Command {
    let mut other = Command::new(find("setpriv").unwrap());
    other
        .args(["--bounding-set", "-net_admin"])
        .arg(command.get_program());
    other
}

#[tokio::test]
async fn without_the_right_it_says_so_and_serves() {
    if find("setpriv").is_none() || !is_root() {
        return;
    }
    let dc = fake_dc();
    let config = Config::new(dc.addr())
        .set("server.conntrack_control.mode", "\"notrack\"")
        .more("[[server.listeners]]\nip = \"127.0.0.1\"\nsynlimit = \"nftables\"\n");
    let proxy = Proxy::start_with(config, &without_right);
    wait_until("it says so", || {
        proxy.log().contains("firewall: no rules").then_some(())
    });
    assert!(
        proxy.log().contains("lacks CAP_NET_ADMIN"),
        "{}",
        proxy.log()
    );
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    client.ping().await.unwrap();
    assert_eq!(zero(&proxy, "conntrack_control_enabled"), true);
    assert_eq!(zero(&proxy, "conntrack_control_available"), false);
    assert_eq!(zero(&proxy, "conntrack_rule_apply_ok"), false);
}
