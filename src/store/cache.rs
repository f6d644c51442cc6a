//! The file as it is on disk, read and parsed anew only when it may have changed.
//!
//! Not here: what is in it (`view.rs`), who changes it (`change.rs`).

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use admin::{Revision, StoreError};
use sha2::{Digest as _, Sha256};

use super::view::View;
use crate::{
    config::{self, Config},
    file_write::{self, Content, Stamp},
    links::LinkBase,
};

/// Finds hosts and port of links.
pub(crate) type FindBase = Box<dyn Fn(&Config) -> LinkBase + Send + Sync>;

/// The configuration file, and what is known of it.
pub(super) struct Disk {
    pub(super) path: PathBuf,
    base: FindBase,
    known: Mutex<Known>,
}

/// What was found the last time.
#[derive(Default)]
struct Known {
    main: Option<(Seen, Arc<[u8]>, Revision)>,
    parsed: Option<Parsed>,
}

/// What the bytes say, and the other files that it depends on.
struct Parsed {
    revision: Revision,
    included: Vec<(PathBuf, Seen)>,
    view: Result<Arc<View>, StoreError>,
}

/// A file as it was seen.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    digest: [u8; 32],
}

impl Seen {
    fn new(content: &Content) -> Self {
        Self {
            stamp: content.stamp,
            digest: Sha256::digest(&content.bytes).into(),
        }
    }

    /// Whether the file still has the bytes it had; takes note of a newer stamp.
    fn holds(&mut self, path: &Path) -> bool {
        match Stamp::of(path) {
            Ok(now) if self.stamp.holds(&now) => true,
            Ok(_) => file_write::read(path).is_ok_and(|content| {
                let now = Self::new(&content);
                let same = now.digest == self.digest;
                *self = now;
                same
            }),
            Err(_) => false,
        }
    }
}

impl Disk {
    pub(super) fn new(path: PathBuf, base: FindBase) -> Self {
        Self {
            path,
            base,
            known: Mutex::default(),
        }
    }

    /// SHA-256 of the bytes on disk.
    pub(super) fn revision(&self) -> Result<Revision, StoreError> {
        let mut known = self.lock();
        known.refresh(&self.path).map(|(_, revision)| revision)
    }

    /// What the file says now.
    pub(super) fn view(&self) -> Result<Arc<View>, StoreError> {
        let mut known = self.lock();
        let (bytes, revision) = known.refresh(&self.path)?;
        if let Some(parsed) = &mut known.parsed
            && parsed.revision == revision
            && parsed
                .included
                .iter_mut()
                .all(|(path, seen)| seen.holds(path))
        {
            return parsed.view.clone();
        }
        let view = self.parse(&bytes);
        known.parsed = None;
        match view {
            Ok(view) => {
                let view = Arc::new(view);
                known.keep(revision, Ok(Arc::clone(&view)));
                Ok(view)
            }
            Err(error) => {
                // Another file may be to blame, and which one is not known.
                if !String::from_utf8_lossy(&bytes).contains("include") {
                    known.keep(revision, Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// What bytes would say as the main file.
    fn parse(&self, bytes: &[u8]) -> Result<View, StoreError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            tracing::warn!("control API: the configuration is not UTF-8: {error}");
            StoreError::Unparsable
        })?;
        let text = text.strip_prefix(BOM).unwrap_or(text);
        let loaded = config::parse(&self.path, text.to_owned()).map_err(|failed| {
            tracing::warn!("control API: the configuration is not valid: {failed}");
            StoreError::Unparsable
        })?;
        Ok(self.seen(bytes, loaded))
    }

    /// What a configuration says whose main file has these bytes.
    pub(super) fn seen(&self, bytes: &[u8], mut loaded: config::Loaded) -> View {
        loaded.revision = config::revision(bytes);
        let base = (self.base)(&loaded.config);
        View::new(bytes.into(), loaded, base)
    }

    /// Takes over what the file said a moment ago, unless that is not known to the byte.
    pub(super) fn start_with(&self, loaded: &config::Loaded) {
        let text = loaded.text.as_bytes();
        let marked = [BOM.to_string().as_bytes(), text].concat();
        let mut both = [text, &marked].into_iter();
        let bytes = both.find(|bytes| config::revision(bytes) == loaded.revision);
        if let Some(bytes) = bytes {
            self.written(&Arc::new(self.seen(bytes, loaded.clone())));
        }
    }

    /// Takes note of what was just written; the next look at the file compares its bytes.
    pub(super) fn written(&self, view: &Arc<View>) {
        let mut known = self.lock();
        known.main = None;
        known.keep(view.revision(), Ok(Arc::clone(view)));
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The main file's bytes as they are now.
    fn refresh(&mut self, path: &Path) -> Result<(Arc<[u8]>, Revision), StoreError> {
        let unreadable = |error: std::io::Error| {
            tracing::warn!(%error, path = %path.display(), "control API: cannot read the configuration");
            StoreError::Unreadable
        };
        let now = Stamp::of(path).map_err(unreadable)?;
        if let Some((seen, bytes, revision)) = &self.main
            && seen.stamp.holds(&now)
        {
            return Ok((Arc::clone(bytes), revision.clone()));
        }
        let content = file_write::read(path).map_err(unreadable)?;
        let seen = Seen::new(&content);
        let revision = Revision(hex::encode(seen.digest));
        let bytes: Arc<[u8]> = content.bytes.into();
        self.main = Some((seen, Arc::clone(&bytes), revision.clone()));
        Ok((bytes, revision))
    }

    fn keep(&mut self, revision: Revision, view: Result<Arc<View>, StoreError>) {
        let files = view.as_ref().map_or(&[][..], |view| &view.loaded.files);
        let mut included = Vec::new();
        for file in files.iter().skip(1) {
            // Read before or after the parse, it has to have the bytes that were parsed: a stamp
            // that is not settled leads to a second look, a changed digest to a second parse.
            match file_write::read(file) {
                Ok(content) => included.push((file.to_path_buf(), Seen::new(&content))),
                Err(_) => return,
            }
        }
        self.parsed = Some(Parsed {
            revision,
            included,
            view,
        });
    }
}

/// What some editors put before the first byte.
pub(super) const BOM: char = '\u{feff}';
