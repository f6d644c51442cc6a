//! What the supervisor says of itself: status, events, warnings.

use std::sync::Arc;

use super::super::{
    super::Millis,
    startup::{Stage, StageMove},
    status::{
        FloorStatus, GroupStatus, InitStatus, MeStatus, RefreshStatus, StartupStatus, StepState,
    },
};
use super::{
    MeEvent, Supervisor,
    exchange::MeEventKind,
    health::Topic,
    start::Step,
    view::{View, count},
};
use crate::{
    counters::{MeCounters, PoolCounters},
    settings::MeCounts,
};

impl Supervisor {
    /// All the API asks of the supervisor.
    #[must_use]
    pub fn status(&self, now: Millis) -> MeStatus {
        MeStatus {
            taken_at: now,
            started_unix_ms: self.setup.started_unix_ms,
            shards: self.reports.len(),
            settings: Arc::clone(self.settings()),
            plan: Arc::clone(&self.plan),
            route: self.admission.status(),
            startup: self.startup_status(),
            floor: self.floor_status(),
            groups: self.group_rows(),
            generations: self.reinit.status(),
            gate: self.reinit.gate(),
            families: self.families.status(self.in_use),
            quarantine: self.quarantine.status(now),
            selftest: self.selftest.status(now),
            refresh: RefreshStatus {
                secret_epoch: self.secrets.epoch(),
                map_epoch: self.maps.epoch(),
                map_changed_at: self.map_changed_at,
                secret_changed_at: self.secret_changed_at,
            },
            me: self.me,
            pool: self.pool,
        }
    }

    fn floor_status(&self) -> FloorStatus {
        let caps = &self.groups.caps;
        FloorStatus {
            cores_detected: self.cores_detected(),
            cores: caps.cores,
            cap_raw: caps.raw,
            active_cap_configured: caps.active,
            active_cap: self.groups.cap,
            warm_cap: caps.warm,
            targets_total: self.groups.wanted(),
            spread: self.groups.spread,
        }
    }

    fn group_rows(&self) -> Vec<GroupStatus> {
        let rows = self.groups.rows.iter();
        rows.map(|row| GroupStatus {
            dc: row.dc,
            endpoints: Arc::clone(&row.endpoints),
            required: row.floor.required,
            floor_min: row.floor.min,
            floor_max: row.floor.max,
            target: row.wanted(),
            capped: row.floor.capped,
            outage: self.health.outage(row.dc),
        })
        .collect()
    }

    fn startup_status(&self) -> StartupStatus {
        let admission = &self.settings().admission;
        let begun = self.steps.rows().iter().any(|row| row.attempts > 0);
        let status = match (self.start.ready_at, self.start.failed, begun) {
            (Some(_), _, _) => InitStatus::Ready,
            (None, true, _) => InitStatus::Failed,
            (None, false, true) => InitStatus::Initializing,
            (None, false, false) => InitStatus::Pending,
        };
        // With fallback the process does not wait for what failed once, nor for writers.
        let failed = |stage| self.steps.state(stage) == StepState::Failed;
        let fetches = [
            Stage::SecretFetch,
            Stage::ConfigFetchV4,
            Stage::ConfigFetchV6,
        ];
        let behind = !self.start.waits_for_inputs() || fetches.into_iter().any(failed);
        let current_stage = match status {
            InitStatus::Ready => "ready",
            InitStatus::Failed if admission.fallback => "fallback_to_direct",
            InitStatus::Failed => "failed",
            _ if admission.fallback && behind => "background_init",
            _ => self.steps.current().id(),
        };
        StartupStatus {
            status,
            current_stage,
            init_attempt: self.start.attempt,
            retry_limit: Some(admission.init_attempts).filter(|limit| *limit != 0),
            last_error: self
                .last_error
                .clone()
                .filter(|_| self.start.ready_at.is_none()),
            ready_at: self.start.ready_at,
            steps: self.steps.rows().to_vec(),
            weight_done: self.steps.weight_done(self.stage1_part()),
            weight_total: Stage::ALL.iter().map(|stage| stage.weight()).sum(),
        }
    }

    /// How far stage 1 is, 0 to 1.
    fn stage1_part(&self) -> f64 {
        let rows = &self.groups.rows;
        let view = View::new(&self.reports);
        let served = count(
            rows.iter()
                .filter(|row| view.is_served(row.dc, &row.endpoints)),
        );
        let required: u32 = rows.iter().map(|row| row.floor.required).sum();
        let alive: u32 = rows.iter().map(|row| count(view.active_of(row))).sum();
        let part = |part: u32, whole: u32| f64::from(part.min(whole)) / f64::from(whole.max(1));
        let groups = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        0.7 * part(served, groups) + 0.3 * part(alive, required)
    }

    /// A step of the pool's start, for the list of steps and the log.
    pub(super) fn started(&mut self, step: Step, now: Millis) {
        let (stage, what) = match step {
            Step::Constructed => {
                self.steps
                    .update(Stage::PoolConstruct, StageMove::Started, now);
                self.reinit.start_timer(now);
                (Stage::PoolConstruct, StageMove::Done(None))
            }
            Step::Attempt => {
                self.stun_reset |= self.start.attempt > 1;
                (Stage::PoolInit, StageMove::Started)
            }
            Step::AttemptFailed | Step::GaveUp => {
                let missing: Vec<String> = self.unserved().map(|dc| dc.to_string()).collect();
                let why = format!("no writer for DC {}", missing.join(", "));
                self.last_error = Some(super::super::startup::shorten(why.clone()));
                self.tell(MeEventKind::Warning, format!("startup: {why}"));
                (Stage::PoolInit, StageMove::Failed(why))
            }
            Step::Succeeded => (Stage::PoolInit, StageMove::Done(None)),
        };
        self.steps.update(stage, what, now);
    }

    fn unserved(&self) -> impl Iterator<Item = i16> {
        let view = View::new(&self.reports);
        let rows = self.groups.rows.iter();
        rows.filter(move |row| !view.is_served(row.dc, &row.endpoints))
            .map(|row| row.dc)
    }

    pub(super) fn tell(&mut self, kind: MeEventKind, text: String) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(MeEvent { kind, text });
        }
    }

    /// A warning for the log, not too often about one thing.
    pub(super) fn warn(&mut self, topic: Topic, text: String, now: Millis) {
        let every = self.settings().health.warn_every;
        let quiet = |at: &Millis| at.after(every) > now;
        if self.warned.get(&topic).is_some_and(quiet) {
            return;
        }
        self.warned.retain(|_, at| quiet(at));
        self.warned.insert(topic, now);
        self.tell(MeEventKind::Warning, text);
    }

    /// Counts, unless ME totals stand still.
    pub(super) fn count(&mut self, add: impl FnOnce(&mut MeCounters)) {
        if self.settings().counts == MeCounts::On {
            add(&mut self.me);
        }
    }

    pub(super) fn count_pool(&mut self, add: impl FnOnce(&mut PoolCounters)) {
        if self.settings().counts == MeCounts::On {
            add(&mut self.pool);
        }
    }
}

/// Between two calls of `take_events`; more are dropped.
const EVENTS_MAX: usize = 1024;
