//! The log: one line per record, at the level the operator chose.
//!
//! `RUST_LOG` wins over everything, then the command line, then `general.log_level`. Where the
//! lines go is `log_output.rs`'s.

use std::fmt;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::{config::general::LogLevel, log_output::Output};

/// The running log.
pub(crate) struct Log {
    /// Absent while `RUST_LOG` decides.
    set: Option<Box<dyn Fn(LogLevel) + Send + Sync>>,
}

impl Log {
    /// A log nobody can change.
    #[cfg(test)]
    pub(crate) fn fixed() -> Self {
        Self { set: None }
    }

    /// Logs at another level from now on, unless `RUST_LOG` decides.
    pub(crate) fn set_level(&self, level: LogLevel) {
        if let Some(set) = &self.set {
            set(level);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fixed = self.set.is_none();
        f.debug_struct("Log").field("fixed", &fixed).finish()
    }
}

/// Starts the log; the guard it returns must live as long as the process. A second call has no
/// effect.
pub(crate) fn start(level: LogLevel, colors: bool, output: Output) -> (Log, Option<WorkerGuard>) {
    let named = std::env::var("RUST_LOG").ok();
    let named = named.filter(|text| !text.trim().is_empty());
    let now = EnvFilter::new(named.as_deref().unwrap_or(filter(level)));
    let (now, handle) = reload::Layer::new(now);
    let colors = colors && output.is_terminal;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(output.writer)
        .with_ansi(colors)
        .with_target(false);
    let lines = if output.has_clock {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    // Fails only when a log is already running, in tests for instance.
    let _ = tracing_subscriber::registry()
        .with(lines)
        .with(now)
        .try_init();
    let set = move |level| {
        // Fails only when the log has ended, and it lasts as long as the process.
        let _ = handle.reload(EnvFilter::new(filter(level)));
    };
    let log = Log {
        set: named.is_none().then(|| Box::new(set) as _),
    };
    (log, output.guard)
}

/// The filter of a level, in the log's own language.
fn filter(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "trace",
        LogLevel::Verbose => "debug",
        LogLevel::Normal => "info",
        LogLevel::Silent => "error",
    }
}

/// A level as the command line takes it; what it does not know counts as normal, as panels expect.
pub(crate) fn level(text: &str) -> LogLevel {
    match text.to_ascii_lowercase().as_str() {
        "debug" | "trace" => LogLevel::Debug,
        "verbose" => LogLevel::Verbose,
        "silent" | "quiet" | "warn" | "error" => LogLevel::Silent,
        _ => LogLevel::Normal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_words_of_other_programs() {
        for (text, want) in [
            ("TRACE", LogLevel::Debug),
            ("verbose", LogLevel::Verbose),
            ("info", LogLevel::Normal),
            ("whatever", LogLevel::Normal),
            ("warn", LogLevel::Silent),
        ] {
            assert_eq!(level(text), want, "{text}");
        }
    }
}
