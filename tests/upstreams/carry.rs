//! Every kind of route carries every mode.

use std::net::{Ipv6Addr, SocketAddr};

use bench::{client::Mode, fake_dc::FakeDc};
use serde_json::json;

use super::{ip, row, serve, sources, ways};
use crate::support::{
    Config, fake_dc, has_ipv6,
    socks_server::{dante, microsocks},
};

/// Serves clients of all modes through one route, which is shown as `kind` at `address`.
async fn carries(entry: String, kind: &str, address: &str, from: &str) {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&[entry]))
        .start();
    for mode in Mode::PROXIED {
        serve(&proxy.dial(mode)).await.unwrap();
    }
    assert_eq!(sources(&dc), [(ip(from), Mode::PROXIED.len())].into());
    let shown = row(&proxy, 0);
    assert_eq!(shown["route_kind"], kind);
    assert_eq!(shown["address"], address);
    assert_eq!(shown["healthy"], true);
    assert_eq!(shown["dc"][0]["ip_preference"], "prefer_v4");
    assert!(shown["dc"][0]["latency_ema_ms"].is_number());
    let quality = proxy.get("/v1/runtime/upstream_quality");
    assert_eq!(quality["summary"][format!("{kind}_total")], 1);
    assert_eq!(quality["upstreams"][0]["address"], address);
    let clients = Mode::PROXIED.len() as u64;
    assert_eq!(quality["counters"]["connect_success_total"], clients);
    assert_eq!(proxy.zero("upstream/connect_attempts_bucket_1"), clients);
    assert!(!proxy.log().contains("pass-word"));
}

#[tokio::test]
async fn a_direct_route_carries_every_mode() {
    let entry = "{ type = \"direct\", bind_addresses = [\"127.0.0.2\"] }";
    carries(entry.to_owned(), "direct", "direct", "127.0.0.2").await;
}

#[tokio::test]
async fn socks4_carries_every_mode() {
    let Some(server) = dante(4, "none") else {
        return;
    };
    let entry = server.entry("socks4", ", user_id = \"somebody\"");
    carries(entry, "socks4", &server.addr.to_string(), "127.0.0.1").await;
}

#[tokio::test]
async fn socks5_carries_every_mode() {
    let Some(server) = dante(5, "none") else {
        return;
    };
    let entry = server.entry("socks5", "");
    carries(entry, "socks5", &server.addr.to_string(), "127.0.0.1").await;
    let Some(server) = microsocks("127.0.0.21", None) else {
        return;
    };
    // Whoever has credentials offers both methods, and the server may want none.
    let entry = server.entry("socks5", ", username = \"u\", password = \"pass-word\"");
    carries(entry, "socks5", &server.addr.to_string(), "127.0.0.21").await;
}

#[tokio::test]
async fn socks5_with_a_password_carries_every_mode() {
    let Some(server) = microsocks("127.0.0.22", Some(("user", "pass-word"))) else {
        return;
    };
    let more = ", username = \"user\", password = \"pass-word\", interface = \"lo\"";
    let entry = server.entry("socks5", more);
    carries(entry, "socks5", &server.addr.to_string(), "127.0.0.22").await;
}

#[tokio::test]
async fn a_server_may_be_named() {
    let Some(server) = microsocks("127.0.0.23", None) else {
        return;
    };
    let port = server.addr.port();
    let entry = format!("{{ type = \"socks5\", address = \"LocalHost:{port}\" }}");
    let address = format!("localhost:{port}");
    carries(entry, "socks5", &address, "127.0.0.23").await;
}

#[tokio::test]
async fn dcs_of_ipv6_are_reached_through_socks5() {
    let (true, Some(server)) = (has_ipv6(), microsocks("::1", None)) else {
        return;
    };
    let dc = FakeDc::start(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).unwrap();
    let entry = server.entry("socks5", ", ipv6 = true, ipv4 = false");
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&[entry]))
        .start();
    serve(&proxy.dial(Mode::Ee)).await.unwrap();
    assert_eq!(row(&proxy, 0)["dc"][0]["ip_preference"], "prefer_v6");
    assert_eq!(sources(&dc), [(ip("::1"), 1)].into());
}

#[tokio::test]
async fn all_routes_are_listed_and_probed() {
    let (Some(socks4), Some(socks5)) = (dante(4, "none"), microsocks("127.0.0.24", None)) else {
        return;
    };
    let dc = fake_dc();
    let entries = [
        "{ type = \"direct\", enabled = false }".to_owned(),
        socks4.entry("socks4", ", weight = 3, scopes = \"one, two\""),
        socks5.entry("socks5", ""),
        "{ type = \"direct\" }".to_owned(),
    ];
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&entries))
        .set("shards.probe_secs", 1)
        .start();
    let data = || proxy.get("/v1/stats/upstreams");
    crate::support::until("all DCs are probed through all routes", || {
        let data = data();
        let rows = data["upstreams"].as_array().unwrap();
        let known = |row: &serde_json::Value| {
            let dcs = row["dc"].as_array().unwrap();
            dcs.len() == 6 && dcs.iter().all(|dc| dc["ip_preference"] == "prefer_v4")
        };
        rows.iter().all(known).then_some(())
    })
    .await;
    let data = data();
    let fields = |name: &str| -> Vec<serde_json::Value> {
        let rows = data["upstreams"].as_array().unwrap();
        rows.iter().map(|row| row[name].clone()).collect()
    };
    assert_eq!(fields("route_kind"), ["socks4", "socks5", "direct"]);
    assert_eq!(fields("weight"), [3, 1, 1]);
    assert_eq!(fields("scopes"), ["one,two", "", ""]);
    assert_eq!(fields("upstream_id"), [0, 1, 2]);
    assert_eq!(fields("healthy"), [true, true, true]);
    let summary = json!({"configured_total": 3, "healthy_total": 3, "unhealthy_total": 0,
        "direct_total": 1, "socks4_total": 1, "socks5_total": 1, "shadowsocks_total": 0});
    assert_eq!(data["summary"], summary);
    // Probes send nothing, and are no clients.
    assert!(dc.seen().is_empty());
    assert_eq!(proxy.zero("upstream/connect_attempt_total"), 0);
}
