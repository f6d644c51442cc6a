//! What an operator is told of a reload: one line in the log, one event, links of new users.
//!
//! Keys are named, values never. Source: config.md 11 and 15.10.

use std::path::Path;

use admin::Events;

use super::Cause;
use crate::{
    config::{Failed, Loaded, changes::Changes},
    report,
};

/// Tells of one reload.
pub(super) struct Account<'a> {
    path: &'a Path,
    cause: Cause,
    events: &'a Events,
}

impl<'a> Account<'a> {
    /// Of the main file at `path`.
    pub(super) fn new(path: &'a Path, cause: Cause, events: &'a Events) -> Self {
        Self {
            path,
            cause,
            events,
        }
    }

    /// The text is the one in force.
    pub(super) fn unchanged(&self) {
        let (path, cause) = (self.path.display(), self.cause.name());
        tracing::info!("configuration reloaded ({cause}): {path} has not changed");
    }

    /// A configuration is in force.
    pub(super) fn applied(&self, loaded: &Loaded, changes: &Changes, complete: bool) {
        let (text, cause) = (summary(changes), self.cause.name());
        if complete {
            tracing::info!("configuration reloaded ({cause}): {text}");
        } else {
            tracing::warn!(
                "configuration reloaded ({cause}): {text}; a shard is late and takes it over as \
                 soon as it can"
            );
        }
        self.events
            .record("config.reload.applied", &format!("{cause}: {text}"));
        // Who changes users through the API has read the warnings of the file before.
        if self.cause != Cause::Api {
            report::warn(loaded);
        }
    }

    /// A file cannot be used.
    pub(super) fn failed(&self, failed: &Failed) {
        let (path, cause) = (self.path.display(), self.cause.name());
        let count = match failed.errors.len() {
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        // All on one line, so that nobody reads half of it.
        let errors: Vec<String> = failed.errors.iter().map(ToString::to_string).collect();
        tracing::error!(
            "configuration not reloaded ({cause}), the old one stays in force; {count} in \
             {path}: {}",
            errors.join("; ")
        );
        let first = errors.first().map_or("", String::as_str);
        self.events
            .record("config.reload.failed", &format!("{cause}: {first}"));
    }
}

impl Cause {
    /// As in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Api => "control API",
            Self::File => "file changed",
            Self::Signal => "signal",
            Self::Reload => "reload asked for",
        }
    }
}

/// "applied a, b; waiting for a restart: c".
fn summary(changes: &Changes) -> String {
    let mut parts = Vec::new();
    if changes.hot.is_empty() {
        parts.push("nothing to apply".to_owned());
    } else {
        parts.push(format!("applied {}", changes.hot.join(", ")));
    }
    if !changes.restart.is_empty() {
        let keys = changes.restart.join(", ");
        parts.push(format!("waiting for a restart: {keys}"));
    }
    if !changes.idle.is_empty() {
        let keys = changes.idle.join(", ");
        parts.push(format!("without effect in this version: {keys}"));
    }
    parts.join("; ")
}
