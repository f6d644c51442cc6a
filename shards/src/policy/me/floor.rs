//! How many writers a DC group gets, of the process and of each shard, under the caps.
//!
//! Numbers in, numbers out; the supervisor calls this at every health tick. Whether one more writer
//! may be dialled is judged by pools with the room that [`Caps`] leaves.
//!
//! Source: middle-proxy.md 11.

use std::cmp::Reverse;

use crate::settings::{FloorSettings, MeSettings};

/// `R(e)`, `M(e)` and `X(e)` of a group with `e` endpoints (11.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Class {
    /// `R`.
    pub(crate) base: u32,
    /// `M`.
    pub(crate) min: u32,
    /// `X`.
    pub(crate) max: u32,
}

impl Class {
    /// Of `endpoints` distinct ones in the families in use; `cores` are the effective ones.
    pub(crate) fn of(settings: &MeSettings, endpoints: usize, cores: u32) -> Self {
        let floor = &settings.floor;
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
        let (base, min, extra) = match endpoints {
            0 => return Self::default(),
            1 => (
                settings.single.shadow_writers.saturating_add(1).max(3),
                floor.min_single,
                floor.extra_single_per_core,
            ),
            _ => (
                endpoints.max(3),
                floor.min_multi,
                floor.extra_multi_per_core,
            ),
        };
        if !floor.adaptive {
            return Self {
                base,
                min: base,
                max: base,
            };
        }
        Self {
            base,
            min: min.min(base),
            max: base.saturating_add(cores.saturating_mul(extra)),
        }
    }
}

/// Most writers of the process by state (11.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caps {
    /// Effective cores.
    pub(crate) cores: u32,
    /// `raw`.
    pub(crate) raw: u32,
    /// `active_cap_configured`.
    pub(crate) active: u32,
    /// `warm_cap_configured` and `_effective`.
    pub(crate) warm: u32,
}

impl Caps {
    /// With `detected` CPUs this process may run on.
    pub(crate) fn of(floor: &FloorSettings, detected: u32) -> Self {
        let cores = match floor.cores_override {
            0 => detected.max(1),
            cores => cores,
        };
        let per_core = floor.writers_per_core.saturating_mul(cores - 1);
        let raw = FIRST_CORE_WRITERS.saturating_add(per_core);
        let cap = |per_core: u32, global: u32| {
            let cores = cores.saturating_mul(per_core);
            cores.min(global).min(raw).max(1)
        };
        Self {
            cores,
            raw,
            active: cap(floor.active_per_core_max, floor.active_max),
            warm: cap(floor.warm_per_core_max, floor.warm_max),
        }
    }
}

/// What a group asks for and what is known of its use, before the cap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Signed DC id.
    pub(crate) dc: i16,
    /// Its class.
    pub(crate) class: Class,
    /// No clients, and none for `idle_secs`.
    pub(crate) idle: bool,
    /// A session was bound within `recover_grace_secs`.
    pub(crate) recent: bool,
    /// Active writers it has beyond its last target; negative when it lacks some. (Not all of
    /// them: then what one gave another would give back at the next tick.)
    pub(crate) excess: i64,
}

/// What one group gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Signed DC id.
    pub(crate) dc: i16,
    /// `R(e)`.
    pub(crate) base: u32,
    /// `required_writers`.
    pub(crate) required: u32,
    /// `floor_min`.
    pub(crate) min: u32,
    /// `floor_max`.
    pub(crate) max: u32,
    /// The target, at least `min`, at most `required`.
    pub(crate) target: u32,
    /// The target was lowered by the cap.
    pub(crate) capped: bool,
}

/// What all groups get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    /// In the order of the demands.
    pub(crate) groups: Vec<Floor>,
    /// Every shard has writers of every group.
    pub(crate) spread: bool,
    /// `active_cap_effective`.
    pub(crate) cap: u32,
}

impl Floors {
    /// For groups that have endpoints (11.3, 11.4).
    pub(crate) fn of(demands: &[Demand], caps: &Caps, shards: u32, adaptive: bool) -> Self {
        let groups = u32::try_from(demands.len()).unwrap_or(u32::MAX);
        let spread = shards.saturating_mul(groups) <= caps.active;
        let every_shard = if spread { shards } else { 0 };
        let floor = |demand: &Demand| {
            let required = demand.class.base.max(every_shard);
            Floor {
                dc: demand.dc,
                base: demand.class.base,
                required,
                min: demand.class.min.max(every_shard),
                max: demand.class.max.max(shards),
                target: required,
                capped: false,
            }
        };
        let mut floors = Self {
            groups: demands.iter().map(floor).collect(),
            spread,
            cap: 0,
        };
        if adaptive {
            floors.cap = sum(floors.groups.iter().map(|group| group.min)).max(caps.active);
            floors.fit(demands);
        } else {
            floors.cap = floors.targets().max(caps.active);
        }
        floors
    }

    /// Sum of the targets.
    pub(crate) fn targets(&self) -> u32 {
        sum(self.groups.iter().map(|group| group.target))
    }

    /// Takes from groups in turn while they are above the cap together: first from those without a
    /// recent bind, the others only when nobody else can give.
    fn fit(&mut self, demands: &[Demand]) {
        let mut over = self.targets().saturating_sub(self.cap);
        let mut order: Vec<usize> = (0..self.groups.len()).collect();
        order.sort_by_key(|&at| {
            let (floor, demand) = (&self.groups[at], &demands[at]);
            let spare = floor.target - floor.min;
            let larger = (Reverse(spare), Reverse(demand.excess));
            (keeps(demand), larger, demand.dc.unsigned_abs(), demand.dc)
        });
        for keeping in [false, true] {
            let givers = order
                .iter()
                .filter(|at| (keeps(&demands[**at]) == Keeps::Recent) == keeping);
            let givers: Vec<usize> = givers.copied().collect();
            while over > 0 {
                let before = over;
                for &at in &givers {
                    let group = &mut self.groups[at];
                    if over > 0 && group.target > group.min {
                        group.target -= 1;
                        group.capped = true;
                        over -= 1;
                    }
                }
                if over == before {
                    break;
                }
            }
        }
    }
}

/// How strongly a group keeps its target, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Keeps {
    Idle,
    Quiet,
    Recent,
}

fn keeps(demand: &Demand) -> Keeps {
    match (demand.idle, demand.recent) {
        (_, true) => Keeps::Recent,
        (true, false) => Keeps::Idle,
        (false, false) => Keeps::Quiet,
    }
}

/// A group's target given out to shards one by one; which shard is first depends on the DC, so
/// that groups do not all start on shard 0 (11.3).
pub(crate) fn shares(dc: i16, target: u32, shards: usize) -> Vec<u32> {
    let shards = shards.max(1);
    let count = u32::try_from(shards).unwrap_or(u32::MAX);
    let (each, more) = (target / count, (target % count) as usize);
    let mut shares = vec![each; shards];
    for at in order(dc, shards).take(more) {
        shares[at] += 1;
    }
    shares
}

/// What of one shard's share falls on each family (IPv4, IPv6), by the group's endpoints.
///
/// Over all shards a family gets `ceil(target * its endpoints / e)` (13), so that none is without a
/// writer; the sum may be one more than the target.
pub(crate) fn by_family(dc: i16, shares: &[u32], shard: usize, endpoints: [usize; 2]) -> [u32; 2] {
    let share = shares.get(shard).copied().unwrap_or_default();
    let [v4, v6] = endpoints.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    match (v4, v6) {
        (_, 0) => return [share, 0],
        (0, _) => return [0, share],
        _ => {}
    }
    let taken = |at: usize| shares.get(at).copied().unwrap_or_default();
    let all = order(dc, shares.len());
    let before: u32 = all.take_while(|at| *at != shard).map(taken).sum();
    let part = |writers: u32, own: u32| {
        let whole = u64::from(writers) * u64::from(own);
        let part = whole.div_ceil(u64::from(v4) + u64::from(v6));
        u32::try_from(part).unwrap_or(u32::MAX)
    };
    let first = part(before + share, v4) - part(before, v4);
    // Who takes the last writer of IPv4 takes the one that rounding up adds to IPv6.
    let target = sum(shares.iter().copied());
    let is_last = share > 0 && before + share == target;
    let rest = target - part(target, v4);
    let added = if is_last { part(target, v6) - rest } else { 0 };
    [first, share - first + added]
}

/// Shards in the order in which a group's writers are given out.
pub(crate) fn order(dc: i16, shards: usize) -> impl Iterator<Item = usize> {
    let first = spread_hash(dc) as usize % shards;
    (0..shards).map(move |at| (first + at) % shards)
}

/// A part of the process' room for one shard: rounded up, so that what is left is never lost.
pub(crate) fn split(whole: u32, shards: usize) -> u32 {
    let shards = u32::try_from(shards.max(1)).unwrap_or(u32::MAX);
    whole.div_ceil(shards)
}

/// A fixed hash: Telegram's ids are few and close together, so counting them spreads them best.
fn spread_hash(dc: i16) -> u32 {
    u32::from(dc.unsigned_abs()) * 2 + u32::from(dc < 0)
}

fn sum(numbers: impl Iterator<Item = u32>) -> u32 {
    numbers.fold(0, u32::saturating_add)
}

/// Writers that one core may have in `raw`.
const FIRST_CORE_WRITERS: u32 = 86;

#[cfg(test)]
mod tests;
