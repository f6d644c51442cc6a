//! What the store asks of the running process. Not here: who does it (`live.rs`).

use std::io;

use admin::{QuotaRow, ReloadAccepted, ReloadRequest, ReloadStatus, StoreError};

use crate::config::Loaded;

/// The running process as the store sees it: where a written file takes effect, and what only the
/// process knows. Implemented by `live.rs`; tests have one of their own.
///
/// `apply`, `reset_quota`, `may_reload` and `reload` are called with the store's mutation lock
/// held, so they never run twice at once; the others at any time.
pub(crate) trait Applies: Send + Sync + 'static {
    /// Brings a configuration into effect: it has just been checked and is the file on disk.
    ///
    /// Returns when the shards have it, or after a limit of its own. The text in effect already
    /// changes nothing.
    fn apply(&self, loaded: Loaded);

    /// What users with a quota above 0 have used, in any order.
    fn quotas(&self) -> Vec<QuotaRow>;

    /// Zeroes what a user has used, stamps the time, stores both before it returns; the stamp as
    /// unix seconds.
    ///
    /// A user the process does not know yet has used nothing, and is stamped all the same.
    ///
    /// # Errors
    /// Those of writing the quota file.
    fn reset_quota(&self, username: &str) -> io::Result<u64>;

    /// Whether a reload asked for now would be accepted. The store asks before it writes a file
    /// that a reload is to put in force.
    ///
    /// # Errors
    /// [`StoreError::ReloadInProgress`], [`StoreError::ReloadUnavailable`].
    fn may_reload(&self) -> Result<(), StoreError>;

    /// Begins to put a configuration in force: it is the file on disk, and `may_reload` has just
    /// said yes. Returns at once.
    ///
    /// # Errors
    /// As [`Self::may_reload`].
    fn reload(&self, request: ReloadRequest, loaded: Loaded) -> Result<ReloadAccepted, StoreError>;

    /// How far a reload is; `None` for one that never was or is forgotten.
    fn reload_status(&self, id: u64) -> Option<ReloadStatus>;
}
