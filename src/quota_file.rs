//! What users with a quota have used, on disk: it survives restarts and kills.
//!
//! The shards count; this file is written from time to time with what they counted, and at once
//! when a quota is reset. JSON as the reference writes it (control-api.md 10):
//! `{last_reset_epoch_secs, users: {name: {used_bytes, last_reset_epoch_secs}}}`.
//!
//! A file that cannot be understood is moved aside and everybody starts at zero: a proxy that does
//! not start helps nobody, and the old numbers are still there to be put back.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::state_file::{named, replace};

/// The file and what it should hold.
pub(crate) struct QuotaFile {
    path: PathBuf,
    book: Mutex<Book>,
    /// Held by whoever writes; nobody else waits for a disk.
    writing: Mutex<()>,
}

struct Book {
    state: State,
    /// Not on disk yet.
    changed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
struct State {
    last_reset_epoch_secs: u64,
    users: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
struct Entry {
    used_bytes: u64,
    last_reset_epoch_secs: u64,
}

impl QuotaFile {
    /// Reads the file at `path`; one that is not there is empty.
    pub(crate) fn open(path: PathBuf) -> Self {
        let state = read(&path);
        let book = Mutex::new(Book {
            state,
            changed: false,
        });
        Self {
            path,
            book,
            writing: Mutex::default(),
        }
    }

    /// Bytes a user has used as far as this file knows.
    pub(crate) fn used_bytes(&self, name: &str) -> u64 {
        let book = self.lock();
        book.state
            .users
            .get(name)
            .map_or(0, |entry| entry.used_bytes)
    }

    /// When a user's quota was last reset, unix seconds; 0 is never.
    pub(crate) fn last_reset_epoch_secs(&self, name: &str) -> u64 {
        let book = self.lock();
        let entry = book.state.users.get(name);
        entry.map_or(0, |entry| entry.last_reset_epoch_secs)
    }

    /// Takes in what the shards have counted.
    pub(crate) fn note<'a>(&self, used: impl IntoIterator<Item = (&'a str, u64)>) {
        let mut book = self.lock();
        for (name, used_bytes) in used {
            let known = book.state.users.get_mut(name);
            match known {
                Some(entry) if entry.used_bytes == used_bytes => continue,
                Some(entry) => entry.used_bytes = used_bytes,
                // Nothing to remember of who has used nothing.
                None if used_bytes == 0 => continue,
                None => {
                    let entry = Entry {
                        used_bytes,
                        ..Entry::default()
                    };
                    book.state.users.insert(name.to_owned(), entry);
                }
            }
            book.changed = true;
        }
    }

    /// A user has used nothing from now on. On disk after the next [`Self::save`].
    pub(crate) fn reset(&self, name: &str, now_epoch_secs: u64) {
        let mut book = self.lock();
        book.state.last_reset_epoch_secs = now_epoch_secs;
        let entry = Entry {
            used_bytes: 0,
            last_reset_epoch_secs: now_epoch_secs,
        };
        book.state.users.insert(name.to_owned(), entry);
        book.changed = true;
    }

    /// Forgets everybody else: who is deleted and comes back starts anew.
    pub(crate) fn keep(&self, names: &HashSet<&str>) {
        let mut book = self.lock();
        let before = book.state.users.len();
        let users = &mut book.state.users;
        users.retain(|name, _| names.contains(name.as_str()));
        book.changed |= book.state.users.len() != before;
    }

    /// Writes the file when it should hold something new, the old or the new one whole at any
    /// moment.
    ///
    /// # Errors
    /// Those of the file system; the next call tries again.
    pub(crate) fn save(&self) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = {
            let mut book = self.lock();
            if !book.changed {
                return Ok(());
            }
            book.changed = false;
            serde_json::to_vec(&book.state)?
        };
        text.push(b'\n');
        let written = replace(&self.path, &text);
        if written.is_err() {
            self.lock().changed = true;
        }
        written
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> State {
    let why = match fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(state) => return state,
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return State::default(),
        Err(error) => error.to_string(),
    };
    let aside = aside(path);
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(
            "{} cannot be used ({why}): all quotas start at zero; it is kept as {}",
            path.display(),
            aside.display()
        ),
        Err(error) => tracing::error!(
            "{} cannot be used ({why}) nor moved aside ({error}): all quotas start at zero",
            path.display()
        ),
    }
    State::default()
}

/// The first name beside `path` that nobody has.
fn aside(path: &Path) -> PathBuf {
    let name = |number: u32| named(path, &format!(".broken-{number}"));
    let free = (1..ASIDE_MAX).map(name).find(|path| !path.exists());
    free.unwrap_or_else(|| name(ASIDE_MAX))
}

/// So many broken files are kept; the last one is written over.
const ASIDE_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> QuotaFile {
        QuotaFile::open(dir.path().join("state/quota.json"))
    }

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = file(&dir);
        quotas.note([("alice", 7), ("bob", 0)]);
        quotas.save().unwrap();
        let text = fs::read_to_string(quotas.path()).unwrap();
        let expected = "{\"last_reset_epoch_secs\":0,\"users\":{\"alice\":{\"used_bytes\":7,\
                        \"last_reset_epoch_secs\":0}}}\n";
        assert_eq!(text, expected);
        assert_eq!(file(&dir).used_bytes("alice"), 7);
        assert_eq!(file(&dir).used_bytes("bob"), 0);
    }

    #[test]
    fn file_is_written_only_when_something_changed() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = file(&dir);
        quotas.save().unwrap();
        assert!(!quotas.path().exists());
        quotas.note([("alice", 7)]);
        quotas.save().unwrap();
        fs::remove_file(quotas.path()).unwrap();
        quotas.note([("alice", 7)]);
        quotas.keep(&HashSet::from(["alice"]));
        quotas.save().unwrap();
        assert!(!quotas.path().exists());
    }

    #[test]
    fn reset_is_stamped_and_removed_users_leave() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = file(&dir);
        quotas.note([("alice", 7), ("bob", 8)]);
        quotas.reset("alice", 1_800_000_000);
        quotas.keep(&HashSet::from(["alice"]));
        quotas.save().unwrap();
        let again = file(&dir);
        assert_eq!(again.used_bytes("alice"), 0);
        assert_eq!(again.last_reset_epoch_secs("alice"), 1_800_000_000);
        assert_eq!(again.used_bytes("bob"), 0);
    }

    #[test]
    fn broken_file_is_kept_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("quota.json");
        for number in 1..=2 {
            fs::write(&path, "{\"users\":{\"alice\":{\"used_by").unwrap();
            let quotas = QuotaFile::open(path.clone());
            assert_eq!(quotas.used_bytes("alice"), 0);
            assert!(!path.exists());
            assert!(
                dir.path()
                    .join(format!("quota.json.broken-{number}"))
                    .exists()
            );
        }
    }

    #[test]
    fn file_that_cannot_be_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = QuotaFile::open(dir.path().join("state/quota.json"));
        // A file where a directory should be.
        fs::write(dir.path().join("state"), "").unwrap();
        quotas.note([("alice", 7)]);
        assert!(quotas.save().is_err());
        fs::remove_file(dir.path().join("state")).unwrap();
        quotas.save().unwrap();
        assert_eq!(file(&dir).used_bytes("alice"), 7);
    }

    #[test]
    fn reader_sees_the_old_or_the_new_file_whole() {
        let dir = tempfile::tempdir().unwrap();
        let quotas = file(&dir);
        quotas.note([("alice", 1)]);
        quotas.save().unwrap();
        let path = quotas.path().to_owned();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for used in 2..200 {
                    quotas.note([("alice", used), ("someone with a long name", used)]);
                    quotas.save().unwrap();
                }
            });
            while !writer.is_finished() {
                let bytes = fs::read(&path).unwrap();
                serde_json::from_slice::<State>(&bytes).unwrap();
            }
        });
        let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "temporary files stay behind");
    }
}
