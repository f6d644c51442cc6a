//! What a shard tells the supervisor: all its writers as they are, and what happened.
//!
//! Sent when something changed, at most every 20 ms, and once per second while it has writers. The
//! writers are whole each time; events are told once.
//!
//! Source: middle-proxy.md 25 and 26.4.

use std::net::{IpAddr, SocketAddr};

use super::{super::Millis, plan::WriterId};
use crate::proto::middle::address::Source;

/// One shard at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Which shard.
    pub shard: usize,
    /// The plan it goes by.
    pub plan: u64,
    /// The last tick whose dials it has begun.
    pub tick: u64,
    /// Its writers, ascending by (dc, endpoint, id).
    pub writers: Vec<WriterRow>,
    /// Groups that have sessions, or had some lately, ascending by DC.
    pub groups: Vec<GroupUse>,
    /// Refills under way, ascending.
    pub refills: Vec<RefillRow>,
    /// Dials under way of all kinds.
    pub dials: u32,
    /// The dials of `Fill::First` and `Fill::Rest` are over: nothing is missing, or a whole round
    /// of every group that misses some has failed.
    pub fill_done: bool,
    /// All passes of the warm-up `Generations::warm_round` are over.
    pub warm_done: u64,
    /// What happened since the last report, in order.
    pub events: Vec<PoolEvent>,
}

/// One writer.
#[derive(Clone, Debug, PartialEq)]
pub struct WriterRow {
    /// Which.
    pub id: WriterId,
    /// The group it was dialled for.
    pub dc: i16,
    /// The address dialled.
    pub endpoint: SocketAddr,
    /// Assigned at the dial.
    pub generation: u64,
    /// Where it stands.
    pub state: WriterState,
    /// Slow against its own past.
    pub degraded: bool,
    /// Sessions bound now.
    pub bound_clients: u32,
    /// Since when there are none; `None` while there are.
    pub idle_since: Option<Millis>,
    /// Moving average of round trips; `None` before the first.
    pub rtt_ema_ms: Option<f64>,
    /// Epoch of the secret of its handshake.
    pub secret_epoch: u64,
    /// Its send queue is over half full.
    pub busy: bool,
}

/// Where a writer stands (section 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterState {
    /// For the generation to come.
    Warm,
    /// In use.
    Active,
    /// On its way out.
    Draining {
        /// It may take sessions for lack of others.
        fallback: bool,
        /// Since when.
        started: Millis,
        /// When it is forced.
        deadline: Millis,
        /// Longer than the TTL.
        over_ttl: bool,
    },
}

/// Sessions of one group on one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupUse {
    /// Signed DC id.
    pub dc: i16,
    /// Sessions bound to its writers, whatever DC their clients named.
    pub sessions: u32,
    /// When one was last bound.
    pub last_bind: Option<Millis>,
    /// A session needed a writer that no share provided (section 11.3, on demand), and not so long
    /// ago that it may go.
    pub wanted: bool,
}

/// A refill under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefillRow {
    /// Signed DC id.
    pub dc: i16,
    /// IPv6.
    pub ipv6: bool,
}

/// What happened once.
#[derive(Clone, Debug, PartialEq)]
pub enum PoolEvent {
    /// A writer was lost unexpectedly soon after its handshake: its endpoint goes to quarantine.
    LostEarly {
        /// Which.
        endpoint: SocketAddr,
    },
    /// Keys of a handshake were derived: what the self-test compares (section 24.2).
    Keys(KeyFacts),
    /// A dial through a SOCKS server was connected (sections 9.1 and 24.2).
    Socks {
        /// The ME.
        me: SocketAddr,
        /// What the server reported as its bound address, usable or not.
        reported: Option<SocketAddr>,
        /// It was not usable and the policy refused the dial: `socks_kdf_strict_reject_total`.
        refused: bool,
    },
    /// A task is over.
    TaskDone {
        /// Its id.
        id: u64,
        /// Whether it did what it should.
        done: bool,
    },
    /// A dial of whatever kind failed.
    DialFailed {
        /// Where.
        endpoint: SocketAddr,
        /// Why, as words for the log; no secrets.
        why: &'static str,
    },
}

/// Address material of one handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFacts {
    /// The ME.
    pub me: SocketAddr,
    /// Our IP in the keys.
    pub proxy_ip: IpAddr,
    /// Our port in the keys.
    pub proxy_port: u16,
    /// Which rule gave the IP.
    pub source: Source,
    /// What STUN or HTTP said.
    pub reflected: Option<IpAddr>,
    /// What a SOCKS server said, usable or not; set only for dials through one.
    pub bound: Option<SocketAddr>,
}

impl WriterState {
    /// Draining.
    #[must_use]
    pub fn is_draining(self) -> bool {
        matches!(self, Self::Draining { .. })
    }
}
