//! Implements the control API's [`UserStore`] on the configuration file.
//!
//! Reads answer what the file says now. A change is planned on what the file says, made as an edit
//! of single keys, checked as a whole, written, and only then brought into effect; one at a time.
//! Who else changes the file meanwhile loses nothing: the change is planned anew on their version.
//! Source: control-api.md 4 to 10, 16.

mod applies;
mod cache;
mod change;
mod part;
mod sections;
mod view;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use admin::{
    ConfigPatched, CreateUser, Deleted, PatchUser, QuotaReset, QuotaRow, ReloadAccepted,
    ReloadRequest, ReloadStatus, Revision, SecretText, StoreError, StoredConfig, StoredUsers,
    UserChanged, UserStore,
};
use rand::{TryRng as _, rngs::SysRng};
use serde_json::{Map, Value};

pub(crate) use self::applies::Applies;
use self::{
    cache::{BOM, Disk, FindBase},
    change::Main,
    part::Part,
    sections::{Effects, Merged},
    view::View,
};
use crate::{
    config::{
        self, Failed, Finding, Loaded,
        edit::{self, Edit, EditError, Text},
    },
    file_write::{self, Replaced},
};

/// The configuration file.
pub(crate) struct FileStore {
    disk: Disk,
    process: Arc<dyn Applies>,
    /// Held by whoever changes the file.
    changing: Mutex<()>,
}

/// What to change, and what else the changed configuration must fulfil. Both may be asked anew.
trait Change {
    /// The edits that make the change of this file.
    fn plan(&mut self, main: &Main<'_>) -> Result<Vec<Edit>, StoreError>;

    /// The user whose rows are all that it changes; `None` when it may change more.
    fn user(&self) -> Option<String> {
        None
    }

    /// Looks at a valid configuration before it is written.
    fn check(&mut self, _before: &Loaded, _after: &Loaded) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A change of one user.
struct OfUser<'a, F> {
    name: &'a str,
    plan: F,
}

impl<F: FnMut(&Main<'_>) -> Result<Vec<Edit>, StoreError>> Change for OfUser<'_, F> {
    fn plan(&mut self, main: &Main<'_>) -> Result<Vec<Edit>, StoreError> {
        (self.plan)(main)
    }

    fn user(&self) -> Option<String> {
        Some(self.name.to_owned())
    }
}

/// A patch of the editable sections.
struct Merging<'a> {
    sections: &'a Map<String, Value>,
    merged: Merged,
    effects: Effects,
    /// Asked before anything is written that a reload is to put in force.
    process: Option<&'a dyn Applies>,
}

impl Change for Merging<'_> {
    fn plan(&mut self, main: &Main<'_>) -> Result<Vec<Edit>, StoreError> {
        self.merged = sections::merge(main.view, self.sections)?;
        Ok(self.merged.edits.clone())
    }

    fn check(&mut self, before: &Loaded, after: &Loaded) -> Result<(), StoreError> {
        self.merged.known(after)?;
        self.effects = self.merged.effects(before, after);
        self.process.map_or(Ok(()), Applies::may_reload)
    }
}

/// A change of the file that was made, or that changed nothing.
struct Changed {
    view: Arc<View>,
    /// To be brought into effect; `None` when the file is as it was.
    loaded: Option<Loaded>,
}

impl FileStore {
    /// The file at `path`, whose changes `process` brings into effect. Removes what an interrupted
    /// write of an earlier process left beside it.
    pub(crate) fn new(path: PathBuf, base: FindBase, process: Arc<dyn Applies>) -> Self {
        file_write::clean(&path);
        Self {
            disk: Disk::new(path, base),
            process,
            changing: Mutex::new(()),
        }
    }

    /// Saves the first request from reading what the process has read at its start.
    pub(crate) fn start_with(&self, loaded: &Loaded) {
        self.disk.start_with(loaded);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file as it is now, compared with `If-Match`. The caller holds the lock.
    fn matched(&self, if_match: Option<&str>) -> Result<Arc<View>, StoreError> {
        let view = self.disk.view()?;
        if if_match.is_some_and(|given| given != view.loaded.revision) {
            return Err(StoreError::RevisionConflict);
        }
        Ok(view)
    }

    /// Plans a change, makes, checks and writes it; anew when somebody else was quicker. The
    /// caller holds the lock.
    fn change(
        &self,
        if_match: Option<&str>,
        change: &mut dyn Change,
    ) -> Result<Changed, StoreError> {
        for _ in 0..ATTEMPTS_MAX {
            let view = self.matched(if_match)?;
            let Some(mut loaded) = self.changed(&view, change)? else {
                return Ok(Changed { view, loaded: None });
            };
            let mut bytes = Vec::with_capacity(loaded.text.len() + BOM.len_utf8());
            if view.bytes.starts_with(BOM.to_string().as_bytes()) {
                bytes.extend_from_slice(BOM.to_string().as_bytes());
            }
            bytes.extend_from_slice(loaded.text.as_bytes());
            loaded.revision = config::revision(&bytes);
            change.check(&view.loaded, &loaded)?;
            match file_write::replace(&self.disk.path, &view.bytes, &bytes) {
                Ok(Replaced::Done) => {
                    let view = Arc::new(self.disk.seen(&bytes, loaded.clone()));
                    self.disk.written(&view);
                    return Ok(Changed {
                        view,
                        loaded: Some(loaded),
                    });
                }
                Ok(Replaced::Changed) => {}
                Err(error) => {
                    tracing::error!("control API: {error}");
                    return Err(StoreError::Unwritable(error.reason()));
                }
            }
        }
        let reason = "it changes faster than that";
        tracing::error!("control API: cannot write the configuration: {reason}");
        Err(StoreError::Unwritable(reason))
    }

    /// The configuration with a change made, checked; `None` when that says the same.
    fn changed(&self, view: &View, change: &mut dyn Change) -> Result<Option<Loaded>, StoreError> {
        if let Some(user) = change.user()
            && let Some(part) = Part::of(&view.loaded, &user)
        {
            // Refused or not found out: the whole file tells why, or how.
            if let Ok(text) = edited(view, &part.text, change)? {
                if text == part.text {
                    return Ok(None);
                }
                if let Some(loaded) = part.load(text) {
                    return Ok(Some(loaded));
                }
            }
        }
        let text = edited(view, &view.loaded.text, change)?.map_err(|error| {
            tracing::warn!("control API: {error}");
            StoreError::Invalid(error.to_string().into())
        })?;
        if text == view.loaded.text {
            return Ok(None);
        }
        let loaded = config::parse(&self.disk.path, text).map_err(|failed| invalid(&failed))?;
        Ok(Some(loaded))
    }

    /// Changes a user, and has it in effect before the answer.
    fn change_user(
        &self,
        name: &str,
        if_match: Option<&str>,
        plan: impl FnMut(&Main<'_>) -> Result<Vec<Edit>, StoreError>,
    ) -> Result<UserChanged, StoreError> {
        let _changing = self.lock();
        let mut change = OfUser { name, plan };
        let Changed { view, loaded } = self.change(if_match, &mut change)?;
        if let Some(loaded) = loaded {
            self.process.apply(loaded);
        }
        let (user, secret) = view.user(name)?;
        Ok(UserChanged {
            revision: view.revision(),
            user,
            defaults: view.defaults(),
            secret,
        })
    }
}

impl UserStore for FileStore {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.disk.revision()
    }

    fn users(&self) -> Result<StoredUsers, StoreError> {
        Ok(self.disk.view()?.all())
    }

    fn user(&self, username: &str) -> Result<StoredUsers, StoreError> {
        let view = self.disk.view()?;
        let users = match view.user(username) {
            Ok((user, _)) => vec![user],
            Err(StoreError::UserNotFound) => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(StoredUsers {
            revision: view.revision(),
            users,
            defaults: view.defaults(),
        })
    }

    fn create(&self, user: &CreateUser, if_match: Option<&str>) -> Result<UserChanged, StoreError> {
        let secret = chosen(user.secret.as_ref())?;
        self.change_user(&user.username, if_match, |main: &Main<'_>| {
            if main.view.has(&user.username) {
                return Err(StoreError::UserExists);
            }
            Ok(change::create(main, user, secret.as_str()))
        })
    }

    fn patch(
        &self,
        username: &str,
        patch: &PatchUser,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.change_user(username, if_match, |main: &Main<'_>| {
            known(main, username)?;
            Ok(change::patch(main, username, patch))
        })
    }

    fn rotate_secret(
        &self,
        username: &str,
        secret: Option<&SecretText>,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        let secret = chosen(secret)?;
        self.change_user(username, if_match, |main: &Main<'_>| {
            known(main, username)?;
            let path = ["access", "users", username];
            Ok(vec![Edit::set(&path, secret.as_str())])
        })
    }

    fn delete(&self, username: &str, if_match: Option<&str>) -> Result<Deleted, StoreError> {
        let _changing = self.lock();
        let plan = |main: &Main<'_>| {
            known(main, username)?;
            if main.view.loaded.config.access.users.0.len() == 1 {
                return Err(StoreError::LastUser);
            }
            Ok(change::delete(main, username))
        };
        let mut change = OfUser {
            name: username,
            plan,
        };
        let Changed { view, loaded } = self.change(if_match, &mut change)?;
        if let Some(loaded) = loaded {
            self.process.apply(loaded);
        }
        Ok(Deleted {
            revision: view.revision(),
        })
    }

    fn reset_quota(
        &self,
        username: &str,
        if_match: Option<&str>,
    ) -> Result<QuotaReset, StoreError> {
        let _changing = self.lock();
        let view = self.matched(if_match)?;
        if !view.has(username) {
            return Err(StoreError::UserNotFound);
        }
        let reset = self.process.reset_quota(username);
        let last_reset_epoch_secs = reset.map_err(|error| {
            tracing::error!("control API: cannot store used quotas: {error}");
            StoreError::Unwritable("the file of used quotas cannot be either")
        })?;
        Ok(QuotaReset {
            revision: view.revision(),
            last_reset_epoch_secs,
        })
    }

    fn set_enabled(
        &self,
        username: &str,
        enabled: bool,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.change_user(username, if_match, |main: &Main<'_>| {
            known(main, username)?;
            Ok(change::set_enabled(main, username, enabled))
        })
    }

    fn quotas(&self) -> Vec<QuotaRow> {
        self.process.quotas()
    }

    fn config(&self) -> Result<StoredConfig, StoreError> {
        let view = self.disk.view()?;
        Ok(StoredConfig {
            revision: view.revision(),
            sections: sections::shown(&view),
        })
    }

    fn patch_config(
        &self,
        sections: &Map<String, Value>,
        if_match: Option<&str>,
        reload: Option<ReloadRequest>,
    ) -> Result<ConfigPatched, StoreError> {
        let _changing = self.lock();
        let mut merging = Merging {
            sections,
            merged: Merged::default(),
            effects: Effects::default(),
            process: reload.map(|_| &*self.process),
        };
        let Changed { view, loaded } = self.change(if_match, &mut merging)?;
        let reload = match (reload, loaded) {
            (Some(request), loaded) => {
                let loaded = loaded.unwrap_or_else(|| view.loaded.clone());
                self.process.may_reload()?;
                Some(self.process.reload(request, loaded)?)
            }
            (None, Some(loaded)) => {
                self.process.apply(loaded);
                None
            }
            (None, None) => None,
        };
        Ok(ConfigPatched {
            revision: view.revision(),
            changed: merging.merged.changed,
            restart_keys: merging.effects.restart,
            hot_keys: merging.effects.hot,
            reload,
        })
    }

    fn reload(
        &self,
        request: ReloadRequest,
        if_match: Option<&str>,
    ) -> Result<ReloadAccepted, StoreError> {
        let _changing = self.lock();
        let view = self.matched(if_match)?;
        self.process.may_reload()?;
        self.process.reload(request, view.loaded.clone())
    }

    fn reload_status(&self, id: u64) -> Option<ReloadStatus> {
        self.process.reload_status(id)
    }
}

/// Plans a change of a text and makes it.
fn edited(
    view: &View,
    text: &str,
    change: &mut dyn Change,
) -> Result<Result<String, EditError>, StoreError> {
    let text = Text::parse(text).ok_or(StoreError::Unparsable)?;
    let main = Main { view, text };
    let edits = change.plan(&main)?;
    change::in_main_file(&main, &edits)?;
    Ok(edit::apply(&main.text, &edits))
}

fn known(main: &Main<'_>, username: &str) -> Result<(), StoreError> {
    match main.view.has(username) {
        true => Ok(()),
        false => Err(StoreError::UserNotFound),
    }
}

/// The given secret, or a fresh one of the operating system's randomness.
fn chosen(given: Option<&SecretText>) -> Result<SecretText, StoreError> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    let mut secret = [0; 16];
    let drawn = SysRng.try_fill_bytes(&mut secret);
    let fresh = drawn
        .ok()
        .and_then(|()| SecretText::parse(&hex::encode(secret)));
    fresh.ok_or_else(|| {
        let reason = "the operating system gives no random bytes";
        tracing::error!("control API: {reason}");
        StoreError::Unwritable(reason)
    })
}

/// Why the changed file would not load, without paths and secrets.
fn invalid(failed: &Failed) -> StoreError {
    let sentences: Vec<String> = failed.errors.iter().map(sentence).collect();
    StoreError::Invalid(sentences.join("; ").into())
}

fn sentence(finding: &Finding) -> String {
    let Finding {
        key,
        value,
        problem,
        ..
    } = finding;
    if key == "include" {
        return "an included file cannot be read".to_owned();
    }
    let mut text = key.clone();
    if let Some(value) = value {
        text.push_str(&format!(" = {value}"));
    }
    if !text.is_empty() {
        text.push(' ');
    }
    format!("{text}{problem}")
}

/// Editors save seldom; this many in a row is no editor.
const ATTEMPTS_MAX: usize = 100;

#[cfg(test)]
mod tests;
