//! The log: one line per record, at the level the operator chose.
//!
//! `RUST_LOG` wins over everything, then the command line, then `general.log_level`. Where the
//! lines go is `log_output.rs`'s.

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{config::general::LogLevel, log_output::Output};

/// Starts the log; what it returns must live as long as the process. A second call has no effect.
pub(crate) fn start(level: LogLevel, colors: bool, output: Output) -> Option<WorkerGuard> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(filter(level)),
    };
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
        .with(filter)
        .try_init();
    output.guard
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
