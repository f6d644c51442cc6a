//! What a scrape shows: the process, the counter rows of all shards, routes, users.

use shards::{
    control::{DcRow, FamilyState, ShardSnapshot},
    counters::{
        BadClass, CoreCounters, DesyncCounters, FailureClass, FailureStage, MeCounters,
        PoolCounters, Row, UpstreamCounters,
    },
    me::{WriterRow, WriterState},
};

use super::{
    MetricsSettings,
    text::{Kind, Text},
    users::{self, Others},
};
use crate::plane::{ControlPlane, PlaneSnapshot, RouteMode, Running};

/// The whole text.
pub(super) fn render(
    settings: &MetricsSettings,
    plane: &dyn ControlPlane,
    others: &mut Others,
) -> String {
    let mut text = Text::new(&settings.prefix);
    let running = plane.running();
    process(&mut text, plane, &running);
    let snapshot = plane.snapshot();
    text.single(
        "snapshot_available",
        Kind::Gauge,
        "A shard has answered; without that there are no counters.",
        u8::from(snapshot.is_some()),
    );
    // Zeros would look like a restart.
    if let Some(snapshot) = snapshot {
        counters(&mut text, plane, &snapshot);
        middle(&mut text, plane, &snapshot.total);
        routes(&mut text, &running, &snapshot.total);
        if running.telemetry.user_enabled {
            users::render(&mut text, &running, &snapshot, settings.top_n, others);
        }
    }
    text.finish()
}

fn process(text: &mut Text, plane: &dyn ControlPlane, running: &Running) {
    let process = plane.process();
    text.family("build_info", Kind::Gauge, "What is running.");
    let labels = [
        ("version", process.build.version),
        ("target_arch", process.build.target_arch),
        ("git_commit", process.build.git_commit.unwrap_or("")),
    ];
    text.sample(&labels, 1);
    let uptime = format!("{:.3}", process.uptime_seconds());
    text.single("uptime_seconds", Kind::Gauge, "Since the start.", uptime);
    text.single(
        "start_time_seconds",
        Kind::Gauge,
        "Unix time of the start.",
        process.started_at_epoch_secs,
    );
    let reloads = plane.reloads();
    text.single(
        "config_reloads_total",
        Kind::Counter,
        "Changes of the configuration taken over.",
        reloads.count,
    );
    if let Some(last) = reloads.last_epoch_secs {
        let help = "Unix time of the last change taken over.";
        text.single("config_last_reload_time_seconds", Kind::Gauge, help, last);
    }
    let users = running.users.len();
    text.single("configured_users", Kind::Gauge, "Users there are.", users);
    let telemetry = &running.telemetry;
    let help = "Core counters count.";
    let core = u8::from(telemetry.core_enabled);
    text.single("telemetry_core_enabled", Kind::Gauge, help, core);
    let help = "Counters of users count, and their series are here.";
    let user = u8::from(telemetry.user_enabled);
    text.single("telemetry_user_enabled", Kind::Gauge, help, user);
    let help = "How much ME detail is counted.";
    text.family("telemetry_me_level", Kind::Gauge, help);
    for level in ["silent", "normal", "debug"] {
        let is = u8::from(telemetry.me_level == level);
        text.sample(&[("level", level)], is);
    }
}

fn counters(text: &mut Text, plane: &dyn ControlPlane, snapshot: &PlaneSnapshot) {
    let total = &snapshot.total;
    let help = "Shards that did not answer this scrape in time.";
    text.single("shards_late", Kind::Gauge, help, snapshot.late_shards);
    let accepting = u8::from(total.accepting && plane.transport().admission_open);
    let help = "New clients are accepted.";
    text.single("accepting_new_connections", Kind::Gauge, help, accepting);
    rows(text, "", CoreCounters::ROWS, &total.core.values());
    labelled(
        text,
        ("connections_bad_by_class_total", "Bad clients by class."),
        "class",
        BadClass::ALL.iter().map(|class| class.label()),
        &total.bad_by_class,
    );
    labelled(
        text,
        (
            "handshake_failures_by_class_total",
            "Failed handshakes by class.",
        ),
        "class",
        FailureClass::ALL.iter().map(|class| class.label()),
        &total.failures_by_class,
    );
    labelled(
        text,
        (
            "handshake_failures_by_stage_total",
            "Failed handshakes by step.",
        ),
        "stage",
        FailureStage::ALL.iter().map(|stage| stage.label()),
        &total.failures_by_stage,
    );
    let upstream = total.upstream.values();
    rows(text, "upstream_", UpstreamCounters::ROWS, &upstream);
    rows(text, "me_", MeCounters::ROWS, &total.me.values());
    rows(text, "me_", PoolCounters::ROWS, &total.pool.values());
    rows(text, "", DesyncCounters::ROWS, &total.desync.values());
}

/// What of the middle proxies is no counter row.
fn middle(text: &mut Text, plane: &dyn ControlPlane, total: &ShardSnapshot) {
    let help = "Handshakes refused by MEs, by code.";
    text.family("me_handshake_errors_total", Kind::Counter, help);
    for (code, count) in &total.handshake_error_codes {
        text.sample(&[("code", &code.to_string())], count);
    }
    text.family("me_writers", Kind::Gauge, "ME writers by state.");
    let is_warm = |row: &&WriterRow| row.state == WriterState::Warm;
    let writers = total.writers.iter();
    let draining = writers.clone().filter(|row| row.state.is_draining());
    let (warm, draining) = (writers.clone().filter(is_warm).count(), draining.count());
    let active = writers.len() - warm - draining;
    for (state, count) in [("warm", warm), ("active", active), ("draining", draining)] {
        text.sample(&[("state", state)], count);
    }
    text.family("sessions_by_route", Kind::Gauge, "Sessions by their way.");
    text.sample(&[("route", "middle")], total.sessions_me);
    text.sample(&[("route", "direct")], total.sessions_direct);
    let transport = plane.transport();
    let help = "Where new sessions go.";
    text.family("route_mode", Kind::Gauge, help);
    for mode in [RouteMode::Middle, RouteMode::Direct] {
        let is = u8::from(transport.route == mode);
        text.sample(&[("mode", mode.label())], is);
    }
    if transport.use_middle_proxy {
        let ready = u8::from(transport.me_pool_ready);
        let help = "Every DC has an ME writer.";
        text.single("me_pool_ready", Kind::Gauge, help, ready);
    }
}

/// One family for each row, but one for all buckets of a kind.
fn rows(text: &mut Text, area: &str, rows: &[Row], values: &[u64]) {
    let mut family = None;
    for (row, value) in rows.iter().zip(values) {
        // `me_pool_...` would say the same twice; dashboards know the short form.
        let area = if row.name.starts_with("pool_") {
            ""
        } else {
            area
        };
        let Some((stem, bucket)) = row.name.split_once("_bucket_") else {
            let name = format_args!("{area}{}", row.name);
            text.single(name, kind(row.name), row.help, value);
            continue;
        };
        if family != Some(stem) {
            family = Some(stem);
            let known = BUCKETS.iter().find(|(known, ..)| *known == stem);
            match known {
                Some((_, name, help)) => {
                    text.family(format_args!("{area}{name}"), Kind::Counter, help);
                }
                None => {
                    text.family(format_args!("{area}{stem}_total"), Kind::Counter, row.help);
                }
            }
        }
        text.sample(&[("bucket", bucket)], value);
    }
}

/// What counts says so in its name.
fn kind(name: &str) -> Kind {
    if name.ends_with("_total") {
        Kind::Counter
    } else {
        Kind::Gauge
    }
}

/// All labels, zeros included, so that rates have a beginning.
fn labelled(
    text: &mut Text,
    (name, help): (&str, &str),
    label: &str,
    labels: impl Iterator<Item = &'static str>,
    values: &[u64],
) {
    text.family(name, Kind::Counter, help);
    for (value, count) in labels.zip(values) {
        text.sample(&[(label, value)], count);
    }
}

/// Routes to the DCs, and the DCs through each.
fn routes(text: &mut Text, running: &Running, total: &ShardSnapshot) {
    let all: Vec<_> = running
        .upstreams
        .iter()
        .zip(&total.upstreams)
        .enumerate()
        .map(|(index, (info, row))| (index.to_string(), info.kind.label(), row))
        .collect();
    text.family("upstream_healthy", Kind::Gauge, "The route works.");
    for (index, kind, row) in &all {
        let labels = [("upstream", index.as_str()), ("kind", kind)];
        text.sample(&labels, u8::from(row.healthy));
    }
    let help = "Client cycles that failed in a row.";
    text.family("upstream_fails", Kind::Gauge, help);
    for (index, kind, row) in &all {
        let labels = [("upstream", index.as_str()), ("kind", kind)];
        text.sample(&labels, row.fails);
    }
    let dcs: Vec<(&str, String, &DcRow)> = all
        .iter()
        .flat_map(|(index, _, row)| {
            let dcs = row.dcs.iter();
            dcs.map(move |dc| (index.as_str(), dc.dc.to_string(), dc))
        })
        .collect();
    let help = "Moving average of connect times to the DC.";
    text.family("upstream_dc_latency_milliseconds", Kind::Gauge, help);
    for (index, id, dc) in &dcs {
        if let Some(ms) = dc.latency_ema_ms.filter(|ms| ms.is_finite()) {
            let labels = [("upstream", *index), ("dc", id)];
            text.sample(&labels, format_args!("{ms:.3}"));
        }
    }
    let help = "The DC's addresses of this family answer; not there before the first try.";
    text.family("upstream_dc_reachable", Kind::Gauge, help);
    for (index, id, dc) in &dcs {
        for (family, state) in [("v4", dc.v4), ("v6", dc.v6)] {
            let answers = match state {
                FamilyState::Unknown => continue,
                FamilyState::Works => 1,
                FamilyState::Fails => 0,
            };
            let labels = [("upstream", *index), ("dc", id), ("family", family)];
            text.sample(&labels, answers);
        }
    }
}

/// Stem of the rows, name and help of their family.
const BUCKETS: [(&str, &str, &str); 4] = [
    (
        "connect_attempts",
        "connect_attempts_per_request",
        "Connect cycles by the attempts they took.",
    ),
    (
        "connect_duration_success",
        "connect_duration_success_total",
        "Successful connect cycles by how long they took.",
    ),
    (
        "connect_duration_fail",
        "connect_duration_fail_total",
        "Failed connect cycles by how long they took.",
    ),
    (
        "desync_frames",
        "desync_frames_total",
        "Lost framings by the good frames before.",
    ),
];
