//! Other users and settings in place of the present ones, on one shard.
//!
//! Called when the mailbox brings an update; what an update is made of is in `control.rs`. A
//! handshake under way keeps nothing of the old table but an id: it asks the new one for that id's
//! secret, and only the right secret opens what the client sends.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use super::{client::State, control::Update, shard::Shard};
use crate::policy::{
    end::SessionEnd,
    meter::{Direction, Flow, Meter},
    users::{Standing, UserId},
};

impl Shard {
    /// Takes over an update and says so.
    pub(super) fn update(&mut self, update: &Update) {
        let change = &update.change;
        let other_nets = !Arc::ptr_eq(&self.nets, &update.globals.nets);
        self.users = Arc::clone(&change.table);
        self.hot = Arc::clone(&update.globals.hot);
        self.nets = Arc::clone(&update.globals.nets);
        self.user_rows.resize(self.users.len(), Default::default());
        self.has_rates = self.users.has_rates() || self.nets.has_rates();
        let counted = self.counted();
        self.telemetry.set(self.hot.telemetry.core, &counted);
        self.counts_users = self.hot.telemetry.user;
        let here = |id: &&UserId| {
            let row = self.user_rows.get(id.0 as usize);
            row.is_some_and(|row| row.current_connections > 0)
        };
        let changed: HashSet<UserId> = change.changed.iter().filter(here).copied().collect();
        let stays = |id: &UserId| {
            let row = self.users.row(*id);
            row.is_some_and(|row| row.standing != Standing::Disabled)
        };
        let leaving = changed.iter().filter(|id| !stays(id)).copied().collect();
        self.end_all_of(&leaving, SessionEnd::Removed);
        if other_nets || changed.len() > leaving.len() {
            self.revisit(&changed, other_nets);
        }
        if !change.vacated.is_empty() {
            let vacated: HashSet<UserId> = change.vacated.iter().copied().collect();
            self.sources.forget(&vacated);
        }
        for id in &change.vacated {
            if let Some(row) = self.user_rows.get_mut(id.0 as usize) {
                *row = Default::default();
            }
            self.fingerprints.forget(*id);
        }
        self.find_next_expiry();
        if let Some(applied) = self.applied.get(self.index) {
            applied.store(update.serial.0, Ordering::Release);
        }
    }

    /// Holds sessions to the limits their users have now.
    fn revisit(&mut self, changed: &HashSet<UserId>, all: bool) {
        let held = self.sessions.iter().filter_map(|(key, session)| {
            let user = session.hold.as_ref()?.user;
            (all || changed.contains(&user)).then_some(key)
        });
        let keys: Vec<usize> = held.collect();
        for key in keys {
            self.revisit_one(u32::try_from(key).unwrap_or(u32::MAX));
        }
    }

    fn revisit_one(&mut self, key: u32) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        if let (Some(hold), State::Middle(_)) = (&mut session.hold, &session.state) {
            let Some(row) = self.users.row(hold.user) else {
                return;
            };
            hold.follow(row, &self.hot.addresses, self.now);
            let meter = Meter::new(row, &self.nets, session.from);
            return self.middle_meter(key, meter);
        }
        let (Some(hold), Some(relay)) = (&mut session.hold, session.state.relay_mut()) else {
            return;
        };
        let Some(row) = self.users.row(hold.user) else {
            return;
        };
        hold.follow(row, &self.hot.addresses, self.now);
        let meter = Meter::new(row, &self.nets, session.from);
        let same_rates = match (&meter, &relay.meter) {
            (Some(new), Some(old)) => new.has_rates_of(old),
            (Some(one), None) | (None, Some(one)) => !one.has_rates(),
            (None, None) => true,
        };
        relay.meter = meter;
        if same_rates {
            return;
        }
        // Pauses were measured by the old rate.
        for direction in [Direction::Up, Direction::Down] {
            relay.flow_mut(direction).until = None;
        }
        let (up, down): (Flow, Flow) = (relay.up, relay.down);
        let (client, dc, told) = (session.client, relay.dc, relay.dc_ended);
        let relaying = session.state.is_relay();
        self.bound_receives(key);
        if relaying && up.is_open() {
            self.engine.resume(client);
        }
        if relaying && down.is_open() && !told {
            self.engine.resume(dc);
        }
    }
}
