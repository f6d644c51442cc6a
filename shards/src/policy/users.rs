//! Users and their secrets, and in which order secrets are tried on a newcomer.
//!
//! A table is built once per configuration (`directory.rs`) and shared read-only by all shards. The
//! order is each shard's own: who came last from this address, from its neighbourhood, lately from
//! anywhere, then all others (protocol.md 3.6). It is an order only: a hint that is out of date, or
//! about an id that has another user by now, costs one trial of a secret.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use super::limits::{Gauge, Limits};
use crate::{
    proto::{crypto::HmacKey, middle::proxy_req::AdTag, secret::Secret},
    settings::RateSettings,
};

/// A user's place in the table, kept for as long as the user is there. A user that is gone may be
/// followed by another one, so whoever keeps an id beyond a turn looks again before using it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UserId(pub(crate) u32);

/// All users of one configuration, by id. Ids of users that are gone may be vacant.
pub(crate) struct UserTable {
    rows: Box<[Option<Row>]>,
    has_rates: bool,
}

/// One user.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) hmac: HmacKey,
    pub(crate) secret: Secret,
    pub(crate) standing: Standing,
    pub(crate) limits: Limits,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) ad_tag: Option<AdTag>,
}

/// What becomes of a user's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// They are served.
    Served,
    /// New ones are strangers; those that are here may stay.
    Leaving,
    /// New ones are strangers, and none may stay.
    Disabled,
}

impl UserTable {
    /// A table of these rows; a row's place is its user's id.
    pub(crate) fn new(rows: Vec<Option<Row>>) -> Self {
        let none = RateSettings::default();
        Self {
            has_rates: rows.iter().flatten().any(|row| row.limits.rate != none),
            rows: rows.into(),
        }
    }

    /// Some user has a rate.
    pub(crate) fn has_rates(&self) -> bool {
        self.has_rates
    }

    /// All rows, vacant ids included.
    pub(crate) fn rows(&self) -> &[Option<Row>] {
        &self.rows
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The user's secret; `None` unless the user is served.
    pub(crate) fn secret(&self, user: UserId) -> Option<&Secret> {
        self.served(user).map(|row| &row.secret)
    }

    /// The user's digest key; `None` unless the user is served.
    pub(crate) fn hmac(&self, user: UserId) -> Option<&HmacKey> {
        self.served(user).map(|row| &row.hmac)
    }

    /// The user, unless new clients of theirs are strangers.
    pub(crate) fn served(&self, user: UserId) -> Option<&Row> {
        self.row(user)
            .filter(|row| row.standing == Standing::Served)
    }

    /// The user, served or not; `None` for a vacant id.
    pub(crate) fn row(&self, user: UserId) -> Option<&Row> {
        self.rows.get(user.0 as usize)?.as_ref()
    }
}

/// Who came lately, and from where.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    by_source: HashMap<Source, UserId>,
    /// Users seen last, newest first.
    recent: VecDeque<UserId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Address(IpAddr),
    Neighbourhood(IpAddr),
}

const RECENT_MAX: usize = 32;
/// Sources remembered; the table starts anew when it is full.
const SOURCES_MAX: usize = 16_384;

impl Hints {
    /// Remembers that `user` came from `from`.
    pub(crate) fn learn(&mut self, user: UserId, from: IpAddr) {
        if self.by_source.len() >= SOURCES_MAX {
            self.by_source.clear();
        }
        self.by_source.insert(Source::Address(from), user);
        self.by_source
            .insert(Source::Neighbourhood(neighbourhood(from)), user);
        if self.recent.front() != Some(&user) {
            self.recent.retain(|known| *known != user);
            self.recent.truncate(RECENT_MAX - 1);
            self.recent.push_front(user);
        }
    }

    /// Tries users in the order most likely to hit, each once; returns the first hit.
    pub(crate) fn find<T>(
        &self,
        users: &UserTable,
        from: IpAddr,
        mut attempt: impl FnMut(UserId) -> Option<T>,
    ) -> Option<(UserId, T)> {
        let mut tried = Tried {
            users: [None; RECENT_MAX + 2],
            len: 0,
        };
        let sources = [
            Source::Address(from),
            Source::Neighbourhood(neighbourhood(from)),
        ];
        let near = sources
            .iter()
            .filter_map(|source| self.by_source.get(source));
        for user in near.chain(&self.recent).copied() {
            if tried.insert(user)
                && let Some(found) = attempt(user)
            {
                return Some((user, found));
            }
        }
        let all = 0..u32::try_from(users.len()).unwrap_or(u32::MAX);
        all.map(UserId)
            .filter(|user| !tried.contains(*user))
            .find_map(|user| attempt(user).map(|found| (user, found)))
    }
}

/// The few users tried out of order.
struct Tried {
    users: [Option<UserId>; RECENT_MAX + 2],
    len: usize,
}

impl Tried {
    fn insert(&mut self, user: UserId) -> bool {
        if self.contains(user) {
            return false;
        }
        if let Some(slot) = self.users.get_mut(self.len) {
            *slot = Some(user);
            self.len += 1;
        }
        true
    }

    fn contains(&self, user: UserId) -> bool {
        self.users
            .iter()
            .take(self.len)
            .any(|known| *known == Some(user))
    }
}

/// The /24 or /56 an address is in.
fn neighbourhood(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) & 0xffff_ff00).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !((1 << 72) - 1)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::UserSettings;

    fn table(count: usize) -> UserTable {
        let row = |index| {
            let secret = Secret([index as u8 + 1; 16]);
            Some(Row {
                hmac: HmacKey::new(&secret),
                secret,
                standing: Standing::Served,
                limits: Limits::new(&UserSettings::unlimited("")),
                gauge: Arc::default(),
                ad_tag: None,
            })
        };
        UserTable::new((0..count).map(row).collect())
    }

    fn order(hints: &Hints, users: &UserTable, from: &str) -> Vec<u32> {
        let mut order = Vec::new();
        let none = hints.find(users, from.parse().expect("address"), |user| {
            order.push(user.0);
            None::<()>
        });
        assert!(none.is_none());
        order
    }

    #[test]
    fn tries_the_likely_first_and_everybody_once() {
        let users = table(6);
        let mut hints = Hints::default();
        assert_eq!(order(&hints, &users, "10.0.0.1"), [0, 1, 2, 3, 4, 5]);
        hints.learn(UserId(4), "10.0.0.1".parse().expect("address"));
        hints.learn(UserId(2), "10.0.0.9".parse().expect("address"));
        hints.learn(UserId(5), "192.0.2.1".parse().expect("address"));
        assert_eq!(order(&hints, &users, "10.0.0.1"), [4, 2, 5, 0, 1, 3]);
        assert_eq!(order(&hints, &users, "10.0.0.77"), [2, 5, 4, 0, 1, 3]);
        assert_eq!(order(&hints, &users, "2001:db8::1"), [5, 2, 4, 0, 1, 3]);
    }

    #[test]
    fn memory_of_sources_is_bounded() {
        let mut hints = Hints::default();
        for index in 0..100_000_u32 {
            hints.learn(UserId(index % 50), IpAddr::V4(index.into()));
        }
        assert!(hints.by_source.len() <= SOURCES_MAX + 2);
        assert_eq!(hints.recent.len(), RECENT_MAX);
    }
}
