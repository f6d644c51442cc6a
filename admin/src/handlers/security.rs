//! security/posture, security/whitelist.

use super::ApiState;
use crate::{
    model::security::{SecurityPostureData, SecurityWhitelistData},
    plane::now_epoch_secs,
};

impl ApiState {
    pub(super) fn posture(&self) -> SecurityPostureData {
        let running = self.plane.running();
        let entries = self.settings.whitelist.len();
        SecurityPostureData {
            api_read_only: self.settings.read_only,
            api_whitelist_enabled: entries > 0,
            api_whitelist_entries: entries,
            api_auth_header_enabled: !self.settings.auth_header.is_empty(),
            proxy_protocol_enabled: running.proxy_protocol_enabled,
            log_level: running.telemetry.log_level,
            telemetry_core_enabled: running.telemetry.core_enabled,
            telemetry_user_enabled: running.telemetry.user_enabled,
            telemetry_me_level: running.telemetry.me_level,
        }
    }

    pub(super) fn whitelist(&self) -> SecurityWhitelistData {
        let entries: Vec<_> = self
            .settings
            .whitelist
            .iter()
            .map(ToString::to_string)
            .collect();
        SecurityWhitelistData {
            generated_at_epoch_secs: now_epoch_secs(),
            enabled: !entries.is_empty(),
            entries_total: entries.len(),
            entries,
        }
    }
}
