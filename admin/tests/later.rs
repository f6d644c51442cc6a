//! The later additions: enable and disable, rates, quotas, configuration, reload, fingerprints.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use admin::{ApiSettings, StoreError};
use serde_json::{Value, json};
use support::{
    Server,
    client::{Reply, call, get},
    json::{Contract, Json},
};

fn start() -> Server {
    Server::start(ApiSettings {
        runtime_edge_enabled: true,
        ..ApiSettings::default()
    })
}

fn ask(server: &Server, method: &str, target: &str, body: Option<&str>) -> Reply {
    call(server.addr(), method, target, "", body)
}

/// The answer's data, which fits the contract's type.
fn data(reply: &Reply, name: &str) -> Value {
    let envelope = Json::parse(&reply.body);
    let misfits = Contract::load().misfits(envelope.member("data").unwrap(), name, name);
    assert!(misfits.is_empty(), "{misfits:#?}");
    reply.json()["data"].clone()
}

/// Types of the events so far, oldest first.
fn events(server: &Server) -> Vec<String> {
    let reply = get(server.addr(), "/v1/runtime/events/recent?limit=1000");
    let events = reply.json()["data"]["data"]["events"].clone();
    let events = events.as_array().unwrap().iter();
    let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
    events
        .map(|event| format!("{} {}", text(event, "event_type"), text(event, "context")))
        .collect()
}

#[test]
fn enable_and_disable_are_repeatable_and_say_what_is_now() {
    let server = start();
    for (action, enabled) in [
        ("disable", false),
        ("disable/", false),
        ("enable", true),
        ("enable", true),
    ] {
        let target = format!("/v1/users/alice/{action}");
        let reply = ask(&server, "POST", &target, Some("{not json"));
        assert_eq!(
            (reply.status, &data(&reply, "UserInfo")["enabled"]),
            (200, &enabled.into())
        );
    }
    assert_eq!(
        ask(&server, "POST", "/v1/users/bob/disable", None).status,
        202
    );
    assert_eq!(
        ask(&server, "POST", "/v1/users/nobody/enable", None).code(),
        "not_found"
    );
    let stale = "If-Match: 0\r\n";
    let stale = call(server.addr(), "POST", "/v1/users/bob/enable", stale, None);
    assert_eq!(stale.outcome(), (409, "revision_conflict".to_owned()));
    assert_eq!(
        events(&server),
        [
            "api.user.disable.runtime username=alice cancelled_sessions=2",
            "api.user.disable.ok username=alice",
            "api.user.disable.runtime username=alice cancelled_sessions=2",
            "api.user.disable.ok username=alice",
            "api.user.enable.ok username=alice",
            "api.user.enable.ok username=alice",
            "api.user.disable.runtime username=bob cancelled_sessions=0",
            "api.user.disable.ok username=bob",
            "api.user.enable.failed username=nobody error=no such user",
            "api.user.enable.failed username=bob error=the configuration has changed since",
        ]
    );
}

#[test]
fn rates_and_the_switch_are_fields_like_others() {
    let server = start();
    let body = r#"{"username":"carol","rate_limit_up_bps":1000,"rate_limit_down_bps":0,
        "enabled":false,"secret":"00112233445566778899aAbBcCdDeEfF",
        "user_ad_tag":"0123456789abcdef0123456789ABCDEF"}"#;
    let created = ask(&server, "POST", "/v1/users", Some(body));
    let created = data(&created, "CreateUserResponse");
    // Letter case stays as it was given.
    assert_eq!(created["secret"], "00112233445566778899aAbBcCdDeEfF");
    let user = &created["user"];
    assert_eq!(user["user_ad_tag"], "0123456789abcdef0123456789ABCDEF");
    let link = user["links"]["classic"][0].as_str().unwrap();
    assert!(link.ends_with("00112233445566778899aAbBcCdDeEfF"), "{link}");
    let shown = |user: &Value| {
        (
            user["enabled"].clone(),
            user["rate_limit_up_bps"].clone(),
            user["rate_limit_down_bps"].clone(),
        )
    };
    assert_eq!(shown(user), (false.into(), 1000.into(), Value::Null));
    for (body, expected) in [
        (
            r#"{"rate_limit_down_bps":7}"#,
            (false.into(), 1000.into(), 7.into()),
        ),
        (
            r#"{"rate_limit_up_bps":null,"enabled":null}"#,
            (true.into(), Value::Null, 7.into()),
        ),
        (
            r#"{"rate_limit_down_bps":0,"enabled":false}"#,
            (false.into(), Value::Null, Value::Null),
        ),
    ] {
        let reply = ask(&server, "PATCH", "/v1/users/carol", Some(body));
        assert_eq!(shown(&data(&reply, "UserInfo")), expected, "{body}");
    }
    for body in [
        r#"{"enabled":1}"#,
        r#"{"rate_limit_up_bps":-1}"#,
        r#"{"rate_limit_up_bps":9223372036854775808}"#,
    ] {
        let reply = ask(&server, "PATCH", "/v1/users/carol", Some(body));
        assert_eq!(reply.outcome(), (400, "bad_request".to_owned()), "{body}");
    }
}

#[test]
fn quotas_are_listed_by_name() {
    let server = start();
    let list = |server: &Server| {
        let reply = get(server.addr(), "/v1/stats/users/quota");
        data(&reply, "UserQuotaListData")["users"].clone()
    };
    assert_eq!(list(&server), json!([]));
    for (name, quota) in [("bob", 5), ("alice", 9)] {
        let body = format!(r#"{{"data_quota_bytes":{quota}}}"#);
        ask(&server, "PATCH", &format!("/v1/users/{name}"), Some(&body));
    }
    let row = |name: &str, quota: u64| {
        json!({"username": name, "data_quota_bytes": quota, "used_bytes": 7,
            "last_reset_epoch_secs": 0})
    };
    assert_eq!(list(&server), json!([row("alice", 9), row("bob", 5)]));
}

#[test]
fn only_editable_sections_are_shown_and_taken() {
    let server = start();
    let reply = get(server.addr(), "/v1/config");
    let before = reply.json()["revision"].clone();
    let shown = data(&reply, "ConfigData");
    assert_eq!(shown["general"]["log_level"], "normal");
    for (body, code) in [
        (r#"{"access":{}}"#, "access_not_editable"),
        (r#"{"server":{}}"#, "section_not_editable"),
        (r#"{"no_such_section":{}}"#, "section_not_editable"),
        ("{}", "bad_request"),
        ("", "bad_request"),
    ] {
        let reply = ask(&server, "PATCH", "/v1/config", Some(body));
        assert_eq!(reply.outcome(), (400, code.to_owned()), "{body}");
    }
    let body = r#"{"general":{"links":{"public_host":"h"}},"timeouts":{"client_ack":null}}"#;
    let patched = ask(&server, "PATCH", "/v1/config", Some(body));
    assert_eq!(patched.status, 200);
    let answer = data(&patched, "PatchConfigResponse");
    assert_ne!(answer["revision"], before);
    assert_eq!(answer["revision"], patched.json()["revision"]);
    assert_eq!(answer.get("reload"), None);
    assert_eq!(
        (
            &answer["restart_required"],
            &answer["process_restart_required"]
        ),
        (&true.into(), &true.into())
    );
    let links = json!({"public_port": 443, "public_host": "h"});
    let now = get(server.addr(), "/v1/config").json()["data"].clone();
    assert_eq!(now["general"]["links"], links);
    let deleted = ask(&server, "DELETE", "/v1/config", None);
    assert_eq!(
        (deleted.status, deleted.header("Allow")),
        (405, Some("GET, PATCH"))
    );
    let last = events(&server).pop().unwrap();
    assert_eq!(last, "api.config.patch.ok changed=general,timeouts");
}

#[test]
fn reloads_are_accepted_one_at_a_time_and_remembered() {
    let server = start();
    let first = ask(&server, "POST", "/v1/system/reload", None);
    assert_eq!(first.status, 202);
    let accepted = data(&first, "ReloadAccepted");
    assert_eq!(
        (&accepted["mode"], &accepted["failure_policy"]),
        (&"instant".into(), &"keep_new".into())
    );
    let status = get(server.addr(), "/v1/system/reload/1");
    assert_eq!(data(&status, "ReloadStatus")["state"], "succeeded");
    for id in ["0", "7", "x", "+1", "99999999999999999999999"] {
        let reply = get(server.addr(), &format!("/v1/system/reload/{id}"));
        assert_eq!(reply.outcome(), (404, "reload_not_found".to_owned()));
    }

    server.store.hold_reloads(true);
    let target = "/v1/config?reload=drain&timeout_secs=9&failure_policy=rollback";
    let body = Some(r#"{"censorship":{"mask":true}}"#);
    let patched = ask(&server, "PATCH", target, body);
    assert_eq!(patched.status, 202);
    let reload = data(&patched, "PatchConfigResponse")["reload"].clone();
    assert_eq!(
        (&reload["reload_id"], &reload["mode"]),
        (&2.into(), &"drain".into())
    );
    let status = get(server.addr(), "/v1/system/reload/2");
    assert_eq!(data(&status, "ReloadStatus")["state"], "accepted");

    // Nothing is written while a reload that was asked for cannot be had.
    let busy = (409, "reload_in_progress".to_owned());
    let body = Some(r#"{"censorship":{"mask":false}}"#);
    assert_eq!(ask(&server, "PATCH", target, body).outcome(), busy);
    assert_eq!(
        ask(&server, "POST", "/v1/system/reload", None).outcome(),
        busy
    );
    let config = get(server.addr(), "/v1/config").json();
    assert_eq!(config["data"]["censorship"]["mask"], true);
    assert_eq!(ask(&server, "PATCH", "/v1/config", body).status, 200);
    let unknown = ask(&server, "PATCH", "/v1/config?x=1", body);
    assert_eq!(unknown.outcome(), (400, "bad_request".to_owned()));
    let unknown = ask(&server, "POST", "/v1/system/reload", Some(r#"{"x":1}"#));
    assert_eq!(unknown.outcome(), (400, "bad_request".to_owned()));

    server.store.break_with(Some(StoreError::ReloadUnavailable));
    let unavailable = ask(&server, "POST", "/v1/system/reload", None);
    assert_eq!(
        unavailable.outcome(),
        (503, "maestro_unavailable".to_owned())
    );
}

#[test]
fn read_only_refuses_what_changes_anything() {
    let server = Server::start(ApiSettings {
        read_only: true,
        ..ApiSettings::default()
    });
    for (method, target) in [
        ("PATCH", "/v1/config?x=1"),
        ("POST", "/v1/system/reload"),
        ("POST", "/v1/users/nobody/enable"),
        ("POST", "/v1/users/nobody/disable"),
    ] {
        let reply = ask(&server, method, target, Some("{"));
        assert_eq!(reply.outcome(), (403, "read_only".to_owned()), "{target}");
    }
    assert_eq!(get(server.addr(), "/v1/config").status, 200);
}

#[test]
fn fingerprints_are_sorted_limited_and_named() {
    let server = start();
    let list = |query: &str| {
        let reply = get(
            server.addr(),
            &format!("/v1/runtime/tls-fingerprints{query}"),
        );
        data(&reply, "RuntimeEdgeTlsFingerprintsData")["data"].clone()
    };
    let all = list("");
    assert_eq!(
        (&all["limit"], &all["capacity"]),
        (&10.into(), &4096.into())
    );
    let of = |list: &str, key: &str| -> Vec<Value> {
        let rows = all[list].as_array().unwrap().iter();
        rows.map(|row| row[key].clone()).collect()
    };
    assert_eq!(
        of("by_fingerprint", "ja4"),
        ["t13d0202", "t13d0101", "t13d0303"]
    );
    assert_eq!(of("by_fingerprint", "total"), [7, 1, 1]);
    assert_eq!(
        of("by_fingerprint", "scope"),
        [Value::Null, Value::Null, Value::Null]
    );
    assert_eq!(of("by_ip", "scope"), ["198.51.100.9"]);
    assert_eq!(of("by_cidr", "scope"), ["198.51.100.0/24"]);
    assert_eq!(of("by_user", "scope"), ["alice"]);
    for (query, limit, rows) in [
        ("?limit=1", 1, 1),
        ("?limit=0", 1, 1),
        ("?limit=x", 10, 3),
        ("?limit=100000", 1000, 3),
    ] {
        let seen = list(query);
        assert_eq!(seen["limit"], limit, "{query}");
        assert_eq!(seen["by_fingerprint"].as_array().unwrap().len(), rows);
    }
}
