//! `/metrics`: strictly valid text, every counter row, and a size that users do not change.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use admin::{Metrics, MetricsSettings, StartError, Telemetry, start_metrics};
use shards::{
    counters::{
        BadClass, CoreCounters, DesyncCounters, MeCounters, PoolCounters, UpstreamCounters,
        UserCounters,
    },
    me::{WriterId, WriterRow, WriterState},
};
use support::{
    canned::CannedPlane,
    client::{call, get},
    middle::Middle,
};

fn settings() -> MetricsSettings {
    MetricsSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..MetricsSettings::default()
    }
}

fn start(settings: MetricsSettings) -> (Metrics, Arc<CannedPlane>) {
    let plane = Arc::new(CannedPlane::busy());
    let metrics = start_metrics(settings, Arc::clone(&plane) as _).unwrap();
    (metrics, plane)
}

fn scrape(metrics: &Metrics) -> BTreeMap<String, f64> {
    let reply = get(metrics.addr(), "/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.header("Content-Type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    validate(&String::from_utf8(reply.body).unwrap())
}

/// Checks every line of the text format 0.0.4; the samples by name and labels.
fn validate(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = BTreeSet::new();
    let mut family = String::new();
    let mut lines = text.lines();
    assert!(text.ends_with('\n'));
    while let Some(line) = lines.next() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            let (name, help) = head.split_once(' ').unwrap();
            assert!(is_name(name), "{line}");
            assert!(!help.is_empty() && help.trim() == help, "{line}");
            assert!(families.insert(name.to_owned()), "{name} comes twice");
            let kind = lines.next().unwrap();
            let kind = kind.strip_prefix(&format!("# TYPE {name} ")).unwrap();
            assert!(matches!(kind, "counter" | "gauge"), "{kind}");
            assert!(kind == "counter" || !name.ends_with("_total"), "{name}");
            name.clone_into(&mut family);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert_eq!(name, family, "a sample outside of its family");
        check_labels(labels);
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let before = samples.insert(series.to_owned(), value);
        assert_eq!(before, None, "{series} comes twice");
    }
    samples
}

/// `a="b",c="d"}`
fn check_labels(text: &str) {
    let mut rest = text;
    let mut names = BTreeSet::new();
    while rest != "}" {
        let (name, value) = rest.split_once("=\"").unwrap();
        assert!(is_name(name) && names.insert(name.to_owned()), "{text}");
        let mut escaped = false;
        let end = value.find(|letter| {
            let end = letter == '"' && !escaped;
            escaped = letter == '\\' && !escaped;
            end
        });
        rest = &value[end.unwrap() + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    text.bytes().next().is_some_and(letter)
        && text
            .bytes()
            .all(|byte| letter(byte) || byte.is_ascii_digit())
}

#[test]
fn every_row_and_label_is_there() {
    let (metrics, _plane) = start(settings());
    let samples = scrape(&metrics);
    let families: BTreeSet<&str> = samples
        .keys()
        .map(|series| series.split('{').next().unwrap())
        .collect();
    let rows = [
        ("", CoreCounters::ROWS),
        ("upstream_", UpstreamCounters::ROWS),
        ("me_", MeCounters::ROWS),
        ("me_", PoolCounters::ROWS),
        ("", DesyncCounters::ROWS),
    ];
    for (area, row) in rows
        .iter()
        .flat_map(|(area, rows)| rows.iter().map(move |row| (area, row)))
    {
        let Some((_, bucket)) = row.name.split_once("_bucket_") else {
            let names = [
                format!("pinnace_{area}{}", row.name),
                format!("pinnace_{}", row.name),
            ];
            assert!(
                names.iter().any(|name| families.contains(name.as_str())),
                "{}",
                row.name
            );
            continue;
        };
        let label = format!("{{bucket=\"{bucket}\"}}");
        assert!(samples.keys().any(|series| series.ends_with(&label)));
    }
    for (series, value) in EXPECTED {
        assert_eq!(samples.get(*series), Some(value), "{series}");
    }
    let classes = samples
        .keys()
        .filter(|series| series.contains("bad_by_class"));
    assert_eq!(classes.count(), BadClass::COUNT);
    // 2^53 + 1 is written out, not rounded.
    let text = get(metrics.addr(), "/metrics?x=y").body;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("\npinnace_connections_total 9007199254740993\n"));
}

#[test]
fn names_begin_as_configured() {
    let (metrics, _plane) = start(MetricsSettings {
        prefix: "telemt_".to_owned(),
        ..settings()
    });
    let samples = scrape(&metrics);
    assert!(samples.keys().all(|series| series.starts_with("telemt_")));
    assert!(samples.contains_key("telemt_connections_total"));
    let bad = MetricsSettings {
        prefix: "9-".to_owned(),
        ..settings()
    };
    let error = start_metrics(bad, Arc::new(CannedPlane::busy())).unwrap_err();
    assert!(matches!(error, StartError::Prefix(_)), "{error}");
}

#[test]
fn only_get_and_head_of_one_path_are_served_to_those_allowed() {
    let (metrics, _plane) = start(settings());
    let addr = metrics.addr();
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/v1/health", 404),
        ("POST", "/metrics", 405),
        ("POST", "/nothing", 404),
    ] {
        let reply = call(addr, method, target, "", Some("{}"));
        assert_eq!(reply.status, status, "{method} {target}");
        let allow = (status == 405).then_some("GET, HEAD");
        assert_eq!(reply.header("Allow"), allow);
    }
    let head = call(addr, "HEAD", "/metrics", "", None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(
        head.header("Content-Length")
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 1_000
    );

    let (metrics, _plane) = start(MetricsSettings {
        whitelist: vec!["192.0.2.0/24".parse().unwrap()],
        ..settings()
    });
    assert_eq!(get(metrics.addr(), "/metrics").status, 403);
    let bad = support::client::send(metrics.addr(), b"\x16\x03\x01\n\n").unwrap();
    assert_eq!(bad.status, 403);
}

#[test]
fn without_counters_or_with_users_switched_off_they_are_left_out() {
    let (metrics, plane) = start(settings());
    let switch = |user_enabled| {
        let mut running = plane.running.lock().unwrap();
        Arc::make_mut(&mut running).telemetry = Telemetry {
            user_enabled,
            ..Telemetry::default()
        };
    };
    switch(false);
    let samples = scrape(&metrics);
    assert!(!samples.keys().any(|series| series.contains("user=")));
    assert_eq!(samples.get("pinnace_telemetry_user_enabled"), Some(&0.0));
    switch(true);
    let samples = scrape(&metrics);
    assert!(samples.keys().any(|series| series.contains("user=")));
    *plane.snapshot.lock().unwrap() = None;
    let samples = scrape(&metrics);
    assert_eq!(samples.get("pinnace_snapshot_available"), Some(&0.0));
    assert!(!samples.contains_key("pinnace_connections_total"));
}

#[test]
fn size_does_not_depend_on_the_number_of_users() {
    let (metrics, plane) = start(MetricsSettings {
        top_n: 10,
        ..settings()
    });
    let mut bytes = Vec::new();
    for users in [11_usize, 10_000] {
        plane.set_users((0..users).map(|index| format!("user-{index:05}")));
        plane.set_snapshot(|total| {
            total.users = (0..users)
                .map(|index| UserCounters {
                    octets_to_client: 1_000_000 + (index as u64 * 7_919) % 10_000,
                    connections_total: 10,
                    ..UserCounters::default()
                })
                .collect();
        });
        let begun = Instant::now();
        for _ in 0..20 {
            bytes.push(get(metrics.addr(), "/metrics").body.len());
        }
        println!("{users} users: {:?} a scrape", begun.elapsed() / 20);
        let samples = scrape(&metrics);
        let own = samples
            .keys()
            .filter(|series| series.starts_with("pinnace_user_octets_to_client_total"));
        assert_eq!(own.count(), 11);
    }
    let spread = bytes.iter().max().unwrap() - bytes.iter().min().unwrap();
    assert!(spread < 200, "{bytes:?}");
}

/// Some of what the canned plane says.
const EXPECTED: &[(&str, f64)] = &[
    ("pinnace_connections_total", 9_007_199_254_740_992.0),
    (
        "pinnace_connections_bad_by_class_total{class=\"not_mtproto\"}",
        2.0,
    ),
    (
        "pinnace_handshake_failures_by_stage_total{stage=\"tls_core\"}",
        0.0,
    ),
    ("pinnace_upstream_connect_attempt_total", 7.0),
    (
        "pinnace_upstream_connect_attempts_per_request{bucket=\"3_4\"}",
        0.0,
    ),
    (
        "pinnace_upstream_connect_duration_fail_total{bucket=\"gt_1000ms\"}",
        0.0,
    ),
    ("pinnace_pool_swap_total", 0.0),
    ("pinnace_me_writer_removed_total", 0.0),
    (
        "pinnace_upstream_healthy{upstream=\"0\",kind=\"direct\"}",
        1.0,
    ),
    (
        "pinnace_upstream_dc_latency_milliseconds{upstream=\"0\",dc=\"1\"}",
        30.5,
    ),
    (
        "pinnace_upstream_dc_reachable{upstream=\"0\",dc=\"1\",family=\"v6\"}",
        0.0,
    ),
    (
        "pinnace_user_octets_to_client_total{user=\"alice\"}",
        2_000.0,
    ),
    ("pinnace_user_unique_ips_current{user=\"alice\"}", 1.0),
    ("pinnace_user_unique_ips_recent_window{user=\"alice\"}", 2.0),
    ("pinnace_telemetry_me_level{level=\"normal\"}", 1.0),
    ("pinnace_shards_late", 0.0),
];

#[test]
fn middle_proxies_have_gauges_and_codes() {
    let (metrics, plane) = start(settings());
    let samples = scrape(&metrics);
    assert!(!samples.contains_key("pinnace_me_pool_ready"));
    assert!((samples["pinnace_route_mode{mode=\"direct\"}"] - 1.0).abs() < 0.5);
    let writer = |state| WriterRow {
        id: WriterId(1),
        dc: 2,
        endpoint: ([192, 0, 2, 1], 8888).into(),
        generation: 1,
        state,
        degraded: false,
        bound_clients: 0,
        idle_since: None,
        rtt_ema_ms: None,
        secret_epoch: 1,
        busy: false,
    };
    plane.set_snapshot(|total| {
        total.sessions_me = 7;
        total.sessions_direct = 1;
        total.handshake_error_codes = vec![(-7, 1), (-3, 2)];
        total.me.handshake_reject_total = 3;
        total.pool.pool_drain_active = 4;
        total.writers = [WriterState::Active, WriterState::Active, WriterState::Warm]
            .map(writer)
            .to_vec();
    });
    Middle::Down.show(&plane);
    let samples = scrape(&metrics);
    for (series, value) in [
        ("me_writers{state=\"active\"}", 2.0),
        ("me_writers{state=\"warm\"}", 1.0),
        ("me_writers{state=\"draining\"}", 0.0),
        ("sessions_by_route{route=\"middle\"}", 7.0),
        ("sessions_by_route{route=\"direct\"}", 1.0),
        ("route_mode{mode=\"middle\"}", 1.0),
        ("me_pool_ready", 0.0),
        ("me_handshake_errors_total{code=\"-3\"}", 2.0),
        ("me_handshake_reject_total", 3.0),
        ("pool_drain_active", 4.0),
        // The shards accept, the gate is closed.
        ("accepting_new_connections", 0.0),
    ] {
        let seen = samples[&format!("pinnace_{series}")];
        assert!((seen - value).abs() < 0.5, "{series}: {seen}");
    }
}
