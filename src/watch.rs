//! Notices that the configuration file or one it includes has changed.
//!
//! inotify tells of changes at once; it knows nothing of network and container mounts, so every
//! file is looked at every few seconds as well. Whether the text differs from the one in force is
//! decided by its hash, so our own writes and touched files come to nothing. Not here: what a
//! configuration does (`live.rs`). Source: config.md 11.

use std::{
    collections::{BTreeSet, HashSet},
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};

use crate::config::{self, Digest, Failed};

/// Whose files are watched.
pub(crate) trait Watched: Send + Sync + 'static {
    /// The main file.
    fn path(&self) -> &Path;

    /// It and the files it includes, as last read.
    fn files(&self) -> Vec<Arc<Path>>;

    /// Whether this text needs no reload: it is in force, or was in force and taken back.
    fn is_settled(&self, digest: &Digest) -> bool;

    /// Reads the files and puts what they say in force.
    ///
    /// # Errors
    /// What is wrong with them; the old configuration stays.
    fn reload(&self, cause: Noticed) -> Result<(), Failed>;

    /// A reload has failed: said once per text.
    fn failed(&self, failed: &Failed, cause: Noticed);
}

/// Why the files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Noticed {
    /// One of them is not what it was.
    Change,
    /// Somebody asked.
    Signal,
}

/// Asks the watching thread to look.
#[derive(Clone, Debug)]
pub(crate) struct Watching {
    bell: SyncSender<()>,
    asked: Arc<AtomicBool>,
}

impl Watching {
    /// Looks soon, and says so even when nothing has changed.
    pub(crate) fn look(&self) {
        self.asked.store(true, Ordering::Release);
        // A full queue: the thread is about to look.
        let _ = self.bell.try_send(());
    }
}

/// Starts the thread.
///
/// # Errors
/// There are no more threads to be had.
pub(crate) fn start(target: Arc<dyn Watched>) -> io::Result<Watching> {
    let (bell, rung) = sync_channel(1);
    let asked = Arc::new(AtomicBool::new(false));
    let names = Names::default();
    let mut watcher = Watcher {
        asked: Arc::clone(&asked),
        notify: notifier(&bell, &names),
        names,
        dirs: BTreeSet::new(),
        stamps: Vec::new(),
        seen: None,
        failing: None,
        unread: false,
        settled: false,
        target,
    };
    watcher.remember(&watcher.stamps_now());
    thread::Builder::new()
        .name("config-watch".to_owned())
        .spawn(move || watcher.run(&rung))?;
    Ok(Watching { bell, asked })
}

/// File names that matter; `None` is all of them.
type Names = Arc<Mutex<Option<HashSet<OsString>>>>;

fn notifier(bell: &SyncSender<()>, names: &Names) -> Option<RecommendedWatcher> {
    let (bell, names) = (bell.clone(), Arc::clone(names));
    let heard = move |event: notify::Result<Event>| {
        let matters = match &event {
            Ok(event) => matters(event, &names),
            // The queue ran over, or a directory went away.
            Err(_) => true,
        };
        if matters {
            // A full queue: the thread is about to look.
            let _ = bell.try_send(());
        }
    };
    match notify::recommended_watcher(heard) {
        Ok(notify) => Some(notify),
        Err(error) => {
            tracing::warn!(%error, "changed files are noticed after {} s only", POLL.as_secs());
            None
        }
    }
}

fn matters(event: &Event, names: &Names) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
        EventKind::Access(_) => return false,
        _ => {}
    }
    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(names) = &*names else { return true };
    let known = |path: &PathBuf| path.file_name().is_none_or(|name| names.contains(name));
    event.paths.is_empty() || event.paths.iter().any(known)
}

/// What tells a file from one that was written since.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    file: Arc<Path>,
    /// Device, inode, size, modification and change time; `None` when there is no file.
    facts: Option<[i64; 7]>,
}

impl Stamp {
    #[expect(clippy::cast_possible_wrap, reason = "only compared")]
    fn of(file: &Arc<Path>) -> Self {
        let facts = fs::metadata(file).ok().map(|facts| {
            [
                facts.dev() as i64,
                facts.ino() as i64,
                facts.size() as i64,
                facts.mtime(),
                facts.mtime_nsec(),
                facts.ctime(),
                facts.ctime_nsec(),
            ]
        });
        Self {
            file: Arc::clone(file),
            facts,
        }
    }

    /// So new that a clock with coarse ticks may hide another write.
    fn is_fresh(&self) -> bool {
        let now = jiff::Timestamp::now().as_second();
        let written = self.facts.map(|facts| facts[3].max(facts[5]));
        written.is_some_and(|written| written.saturating_add(FRESH_SECS) >= now)
    }
}

struct Watcher {
    asked: Arc<AtomicBool>,
    target: Arc<dyn Watched>,
    notify: Option<RecommendedWatcher>,
    names: Names,
    dirs: BTreeSet<PathBuf>,
    stamps: Vec<Stamp>,
    /// The text at the last look.
    seen: Option<Digest>,
    /// Text that cannot be used, and what was said of it.
    failing: Option<(Option<Digest>, String)>,
    /// They could not be read at the last look.
    unread: bool,
    /// The files were found settled when `stamps` were taken, and were not fresh any more.
    settled: bool,
}

impl Watcher {
    fn run(mut self, rung: &Receiver<()>) {
        loop {
            match rung.recv_timeout(POLL) {
                Ok(()) if self.asked.load(Ordering::Acquire) => {}
                Ok(()) => quiet(rung),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.look(match self.asked.swap(false, Ordering::AcqRel) {
                true => Noticed::Signal,
                false => Noticed::Change,
            });
        }
    }

    fn look(&mut self, cause: Noticed) {
        // Before they are read: what is written meanwhile is seen next time.
        let stamps = self.stamps_now();
        let asked = cause == Noticed::Signal;
        self.unread = false;
        // Settled then need not be settled now: somebody may have put an older text in force.
        let as_seen = self.seen.is_some_and(|seen| self.target.is_settled(&seen));
        if self.settled && !asked && as_seen && stamps == self.stamps {
            return;
        }
        let digest = config::digest(self.target.path());
        let known = digest.is_some_and(|digest| self.target.is_settled(&digest));
        let hopeless =
            |failing: &(Option<Digest>, String)| failing.0.is_some() && failing.0 == digest;
        if asked || !(known || self.failing.as_ref().is_some_and(hopeless)) {
            self.reload(cause, digest);
        } else if known {
            self.failing = None;
        }
        self.seen = digest;
        self.remember(&stamps);
    }

    fn reload(&mut self, cause: Noticed, digest: Option<Digest>) {
        let failed = match self.target.reload(cause) {
            Ok(()) => {
                self.failing = None;
                return;
            }
            Err(failed) if failed.is_shortage() => return self.put_off(cause, &failed),
            Err(failed) => failed,
        };
        let (mut text, mut failed) = (failed.to_string(), failed);
        let told = |text: &str, failing: &Option<(_, String)>| {
            failing.as_ref().is_some_and(|failing| failing.1 == text)
        };
        if !told(&text, &self.failing) {
            // Perhaps it was half written.
            thread::sleep(SECOND_TRY);
            match self.target.reload(cause) {
                Ok(()) => {
                    self.failing = None;
                    return;
                }
                Err(again) if again.is_shortage() => return self.put_off(cause, &again),
                Err(again) => (text, failed) = (again.to_string(), again),
            }
        }
        if cause == Noticed::Signal || !told(&text, &self.failing) {
            self.target.failed(&failed, cause);
        }
        self.failing = Some((digest, text));
    }

    /// Too many files are open, which clients see to: nothing is known of these, and the next look
    /// tries again. Who has asked is answered then.
    fn put_off(&mut self, cause: Noticed, failed: &Failed) {
        tracing::debug!("the configuration is looked at later: {failed}");
        self.unread = true;
        if cause == Noticed::Signal {
            self.asked.store(true, Ordering::Release);
        }
    }

    fn stamps_now(&self) -> Vec<Stamp> {
        self.target.files().iter().map(Stamp::of).collect()
    }

    /// Keeps what was seen and follows the files to other directories.
    fn remember(&mut self, stamps: &[Stamp]) {
        let files = self.target.files();
        let same = stamps.iter().map(|stamp| &stamp.file).eq(&files);
        let fresh = stamps.iter().any(Stamp::is_fresh);
        self.settled = same && !fresh && self.failing.is_none() && !self.unread;
        self.stamps = stamps.to_vec();
        let dirs: BTreeSet<PathBuf> = files.iter().map(|file| dir(file)).collect();
        if let Some(notify) = &mut self.notify {
            for gone in self.dirs.difference(&dirs) {
                // It may have been removed with its watch.
                let _ = notify.unwatch(gone);
            }
            for new in dirs.difference(&self.dirs) {
                if let Err(error) = notify.watch(new, RecursiveMode::NonRecursive) {
                    let dir = new.display();
                    tracing::warn!(%error, "changes in {dir} are noticed after a few seconds only");
                }
            }
        }
        self.dirs = dirs;
        let links = files.iter().any(|file| file.is_symlink());
        let names = files.iter().filter_map(|file| file.file_name());
        let names = (!links).then(|| names.map(OsString::from).collect());
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }
}

/// Waits until nothing has changed for a moment.
fn quiet(rung: &Receiver<()>) {
    let limit = Instant::now() + UNREST_MAX;
    while Instant::now() < limit && rung.recv_timeout(DEBOUNCE).is_ok() {}
}

fn dir(file: &Path) -> PathBuf {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    dir.unwrap_or(Path::new(".")).to_owned()
}

/// Events closer together are one change.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A file that never rests is read all the same.
const UNREST_MAX: Duration = Duration::from_secs(1);
/// Pause between looks at files that nobody told of.
const POLL: Duration = Duration::from_secs(3);
/// Pause before a file that could not be used is read again.
const SECOND_TRY: Duration = Duration::from_millis(200);
/// File systems with stamps of whole seconds are the coarsest in use.
const FRESH_SECS: i64 = 2;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::config::Loaded;

    /// Takes over every file that loads.
    struct Taker {
        path: PathBuf,
        state: Mutex<Taken>,
    }

    /// What reading says when there are no numbers for open files left.
    fn shortage() -> Failed {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        config::source::Unread::from(error).into_failed(Path::new("config.toml"))
    }

    #[derive(Clone, Default)]
    struct Taken {
        files: Vec<Arc<Path>>,
        digest: Option<Digest>,
        reloads: usize,
        failures: Vec<String>,
        /// Attempts that find too many files open.
        short: usize,
    }

    impl Taker {
        fn take(&self, loaded: &Loaded) {
            let mut state = self.state.lock().unwrap();
            state.digest = Some(loaded.digest);
            state.files.clone_from(&loaded.files);
            state.reloads += 1;
        }

        fn until(&self, what: &str, done: impl Fn(&Taken) -> bool) -> Taken {
            let limit = Instant::now() + Duration::from_secs(20);
            loop {
                let state = self.state.lock().unwrap().clone();
                if done(&state) {
                    return state;
                }
                assert!(Instant::now() < limit, "waited in vain until {what}");
                thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Watched for Taker {
        fn path(&self) -> &Path {
            &self.path
        }

        fn files(&self) -> Vec<Arc<Path>> {
            self.state.lock().unwrap().files.clone()
        }

        fn is_settled(&self, digest: &Digest) -> bool {
            self.state.lock().unwrap().digest == Some(*digest)
        }

        fn reload(&self, _: Noticed) -> Result<(), Failed> {
            let mut state = self.state.lock().unwrap();
            if state.short > 0 {
                state.short -= 1;
                return Err(shortage());
            }
            drop(state);
            self.take(&config::load(&self.path)?);
            Ok(())
        }

        fn failed(&self, failed: &Failed, _: Noticed) {
            let mut state = self.state.lock().unwrap();
            state.failures.push(failed.to_string());
        }
    }

    const USERS: &str = "[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";

    fn watched() -> (TempDir, Arc<Taker>, Watching) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, USERS).unwrap();
        let state = Mutex::default();
        let taker = Arc::new(Taker { path, state });
        taker.take(&config::load(&taker.path).unwrap());
        let watching = start(Arc::clone(&taker) as _).unwrap();
        (dir, taker, watching)
    }

    #[test]
    fn changes_are_taken_over_and_touches_are_not() {
        let (dir, taker, watching) = watched();
        fs::write(&taker.path, USERS).unwrap();
        fs::write(dir.path().join("other.toml"), "x").unwrap();
        thread::sleep(DEBOUNCE * 8);
        assert_eq!(taker.until("looked", |_| true).reloads, 1);
        fs::write(&taker.path, format!("# remark\n{USERS}")).unwrap();
        taker.until("the change is taken over", |state| state.reloads == 2);
        watching.look();
        taker.until("asked for, it is read again", |state| state.reloads == 3);
    }

    #[test]
    fn older_text_put_in_force_by_others_does_not_stay() {
        let (_dir, taker, _watching) = watched();
        let old = config::load(&taker.path).unwrap();
        fs::write(&taker.path, format!("# remark\n{USERS}")).unwrap();
        taker.until("the change is taken over", |state| state.reloads == 2);
        // Past the moment in which file times are not to be trusted.
        thread::sleep(POLL + Duration::from_secs(FRESH_SECS.unsigned_abs() + 1));
        taker.take(&old);
        taker.until("the file's text is back", |state| state.reloads == 4);
    }

    #[test]
    fn failure_is_told_of_once_per_text() {
        let (_dir, taker, _watching) = watched();
        for (count, text) in [(1, "[server]\nport = -1\n"), (2, "[server]\nport = -2\n")] {
            fs::write(&taker.path, format!("{text}{USERS}")).unwrap();
            taker.until("it is told of", |state| state.failures.len() == count);
        }
        thread::sleep(POLL + DEBOUNCE);
        let state = taker.until("looked", |_| true);
        assert_eq!((state.failures.len(), state.reloads), (2, 1));
        fs::write(&taker.path, format!("# remark\n{USERS}")).unwrap();
        taker.until("the change is taken over", |state| state.reloads == 2);
    }
    #[test]
    fn too_many_open_files_are_waited_for_quietly() {
        let (_dir, taker, watching) = watched();
        let short = |count| taker.state.lock().unwrap().short = count;
        short(2);
        fs::write(&taker.path, format!("# remark\n{USERS}")).unwrap();
        let state = taker.until("it is taken over", |state| state.reloads == 2);
        assert_eq!((state.short, state.failures.len()), (0, 0));
        // Who asks is answered all the same.
        short(1);
        watching.look();
        let state = taker.until("it is read again", |state| state.reloads == 3);
        assert_eq!((state.short, state.failures.len()), (0, 0));
        // What is wrong with the file itself is told of.
        short(1);
        fs::write(&taker.path, format!("[server]\nport = -1\n{USERS}")).unwrap();
        let state = taker.until("it is told of", |state| state.failures.len() == 1);
        assert!(
            state.failures[0].contains("server.port"),
            "{:?}",
            state.failures
        );
    }

    #[test]
    fn shortage_is_told_from_other_reasons() {
        assert!(shortage().is_shortage());
        let gone = config::load(Path::new("/nowhere/config.toml")).unwrap_err();
        assert!(!gone.is_shortage(), "{gone}");
        assert!(shortage().to_string().contains("cannot be read"));
    }
}
