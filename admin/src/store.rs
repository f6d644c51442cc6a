//! [`UserStore`]: users and revision as the configuration file has them now.
//!
//! The binary implements the trait on top of its configuration reader; tests give canned users.
//! Requests arrive with their JSON parsed and their field formats checked (`request.rs`).

use std::{borrow::Cow, fmt};

use crate::{Expiration, model::users::UserLinks};

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
}

/// SHA-256 of the configuration file, 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(pub String);

/// Users of the file with the revision of the same bytes.
#[derive(Clone, Debug)]
pub struct StoredUsers {
    /// Of the bytes that were parsed.
    pub revision: Revision,
    /// In any order.
    pub users: Vec<StoredUser>,
    /// What holds for users without a value of their own.
    pub defaults: UserDefaults,
}

/// What holds for users without a value of their own; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UserDefaults {
    /// `access.user_max_tcp_conns_global_each`.
    pub max_tcp_conns: u64,
    /// `access.user_max_unique_ips_global_each`.
    pub max_unique_ips: u64,
}

/// One user as stored. Values are as in the file; the API works out the effective ones.
#[derive(Clone, Debug, Default)]
pub struct StoredUser {
    /// Name.
    pub username: String,
    /// Ad tag as written.
    pub user_ad_tag: Option<String>,
    /// Own connection limit; 0 counts as unset.
    pub max_tcp_conns: Option<u64>,
    /// End of validity.
    pub expiration: Option<Expiration>,
    /// Own quota, bytes; 0 is a value.
    pub data_quota_bytes: Option<u64>,
    /// Own limit of addresses; 0 counts as unset.
    pub max_unique_ips: Option<u64>,
    /// `tg://` links by mode. Source: control-api.md 13.
    pub links: UserLinks,
}

/// A secret as text: 32 hex digits of either case. Never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// Takes exactly 32 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| Self(text.to_owned()))
    }

    /// The digits, as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// A new user; formats are checked, integers are at most 2^63-1.
#[derive(Clone, Debug)]
pub struct CreateUser {
    /// 1 to 64 of letters, digits, `_`, `.`, `-`.
    pub username: String,
    /// Drawn at random when absent.
    pub secret: Option<SecretText>,
    /// 32 hex digits, as given.
    pub user_ad_tag: Option<String>,
    /// Connection limit.
    pub max_tcp_conns: Option<u64>,
    /// End of validity.
    pub expiration: Option<Expiration>,
    /// Quota, bytes.
    pub data_quota_bytes: Option<u64>,
    /// Limit of addresses.
    pub max_unique_ips: Option<u64>,
}

/// What a merge patch says of one field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Patch<T> {
    /// Left out: keep what is stored.
    #[default]
    Keep,
    /// `null`: delete the entry.
    Remove,
    /// Store this.
    Set(T),
}

/// A change of some fields of one user.
#[derive(Clone, Debug, Default)]
pub struct PatchUser {
    /// New secret; there is no way to remove it.
    pub secret: Option<SecretText>,
    /// 32 hex digits, as given.
    pub user_ad_tag: Patch<String>,
    /// Connection limit.
    pub max_tcp_conns: Patch<u64>,
    /// End of validity.
    pub expiration: Patch<Expiration>,
    /// Quota, bytes.
    pub data_quota_bytes: Patch<u64>,
    /// Limit of addresses.
    pub max_unique_ips: Patch<u64>,
}

impl PatchUser {
    /// Changes nothing: `{}`, or only unknown members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.secret.is_none()
            && self.user_ad_tag == Patch::Keep
            && self.max_tcp_conns == Patch::Keep
            && self.expiration == Patch::Keep
            && self.data_quota_bytes == Patch::Keep
            && self.max_unique_ips == Patch::Keep
    }
}

/// A user after create, patch or rotate, as the file now has it.
#[derive(Clone, Debug)]
pub struct UserChanged {
    /// Of the file just written, or of the unchanged one.
    pub revision: Revision,
    /// The user.
    pub user: StoredUser,
    /// What holds for users without a value of their own.
    pub defaults: UserDefaults,
    /// The secret now in force.
    pub secret: SecretText,
}

/// A user was removed.
#[derive(Clone, Debug)]
pub struct Deleted {
    /// Of the file just written.
    pub revision: Revision,
}

/// A user's used quota was zeroed.
#[derive(Clone, Debug)]
pub struct QuotaReset {
    /// Of the unchanged file.
    pub revision: Revision,
    /// When, unix seconds.
    pub last_reset_epoch_secs: u64,
}

/// Why the file could not be read or changed. Texts reach the caller: no paths, no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be read: `500`.
    #[error("the configuration file cannot be read")]
    Unreadable,
    /// The file can be read but is no valid configuration: `500`.
    #[error("the configuration file is not valid")]
    Unparsable,
    /// The new file could not be written: `500`.
    #[error("the configuration file cannot be written")]
    Unwritable,
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
    /// This build cannot make the change: `500`.
    #[error("this version cannot change users; edit the configuration file and restart")]
    Unsupported,
}
