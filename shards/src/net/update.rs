//! Other users and settings in place of the present ones, on one shard.
//!
//! Called when the mailbox brings an update; what an update is made of is in `control.rs`.

use std::{collections::HashSet, sync::Arc, sync::atomic::Ordering};

use super::{client::State, control::Update, shard::Shard};
use crate::policy::{
    end::SessionEnd,
    users::{Standing, UserId},
};

impl Shard {
    /// Takes over an update and says so.
    pub(super) fn update(&mut self, update: &Update) {
        self.users = Arc::clone(&update.change.table);
        self.hot = Arc::clone(&update.hot);
        self.user_rows.resize(self.users.len(), Default::default());
        let here = |id: &&UserId| {
            let row = self.user_rows.get(id.0 as usize);
            row.is_some_and(|row| row.current_connections > 0)
        };
        let changed: HashSet<UserId> = update.change.changed.iter().filter(here).copied().collect();
        if !changed.is_empty() {
            self.revisit(&changed);
        }
        for id in &update.change.vacated {
            if let Some(row) = self.user_rows.get_mut(id.0 as usize) {
                *row = Default::default();
            }
            self.fingerprints.forget(*id);
        }
        if let Some(applied) = self.applied.get(self.index) {
            applied.store(update.serial.0, Ordering::Release);
        }
    }

    /// Looks again at the sessions of users that have changed.
    fn revisit(&mut self, changed: &HashSet<UserId>) {
        let mut ending = Vec::new();
        for (key, session) in &self.sessions {
            let user = match &session.state {
                State::Relay(relay) => relay.user,
                State::Dialing(dialing) => dialing.relay().user,
                State::Handshake(_) | State::Answering(_) | State::Refused | State::Closing => {
                    continue;
                }
            };
            let stays = self
                .users
                .row(user)
                .is_some_and(|row| row.standing != Standing::Disabled);
            if changed.contains(&user) && !stays {
                ending.push(u32::try_from(key).unwrap_or(u32::MAX));
            }
        }
        for key in ending {
            self.end(key, SessionEnd::Removed);
        }
    }
}
