//! The log file and those before it: a new one each period, a new one when it is full, the oldest
//! deleted by number and by age.
//!
//! With a period the active file is `PATH.DATE`, else `PATH`. A full one gets the next number after
//! its name, `PATH.3`: the highest is the newest, and none is ever renamed again. Only files with
//! such names are deleted. Not here: which thread writes (`log_output.rs`). Source: config.md 9.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;

use crate::config::logging::LogRotation;

/// Where files are and how many of them.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Their directory; made when it is missing.
    pub(crate) dir: PathBuf,
    /// The name, or its first part.
    pub(crate) prefix: String,
    /// How often a new file starts.
    pub(crate) rotation: LogRotation,
    /// Bytes of one file; 0 is no limit. A longer line has a file of its own.
    pub(crate) bytes_max: u64,
    /// Files kept, the active one included; 0 keeps all.
    pub(crate) files_max: usize,
    /// Since a file that is not active was last written; zero keeps all.
    pub(crate) age_max: Duration,
}

/// The open log.
#[derive(Debug)]
struct LogFiles {
    plan: Plan,
    /// The active file, its name and its length.
    file: File,
    name: String,
    bytes: u64,
    /// When its period is over.
    until: Option<SystemTime>,
    /// When what has failed is tried again.
    retry_at: SystemTime,
    /// What was complained of and has not worked since.
    told: HashSet<&'static str>,
}

/// Takes lines, one or several whole ones in each call.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Arc<Mutex<LogFiles>>);

/// Opens the active file and deletes what is too old; goes on doing so while it is written to.
///
/// # Errors
/// The active file cannot be made or opened; there are no more threads to be had.
pub(crate) fn open(plan: Plan) -> io::Result<Lines> {
    let age_max = plan.age_max;
    let lines = Lines(Arc::new(Mutex::new(LogFiles::open(
        plan,
        SystemTime::now(),
    )?)));
    if !age_max.is_zero() {
        // Files grow old although nothing is logged.
        let files = Arc::downgrade(&lines.0);
        let every = (age_max / 4).clamp(LOOK_SHORTEST, LOOK_LONGEST);
        thread::Builder::new()
            .name("log-retention".to_owned())
            .spawn(move || look_after(&files, every))?;
    }
    Ok(lines)
}

/// The file that a log at `path` goes to: behind symbolic links, also to a file that is not there
/// yet. It is put aside in its own directory, and the links stay. `path` itself where they lead to
/// something else, such as a terminal.
pub(crate) fn behind_links(path: &Path) -> PathBuf {
    match fs::metadata(path) {
        Ok(file) if file.is_file() => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut at = path.to_owned();
            for _ in 0..LINKS_MAX {
                let (Some(dir), Ok(next)) = (at.parent(), fs::read_link(&at)) else {
                    break;
                };
                at = dir.join(next);
            }
            at
        }
        _ => path.to_owned(),
    }
}

fn look_after(files: &Weak<Mutex<LogFiles>>, every: Duration) {
    loop {
        thread::sleep(every);
        let Some(files) = files.upgrade() else { return };
        lock(&files).prune(SystemTime::now());
    }
}

fn lock(files: &Mutex<LogFiles>) -> MutexGuard<'_, LogFiles> {
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Write for Lines {
    /// Takes all or nothing: the rest of a line never goes to another file.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        lock(&self.0).put(lines, SystemTime::now())?;
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogFiles {
    fn open(plan: Plan, now: SystemTime) -> io::Result<Self> {
        let (name, until) = plan.active(now);
        let file = open_file(&plan.dir.join(&name), NEW_MODE)?;
        let bytes = file.metadata()?.len();
        let mut files = Self {
            plan,
            file,
            name,
            bytes,
            until,
            retry_at: UNIX_EPOCH,
            told: HashSet::new(),
        };
        files.prune(now);
        Ok(files)
    }

    fn put(&mut self, lines: &[u8], now: SystemTime) -> io::Result<()> {
        if now >= self.retry_at && self.is_due(lines.len(), now) {
            match self.rotate(now) {
                Ok(()) => {
                    self.told.remove(NO_NEW_FILE);
                    self.prune(now);
                }
                Err(error) => {
                    self.retry_at = now + RETRY_AFTER;
                    self.complain(NO_NEW_FILE, &error);
                }
            }
        }
        let written = self.file.write_all(lines);
        match &written {
            Ok(()) => {
                self.bytes = self.bytes.saturating_add(lines.len() as u64);
                self.told.remove(LOST);
            }
            Err(error) => {
                self.complain(LOST, error);
                self.measure();
            }
        }
        written
    }

    /// Whether these bytes belong into another file.
    fn is_due(&mut self, more: usize, now: SystemTime) -> bool {
        if self.until.is_some_and(|until| now >= until) {
            return true;
        }
        let full =
            |bytes: u64| bytes > 0 && bytes.saturating_add(more as u64) > self.plan.bytes_max;
        if self.plan.bytes_max == 0 || !full(self.bytes) {
            return false;
        }
        // Somebody may have cut it short meanwhile.
        let bytes = self.file.metadata().map(|file| file.len());
        self.bytes = bytes.unwrap_or(self.bytes);
        full(self.bytes)
    }

    fn measure(&mut self) {
        if let Ok(file) = self.file.metadata() {
            self.bytes = file.len();
        }
    }

    /// Goes on in another file; after an error everything is as it was.
    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        let (name, until) = self.plan.active(now);
        let path = self.plan.dir.join(&name);
        let mode = self.file.metadata()?.permissions().mode() & 0o777;
        let aside = match name == self.name {
            true => self.put_aside(&path)?,
            false => None,
        };
        let file = open_file(&path, mode).inspect_err(|_| {
            if let Some(aside) = &aside {
                // If even that fails, lines go on into the file under its number.
                let _ = fs::rename(aside, &path);
            }
        })?;
        self.bytes = file.metadata().map_or(0, |file| file.len());
        (self.file, self.name, self.until) = (file, name, until);
        Ok(())
    }

    /// Gives the active file a number; `None` when somebody has moved it already.
    fn put_aside(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        match fs::symlink_metadata(path) {
            Ok(file) if file.is_file() => {}
            Ok(_) => return Err(io::Error::other("it is no regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut last = 0;
        for entry in fs::read_dir(&self.plan.dir)? {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix(&self.name)?.strip_prefix('.'))
                .and_then(number);
            last = last.max(number.unwrap_or(0));
        }
        let aside = self.plan.dir.join(format!("{}.{}", self.name, last + 1));
        if fs::symlink_metadata(&aside).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(path, &aside)?;
        Ok(Some(aside))
    }

    fn prune(&mut self, now: SystemTime) {
        match self.plan.prune(&self.name, now) {
            Ok(()) => drop(self.told.remove(KEPT)),
            Err(error) => self.complain(KEPT, &error),
        }
    }

    /// Once until it works again. The log itself is no place for it.
    fn complain(&mut self, what: &'static str, error: &io::Error) {
        if self.told.insert(what) {
            let path = self.plan.dir.join(&self.name);
            let _ = writeln!(io::stderr(), "{}: {what}: {error}", path.display());
        }
    }
}

impl Plan {
    /// The name of the active file, and when another one is.
    fn active(&self, now: SystemTime) -> (String, Option<SystemTime>) {
        let (secs, offset, format) = match self.rotation {
            LogRotation::Never => return (self.prefix.clone(), None),
            LogRotation::Minutely => (60, 0, "%Y-%m-%d-%H-%M"),
            LogRotation::Hourly => (3_600, 0, "%Y-%m-%d-%H"),
            LogRotation::Daily => (86_400, 0, "%Y-%m-%d"),
            // From Sunday on; 1970 began with a Thursday.
            LogRotation::Weekly => (604_800, 4 * 86_400, "%Y-%m-%d"),
        };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // The first days of 1970 belong to a week of the year before.
        let start = now.saturating_sub((now + offset) % secs);
        let date = i64::try_from(start)
            .ok()
            .and_then(|start| Timestamp::from_second(start).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH)
            .strftime(format);
        let until = UNIX_EPOCH + Duration::from_secs(start + secs);
        (format!("{}.{date}", self.prefix), Some(until))
    }

    /// Deletes what is too old or too much, the active file never.
    fn prune(&self, active: &str, now: SystemTime) -> io::Result<()> {
        if self.files_max == 0 && self.age_max.is_zero() {
            return Ok(());
        }
        let mut old = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().filter(|name| *name != active);
            let Some(place) = name.and_then(|name| self.place(name)) else {
                continue;
            };
            // Neither directories nor links are ours.
            if let Ok(file) = entry.metadata()
                && file.is_file()
            {
                old.push((file.modified()?, place, entry.path()));
            }
        }
        old.sort();
        let kept_max = self.files_max.checked_sub(1).unwrap_or(usize::MAX);
        let excess = old.len().saturating_sub(kept_max);
        for (index, (written, _, path)) in old.into_iter().enumerate() {
            let age = now.duration_since(written).unwrap_or_default();
            if index < excess || (!self.age_max.is_zero() && age > self.age_max) {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Date and number of a file that was once active; `None` for files of others, and for the name
    /// without anything behind it.
    fn place(&self, name: &str) -> Option<(String, u64)> {
        let rest = name.strip_prefix(&self.prefix)?.strip_prefix('.')?;
        match rest.split_once('.') {
            Some((date, behind)) if is_date(date) => Some((date.to_owned(), number(behind)?)),
            Some(_) => None,
            // The last of its period has no number.
            None if is_date(rest) => Some((rest.to_owned(), u64::MAX)),
            None => Some((String::new(), number(rest)?)),
        }
    }
}

/// A year, a month and a day, perhaps an hour and a minute, as [`Plan::active`] writes them.
fn is_date(text: &str) -> bool {
    let widths: Vec<usize> = text.split('-').map(str::len).collect();
    text.bytes().all(|b| b == b'-' || b.is_ascii_digit())
        && (3..=5).contains(&widths.len())
        && widths.starts_with(&[4])
        && widths.iter().skip(1).all(|width| *width == 2)
}

/// A number as it is put behind a name.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse()
        .ok()
        .filter(|_| plain && text.len() <= DIGITS_MAX)
}

fn open_file(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(mode);
    options.open(path).or_else(|error| match path.parent() {
        Some(dir) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            options.open(path)
        }
        _ => Err(error),
    })
}

const NO_NEW_FILE: &str = "no new log file, the old one is written on";
const LOST: &str = "lines of the log are lost";
const KEPT: &str = "old log files are not deleted";
/// What the user's mask leaves of it; later files have the mode of the one before.
const NEW_MODE: u32 = 0o666;
/// After a rotation that failed.
const RETRY_AFTER: Duration = Duration::from_secs(60);
const LOOK_SHORTEST: Duration = Duration::from_secs(1);
const LOOK_LONGEST: Duration = Duration::from_secs(60);
const DIGITS_MAX: usize = 18;
/// As many as the system follows.
const LINKS_MAX: usize = 40;

#[cfg(test)]
mod tests;
