//! Users as the file has them, and the requests that change them.
//!
//! Plain data: `request.rs` builds the requests, the binary's store answers them.

use std::fmt;

use super::Revision;
use crate::{Expiration, model::users::UserLinks};

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
#[derive(Clone, Debug)]
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
    /// Own rate towards Telegram, bits per second; 0 counts as unset.
    pub rate_limit_up_bps: Option<u64>,
    /// Own rate towards the client, bits per second; 0 counts as unset.
    pub rate_limit_down_bps: Option<u64>,
    /// May connect: true unless the file says otherwise.
    pub enabled: bool,
    /// `tg://` links by mode. Source: control-api.md 13.
    pub links: UserLinks,
}

impl Default for StoredUser {
    /// Nobody, without limits, enabled.
    fn default() -> Self {
        Self {
            username: String::new(),
            user_ad_tag: None,
            max_tcp_conns: None,
            expiration: None,
            data_quota_bytes: None,
            max_unique_ips: None,
            rate_limit_up_bps: None,
            rate_limit_down_bps: None,
            enabled: true,
            links: UserLinks::default(),
        }
    }
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
    /// Rate towards Telegram, bits per second.
    pub rate_limit_up_bps: Option<u64>,
    /// Rate towards the client, bits per second.
    pub rate_limit_down_bps: Option<u64>,
    /// `false` stores that the user may not connect; anything else stores nothing.
    pub enabled: Option<bool>,
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
    /// Rate towards Telegram, bits per second.
    pub rate_limit_up_bps: Patch<u64>,
    /// Rate towards the client, bits per second.
    pub rate_limit_down_bps: Patch<u64>,
    /// `false` stores that the user may not connect; `true` is as good as removing the entry.
    pub enabled: Patch<bool>,
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
            && self.rate_limit_up_bps == Patch::Keep
            && self.rate_limit_down_bps == Patch::Keep
            && self.enabled == Patch::Keep
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

/// What a user with a quota has used of it. Source: v1.json, `UserQuotaEntry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRow {
    /// Name.
    pub username: String,
    /// Quota, bytes, above 0.
    pub data_quota_bytes: u64,
    /// Used of it, bytes, both directions.
    pub used_bytes: u64,
    /// When it was last zeroed, unix seconds; 0 for never.
    pub last_reset_epoch_secs: u64,
}
