//! The command line: subcommands, flags, exit codes, and which file is meant.
//!
//! Flags that other proxies of this format have are accepted where they make sense, because panels
//! and unit files pass them; the others are refused with a sentence. Source: config.md 2 and 10.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    config::{
        logging::{LogDestination, LogRotation, Logging},
        shards::CoreList,
    },
    log_output::Destination,
    wiring::Overrides,
};

/// Why the process ends. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Asked to end, or nothing to do.
    Done = 0,
    /// The configuration cannot be used.
    Config = 1,
    /// The command line cannot be used.
    Usage = 2,
    /// Kernel, limits or CPUs do not fit.
    Host = 3,
    /// A shard ended by itself.
    ShardDied = 4,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A thread-per-core Telegram MTProto proxy.
///
/// Without FILE, the first of ./config.toml, ./telemt.toml, ./pinnace.toml,
/// /etc/telemt/telemt.toml, /etc/telemt/config.toml and /etc/pinnace/config.toml is used; if
/// there is none, ./config.toml is written with one user and a fresh secret.
#[derive(Debug, Parser)]
#[command(
    name = "pinnace",
    version = VERSION,
    disable_help_subcommand = true,
    after_help = "Exit codes: 0 ended on request, 1 configuration, 2 command line, 3 the host does \
                  not fit (kernel, limits, CPUs, ports), 4 a shard died: restart the process."
)]
pub(crate) struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) flags: Flags,
    /// The configuration file.
    pub(crate) file: Option<PathBuf>,
    /// What to do; running the proxy is the default.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the proxy in the foreground.
    Run {
        /// The configuration file.
        file: Option<PathBuf>,
    },
    /// Print every error and warning of a configuration file, and do not run.
    Check {
        /// The configuration file.
        file: PathBuf,
    },
    /// Print every key with its type, default and effect.
    Keys,
    /// Print the links of all users, or of one.
    Links {
        /// The configuration file.
        file: PathBuf,
        /// The user's name.
        user: Option<String>,
        /// Print QR codes even if the output is no terminal.
        #[arg(long)]
        qr: bool,
    },
}

/// Flags of every command.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Number of shards, over shards.count.
    #[arg(long, value_name = "N", global = true, value_parser = shard_count)]
    pub(crate) shards: Option<u16>,
    /// Cores to pin them to, such as 0-3,8, over shards.cores.
    #[arg(long, value_name = "LIST", global = true, value_parser = core_list)]
    pub(crate) cores: Option<CoreList>,
    /// debug, verbose, normal or silent, over general.log_level; RUST_LOG wins over both.
    #[arg(long, value_name = "LEVEL", global = true)]
    pub(crate) log_level: Option<String>,
    /// Log errors only.
    #[arg(short, long, global = true)]
    pub(crate) silent: bool,
    /// Directory of state and cache files, absolute, over general.data_path.
    #[arg(long, value_name = "DIR", global = true, visible_alias = "working-dir")]
    pub(crate) data_path: Option<PathBuf>,
    /// Contact no data centre before a client asks for it, and no front site at all.
    #[arg(long, global = true)]
    pub(crate) no_probe: bool,
    /// Log to this file, over logging.destination.
    #[arg(long, value_name = "FILE", global = true, conflicts_with = "syslog")]
    pub(crate) log_file: Option<PathBuf>,
    /// Log to files with this prefix, a new one each day.
    #[arg(long, value_name = "PREFIX", global = true, conflicts_with_all = ["syslog", "log_file"])]
    pub(crate) log_file_daily: Option<PathBuf>,
    /// Log to the system log.
    #[arg(long, global = true)]
    pub(crate) syslog: bool,
    /// How often a new log file starts, over logging.rotation.
    #[arg(long, value_name = "WHEN", global = true, value_enum)]
    pub(crate) log_rotation: Option<Rotate>,
    /// Bytes of one log file, over logging.max_size_bytes; 0 is no limit.
    #[arg(long, value_name = "N", global = true)]
    pub(crate) log_max_size_bytes: Option<u64>,
    /// Log files kept, over logging.max_files; 0 keeps all.
    #[arg(long, value_name = "N", global = true)]
    pub(crate) log_max_files: Option<usize>,
    /// Age at which log files are deleted, over logging.max_age_secs; 0 keeps all.
    #[arg(long, value_name = "SECONDS", global = true)]
    pub(crate) log_max_age_secs: Option<u64>,
    /// Stay in the foreground; it always does.
    #[arg(short, long, global = true)]
    pub(crate) foreground: bool,
}

impl Flags {
    /// What wins over the file's `[shards]`.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            shards: self.shards.map(usize::from),
            cores: self.cores.clone(),
        }
    }

    /// Where the log goes: flags win over the file. Relative paths are below `data_path`.
    pub(crate) fn log_destination(&self, file: &Logging, data_path: &Path) -> Destination {
        let own = self.log_file.as_ref().or(self.log_file_daily.as_ref());
        let kind = match own {
            Some(_) => LogDestination::File,
            None if self.syslog => LogDestination::Syslog,
            None => file.destination,
        };
        let named = file.path.as_ref().map(|path| PathBuf::from(&path.0));
        let rotation = match (self.log_rotation, &self.log_file_daily) {
            (Some(when), _) => when.into(),
            (None, Some(_)) => LogRotation::Daily,
            // A file named by a flag is that file and no prefix.
            (None, None) if own.is_some() => LogRotation::Never,
            (None, None) => file.rotation,
        };
        Destination {
            kind,
            path: own.cloned().or(named).map(|path| data_path.join(path)),
            rotation,
            bytes_max: self.log_max_size_bytes.unwrap_or(file.max_size_bytes),
            files_max: self.log_max_files.unwrap_or(file.max_files),
            age_secs_max: self.log_max_age_secs.unwrap_or(file.max_age_secs),
        }
    }
}

/// How often a new log file starts.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Rotate {
    /// Never.
    Never,
    /// Every minute.
    Minutely,
    /// Every hour.
    Hourly,
    /// Every day.
    Daily,
    /// Every week.
    Weekly,
}

impl From<Rotate> for LogRotation {
    fn from(when: Rotate) -> Self {
        match when {
            Rotate::Never => Self::Never,
            Rotate::Minutely => Self::Minutely,
            Rotate::Hourly => Self::Hourly,
            Rotate::Daily => Self::Daily,
            Rotate::Weekly => Self::Weekly,
        }
    }
}

fn shard_count(text: &str) -> Result<u16, String> {
    let count = text.parse().ok().filter(|count| (1..=1024).contains(count));
    count.ok_or_else(|| "expected a number from 1 to 1024".to_owned())
}

fn core_list(text: &str) -> Result<CoreList, String> {
    text.parse()
        .map_err(|()| "expected core numbers such as 0-3,8".to_owned())
}

/// Reads the command line.
///
/// # Errors
/// The sentence for a flag or command of other proxies that is not supported here.
pub(crate) fn parse(args: Vec<OsString>) -> Result<Cli, String> {
    if let Some(text) = refused(&args) {
        return Err(text);
    }
    Ok(Cli::parse_from(args))
}

fn refused(args: &[OsString]) -> Option<String> {
    let texts: Vec<&str> = args.iter().skip(1).filter_map(|arg| arg.to_str()).collect();
    let flag = |text: &&&str| {
        let name = text.split('=').next().unwrap_or("");
        REFUSED_FLAGS.iter().any(|(flags, _)| flags.contains(&name))
    };
    if let Some(text) = texts.iter().find(flag) {
        let name = text.split('=').next().unwrap_or("");
        let reason = REFUSED_FLAGS
            .iter()
            .find(|(flags, _)| flags.contains(&name));
        return reason.map(|(_, reason)| format!("{name} is not supported: {reason}"));
    }
    let command = texts.iter().find(|text| !text.starts_with('-'))?;
    let (_, reason) = REFUSED_COMMANDS.iter().find(|(name, _)| name == command)?;
    Some(format!("{command} is not supported: {reason}"))
}

const DAEMON: &str = "this process stays in the foreground; let systemd, a container or another \
                      supervisor start, stop and restart it";
const INIT: &str = "start without a file once, and ./config.toml is written";

const REFUSED_FLAGS: &[(&[&str], &str)] = &[
    (
        &[
            "--daemon",
            "-d",
            "--pid-file",
            "--run-as-user",
            "--run-as-group",
        ],
        DAEMON,
    ),
    (&["--init", "--no-start", "--config-dir"], INIT),
];
const REFUSED_COMMANDS: &[(&str, &str)] = &[
    ("start", DAEMON),
    ("stop", DAEMON),
    ("status", DAEMON),
    ("reload", DAEMON),
    ("healthcheck", "ask GET /v1/health/ready of the control API"),
];

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An existing file.
    File(PathBuf),
    /// None of the usual ones exists: a first run may write this one.
    Nothing(PathBuf),
}

/// Chooses the file.
///
/// # Errors
/// A sentence with the paths that were tried, when a named file does not exist.
pub(crate) fn find_file(named: Option<&Path>) -> Result<Found, String> {
    let Some(named) = named else {
        let found = USUAL_FILES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists());
        return Ok(found.map_or_else(|| Found::Nothing(FIRST_RUN_FILE.into()), Found::File));
    };
    if named.exists() {
        return Ok(Found::File(named.to_owned()));
    }
    let here = std::env::current_dir().unwrap_or_default();
    Err(format!(
        "there is no file {}; tried {}. Without a file name these are tried: {}",
        named.display(),
        here.join(named).display(),
        USUAL_FILES.join(", ")
    ))
}

const USUAL_FILES: &[&str] = &[
    "config.toml",
    "telemt.toml",
    "pinnace.toml",
    "/etc/telemt/telemt.toml",
    "/etc/telemt/config.toml",
    "/etc/pinnace/config.toml",
];
const FIRST_RUN_FILE: &str = "config.toml";

/// The directory of state and cache files; relative paths in the file resolve here.
///
/// # Errors
/// A sentence, when it is relative or cannot be made.
pub(crate) fn data_path(
    flag: Option<&Path>,
    configured: Option<&Path>,
    file: Option<&Path>,
) -> Result<PathBuf, String> {
    if let Some(named) = flag.or(configured) {
        if !named.is_absolute() {
            return Err(format!("the data path {} is not absolute", named.display()));
        }
        std::fs::create_dir_all(named)
            .map_err(|error| format!("the data path {}: {error}", named.display()))?;
        return Ok(named.to_owned());
    }
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    if here != Path::new("/") {
        return Ok(here);
    }
    let beside = file.and_then(Path::parent).map(|parent| here.join(parent));
    Ok(beside.unwrap_or_else(|| PathBuf::from("/etc/telemt")))
}

/// The version; packagers may name theirs, with a commit for instance.
pub(crate) const VERSION: &str = match option_env!("PINNACE_VERSION") {
    Some(version) => version,
    None => env!("CARGO_PKG_VERSION"),
};

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        std::iter::once("pinnace")
            .chain(text.split_whitespace())
            .map(OsString::from)
            .collect()
    }

    #[test]
    fn understands_what_panels_pass() {
        let cli = Cli::try_parse_from(args("run --silent --data-path /d -f x.toml")).unwrap();
        assert!(cli.flags.silent && cli.flags.foreground);
        let Some(Command::Run { file: Some(file) }) = cli.command else {
            panic!("no run")
        };
        assert!(file.ends_with("x.toml"));
        let cli =
            Cli::try_parse_from(args("--working-dir /d x.toml --shards 2 --cores 0-1")).unwrap();
        assert_eq!(cli.file.as_deref(), Some(Path::new("x.toml")));
        assert_eq!(cli.flags.data_path.as_deref(), Some(Path::new("/d")));
        let cores = Some(CoreList(vec![0, 1]));
        assert_eq!(
            cli.flags.overrides(),
            Overrides {
                shards: Some(2),
                cores
            }
        );
        let cli = Cli::try_parse_from(args("links x.toml alice")).unwrap();
        assert!(matches!(
            cli.command,
            Some(Command::Links { user: Some(_), .. })
        ));
        for bad in [
            "--shards 0",
            "--cores x",
            "check",
            "--what",
            "--log-max-age-secs x",
            "--log-max-size-bytes=-1",
        ] {
            assert!(Cli::try_parse_from(args(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_daemon_flags_with_a_reason() {
        for text in ["-d x.toml", "--pid-file=/x", "stop", "reload x", "--init"] {
            let said = parse(args(text)).unwrap_err();
            assert!(said.contains(" is not supported: "), "{said}");
        }
    }

    #[test]
    fn lists_what_was_tried_for_a_named_file() {
        let said = find_file(Some(Path::new("/nowhere/x.toml"))).unwrap_err();
        assert!(said.contains("/nowhere/x.toml") && said.contains("/etc/pinnace/config.toml"));
    }

    #[test]
    fn data_path_must_be_absolute() {
        assert!(data_path(Some(Path::new("x")), None, None).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(data_path(None, Some(&path), None), Ok(path.clone()));
        assert!(path.is_dir());
    }
}
