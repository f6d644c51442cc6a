//! Reads and replaces one file as a whole: whoever looks at it, and whenever the machine stops,
//! the old or the new file is there, complete, with the mode and owner it had.
//!
//! Not here: what is in the file. Called by the store. Source: control-api.md 9, C27.
//!
//! A file that somebody else replaced after we had read it is not overwritten: new and old file
//! trade places in one step, what came out is compared with what was read, and goes back if it is
//! something else. Where the file system cannot do that, a look right before the rename must do.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use tempfile::NamedTempFile;

/// A file's bytes and which file they are from.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    /// All of it.
    pub(crate) bytes: Vec<u8>,
    /// As it was when reading began.
    pub(crate) stamp: Stamp,
}

/// What tells that a file may have changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
    /// The times were well in the past then: a change since would show in them.
    settled: bool,
}

impl Stamp {
    /// Looks at a file.
    ///
    /// # Errors
    /// Those of `stat`.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|meta| Self::new(&meta))
    }

    fn new(meta: &fs::Metadata) -> Self {
        let ns = |secs: i64, ns: i64| i128::from(secs) * 1_000_000_000 + i128::from(ns);
        let modified_ns = ns(meta.mtime(), meta.mtime_nsec());
        let changed_ns = ns(meta.ctime(), meta.ctime_nsec());
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ns = now.map_or(0, |now| i128::try_from(now.as_nanos()).unwrap_or(0));
        let settle_ns = i128::try_from(SETTLE.as_nanos()).unwrap_or(0);
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_ns,
            changed_ns,
            settled: modified_ns.max(changed_ns) + settle_ns < now_ns,
        }
    }

    /// Whether a file that had this stamp when it was read has the same bytes still, going by the
    /// stamp it has `now`. Says no when in doubt.
    pub(crate) fn holds(&self, now: &Self) -> bool {
        self.settled && *self == *now
    }
}

/// Reads a whole file.
///
/// # Errors
/// Those of the file system.
pub(crate) fn read(path: &Path) -> io::Result<Content> {
    let mut file = File::open(path)?;
    let stamp = Stamp::new(&file.metadata()?);
    let mut bytes = Vec::with_capacity(usize::try_from(stamp.size).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(Content { bytes, stamp })
}

/// Reads a file of at most `bytes_max`.
///
/// # Errors
/// Those of the file system; `FileTooLarge` when it is longer.
pub(crate) fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    let mut reader = File::open(path)?.take(limit.saturating_add(1));
    reader.read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        let text = format!("is longer than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(bytes)
}

/// Writes a file that is ours alone, whatever was there: beside it, then over it. Its directory is
/// made if it is missing; only its owner may read it.
///
/// # Errors
/// [`WriteError`]; the old file is whole then.
pub(crate) fn put(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|error| directory(dir, error))?;
    let mut new = tempfile::Builder::new()
        .prefix(&prefix(path))
        .suffix(SUFFIX)
        .rand_bytes(RANDOM_CHARS)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(|error| directory(dir, error))?;
    let written = new.write_all(bytes).and_then(|()| new.as_file().sync_all());
    let placed = written.and_then(|()| new.persist(path).map_err(|error| error.error));
    placed.map(drop).map_err(|error| WriteError::Other {
        step: "write",
        path: path.to_owned(),
        error,
    })
}

/// What became of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// It is in place and on disk.
    Done,
    /// Somebody else had changed the file, and theirs is in place.
    Changed,
}

/// Why a file could not be replaced. The old one is whole. The text is for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// No file may be made in its directory.
    #[error(
        "cannot create a file in {}: {error}; make the directory writable for this process",
        dir.display()
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No room.
    #[error("cannot write {}: {error}; make room on its file system", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Mounted by itself, so that it cannot be replaced.
    #[error(
        "cannot replace {}: {error}; it is mounted by itself, mount its directory instead",
        path.display()
    )]
    Mounted {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Anything else.
    #[error("cannot {step} {}: {error}", path.display())]
    Other {
        /// What was tried.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl WriteError {
    /// For somebody who may not know where the file is.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Directory { .. } => "its directory is not writable for the proxy",
            Self::Full { .. } => "its file system is full",
            Self::Mounted { .. } => "it is mounted by itself; mount its directory instead",
            Self::Other { error, .. } if is_shortage(error) => "too many files are open",
            Self::Other { .. } => "the log says why",
        }
    }
}

/// Whether an attempt a little later may well succeed: no number was left for an open file.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    [Errno::MFILE, Errno::NFILE]
        .map(|errno| Some(errno.raw_os_error()))
        .contains(&number)
}

/// Puts `bytes` in place of the file at `path` if that still has the bytes of `old`.
///
/// A symbolic link stays one: what it leads to is replaced. Mode stays; owner and group too, as
/// far as we may set them.
///
/// # Errors
/// [`WriteError`]; nothing is left behind then.
pub(crate) fn replace(path: &Path, old: &[u8], bytes: &[u8]) -> Result<Replaced, WriteError> {
    let other = |step, error| WriteError::Other {
        step,
        path: path.to_owned(),
        error,
    };
    let full = |error| WriteError::Full {
        path: path.to_owned(),
        error,
    };
    let path = fs::canonicalize(path).map_err(|error| other("find", error))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let meta = fs::metadata(&path).map_err(|error| other("look at", error))?;
    let mut new = tempfile::Builder::new()
        .prefix(&prefix(&path))
        .suffix(SUFFIX)
        .rand_bytes(RANDOM_CHARS)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(dir)
        .map_err(|error| directory(dir, error))?;
    write(&mut new, &meta, bytes).map_err(|error| match is_full(&error) {
        true => full(error),
        false => other("write", error),
    })?;
    let before = read(&path).map_err(|error| other("read", error))?;
    if before.bytes != old {
        return Ok(Replaced::Changed);
    }
    let done = trade(new, &path, &before).map_err(|error| {
        if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) {
            let path = path.clone();
            WriteError::Mounted { path, error }
        } else {
            other("replace", error)
        }
    })?;
    // The new file is in place already; a failure here is one of the disk, not of the change.
    if let Err(error) = File::open(dir).and_then(|dir| dir.sync_all()) {
        tracing::warn!(%error, dir = %dir.display(), "cannot flush the directory");
    }
    Ok(done)
}

fn directory(dir: &Path, error: io::Error) -> WriteError {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    let dir = dir.to_owned();
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem | NotFound => WriteError::Directory { dir, error },
        _ if is_full(&error) => WriteError::Full { path: dir, error },
        _ => WriteError::Other {
            step: "create a file in",
            path: dir,
            error,
        },
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn write(new: &mut NamedTempFile, like: &fs::Metadata, bytes: &[u8]) -> io::Result<()> {
    let file = new.as_file_mut();
    file.write_all(bytes)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (like.uid(), like.gid()) {
        // Only root may give files away; the group is ours to set if we are in it.
        let given = fchown(&*file, Some(like.uid()), Some(like.gid()));
        if given.is_err() && own.gid() != like.gid() {
            let _ = fchown(&*file, None, Some(like.gid()));
        }
    }
    // After the owner, since a change of that clears bits.
    file.set_permissions(Permissions::from_mode(like.mode() & 0o7777))?;
    file.sync_all()
}

/// Puts the new file in place. What was there is removed if it is still `old`, and back in place
/// if not.
fn trade(new: NamedTempFile, path: &Path, old: &Content) -> io::Result<Replaced> {
    let old_inode = (old.stamp.device, old.stamp.inode);
    let mut placed = inode(new.path())?;
    // Nearly all who came in between since it was read are seen here.
    if inode(path)? != old_inode {
        return Ok(Replaced::Changed);
    }
    match exchange(new.path(), path) {
        Ok(()) => {}
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            if read(path)?.bytes != old.bytes {
                return Ok(Replaced::Changed);
            }
            new.persist(path).map_err(|error| error.error)?;
            return Ok(Replaced::Done);
        }
        Err(errno) => return Err(errno.into()),
    }
    // Everybody sees ours by now: another file goes back at once, without being read.
    let same_file = inode(new.path()).is_ok_and(|out| out == old_inode);
    if same_file && read(new.path()).is_ok_and(|out| out.bytes == old.bytes) {
        return Ok(Replaced::Done);
    }
    // Theirs goes back, and so does whatever they put in place while we were doing that.
    for _ in 0..TRADES_MAX {
        let theirs = inode(new.path())?;
        exchange(new.path(), path)?;
        if inode(new.path())? == placed {
            return Ok(Replaced::Changed);
        }
        placed = theirs;
    }
    let kept = new.into_temp_path().keep().map_err(|error| error.error)?;
    tracing::error!(kept = %kept.display(), "several programs replace the configuration at once");
    Err(io::Error::other("several programs replace it at once"))
}

fn exchange(one: &Path, other: &Path) -> Result<(), Errno> {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// Removes what writers of this file left behind when they were killed.
///
/// Only files with the name of a temporary file of ours, whose writer is gone.
pub(crate) fn clean(path: &Path) {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().unwrap_or(Path::new("/"));
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let Some(writer) = name.to_str().and_then(|name| writer(&path, name)) else {
            continue;
        };
        // In a container everybody's number may be 1: ours has not written anything yet.
        let alive = writer != std::process::id() && Path::new(&format!("/proc/{writer}")).exists();
        let meta = file.metadata();
        let age = meta
            .as_ref()
            .ok()
            .and_then(|meta| meta.modified().ok()?.elapsed().ok());
        let stale = !alive || age.is_some_and(|age| age > STALE);
        if stale && meta.is_ok_and(|meta| meta.is_file()) {
            match fs::remove_file(file.path()) {
                Ok(()) => tracing::info!(
                    "removed {}, left by an interrupted write",
                    file.path().display()
                ),
                Err(error) => tracing::warn!(
                    "cannot remove {}, left by an interrupted write: {error}",
                    file.path().display()
                ),
            }
        }
    }
}

/// The process that made a temporary file for `path`; `None` for any other file.
fn writer(path: &Path, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(&format!(".{}{MARK}", file_name(path)))?;
    let (pid, random) = rest.strip_suffix(SUFFIX)?.split_once('-')?;
    let fits = random.len() == RANDOM_CHARS && random.bytes().all(|b| b.is_ascii_alphanumeric());
    fits.then(|| pid.parse().ok()).flatten()
}

fn prefix(path: &Path) -> String {
    format!(".{}{MARK}{}-", file_name(path), std::process::id())
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// What no other program puts into names.
const MARK: &str = ".pinnace-";
const SUFFIX: &str = ".tmp";
const RANDOM_CHARS: usize = 12;
/// No file system that we run on has coarser times.
const SETTLE: Duration = Duration::from_millis(100);
/// Nobody writes for so long: the writer's number has been given to another process.
const STALE: Duration = Duration::from_secs(600);
const TRADES_MAX: usize = 100;

#[cfg(test)]
mod tests;
