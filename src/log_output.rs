//! Where the log goes: standard error, a file with or without rotation, or the system log.
//!
//! Files are written by a thread of their own, so that a slow disk holds up no shard; when it lags
//! far behind, records are dropped rather than waited for. What is logged is `logging.rs`'s, which
//! files there are `log_files.rs`'s.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

use syslog_tracing::{Facility, Options, Syslog};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::{
    config::logging::{LogDestination, LogRotation},
    log_files::{self, Plan},
};

/// What the file and the command line ask for together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Kind.
    pub(crate) kind: LogDestination,
    /// The file, or the prefix of files with rotation; absolute.
    pub(crate) path: Option<PathBuf>,
    /// How often a new file starts.
    pub(crate) rotation: LogRotation,
    /// Bytes of one file; 0 is no limit.
    pub(crate) bytes_max: u64,
    /// Files kept, the active one included; 0 keeps all.
    pub(crate) files_max: usize,
    /// Seconds since a file that is not active was last written; 0 keeps all.
    pub(crate) age_secs_max: u64,
}

/// An open destination.
pub(crate) struct Output {
    /// Takes records.
    pub(crate) writer: BoxMakeWriter,
    /// Colours may be of use.
    pub(crate) is_terminal: bool,
    /// The destination adds the time itself.
    pub(crate) has_clock: bool,
    /// Writes what is left when it is dropped.
    pub(crate) guard: Option<WorkerGuard>,
}

/// Why a destination cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// `destination = "file"` without a usable path.
    #[error("logging.path is needed for logging.destination = \"file\"")]
    NoPath,
    /// The file cannot be created or written.
    #[error("cannot log to {path}: {error}; see that its directory exists and may be written")]
    File {
        /// The path.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Something else in this process has the system log already.
    #[error("the system log is in use already")]
    Syslog,
}

/// Opens a destination.
///
/// # Errors
/// [`OutputError`].
pub(crate) fn open(destination: &Destination) -> Result<Output, OutputError> {
    match destination.kind {
        LogDestination::Stderr => Ok(Output {
            writer: BoxMakeWriter::new(std::io::stderr),
            is_terminal: std::io::stderr().is_terminal(),
            has_clock: false,
            guard: None,
        }),
        LogDestination::Syslog => {
            let syslog = Syslog::new(c"pinnace", Options::LOG_PID, Facility::Daemon);
            Ok(Output {
                writer: BoxMakeWriter::new(syslog.ok_or(OutputError::Syslog)?),
                is_terminal: false,
                has_clock: true,
                guard: None,
            })
        }
        LogDestination::File => {
            let path = destination.path.as_deref().ok_or(OutputError::NoPath)?;
            let (writer, guard) = file(path, destination)?;
            Ok(Output {
                writer: BoxMakeWriter::new(writer),
                is_terminal: false,
                has_clock: false,
                guard: Some(guard),
            })
        }
    }
}

fn file(path: &Path, destination: &Destination) -> Result<(NonBlocking, WorkerGuard), OutputError> {
    // Files of a period are new ones at any rate, beside whatever is at the path.
    let real = match destination.rotation {
        LogRotation::Never => log_files::behind_links(path),
        _ => path.to_owned(),
    };
    let name = real.file_name().ok_or(OutputError::NoPath)?;
    let directory = real.parent().unwrap_or(Path::new("."));
    let plan = Plan {
        dir: directory.to_owned(),
        prefix: name.to_string_lossy().into_owned(),
        rotation: destination.rotation,
        bytes_max: destination.bytes_max,
        files_max: destination.files_max,
        age_max: Duration::from_secs(destination.age_secs_max),
    };
    let lines = log_files::open(plan).map_err(|error| OutputError::File {
        path: path.display().to_string(),
        error,
    })?;
    Ok(tracing_appender::non_blocking(lines))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use tracing_subscriber::fmt::MakeWriter as _;

    use super::*;

    fn to_file(path: &Path, rotation: LogRotation) -> Destination {
        Destination {
            kind: LogDestination::File,
            path: Some(path.to_owned()),
            rotation,
            bytes_max: 0,
            files_max: 2,
            age_secs_max: 0,
        }
    }

    #[test]
    fn file_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/own.log");
        for line in ["one\n", "two\n"] {
            let output = open(&to_file(&path, LogRotation::Never)).unwrap();
            let mut writer = output.writer.make_writer();
            writer.write_all(line.as_bytes()).unwrap();
            drop(writer);
            drop(output);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn rotated_files_have_the_path_as_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own.log");
        drop(open(&to_file(&path, LogRotation::Daily)).unwrap());
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(
            matches!(&names[..], [one] if one.starts_with("own.log.2")),
            "{names:?}"
        );
    }

    #[test]
    fn directory_that_cannot_be_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().join("own.log");
        let Err(error) = open(&to_file(&path, LogRotation::Never)) else {
            panic!("a file is no directory");
        };
        assert!(error.to_string().contains("own.log"), "{error}");
    }
}
