//! Answers about the ME pool while there is none: stats/minimal/all, stats/me-writers, stats/dcs
//! and the four runtime pool routes. Source: control-api.md 11.

use super::ApiState;
use crate::{
    model::{
        FEATURE_DISABLED, SOURCE_UNAVAILABLE,
        me::{
            DcStatusData, MeWritersData, MeWritersSummary, MinimalAllData, MinimalAllPayload,
            NoPoolData,
        },
    },
    plane::now_epoch_secs,
};

impl ApiState {
    /// Reduced when switched on: there is no pool to show.
    pub(super) fn minimal_all(&self) -> MinimalAllData {
        let enabled = self.settings.minimal_runtime_enabled;
        let generated_at_epoch_secs = now_epoch_secs();
        MinimalAllData {
            enabled,
            reason: Some(self.minimal_reason()),
            generated_at_epoch_secs,
            data: enabled.then(|| MinimalAllPayload {
                me_writers: self.me_writers(),
                dcs: self.dcs(),
                me_runtime: None,
                network_path: [],
            }),
        }
    }

    pub(super) fn me_writers(&self) -> MeWritersData {
        MeWritersData {
            middle_proxy_enabled: false,
            reason: Some(self.minimal_reason()),
            generated_at_epoch_secs: now_epoch_secs(),
            summary: MeWritersSummary::default(),
            writers: [],
        }
    }

    pub(super) fn dcs(&self) -> DcStatusData {
        DcStatusData {
            middle_proxy_enabled: false,
            reason: Some(self.minimal_reason()),
            generated_at_epoch_secs: now_epoch_secs(),
            dcs: [],
        }
    }

    fn minimal_reason(&self) -> &'static str {
        if self.settings.minimal_runtime_enabled {
            SOURCE_UNAVAILABLE
        } else {
            FEATURE_DISABLED
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
