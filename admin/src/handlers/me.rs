//! stats/minimal/all, stats/me-writers and stats/dcs, which share one cached snapshot, and the four
//! runtime pool routes, which have nothing to show yet. Source: control-api.md 11 and 12.

use std::sync::Arc;

use super::ApiState;
use crate::{
    cache::Cached,
    model::{
        FEATURE_DISABLED, SOURCE_UNAVAILABLE,
        me::{DcStatusData, MeWritersData, MinimalAllData, MinimalAllPayload, NoPoolData},
        minimal::{MeWritersSummary, MinimalSnapshot},
    },
    plane::now_epoch_secs,
    reply::{ApiError, Reply},
};

/// What the cache holds.
#[derive(Clone)]
pub(super) struct Minimal {
    snapshot: Arc<MinimalSnapshot>,
    generated_at_epoch_secs: u64,
}

/// What the three answers are made of.
struct View {
    reason: Option<&'static str>,
    generated_at_epoch_secs: u64,
    snapshot: Option<Arc<MinimalSnapshot>>,
}

impl ApiState {
    pub(super) fn minimal_all(&self) -> Result<Reply, ApiError> {
        let view = self.minimal();
        let enabled = self.settings.minimal_runtime_enabled;
        let snapshot = view.snapshot.as_deref();
        self.ok(&MinimalAllData {
            enabled,
            reason: view.reason,
            generated_at_epoch_secs: view.generated_at_epoch_secs,
            data: enabled.then(|| MinimalAllPayload {
                me_writers: view.me_writers(),
                dcs: view.dcs(),
                me_runtime: snapshot.map(|all| &all.runtime),
                network_path: snapshot.map_or(&[], |all| all.network_path.as_slice()),
            }),
        })
    }

    pub(super) fn me_writers(&self) -> Result<Reply, ApiError> {
        self.ok(&self.minimal().me_writers())
    }

    pub(super) fn dcs(&self) -> Result<Reply, ApiError> {
        self.ok(&self.minimal().dcs())
    }

    fn minimal(&self) -> View {
        let without = |reason| View {
            reason: Some(reason),
            generated_at_epoch_secs: now_epoch_secs(),
            snapshot: None,
        };
        if !self.settings.minimal_runtime_enabled {
            return without(FEATURE_DISABLED);
        }
        let compute = || {
            self.plane.minimal().map(|snapshot| Minimal {
                snapshot,
                generated_at_epoch_secs: now_epoch_secs(),
            })
        };
        match self.minimal.get(compute) {
            None => without(SOURCE_UNAVAILABLE),
            Some(Cached::Fresh(all) | Cached::Hit(all) | Cached::Stale(all)) => View {
                reason: None,
                generated_at_epoch_secs: all.generated_at_epoch_secs,
                snapshot: Some(all.snapshot),
            },
        }
    }
}

impl View {
    fn me_writers(&self) -> MeWritersData<'_> {
        let snapshot = self.snapshot.as_deref();
        MeWritersData {
            middle_proxy_enabled: snapshot.is_some(),
            reason: self.reason,
            generated_at_epoch_secs: self.generated_at_epoch_secs,
            summary: snapshot.map_or(&NO_WRITERS, |all| &all.summary),
            writers: snapshot.map_or(&[], |all| all.writers.as_slice()),
        }
    }

    fn dcs(&self) -> DcStatusData<'_> {
        let snapshot = self.snapshot.as_deref();
        DcStatusData {
            middle_proxy_enabled: snapshot.is_some(),
            reason: self.reason,
            generated_at_epoch_secs: self.generated_at_epoch_secs,
            dcs: snapshot.map_or(&[], |all| all.dcs.as_slice()),
        }
    }
}

/// me_pool_state, me_quality, nat_stun and me-selftest have no switch.
pub(super) fn no_pool() -> NoPoolData {
    NoPoolData {
        enabled: false,
        reason: SOURCE_UNAVAILABLE,
        generated_at_epoch_secs: now_epoch_secs(),
        data: None,
    }
}

const NO_WRITERS: MeWritersSummary = MeWritersSummary {
    configured_dc_groups: 0,
    configured_endpoints: 0,
    available_endpoints: 0,
    available_pct: 0.0,
    required_writers: 0,
    alive_writers: 0,
    coverage_pct: 0.0,
    fresh_alive_writers: 0,
    fresh_coverage_pct: 0.0,
};
