//! All that control and data say to each other: commands into a shard's mailbox, replies out.
//!
//! The admin side posts a [`Command`] to every [`Mailbox`] and waits for the replies with a
//! deadline of its own; a shard never waits for the admin side.

mod fingerprints;
mod observations;
mod pressure;
mod snapshot;
mod unknown_dcs;

pub use crate::me::{GroupUse, RefillRow, WriterId, WriterRow, WriterState};

pub use self::fingerprints::{FingerprintRow, FingerprintScope, TlsFingerprints};
pub use self::observations::{Observation, Observations};
pub use self::pressure::{CloseEvents, ClosedClient, Pressure};
pub use self::snapshot::{
    DcRow, FamilyState, ShardSnapshot, UpstreamRow, UserIpRow, merge_snapshots,
};
pub use self::unknown_dcs::UnknownDcs;

use std::sync::Arc;

use async_channel::Sender;

/// What a shard can be asked.
#[derive(Debug)]
pub enum Command {
    /// Reply with a copy of all counters and rows.
    Snapshot {
        /// Where the copy goes; a full or closed channel is ignored.
        reply: Sender<ShardSnapshot>,
    },
    /// Reply with the kinds of TLS clients that came.
    TlsFingerprints {
        /// Where the copy goes; a full or closed channel is ignored.
        reply: Sender<TlsFingerprints>,
    },
    /// Reply with the addresses that failed to become clients.
    Observations {
        /// Where the copy goes; a full or closed channel is ignored.
        reply: Sender<Observations>,
    },
    /// Stop accepting, let sessions go on until the configured limit, then close them.
    Drain,
    /// Close everything now.
    Stop,
}

/// What the plane tells the process about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaneEvent {
    /// Every shard listens.
    Listening,
    /// A shard ended although nobody asked it to: the process must end.
    ShardDied {
        /// Which one.
        shard: usize,
        /// Why, as one sentence.
        reason: String,
    },
    /// A shard finished after `Drain` or `Stop`.
    ShardDone {
        /// Which one.
        shard: usize,
    },
}

/// A user with a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaUse {
    /// The user.
    pub name: Arc<str>,
    /// Bytes allowed, both directions together.
    pub quota_bytes: u64,
    /// Bytes used; may exceed a quota that was lowered, and is never raised beyond it.
    pub used_bytes: u64,
}
