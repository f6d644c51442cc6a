//! Users and hot settings of a running plane, changed from outside.
//!
//! The door through which the control side reaches the tables of all shards; what a shard does
//! with an update is in `update.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::mailbox::{Mailbox, Order};
use crate::{
    control::QuotaUse,
    policy::{
        directory::{Change, Directory, Serial},
        nets::NetTable,
    },
    settings::{HotSettings, UserSettings},
};

/// Users and hot settings of a running plane; one per process. Belongs to a thread of the control
/// side: no shard ever waits for it.
pub struct Control {
    directory: Directory,
    globals: Globals,
    mailboxes: Vec<Mailbox>,
    applied: Applied,
    serial: Serial,
}

/// What applies to all users.
#[derive(Clone)]
pub(super) struct Globals {
    pub(super) hot: Arc<HotSettings>,
    pub(super) nets: Arc<NetTable>,
}

/// The number of the update that each shard has applied last.
pub(super) type Applied = Arc<[AtomicU64]>;

/// What every shard is to take over.
pub(super) struct Update {
    pub(super) serial: Serial,
    pub(super) change: Change,
    pub(super) globals: Globals,
}

impl Control {
    pub(super) fn new(
        directory: Directory,
        globals: Globals,
        mailboxes: Vec<Mailbox>,
        applied: Applied,
    ) -> Self {
        Self {
            directory,
            globals,
            mailboxes,
            applied,
            serial: Serial(0),
        }
    }

    /// Replaces all users and hot settings on every shard. A name keeps its id, its sessions and
    /// what it used of its limits; a new secret ends no session. Sessions of users that are gone
    /// or disabled end, unless `keep_removed`: then they stay until [`Control::end_removed`].
    pub fn update(
        &mut self,
        users: &[UserSettings],
        hot: &HotSettings,
        keep_removed: bool,
    ) -> Updating {
        self.globals.set(hot);
        let applied = self.applied_by_all();
        self.serial.0 += 1;
        let change = self
            .directory
            .update(users, keep_removed, self.serial, applied);
        self.post(change)
    }

    /// Ends the sessions that an earlier update let stay.
    pub fn end_removed(&mut self) -> Updating {
        let applied = self.applied_by_all();
        self.serial.0 += 1;
        let change = self.directory.end_kept(self.serial, applied);
        self.post(change)
    }

    /// Names by id, the order of `ShardSnapshot::users`; empty for an id without a user.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.directory.names()
    }

    /// Users that have a quota.
    #[must_use]
    pub fn quotas(&self) -> Vec<QuotaUse> {
        self.directory.quotas()
    }

    /// Sets what a user has used of the quota to zero; what it was. `None` for an unknown name.
    #[must_use]
    pub fn reset_quota(&self, name: &str) -> Option<u64> {
        Some(self.directory.gauge(name)?.reset_quota())
    }

    /// Sessions still open of users that are gone or disabled and were let stay.
    #[must_use]
    pub fn removed_sessions(&self) -> u64 {
        self.directory.kept_sessions()
    }

    fn post(&self, change: Change) -> Updating {
        let update = Arc::new(Update {
            serial: self.serial,
            change,
            globals: self.globals.clone(),
        });
        for mailbox in &self.mailboxes {
            // A shard that has ended has nobody left to update.
            mailbox.order(Order::Update(Arc::clone(&update)));
        }
        Updating {
            serial: self.serial,
            mailboxes: self.mailboxes.clone(),
            applied: Arc::clone(&self.applied),
        }
    }

    fn applied_by_all(&self) -> Serial {
        let live = self.mailboxes.iter().zip(self.applied.iter());
        live.filter(|(mailbox, _)| !mailbox.is_gone())
            .map(|(_, applied)| Serial(applied.load(Ordering::Acquire)))
            .min()
            .unwrap_or(self.serial)
    }
}

impl Globals {
    /// Other settings; what is as before stays the same, limits in use among it.
    fn set(&mut self, hot: &HotSettings) {
        if self.hot.net_rates != hot.net_rates {
            self.nets = Arc::new(NetTable::new(&hot.net_rates, &self.nets));
        }
        if *self.hot != *hot {
            self.hot = Arc::new(hot.clone());
        }
    }
}

/// An update on its way to the shards. Goes on when this is dropped.
#[must_use = "an update is in effect only when every shard has applied it"]
pub struct Updating {
    serial: Serial,
    mailboxes: Vec<Mailbox>,
    applied: Applied,
}

impl Updating {
    /// Waits until every shard has applied the update, or has ended; false when `limit` passes
    /// before. Blocks the calling thread.
    #[must_use]
    pub fn wait(self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        let mut pause = PAUSE_MIN;
        while !self.is_done() {
            if Instant::now() >= until {
                return false;
            }
            // Shards are never on this thread, and owe nobody a wake-up: a turn takes less than
            // what a wake-up costs them.
            thread::park_timeout(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
        true
    }

    fn is_done(&self) -> bool {
        let mut shards = self.mailboxes.iter().zip(self.applied.iter());
        shards.all(|(mailbox, applied)| {
            applied.load(Ordering::Acquire) >= self.serial.0 || mailbox.is_gone()
        })
    }
}

const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(5);
