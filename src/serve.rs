//! From a loaded configuration to a running proxy, and to the code the process ends with.

mod banner;
mod wait;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use admin::{Build, Events, MetricsSettings, Process, Startup, StepStatus};
use shards::{
    Mailbox, Plane,
    host::{HostReport, check_host},
};

pub(crate) use self::banner::say;
use self::banner::{Served, announce, banner};
use crate::{
    cli::{self, Exit},
    config::{Config, Loaded, general::LogLevel},
    firewall::{self, Firewall},
    front,
    links::{Detected, LinkBase},
    live::{Live, LiveStore, Parts},
    logging::Log,
    me::{self, Me},
    memory,
    names::{self, Names, World},
    observations::ObservationFile,
    plane::{Post, Posted, ShardPlane},
    quota_file::QuotaFile,
    route_out::RouteOut,
    running::{api_settings, metrics_settings, running},
    signals,
    store::FileStore,
    unknown_dcs::{self, UnknownDcFile},
    watch,
    wiring::{self, HostShare, Overrides, wire},
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
    /// The running log.
    pub(crate) log: Log,
    /// What is logged, after flags and file.
    pub(crate) log_level: LogLevel,
    /// The command line chose it, so the file does not.
    pub(crate) log_level_fixed: bool,
    /// Contact nobody before a client asks for it: no DC, no front site.
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
    // Before anything else: a signal that comes early waits until somebody can act on it.
    let signals = match signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            eprintln!("cannot listen for signals: {error}");
            return Exit::Host.into();
        }
    };
    match start(loaded, options, &startup) {
        Ok(running) => wait::until_the_end(running, signals),
        Err((exit, text)) => {
            eprintln!("{text}");
            exit.into()
        }
    }
}

/// A proxy that serves.
struct Running {
    plane: Plane,
    shown: Arc<ShardPlane>,
    live: Arc<Live>,
    watching: Option<watch::Watching>,
    events: Arc<Events>,
    drain_secs: u64,
    firewall: Arc<Firewall>,
    unknown_dcs: Option<Arc<UnknownDcFile>>,
}

type Failure = (Exit, String);

fn start(loaded: Loaded, options: Options, startup: &Arc<Startup>) -> Result<Running, Failure> {
    let host_error = |error: &dyn std::fmt::Display| (Exit::Host, error.to_string());
    startup.begin("host_check");
    let report = check_host(1).map_err(|error| host_error(&error))?;
    let quotas = QuotaFile::open(
        options
            .data_path
            .join(&loaded.config.general.quota_state_path),
    );
    let used_bytes = |name: &str| quotas.used_bytes(name);
    let observations = observation_file(&loaded, &options);
    let unknown_dcs = unknown_dcs::place(&loaded, &options.data_path)
        .map_err(|finding| (Exit::Config, finding.to_string()))?;
    let mut wired = wire(&loaded, &options.overrides, &share(&report), &used_bytes)
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
    banner(&loaded, &options, &report, &wired);
    startup.begin("shards_start");
    let plane = shards::start(wired.settings).map_err(|error| host_error(&error))?;
    startup.finish(
        "shards_start",
        StepStatus::Ready,
        Some(format!("{shards} shards")),
    );
    let unknown_dcs = unknown_dcs.map(|path| UnknownDcFile::keep(path, plane.unknown_dcs()));
    let unknown_dcs = unknown_dcs
        .transpose()
        .map_err(|error| host_error(&error))?;
    let names = start_names(&loaded, &plane)?;
    let settings = api_settings(&loaded);
    let events = Arc::new(Events::new(settings.runtime_edge_events_capacity));
    let out = Arc::new(wiring::upstream::route_out(&loaded.config));
    let around = Around {
        report: &report,
        events: &events,
        out: &out,
    };
    let me = start_me(&loaded, &options, &plane, &around)?;
    start_front(&loaded, &options, &plane, &out)?;
    let direct = me.is_none();
    let parts = firewall::Parts {
        places: plane.places(),
        link: plane.pressure_link(),
        open_files: report.open_files,
    };
    let firewall = Firewall::start(&loaded.config, parts).map_err(|error| {
        (
            Exit::Host,
            format!("cannot look after the firewall: {error}"),
        )
    })?;
    let control = Control {
        quotas,
        plane,
        me,
        events,
        names,
        out,
        firewall: Arc::clone(&firewall),
    };
    // Rules of a start that fails go with it.
    let mut running =
        start_control(&loaded, options, control, startup).inspect_err(|_| firewall.stop())?;
    running.unknown_dcs = unknown_dcs;
    if let Some(file) = observations
        && let Err(error) = file.keep(&running.shown)
    {
        tracing::error!(%error, "observations are not written");
    }
    // With the Middle-End its supervisor tells of the gate.
    if direct {
        running.events.record("admission.state", "open");
    }
    Ok(running)
}

/// Where addresses of strangers are written down, if they are.
fn observation_file(loaded: &Loaded, options: &Options) -> Option<ObservationFile> {
    let general = &loaded.config.general;
    general.beobachten.then(|| ObservationFile {
        path: options.data_path.join(&general.beobachten_file.0),
        every: Duration::from_secs(general.beobachten_flush_secs),
    })
}

/// Whoever resolves host names for the shards.
fn start_names(loaded: &Loaded, plane: &Plane) -> Result<Names, Failure> {
    let link = plane.name_link();
    let world = World {
        resolve: names::resolve,
        own: names::own_addresses,
        publish: Box::new(move |table| link.set_names(table)),
    };
    let config = &loaded.config;
    let names = Names::start(wiring::names::families(config), world)
        .map_err(|error| (Exit::Host, format!("cannot resolve names: {error}")))?;
    names.pin(&config.network.dns_overrides);
    names.watch(wiring::names::hosts(config));
    Ok(names)
}

/// What threads beside the shards share.
struct Around<'a> {
    report: &'a HostReport,
    events: &'a Arc<Events>,
    out: &'a Arc<RouteOut>,
}

/// Whoever decides about middle proxies; `None` when every session goes direct.
fn start_me(
    loaded: &Loaded,
    options: &Options,
    plane: &Plane,
    around: &Around<'_>,
) -> Result<Option<Arc<Me>>, Failure> {
    let (Some(reports), Some(link)) = (plane.me_reports(), plane.me_link()) else {
        return Ok(None);
    };
    let clock = plane.clock();
    let parts = me::Parts {
        settings: wiring::me::settings(&loaded.config),
        sources: wiring::me::sources(&loaded.config, &options.data_path),
        shards: plane.mailboxes().len(),
        cores: around.report.cores.len().max(1),
        reports,
        link: Box::new(link),
        now: Arc::new(move || clock.now()),
        events: Arc::clone(around.events),
        out: Arc::clone(around.out),
    };
    let me = Me::start(parts);
    let me = me.map_err(|error| (Exit::Host, format!("cannot start the Middle-End: {error}")))?;
    Ok(Some(Arc::new(me)))
}

/// Whoever learns how the sites answer that ours are to look like.
fn start_front(
    loaded: &Loaded,
    options: &Options,
    plane: &Plane,
    out: &Arc<RouteOut>,
) -> Result<(), Failure> {
    let Some(settings) = wiring::front::settings(&loaded.config, &options.data_path) else {
        return Ok(());
    };
    if options.no_probe {
        tracing::info!("--no-probe: nothing is learned from the sites of tls_domain");
        return Ok(());
    }
    let route = wiring::front::route(&loaded.config, out);
    let link = plane.front_link();
    front::start(settings, route, Box::new(move |fronts| link.post(&fronts)))
        .map_err(|error| (Exit::Host, format!("cannot learn from sites: {error}")))
}

/// What the control side works with.
struct Control {
    quotas: QuotaFile,
    plane: Plane,
    me: Option<Arc<Me>>,
    events: Arc<Events>,
    names: Names,
    out: Arc<RouteOut>,
    firewall: Arc<Firewall>,
}

/// All that knows of the shards and is none.
fn start_control(
    loaded: &Loaded,
    options: Options,
    parts: Control,
    startup: &Arc<Startup>,
) -> Result<Running, Failure> {
    let Control {
        quotas,
        mut plane,
        me,
        events,
        names,
        out,
        firewall,
    } = parts;
    let Some(control) = plane.control() else {
        return Err((Exit::Host, "the shards cannot be controlled".to_owned()));
    };
    let running = running(&loaded.config, options.log_level, control.names());
    let process = Process::starting(build(), absolute(&loaded.path).display().to_string());
    let shown = Arc::new(ShardPlane::new(process, Arc::clone(startup), running));
    shown.attach(plane.mailboxes().into_iter().map(post).collect());
    if let Some(me) = &me {
        shown.attach_middle(Arc::clone(me) as _);
    }
    shown.attach_firewall(Arc::clone(&firewall));
    let parts = Parts {
        plane: Arc::clone(&shown),
        events: Arc::clone(&events),
        quotas,
        log: options.log,
        log_level: options.log_level_fixed.then_some(options.log_level),
        detected: Detected::find(),
        me,
        out,
        names: Some(names),
        firewall: Some(Arc::clone(&firewall)),
    };
    let live = Live::new(loaded, parts, Box::new(control));
    let served = Served {
        api: start_api(loaded, &shown, &live, &events, startup),
        metrics: start_metrics(loaded, &shown),
    };
    startup.ready();
    announce(loaded, &plane, served);
    shards::host::release_freed_memory();
    if let Err(error) = memory::keep_small() {
        return Err((Exit::Host, format!("cannot look after memory: {error}")));
    }
    if let Err(error) = live.keep_quotas() {
        return Err((Exit::Host, format!("cannot keep used quotas: {error}")));
    }
    let watching = watch::start(Arc::clone(&live) as _);
    if let Err(error) = &watching {
        tracing::error!(%error, "changes of the configuration are not noticed");
    }
    Ok(Running {
        plane,
        shown,
        live,
        watching: watching.ok(),
        events,
        drain_secs: loaded.config.shards.drain_secs,
        firewall,
        unknown_dcs: None,
    })
}

fn share(report: &HostReport) -> HostShare {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few CPUs"
    )]
    let limit = report.cpu_quota.map(|cpus| cpus.ceil().max(1.0) as usize);
    HostShare {
        allowed: report.cores.clone(),
        limit,
        memory_bytes: report.memory_bytes,
    }
}

fn post(mailbox: Mailbox) -> Post {
    Box::new(move |command| match mailbox.post(command) {
        true => Posted::In,
        false if mailbox.is_gone() => Posted::Gone,
        false => Posted::Full,
    })
}

/// Where the control API listens; the proxy serves without it too (control-api.md 1).
fn start_api(
    loaded: &Loaded,
    shown: &Arc<ShardPlane>,
    live: &Arc<Live>,
    events: &Arc<Events>,
    startup: &Startup,
) -> Option<SocketAddr> {
    startup.begin("api_bootstrap");
    let detected = Detected::find();
    let base = move |config: &Config| LinkBase::new(config, detected);
    let applies = Arc::new(LiveStore(Arc::clone(live)));
    let store = FileStore::new(absolute(&loaded.path), Box::new(base), applies);
    store.start_with(loaded);
    let (shown, events) = (Arc::clone(shown) as _, Arc::clone(events));
    match admin::start(api_settings(loaded), shown, Arc::new(store), events) {
        Ok(Some(api)) => {
            startup.finish("api_bootstrap", StepStatus::Ready, None);
            Some(api.addr())
        }
        Ok(None) => {
            startup.finish("api_bootstrap", StepStatus::Skipped, None);
            None
        }
        Err(error) => {
            tracing::error!(%error, "no control API");
            startup.finish("api_bootstrap", StepStatus::Failed, Some(error.to_string()));
            None
        }
    }
}

fn start_metrics(loaded: &Loaded, shown: &Arc<ShardPlane>) -> Option<SocketAddr> {
    let settings: MetricsSettings = metrics_settings(&loaded.config)?;
    match admin::start_metrics(settings, Arc::clone(shown) as _) {
        Ok(metrics) => Some(metrics.addr()),
        Err(error) => {
            tracing::error!(%error, "no metrics");
            None
        }
    }
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
