//! `[logging]`: destination and retention of log files.

use super::{keys::keys, kinds::Filled, value::choices};

keys! {
    /// `[logging]`.
    Logging in "logging" {
        /// Selects where log records go; command-line logging flags win over it.
        destination: LogDestination = LogDestination::Stderr; Restart, Now
        /// Names the log file, or the file-name prefix when time rotation is on.
        path: Option<Filled> = None; Restart, Now
        /// Sets how often a new log file is started.
        rotation: LogRotation = LogRotation::Never; Restart, Now
        /// Starts a new log file before the active one would exceed this size.
        max_size_bytes: u64 = 0; Restart, Now
        /// Limits how many log files are kept, counting the active one.
        max_files: usize = 0; Restart, Now
        /// Deletes rotated log files older than this many seconds.
        max_age_secs: u64 = 0; Restart, Now
    }
}

choices! {
    /// Where log records go.
    LogDestination {
        /// Standard error.
        Stderr = "stderr",
        /// The system log.
        Syslog = "syslog",
        /// A file.
        File = "file",
    }
}

choices! {
    /// How often a new log file starts.
    LogRotation {
        /// Never.
        Never = "never",
        /// Every minute.
        Minutely = "minutely",
        /// Every hour.
        Hourly = "hourly",
        /// Every day.
        Daily = "daily",
        /// Every week.
        Weekly = "weekly",
    }
}
