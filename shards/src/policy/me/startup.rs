//! The steps of the start and their progress; the supervisor runs those of the pool, whoever
//! fetches reports the others.
//!
//! Here is the bookkeeping; what the steps do is the supervisor's.
//!
//! Source: middle-proxy.md 12 and 26.11.

use super::super::Millis;
use super::status::{StepState, StepStatus};

/// A step of the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Download of the proxy secret, or its cached file.
    SecretFetch,
    /// Download of the IPv4 map, or its cached file.
    ConfigFetchV4,
    /// Download of the IPv6 map, or its cached file.
    ConfigFetchV6,
    /// The first plan.
    PoolConstruct,
    /// The first writers of every group.
    PoolInit,
    /// One dial per endpoint for the log; not done here, and skipped.
    ConnectivityPing,
}

/// What became of a step that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageMove {
    /// It begins (again).
    Started,
    /// It is done; a word on how ("cached file, 3 h old"), if any.
    Done(Option<String>),
    /// It failed and will be tried again; why.
    Failed(String),
    /// It is not needed; why.
    Skipped(String),
}

impl Stage {
    /// Every step in its order.
    pub const ALL: [Self; 6] = [
        Self::SecretFetch,
        Self::ConfigFetchV4,
        Self::ConfigFetchV6,
        Self::PoolConstruct,
        Self::PoolInit,
        Self::ConnectivityPing,
    ];

    /// `components[].id`.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::SecretFetch => "me_secret_fetch",
            Self::ConfigFetchV4 => "me_proxy_config_fetch_v4",
            Self::ConfigFetchV6 => "me_proxy_config_fetch_v6",
            Self::PoolConstruct => "me_pool_construct",
            Self::PoolInit => "me_pool_init_stage1",
            Self::ConnectivityPing => "me_connectivity_ping",
        }
    }

    /// `components[].title`.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::SecretFetch => "Fetch the proxy secret",
            Self::ConfigFetchV4 => "Fetch the IPv4 map of middle proxies",
            Self::ConfigFetchV6 => "Fetch the IPv6 map of middle proxies",
            Self::PoolConstruct => "Plan the pool of writers",
            Self::PoolInit => "Open the first writers",
            Self::ConnectivityPing => "Dial every middle proxy once",
        }
    }

    /// Points in `startup_progress_pct`.
    #[must_use]
    pub const fn weight(self) -> f64 {
        match self {
            Self::SecretFetch => 8.0,
            Self::ConfigFetchV4 | Self::ConfigFetchV6 => 4.0,
            Self::PoolConstruct | Self::ConnectivityPing => 6.0,
            Self::PoolInit => 24.0,
        }
    }
}

/// The steps as they stand.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    rows: [StepStatus; 6],
}

impl Steps {
    /// None begun; the one that nobody does is skipped.
    pub(crate) fn new(now: Millis) -> Self {
        let row = |stage| StepStatus {
            stage,
            state: StepState::Pending,
            started_at: None,
            finished_at: None,
            attempts: 0,
            details: None,
        };
        let mut steps = Self {
            rows: Stage::ALL.map(row),
        };
        let why = "writers are opened at once, which tells as much".to_owned();
        steps.update(Stage::ConnectivityPing, StageMove::Skipped(why), now);
        steps
    }

    /// What a step has come to.
    pub(crate) fn update(&mut self, stage: Stage, what: StageMove, now: Millis) {
        let Some(row) = self.rows.iter_mut().find(|row| row.stage == stage) else {
            return;
        };
        let (state, details) = match what {
            StageMove::Started => {
                row.state = StepState::Running;
                row.attempts = row.attempts.saturating_add(1);
                row.started_at = Some(now);
                row.finished_at = None;
                return;
            }
            StageMove::Done(how) => (StepState::Ready, how),
            StageMove::Failed(why) => (StepState::Failed, Some(why)),
            StageMove::Skipped(why) => (StepState::Skipped, Some(why)),
        };
        row.state = state;
        row.finished_at = Some(now);
        row.details = details.map(shorten);
    }

    /// How a step stands.
    pub(crate) fn state(&self, stage: Stage) -> StepState {
        let row = self.rows.iter().find(|row| row.stage == stage);
        row.map(|row| row.state).unwrap_or_default()
    }

    /// The first step that is not over.
    pub(crate) fn current(&self) -> Stage {
        let open = self.rows.iter().find(|row| {
            matches!(
                row.state,
                StepState::Pending | StepState::Running | StepState::Failed
            )
        });
        open.map_or(Stage::PoolInit, |row| row.stage)
    }

    /// All of them.
    pub(crate) fn rows(&self) -> &[StepStatus] {
        &self.rows
    }

    /// Points done; `running` is the part of stage 1, 0 to 1, while it runs.
    ///
    /// A step that is over counts fully, whatever it came to.
    pub(crate) fn weight_done(&self, running: f64) -> f64 {
        let points = self.rows.iter().map(|row| match (row.state, row.stage) {
            (StepState::Ready | StepState::Failed | StepState::Skipped, stage) => stage.weight(),
            (StepState::Running, Stage::PoolInit) => Stage::PoolInit.weight() * running,
            (StepState::Pending | StepState::Running, _) => 0.0,
        });
        points.sum()
    }
}

/// Cuts a detail to what the API shows, between characters.
pub(crate) fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(DETAIL_BYTES_MAX));
    text
}

const DETAIL_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up() {
        let mut steps = Steps::new(Millis(0));
        assert!((steps.weight_done(0.0) - 6.0).abs() < 1e-9);
        assert_eq!(steps.current(), Stage::SecretFetch);
        steps.update(Stage::SecretFetch, StageMove::Started, Millis(1));
        assert_eq!(steps.state(Stage::SecretFetch), StepState::Running);
        steps.update(
            Stage::SecretFetch,
            StageMove::Failed("x".repeat(300)),
            Millis(2),
        );
        assert_eq!(steps.rows()[0].details.as_ref().map(String::len), Some(256));
        assert_eq!(
            steps.current(),
            Stage::SecretFetch,
            "it will be tried again"
        );
        steps.update(Stage::SecretFetch, StageMove::Started, Millis(3));
        steps.update(Stage::SecretFetch, StageMove::Done(None), Millis(4));
        let row = &steps.rows()[0];
        assert_eq!((row.attempts, row.details.as_ref()), (2, None));
        assert_eq!(
            (row.started_at, row.finished_at),
            (Some(Millis(3)), Some(Millis(4)))
        );
        for stage in [Stage::ConfigFetchV4, Stage::PoolConstruct] {
            steps.update(stage, StageMove::Done(None), Millis(5));
        }
        steps.update(
            Stage::ConfigFetchV6,
            StageMove::Skipped("off".into()),
            Millis(5),
        );
        steps.update(Stage::PoolInit, StageMove::Started, Millis(6));
        assert_eq!(steps.current(), Stage::PoolInit);
        assert!((steps.weight_done(0.5) - 40.0).abs() < 1e-9);
        steps.update(Stage::PoolInit, StageMove::Done(None), Millis(7));
        assert!((steps.weight_done(0.0) - 52.0).abs() < 1e-9);
    }
}
