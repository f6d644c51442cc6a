//! What the store asks of the running process. Not here: who does it (`live.rs`).

use std::io;

use crate::config::Loaded;

/// The running process as the store sees it: where a written file takes effect, and what only the
/// process knows. Implemented by `live.rs`; tests have one of their own.
///
/// The store calls all of it with its mutation lock held, except `quotas` and `reload_status`.
#[expect(dead_code, reason = "comes into use with writing")]
pub(crate) trait Applies: Send + Sync + 'static {
    /// Brings a configuration into effect: it has just been checked and is the file on disk.
    ///
    /// Returns when the shards have it, or after a limit of its own. The text in effect already
    /// changes nothing.
    fn apply(&self, loaded: Loaded);

    /// What users with a quota have used, bytes, by name; in any order.
    fn quotas(&self) -> Vec<QuotaUsed>;

    /// Zeroes what a user has used, stamps the time and stores both before it returns.
    ///
    /// A user the process does not know yet has used nothing, and is stamped all the same.
    ///
    /// # Errors
    /// Those of writing the quota file.
    fn reset_quota(&self, username: &str) -> io::Result<u64>;
}

/// Use of one user's quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotaUsed {
    /// The user.
    pub(crate) username: String,
    /// Both directions, bytes, since the last reset.
    pub(crate) used_bytes: u64,
    /// When it was last reset, unix seconds; 0 is never.
    pub(crate) last_reset_epoch_secs: u64,
}
