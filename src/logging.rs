//! The log: standard error, one line per record, at the level the operator chose.
//!
//! `RUST_LOG` wins over everything, then the command line, then `general.log_level`. Destinations
//! other than standard error are not built yet.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::general::LogLevel;

/// Starts the log. A second call has no effect.
pub(crate) fn start(level: LogLevel, colors: bool) {
    let filter = match std::env::var("RUST_LOG") {
        Ok(text) if !text.trim().is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(filter(level)),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colors && std::io::stderr().is_terminal())
        .with_target(false);
    // Fails only when a log is already running, in tests for instance.
    let _ = subscriber.try_init();
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
