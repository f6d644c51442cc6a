//! The control API of a running proxy in direct mode: what it shows while clients come and go, and
//! that nothing a peer does to its port takes it away. Shapes are checked by `admin/tests` and,
//! when it is there, by the contract's own checker.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant};

use bench::{
    client::{Client, Dial, Mode},
    fake_dc::Fault,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use support::{Config, Proxy, api::ask, config::BOB, fake_dc, has_two_cores, hasty, until};

/// Clients of every mode, each with a round trip behind it.
async fn clients(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..count {
        let dial = proxy.dial(Mode::PROXIED[number % 4]);
        let mut client = Client::connect(&dial).await.unwrap();
        client.ping().await.unwrap();
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn numbers_follow_the_clients_and_gauges_return_to_zero() {
    let dc = fake_dc();
    let mut config = Config::new(dc.addr()).user("bob", BOB);
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = config.start();
    let mut held = clients(&proxy, 12).await;
    for client in &mut held {
        client.exchange(10_000, 20_000).await.unwrap();
    }
    let alice = proxy.get("/v1/users/alice");
    assert_eq!(alice["current_connections"], 12);
    assert_eq!(alice["active_unique_ips"], 1);
    assert_eq!(alice["active_unique_ips_list"], json!(["127.0.0.1"]));
    assert!(alice["total_octets"].as_u64().unwrap() > 12 * 30_000);
    assert_eq!(alice["in_runtime"], true);
    let ips = proxy.get("/v1/stats/users/active-ips");
    assert_eq!(
        ips,
        json!([{"username": "alice", "active_ips": ["127.0.0.1"]}])
    );
    let users = proxy.get("/v1/stats/users");
    assert_eq!(users, proxy.get("/v1/users"));
    assert_eq!(users[1]["username"], "bob");
    assert_eq!(
        (
            users[1]["current_connections"].as_u64(),
            users[1]["total_octets"].as_u64()
        ),
        (Some(0), Some(0))
    );
    let summary = proxy.get("/v1/stats/summary");
    assert_eq!(summary["connections_total"], 12);
    assert_eq!(summary["connections_bad_total"], 0);
    assert_eq!(summary["configured_users"], 2);
    let upstream = &proxy.get("/v1/stats/zero/all")["upstream"];
    assert_eq!(upstream["connect_success_total"], 12);
    assert_eq!(upstream["connect_attempts_bucket_1"], 12);
    drop(held);
    proxy.until_connections(0).await;
    let alice = proxy.get("/v1/users/alice");
    assert_eq!(alice["active_unique_ips_list"], json!([]));
    assert_eq!(alice["recent_unique_ips_list"], json!(["127.0.0.1"]));
    assert!(alice["total_octets"].as_u64().unwrap() > 12 * 30_000);
    assert_eq!(proxy.get("/v1/stats/users/active-ips"), json!([]));
}

#[tokio::test]
async fn source_addresses_are_listed_once_each() {
    let dc = fake_dc();
    let mut config = Config::new(dc.addr());
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = config.start();
    let mut held = Vec::new();
    for last in [1, 2, 3, 1, 2, 1] {
        let dial = Dial {
            source: Some([127, 0, 7, last].into()),
            ..proxy.dial(Mode::Ee)
        };
        let mut client = Client::connect(&dial).await.unwrap();
        client.ping().await.unwrap();
        held.push(client);
    }
    let alice = proxy.get("/v1/users/alice");
    assert_eq!(alice["active_unique_ips"], 3);
    assert_eq!(
        alice["active_unique_ips_list"],
        json!(["127.0.7.1", "127.0.7.2", "127.0.7.3"])
    );
    held.drain(1..3);
    until("one address is active", || {
        let data = proxy.get("/v1/users/alice");
        (data["active_unique_ips_list"] == json!(["127.0.7.1", "127.0.7.2"])).then_some(())
    })
    .await;
    assert_eq!(proxy.get("/v1/users/alice")["recent_unique_ips"], 3);
}

#[tokio::test]
async fn a_dead_dc_makes_the_route_unhealthy_and_a_client_makes_it_healthy() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("general.upstream_connect_retry_attempts", 1)
        .set("general.upstream_unhealthy_fail_threshold", 3)
        .start();
    expect_ready(&proxy, true);
    dc.set_fault(Fault::Refuse);
    for fails in 1..=3_u64 {
        let mut client = Client::connect(&hasty(proxy.dial(Mode::Ee))).await.unwrap();
        client.ping().await.unwrap_err();
        let row = &proxy.get("/v1/stats/upstreams")["upstreams"][0];
        assert_eq!(
            (&row["fails"], &row["healthy"]),
            (&json!(fails), &json!(fails < 3))
        );
    }
    expect_ready(&proxy, false);
    let data = proxy.get("/v1/stats/upstreams");
    assert_eq!(data["summary"]["unhealthy_total"], 1);
    assert_eq!(data["zero"]["connect_fail_total"], 3);
    dc.set_fault(Fault::None);
    clients(&proxy, 1).await;
    expect_ready(&proxy, true);
    let row = &proxy.get("/v1/stats/upstreams")["upstreams"][0];
    assert_eq!(
        (&row["route_kind"], &row["fails"]),
        (&json!("direct"), &json!(0))
    );
    assert_eq!(row["dc"][0]["dc"], 2);
}

fn expect_ready(proxy: &Proxy, ready: bool) {
    let (status, answer) = proxy.ask("/v1/health/ready");
    let data = &answer["data"];
    assert_eq!(
        (status, &answer["ok"]),
        (if ready { 200 } else { 503 }, &json!(true))
    );
    assert_eq!(data["ready"], ready);
    assert_eq!(data["healthy_upstreams"], i32::from(ready));
    assert_eq!(data["total_upstreams"], 1);
    let reason = if ready {
        Value::Null
    } else {
        json!("no_healthy_upstreams")
    };
    assert_eq!(data["reason"], reason);
}

#[tokio::test]
async fn probes_find_out_without_clients() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).set("shards.probe_secs", 1).start();
    let dcs = |proxy: &Proxy| {
        let data = proxy.get("/v1/stats/upstreams");
        data["upstreams"][0]["dc"].as_array().map_or(0, Vec::len)
    };
    until("every DC was probed", || (dcs(&proxy) == 6).then_some(())).await;
    expect_ready(&proxy, true);
    dc.set_fault(Fault::Refuse);
    let ready = |wanted: bool| (proxy.ask("/v1/health/ready").0 == 200) == wanted;
    until("probes fail", || ready(false).then_some(())).await;
    dc.set_fault(Fault::None);
    until("probes succeed", || ready(true).then_some(())).await;
    assert!(dc.seen().is_empty(), "probes send nothing");
}

#[tokio::test]
async fn no_probe_contacts_no_dc() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("shards.probe_secs", 1)
        .arg("--no-probe")
        .start();
    // As long as a first probe and a second one would have taken.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(dc.stats().accepted, 0);
    clients(&proxy, 1).await;
    assert_eq!(dc.stats().accepted, 1);
}

#[tokio::test]
async fn start_and_settings_are_shown() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 17)
        .set("server.api.read_only", true)
        .start();
    assert_eq!(
        proxy.get("/v1/health"),
        json!({"status": "ok", "read_only": true})
    );
    let info = proxy.get("/v1/system/info");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    let path = proxy.config_path().canonicalize().unwrap();
    assert_eq!(info["config_path"].as_str(), path.to_str());
    let gates = proxy.get("/v1/runtime/gates");
    assert_eq!(gates["accepting_new_connections"], true);
    assert_eq!(
        (&gates["route_mode"], &gates["use_middle_proxy"]),
        (&json!("direct"), &json!(false))
    );
    assert_eq!(gates["startup_status"], "ready");
    let start = proxy.get("/v1/runtime/initialization");
    assert_eq!(
        (&start["status"], &start["progress_pct"]),
        (&json!("ready"), &json!(100.0))
    );
    let components = start["components"].as_array().unwrap();
    let with = |status: &str| -> Vec<&str> {
        let rows = components.iter().filter(|step| step["status"] == status);
        rows.filter_map(|step| step["id"].as_str()).collect()
    };
    assert_eq!(
        with("ready"),
        ["config_load", "host_check", "shards_start", "api_bootstrap"]
    );
    // Those of middle proxies, which nobody wants here.
    let skipped = with("skipped");
    assert_eq!((skipped.len(), components.len()), (6, 10));
    assert!(skipped.iter().all(|id| id.starts_with("me_")));
    assert_eq!(start["me"]["status"], "skipped");
    let limits = proxy.get("/v1/limits/effective");
    assert_eq!(limits["timeouts"]["client_handshake_secs"], 17);
    let posture = proxy.get("/v1/security/posture");
    assert_eq!(posture["api_read_only"], true);
    let whitelist = proxy.get("/v1/security/whitelist");
    assert_eq!(whitelist["entries"], json!(["127.0.0.0/8"]));
    assert_eq!(ask(proxy.api, "/v1/nothing").unwrap().0, 404);
    assert!(!proxy.log().contains(&hex::encode(BOB.0)));
}

#[tokio::test]
async fn the_port_answers_beside_hundreds_that_say_nothing() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    let mut idle = Vec::new();
    for number in 0..500 {
        let mut stream = TcpStream::connect(proxy.api).await.unwrap();
        if number % 5 == 0 {
            stream.write_all(b"GET /v1/hea").await.unwrap();
        }
        idle.push(stream);
    }
    let began = Instant::now();
    for _ in 0..20 {
        proxy.get("/v1/stats/summary");
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    // Slow senders: a byte now and then, each on its own connection.
    for byte in b"lth HTTP/1.1\r\nHost: x\r\n" {
        for stream in idle.iter_mut().step_by(5) {
            // It may have been closed for its slowness already.
            let _ = stream.write_all(&[*byte]).await;
        }
        proxy.get("/v1/health");
    }
    clients(&proxy, 4).await;
}

#[tokio::test]
async fn requests_from_many_at_once_are_all_answered() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    let _held = clients(&proxy, 8).await;
    let api = proxy.api;
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(move || {
                for path in ["/v1/stats/zero/all", "/v1/users", "/v1/stats/upstreams"] {
                    let (status, answer) = ask(api, path).unwrap();
                    assert_eq!((status, &answer["ok"]), (200, &json!(true)));
                }
            });
        }
    });
}
