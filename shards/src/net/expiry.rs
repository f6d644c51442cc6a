//! Sessions of users whose time is over.
//!
//! A shard keeps one moment: the earliest at which the time of a user with sessions here is over.
//! It is compared each turn, so a clock that is set forward is noticed as soon as anything happens,
//! and within [`LOOK_MS`] if nothing does. Without such a user there is no timer.

use std::collections::HashSet;

use super::shard::Shard;
use crate::policy::{
    Millis,
    end::SessionEnd,
    users::{Row, UserId},
};

/// How long the clock may go unwatched while somebody's time is running.
const LOOK_MS: u64 = 1_000;

impl Shard {
    /// A user with this row has a session here.
    pub(super) fn watch_expiry(&mut self, expires_at: Option<i64>) {
        let Some(at) = expires_at else { return };
        let at = u64::try_from(at).unwrap_or(0);
        self.next_expiry = Some(self.next_expiry.map_or(at, |next| next.min(at)));
    }

    /// Looks again at all users with sessions here.
    pub(super) fn find_next_expiry(&mut self) {
        self.next_expiry = self
            .users_here()
            .filter_map(|(_, row)| u64::try_from(row.limits.expires_at?.max(0)).ok())
            .min();
    }

    /// When to look at the clock next.
    pub(super) fn expiry_timer(&self) -> Option<Millis> {
        let left_ms = self
            .next_expiry?
            .saturating_sub(self.now_unix)
            .saturating_mul(1_000);
        Some(Millis(self.now.0 + left_ms.clamp(1, LOOK_MS)))
    }

    /// Ends the sessions of users whose time is over.
    pub(super) fn run_expiry(&mut self) {
        if self.next_expiry.is_none_or(|at| at > self.now_unix) {
            return;
        }
        let over: HashSet<UserId> = self
            .users_here()
            .filter(|(_, row)| row.limits.is_expired(self.now_unix))
            .map(|(user, _)| user)
            .collect();
        self.end_all_of(&over, SessionEnd::Expired);
        self.find_next_expiry();
    }

    /// Ends every session of these users.
    pub(super) fn end_all_of(&mut self, users: &HashSet<UserId>, end: SessionEnd) {
        if users.is_empty() {
            return;
        }
        let theirs = self.sessions.iter().filter(|(_, session)| {
            let hold = session.hold.as_ref();
            hold.is_some_and(|hold| users.contains(&hold.user))
        });
        let keys: Vec<usize> = theirs.map(|(key, _)| key).collect();
        for key in keys {
            self.end(u32::try_from(key).unwrap_or(u32::MAX), end);
        }
    }

    fn users_here(&self) -> impl Iterator<Item = (UserId, &Row)> {
        let ids = (0..).map(UserId).zip(&self.user_rows);
        ids.filter(|(_, counters)| counters.current_connections > 0)
            .filter_map(|(user, _)| Some((user, self.users.row(user)?)))
    }
}
