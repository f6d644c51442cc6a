//! What goes into a supervisor and what comes out of it besides plans: plain types.

use std::sync::Arc;

use crate::{proto::middle::config_file::ConfigFile, settings::MeSettings};

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
    /// Unix milliseconds at [`Millis`] zero.
    pub started_unix_ms: u64,
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
