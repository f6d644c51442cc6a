//! Which id each user has, from one configuration to the next.
//!
//! A name keeps its id. The id of a user that is gone stays vacant until every shard has applied
//! the update that removed it; then nothing on any shard is about the old user any more, and the
//! next newcomer gets it.
//!
//! ```text
//!   Free ──> Live ──removed──> Gone ──applied by all──> Free
//!             └──removed, sessions may stay──> Kept ──> Gone      (Kept ──back again──> Live)
//! ```
//!
//! Owned by `net::control`, on a thread of the control side; shards only see the tables made here.

use std::{collections::HashMap, sync::Arc};

use super::{
    limits::{Gauge, Limits},
    users::{Row, Standing, UserId, UserTable},
};
use crate::{control::QuotaUse, proto::crypto::HmacKey, settings::UserSettings};

/// Number of an update, ascending; the table that shards start with is number 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Serial(pub(crate) u64);

/// All names and their ids.
pub(crate) struct Directory {
    by_name: HashMap<Arc<str>, UserId>,
    slots: Vec<Slot>,
    /// Vacant ids that nothing is about any more.
    free: Vec<UserId>,
    table: Arc<UserTable>,
}

/// What an id stands for.
enum Slot {
    /// A user of the configuration; the update that said so last.
    Live(Arc<str>, Serial),
    /// A user that is gone but whose sessions may stay.
    Kept(Arc<str>),
    /// A user that is gone, since this update.
    Gone(Serial),
    Free,
}

/// What is new in a table.
pub(crate) struct Change {
    pub(crate) table: Arc<UserTable>,
    /// Ids whose row is another one than before.
    pub(crate) changed: Vec<UserId>,
    /// Ids that are vacant from now on.
    pub(crate) vacated: Vec<UserId>,
}

impl Directory {
    /// The first configuration: ids in the order of the settings.
    pub(crate) fn new(users: &[UserSettings]) -> Self {
        let mut directory = Self {
            by_name: HashMap::with_capacity(users.len()),
            slots: Vec::with_capacity(users.len()),
            free: Vec::new(),
            table: Arc::new(UserTable::new(Vec::new())),
        };
        directory.update(users, false, Serial(0), Serial(0));
        directory
    }

    /// The present table.
    pub(crate) fn table(&self) -> Arc<UserTable> {
        Arc::clone(&self.table)
    }

    /// Takes over another list of users as update number `now`; every shard has applied all up to
    /// `applied`. With `keep` the sessions of users that are gone or disabled may stay.
    pub(crate) fn update(
        &mut self,
        users: &[UserSettings],
        keep: bool,
        now: Serial,
        applied: Serial,
    ) -> Change {
        let mut draft = self.begin(now, applied);
        for user in users {
            let id = self.place(&user.name, now);
            draft.set(id, user, keep);
        }
        for index in 0..self.slots.len() {
            let id = id_at(index);
            if let Some(Slot::Live(name, seen)) = self.slots.get(index)
                && *seen != now
            {
                if keep {
                    self.slots[index] = Slot::Kept(Arc::clone(name));
                    draft.leave(id);
                } else {
                    self.vacate(id, now, &mut draft);
                }
            }
        }
        self.finish(draft)
    }

    /// Lets nobody stay who is gone or disabled.
    pub(crate) fn end_kept(&mut self, now: Serial, applied: Serial) -> Change {
        let mut draft = self.begin(now, applied);
        for index in 0..self.slots.len() {
            let id = id_at(index);
            if let Slot::Kept(_) = self.slots[index] {
                self.vacate(id, now, &mut draft);
            } else {
                draft.disable(id);
            }
        }
        self.finish(draft)
    }

    /// Names by id; empty for ids without a user of the configuration.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        let none: Arc<str> = Arc::from("");
        let name = |slot: &Slot| match slot {
            Slot::Live(name, _) => Arc::clone(name),
            Slot::Kept(_) | Slot::Gone(_) | Slot::Free => Arc::clone(&none),
        };
        self.slots.iter().map(name).collect()
    }

    /// Users with a quota, and how much of it is used.
    pub(crate) fn quotas(&self) -> Vec<QuotaUse> {
        let quota = |(slot, row): (&Slot, &Option<Row>)| match (slot, row) {
            (Slot::Live(name, _), Some(row)) => Some(QuotaUse {
                name: Arc::clone(name),
                quota_bytes: row.limits.quota_bytes?,
                used_bytes: row.gauge.used_bytes(),
            }),
            _ => None,
        };
        self.slots
            .iter()
            .zip(self.table.rows())
            .filter_map(quota)
            .collect()
    }

    /// What the user of this name shares with all shards.
    pub(crate) fn gauge(&self, name: &str) -> Option<&Arc<Gauge>> {
        let id = *self.by_name.get(name)?;
        match self.slots.get(id.0 as usize)? {
            Slot::Live(..) => Some(&self.table.row(id)?.gauge),
            Slot::Kept(_) | Slot::Gone(_) | Slot::Free => None,
        }
    }

    /// Sessions of users that may stay although they are gone or disabled.
    pub(crate) fn kept_sessions(&self) -> u64 {
        let rows = self.table.rows().iter().flatten();
        rows.filter(|row| row.standing == Standing::Leaving)
            .map(|row| row.gauge.sessions())
            .sum()
    }

    /// A draft of the present rows, with ids freed that nothing is about any more.
    fn begin(&mut self, now: Serial, applied: Serial) -> Draft {
        let mut draft = Draft {
            rows: self.table.rows().to_vec(),
            changed: Vec::new(),
            vacated: Vec::new(),
        };
        for index in 0..self.slots.len() {
            match self.slots[index] {
                Slot::Gone(since) if since <= applied => {
                    self.slots[index] = Slot::Free;
                    self.free.push(id_at(index));
                }
                // The last of them has ended.
                Slot::Kept(_)
                    if draft.rows[index]
                        .as_ref()
                        .is_none_or(|row| row.gauge.sessions() == 0) =>
                {
                    self.vacate(id_at(index), now, &mut draft);
                }
                Slot::Live(..) | Slot::Kept(_) | Slot::Gone(_) | Slot::Free => {}
            }
        }
        draft
    }

    /// The id of a name: the one it has, else a free one.
    fn place(&mut self, name: &Arc<str>, now: Serial) -> UserId {
        let id = match self.by_name.get(name) {
            Some(id) => *id,
            None => {
                let id = self.free.pop().unwrap_or_else(|| {
                    self.slots.push(Slot::Free);
                    id_at(self.slots.len() - 1)
                });
                self.by_name.insert(Arc::clone(name), id);
                id
            }
        };
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            *slot = Slot::Live(Arc::clone(name), now);
        }
        id
    }

    fn vacate(&mut self, id: UserId, now: Serial, draft: &mut Draft) {
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            if let Slot::Live(name, _) | Slot::Kept(name) = &*slot {
                self.by_name.remove(name);
            }
            *slot = Slot::Gone(now);
        }
        draft.vacate(id);
    }

    fn finish(&mut self, draft: Draft) -> Change {
        self.table = Arc::new(UserTable::new(draft.rows));
        Change {
            table: self.table(),
            changed: draft.changed,
            vacated: draft.vacated,
        }
    }
}

/// The next table while it is made.
struct Draft {
    rows: Vec<Option<Row>>,
    changed: Vec<UserId>,
    vacated: Vec<UserId>,
}

impl Draft {
    fn set(&mut self, id: UserId, user: &UserSettings, keep: bool) {
        let index = id.0 as usize;
        if self.rows.len() <= index {
            self.rows.resize_with(index + 1, || None);
        }
        let limits = Limits::new(user);
        let old = self.rows[index].take();
        let standing = match &old {
            _ if user.enabled => Standing::Served,
            Some(row) if row.standing == Standing::Leaving => Standing::Leaving,
            Some(row) if row.standing == Standing::Served && keep => Standing::Leaving,
            Some(_) | None => Standing::Disabled,
        };
        let row = match old {
            Some(row) => {
                let same_secret = row.secret == user.secret;
                let same_rest = row.standing == standing && row.ad_tag == user.ad_tag;
                if same_secret && row.limits == limits && same_rest {
                    self.rows[index] = Some(row);
                    return;
                }
                if row.limits.rate != limits.rate {
                    row.gauge.rates.reset();
                }
                if limits.unique_ips_max == 0 {
                    row.gauge.addresses.forget_idle();
                }
                Row {
                    // Two compressions each, which at every update would be most of its cost.
                    hmac: if same_secret {
                        row.hmac
                    } else {
                        HmacKey::new(&user.secret)
                    },
                    secret: user.secret,
                    standing,
                    limits,
                    gauge: row.gauge,
                    ad_tag: user.ad_tag,
                }
            }
            None => Row {
                hmac: HmacKey::new(&user.secret),
                secret: user.secret,
                standing,
                limits,
                gauge: Arc::new(Gauge::new(user.quota_used_bytes)),
                ad_tag: user.ad_tag,
            },
        };
        self.rows[index] = Some(row);
        self.changed.push(id);
    }

    fn leave(&mut self, id: UserId) {
        if let Some(Some(row)) = self.rows.get_mut(id.0 as usize)
            && row.standing == Standing::Served
        {
            row.standing = Standing::Leaving;
            self.changed.push(id);
        }
    }

    fn disable(&mut self, id: UserId) {
        if let Some(Some(row)) = self.rows.get_mut(id.0 as usize)
            && row.standing == Standing::Leaving
        {
            row.standing = Standing::Disabled;
            self.changed.push(id);
        }
    }

    fn vacate(&mut self, id: UserId) {
        if let Some(row) = self.rows.get_mut(id.0 as usize) {
            *row = None;
            self.changed.push(id);
            self.vacated.push(id);
        }
    }
}

fn id_at(index: usize) -> UserId {
    UserId(u32::try_from(index).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
