//! Every endpoint against the contract: shapes, field order, states, gates and their order.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use admin::{ApiSettings, RefusedPeer, StoreError};
use support::{
    Server,
    client::{Reply, call, get},
    json::{Contract, Json},
    middle,
};

/// Paths and types of the contract's GET routes, later ones included.
fn reads(contract: &Contract) -> Vec<(String, String)> {
    let mut routes = Vec::new();
    for endpoint in contract.endpoints() {
        if endpoint["method"] == "GET" {
            let text = |key: &str| endpoint[key].as_str().unwrap().to_owned();
            let path = text("path").replace("{username}", "alice");
            routes.push((path.replace("{id}", "1"), text("data")));
        }
    }
    routes
}

fn check_all(server: &Server) {
    let contract = Contract::load();
    let routes = reads(&contract);
    assert_eq!(routes.len(), 29);
    let reloaded = call(server.addr(), "POST", "/v1/system/reload", "", None);
    assert_eq!(reloaded.status, 202);
    for (path, data) in routes {
        let reply = get(server.addr(), &path);
        assert!(
            matches!(reply.status, 200 | 503),
            "{path}: {}",
            reply.status
        );
        assert_eq!(
            reply.header("Content-Type"),
            Some("application/json; charset=utf-8")
        );
        let envelope = Json::parse(&reply.body);
        assert_eq!(envelope.keys(), ["ok", "data", "revision"], "{path}");
        assert_eq!(envelope.member("ok"), Some(&Json::Bool(true)));
        let misfits = contract.misfits(envelope.member("data").unwrap(), &data, &path);
        assert!(misfits.is_empty(), "{misfits:#?}");
        let slashed = get(server.addr(), &format!("{path}//?x=y"));
        assert_eq!(slashed.status, reply.status, "{path}");
    }
}

fn data(server: &Server, path: &str) -> serde_json::Value {
    get(server.addr(), path).json()["data"].clone()
}

#[test]
fn answers_have_the_contracts_shape_in_every_state() {
    let edge = ApiSettings {
        runtime_edge_enabled: true,
        ..ApiSettings::default()
    };
    let server = Server::start(edge.clone());
    server.events.record("admission.state", "open=true");
    check_all(&server);
    *server.plane.snapshot.lock().unwrap() = None;
    check_all(&server);
    for state in middle::ALL {
        state.show(&server.plane);
        check_all(&server);
    }
    check_all(&Server::start(ApiSettings {
        minimal_runtime_enabled: false,
        ..edge.clone()
    }));
    check_all(&Server::start(ApiSettings {
        runtime_edge_enabled: false,
        ..edge
    }));
}

#[test]
fn large_counters_survive_exactly() {
    let server = Server::start(ApiSettings::default());
    let reply = get(server.addr(), "/v1/stats/summary");
    let text = String::from_utf8(reply.body).unwrap();
    assert!(
        text.contains("\"connections_total\":9007199254740993,"),
        "{text}"
    );
    let classes = serde_json::json!([
        {"class": "closed_before_first_byte", "total": 1},
        {"class": "not_mtproto", "total": 2},
    ]);
    let data = data(&server, "/v1/stats/summary");
    assert_eq!(data["connections_bad_by_class"], classes);
}

#[test]
fn readiness_names_the_closed_gate_first() {
    let server = Server::start(ApiSettings::default());
    for (accepting, healthy, status, reason) in [
        (true, true, 200, None),
        (true, false, 503, Some("no_healthy_upstreams")),
        (false, true, 503, Some("admission_closed")),
        (false, false, 503, Some("admission_closed")),
    ] {
        server.plane.set_snapshot(|total| {
            total.accepting = accepting;
            total.upstreams[0].healthy = healthy;
        });
        let reply = get(server.addr(), "/v1/health/ready");
        assert_eq!(
            (reply.status, reply.json()["data"]["reason"].as_str()),
            (status, reason)
        );
        assert_eq!(reply.json()["ok"], true);
    }
}

#[test]
fn users_show_the_file_and_the_live_numbers() {
    let server = Server::start(ApiSettings::default());
    let rows = data(&server, "/v1/users");
    assert_eq!(rows, data(&server, "/v1/stats/users"));
    assert_eq!(
        (&rows[0]["username"], &rows[1]["username"]),
        (&"alice".into(), &"bob".into())
    );
    let alice = data(&server, "/v1/users/alice");
    assert_eq!(alice, rows[0]);
    assert_eq!(
        (&alice["in_runtime"], &rows[1]["in_runtime"]),
        (&true.into(), &false.into())
    );
    assert_eq!(alice["total_octets"], 3_000);
    assert_eq!(
        alice["active_unique_ips_list"],
        serde_json::json!(["198.51.100.9"])
    );
    // The third address was seen longer ago than the window.
    assert_eq!(
        alice["recent_unique_ips_list"],
        serde_json::json!(["198.51.100.3", "198.51.100.9"])
    );
    let active = data(&server, "/v1/stats/users/active-ips");
    assert_eq!(
        active,
        serde_json::json!([{"username": "alice", "active_ips": ["198.51.100.9"]}])
    );
    assert_eq!(
        get(server.addr(), "/v1/users/nobody").outcome(),
        (404, "not_found".to_owned())
    );
}

#[test]
fn edge_summary_is_cached_for_its_time() {
    let settings = ApiSettings {
        runtime_edge_enabled: true,
        runtime_edge_cache_ttl_ms: 60_000,
        ..ApiSettings::default()
    };
    let server = Server::start(settings);
    let cache =
        |server: &Server| data(server, "/v1/runtime/connections/summary")["data"]["cache"].clone();
    assert_eq!(cache(&server)["served_from_cache"], false);
    *server.plane.snapshot.lock().unwrap() = None;
    assert_eq!(cache(&server)["served_from_cache"], true);
}

#[test]
fn broken_file_breaks_what_depends_on_it() {
    let server = Server::start(ApiSettings::default());
    server.store.break_with(Some(StoreError::Unreadable));
    for path in ["/v1/health", "/v1/users", "/v1/system/info"] {
        assert_eq!(
            get(server.addr(), path).outcome(),
            (500, "internal_error".to_owned()),
            "{path}"
        );
    }
    assert_eq!(get(server.addr(), "/v1/nothing").status, 404);
    server.store.break_with(None);
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
}

#[test]
fn gates_come_in_the_contracts_order() {
    let locked = ApiSettings {
        whitelist: vec!["192.0.2.0/24".parse().unwrap()],
        auth_header: "Bearer x".to_owned(),
        read_only: true,
        ..ApiSettings::default()
    };
    let ask = |server: &Server, headers: &str, target: &str| -> (u16, String) {
        call(server.addr(), "POST", target, headers, Some("{")).outcome()
    };
    let outcome = |status: u16, code: &str| (status, code.to_owned());

    let server = Server::start(locked.clone());
    server.api.set_enabled(false);
    assert_eq!(ask(&server, "", "/v1/users"), outcome(503, "api_disabled"));
    server.api.set_enabled(true);
    assert_eq!(ask(&server, "", "/v1/users"), outcome(403, "forbidden"));
    let forwarded = "X-Forwarded-For: 192.0.2.1\r\nAuthorization: Bearer x\r\n";
    assert_eq!(
        ask(&server, forwarded, "/v1/nothing"),
        outcome(403, "forbidden")
    );

    let open = ApiSettings {
        whitelist: vec!["127.0.0.0/8".parse().unwrap()],
        ..locked
    };
    let server = Server::start(open.clone());
    let good = "Authorization:   Bearer x  \r\nAuthorization: other\r\n";
    assert_eq!(
        ask(&server, "", "/v1/nothing"),
        outcome(401, "unauthorized")
    );
    assert_eq!(
        ask(&server, "Authorization: bearer x\r\n", "/v1/users"),
        outcome(401, "unauthorized")
    );
    assert_eq!(ask(&server, good, "/v1/nothing"), outcome(404, "not_found"));
    assert_eq!(
        ask(&server, good, "/v1/health"),
        outcome(405, "method_not_allowed")
    );
    assert_eq!(
        ask(&server, good, "/v1/users/b+d/reset-quota"),
        outcome(400, "bad_request")
    );
    assert_eq!(ask(&server, good, "/v1/users"), outcome(403, "read_only"));
    assert_eq!(
        ask(&server, good, "/v1/users/nobody/rotate-secret"),
        outcome(403, "read_only")
    );

    let server = Server::start(ApiSettings {
        read_only: false,
        ..open
    });
    assert_eq!(ask(&server, good, "/v1/users"), outcome(400, "bad_request"));
    assert_eq!(
        ask(&server, good, "/v1/users/nobody/rotate-secret"),
        outcome(400, "bad_request")
    );
    // Its body is never looked at.
    assert_eq!(
        ask(&server, good, "/v1/users/nobody/reset-quota"),
        outcome(404, "not_found")
    );
}

#[test]
fn wrong_methods_name_the_right_ones() {
    let server = Server::start(ApiSettings::default());
    for (method, target, allow) in [
        ("DELETE", "/v1/health", "GET"),
        ("OPTIONS", "/v1/stats/users", "GET"),
        ("PUT", "/v1/users", "GET, POST"),
        ("PUT", "/v1/users/a", "GET, PATCH, DELETE"),
        ("GET", "/v1/users/a/reset-quota", "POST"),
    ] {
        let reply = call(server.addr(), method, target, "", None);
        assert_eq!(
            (reply.status, reply.header("Allow")),
            (405, Some(allow)),
            "{method} {target}"
        );
    }
    let head = call(server.addr(), "HEAD", "/v1/health", "", None);
    assert_eq!((head.status, head.body.len()), (405, 0));
    assert_eq!(
        call(server.addr(), "POST", "/v1/users/alice", "", None).status,
        404
    );
}

#[test]
fn error_ids_grow() {
    let server = Server::start(ApiSettings::default());
    let id = |reply: Reply| reply.json()["request_id"].as_u64().unwrap();
    assert_eq!(id(get(server.addr(), "/nothing")), 1);
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
    assert_eq!(id(get(server.addr(), "/nothing")), 3);
}

#[test]
fn refused_peers_get_what_was_chosen() {
    let refusing = |refused| ApiSettings {
        whitelist: vec!["192.0.2.0/24".parse().unwrap()],
        refused,
        ..ApiSettings::default()
    };
    let server = Server::start(refusing(RefusedPeer::Empty));
    let reply = get(server.addr(), "/v1/health");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let server = Server::start(refusing(RefusedPeer::Close));
    let request = b"GET /v1/health HTTP/1.1\r\n\r\n";
    assert!(support::client::send(server.addr(), request).is_err());
}

#[test]
fn changes_answer_by_what_the_process_knows() {
    let server = Server::start(ApiSettings::default());
    let ask = |method: &str, target: &str, body: Option<&str>| {
        call(server.addr(), method, target, "", body)
    };
    let contract = Contract::load();
    let fits = |reply: &Reply, name: &str| {
        let envelope = Json::parse(&reply.body);
        let misfits = contract.misfits(envelope.member("data").unwrap(), name, name);
        assert!(misfits.is_empty(), "{misfits:#?}");
    };
    let created = ask(
        "POST",
        "/v1/users",
        Some(r#"{"username":"carol","max_tcp_conns":3}"#),
    );
    fits(&created, "CreateUserResponse");
    assert_eq!(
        (
            created.status,
            &created.json()["data"]["user"]["max_tcp_conns"]
        ),
        (202, &3.into())
    );
    let patched = ask(
        "PATCH",
        "/v1/users/alice",
        Some(r#"{"data_quota_bytes":9007199254740993}"#),
    );
    fits(&patched, "UserInfo");
    assert_eq!(
        (patched.status, &patched.json()["data"]["data_quota_bytes"]),
        (200, &9_007_199_254_740_993_u64.into())
    );
    assert_eq!(ask("PATCH", "/v1/users/bob", Some("{}")).status, 202);
    let rotated = ask("POST", "/v1/users/alice/rotate-secret/", None);
    fits(&rotated, "CreateUserResponse");
    assert_eq!(rotated.status, 200);
    let reset = ask("POST", "/v1/users/alice/reset-quota", Some("{\"x\":"));
    fits(&reset, "ResetUserQuotaResponse");
    assert_eq!(
        (reset.status, &reset.json()["data"]["used_bytes"]),
        (200, &0.into())
    );
    let deleted = ask("DELETE", "/v1/users/bob", None);
    fits(&deleted, "DeleteUserResponse");
    assert_eq!(deleted.status, 200);
    assert_eq!(ask("DELETE", "/v1/users/alice", None).status, 202);
    assert_eq!(
        ask("DELETE", "/v1/users/carol", None).code(),
        "last_user_forbidden"
    );
    let stale = call(
        server.addr(),
        "DELETE",
        "/v1/users/x",
        "If-Match: \"0\"\r\n",
        None,
    );
    assert_eq!(stale.code(), "revision_conflict");
    server.store.break_with(Some(StoreError::Unsupported));
    assert_eq!(
        ask("DELETE", "/v1/users/carol", None).code(),
        "internal_error"
    );
}
