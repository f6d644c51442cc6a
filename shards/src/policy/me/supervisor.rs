//! One per process: all that has to be decided for all shards at once.
//!
//! State, reports and `now` in; plans, events and status out. Its thread, the fetches and STUN are
//! the binary's. Every plan is whole, so a shard that missed one has missed nothing, and a shard
//! that is late or silent only keeps its last report.
//!
//! Source: middle-proxy.md 10 to 16 and 22 to 25.

use std::{net::IpAddr, sync::Arc};

use super::super::Millis;
use super::{
    families::Families,
    plan::{Plan, Route},
    report::Report,
    startup::{Stage, StageMove},
    status::{
        BlockReason, FloorStatus, GateStatus, GenerationStatus, InitStatus, MeStatus,
        RefreshStatus, RerouteReason, RouteStatus, SelftestStatus, StartupStatus,
    },
};
use crate::{
    counters::{MeCounters, PoolCounters},
    proto::middle::{config_file::ConfigFile, secret_file::ProxySecret},
    settings::MeSettings,
};

/// The supervisor. Create it, post its first plan, then feed it reports and call
/// [`advance`](Self::advance) when it asks for it.
#[derive(Debug)]
pub struct Supervisor {
    setup: Setup,
    plan: Arc<Plan>,
}

/// What a supervisor is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The keys.
    pub settings: Arc<MeSettings>,
    /// Shards that will report, at least 1.
    pub shards: usize,
    /// CPUs this process may run on, at least 1.
    pub cores: usize,
    /// For jitter and choices; the same seed and input give the same plans.
    pub seed: u64,
    /// Unix seconds at [`Millis`] zero.
    pub started_unix_secs: u64,
}

/// Why a file is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The start, first success of a file included however late it comes: taken at once.
    Startup,
    /// A refresh: the rules of section 23 decide.
    Refresh,
}

/// A proxy configuration as fetched.
#[derive(Clone, Debug)]
pub struct Offered {
    /// What it says.
    pub file: ConfigFile,
    /// The answer had a status of 2xx, or it is a local file.
    pub http_ok: bool,
}

/// Whose `Date` header a time-skew sample comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkewSource {
    /// The download of the secret.
    ProxySecret,
    /// The download of a map.
    ProxyConfig,
}

impl SkewSource {
    /// The contract's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ProxySecret => "proxy_secret_date_header",
            Self::ProxyConfig => "proxy_config_date_header",
        }
    }
}

/// Something worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeEvent {
    /// What it is about.
    pub kind: MeEventKind,
    /// The line, without secrets.
    pub text: String,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeEventKind {
    /// The gate opened or closed.
    Admission,
    /// New sessions take another route.
    RouteMode,
    /// Generations changed.
    Swap,
    /// The map changed, or a snapshot was not taken.
    Map,
    /// The secret changed.
    Secret,
    /// A family changed its state.
    Family,
    /// An outage of a group with one endpoint began or ended.
    Outage,
    /// An endpoint went to quarantine.
    Quarantine,
    /// A warning for the log only, already limited in rate.
    Warning,
}

impl MeEventKind {
    /// Type in `/v1/runtime/events/recent`; `None` is for the log only.
    #[must_use]
    pub const fn label(self) -> Option<&'static str> {
        match self {
            Self::Admission => Some("admission"),
            Self::RouteMode => Some("route_mode"),
            Self::Swap => Some("me_swap"),
            Self::Map => Some("me_map"),
            Self::Secret => Some("me_secret"),
            Self::Family => Some("me_family"),
            Self::Outage => Some("me_outage"),
            Self::Quarantine => Some("me_quarantine"),
            Self::Warning => None,
        }
    }
}

impl Supervisor {
    /// A supervisor that knows nothing yet; its first plan is ready to be taken.
    #[must_use]
    pub fn new(setup: Setup, now: Millis) -> Self {
        let _ = now;
        let plan = Arc::new(Plan::empty(Arc::clone(&setup.settings), Route::Direct));
        Self { setup, plan }
    }

    /// The keys changed. Takes effect with the next [`advance`](Self::advance).
    pub fn set_settings(&mut self, settings: Arc<MeSettings>, now: Millis) {
        let _ = now;
        self.setup.settings = settings;
    }

    /// What a step of the start has come to that is not the supervisor's: the fetches.
    pub fn startup_stage(&mut self, stage: Stage, what: StageMove, now: Millis) {
        let _ = (stage, what, now);
    }

    /// A secret was read. Section 23 decides whether it is taken.
    pub fn offer_secret(&mut self, secret: ProxySecret, origin: Origin, now: Millis) {
        let _ = (secret, origin, now);
    }

    /// Maps were read: those of one cycle together, `None` for one that was not. Section 23
    /// decides whether they are taken.
    pub fn offer_maps(
        &mut self,
        v4: Option<Offered>,
        v6: Option<Offered>,
        origin: Origin,
        now: Millis,
    ) {
        let _ = (v4, v6, origin, now);
    }

    /// What STUN or HTTP says of our address in a family; `None` when it is no longer known.
    pub fn reflected(&mut self, ipv6: bool, addr: Option<IpAddr>, now: Millis) {
        let _ = (ipv6, addr, now);
    }

    /// An answer's `Date` header differed by `secs` from our clock.
    pub fn skew_sample(&mut self, source: SkewSource, secs: u64, now: Millis) {
        let _ = (source, secs, now);
    }

    /// A shard's report.
    pub fn report(&mut self, report: Report, now: Millis) {
        let _ = (report, now);
    }

    /// Runs what is due; returns when to call again at the latest. Call it after every input too.
    pub fn advance(&mut self, now: Millis) -> Millis {
        now.after(std::time::Duration::from_secs(1))
    }

    /// The plan to post, if it differs from the one taken last.
    pub fn take_plan(&mut self) -> Option<Arc<Plan>> {
        None
    }

    /// What happened since the last call, for log and events ring.
    pub fn take_events(&mut self) -> Vec<MeEvent> {
        Vec::new()
    }

    /// STUN is to forget its failed rounds and live servers (not its cache); told once.
    pub fn wants_stun_reset(&mut self) -> bool {
        false
    }

    /// All the API asks of the supervisor.
    #[must_use]
    pub fn status(&self, now: Millis) -> MeStatus {
        let settings = &self.setup.settings;
        MeStatus {
            taken_at: now,
            started_unix_secs: self.setup.started_unix_secs,
            shards: self.setup.shards,
            settings: Arc::clone(settings),
            plan: Arc::clone(&self.plan),
            route: RouteStatus {
                accepting: true,
                middle: false,
                ready: false,
                ready_ever: false,
                not_ready_since: Some(Millis(0)),
                reason: settings
                    .admission
                    .fallback
                    .then_some(RerouteReason::FastNotReady),
                direct_at: Some(Millis(0)),
            },
            startup: StartupStatus {
                status: InitStatus::Pending,
                current_stage: Stage::SecretFetch.id(),
                init_attempt: 0,
                retry_limit: None,
                last_error: None,
                ready_at: None,
                steps: Vec::new(),
                weight_done: 0.0,
                weight_total: Stage::ALL.iter().map(|stage| stage.weight()).sum(),
            },
            floor: FloorStatus::default(),
            groups: Vec::new(),
            generations: GenerationStatus {
                active: 1,
                warm: 0,
                pending: 0,
                pending_since: None,
            },
            gate: GateStatus {
                route_quorum_ok: false,
                redundancy_ok: false,
                block_reason: BlockReason::Open,
                updated_at: Millis(0),
            },
            families: Families::default().status([true, false]),
            quarantine: Vec::new(),
            selftest: SelftestStatus::default(),
            refresh: RefreshStatus::default(),
            me: MeCounters::default(),
            pool: PoolCounters::default(),
        }
    }
}
