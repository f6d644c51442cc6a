//! Rates by source network: which bucket a client's address belongs to.
//!
//! An exact net has one bucket. A template (`*4/24`) has one per subnet, in a table of fixed size
//! that all shards share: an entry is found or claimed by one compare-and-swap, and whoever claims
//! an entry takes over the time that is in it, so a subnet may start behind but never ahead.
//!
//! Source: config.md 6.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

use super::{
    Millis,
    meter::Direction,
    rates::{Bucket, PaidUntil},
};
use crate::settings::{NetRate, RateKey, RateSettings};

/// All rates by network of one configuration.
#[derive(Debug, Default)]
pub(crate) struct NetTable {
    exact: HashMap<IpNet, Arc<NetLimit>>,
    /// Prefix lengths that occur among the exact nets, longest first: IPv4, IPv6.
    lengths: [Vec<u8>; 2],
    /// Templates, longest prefix first: IPv4, IPv6.
    each: [Vec<Arc<EachLimit>>; 2],
}

/// The limit of one exact net.
#[derive(Debug)]
struct NetLimit {
    rate: RateSettings,
    pair: Pair,
}

/// The limit of every subnet with a prefix of one length.
#[derive(Debug)]
struct EachLimit {
    prefix: u8,
    rate: RateSettings,
    subnets: Subnets,
}

/// One bucket per direction.
#[derive(Debug, Default)]
pub(crate) struct Pair {
    up: Bucket,
    down: Bucket,
}

/// The limit that one client shares with its network.
#[derive(Clone, Debug)]
pub(crate) struct NetShare(Share);

#[derive(Clone, Debug)]
enum Share {
    Net(Arc<NetLimit>),
    Subnet(Arc<EachLimit>, u64),
}

impl NetTable {
    /// Builds the table; limits that are as in `old` keep their buckets.
    pub(crate) fn new(rates: &[NetRate], old: &Self) -> Self {
        let mut table = Self::default();
        for NetRate { nets, rate } in rates {
            match *nets {
                RateKey::Net(net) => {
                    let net = net.trunc();
                    let known = old.exact.get(&net).filter(|limit| limit.rate == *rate);
                    let limit = known.cloned().unwrap_or_else(|| {
                        Arc::new(NetLimit {
                            rate: *rate,
                            pair: Pair::default(),
                        })
                    });
                    table.lengths[family(net.addr())].push(net.prefix_len());
                    table.exact.insert(net, limit);
                }
                RateKey::EachV4(prefix) => table.add_each(0, prefix.min(32), *rate, old),
                RateKey::EachV6(prefix) => table.add_each(1, prefix.min(128), *rate, old),
            }
        }
        for lengths in &mut table.lengths {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        for each in &mut table.each {
            each.sort_by_key(|limit| std::cmp::Reverse(limit.prefix));
        }
        table
    }

    /// Some network has a rate.
    pub(crate) fn has_rates(&self) -> bool {
        !self.exact.is_empty() || self.each.iter().any(|each| !each.is_empty())
    }

    /// What a client from `from` shares; `None` where no key fits.
    pub(crate) fn share(&self, from: IpAddr) -> Option<NetShare> {
        let family = family(from);
        let subnet = |prefix| Some(IpNet::new(from, prefix).ok()?.trunc());
        let exact = self.lengths[family]
            .iter()
            .find_map(|prefix| self.exact.get(&subnet(*prefix)?));
        if let Some(limit) = exact {
            return Some(NetShare(Share::Net(Arc::clone(limit))));
        }
        let limit = self.each[family].first()?;
        let key = limit.subnets.key(subnet(limit.prefix)?);
        Some(NetShare(Share::Subnet(Arc::clone(limit), key)))
    }

    fn add_each(&mut self, family: usize, prefix: u8, rate: RateSettings, old: &Self) {
        let same = |limit: &&Arc<EachLimit>| limit.prefix == prefix && limit.rate == rate;
        let known = old.each[family].iter().find(same).cloned();
        let limit = known.unwrap_or_else(|| {
            Arc::new(EachLimit {
                prefix,
                rate,
                subnets: Subnets::new(SUBNETS),
            })
        });
        self.each[family].push(limit);
    }
}

impl NetShare {
    /// The rate of the net.
    pub(crate) fn rate(&self) -> RateSettings {
        match &self.0 {
            Share::Net(limit) => limit.rate,
            Share::Subnet(limit, _) => limit.rate,
        }
    }

    /// Lets bytes through at the net's rate, which is not 0 in this direction.
    pub(crate) fn charge(&self, direction: Direction, bytes: usize, now: Millis) -> PaidUntil {
        let (rate, pair) = match &self.0 {
            Share::Net(limit) => (limit.rate, &limit.pair),
            Share::Subnet(limit, key) => (limit.rate, limit.subnets.pair(*key)),
        };
        pair.bucket(direction)
            .charge(bytes, direction.of(rate), now)
    }
}

impl Pair {
    /// The bucket of one direction.
    pub(crate) fn bucket(&self, direction: Direction) -> &Bucket {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Forgets what is not paid for.
    pub(crate) fn reset(&self) {
        self.up.reset();
        self.down.reset();
    }

    fn busy_until(&self) -> u64 {
        self.up.paid_until().max(self.down.paid_until())
    }
}

/// Buckets of the subnets seen lately.
#[derive(Debug)]
struct Subnets {
    slots: Box<[Subnet]>,
    /// Unguessable, so that nobody can aim subnets at one row.
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Subnet {
    /// Hash of the subnet it belongs to; 0 for none.
    key: AtomicU64,
    pair: Pair,
}

/// Subnets with their own bucket, per template: 384 KiB. Further ones that are busy at the same
/// moment share.
const SUBNETS: usize = 16_384;
const ROW: usize = 8;

impl Subnets {
    fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots.next_power_of_two().max(ROW))
                .map(|_| Subnet::default())
                .collect(),
            hasher: RandomState::new(),
        }
    }

    /// 64 bits for a subnet: two with the same would share a bucket, which nobody can bring about.
    fn key(&self, subnet: IpNet) -> u64 {
        self.hasher.hash_one(subnet).max(1)
    }

    /// The bucket of a subnet: the one it has, else the row's that has been idle for longest.
    fn pair(&self, key: u64) -> &Pair {
        let rows = self.slots.len() / ROW;
        // A power of two, so the mask keeps it in range.
        let start = (key as usize & (rows - 1)) * ROW;
        let row = &self.slots[start..start + ROW];
        loop {
            if let Some(own) = row.iter().find(|s| s.key.load(Ordering::Acquire) == key) {
                return &own.pair;
            }
            let idlest = row.iter().min_by_key(|slot| slot.pair.busy_until());
            let Some(slot) = idlest else {
                return &self.slots[start].pair;
            };
            let old = slot.key.load(Ordering::Acquire);
            let claimed = slot
                .key
                .compare_exchange(old, key, Ordering::AcqRel, Ordering::Acquire);
            // A shard that charges the slot for its former subnet at this very moment is one
            // buffer too late: that buffer counts for the new one.
            if claimed.is_ok() {
                return &slot.pair;
            }
        }
    }
}

fn family(ip: IpAddr) -> usize {
    usize::from(ip.is_ipv6())
}

#[cfg(test)]
mod tests;
