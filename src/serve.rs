//! From a loaded configuration to a running proxy, and to the code the process ends with.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use admin::{Build, Events, Process, Startup, StepStatus};
use async_channel::Sender;
use shards::{
    Plane,
    control::{Command, PlaneEvent},
    host::{HostReport, check_host},
};

use crate::{
    cli::{self, Exit},
    config::{Loaded, general::LogLevel},
    links::{Detected, LinkBase, page},
    plane::{Post, Posted, ShardPlane},
    running::{api_settings, running},
    signals,
    store::{FileStore, Nobody},
    wiring::{HostCpus, Overrides, Wired, wire},
};

/// What the command line adds to the file.
#[derive(Debug)]
pub(crate) struct Options {
    /// `--shards`, `--cores`.
    pub(crate) overrides: Overrides,
    /// Directory of state and cache files.
    pub(crate) data_path: PathBuf,
    /// The file was written by this start.
    pub(crate) first_run: bool,
    /// What is logged, after flags and file.
    pub(crate) log_level: LogLevel,
    /// Contact no DC before a client asks for it.
    pub(crate) no_probe: bool,
}

/// Steps of the start, as `/v1/runtime/initialization` lists them.
const STEPS: [(&str, &str); 4] = [
    ("config_load", "Load configuration"),
    ("host_check", "Check kernel and limits"),
    ("shards_start", "Start shards and listeners"),
    ("api_bootstrap", "Start control API"),
];

/// Starts the proxy and stays until it ends.
pub(crate) fn serve(loaded: Loaded, options: Options) -> ExitCode {
    let startup = Arc::new(Startup::new(&STEPS));
    startup.begin("config_load");
    startup.finish("config_load", StepStatus::Ready, None);
    match start(&loaded, &options, &startup) {
        Ok(plane) => watch(plane, &loaded),
        Err((exit, text)) => {
            eprintln!("{text}");
            exit.into()
        }
    }
}

type Failure = (Exit, String);

fn start(loaded: &Loaded, options: &Options, startup: &Arc<Startup>) -> Result<Plane, Failure> {
    let host_error = |error: &dyn std::fmt::Display| (Exit::Host, error.to_string());
    startup.begin("host_check");
    let report = check_host(1).map_err(|error| host_error(&error))?;
    let mut wired = wire(loaded, &options.overrides, &cpus(&report))
        .map_err(|error| (Exit::Host, format!("{}: {error}", loaded.path.display())))?;
    if options.no_probe {
        wired.settings.upstream.probe_every = Duration::ZERO;
    }
    let shards = wired.settings.plane.cores.len();
    check_host(shards).map_err(|error| host_error(&error))?;
    startup.finish(
        "host_check",
        StepStatus::Ready,
        Some(format!("Linux {}", report.kernel)),
    );
    banner(loaded, options, &report, &wired);
    startup.begin("shards_start");
    let plane = shards::start(wired.settings).map_err(|error| host_error(&error))?;
    startup.finish(
        "shards_start",
        StepStatus::Ready,
        Some(format!("{shards} shards")),
    );
    startup.begin("api_bootstrap");
    let api = start_api(loaded, options, &plane, startup);
    match &api {
        Ok(None) => startup.finish("api_bootstrap", StepStatus::Skipped, None),
        Ok(Some(_)) => startup.finish("api_bootstrap", StepStatus::Ready, None),
        Err(error) => {
            // The proxy serves all the same (control-api.md 1).
            tracing::error!(%error, "no control API");
            startup.finish("api_bootstrap", StepStatus::Failed, Some(error.to_string()));
        }
    }
    startup.ready();
    announce(loaded, &plane, api.ok().flatten());
    Ok(plane)
}

fn cpus(report: &HostReport) -> HostCpus {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few CPUs"
    )]
    let limit = report.cpu_quota.map(|cpus| cpus.ceil().max(1.0) as usize);
    HostCpus {
        allowed: report.cores.clone(),
        limit,
    }
}

fn banner(loaded: &Loaded, options: &Options, report: &HostReport, wired: &Wired) {
    for addr in &wired.skipped {
        tracing::warn!("not listening on {addr}: its address family is off in [network]");
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
    say(&text);
    warn_of_limits(loaded);
    let wanted = plane.connections_max.saturating_mul(2 * plane.cores.len()) as u64;
    if report.open_files < wanted.min(OPEN_FILES_SANE) {
        tracing::warn!(
            "{} open files are few: each client takes two; run `ulimit -n 1048576` or set \
             LimitNOFILE=1048576 in the service file",
            report.open_files
        );
    }
}

/// Who set a limit on a user should not believe that it holds.
fn warn_of_limits(loaded: &Loaded) {
    let access = &loaded.config.access;
    let set = [
        ("user_expirations", !access.user_expirations.0.is_empty()),
        ("user_data_quota", !access.user_data_quota.0.is_empty()),
        ("user_source_deny", !access.user_source_deny.0.is_empty()),
        (
            "user_max_tcp_conns",
            !access.user_max_tcp_conns.0.is_empty(),
        ),
        (
            "user_max_unique_ips",
            !access.user_max_unique_ips.0.is_empty(),
        ),
    ];
    for (key, _) in set.iter().filter(|(_, set)| *set) {
        tracing::warn!("access.{key} is set but not enforced by this version");
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

fn announce(loaded: &Loaded, plane: &Plane, api: Option<std::net::SocketAddr>) {
    let mut text = String::new();
    for addr in plane.addrs() {
        text.push_str(&format!("{:<13} {addr}\n", "listening on"));
    }
    let whitelist = &loaded.config.api.whitelist;
    if let Some(api) = api {
        let from: Vec<String> = whitelist.iter().map(ToString::to_string).collect();
        let from = if from.is_empty() {
            "everybody".to_owned()
        } else {
            from.join(", ")
        };
        text.push_str(&format!(
            "{:<13} http://{api}/v1 for {from}\n",
            "control API"
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

/// Prints; a reader that went away is no reason to stop serving.
fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

fn start_api(
    loaded: &Loaded,
    options: &Options,
    plane: &Plane,
    startup: &Arc<Startup>,
) -> Result<Option<std::net::SocketAddr>, admin::StartError> {
    let settings = api_settings(loaded);
    let path = absolute(&loaded.path);
    let process = Process::starting(build(), path.display().to_string());
    let running = running(&loaded.config, options.log_level);
    let control = ShardPlane::new(process, Arc::clone(startup), running);
    let posts = plane.mailboxes().into_iter().map(|mailbox| {
        Box::new(move |command| match mailbox.post(command) {
            true => Posted::In,
            false if mailbox.is_gone() => Posted::Gone,
            false => Posted::Full,
        }) as Post
    });
    control.attach(posts.collect());
    let detected = Detected::find();
    let base = move |config: &crate::config::Config| LinkBase::new(config, detected);
    let store = FileStore::new(path, Box::new(base), Arc::new(Nobody));
    let events = Arc::new(Events::new(settings.runtime_edge_events_capacity));
    let api = admin::start(settings, Arc::new(control), Arc::new(store), events)?;
    Ok(api.map(|api| api.addr()))
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn build() -> Build {
    Build {
        version: cli::VERSION,
        target_arch: std::env::consts::ARCH,
        target_os: std::env::consts::OS,
        build_profile: if cfg!(debug_assertions) {
            "debug"
        } else {
            "release"
        },
        git_commit: option_env!("PINNACE_COMMIT"),
        build_time_utc: None,
        rustc_version: None,
    }
}

/// What can end the process.
enum Happening {
    Plane(PlaneEvent),
    Signal,
}

fn watch(plane: Plane, loaded: &Loaded) -> ExitCode {
    let (tell, happenings) = async_channel::unbounded();
    if let Err(error) = forward(&plane, &tell) {
        eprintln!("cannot listen for signals: {error}");
        return Exit::Host.into();
    }
    let mailboxes = plane.mailboxes();
    let mut running = mailboxes.len();
    let mut draining: Option<Instant> = None;
    while let Ok(happening) = happenings.recv_blocking() {
        match happening {
            Happening::Plane(PlaneEvent::Listening) => {}
            Happening::Plane(PlaneEvent::ShardDied { shard, reason }) => {
                // The others would go on with a part of the clients: better all start anew.
                eprintln!("shard {shard} died: {reason}");
                return Exit::ShardDied.into();
            }
            Happening::Plane(PlaneEvent::ShardDone { .. }) => {
                running -= 1;
                if running == 0 {
                    let took = draining.map_or(0.0, |since| since.elapsed().as_secs_f64());
                    tracing::info!("all sessions ended after {took:.1} s");
                    plane.join();
                    return Exit::Done.into();
                }
            }
            Happening::Signal if draining.is_some() => {
                tracing::info!("second signal: ending at once");
                return Exit::Done.into();
            }
            Happening::Signal => {
                draining = Some(Instant::now());
                let limit = loaded.config.shards.drain_secs;
                tracing::info!("draining: sessions may go on for {limit} s");
                for mailbox in &mailboxes {
                    mailbox.post(Command::Drain);
                }
            }
        }
    }
    Exit::Done.into()
}

/// Two threads that do nothing but wait.
fn forward(plane: &Plane, tell: &Sender<Happening>) -> std::io::Result<()> {
    let (signal, signals) = async_channel::unbounded();
    signals::listen(signal)?;
    let (events, to) = (plane.events(), tell.clone());
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map(drop)
    };
    spawn(
        "plane-events",
        Box::new(move || {
            while let Ok(event) = events.recv_blocking() {
                drop(to.send_blocking(Happening::Plane(event)));
            }
        }),
    )?;
    let to = tell.clone();
    spawn(
        "signal-events",
        Box::new(move || {
            while signals.recv_blocking().is_ok() {
                drop(to.send_blocking(Happening::Signal));
            }
        }),
    )
}
