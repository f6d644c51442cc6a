//! system/info, runtime/gates, runtime/initialization.

use super::ApiState;
use crate::{
    events::cut,
    model::{
        runtime::{
            RuntimeGatesData, RuntimeInitializationComponentData, RuntimeInitializationData,
            RuntimeInitializationMeData,
        },
        system::SystemInfoData,
    },
    plane::RouteMode,
    reply::{ApiError, Reply},
    startup::{MeStartup, Step},
};

impl ApiState {
    pub(super) fn system_info(&self) -> Result<Reply, ApiError> {
        // Read once, so that `config_hash` and the envelope cannot differ.
        let revision = self.store.revision()?;
        let process = self.plane.process();
        let reloads = self.plane.reloads();
        let data = SystemInfoData {
            version: process.build.version,
            target_arch: process.build.target_arch,
            target_os: process.build.target_os,
            build_profile: process.build.build_profile,
            git_commit: process.build.git_commit,
            build_time_utc: process.build.build_time_utc,
            rustc_version: process.build.rustc_version,
            process_started_at_epoch_secs: process.started_at_epoch_secs,
            uptime_seconds: process.uptime_seconds(),
            config_path: &process.config_path,
            config_hash: &revision.0,
            config_reload_count: reloads.count,
            last_config_reload_epoch_secs: reloads.last_epoch_secs,
        };
        Reply::success(200, &data, &revision)
    }

    pub(super) fn gates(&self) -> RuntimeGatesData {
        let transport = self.plane.transport();
        let startup = self.plane.startup().view(self.plane.me_startup());
        let wanted = transport.use_middle_proxy;
        let fallback = transport.me2dc_fallback;
        let reroute = transport.reroute.filter(|_| wanted && fallback);
        RuntimeGatesData {
            accepting_new_connections: transport.admission_open
                && self.snapshot_or_zero().total.accepting,
            conditional_cast_enabled: wanted,
            me_runtime_ready: !wanted || transport.me_pool_ready,
            me2dc_fallback_enabled: fallback,
            // Conflict C16: here the flag counts only with the other two.
            me2dc_fast_enabled: wanted && fallback && transport.me2dc_fast,
            use_middle_proxy: wanted,
            route_mode: transport.route.label(),
            reroute_active: reroute.is_some(),
            reroute_to_direct_at_epoch_secs: reroute.map(|reroute| reroute.since_epoch_secs),
            reroute_reason: reroute.map(|reroute| reroute.reason.label()),
            startup_status: startup.status.label(),
            startup_stage: startup.stage,
            startup_progress_pct: startup.progress_pct,
        }
    }

    pub(super) fn initialization(&self) -> RuntimeInitializationData {
        let startup = self.plane.startup().view(self.plane.me_startup());
        let elapsed_ms = self.plane.process().started.elapsed().as_millis();
        let transport = self.plane.transport();
        let direct = transport.route == RouteMode::Direct;
        RuntimeInitializationData {
            status: startup.status.label(),
            degraded: startup.degraded || transport.use_middle_proxy && direct,
            current_stage: startup.stage,
            progress_pct: startup.progress_pct,
            started_at_epoch_secs: startup.started_at_epoch_secs,
            ready_at_epoch_secs: startup.ready_at_epoch_secs,
            total_elapsed_ms: u64::try_from(elapsed_ms).unwrap_or(u64::MAX),
            transport_mode: if direct { "direct" } else { "middle_proxy" },
            me: me(startup.me),
            components: startup.steps.into_iter().map(component).collect(),
        }
    }
}

fn me(me: MeStartup) -> RuntimeInitializationMeData {
    RuntimeInitializationMeData {
        status: me.status.label(),
        current_stage: me.current_stage,
        progress_pct: me.progress_pct(),
        init_attempt: me.init_attempt,
        retry_limit: me
            .retry_limit
            .map_or_else(|| "unlimited".to_owned(), |n| n.to_string()),
        last_error: me.last_error,
    }
}

fn component(step: Step) -> RuntimeInitializationComponentData {
    let span = step.started_at_epoch_ms.zip(step.finished_at_epoch_ms);
    RuntimeInitializationComponentData {
        id: step.id,
        title: step.title,
        status: step.status.label(),
        started_at_epoch_ms: step.started_at_epoch_ms,
        finished_at_epoch_ms: step.finished_at_epoch_ms,
        duration_ms: span.map(|(started, finished)| finished.saturating_sub(started)),
        attempts: step.attempts,
        details: step.details.map(|text| cut(&text).to_owned()),
    }
}
