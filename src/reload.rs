//! Reloads that the control API was asked for, and what became of the last ones.
//!
//! Each has a thread of its own while it lasts, and there is one at a time. What a configuration
//! does is `live.rs`'s. Source: control-api.md 16.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use admin::{
    FailurePolicy, ReloadAccepted, ReloadMode, ReloadRequest, ReloadState, ReloadStatus, Revision,
    StoreError,
};

use crate::{
    config::Loaded,
    live::{Cause, Live},
};

/// The last reloads.
#[derive(Default)]
pub(crate) struct Reloads(Mutex<Jobs>);

#[derive(Default)]
struct Jobs {
    last_id: u64,
    /// Ascending by id; only the last one may still go on.
    all: VecDeque<ReloadStatus>,
}

impl Reloads {
    /// Whether a reload may begin now.
    ///
    /// # Errors
    /// [`StoreError::ReloadInProgress`].
    pub(crate) fn may_begin(&self) -> Result<(), StoreError> {
        match self.lock().all.back() {
            Some(last) if !last.state.is_final() => Err(StoreError::ReloadInProgress),
            _ => Ok(()),
        }
    }

    /// How far a reload is; `None` for one that never was or is forgotten.
    pub(crate) fn status(&self, id: u64) -> Option<ReloadStatus> {
        let jobs = self.lock();
        jobs.all.iter().find(|job| job.reload_id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(
        &self,
        request: ReloadRequest,
        revision: &str,
        target_generation: u64,
    ) -> Result<ReloadAccepted, StoreError> {
        let mut jobs = self.lock();
        if jobs.all.back().is_some_and(|last| !last.state.is_final()) {
            return Err(StoreError::ReloadInProgress);
        }
        jobs.last_id += 1;
        let ReloadRequest {
            mode,
            failure_policy,
        } = request;
        let accepted = ReloadAccepted {
            reload_id: jobs.last_id,
            target_generation,
            config_revision: Revision(revision.to_owned()),
            mode,
            failure_policy,
        };
        if jobs.all.len() >= KEPT {
            jobs.all.pop_front();
        }
        jobs.all.push_back(ReloadStatus {
            reload_id: accepted.reload_id,
            target_generation,
            config_revision: accepted.config_revision.clone(),
            state: ReloadState::Accepted,
            mode,
            failure_policy,
            requested_at_epoch_secs: now(),
            started_at_epoch_secs: None,
            finished_at_epoch_secs: None,
            deferred_process_fields: Vec::new(),
            warnings: Vec::new(),
            error: None,
        });
        Ok(accepted)
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut ReloadStatus)) {
        let mut jobs = self.lock();
        if let Some(job) = jobs.all.iter_mut().find(|job| job.reload_id == id) {
            change(job);
        }
    }
}

/// Begins to put a configuration in force and returns at once.
///
/// # Errors
/// [`StoreError::ReloadInProgress`]; [`StoreError::ReloadUnavailable`] when there is no thread to
/// be had.
pub(crate) fn begin(
    live: &Arc<Live>,
    request: ReloadRequest,
    loaded: Loaded,
) -> Result<ReloadAccepted, StoreError> {
    let generation = live.next_generation();
    let accepted = live.reloads.add(request, &loaded.revision, generation)?;
    let id = accepted.reload_id;
    let job = Job {
        live: Arc::clone(live),
        id,
        request,
    };
    let spawned = thread::Builder::new()
        .name("reload".to_owned())
        .spawn(move || job.run(loaded));
    match spawned {
        Ok(_) => Ok(accepted),
        Err(_) => {
            live.reloads.lock().all.retain(|job| job.reload_id != id);
            Err(StoreError::ReloadUnavailable)
        }
    }
}

struct Job {
    live: Arc<Live>,
    id: u64,
    request: ReloadRequest,
}

impl Job {
    fn run(self, loaded: Loaded) {
        self.change(|job| {
            job.state = ReloadState::Preparing;
            job.started_at_epoch_secs = Some(now());
            let warnings = loaded.warnings.iter().take(WARNINGS_MAX);
            job.warnings = warnings.map(ToString::to_string).collect();
        });
        if !self.activate(loaded) {
            return;
        }
        if let ReloadMode::Drain { timeout_secs } = self.request.mode
            && !self.drain(Duration::from_secs(timeout_secs))
        {
            let error = "a shard is late to end the sessions of removed users";
            return self.end(ReloadState::Failed, Some(error));
        }
        self.end(ReloadState::Succeeded, None);
    }

    /// Puts the configuration in force; false when that was the end of it.
    fn activate(&self, loaded: Loaded) -> bool {
        self.change(|job| job.state = ReloadState::Activating);
        let mut state = self.live.state();
        let earlier = state.clone();
        let keep = matches!(self.request.mode, ReloadMode::Drain { .. });
        let applied = self.live.put(&mut state, loaded, Cause::Reload, keep);
        self.change(|job| job.deferred_process_fields = applied.changes.restart);
        if applied.complete {
            return true;
        }
        let late = "a shard has not taken the configuration over within its time";
        match self.request.failure_policy {
            FailurePolicy::KeepNew => self.end(ReloadState::Failed, Some(late)),
            FailurePolicy::Rollback => {
                // A shard that is late gets both, in this order.
                let _ = self.live.put_back(&mut state, earlier);
                self.change(|job| job.deferred_process_fields.clear());
                self.end(ReloadState::RolledBack, Some(late));
                tracing::error!("configuration taken back: {late}");
            }
        }
        false
    }

    /// Lets sessions of removed and disabled users go on until the limit.
    fn drain(&self, limit: Duration) -> bool {
        self.change(|job| job.state = ReloadState::Draining);
        let until = Instant::now() + limit;
        while self.live.removed_sessions() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(PAUSE));
        }
        self.live.end_removed()
    }

    fn end(&self, state: ReloadState, error: Option<&str>) {
        self.change(|job| {
            job.state = state;
            job.finished_at_epoch_secs = Some(now());
            job.error = error.map(str::to_owned);
        });
    }

    fn change(&self, change: impl FnOnce(&mut ReloadStatus)) {
        self.live.reloads.change(self.id, change);
    }
}

impl Drop for Job {
    /// A job that panicked must not keep all others waiting.
    fn drop(&mut self) {
        self.change(|job| {
            if !job.state.is_final() {
                job.state = ReloadState::Failed;
                job.finished_at_epoch_secs = Some(now());
                job.error = Some("the reload broke off".to_owned());
            }
        });
    }
}

fn now() -> u64 {
    jiff::Timestamp::now().as_second().unsigned_abs()
}

/// Reloads remembered.
const KEPT: usize = 32;
/// Findings of the file in a status.
const WARNINGS_MAX: usize = 32;
/// Pause between looks at sessions that may go on.
const PAUSE: Duration = Duration::from_millis(50);
