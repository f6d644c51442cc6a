//! [`ControlPlane`]: what the running process tells the API, and the plain structs it tells it in.
//!
//! The binary implements the trait by asking every shard with a deadline; tests give canned
//! answers. What the configuration file says is [`crate::UserStore`]'s, not here.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use shards::control::{ShardSnapshot, TlsFingerprints};

use crate::{
    model::{
        limits::EffectiveLimitsData, minimal::MinimalSnapshot, nat_stun::RuntimeNatStunPayload,
        pool_state::RuntimeMePoolStatePayload, quality::RuntimeMeQualityPayload,
        selftest::RuntimeMeSelftestPayload,
    },
    startup::{MeStartup, Startup},
    users::UserNames,
};

/// What the process is doing now. Every method must return within a fraction of a second,
/// whatever the shards do: requests wait for it.
pub trait ControlPlane: Send + Sync + 'static {
    /// Facts that do not change while the process lives.
    fn process(&self) -> &Process;

    /// The configuration the process is running with, which may lag behind the file.
    fn running(&self) -> Arc<Running>;

    /// Counters and rows of all shards together. A shard that does not answer in time
    /// contributes what it last said; `None` when none has ever answered.
    fn snapshot(&self) -> Option<Arc<PlaneSnapshot>>;

    /// Kinds of TLS clients seen by all shards together; `None` when none has ever answered.
    fn tls_fingerprints(&self) -> Option<TlsFingerprints>;

    /// The ME pool; `None` without one, and when a shard did not answer in time: parts of it would
    /// look like a loss.
    fn me(&self) -> Option<Arc<MeView>> {
        None
    }

    /// The ME pool's part of the start.
    fn me_startup(&self) -> MeStartup {
        MeStartup::skipped()
    }

    /// What connection tracking control does.
    fn conntrack(&self) -> ConntrackState {
        ConntrackState::default()
    }

    /// The route that new sessions take, and why.
    fn transport(&self) -> Transport;

    /// Progress of the start.
    fn startup(&self) -> &Startup;

    /// Configuration changes taken over since the start.
    fn reloads(&self) -> Reloads;
}

/// All shards at one instant.
#[derive(Clone, Debug, Default)]
pub struct PlaneSnapshot {
    /// Their counters and rows, merged.
    pub total: ShardSnapshot,
    /// Shards that did not answer in time; `total` has what they said before, if anything.
    pub late_shards: usize,
}

/// The ME pool at one instant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeView {
    /// When this was put together, unix seconds.
    pub generated_at_epoch_secs: u64,
    /// Writers, DCs, settings.
    pub minimal: MinimalSnapshot,
    /// Generations and refills.
    pub pool_state: RuntimeMePoolStatePayload,
    /// Trouble, families, round trips.
    pub quality: RuntimeMeQualityPayload,
    /// Our public address.
    pub nat_stun: RuntimeNatStunPayload,
    /// What makes handshakes fail.
    pub selftest: RuntimeMeSelftestPayload,
}

/// Facts that do not change while the process lives.
#[derive(Clone, Debug)]
pub struct Process {
    /// What was built.
    pub build: Build,
    /// Wall clock at start, unix seconds.
    pub started_at_epoch_secs: u64,
    /// The same moment on the clock that never jumps.
    pub started: Instant,
    /// Absolute path of the configuration file.
    pub config_path: String,
}

impl Process {
    /// A process that starts now.
    #[must_use]
    pub fn starting(build: Build, config_path: String) -> Self {
        Self {
            build,
            started_at_epoch_secs: now_epoch_secs(),
            started: Instant::now(),
            config_path,
        }
    }

    /// Seconds since the start, with a fraction.
    #[must_use]
    pub fn uptime_seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// What was built, and how.
#[derive(Clone, Debug, Default)]
pub struct Build {
    /// Program version.
    pub version: &'static str,
    /// CPU architecture, e.g. `x86_64`.
    pub target_arch: &'static str,
    /// Operating system, e.g. `linux`.
    pub target_os: &'static str,
    /// Build flavour; `unknown` when it was not recorded.
    pub build_profile: &'static str,
    /// Commit, when recorded.
    pub git_commit: Option<&'static str>,
    /// Time of the build in UTC, when recorded.
    pub build_time_utc: Option<&'static str>,
    /// Compiler, when recorded.
    pub rustc_version: Option<&'static str>,
}

/// Configuration changes taken over since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// How many.
    pub count: u64,
    /// Unix time of the last one, seconds.
    pub last_epoch_secs: Option<u64>,
}

/// The configuration the process is running with, as far as the API shows it.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// User names by `UserId`: the order of `ShardSnapshot::users`.
    pub users: UserNames,
    /// Ways to the DCs, in the order of `ShardSnapshot::upstreams`.
    pub upstreams: Vec<UpstreamInfo>,
    /// Where sessions that go direct are connected to, ascending by DC.
    pub dc_addresses: Vec<DcAddresses>,
    /// Limits and time-outs in force.
    pub limits: EffectiveLimitsData,
    /// What is counted and logged.
    pub telemetry: Telemetry,
    /// Every client connection must start with a PROXY header.
    pub proxy_protocol_enabled: bool,
    /// Connection tracking control is wanted.
    pub conntrack_enabled: bool,
}

/// Where one DC is reached without the middle proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DcAddresses {
    /// DC id, positive.
    pub dc: i16,
    /// The first IPv4 address; `None` when the family is off or the DC has none.
    pub v4: Option<SocketAddr>,
    /// The first IPv6 address, likewise.
    pub v6: Option<SocketAddr>,
}

/// What is counted and logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// `debug`, `verbose`, `normal` or `silent`.
    pub log_level: &'static str,
    /// `general.telemetry.core_enabled`.
    pub core_enabled: bool,
    /// `general.telemetry.user_enabled`.
    pub user_enabled: bool,
    /// `silent`, `normal` or `debug`.
    pub me_level: &'static str,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log_level: "normal",
            core_enabled: true,
            user_enabled: true,
            me_level: "normal",
        }
    }
}

/// What connection tracking control does at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackState {
    /// This process has the right and the tool.
    pub available: bool,
    /// The rules that are wanted are in place.
    pub rule_apply_ok: bool,
    /// Limits are shortened.
    pub pressure_active: bool,
    /// Ends of connections that wait to be looked at.
    pub event_queue_depth: u64,
    /// Tracking entries that were to be deleted.
    pub delete_attempt_total: u64,
    /// Those that were.
    pub delete_success_total: u64,
    /// Those that were gone already.
    pub delete_not_found_total: u64,
    /// Those the kernel would not delete.
    pub delete_error_total: u64,
    /// Ends that found no room to wait.
    pub close_event_drop_total: u64,
}

/// One configured way to the DCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamInfo {
    /// Kind of the first hop.
    pub kind: RouteKind,
    /// `host:port` of the first hop, without credentials; not shown for direct routes.
    pub address: String,
    /// Share of new connections.
    pub weight: u16,
    /// Selector text as configured; may be empty.
    pub scopes: String,
}

impl UpstreamInfo {
    /// The route without a proxy in between.
    #[must_use]
    pub fn direct() -> Self {
        Self {
            kind: RouteKind::Direct,
            address: String::new(),
            weight: 1,
            scopes: String::new(),
        }
    }
}

/// Kind of an upstream's first hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Straight to the DC.
    Direct,
    /// Through a SOCKS4 proxy.
    Socks4,
    /// Through a SOCKS5 proxy.
    Socks5,
    /// Through a Shadowsocks server.
    Shadowsocks,
}

impl RouteKind {
    /// As in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Socks4 => "socks4",
            Self::Socks5 => "socks5",
            Self::Shadowsocks => "shadowsocks",
        }
    }
}

/// The route that new sessions take, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The middle proxy is wanted (`general.use_middle_proxy`).
    pub use_middle_proxy: bool,
    /// It may be bypassed (`general.me2dc_fallback`).
    pub me2dc_fallback: bool,
    /// It may be bypassed at once (`general.me2dc_fast`), as configured.
    pub me2dc_fast: bool,
    /// Where new sessions go.
    pub route: RouteMode,
    /// They are let in: the pool is ready, not wanted, or bypassed.
    pub admission_open: bool,
    /// The ME pool is ready; no meaning without `use_middle_proxy`.
    pub me_pool_ready: bool,
    /// Set while the middle proxy is wanted and sessions go direct.
    pub reroute: Option<Reroute>,
}

impl Transport {
    /// Direct mode: no middle proxy wanted.
    #[must_use]
    pub fn direct() -> Self {
        Self {
            use_middle_proxy: false,
            me2dc_fallback: true,
            me2dc_fast: true,
            route: RouteMode::Direct,
            admission_open: true,
            me_pool_ready: false,
            reroute: None,
        }
    }
}

/// Where new sessions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteMode {
    /// To a DC.
    Direct,
    /// To the middle proxy.
    Middle,
}

/// Sessions go direct although the middle proxy is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reroute {
    /// Since when, unix seconds.
    pub since_epoch_secs: u64,
    /// By which rule.
    pub reason: RerouteReason,
}

/// Why sessions go direct although the middle proxy is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RerouteReason {
    /// The fast rule: the pool is not ready.
    FastNotReady,
    /// The strict rule: the pool has not been ready for longer than its grace.
    StrictGrace,
}

/// Unix time, whole seconds; 0 before 1970.
pub(crate) fn now_epoch_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Unix time, whole milliseconds; 0 before 1970.
pub(crate) fn now_epoch_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
