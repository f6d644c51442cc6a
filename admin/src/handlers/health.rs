//! health, health/ready.

use super::ApiState;
use crate::{
    model::system::{HealthData, HealthReadyData},
    reply::{ApiError, Reply},
};

impl ApiState {
    pub(super) fn health(&self) -> HealthData {
        HealthData {
            status: "ok",
            read_only: self.settings.read_only,
        }
    }

    /// `503` with a success envelope when not ready. Source: control-api.md 3 and 15.
    pub(super) fn health_ready(&self) -> Result<Reply, ApiError> {
        let snapshot = self.snapshot_or_zero();
        let admission_open = snapshot.total.accepting && self.plane.transport().admission_open;
        let total_upstreams = self.plane.running().upstreams.len();
        let rows = snapshot.total.upstreams.iter().take(total_upstreams);
        let healthy_upstreams = rows.filter(|row| row.healthy).count();
        let reason = match (admission_open, healthy_upstreams) {
            (false, _) => Some("admission_closed"),
            (true, 0) => Some("no_healthy_upstreams"),
            (true, _) => None,
        };
        let ready = reason.is_none();
        let data = HealthReadyData {
            ready,
            status: if ready { "ready" } else { "not_ready" },
            reason,
            admission_open,
            healthy_upstreams,
            total_upstreams,
        };
        Reply::success(
            if ready { 200 } else { 503 },
            &data,
            &self.store.revision()?,
        )
    }
}
