//! The start of the pool: first writers, the rest, then the health tick's business.
//!
//! ```text
//!   Inputs --secret and map--> First --all groups served--> Rest --all shards done--> Steady
//!                                |  ^
//!                                v  | 2 s
//!                              Between --attempts used up--> Steady (failed)
//! ```
//!
//! With fallback the health tick works beside it after the first attempt, so that one dead group
//! does not keep the others at one writer; later attempts then only watch [ours].
//!
//! Source: middle-proxy.md 12.

use std::time::Duration;

use super::super::{super::Millis, plan::Fill};
use crate::settings::AdmissionSettings;

/// Where the start is.
#[derive(Clone, Debug)]
pub(super) struct Start {
    phase: Phase,
    /// Attempts of stage 1 begun.
    pub(super) attempt: u32,
    /// Stage 1 was given up.
    pub(super) failed: bool,
    /// When stage 1 succeeded.
    pub(super) ready_at: Option<Millis>,
    /// Rounds of filling begun.
    pub(super) round: u64,
    /// Serial of the first plan of this round; `None` before it was made.
    pub(super) round_plan: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Inputs,
    First { until: Millis },
    Between { until: Millis },
    Rest { until: Millis },
    Steady,
}

/// What the rest of the supervisor tells the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// There are a secret and at least one group.
    pub(super) inputs: bool,
    /// Every group has a writer.
    pub(super) served: bool,
    /// All shards say that this round's dials are over.
    pub(super) over: bool,
}

/// What has to be told others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The first plan is made.
    Constructed,
    /// An attempt of stage 1 begins; STUN is to be reset if it is not the first.
    Attempt,
    /// It failed; another will follow.
    AttemptFailed,
    /// It failed; none will follow.
    GaveUp,
    /// It succeeded.
    Succeeded,
}

impl Start {
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Inputs,
            attempt: 0,
            failed: false,
            ready_at: None,
            round: 0,
            round_plan: None,
        }
    }

    /// Goes one step if one is due; call until there is none.
    pub(super) fn step(
        &mut self,
        facts: Facts,
        settings: &AdmissionSettings,
        now: Millis,
    ) -> Option<Step> {
        match self.phase {
            Phase::Inputs if facts.inputs => {
                self.phase = Phase::Between { until: now };
                Some(Step::Constructed)
            }
            Phase::Between { .. } if self.attempt > 0 && facts.served => Some(self.succeed(now)),
            Phase::Between { until } if until <= now => {
                self.attempt = self.attempt.saturating_add(1);
                let limit = match self.watches(settings) {
                    true => WATCHED,
                    false => ATTEMPT_MAX,
                };
                self.phase = Phase::First {
                    until: now.after(limit),
                };
                self.begin_round();
                Some(Step::Attempt)
            }
            Phase::First { until } => {
                let watches = self.watches(settings);
                let over = until <= now || (!watches && facts.over);
                match (facts.served && (over || watches), over) {
                    (true, _) => Some(self.succeed(now)),
                    (false, false) => None,
                    (false, true) => Some(self.fail(settings, now)),
                }
            }
            Phase::Rest { until } => {
                if facts.over || until <= now {
                    self.phase = Phase::Steady;
                }
                None
            }
            Phase::Steady if self.failed && facts.served => {
                self.failed = false;
                self.ready_at = Some(now);
                Some(Step::Succeeded)
            }
            Phase::Inputs | Phase::Between { .. } | Phase::Steady => None,
        }
    }

    /// How shards fill their shares.
    pub(super) fn fill(&self, settings: &AdmissionSettings) -> Fill {
        match self.phase {
            Phase::Inputs => Fill::Not,
            Phase::First { .. } | Phase::Between { .. } if self.watches(settings) => Fill::Steady,
            Phase::Between { .. } => Fill::Not,
            Phase::First { .. } => Fill::First,
            Phase::Rest { .. } => Fill::Rest,
            Phase::Steady => Fill::Steady,
        }
    }

    /// The health tick runs: after stage 1 or, with fallback, after its first attempt.
    pub(super) fn ticks(&self, settings: &AdmissionSettings) -> bool {
        match self.phase {
            Phase::Inputs => false,
            Phase::First { .. } | Phase::Between { .. } => self.watches(settings),
            Phase::Rest { .. } | Phase::Steady => true,
        }
    }

    /// Stage 1 is not over.
    pub(super) fn is_underway(&self) -> bool {
        matches!(
            self.phase,
            Phase::Inputs | Phase::First { .. } | Phase::Between { .. }
        )
    }

    /// Waiting for secret and map.
    pub(super) fn waits_for_inputs(&self) -> bool {
        self.phase == Phase::Inputs
    }

    /// When the phase is over at the latest.
    pub(super) fn deadline(&self) -> Option<Millis> {
        match self.phase {
            Phase::First { until } | Phase::Between { until } | Phase::Rest { until } => {
                Some(until)
            }
            Phase::Inputs | Phase::Steady => None,
        }
    }

    fn watches(&self, settings: &AdmissionSettings) -> bool {
        let first = match self.phase {
            Phase::Between { .. } => 0,
            Phase::Inputs | Phase::First { .. } | Phase::Rest { .. } | Phase::Steady => 1,
        };
        settings.fallback && self.attempt > first
    }

    fn begin_round(&mut self) {
        self.round += 1;
        self.round_plan = None;
    }

    fn succeed(&mut self, now: Millis) -> Step {
        self.phase = Phase::Rest {
            until: now.after(REST_MAX),
        };
        self.begin_round();
        self.ready_at = Some(now);
        Step::Succeeded
    }

    fn fail(&mut self, settings: &AdmissionSettings, now: Millis) -> Step {
        if settings.init_attempts != 0 && self.attempt >= settings.init_attempts {
            self.phase = Phase::Steady;
            self.failed = true;
            return Step::GaveUp;
        }
        self.phase = Phase::Between {
            until: now.after(PAUSE),
        };
        Step::AttemptFailed
    }
}

/// Between attempts.
const PAUSE: Duration = Duration::from_secs(2);
/// An attempt in which some shard does not say that it is over: two slow dials.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);
/// An attempt that only watches the health tick.
const WATCHED: Duration = Duration::from_secs(10);
/// The rest, then the health tick takes over.
const REST_MAX: Duration = Duration::from_secs(120);
