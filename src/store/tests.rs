//! The store on files of its own, with a process that only takes notes.

mod editable;
mod part;
mod users;

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use admin::ReloadStatus;
use tempfile::TempDir;

use super::*;
use crate::links::{Detected, LinkBase};

/// What the process was told.
#[derive(Default)]
pub(super) struct Notes {
    applied: Mutex<Vec<Loaded>>,
    reloaded: Mutex<Vec<Loaded>>,
    busy: AtomicBool,
}

impl Applies for Notes {
    fn apply(&self, loaded: Loaded) {
        self.applied.lock().unwrap().push(loaded);
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        Vec::new()
    }

    fn reset_quota(&self, username: &str) -> io::Result<u64> {
        if username == "disk-full" {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(1_700_000_000)
    }

    fn may_reload(&self) -> Result<(), StoreError> {
        match self.busy.load(Ordering::Relaxed) {
            true => Err(StoreError::ReloadInProgress),
            false => Ok(()),
        }
    }

    fn reload(&self, request: ReloadRequest, loaded: Loaded) -> Result<ReloadAccepted, StoreError> {
        let config_revision = Revision(loaded.revision.clone());
        self.reloaded.lock().unwrap().push(loaded);
        Ok(ReloadAccepted {
            reload_id: 1,
            target_generation: 2,
            config_revision,
            mode: request.mode,
            failure_policy: request.failure_policy,
        })
    }

    fn reload_status(&self, _: u64) -> Option<ReloadStatus> {
        None
    }
}

pub(super) struct Place {
    dir: TempDir,
    path: PathBuf,
    store: FileStore,
    process: Arc<Notes>,
}

impl Place {
    pub(super) fn new(text: &str) -> Self {
        Self::with(text, &[])
    }

    /// With other files beside the main one.
    pub(super) fn with(text: &str, others: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        for (name, text) in others {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let process = Arc::new(Notes::default());
        let base = |config: &config::Config| LinkBase::new(config, Detected::default());
        let store = FileStore::new(path.clone(), Box::new(base), Arc::clone(&process) as _);
        Self {
            dir,
            path,
            store,
            process,
        }
    }

    pub(super) fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    /// Only the files that were there at the start, and the last file written is in effect.
    pub(super) fn expect_clean(&self, files: usize) {
        assert_eq!(fs::read_dir(self.dir.path()).unwrap().count(), files);
        if let Some(last) = self.process.applied.lock().unwrap().last() {
            let bytes = fs::read(&self.path).unwrap();
            assert_eq!(last.revision, config::revision(&bytes));
            assert_eq!(self.store.revision().unwrap().0, last.revision);
        }
    }
}

pub(super) const AL: &str = "aAbB0000000000000000000000000001";
pub(super) const BOB: &str = "bbbb0000000000000000000000000002";

pub(super) fn minimal() -> String {
    format!(
        "# top\n[censorship]\ntls_domain = \"a.io\" # ours\n\n[access.users]\nal = \"{AL}\" # al\nbob = \"{BOB}\"\n# end\n"
    )
}
