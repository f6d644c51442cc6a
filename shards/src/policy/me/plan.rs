//! What the supervisor tells the shards: one immutable value, replaced as a whole.
//!
//! Source: middle-proxy.md 10 and 25.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, sync::Arc};

use super::super::Millis;
use crate::{proto::middle::secret_file::ProxySecret, settings::MeSettings};

/// The state of the process as far as shards act on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Grows by one with each plan.
    pub serial: u64,
    /// Grows by one with each health tick; a shard below a share dials once per tick at most,
    /// as far as its back-off allows (section 13).
    pub tick: u64,
    /// The knobs.
    pub settings: Arc<MeSettings>,
    /// Where new sessions go.
    pub route: Route,
    /// For handshakes from now on; `None` before the first: nothing can be dialled.
    pub secret: Option<Arc<Secret>>,
    /// Under which address MEs see us.
    pub addresses: Addresses,
    /// DC groups with endpoints in a family in use, ascending by DC. Empty before the first map.
    pub groups: Arc<[GroupPlan]>,
    /// The current map, all families: endpoints by signed DC id. A writer whose endpoint is not in
    /// it may not get new sessions.
    pub map: Arc<BTreeMap<i16, Vec<SocketAddr>>>,
    /// Where ids without endpoints are routed.
    pub default_dc: i16,
    /// Grows by one when the map changes.
    pub map_epoch: u64,
    /// Generations.
    pub generations: Generations,
    /// How shares are filled.
    pub fill: Fill,
    /// Grows by one when `fill` begins anew: `Report::fill_done` is about this round.
    pub fill_round: u64,
    /// Endpoints not to be dialled until then; live ones only, sorted by address.
    pub quarantine: Arc<[(SocketAddr, Millis)]>,
    /// What one shard may do of what the process may do.
    pub limits: ShardLimits,
    /// Single things to do, ascending by id; each stays here until its shard reports it done.
    pub tasks: Arc<[Task]>,
}

/// Where new sessions go (section 22).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Through a writer.
    Middle,
    /// To the DC.
    #[default]
    Direct,
    /// Nowhere: listeners do not accept. Who is already there goes to a writer.
    Closed,
}

/// A proxy secret and its place in the row of those that were valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Grows by one with each new secret.
    pub epoch: u64,
    /// The secret.
    pub secret: ProxySecret,
}

/// Inputs of `proto::middle::address::Known` that do not belong to one dial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// `middle_proxy_nat_ip`.
    pub nat_ip: Option<IpAddr>,
    /// What STUN or HTTP says for IPv4.
    pub reflected_v4: Option<IpAddr>,
    /// What STUN says for IPv6.
    pub reflected_v6: Option<IpAddr>,
}

/// One DC group (section 11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    /// Signed DC id.
    pub dc: i16,
    /// Endpoints of the families in use, sorted, without doubles, never empty.
    pub endpoints: Arc<[SocketAddr]>,
    /// `R(e)`: what an override of the cap is judged by.
    pub base: u32,
    /// Writers wanted of each shard, in shard order: the group's target, and those grown or opened
    /// on demand.
    pub shares: Arc<[u32]>,
    /// Active writers of the whole process are at least the target: refreshes are allowed.
    pub at_floor: bool,
    /// The process has fewer than `base` active writers of the group: a dial may override the cap
    /// (11.5).
    pub under_base: bool,
    /// Every shard with a share has a writer at an endpoint of the current map: without hardswap,
    /// writers outside the map may go (`Generations::drain_unmapped`).
    pub covered: bool,
    /// Writers of generations before this one drain (active and warm ones alike).
    pub drain_before: u64,
    /// Set by family (v4, v6) while the only endpoint of the group has no writer anywhere: pools
    /// leave dialling it to outage tasks.
    pub outage: [bool; 2],
}

/// Generation numbers (section 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generations {
    /// Of ordinary writers. Warm writers of this generation become active.
    pub active: u64,
    /// Being warmed: each shard opens its share of warm writers of it. Warm writers of any other
    /// generation than this and `active` drain.
    pub warming: Option<u64>,
    /// Grows by one when the passes of the warm-up begin anew.
    pub warm_round: u64,
    /// Writers whose endpoint is not in the map drain, with leave to take sessions for lack of
    /// others, if their group is `covered` or no longer in `groups`. Set by a map change without
    /// hardswap.
    pub drain_unmapped: bool,
    /// Writers of groups that are not in `groups` drain when their generation is before this.
    pub drain_others_before: u64,
}

/// How shares are filled (section 12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Not: nothing to dial with yet.
    #[default]
    Not,
    /// Startup, first stage: a group with one endpoint its share, every other one writer, all at
    /// once, whatever the cap.
    First,
    /// Startup, second stage: the rest, with pauses; without them when they are switched off.
    Rest,
    /// The health tick's.
    Steady,
}

/// What one shard may do of what the process may do (sections 11.5, 13, 14.1, 17).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardLimits {
    /// Active writers this shard may still add before the process is at its cap.
    pub active_room: u32,
    /// Active writers it may still add by an override of the cap (`sum R`).
    pub override_room: u32,
    /// Warm writers it may still add.
    pub warm_room: u32,
    /// Dials per health tick, at least 1.
    pub dials_per_tick: u32,
    /// Dials of one group at a time, at least 1.
    pub dials_per_group: u32,
    /// Draining writers with sessions before the oldest is forced; `None`: no limit.
    pub draining_max: Option<u32>,
    /// Writers cleaned away per second, at least 1.
    pub removals_per_second: u32,
}

/// One thing to do on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Grows; a shard takes each id once and reports it with `PoolEvent::TaskDone`.
    pub id: u64,
    /// Which shard.
    pub shard: usize,
    /// What.
    pub kind: TaskKind,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Dial `endpoint`, then drain `writer` if it is still there. Done when the new one is a writer
    /// and the old one drains; failed when the dial did.
    Replace {
        /// The old one.
        writer: WriterId,
        /// Where the new one goes.
        endpoint: SocketAddr,
        /// Why: idle refresh, shadow rotation, swap under the cap, new secret.
        why: Replacing,
    },
    /// Drain `writer`; done at once.
    Drain {
        /// Which.
        writer: WriterId,
    },
    /// Dial the only endpoint of a group in outage, quarantined or not (section 16).
    Outage {
        /// The group.
        dc: i16,
        /// Its endpoint.
        endpoint: SocketAddr,
    },
}

/// Why a writer is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replacing {
    /// Idle, and the ME may be about to cut it (section 13).
    IdleRefresh,
    /// Spare of a group with one endpoint (section 16).
    ShadowRotation,
    /// At the cap, in favour of its own group (section 11.5).
    UnderCap,
    /// Opened with a secret that has changed (section 15).
    SecretChange,
}

/// A writer, unique in the process: `k * shards + shard + 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(pub u64);

impl Plan {
    /// The plan before anything is known: nothing is dialled, new sessions take `route`.
    #[must_use]
    pub fn empty(settings: Arc<MeSettings>, route: Route) -> Self {
        Self {
            serial: 0,
            tick: 0,
            settings,
            route,
            secret: None,
            addresses: Addresses::default(),
            groups: Arc::new([]),
            map: Arc::default(),
            default_dc: 2,
            map_epoch: 0,
            generations: Generations {
                active: 1,
                warming: None,
                warm_round: 0,
                drain_unmapped: false,
                drain_others_before: 0,
            },
            fill: Fill::Not,
            fill_round: 0,
            quarantine: Arc::new([]),
            limits: ShardLimits::default(),
            tasks: Arc::new([]),
        }
    }

    /// The group of a signed DC id.
    #[must_use]
    pub fn group(&self, dc: i16) -> Option<&GroupPlan> {
        let at = self.groups.binary_search_by_key(&dc, |group| group.dc);
        self.groups.get(at.ok()?)
    }

    /// Where a client's DC id goes, and whether that is by default (section 2.2).
    #[must_use]
    pub fn resolve(&self, dc: i16) -> Option<(&GroupPlan, bool)> {
        match self.group(dc) {
            Some(group) if dc != 0 => Some((group, false)),
            _ => self.group(self.default_dc).map(|group| (group, true)),
        }
    }
}
