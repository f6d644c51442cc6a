//! What a start prints: versions, limits of the host, where it listens, links.

use std::{
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
};

use ipnet::IpNet;
use shards::{Plane, host::HostReport};

use super::Options;
use crate::{
    cli,
    config::Loaded,
    links::{Detected, LinkBase, page},
    wiring::Wired,
};

/// What is served besides clients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Served {
    /// Where the control API listens.
    pub(super) api: Option<SocketAddr>,
    /// Where metrics are served.
    pub(super) metrics: Option<SocketAddr>,
}

/// Says what is started, and on what.
pub(super) fn banner(loaded: &Loaded, options: &Options, report: &HostReport, wired: &Wired) {
    for addr in &wired.skipped {
        tracing::warn!("not listening on {addr}: its address family is off in [network]");
    }
    if let Some(said) = &wired.over_budget {
        tracing::warn!("general.direct_relay_buffer_budget_max_bytes {said}");
    }
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<13} {value}\n"));
    line("pinnace", cli::VERSION.to_owned());
    let path = loaded.path.display();
    line(
        "configuration",
        if options.first_run {
            format!("{path} (just written: one user, fresh secret)")
        } else {
            path.to_string()
        },
    );
    if loaded.files.len() > 1 {
        line("included", format!("{} files", loaded.files.len() - 1));
    }
    line("data", options.data_path.display().to_string());
    line(
        "kernel",
        format!(
            "Linux {}, {} io_uring operations",
            report.kernel, report.operations
        ),
    );
    line(
        "locked memory",
        report
            .memlock_bytes
            .map_or("unlimited".to_owned(), |bytes| {
                format!("{} KiB", bytes / 1024)
            }),
    );
    line(
        "open files",
        format!("{} (was {})", report.open_files, report.open_files_before),
    );
    if let Some(quota) = report.cpu_quota {
        line("CPU quota", format!("{quota:.2} CPUs by the control group"));
    }
    let plane = &wired.settings.plane;
    line(
        "shards",
        format!("{} on cores {}", plane.cores.len(), list(&plane.cores)),
    );
    line("route", route(loaded).to_owned());
    say(&text);
    let places = wired.settings.places.connections_max;
    let own = plane.connections_max.saturating_mul(plane.cores.len());
    let wanted = places.min(own).saturating_mul(2) as u64;
    if report.open_files < wanted.min(OPEN_FILES_SANE) {
        tracing::warn!(
            "{} open files are few: each client takes two; run `ulimit -n 1048576` or set \
             LimitNOFILE=1048576 in the service file",
            report.open_files
        );
    }
}

/// Where sessions go.
fn route(loaded: &Loaded) -> &'static str {
    let general = &loaded.config.general;
    match (
        general.use_middle_proxy,
        general.me2dc_fallback,
        general.me2dc_fast,
    ) {
        (false, ..) => "directly to Telegram's data centres",
        (true, false, _) => "through the Middle-End; no clients while it is not ready",
        (true, true, true) => "through the Middle-End; directly while it is not ready",
        (true, true, false) => "through the Middle-End; directly when it is not ready for a while",
    }
}

/// Fewer than this and a busy hour runs out of descriptors.
const OPEN_FILES_SANE: u64 = 20_000;

fn list(cores: &[usize]) -> String {
    cores
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Says where it can be reached, and by whom.
pub(super) fn announce(loaded: &Loaded, plane: &Plane, served: Served) {
    let mut text = String::new();
    for addr in plane.skipped() {
        tracing::warn!("not listening on {addr}: this host has no address of its family");
    }
    for addr in plane.addrs() {
        text.push_str(&format!("{:<13} {addr}\n", "listening on"));
    }
    if let Some(path) = &loaded.config.server.listen_unix_sock {
        text.push_str(&format!("{:<13} {}\n", "listening on", path.0));
    }
    if let Some(api) = served.api {
        let from = whom(&loaded.config.api.whitelist);
        text.push_str(&format!(
            "{:<13} http://{api}/v1 for {from}\n",
            "control API"
        ));
    }
    if let Some(metrics) = served.metrics {
        let from = whom(&loaded.config.server.metrics_whitelist);
        text.push_str(&format!(
            "{:<13} http://{metrics}/metrics for {from}\n",
            "metrics"
        ));
    }
    let base = LinkBase::new(&loaded.config, Detected::find());
    let shown = |name: &str| loaded.config.links.show.contains(name);
    text.push('\n');
    text.push_str(&page(
        &loaded.config,
        &base,
        &shown,
        std::io::stdout().is_terminal(),
    ));
    say(&text);
}

fn whom(whitelist: &[IpNet]) -> String {
    if whitelist.is_empty() {
        return "everybody".to_owned();
    }
    let nets: Vec<String> = whitelist.iter().map(ToString::to_string).collect();
    nets.join(", ")
}

/// Prints; a reader that went away is no reason to stop serving.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
