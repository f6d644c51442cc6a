//! [`UserStore`]: users, editable sections and revision as the configuration file has them now.
//!
//! The binary implements the trait on top of its configuration reader; tests give canned users.
//! Requests arrive with their JSON parsed and their field formats checked (`request.rs`).

mod config;
mod users;

use std::borrow::Cow;

use serde_json::{Map, Value};

pub use self::{
    config::{
        ConfigPatched, EDITABLE_SECTIONS, FailurePolicy, ReloadAccepted, ReloadMode, ReloadRequest,
        ReloadState, ReloadStatus, StoredConfig,
    },
    users::{
        CreateUser, Deleted, Patch, PatchUser, QuotaReset, QuotaRow, SecretText, StoredUser,
        StoredUsers, UserChanged, UserDefaults,
    },
};

/// The configuration file: users, links, revision. Every call reads the file as it is now.
pub trait UserStore: Send + Sync + 'static {
    /// SHA-256 of the file's bytes.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`].
    fn revision(&self) -> Result<Revision, StoreError>;

    /// All users, and the revision of the very bytes they were read from. Order does not matter.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Unparsable`].
    fn users(&self) -> Result<StoredUsers, StoreError>;

    /// The same with this user alone, or with nobody when there is no such user. Worth its own
    /// implementation where users are kept in memory: thousands need not be copied for one.
    ///
    /// # Errors
    /// As [`Self::users`].
    fn user(&self, username: &str) -> Result<StoredUsers, StoreError> {
        let mut stored = self.users()?;
        stored.users.retain(|user| user.username == username);
        Ok(stored)
    }

    /// Adds a user. The secret is drawn when the request has none.
    ///
    /// `if_match` is compared inside the lock that serialises all changes, before anything about
    /// the user is looked at; the same holds for the other changes. Source: control-api.md 2, 4.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UserNotFound` and `LastUser`.
    fn create(&self, user: &CreateUser, if_match: Option<&str>) -> Result<UserChanged, StoreError>;

    /// Changes the named fields of a user and leaves the others. Source: control-api.md 8.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UserExists` and `LastUser`.
    fn patch(
        &self,
        username: &str,
        patch: &PatchUser,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError>;

    /// Replaces a user's secret by the given one, or by a fresh one.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UserExists` and `LastUser`.
    fn rotate_secret(
        &self,
        username: &str,
        secret: Option<&SecretText>,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError>;

    /// Removes a user from every per-user table.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UserExists`.
    fn delete(&self, username: &str, if_match: Option<&str>) -> Result<Deleted, StoreError>;

    /// Zeroes a user's used quota; the file stays as it is.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UserExists` and `LastUser`.
    fn reset_quota(&self, username: &str, if_match: Option<&str>)
    -> Result<QuotaReset, StoreError>;

    /// Lets a user connect, or not; a disabled user's sessions end. Doing it again is no error and
    /// changes nothing.
    ///
    /// # Errors
    /// Any [`StoreError`] but `UserExists` and `LastUser`.
    fn set_enabled(
        &self,
        username: &str,
        enabled: bool,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError>;

    /// What users with a quota above 0 have used, as the running process counts it; in any order.
    fn quotas(&self) -> Vec<QuotaRow>;

    /// The [`EDITABLE_SECTIONS`] as the file has them; those it does not have are left out.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], [`StoreError::Unparsable`].
    fn config(&self) -> Result<StoredConfig, StoreError>;

    /// Changes the named keys of editable sections: tables merge key by key, arrays and scalars
    /// replace, nulls are ignored. The request holds at least one section, and only editable ones.
    ///
    /// With a reload that cannot be accepted the file stays as it is.
    ///
    /// # Errors
    /// Any [`StoreError`] that is not about users.
    fn patch_config(
        &self,
        sections: &Map<String, Value>,
        if_match: Option<&str>,
        reload: Option<ReloadRequest>,
    ) -> Result<ConfigPatched, StoreError>;

    /// Puts the file as it is now in force; returns as soon as that is begun.
    ///
    /// # Errors
    /// Any [`StoreError`] that is not about users.
    fn reload(
        &self,
        request: ReloadRequest,
        if_match: Option<&str>,
    ) -> Result<ReloadAccepted, StoreError>;

    /// How far a reload is; `None` for one that never was or is forgotten.
    fn reload_status(&self, id: u64) -> Option<ReloadStatus>;
}

/// SHA-256 of the configuration file, 64 lower-case hex digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revision(pub String);

/// Why the file could not be read or changed. Texts reach the caller: no paths, no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read: `500`.
    #[error("the configuration file cannot be read")]
    Unreadable,
    /// The file can be read but is no valid configuration: `500`.
    #[error("the configuration file is not valid")]
    Unparsable,
    /// The new file could not be written, the old one is as it was: `500`. The text says why.
    #[error("the configuration file cannot be written: {0}")]
    Unwritable(&'static str),
    /// `If-Match` names another revision: `409`.
    #[error("the configuration has changed since")]
    RevisionConflict,
    /// Create of a known name: `409`.
    #[error("the user exists already")]
    UserExists,
    /// No such user: `404`.
    #[error("no such user")]
    UserNotFound,
    /// The only user cannot be deleted: `409`.
    #[error("the last user cannot be deleted")]
    LastUser,
    /// The changed configuration would not be valid: `400`. The text says why.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// Another reload has not finished: `409`.
    #[error("another reload has not finished")]
    ReloadInProgress,
    /// Nobody is there to carry a reload out: `503`.
    #[error("reloads are not available")]
    ReloadUnavailable,
    /// This build cannot make the change: `500`.
    #[error("this version cannot change users; edit the configuration file and restart")]
    Unsupported,
}
