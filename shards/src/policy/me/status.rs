//! What the supervisor knows, for API, log and self-test: plain values, taken at one moment.
//!
//! Writers themselves are not here: they come from the shards' snapshots, and only the API joins
//! the two. Times are [`Millis`]; [`MeStatus::epoch_secs`] makes unix seconds of them.
//!
//! Source: middle-proxy.md, part C.

use std::{net::SocketAddr, sync::Arc};

use super::super::Millis;
use super::{families::FamilyState, plan::Plan, startup::Stage};
use crate::{
    counters::{MeCounters, PoolCounters},
    settings::MeSettings,
};

/// The supervisor at one moment.
#[derive(Clone, Debug)]
pub struct MeStatus {
    /// When this was put together.
    pub taken_at: Millis,
    /// Unix milliseconds at [`Millis`] zero.
    pub started_unix_ms: u64,
    /// Shards of the process.
    pub shards: usize,
    /// Keys in force.
    pub settings: Arc<MeSettings>,
    /// The plan in force: its `groups`, `map`, `default_dc` and `generations.active` are what
    /// `in_desired_map`, `matches_active_generation` and "fresh" are judged by.
    pub plan: Arc<Plan>,
    /// Where new sessions go, and why (22, 26.11).
    pub route: RouteStatus,
    /// How far the start is (12, 26.11).
    pub startup: StartupStatus,
    /// Cores and caps (11.2, 26.8).
    pub floor: FloorStatus,
    /// One row per configured DC group, ascending by DC (26.5).
    pub groups: Vec<GroupStatus>,
    /// Generation numbers (15, 26.6, 26.8).
    pub generations: GenerationStatus,
    /// The drain gate (15, 26.7).
    pub gate: GateStatus,
    /// IPv4, then IPv6 (24.1, 26.7).
    pub families: [FamilyStatus; 2],
    /// Endpoints not to be dialled, sorted (26.8).
    pub quarantine: Vec<QuarantineStatus>,
    /// Key drift, clock, SOCKS (24.2, 26.10).
    pub selftest: SelftestStatus,
    /// Secret and map (23).
    pub refresh: RefreshStatus,
    /// What the supervisor counts of 26.1; the rest is zero and comes from the shards.
    pub me: MeCounters,
    /// What the supervisor counts of 26.2; the rest is zero and comes from the shards.
    pub pool: PoolCounters,
}

/// Where new sessions go (22, 26.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteStatus {
    /// `accepting_new_connections`, `admission_open`: the gate.
    pub accepting: bool,
    /// `route_mode` and `transport_mode`: `middle` when true, else `direct`.
    pub middle: bool,
    /// `me_runtime_ready`.
    pub ready: bool,
    /// The pool was ready at some time.
    pub ready_ever: bool,
    /// Since when it is not; `None` while it is.
    pub not_ready_since: Option<Millis>,
    /// `reroute_reason`; `reroute_active` is `reason.is_some()`.
    pub reason: Option<RerouteReason>,
    /// `reroute_to_direct_at_epoch_secs`: when the route last became direct, if it ever did.
    pub direct_at: Option<Millis>,
}

/// Why new sessions go direct although middle proxies are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RerouteReason {
    /// Not ready, and `me2dc_fast`.
    FastNotReady,
    /// Not ready for longer than the grace.
    StrictGrace,
}

impl RerouteReason {
    /// The contract's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::FastNotReady => "fast_not_ready_fallback",
            Self::StrictGrace => "strict_grace_fallback",
        }
    }
}

/// How far the start is (12, 26.11).
#[derive(Clone, Debug, PartialEq)]
pub struct StartupStatus {
    /// `RuntimeInitializationMeData.status`.
    pub status: InitStatus,
    /// `RuntimeInitializationMeData.current_stage`: a step's id, `background_init`, `ready`,
    /// `failed` or `fallback_to_direct`.
    pub current_stage: &'static str,
    /// Attempts of stage 1 begun.
    pub init_attempt: u32,
    /// `me_init_retry_attempts`; `None` is `"unlimited"`.
    pub retry_limit: Option<u32>,
    /// What failed last; `None` after success.
    pub last_error: Option<String>,
    /// When stage 1 succeeded.
    pub ready_at: Option<Millis>,
    /// The steps in their order.
    pub steps: Vec<StepStatus>,
    /// Points of the ME steps' weights (52 in all) that are done, 26.11.
    pub weight_done: f64,
    /// Points they can reach.
    pub weight_total: f64,
}

/// `RuntimeInitializationMeData.status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitStatus {
    /// Nothing begun.
    Pending,
    /// Under way, in the foreground or not.
    Initializing,
    /// Stage 1 succeeded.
    Ready,
    /// Given up.
    Failed,
}

impl InitStatus {
    /// The contract's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Initializing => "initializing",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// One of the start's steps (`components[]`).
#[derive(Clone, Debug, PartialEq)]
pub struct StepStatus {
    /// Which: id and title.
    pub stage: Stage,
    /// How it stands.
    pub state: StepState,
    /// When it began last.
    pub started_at: Option<Millis>,
    /// When it ended last.
    pub finished_at: Option<Millis>,
    /// Times it began.
    pub attempts: u32,
    /// At most 256 bytes.
    pub details: Option<String>,
}

/// How a step stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepState {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Done.
    Ready,
    /// Failed; it may begin again.
    Failed,
    /// Not needed.
    Skipped,
}

impl StepState {
    /// The contract's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// Cores and caps (11.2, 26.8), in both floor modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloorStatus {
    /// `adaptive_floor_cpu_cores_detected`.
    pub cores_detected: u32,
    /// `adaptive_floor_cpu_cores_effective`.
    pub cores: u32,
    /// `adaptive_floor_global_cap_raw`.
    pub cap_raw: u32,
    /// `adaptive_floor_active_cap_configured`.
    pub active_cap_configured: u32,
    /// `adaptive_floor_active_cap_effective` and `global_cap_effective`.
    pub active_cap: u32,
    /// `adaptive_floor_warm_cap_configured` and `_effective`.
    pub warm_cap: u32,
    /// `adaptive_floor_target_writers_total`.
    pub targets_total: u32,
    /// Every shard has writers of every group (11.3); otherwise some open theirs on demand.
    pub spread: bool,
}

/// One DC group (26.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Signed DC id.
    pub dc: i16,
    /// Of the families in use, sorted, without doubles.
    pub endpoints: Arc<[SocketAddr]>,
    /// `required_writers`.
    pub required: u32,
    /// `floor_min`.
    pub floor_min: u32,
    /// `floor_max`.
    pub floor_max: u32,
    /// `floor_target`.
    pub target: u32,
    /// `floor_capped`.
    pub capped: bool,
    /// Without any writer at its only endpoint, by family (v4, v6).
    pub outage: [bool; 2],
}

/// Generation numbers (15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationStatus {
    /// `active_generation`.
    pub active: u64,
    /// `warm_generation`; 0 without one.
    pub warm: u64,
    /// `pending_hardswap_generation`; 0 without one.
    pub pending: u64,
    /// When the pending one began.
    pub pending_since: Option<Millis>,
}

/// The drain gate at its last evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateStatus {
    /// `route_quorum_ok`.
    pub route_quorum_ok: bool,
    /// `redundancy_ok`.
    pub redundancy_ok: bool,
    /// `block_reason`.
    pub block_reason: BlockReason,
    /// `updated_at_epoch_secs`.
    pub updated_at: Millis,
}

/// What keeps old writers from being drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockReason {
    /// Nothing.
    Open,
    /// Too few groups are covered.
    CoverageQuorum,
    /// Some groups are not.
    Redundancy,
    /// No endpoints are left while a family is suppressed.
    SuppressionActive,
}

impl BlockReason {
    /// The contract's word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::CoverageQuorum => "coverage_quorum",
            Self::Redundancy => "redundancy",
            Self::SuppressionActive => "suppression_active",
        }
    }
}

/// One address family (24.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyStatus {
    /// IPv6.
    pub ipv6: bool,
    /// `state`.
    pub state: FamilyState,
    /// `state_since_epoch_secs`.
    pub since: Millis,
    /// `suppressed_until_epoch_secs`.
    pub suppressed_until: Option<Millis>,
    /// `fail_streak`.
    pub fail_streak: u32,
    /// `recover_success_streak`.
    pub recover_success_streak: u32,
    /// Its endpoints are in the floors.
    pub in_use: bool,
}

/// An endpoint not to be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuarantineStatus {
    /// Which.
    pub endpoint: SocketAddr,
    /// `remaining_ms`, more than zero.
    pub remaining_ms: u64,
}

/// Self-test (24.2, 26.10) as far as the supervisor sees it; `ip` and `pid` are asked elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SelftestStatus {
    /// `ewma_errors_per_min`.
    pub kdf_errors_per_min: f64,
    /// `errors_total`.
    pub kdf_errors_total: u64,
    /// `kdf.state` is `error`.
    pub kdf_error: bool,
    /// `max_skew_secs_15m`; `None` without samples.
    pub max_skew_secs_15m: Option<u64>,
    /// `samples_15m`.
    pub samples_15m: usize,
    /// The newest sample kept.
    pub last_skew: Option<SkewStatus>,
    /// `timeskew.state` is `error`.
    pub skew_error: bool,
    /// The last dial through a SOCKS server; `None` before the first.
    pub bound: Option<BoundStatus>,
}

/// A sample of the clock's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkewStatus {
    /// `last_skew_secs`.
    pub secs: u64,
    /// `last_source`.
    pub source: &'static str,
    /// When.
    pub at: Millis,
}

/// What a SOCKS server said of the address it bound (`bnd`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundStatus {
    /// `ok`, `bogon` or `error`.
    pub addr_state: &'static str,
    /// `ok`, `zero` or `error`.
    pub port_state: &'static str,
    /// `last_addr`.
    pub addr: Option<SocketAddr>,
    /// When.
    pub at: Millis,
}

/// Secret and map (23).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefreshStatus {
    /// 0 before the first secret.
    pub secret_epoch: u64,
    /// 0 before the first map.
    pub map_epoch: u64,
    /// When the map last changed.
    pub map_changed_at: Option<Millis>,
    /// When the secret last changed.
    pub secret_changed_at: Option<Millis>,
}

impl MeStatus {
    /// Unix seconds of a moment.
    #[must_use]
    pub fn epoch_secs(&self, at: Millis) -> u64 {
        self.epoch_ms(at) / 1000
    }

    /// Unix milliseconds of a moment.
    #[must_use]
    pub fn epoch_ms(&self, at: Millis) -> u64 {
        self.started_unix_ms.saturating_add(at.0)
    }

    /// `in_desired_map`: the endpoint is in the current map of the group.
    #[must_use]
    pub fn is_mapped(&self, dc: i16, endpoint: &SocketAddr) -> bool {
        let group = self.plan.map.get(&dc);
        group.is_some_and(|list| list.binary_search(endpoint).is_ok())
    }
}
