//! What answers say of the middle proxies when they are off, awaited, up, down and bypassed.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{path::Path, process::Command};

use admin::ApiSettings;
use serde_json::{Value, json};
use support::{
    Server,
    client::get,
    middle::{self, Middle},
};

const PAYLOADS: [&str; 4] = [
    "/v1/runtime/me_pool_state",
    "/v1/runtime/me_quality",
    "/v1/runtime/nat_stun",
    "/v1/runtime/me-selftest",
];

fn in_state(state: Middle) -> Server {
    let settings = ApiSettings {
        runtime_edge_enabled: true,
        runtime_edge_cache_ttl_ms: 0,
        minimal_runtime_cache_ttl_ms: 0,
        ..ApiSettings::default()
    };
    let server = Server::start(settings);
    state.show(&server.plane);
    server
}

fn data(server: &Server, path: &str) -> Value {
    get(server.addr(), path).json()["data"].clone()
}

/// When the view that is shown was made.
fn generated_at(server: &Server) -> u64 {
    let me = server.plane.me.lock().unwrap();
    me.as_ref().unwrap().generated_at_epoch_secs
}

#[test]
fn payloads_are_there_when_a_pool_is() {
    for state in middle::ALL {
        let server = in_state(state);
        let pool = !matches!(state, Middle::Off | Middle::Waiting);
        let reason = if pool {
            Value::Null
        } else {
            json!("source_unavailable")
        };
        for path in PAYLOADS {
            let answer = data(&server, path);
            assert_eq!(answer["enabled"], pool, "{state:?} {path}");
            assert_eq!(answer["data"].is_object(), pool, "{state:?} {path}");
            assert_eq!(answer["reason"], reason, "{state:?} {path}");
        }
        for path in ["/v1/stats/me-writers", "/v1/stats/dcs"] {
            let answer = data(&server, path);
            assert_eq!(answer["middle_proxy_enabled"], pool, "{state:?} {path}");
            assert_eq!(answer["reason"], reason, "{state:?} {path}");
        }
        let all = data(&server, "/v1/stats/minimal/all");
        assert_eq!((&all["enabled"], &all["reason"]), (&json!(true), &reason));
        assert_eq!(all["data"]["me_runtime"].is_object(), pool);
        assert_eq!(
            all["data"]["network_path"],
            data(&server, "/v1/stats/minimal/all")["data"]["network_path"]
        );
        assert_eq!(
            all["data"]["network_path"].as_array().unwrap().is_empty(),
            !pool
        );
    }
}

#[test]
fn payloads_show_the_view() {
    let server = in_state(Middle::Up);
    let pool = data(&server, "/v1/runtime/me_pool_state");
    assert_eq!(pool["generated_at_epoch_secs"], generated_at(&server));
    assert_eq!(
        pool["data"]["generations"]["draining_generations"],
        json!([2])
    );
    assert_eq!(pool["data"]["refill"]["by_dc"][1]["family"], "V6");
    let quality = data(&server, "/v1/runtime/me_quality")["data"].clone();
    assert_eq!(quality["counters"]["reader_eof_total"], 1);
    let [v4, v6] = [0, 1].map(|index| quality["family_states"][index].clone());
    assert_eq!((&v4["family"], &v6["family"]), (&json!("v4"), &json!("v6")));
    assert!(v4.get("suppressed_until_epoch_secs").is_none());
    assert_eq!(v6["suppressed_until_epoch_secs"], 1_800_000_060);
    let stun = data(&server, "/v1/runtime/nat_stun")["data"].clone();
    assert!(stun.get("stun_backoff_remaining_ms").is_none());
    assert_eq!(stun["reflection"]["v4"]["addr"], "203.0.113.7:40000");
    assert!(stun["reflection"].get("v6").is_none());
    let test = data(&server, "/v1/runtime/me-selftest")["data"].clone();
    assert_eq!(
        (&test["kdf"]["state"], &test["pid"]["state"]),
        (&json!("ok"), &json!("one"))
    );
    assert_eq!(
        test["timeskew"],
        json!({"state": "ok", "max_skew_secs_15m": null, "samples_15m": 0})
    );
    assert_eq!(
        test["bnd"],
        json!({"addr_state": "error", "port_state": "error"})
    );
    let runtime = &data(&server, "/v1/stats/minimal/all")["data"]["me_runtime"].clone();
    assert_eq!(runtime["me_pool_min_fresh_ratio"].to_string(), "0.8");

    Middle::Down.show(&server.plane);
    let test = data(&server, "/v1/runtime/me-selftest")["data"].clone();
    assert_eq!(test["kdf"]["state"], "error");
    assert_eq!(test["timeskew"]["last_source"], "proxy_config_date_header");
    let stun = data(&server, "/v1/runtime/nat_stun")["data"].clone();
    assert_eq!(stun["stun_backoff_remaining_ms"], 60_000);
}

#[test]
fn gates_follow_route_and_admission() {
    for (state, accepting, ready, route, reason) in [
        (Middle::Off, true, true, "direct", None),
        (Middle::Waiting, false, false, "middle", None),
        (Middle::Up, true, true, "middle", None),
        (Middle::Down, false, false, "middle", None),
        (
            Middle::Fallback,
            true,
            false,
            "direct",
            Some("strict_grace_fallback"),
        ),
    ] {
        let server = in_state(state);
        let gates = data(&server, "/v1/runtime/gates");
        assert_eq!(
            (
                gates["accepting_new_connections"].as_bool(),
                gates["me_runtime_ready"].as_bool(),
                gates["route_mode"].as_str(),
                gates["reroute_reason"].as_str(),
                gates["reroute_active"].as_bool(),
            ),
            (
                Some(accepting),
                Some(ready),
                Some(route),
                reason,
                Some(reason.is_some())
            ),
            "{state:?}"
        );
        assert_eq!(gates["use_middle_proxy"], state != Middle::Off);
        assert_eq!(gates["conditional_cast_enabled"], gates["use_middle_proxy"]);
        let at = gates["reroute_to_direct_at_epoch_secs"].as_u64();
        assert_eq!(at, reason.map(|_| 1_800_000_000));
    }
}

#[test]
fn closed_gate_is_the_first_reason() {
    let server = in_state(Middle::Down);
    server
        .plane
        .set_snapshot(|total| total.upstreams[0].healthy = false);
    let reply = get(server.addr(), "/v1/health/ready");
    let ready = reply.json()["data"].clone();
    assert_eq!(
        (reply.status, &ready["reason"]),
        (503, &json!("admission_closed"))
    );
    assert_eq!(ready["admission_open"], false);
    Middle::Fallback.show(&server.plane);
    let reply = get(server.addr(), "/v1/health/ready");
    assert_eq!(reply.json()["data"]["reason"], "no_healthy_upstreams");
    server.plane.set_snapshot(|_| ());
    assert_eq!(get(server.addr(), "/v1/health/ready").status, 200);
}

#[test]
fn initialization_tells_of_the_pools_part() {
    // Status, that of the pool's part, its stage, the way of new sessions.
    for (state, expected) in [
        (Middle::Off, "ready skipped skipped direct"),
        (
            Middle::Waiting,
            "initializing initializing me_secret_fetch middle_proxy",
        ),
        (Middle::Up, "ready ready ready middle_proxy"),
        (Middle::Down, "failed failed failed middle_proxy"),
        (
            Middle::Fallback,
            "ready initializing background_init direct",
        ),
    ] {
        let server = in_state(state);
        let start = data(&server, "/v1/runtime/initialization");
        let words = [
            "/status",
            "/me/status",
            "/me/current_stage",
            "/transport_mode",
        ];
        let words = words.map(|at| start.pointer(at).unwrap().as_str().unwrap());
        assert_eq!(words.join(" "), expected, "{state:?}");
        let ready = expected.starts_with("ready");
        assert_eq!(start.get("ready_at_epoch_secs").is_some(), ready);
        assert_eq!(start["degraded"], state == Middle::Fallback, "{state:?}");
        let limit = if state == Middle::Down {
            "3"
        } else {
            "unlimited"
        };
        assert_eq!(start["me"]["retry_limit"], limit);
        let gates = data(&server, "/v1/runtime/gates");
        assert_eq!(gates["startup_stage"], start["current_stage"]);
        assert_eq!(gates["startup_status"], start["status"]);
        assert_eq!(gates["startup_progress_pct"], start["progress_pct"]);
        let done = start["progress_pct"].as_f64().unwrap();
        assert!(done <= 100.0 && (done > 99.9) == ready, "{done}");
    }
}

#[test]
fn components_end_with_the_pools_steps() {
    for state in middle::ALL {
        let server = in_state(state);
        let start = data(&server, "/v1/runtime/initialization");
        let steps = start["components"].as_array().unwrap();
        let ids: Vec<_> = steps.iter().filter_map(|row| row["id"].as_str()).collect();
        let wanted = [
            "me_secret_fetch",
            "me_proxy_config_fetch_v4",
            "me_proxy_config_fetch_v6",
            "me_pool_construct",
            "me_pool_init_stage1",
            "me_connectivity_ping",
        ];
        assert_eq!(ids.get(2..).unwrap(), wanted);
        let last = steps.last().unwrap();
        if state == Middle::Off {
            assert_eq!(last["status"], "skipped");
            assert_eq!(last["attempts"], 0);
        } else {
            assert_eq!(last["details"].as_str().unwrap().len(), 256);
        }
    }
}

#[test]
fn connections_are_split_by_the_route_they_took() {
    let server = in_state(Middle::Up);
    for (through_me, shown) in [(0, (0, 2)), (1, (1, 1)), (2, (2, 0)), (9, (2, 0))] {
        server
            .plane
            .set_snapshot(|total| total.sessions_me = through_me);
        let totals = data(&server, "/v1/runtime/connections/summary")["data"]["totals"].clone();
        let number = |name: &str| totals[name].as_u64().unwrap();
        assert_eq!(
            (
                number("current_connections_me"),
                number("current_connections_direct")
            ),
            shown
        );
        assert_eq!(number("current_connections"), 2);
    }
}

#[test]
fn totals_and_error_codes_are_the_snapshots() {
    let server = in_state(Middle::Up);
    server.plane.set_snapshot(|total| {
        total.me.handshake_reject_total = 3;
        total.me.keepalive_sent_total = (1 << 53) + 1;
        total.handshake_error_codes = vec![(-3, 1), (-7, 2)];
        total.pool.pool_drain_active = 4;
        total.desync.desync_total = 5;
    });
    let zero = data(&server, "/v1/stats/zero/all");
    let middle = &zero["middle_proxy"];
    assert_eq!(middle["keepalive_sent_total"], (1_u64 << 53) + 1);
    assert_eq!(
        middle["handshake_error_codes"],
        json!([{"code": -7, "total": 2}, {"code": -3, "total": 1}])
    );
    assert_eq!(zero["pool"]["pool_drain_active"], 4);
    assert_eq!(zero["desync"]["desync_total"], 5);
}

#[test]
fn pool_answers_share_one_snapshot_for_its_time() {
    let settings = ApiSettings {
        minimal_runtime_cache_ttl_ms: 60_000,
        ..ApiSettings::default()
    };
    let server = Server::start(settings);
    // That there is no pool is never cached.
    let all = data(&server, "/v1/stats/minimal/all");
    assert_eq!(all["reason"], "source_unavailable");
    Middle::Up.show(&server.plane);
    let at = generated_at(&server);
    let all = data(&server, "/v1/stats/minimal/all");
    assert_eq!(all["reason"], Value::Null);
    // Gone, but not yet noticed.
    Middle::Off.show(&server.plane);
    let writers = data(&server, "/v1/stats/me-writers");
    let dcs = data(&server, "/v1/stats/dcs");
    assert_eq!(writers, all["data"]["me_writers"]);
    assert_eq!(dcs, all["data"]["dcs"]);
    let times = [&all, &writers, &dcs].map(|data| data["generated_at_epoch_secs"].clone());
    assert!(times.iter().all(|time| *time == at), "{times:?}");
    assert_eq!(writers["writers"][0]["endpoint"], "192.0.2.7:8888");
    // These four look anew.
    assert_eq!(data(&server, PAYLOADS[0])["enabled"], false);
}

#[test]
fn the_contracts_checker_is_content_in_every_state() {
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/contract/check.py");
    if !checker.is_file() || Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: the contract's checker or python3 is not there");
        return;
    }
    for state in middle::ALL {
        let server = in_state(state);
        let output = Command::new("python3")
            .arg(&checker)
            .args(["--strict", "--require-later", "--base"])
            .arg(format!("http://{}", server.addr()))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let bad: Vec<_> = said
            .lines()
            .filter(|line| line.starts_with("FAIL") || line.starts_with("WARN"))
            .collect();
        assert!(
            output.status.success() && bad.is_empty(),
            "{state:?} {bad:#?}"
        );
    }
}
