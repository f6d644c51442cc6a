//! [`Startup`]: how far the start has come, step by step.
//!
//! The binary reports steps; `runtime/initialization` and `runtime/gates` show them.

use std::sync::{Mutex, PoisonError};

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
    /// Step id, or `ready`, `failed`, `skipped`, `background_init`.
    pub current_stage: &'static str,
    /// 0 to 100.
    pub progress_pct: f64,
    /// Attempts begun.
    pub init_attempt: u32,
    /// Attempts allowed; `None` is unlimited.
    pub retry_limit: Option<u32>,
    /// Most recent failure.
    pub last_error: Option<String>,
}

impl MeStartup {
    /// No middle proxy wanted.
    #[must_use]
    pub fn skipped() -> Self {
        Self {
            status: StartupStatus::Skipped,
            current_stage: "skipped",
            progress_pct: 100.0,
            init_attempt: 0,
            retry_limit: None,
            last_error: None,
        }
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

    /// The ME pool's part; skipped until this is called.
    pub fn set_me(&self, me: MeStartup) {
        self.lock().me = Some(me);
    }

    /// Everything at this instant.
    pub(crate) fn view(&self) -> StartupView {
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
        let ready = state.ready_at_epoch_secs.is_some();
        let next = || {
            state
                .steps
                .iter()
                .find(|step| step.status == StepStatus::Pending)
        };
        let status = match (ready, failed, running.is_some() || ended > 0) {
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
                _ => "ready",
            },
            progress_pct: if ready {
                100.0
            } else {
                percent(ended, state.steps.len())
            },
            started_at_epoch_secs: self.started_at_epoch_secs,
            ready_at_epoch_secs: state.ready_at_epoch_secs,
            me: state.me.clone().unwrap_or_else(MeStartup::skipped),
            steps: state.steps.clone(),
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
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) status: StepStatus,
    pub(crate) started_at_epoch_ms: Option<u64>,
    pub(crate) finished_at_epoch_ms: Option<u64>,
    pub(crate) attempts: u32,
    pub(crate) details: Option<String>,
}

impl Step {
    fn new(id: &'static str, title: &'static str) -> Self {
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
    me: Option<MeStartup>,
    ready_at_epoch_secs: Option<u64>,
}

#[expect(clippy::cast_precision_loss, reason = "a handful of steps")]
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_follow_the_steps() {
        let startup = Startup::new(&[("config", "Configuration"), ("shards", "Shards")]);
        let view = startup.view();
        assert_eq!(
            (view.status, view.stage),
            (StartupStatus::Pending, "config")
        );

        startup.begin("config");
        startup.finish("config", StepStatus::Ready, None);
        startup.begin("shards");
        let view = startup.view();
        assert_eq!(
            (view.status, view.stage),
            (StartupStatus::Initializing, "shards")
        );
        assert!((view.progress_pct - 50.0).abs() < f64::EPSILON);

        startup.finish("shards", StepStatus::Ready, Some("2 shards".to_owned()));
        startup.ready();
        let view = startup.view();
        assert_eq!((view.status, view.stage), (StartupStatus::Ready, "ready"));
        assert!((view.progress_pct - 100.0).abs() < f64::EPSILON);
        assert!(view.ready_at_epoch_secs.is_some() && !view.degraded);
    }

    #[test]
    fn failed_step_fails_the_start_until_it_is_ready_anyway() {
        let startup = Startup::new(&[("api", "Control API")]);
        startup.begin("api");
        startup.finish("api", StepStatus::Failed, Some("address in use".to_owned()));
        assert_eq!(startup.view().status, StartupStatus::Failed);
        startup.ready();
        let view = startup.view();
        assert_eq!((view.status, view.degraded), (StartupStatus::Ready, true));
    }
}
