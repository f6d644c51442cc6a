//! The contract's own checker against the built binary with middle proxies: in use, out of reach,
//! bypassed, and not known yet. What it cannot know of the numbers is looked at here.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use bench::{
    client::{Client, Mode},
    fake_me::{Fault, MeStats},
};
use serde_json::Value;

use support::{
    Proxy,
    checker::{checker, content},
    config::BOB,
    has_two_cores,
    me::Middle,
    until,
};

/// Five DCs with two endpoints each; with those of negative ids ten groups of three writers.
const GROUPS: u64 = 10;
const ENDPOINTS: u64 = 20;
const WRITERS: u64 = 30;

const POOL: [&str; 4] = [
    "/v1/runtime/me_pool_state",
    "/v1/runtime/me_quality",
    "/v1/runtime/nat_stun",
    "/v1/runtime/me-selftest",
];

/// A proxy behind MEs of five DCs, all of which suffer from `fault`.
fn scene(fault: Fault, keys: &[(&str, &str)]) -> (Middle, Proxy) {
    let middle = Middle::five_dcs(2);
    middle.me.set_fault_everywhere(fault);
    let mut config = middle
        .config()
        .user("bob", BOB)
        .set("general.me2dc_fallback", "true")
        .set("server.api.runtime_edge_enabled", "true")
        .set("server.api.runtime_edge_cache_ttl_ms", "0");
    for (key, value) in keys {
        config = config.set(key, value);
    }
    if has_two_cores() {
        config = config.shards(2);
    }
    (middle, config.start())
}

/// Four clients of all framings that have been answered.
async fn clients(proxy: &Proxy) -> Vec<Client> {
    let mut held = Vec::new();
    for number in 0..4 {
        let mode = Mode::PROXIED[number % Mode::PROXIED.len()];
        let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
        client.ping().await.unwrap();
        held.push(client);
    }
    held
}

/// Numbers of an answer's `data`, by JSON pointer; one that is not there is one nobody expects.
fn numbers<const N: usize>(data: &Value, pointers: [&str; N]) -> [u64; N] {
    pointers.map(|pointer| {
        let found = data.pointer(pointer).and_then(Value::as_u64);
        found.unwrap_or(u64::MAX)
    })
}

/// Likewise for words.
fn words<'a, const N: usize>(data: &'a Value, pointers: [&str; N]) -> [&'a str; N] {
    pointers.map(|pointer| {
        let found = data.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or("(absent)")
    })
}

fn near(value: &Value, wanted: f64) {
    let value = value.as_f64().unwrap();
    assert!((value - wanted).abs() < 0.01, "{value}, expected {wanted}");
}

/// Sessions by route.
fn routes(proxy: &Proxy) -> [u64; 3] {
    let summary = proxy.get("/v1/runtime/connections/summary");
    numbers(
        &summary,
        [
            "/data/totals/current_connections",
            "/data/totals/current_connections_me",
            "/data/totals/current_connections_direct",
        ],
    )
}

#[tokio::test]
async fn pool_that_is_up() {
    let Some(checker) = checker() else {
        return;
    };
    let (_middle, proxy) = scene(Fault::None, &[]);
    proxy.until_at_floor().await;
    let mut held = clients(&proxy).await;
    assert_eq!(routes(&proxy), [4, 4, 0]);

    let writers = proxy.get("/v1/stats/me-writers");
    assert_eq!(
        numbers(
            &writers["summary"],
            [
                "/configured_dc_groups",
                "/configured_endpoints",
                "/required_writers"
            ]
        ),
        [GROUPS, ENDPOINTS, WRITERS]
    );
    near(&writers["summary"]["coverage_pct"], 100.0);
    near(&writers["summary"]["available_pct"], 100.0);
    let rows = writers["writers"].as_array().unwrap();
    let bound: u64 = rows
        .iter()
        .filter_map(|row| row["bound_clients"].as_u64())
        .sum();
    assert_eq!(bound, 4);
    let dcs = proxy.get("/v1/stats/dcs");
    let rows = dcs["dcs"].as_array().unwrap();
    let ids: Vec<i64> = rows.iter().filter_map(|row| row["dc"].as_i64()).collect();
    assert_eq!(ids, [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]);
    let load: u64 = rows.iter().filter_map(|row| row["load"].as_u64()).sum();
    assert_eq!(load, 4);

    let gates = proxy.get("/v1/runtime/gates");
    assert_eq!(
        words(&gates, ["/route_mode", "/startup_stage"]),
        ["middle", "ready"]
    );
    assert_eq!(
        (&gates["me_runtime_ready"], &gates["reroute_active"]),
        (&true.into(), &false.into())
    );
    let start = proxy.get("/v1/runtime/initialization");
    assert_eq!(
        words(
            &start,
            ["/me/status", "/me/current_stage", "/transport_mode"]
        ),
        ["ready", "ready", "middle_proxy"]
    );
    near(&start["me"]["progress_pct"], 100.0);
    let steps = start["components"].as_array().unwrap();
    let began = |id: &str| {
        let step = steps.iter().find(|row| row["id"] == id).unwrap();
        step["started_at_epoch_ms"].as_u64().unwrap()
    };
    // One clock for all of them.
    assert!(began("config_load") <= began("me_secret_fetch"), "{start}");
    assert!(
        began("me_secret_fetch") <= began("me_pool_init_stage1"),
        "{start}"
    );
    for path in POOL {
        assert_eq!(proxy.get(path)["enabled"], true, "{path}");
    }
    let proxy = content(&checker, proxy, None).await;
    for client in &mut held {
        client.ping().await.unwrap();
    }
    identities(&proxy.get("/v1/stats/zero/all"));
}

/// What middle-proxy.md 26 says of the totals.
fn identities(zero: &Value) {
    let me = |name: &str| numbers(&zero["middle_proxy"], [&format!("/{name}")])[0];
    let pool = |name: &str| numbers(&zero["pool"], [&format!("/{name}")])[0];
    assert_eq!(
        me("d2c_data_frames_total") + me("d2c_ack_frames_total"),
        me("d2c_batch_frames_total")
    );
    assert!(me("d2c_data_frames_total") > 0, "{zero}");
    assert_eq!(
        me("route_drop_queue_full_total"),
        me("route_drop_queue_full_base_total") + me("route_drop_queue_full_high_total")
    );
    assert!(me("idle_close_by_peer_total") <= me("reader_eof_total"));
    assert!(me("reader_eof_total") <= pool("writer_removed_total"));
    assert!(me("reconnect_success_total") <= me("reconnect_attempt_total"));
    let codes = zero["middle_proxy"]["handshake_error_codes"]
        .as_array()
        .unwrap();
    let sum: u64 = codes.iter().filter_map(|row| row["total"].as_u64()).sum();
    assert_eq!(sum, me("handshake_reject_total"));
}

#[tokio::test]
async fn pool_that_is_down_with_nothing_to_bypass_it() {
    let Some(checker) = checker() else {
        return;
    };
    let (middle, proxy) = scene(Fault::Refuse, &[("general.me2dc_fallback", "false")]);
    until("the first attempt has failed", || {
        let start = proxy.get("/v1/runtime/initialization");
        start["me"]["last_error"].is_string().then_some(())
    })
    .await;
    let (status, ready) = proxy.ask("/v1/health/ready");
    assert_eq!(
        (status, &ready["data"]["reason"]),
        (503, &"admission_closed".into())
    );
    let summary = proxy.get("/v1/stats/me-writers")["summary"].clone();
    assert_eq!(
        numbers(&summary, ["/alive_writers", "/required_writers"]),
        [0, WRITERS]
    );
    near(&summary["coverage_pct"], 0.0);
    let gates = proxy.get("/v1/runtime/gates");
    assert_eq!(gates["accepting_new_connections"], false);
    assert_eq!(words(&gates, ["/route_mode"]), ["middle"]);
    let start = proxy.get("/v1/runtime/initialization");
    assert_eq!(
        words(&start, ["/status", "/me/status"]),
        ["initializing", "initializing"]
    );
    content(&checker, proxy, None).await;
    assert_eq!(middle.me.total(), MeStats::default());
}

#[tokio::test]
async fn pool_that_is_bypassed() {
    let Some(checker) = checker() else {
        return;
    };
    let (middle, proxy) = scene(Fault::HandshakeError(-3), &[]);
    let mut held = clients(&proxy).await;
    assert_eq!(routes(&proxy), [4, 0, 4]);
    until("the pool's part of the start goes on", || {
        let zero = proxy.get("/v1/stats/zero/all");
        (zero["middle_proxy"]["handshake_error_codes"][0]["code"] == -3).then_some(())
    })
    .await;
    let gates = proxy.get("/v1/runtime/gates");
    assert_eq!(
        words(&gates, ["/route_mode", "/reroute_reason"]),
        ["direct", "fast_not_ready_fallback"]
    );
    assert_eq!(gates["me2dc_fast_enabled"], true);
    assert!(gates["reroute_to_direct_at_epoch_secs"].is_u64());
    let start = proxy.get("/v1/runtime/initialization");
    assert_eq!(
        words(&start, ["/status", "/me/current_stage", "/transport_mode"]),
        ["ready", "background_init", "direct"]
    );
    assert_eq!(start["degraded"], true);
    assert_eq!(proxy.ask("/v1/health/ready").0, 200);
    let proxy = content(&checker, proxy, None).await;
    for client in &mut held {
        client.ping().await.unwrap();
    }

    // Once it is up new sessions take it; those that are there stay where they are.
    middle.me.set_fault_everywhere(Fault::None);
    proxy.until_route("middle").await;
    let newest = proxy.get("/v1/runtime/events/recent?limit=256")["data"]["events"].clone();
    let rows = newest.as_array().unwrap().iter();
    let about_route: Vec<_> = rows
        .filter(|row| row["event_type"] == "route_mode")
        .collect();
    assert!(!about_route.is_empty(), "{newest}");
    let _more = clients(&proxy).await;
    assert_eq!(routes(&proxy), [8, 4, 4]);
    let gates = proxy.get("/v1/runtime/gates");
    assert_eq!(gates["reroute_active"], false);
    assert!(gates.get("reroute_reason").is_none(), "{gates}");
}

#[tokio::test]
async fn pool_that_is_not_known_yet() {
    let Some(checker) = checker() else {
        return;
    };
    // Neither to be downloaded nor on disk.
    let keys = [
        ("general.proxy_secret_url", "\"http://127.0.0.1:9/secret\""),
        ("general.proxy_secret_path", "\"no-secret\""),
    ];
    let (_middle, proxy) = scene(Fault::None, &keys);
    for path in POOL {
        let data = proxy.get(path);
        assert_eq!(data["enabled"], false, "{path}");
        assert_eq!(data["reason"], "source_unavailable", "{path}");
    }
    let all = proxy.get("/v1/stats/minimal/all");
    assert_eq!(
        (&all["enabled"], &all["reason"]),
        (&true.into(), &"source_unavailable".into())
    );
    let proxy = content(&checker, proxy, None).await;
    let start = proxy.get("/v1/runtime/initialization");
    let steps = start["components"].as_array().unwrap();
    let secret = steps
        .iter()
        .find(|row| row["id"] == "me_secret_fetch")
        .unwrap();
    assert!(secret["attempts"].as_u64() > Some(0), "{secret}");
}

#[tokio::test]
async fn pool_that_was_given_up_and_comes_all_the_same() {
    let Some(checker) = checker() else {
        return;
    };
    let keys = [("general.me_init_retry_attempts", "1")];
    let (middle, proxy) = scene(Fault::Refuse, &keys);
    until("it is given up", || {
        let start = proxy.get("/v1/runtime/initialization");
        (start["me"]["status"] == "failed").then_some(())
    })
    .await;
    let start = proxy.get("/v1/runtime/initialization");
    assert_eq!(
        words(&start, ["/status", "/me/current_stage", "/me/retry_limit"]),
        ["ready", "fallback_to_direct", "1"]
    );
    for path in POOL {
        assert_eq!(proxy.get(path)["enabled"], false, "{path}");
    }
    let proxy = content(&checker, proxy, None).await;

    // The health tick goes on.
    middle.me.set_fault_everywhere(Fault::None);
    proxy.until_route("middle").await;
    for path in POOL {
        assert_eq!(proxy.get(path)["enabled"], true, "{path}");
    }
    let start = proxy.get("/v1/runtime/initialization");
    assert_eq!(words(&start, ["/me/status"]), ["ready"]);
    assert!(start["me"].get("last_error").is_none(), "{start}");
}
