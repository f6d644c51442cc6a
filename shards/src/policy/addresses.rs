//! The source addresses that count against one user's limit, for all shards together.
//!
//! The one place in this crate with a lock. An address and the number of addresses must change in
//! one step, or two shards would both take the last place, or count one address twice; an address
//! has 128 bits and a set any size, so no single atomic does it. The lock is per user, exists for
//! users with an address limit only, is taken when a session opens or closes and never for a
//! message, and whoever holds it makes no system call but the allocator's: nobody waits longer than
//! a look at one small table takes.
#![expect(
    clippy::disallowed_types,
    reason = "see above: held for a look at one small table, at open and close only"
)]

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Millis;
use crate::settings::{AddressMode, AddressSettings};

/// Addresses of one user; empty, and without memory of its own, while the user has no limit.
#[derive(Debug, Default)]
pub(crate) struct AddressSet {
    rows: Mutex<Option<HashMap<IpAddr, Seen>>>,
}

/// What is known of one address.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Sessions now open from it.
    live: u32,
    /// When a session was last opened from it.
    opened: Millis,
    /// When the last session from it ended.
    closed: Millis,
}

impl AddressSet {
    /// Whether a session from `ip` would be let in now.
    pub(crate) fn admits(
        &self,
        ip: IpAddr,
        max: u64,
        rules: &AddressSettings,
        now: Millis,
    ) -> bool {
        let mut rows = self.lock();
        rows.as_mut()
            .is_none_or(|rows| has_room(rows, ip, max, rules, now))
    }

    /// Counts a session from `ip`, unless it would be one address too many.
    pub(crate) fn open(&self, ip: IpAddr, max: u64, rules: &AddressSettings, now: Millis) -> bool {
        let mut rows = self.lock();
        let rows = rows.get_or_insert_default();
        let admitted = has_room(rows, ip, max, rules, now);
        if admitted {
            count(rows, ip, now);
        }
        admitted
    }

    /// Counts a session that is there already: the user's limit is new.
    pub(crate) fn register(&self, ip: IpAddr, now: Millis) {
        count(self.lock().get_or_insert_default(), ip, now);
    }

    /// A counted session has ended.
    pub(crate) fn close(&self, ip: IpAddr, rules: &AddressSettings, now: Millis) {
        let mut rows = self.lock();
        let Some(table) = rows.as_mut() else { return };
        if let Some(seen) = table.get_mut(&ip) {
            seen.live = seen.live.saturating_sub(1);
            seen.closed = now;
            if !seen.counts(rules, now) {
                table.remove(&ip);
            }
        }
        if table.is_empty() {
            *rows = None;
        }
    }

    /// Forgets addresses without a session: the user has no limit any more.
    pub(crate) fn forget_idle(&self) {
        let mut rows = self.lock();
        if let Some(table) = rows.as_mut() {
            table.retain(|_, seen| seen.live > 0);
            if table.is_empty() {
                *rows = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<HashMap<IpAddr, Seen>>> {
        // Nothing in here panics half-way.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses that count now.
    #[cfg(test)]
    pub(crate) fn counted(&self, rules: &AddressSettings, now: Millis) -> u64 {
        let rows = self.lock();
        let seen = rows.iter().flat_map(|rows| rows.values());
        seen.filter(|seen| seen.counts(rules, now)).count() as u64
    }
}

fn has_room(
    rows: &mut HashMap<IpAddr, Seen>,
    ip: IpAddr,
    max: u64,
    rules: &AddressSettings,
    now: Millis,
) -> bool {
    if rows.get(&ip).is_some_and(|seen| seen.counts(rules, now)) {
        return true;
    }
    if (rows.len() as u64) < max {
        return true;
    }
    // At most about as many as the limit: only addresses that were let in are here.
    rows.retain(|_, seen| seen.live > 0 || seen.counts(rules, now));
    let counted = rows.values().filter(|seen| seen.counts(rules, now)).count() as u64;
    counted < max
}

fn count(rows: &mut HashMap<IpAddr, Seen>, ip: IpAddr, now: Millis) {
    let seen = rows.entry(ip).or_insert(Seen {
        live: 0,
        opened: now,
        closed: Millis(0),
    });
    seen.live = seen.live.saturating_add(1);
    seen.opened = now;
}

impl Seen {
    fn counts(&self, rules: &AddressSettings, now: Millis) -> bool {
        let within = |at: Millis| u128::from(now.since(at)) <= rules.window.as_millis();
        match rules.mode {
            AddressMode::Live => self.live > 0,
            // By the opening alone: else the end of an old session would count an address anew,
            // beyond the limit.
            AddressMode::Recent => within(self.opened),
            AddressMode::Both => self.live > 0 || within(self.opened.max(self.closed)),
        }
    }
}

#[cfg(test)]
mod tests;
