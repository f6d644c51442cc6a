//! stats/minimal/all, stats/me-writers and stats/dcs, which share one cached view, and the four
//! runtime pool routes, which look anew. Source: control-api.md 11 and 12.

use std::sync::Arc;

use serde::Serialize;

use super::ApiState;
use crate::{
    cache::Cached,
    model::{
        FEATURE_DISABLED, SOURCE_UNAVAILABLE,
        me::{DcStatusData, MeWritersData, MinimalAllData, MinimalAllPayload, RuntimePoolData},
        minimal::{MeWritersSummary, MinimalSnapshot},
    },
    plane::{MeView, now_epoch_secs},
    reply::{ApiError, Reply},
};

/// What the three answers are made of.
struct View {
    reason: Option<&'static str>,
    generated_at_epoch_secs: u64,
    me: Option<Arc<MeView>>,
}

impl ApiState {
    pub(super) fn minimal_all(&self) -> Result<Reply, ApiError> {
        let view = self.minimal();
        let enabled = self.settings.minimal_runtime_enabled;
        let snapshot = view.snapshot();
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
            me: None,
        };
        if !self.settings.minimal_runtime_enabled {
            return without(FEATURE_DISABLED);
        }
        match self.minimal.get(|| self.plane.me()) {
            None => without(SOURCE_UNAVAILABLE),
            Some(Cached::Fresh(me) | Cached::Hit(me) | Cached::Stale(me)) => View {
                reason: None,
                generated_at_epoch_secs: me.generated_at_epoch_secs,
                me: Some(me),
            },
        }
    }

    /// One of the routes that have no switch.
    pub(super) fn of_pool<T: Serialize>(
        &self,
        payload: impl FnOnce(&MeView) -> &T,
    ) -> Result<Reply, ApiError> {
        let me = self.plane.me();
        let at = me.as_ref().map(|me| me.generated_at_epoch_secs);
        let data = me.as_deref().map(payload);
        self.ok(&RuntimePoolData::new(
            data,
            at.unwrap_or_else(now_epoch_secs),
        ))
    }
}

impl View {
    fn snapshot(&self) -> Option<&MinimalSnapshot> {
        self.me.as_deref().map(|me| &me.minimal)
    }

    fn me_writers(&self) -> MeWritersData<'_> {
        let snapshot = self.snapshot();
        MeWritersData {
            middle_proxy_enabled: snapshot.is_some(),
            reason: self.reason,
            generated_at_epoch_secs: self.generated_at_epoch_secs,
            summary: snapshot.map_or(&NO_WRITERS, |all| &all.summary),
            writers: snapshot.map_or(&[], |all| all.writers.as_slice()),
        }
    }

    fn dcs(&self) -> DcStatusData<'_> {
        let snapshot = self.snapshot();
        DcStatusData {
            middle_proxy_enabled: snapshot.is_some(),
            reason: self.reason,
            generated_at_epoch_secs: self.generated_at_epoch_secs,
            dcs: snapshot.map_or(&[], |all| all.dcs.as_slice()),
        }
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
