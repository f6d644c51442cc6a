//! [`Startup`]: how far the start has come, step by step.
//!
//! The binary reports its own steps here and tells those of the ME pool with every answer;
//! `runtime/initialization` and `runtime/gates` show both. Source: middle-proxy.md 26.11.

use std::sync::{Mutex, PoisonError};

use shards::me::Stage;

use crate::plane::{now_epoch_ms, now_epoch_secs};

/// Progress of the start; shared by all threads.
pub struct Startup {
    started_at_epoch_secs: u64,
    state: Mutex<State>,
}

/// State of the start as a whole, and of the ME pool's part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartupStatus {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Initializing,
    /// Done.
    Ready,
    /// Given up.
    Failed,
    /// Not wanted.
    Skipped,
}

/// State of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StepStatus {
    /// Not begun.
    #[default]
    Pending,
    /// Under way.
    Running,
    /// Done.
    Ready,
    /// Given up.
    Failed,
    /// Not wanted.
    Skipped,
}

/// The ME pool's part of the start.
#[derive(Clone, Debug, PartialEq)]
pub struct MeStartup {
    /// Where it is.
    pub status: StartupStatus,
    /// Step id, or `ready`, `failed`, `skipped`, `background_init`, `fallback_to_direct`.
    pub current_stage: &'static str,
    /// Attempts begun.
    pub init_attempt: u32,
    /// Attempts allowed; `None` is unlimited.
    pub retry_limit: Option<u32>,
    /// Most recent failure, until it succeeds; no secrets.
    pub last_error: Option<String>,
    /// The start is not over before the pool is ready: nothing may bypass it.
    pub holds_start: bool,
    /// When the pool was ready for the first time, unix seconds.
    pub ready_at_epoch_secs: Option<u64>,
    /// What its steps contribute to the whole start, 0 to 52.
    pub weight_done: f64,
    /// All its steps, in their order.
    pub steps: Vec<Step>,
}

impl MeStartup {
    /// No middle proxy wanted.
    #[must_use]
    pub fn skipped() -> Self {
        Self {
            status: StartupStatus::Skipped,
            current_stage: "skipped",
            init_attempt: 0,
            retry_limit: None,
            last_error: None,
            holds_start: false,
            ready_at_epoch_secs: None,
            weight_done: ME_WEIGHT,
            steps: Stage::ALL
                .iter()
                .map(|stage| Step {
                    status: StepStatus::Skipped,
                    ..Step::new(stage.id(), stage.title())
                })
                .collect(),
        }
    }

    /// 0 to 100.
    pub(crate) fn progress_pct(&self) -> f64 {
        self.weight_done() / ME_WEIGHT * 100.0
    }

    fn weight_done(&self) -> f64 {
        self.weight_done.clamp(0.0, ME_WEIGHT)
    }
}

impl Startup {
    /// A start of these steps, `(id, title)`, in their order; none has begun.
    #[must_use]
    pub fn new(steps: &[(&'static str, &'static str)]) -> Self {
        let steps = steps
            .iter()
            .map(|&(id, title)| Step::new(id, title))
            .collect();
        let state = State {
            steps,
            ..State::default()
        };
        Self {
            started_at_epoch_secs: now_epoch_secs(),
            state: Mutex::new(state),
        }
    }

    /// A step begins, once more if it has failed before. Unknown ids are ignored.
    pub fn begin(&self, id: &str) {
        self.change(id, |step| {
            step.status = StepStatus::Running;
            step.attempts = step.attempts.saturating_add(1);
            step.started_at_epoch_ms = Some(now_epoch_ms());
            step.finished_at_epoch_ms = None;
        });
    }

    /// A step ends as `status`; `details` must hold no secret. Unknown ids are ignored.
    pub fn finish(&self, id: &str, status: StepStatus, details: Option<String>) {
        self.change(id, |step| {
            step.status = status;
            step.details = details;
            step.finished_at_epoch_ms = Some(now_epoch_ms());
        });
    }

    /// Clients are served: the start is done. Later calls change nothing.
    pub fn ready(&self) {
        self.lock()
            .ready_at_epoch_secs
            .get_or_insert_with(now_epoch_secs);
    }

    /// Everything at this instant, with the ME pool's part.
    pub(crate) fn view(&self, me: MeStartup) -> StartupView {
        let state = self.lock();
        let ended = state
            .steps
            .iter()
            .filter(|step| step.finished_at_epoch_ms.is_some())
            .count();
        let running = state
            .steps
            .iter()
            .find(|step| step.status == StepStatus::Running);
        let failed = state
            .steps
            .iter()
            .any(|step| step.status == StepStatus::Failed);
        let held = me.holds_start && me.ready_at_epoch_secs.is_none();
        let ready_at_epoch_secs = state.ready_at_epoch_secs.filter(|_| !held).map(|own| {
            own.max(
                me.ready_at_epoch_secs
                    .filter(|_| me.holds_start)
                    .unwrap_or(0),
            )
        });
        let ready = ready_at_epoch_secs.is_some();
        let next = || {
            state
                .steps
                .iter()
                .find(|step| step.status == StepStatus::Pending)
        };
        let given_up = held && me.status == StartupStatus::Failed;
        let status = match (ready, failed || given_up, running.is_some() || ended > 0) {
            (true, _, _) => StartupStatus::Ready,
            (false, true, _) => StartupStatus::Failed,
            (false, false, true) => StartupStatus::Initializing,
            (false, false, false) => StartupStatus::Pending,
        };
        StartupView {
            status,
            degraded: ready && failed,
            stage: match running.or_else(next) {
                Some(step) if !ready => step.id,
                None if held => me.current_stage,
                _ => "ready",
            },
            progress_pct: if ready {
                100.0
            } else {
                // A step that failed counts as over, and may begin again: that is not the end.
                let done = share(ended, state.steps.len()) * (100.0 - ME_WEIGHT);
                (done + me.weight_done()).min(99.0)
            },
            started_at_epoch_secs: self.started_at_epoch_secs,
            ready_at_epoch_secs,
            steps: state.steps.iter().chain(&me.steps).cloned().collect(),
            me,
        }
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Step)) {
        if let Some(step) = self.lock().steps.iter_mut().find(|step| step.id == id) {
            change(step);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy of everything at one instant.
#[derive(Clone, Debug)]
pub(crate) struct StartupView {
    pub(crate) status: StartupStatus,
    pub(crate) degraded: bool,
    pub(crate) stage: &'static str,
    pub(crate) progress_pct: f64,
    pub(crate) started_at_epoch_secs: u64,
    pub(crate) ready_at_epoch_secs: Option<u64>,
    pub(crate) me: MeStartup,
    pub(crate) steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it is called in answers.
    pub id: &'static str,
    /// What it does.
    pub title: &'static str,
    /// Where it is.
    pub status: StepStatus,
    /// When it began last, unix milliseconds.
    pub started_at_epoch_ms: Option<u64>,
    /// When it ended last, unix milliseconds.
    pub finished_at_epoch_ms: Option<u64>,
    /// How often it began.
    pub attempts: u32,
    /// What came of it; no secrets.
    pub details: Option<String>,
}

impl Step {
    /// A step that has not begun.
    #[must_use]
    pub fn new(id: &'static str, title: &'static str) -> Self {
        Self {
            id,
            title,
            status: StepStatus::Pending,
            started_at_epoch_ms: None,
            finished_at_epoch_ms: None,
            attempts: 0,
            details: None,
        }
    }
}

#[derive(Default)]
struct State {
    steps: Vec<Step>,
    ready_at_epoch_secs: Option<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

/// Weight of all of the ME pool's steps together; the others share what is left of 100.
const ME_WEIGHT: f64 = 52.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pct: f64, wanted: f64) {
        assert!((pct - wanted).abs() < 1e-9, "{pct}, expected {wanted}");
    }

    fn starting(holds_start: bool, weight_done: f64) -> MeStartup {
        MeStartup {
            status: StartupStatus::Initializing,
            current_stage: "me_pool_init_stage1",
            holds_start,
            weight_done,
            ..MeStartup::skipped()
        }
    }

    #[test]
    fn stages_follow_the_steps() {
        let startup = Startup::new(&[("config", "Configuration"), ("shards", "Shards")]);
        let view = startup.view(MeStartup::skipped());
        assert_eq!(
            (view.status, view.stage),
            (StartupStatus::Pending, "config")
        );

        startup.begin("config");
        startup.finish("config", StepStatus::Ready, None);
        startup.begin("shards");
        let view = startup.view(MeStartup::skipped());
        assert_eq!(
            (view.status, view.stage),
            (StartupStatus::Initializing, "shards")
        );
        // Steps that are skipped count fully.
        at(view.progress_pct, 76.0);

        startup.finish("shards", StepStatus::Ready, Some("2 shards".to_owned()));
        startup.ready();
        let view = startup.view(MeStartup::skipped());
        assert_eq!((view.status, view.stage), (StartupStatus::Ready, "ready"));
        at(view.progress_pct, 100.0);
        assert!(view.ready_at_epoch_secs.is_some() && !view.degraded);
        let skipped = view.steps.iter().skip(2);
        assert_eq!(skipped.clone().count(), 6);
        assert!(
            skipped
                .clone()
                .all(|step| step.status == StepStatus::Skipped)
        );
    }

    #[test]
    fn failed_step_fails_the_start_until_it_is_ready_anyway() {
        let startup = Startup::new(&[("api", "Control API")]);
        startup.begin("api");
        startup.finish("api", StepStatus::Failed, Some("address in use".to_owned()));
        assert_eq!(
            startup.view(MeStartup::skipped()).status,
            StartupStatus::Failed
        );
        startup.ready();
        let view = startup.view(MeStartup::skipped());
        assert_eq!((view.status, view.degraded), (StartupStatus::Ready, true));
    }

    #[test]
    fn weights_of_the_pools_steps_leave_room_for_the_others() {
        let sum: f64 = Stage::ALL.iter().map(|stage| stage.weight()).sum();
        at(ME_WEIGHT, sum);
        at(starting(false, 13.0).progress_pct(), 25.0);
        at(MeStartup::skipped().progress_pct(), 100.0);
    }

    #[test]
    fn start_that_is_held_waits_for_the_pool() {
        let startup = Startup::new(&[("api", "Control API")]);
        startup.begin("api");
        startup.finish("api", StepStatus::Ready, None);
        startup.ready();
        let view = startup.view(starting(true, 28.0));
        assert_eq!(
            (view.status, view.stage, view.ready_at_epoch_secs),
            (StartupStatus::Initializing, "me_pool_init_stage1", None)
        );
        at(view.progress_pct, 48.0 + 28.0);

        let late = MeStartup {
            ready_at_epoch_secs: Some(u64::MAX),
            ..starting(true, 52.0)
        };
        let view = startup.view(late);
        assert_eq!(
            (view.status, view.ready_at_epoch_secs),
            (StartupStatus::Ready, Some(u64::MAX))
        );
        // Not all is done while it waits.
        at(startup.view(starting(true, 52.0)).progress_pct, 99.0);
        // Where it can be bypassed nobody waits.
        let view = startup.view(starting(false, 0.0));
        assert_eq!((view.status, view.stage), (StartupStatus::Ready, "ready"));
        at(view.progress_pct, 100.0);
    }
}
