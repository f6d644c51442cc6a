//! The file of DC ids that no table knows (`general.unknown_dc_*`): a line of time and id,
//! tab-separated, for each id when it is first asked for.
//!
//! Shards only remember ids; a thread appends what is new. An id that the file has is not written
//! again, so the file has as many lines as there are ids at most, whatever clients send and however
//! often the process starts.

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use shards::control::UnknownDcs;

use crate::config::{self, Finding, Loaded};

/// The file, and what has been written to it.
#[derive(Debug)]
pub(crate) struct UnknownDcFile {
    path: PathBuf,
    seen: Arc<UnknownDcs>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Ids in the file, or once in it.
    written: HashSet<i16>,
    /// How many were known to the shards at the last look that succeeded.
    looked_at: u32,
    /// What was last complained of.
    told: String,
}

/// Where it is to be; `None` when nobody wants it.
///
/// # Errors
/// It cannot be written there.
pub(crate) fn place(loaded: &Loaded, data_path: &Path) -> Result<Option<PathBuf>, Box<Finding>> {
    let general = &loaded.config.general;
    let named = general.unknown_dc_log_path.as_ref();
    let Some(named) = named.filter(|_| general.unknown_dc_file_log_enabled) else {
        return Ok(None);
    };
    let path = data_path.join(&named.0);
    match open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => {
            let text = format!(
                "cannot be written: {error}; {} has to be a file in a directory that exists",
                path.display()
            );
            Err(Box::new(config::rule(loaded, KEY, text)))
        }
    }
}

impl UnknownDcFile {
    /// Writes from time to time, until the process ends.
    ///
    /// # Errors
    /// There are no more threads to be had.
    pub(crate) fn keep(path: PathBuf, seen: Arc<UnknownDcs>) -> io::Result<Arc<Self>> {
        let own = Arc::new(Self {
            path,
            seen,
            state: Mutex::default(),
        });
        own.begin();
        let file = Arc::clone(&own);
        thread::Builder::new()
            .name("unknown-dcs".to_owned())
            .spawn(move || {
                loop {
                    thread::sleep(EVERY);
                    file.look();
                }
            })?;
        Ok(own)
    }

    /// Takes over the ids that the file has.
    fn begin(&self) {
        let mut text = String::new();
        let file = File::open(&self.path);
        // What is beyond the bound is no file of ours; see `append`.
        let read = file.and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = read {
            self.tell(&mut state, &error);
        }
        let ids = text.lines().filter_map(|line| line.rsplit('\t').next());
        state.written = ids.filter_map(|id| id.parse().ok()).collect();
    }

    /// Appends what is new.
    pub(crate) fn look(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.seen.count();
        if count == state.looked_at {
            return;
        }
        let new: Vec<i16> = (self.seen.ids())
            .filter(|id| !state.written.contains(id))
            .collect();
        match append(&self.path, &new) {
            Ok(()) => {
                state.written.extend(new);
                state.looked_at = count;
            }
            Err(error) => self.tell(&mut state, &error),
        }
    }

    /// Once for each reason: the next look tries again.
    fn tell(&self, state: &mut State, error: &io::Error) {
        let why = error.to_string();
        if why != state.told {
            let path = self.path.display();
            tracing::error!("unknown DCs are not written to {path}: {why}");
            state.told = why;
        }
    }
}

fn append(path: &Path, ids: &[i16]) -> io::Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let mut text = String::new();
    for id in ids {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{now}\t{id}");
    }
    let mut file = open(path)?;
    let before = file.metadata()?.len();
    if before + text.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!(
            "it would have more than {FILE_BYTES_MAX} bytes"
        )));
    }
    file.write_all(text.as_bytes()).inspect_err(|_| {
        // Of a full disk, whose part of the text would be written again.
        let _ = file.set_len(before);
    })
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

const KEY: &str = "general.unknown_dc_log_path";
const EVERY: Duration = Duration::from_secs(1);
/// Twice what all ids take.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn ids(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let ids = text.lines().map(|line| {
            let (time, id) = line.split_once('\t').unwrap();
            assert!(time.parse::<Timestamp>().is_ok(), "{line}");
            id.to_owned()
        });
        ids.collect()
    }

    #[test]
    fn an_id_is_written_once_over_all_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dcs.txt");
        append(&path, &[7, -777]).unwrap();
        let file = UnknownDcFile {
            path: path.clone(),
            seen: Arc::default(),
            state: Mutex::default(),
        };
        file.begin();
        let state = file.state.lock().unwrap();
        assert_eq!(state.written, HashSet::from([7, -777]));
        assert_eq!(ids(&path), ["7", "-777"]);
    }

    #[test]
    fn all_ids_there_are_have_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dcs.txt");
        let all: Vec<i16> = (i16::MIN..=i16::MAX).collect();
        append(&path, &all).unwrap();
        assert_eq!(ids(&path).len(), 1 << 16);
        assert!(fs::metadata(&path).unwrap().len() * 2 < FILE_BYTES_MAX);
        fs::write(&path, vec![b'\n'; FILE_BYTES_MAX as usize]).unwrap();
        assert!(append(&path, &[1]).is_err());
    }
}
