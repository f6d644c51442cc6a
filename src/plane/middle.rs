//! The ME pool as the control API sees it: the supervisor's word and the shards' rows, joined.
//!
//! The numbers are worked out in `middle/`; when there is a view at all is decided here. Called by
//! `plane.rs` with every answer; plain values in and out. Source: middle-proxy.md 25 and 26.

mod quality;
mod rows;
mod runtime;
#[cfg(test)]
pub(super) mod samples;
mod source;
#[cfg(test)]
mod tests;

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use admin::{
    MeStartup, MeView, MinimalDcPathData, MinimalSnapshot, Reroute, RerouteReason, RouteMode,
    RuntimeNatStunPayload, StartupStatus, Step, StepStatus, Transport,
};
use shards::{
    control::ShardSnapshot,
    me::{self, InitStatus, MeStatus, Millis, Stage, StepState},
};

/// Whoever runs the supervisor, as answers see it. Nothing of it may wait for long.
pub(crate) trait Middle: Send + Sync {
    /// What the supervisor knows at this moment.
    fn status(&self) -> MeStatus;
    /// How our public address is found.
    fn nat_stun(&self) -> RuntimeNatStunPayload;
    /// The address of the interface that would reach the Internet, looked up anew.
    fn local_address(&self, ipv6: bool) -> Option<IpAddr>;
    /// The shards' clock.
    fn now(&self) -> Millis;
}

/// All that a view is made of.
pub(super) struct Moment<'a> {
    /// The supervisor's word.
    pub(super) status: &'a MeStatus,
    /// All shards, each of which has answered.
    pub(super) total: &'a ShardSnapshot,
    /// The shards' clock.
    pub(super) now: Millis,
}

/// The view; `None` while there is no pool (control-api.md 11).
pub(super) fn view(
    middle: &dyn Middle,
    moment: &Moment<'_>,
    network_path: Vec<MinimalDcPathData>,
) -> Option<MeView> {
    let status = moment.status;
    if !has_pool(status) {
        return None;
    }
    let writers = rows::writers(moment);
    let dcs = rows::dcs(moment);
    let local = [false, true].map(|ipv6| middle.local_address(ipv6));
    Some(MeView {
        generated_at_epoch_secs: unix_secs(),
        pool_state: quality::pool_state(moment),
        quality: quality::quality(moment, &dcs),
        nat_stun: middle.nat_stun(),
        selftest: quality::selftest(moment, local),
        minimal: MinimalSnapshot {
            summary: rows::summary(&dcs),
            writers,
            dcs,
            runtime: runtime::runtime(moment),
            network_path,
        },
    })
}

/// A map was planned for, and the start has not been given up.
fn has_pool(status: &MeStatus) -> bool {
    let mut steps = status.startup.steps.iter();
    let planned =
        steps.any(|step| step.stage == Stage::PoolConstruct && step.state == StepState::Ready);
    planned && status.startup.status != InitStatus::Failed
}

/// The route that new sessions take.
pub(super) fn transport(status: &MeStatus) -> Transport {
    let (route, admission) = (&status.route, &status.settings.admission);
    Transport {
        use_middle_proxy: true,
        me2dc_fallback: admission.fallback,
        me2dc_fast: admission.fast,
        route: match route.middle {
            true => RouteMode::Middle,
            false => RouteMode::Direct,
        },
        admission_open: route.accepting,
        me_pool_ready: route.ready,
        reroute: route.reason.map(|reason| Reroute {
            since_epoch_secs: status.epoch_secs(route.direct_at.unwrap_or_default()),
            reason: match reason {
                me::RerouteReason::FastNotReady => RerouteReason::FastNotReady,
                me::RerouteReason::StrictGrace => RerouteReason::StrictGrace,
            },
        }),
    }
}

/// The pool's part of the start.
pub(super) fn startup(status: &MeStatus) -> MeStartup {
    let me = &status.startup;
    MeStartup {
        status: match me.status {
            InitStatus::Pending => StartupStatus::Pending,
            InitStatus::Initializing => StartupStatus::Initializing,
            InitStatus::Ready => StartupStatus::Ready,
            InitStatus::Failed => StartupStatus::Failed,
        },
        current_stage: me.current_stage,
        init_attempt: me.init_attempt,
        retry_limit: me.retry_limit,
        last_error: me.last_error.clone(),
        holds_start: !status.settings.admission.fallback,
        ready_at_epoch_secs: me.ready_at.map(|at| status.epoch_secs(at)),
        weight_done: me.weight_done,
        steps: me.steps.iter().map(|row| step(status, row)).collect(),
    }
}

fn step(status: &MeStatus, row: &me::StepStatus) -> Step {
    Step {
        status: match row.state {
            StepState::Pending => StepStatus::Pending,
            StepState::Running => StepStatus::Running,
            StepState::Ready => StepStatus::Ready,
            StepState::Failed => StepStatus::Failed,
            StepState::Skipped => StepStatus::Skipped,
        },
        started_at_epoch_ms: row.started_at.map(|at| status.epoch_ms(at)),
        finished_at_epoch_ms: row.finished_at.map(|at| status.epoch_ms(at)),
        attempts: row.attempts,
        details: row.details.clone(),
        ..Step::new(row.stage.id(), row.stage.title())
    }
}

/// Numbers of the contract are wide, those of the process are not.
fn wide(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn unix_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
