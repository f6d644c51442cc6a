//! Implements the control API's [`UserStore`] on the configuration file: reads it as it is now.
//!
//! How a configuration is parsed and how links are made is given to it by `main.rs`. Changes are
//! decided as far as they need no writing: a request that conflicts, names an unknown user or
//! changes nothing gets its proper answer.

mod applies;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use admin::{
    ConfigPatched, CreateUser, Deleted, PatchUser, QuotaReset, QuotaRow, ReloadAccepted,
    ReloadRequest, ReloadStatus, Revision, SecretText, StoreError, StoredConfig, StoredUser,
    StoredUsers, UserChanged, UserDefaults, UserStore,
};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

#[expect(unused_imports, reason = "comes into use with writing")]
pub(crate) use self::applies::Applies;

/// Users of a configuration with their secrets.
pub(crate) struct FileUsers {
    /// In any order.
    pub(crate) users: Vec<(StoredUser, SecretText)>,
    /// What holds for users without a value of their own.
    pub(crate) defaults: UserDefaults,
}

/// Parses the main file's text; `None` when it is no valid configuration.
pub(crate) type Parse = Box<dyn Fn(&Path, String) -> Option<FileUsers> + Send + Sync>;

/// The configuration file.
pub(crate) struct FileStore {
    path: PathBuf,
    parse: Parse,
    /// Held by whoever changes the file.
    changing: Mutex<()>,
}

struct Read {
    revision: Revision,
    users: Vec<(StoredUser, SecretText)>,
    defaults: UserDefaults,
}

impl FileStore {
    /// The file at `path`, read anew for every call.
    pub(crate) fn new(path: PathBuf, parse: Parse) -> Self {
        Self {
            path,
            parse,
            changing: Mutex::new(()),
        }
    }

    fn bytes(&self) -> Result<(Vec<u8>, Revision), StoreError> {
        let bytes = fs::read(&self.path).map_err(|error| {
            tracing::warn!(%error, path = %self.path.display(), "control API: cannot read the configuration");
            StoreError::Unreadable
        })?;
        let revision = Revision(hex::encode(Sha256::digest(&bytes)));
        Ok((bytes, revision))
    }

    fn read(&self) -> Result<Read, StoreError> {
        let (bytes, revision) = self.bytes()?;
        let text = String::from_utf8(bytes).map_err(|_| StoreError::Unparsable)?;
        let users = (self.parse)(&self.path, text).ok_or(StoreError::Unparsable)?;
        Ok(Read {
            revision,
            users: users.users,
            defaults: users.defaults,
        })
    }

    /// The file as it is now, compared with `If-Match`; nobody else changes it meanwhile.
    fn lock(&self, if_match: Option<&str>) -> Result<(MutexGuard<'_, ()>, Read), StoreError> {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.read()?;
        if if_match.is_some_and(|given| given != read.revision.0) {
            return Err(StoreError::RevisionConflict);
        }
        Ok((changing, read))
    }
}

impl UserStore for FileStore {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.bytes().map(|(_, revision)| revision)
    }

    fn users(&self) -> Result<StoredUsers, StoreError> {
        let Read {
            revision,
            users,
            defaults,
        } = self.read()?;
        let users = users.into_iter().map(|(user, _)| user).collect();
        Ok(StoredUsers {
            revision,
            users,
            defaults,
        })
    }

    fn create(&self, user: &CreateUser, if_match: Option<&str>) -> Result<UserChanged, StoreError> {
        let (_changing, read) = self.lock(if_match)?;
        match read.find(&user.username) {
            Ok(_) => Err(StoreError::UserExists),
            Err(_) => Err(StoreError::Unsupported),
        }
    }

    fn patch(
        &self,
        username: &str,
        patch: &PatchUser,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        let (_changing, read) = self.lock(if_match)?;
        let (user, secret) = read.find(username)?.clone();
        if !patch.is_empty() {
            return Err(StoreError::Unsupported);
        }
        Ok(UserChanged {
            revision: read.revision,
            user,
            defaults: read.defaults,
            secret,
        })
    }

    fn rotate_secret(
        &self,
        username: &str,
        _secret: Option<&SecretText>,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        let (_changing, read) = self.lock(if_match)?;
        read.find(username)?;
        Err(StoreError::Unsupported)
    }

    fn delete(&self, username: &str, if_match: Option<&str>) -> Result<Deleted, StoreError> {
        let (_changing, read) = self.lock(if_match)?;
        read.find(username)?;
        if read.users.len() == 1 {
            return Err(StoreError::LastUser);
        }
        Err(StoreError::Unsupported)
    }

    fn reset_quota(
        &self,
        username: &str,
        if_match: Option<&str>,
    ) -> Result<QuotaReset, StoreError> {
        let (_changing, read) = self.lock(if_match)?;
        read.find(username)?;
        Err(StoreError::Unsupported)
    }

    fn set_enabled(
        &self,
        username: &str,
        _enabled: bool,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        let (_changing, read) = self.lock(if_match)?;
        read.find(username)?;
        Err(StoreError::Unsupported)
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        Vec::new()
    }

    fn config(&self) -> Result<StoredConfig, StoreError> {
        Err(StoreError::Unsupported)
    }

    fn patch_config(
        &self,
        _sections: &Map<String, Value>,
        if_match: Option<&str>,
        _reload: Option<ReloadRequest>,
    ) -> Result<ConfigPatched, StoreError> {
        let _locked = self.lock(if_match)?;
        Err(StoreError::Unsupported)
    }

    fn reload(
        &self,
        _request: ReloadRequest,
        if_match: Option<&str>,
    ) -> Result<ReloadAccepted, StoreError> {
        let _locked = self.lock(if_match)?;
        Err(StoreError::ReloadUnavailable)
    }

    fn reload_status(&self, _id: u64) -> Option<ReloadStatus> {
        None
    }
}

impl Read {
    fn find(&self, username: &str) -> Result<&(StoredUser, SecretText), StoreError> {
        let found = self
            .users
            .iter()
            .find(|(user, _)| user.username == username);
        found.ok_or(StoreError::UserNotFound)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use admin::Patch;
    use tempfile::NamedTempFile;

    use super::*;

    /// One user name per line; `!` makes the file invalid.
    fn store(text: &str) -> (NamedTempFile, FileStore) {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let parse = |_: &Path, text: String| {
            let user = |name: &str| {
                let user = StoredUser {
                    username: name.to_owned(),
                    ..StoredUser::default()
                };
                (user, SecretText::parse(&"0a".repeat(16)).unwrap())
            };
            let users = text.lines().map(user).collect();
            (!text.contains('!')).then_some(FileUsers {
                users,
                defaults: UserDefaults::default(),
            })
        };
        let store = FileStore::new(file.path().to_owned(), Box::new(parse));
        (file, store)
    }

    #[test]
    fn revision_is_that_of_the_bytes_on_disk() {
        let (mut file, store) = store("abc");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(store.revision().unwrap().0, abc);
        assert_eq!(store.users().unwrap().revision.0, abc);
        file.write_all(b"\n").unwrap();
        assert_ne!(store.revision().unwrap().0, abc);
        file.close().unwrap();
        assert_eq!(store.revision(), Err(StoreError::Unreadable));
    }

    #[test]
    fn invalid_file_breaks_only_what_reads_users() {
        let (_file, store) = store("abc!");
        assert!(store.revision().is_ok());
        assert_eq!(store.users().unwrap_err(), StoreError::Unparsable);
        assert_eq!(
            store.delete("abc", None).unwrap_err(),
            StoreError::Unparsable
        );
    }

    #[test]
    fn changes_are_judged_before_they_are_refused() {
        let (_file, store) = store("a\nb");
        let revision = store.revision().unwrap();
        let (stale, now) = (Some("0"), Some(revision.0.as_str()));
        let patch = PatchUser {
            max_tcp_conns: Patch::Remove,
            ..PatchUser::default()
        };
        assert_eq!(
            store.delete("zz", stale).unwrap_err(),
            StoreError::RevisionConflict
        );
        assert_eq!(
            store.delete("zz", now).unwrap_err(),
            StoreError::UserNotFound
        );
        assert_eq!(store.delete("a", now).unwrap_err(), StoreError::Unsupported);
        assert_eq!(
            store.patch("a", &patch, now).unwrap_err(),
            StoreError::Unsupported
        );
        assert_eq!(
            store.reset_quota("zz", now).unwrap_err(),
            StoreError::UserNotFound
        );
        let unchanged = store.patch("a", &PatchUser::default(), now).unwrap();
        assert_eq!(
            (unchanged.revision, unchanged.user.username.as_str()),
            (revision, "a")
        );
    }

    #[test]
    fn last_user_stays() {
        let (_file, store) = store("a");
        assert_eq!(store.delete("a", None).unwrap_err(), StoreError::LastUser);
    }
}
