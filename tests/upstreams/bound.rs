//! Where direct connections leave from, and which route a client is given.

use std::net::Ipv4Addr;

use bench::client::Mode;

use super::{ip, row, serve, sources, ways};
use crate::support::{Config, Proxy, fake_dc, hasty, socks_server::microsocks, until};

#[tokio::test]
async fn source_addresses_take_turns() {
    let dc = fake_dc();
    let entry = "{ type = \"direct\", interface = \"127.0.0.9\", \
                 bind_addresses = [\"127.0.0.2\", \"::1\", \"127.0.0.3\"] }";
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&[entry.to_owned()]))
        .start();
    for _ in 0..6 {
        serve(&proxy.dial(Mode::Dd)).await.unwrap();
    }
    let even = [(ip("127.0.0.2"), 3), (ip("127.0.0.3"), 3)];
    assert_eq!(sources(&dc), even.into());
}

#[tokio::test]
async fn an_interface_is_an_address_or_a_name() {
    for (name, from) in [("127.0.0.4", "127.0.0.4"), ("lo", "127.0.0.1")] {
        let dc = fake_dc();
        let entry = format!("{{ type = \"direct\", interface = \"{name}\" }}");
        let proxy = Config::new(dc.addr())
            .set("upstreams", ways(&[entry]))
            .start();
        serve(&proxy.dial(Mode::Ee)).await.unwrap();
        assert_eq!(sources(&dc), [(ip(from), 1)].into());
    }
}

/// One client that fails; how many connects were begun, and how often it failed fast.
async fn fails(proxy: &Proxy) -> (u64, u64) {
    serve(&hasty(proxy.dial(Mode::Ee))).await.unwrap_err();
    (
        proxy.zero("upstream/connect_attempt_total"),
        proxy.zero("upstream/connect_failfast_hard_error_total"),
    )
}

#[tokio::test]
async fn an_address_that_is_not_ours_fails_at_once_if_asked() {
    let entries = [
        "{ type = \"direct\", bind_addresses = [\"192.0.2.1\"] }",
        "{ type = \"direct\", bind_addresses = [\"::1\"] }",
        "{ type = \"direct\", interface = \"none-such\" }",
        "{ type = \"direct\", bindtodevice = \"none-such\" }",
    ];
    for entry in entries {
        for (failfast, expected) in [(true, (1, 1)), (false, (3, 0))] {
            let dc = fake_dc();
            let proxy = Config::new(dc.addr())
                .set("upstreams", ways(&[entry.to_owned()]))
                .set("general.upstream_connect_failfast_hard_errors", failfast)
                .start();
            assert_eq!(fails(&proxy).await, expected, "{entry}");
            assert_eq!(dc.stats().accepted, 0);
        }
    }
}

#[tokio::test]
async fn a_device_is_bound_to() {
    let dc = fake_dc();
    let entry = "{ type = \"direct\", force_bind = \"lo\" }";
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&[entry.to_owned()]))
        .set("general.upstream_connect_failfast_hard_errors", true)
        .start();
    match serve(&hasty(proxy.dial(Mode::Ee))).await {
        Ok(()) => assert_eq!(dc.seen().len(), 1),
        // Kernels before 5.7 want CAP_NET_RAW for it: that is a hard error.
        Err(_) => assert_eq!(
            proxy.zero("upstream/connect_failfast_hard_error_total"),
            1,
            "{}",
            proxy.log()
        ),
    }
}

#[tokio::test]
async fn scoped_routes_are_not_for_clients() {
    let dc = fake_dc();
    let from = |last: u8| Ipv4Addr::new(127, 0, 0, last).to_string();
    let entries = [
        "{ type = \"socks5\", address = \"127.0.0.1:9\", scopes = \"front\", weight = 999 }"
            .to_owned(),
        format!(
            "{{ type = \"direct\", bind_addresses = [\"{}\"] }}",
            from(6)
        ),
    ];
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&entries))
        .start();
    for _ in 0..8 {
        serve(&proxy.dial(Mode::Ee)).await.unwrap();
    }
    assert_eq!(sources(&dc), [(ip("127.0.0.6"), 8)].into());
    assert_eq!(proxy.zero("upstream/connect_attempts_bucket_1"), 8);
}

#[tokio::test]
async fn weights_divide_new_sessions() {
    let Some(light) = microsocks("127.0.0.31", None) else {
        return;
    };
    let Some(heavy) = microsocks("127.0.0.32", None) else {
        return;
    };
    let dc = fake_dc();
    let entries = [
        light.entry("socks5", ", weight = 1"),
        heavy.entry("socks5", ", weight = 60"),
        "{ type = \"direct\", weight = 0, bind_addresses = [\"127.0.0.33\"] }".to_owned(),
    ];
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&entries))
        .set("shards.probe_secs", 1)
        .start();
    // What is not measured yet counts as slow.
    until("both are measured", || {
        let known = |index| row(&proxy, index)["effective_latency_ms"].is_number();
        (known(0) && known(1)).then_some(())
    })
    .await;
    for _ in 0..80 {
        serve(&proxy.dial(Mode::Dd)).await.unwrap();
    }
    // Latencies count too and are a millisecond, or several on a busy machine.
    let taken = sources(&dc);
    let of = |from: &str| taken.get(&ip(from)).copied().unwrap_or(0);
    assert!(of("127.0.0.32") > 40, "{taken:?}");
    assert_eq!(of("127.0.0.33"), 0, "{taken:?}");
}

#[tokio::test]
async fn without_an_enabled_route_nothing_goes_out() {
    let dc = fake_dc();
    let entry = "{ type = \"direct\", enabled = false }";
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&[entry.to_owned()]))
        .start();
    assert_eq!(fails(&proxy).await, (0, 0));
    assert_eq!(dc.stats().accepted, 0);
    let (status, answer) = proxy.ask("/v1/health/ready");
    assert_eq!(status, 503);
    assert_eq!(answer["data"]["reason"], "no_healthy_upstreams");
    assert!(proxy.log().contains("no way out"));
}
