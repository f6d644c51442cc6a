//! The editable configuration, reloads, and what became of them. Source: control-api.md 16.
//!
//! Plain data: `request.rs` builds the requests, the binary's store answers them.

use serde_json::{Map, Value};

use super::Revision;

/// Sections that `GET /v1/config` shows and `PATCH /v1/config` takes.
///
/// `show_link` is refused by the reference although its document names it; here it is taken.
pub const EDITABLE_SECTIONS: [&str; 6] = [
    "general",
    "timeouts",
    "censorship",
    "upstreams",
    "show_link",
    "dc_overrides",
];

/// Editable sections of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredConfig {
    /// Of the bytes that were parsed.
    pub revision: Revision,
    /// By name; sections the file does not have are absent, other sections never present.
    pub sections: Map<String, Value>,
}

/// The editable sections were changed, or nothing had to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPatched {
    /// Of the file just written, or of the unchanged one.
    pub revision: Revision,
    /// Sections whose value really changed.
    pub changed: Vec<String>,
    /// Changed keys that wait for a restart, by full name: `deferred_process_fields`.
    pub restart_keys: Vec<String>,
    /// Changed keys that are in effect, by full name.
    pub hot_keys: Vec<String>,
    /// The reload that was asked for.
    pub reload: Option<ReloadAccepted>,
}

/// What a reload is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadRequest {
    /// What becomes of sessions that the new configuration has no place for.
    pub mode: ReloadMode,
    /// What happens when the new configuration cannot be put in force.
    pub failure_policy: FailurePolicy,
}

/// What becomes of sessions that the new configuration has no place for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReloadMode {
    /// They end at once.
    #[default]
    Instant,
    /// They may go on for a while.
    Drain {
        /// For how long, seconds; 1 to 3,600.
        timeout_secs: u64,
    },
}

impl ReloadMode {
    /// As in requests and answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Drain { .. } => "drain",
        }
    }
}

/// What happens when a new configuration cannot be put in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The file stays as it is.
    #[default]
    KeepNew,
    /// The configuration that was in force before is put in force again.
    Rollback,
}

impl FailurePolicy {
    /// As in requests and answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::KeepNew => "keep_new",
            Self::Rollback => "rollback",
        }
    }
}

/// A reload will be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadAccepted {
    /// From 1, growing while the process lives.
    pub reload_id: u64,
    /// Number of the configuration that will be in force.
    pub target_generation: u64,
    /// Of the file that will be in force.
    pub config_revision: Revision,
    /// As asked for.
    pub mode: ReloadMode,
    /// As asked for.
    pub failure_policy: FailurePolicy,
}

/// How far a reload is. The last 32 are remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadStatus {
    /// As accepted.
    pub reload_id: u64,
    /// As accepted.
    pub target_generation: u64,
    /// As accepted.
    pub config_revision: Revision,
    /// Where it is.
    pub state: ReloadState,
    /// As asked for.
    pub mode: ReloadMode,
    /// As asked for.
    pub failure_policy: FailurePolicy,
    /// When it was accepted, unix seconds.
    pub requested_at_epoch_secs: u64,
    /// When it was begun, unix seconds.
    pub started_at_epoch_secs: Option<u64>,
    /// When it ended, unix seconds; set in the last three states.
    pub finished_at_epoch_secs: Option<u64>,
    /// Changed keys that wait for a restart, by full name.
    pub deferred_process_fields: Vec<String>,
    /// What an operator should know of it.
    pub warnings: Vec<String>,
    /// Why it failed or was rolled back; without secrets and paths.
    pub error: Option<String>,
}

/// Where a reload is.
///
/// ```text
/// accepted -> preparing -> activating -> draining -> succeeded
///                 |             |            |
///                 +-------------+------------+-> failed | rolled_back
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadState {
    /// Waits for its turn.
    Accepted,
    /// The file is read and checked.
    Preparing,
    /// The shards are told.
    Activating,
    /// Old sessions may still go on.
    Draining,
    /// Done.
    Succeeded,
    /// Failed, and the old configuration is in force again.
    RolledBack,
    /// Failed.
    Failed,
}

impl ReloadState {
    /// As in answers.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Preparing => "preparing",
            Self::Activating => "activating",
            Self::Draining => "draining",
            Self::Succeeded => "succeeded",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }

    /// Nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Failed)
    }
}
