//! What one shard shows of itself at one instant, and how several become one.

use std::net::IpAddr;

use crate::{
    counters::{
        BadClass, CoreCounters, DesyncCounters, FailureClass, FailureStage, MeCounters,
        PoolCounters, UpstreamCounters, UserCounters,
    },
    me::{GroupUse, RefillRow, WriterRow},
};

/// A copy of one shard's counters and rows; merged with the others' by [`merge_snapshots`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardSnapshot {
    /// The shard; 0 after a merge.
    pub shard: usize,
    /// Client connections.
    pub core: CoreCounters,
    /// Connects to DCs.
    pub upstream: UpstreamCounters,
    /// ME connections.
    pub me: MeCounters,
    /// ME pool.
    pub pool: PoolCounters,
    /// Framing errors.
    pub desync: DesyncCounters,
    /// One slot per [`BadClass`], in the order of `BadClass::ALL`.
    pub bad_by_class: [u64; BadClass::COUNT],
    /// One slot per [`FailureClass`].
    pub failures_by_class: [u64; FailureClass::COUNT],
    /// One slot per [`FailureStage`].
    pub failures_by_stage: [u64; FailureStage::COUNT],
    /// One row per user id: the order of `Control::names`. Ids without a user are all zero, or what
    /// a removed user whose sessions may stay still does.
    pub users: Vec<UserCounters>,
    /// Source addresses by user: live ones, and those seen within the window.
    pub user_ips: Vec<UserIpRow>,
    /// Routes to the DCs, in configuration order.
    pub upstreams: Vec<UpstreamRow>,
    /// New clients are accepted.
    pub accepting: bool,
    /// ME writers, ascending by (dc, endpoint, id).
    pub writers: Vec<WriterRow>,
    /// Sessions by DC group, ascending by DC.
    pub me_groups: Vec<GroupUse>,
    /// Refills under way, ascending; once for each shard that is at it.
    pub refills: Vec<RefillRow>,
    /// Handshakes refused by MEs, by error code, ascending; sums up to `handshake_reject_total`.
    pub handshake_error_codes: Vec<(i32, u64)>,
    /// Sessions through MEs now, bound to a writer or not.
    pub sessions_me: u64,
    /// Sessions direct to DCs now; with `sessions_me` all sessions there are.
    pub sessions_direct: u64,
}

impl ShardSnapshot {
    /// The shard has ended: what it counted stays, what it held is gone.
    pub fn end(&mut self) {
        self.core.connections_current = 0;
        self.core.sessions_current = 0;
        for user in &mut self.users {
            user.current_connections = 0;
        }
        for row in &mut self.user_ips {
            row.active = 0;
        }
        self.accepting = false;
        self.pool.pool_drain_active = 0;
        self.writers.clear();
        self.me_groups.clear();
        self.refills.clear();
        self.sessions_me = 0;
        self.sessions_direct = 0;
    }
}

/// A source address of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UserIpRow {
    /// The user's id.
    pub user: u32,
    /// Address; IPv4-mapped IPv6 is unwrapped.
    pub ip: IpAddr,
    /// Sessions now open from it.
    pub active: u32,
    /// Milliseconds since it was last seen.
    pub idle_ms: u64,
}

/// One route to the DCs as a shard sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpstreamRow {
    /// Not over the failure threshold.
    pub healthy: bool,
    /// Client cycles that failed in a row.
    pub fails: u32,
    /// Milliseconds since a connect or probe last ended; `None` before the first.
    pub last_check_ms: Option<u64>,
    /// Per DC, ascending by id.
    pub dcs: Vec<DcRow>,
}

/// One DC through one route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DcRow {
    /// DC id, positive.
    pub dc: i16,
    /// Moving average of connect times, new samples weigh 0.3; `None` before the first.
    pub latency_ema_ms: Option<f64>,
    /// Whether its IPv4 addresses answer.
    pub v4: FamilyState,
    /// Whether its IPv6 addresses answer.
    pub v6: FamilyState,
}

/// What is known of one address family of one DC (protocol.md 9.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyState {
    /// Never tried.
    #[default]
    Unknown,
    /// The last try succeeded.
    Works,
    /// The last try failed.
    Fails,
}

/// Joins the snapshots of all shards; `None` when there is none.
///
/// Counters follow their rows; a route is healthy when any shard finds it so; latencies are
/// averaged over the shards that have one; a family works when it works for any shard.
#[must_use]
pub fn merge_snapshots(parts: impl IntoIterator<Item = ShardSnapshot>) -> Option<ShardSnapshot> {
    let parts: Vec<_> = parts.into_iter().collect();
    let mut total = parts.first().cloned()?;
    total.shard = 0;
    for part in parts.iter().skip(1) {
        total.core.merge(&part.core);
        total.upstream.merge(&part.upstream);
        total.me.merge(&part.me);
        total.pool.merge(&part.pool);
        total.desync.merge(&part.desync);
        add_all(&mut total.bad_by_class, &part.bad_by_class);
        add_all(&mut total.failures_by_class, &part.failures_by_class);
        add_all(&mut total.failures_by_stage, &part.failures_by_stage);
        merge_users(&mut total.users, &part.users);
        merge_ips(&mut total.user_ips, &part.user_ips);
        total.accepting &= part.accepting;
        total.writers.extend_from_slice(&part.writers);
        total.me_groups.extend_from_slice(&part.me_groups);
        total.refills.extend_from_slice(&part.refills);
        let codes = &part.handshake_error_codes;
        total.handshake_error_codes.extend_from_slice(codes);
        total.sessions_me += part.sessions_me;
        total.sessions_direct += part.sessions_direct;
    }
    sort_me(&mut total);
    total.upstreams = merge_upstreams(&parts);
    Some(total)
}

fn add_all(total: &mut [u64], part: &[u64]) {
    for (sum, value) in total.iter_mut().zip(part) {
        *sum = sum.saturating_add(*value);
    }
}

/// One row of the ME side for each thing, in order.
fn sort_me(total: &mut ShardSnapshot) {
    let writers = &mut total.writers;
    writers.sort_unstable_by_key(|row| (row.dc, row.endpoint, row.id));
    total.refills.sort_unstable();
    total.me_groups.sort_by_key(|group| group.dc);
    total.me_groups.dedup_by(|group, kept| {
        let same = group.dc == kept.dc;
        if same {
            kept.sessions += group.sessions;
            kept.last_bind = kept.last_bind.max(group.last_bind);
            kept.wanted |= group.wanted;
        }
        same
    });
    let codes = &mut total.handshake_error_codes;
    codes.sort_unstable();
    codes.dedup_by(|row, kept| {
        let same = row.0 == kept.0;
        if same {
            kept.1 += row.1;
        }
        same
    });
}

fn merge_users(total: &mut Vec<UserCounters>, part: &[UserCounters]) {
    if total.len() < part.len() {
        total.resize(part.len(), UserCounters::default());
    }
    for (sum, row) in total.iter_mut().zip(part) {
        sum.merge(row);
    }
}

fn merge_ips(total: &mut Vec<UserIpRow>, part: &[UserIpRow]) {
    total.extend_from_slice(part);
    total.sort_unstable_by_key(|row| (row.user, row.ip));
    total.dedup_by(|row, kept| {
        let same = row.user == kept.user && row.ip == kept.ip;
        if same {
            kept.active = kept.active.saturating_add(row.active);
            kept.idle_ms = kept.idle_ms.min(row.idle_ms);
        }
        same
    });
}

fn merge_upstreams(parts: &[ShardSnapshot]) -> Vec<UpstreamRow> {
    let count = parts
        .iter()
        .map(|part| part.upstreams.len())
        .max()
        .unwrap_or(0);
    (0..count)
        .map(|index| {
            let rows: Vec<&UpstreamRow> = parts
                .iter()
                .filter_map(|part| part.upstreams.get(index))
                .collect();
            UpstreamRow {
                healthy: rows.iter().any(|row| row.healthy),
                fails: rows.iter().map(|row| row.fails).min().unwrap_or(0),
                last_check_ms: rows.iter().filter_map(|row| row.last_check_ms).min(),
                dcs: merge_dcs(&rows),
            }
        })
        .collect()
}

fn merge_dcs(rows: &[&UpstreamRow]) -> Vec<DcRow> {
    let mut all: Vec<DcRow> = rows
        .iter()
        .flat_map(|row| row.dcs.iter().copied())
        .collect();
    all.sort_by_key(|row| row.dc);
    all.chunk_by(|a, b| a.dc == b.dc)
        .map(|same| {
            let known: Vec<f64> = same.iter().filter_map(|row| row.latency_ema_ms).collect();
            #[expect(clippy::cast_precision_loss, reason = "a handful of shards")]
            let mean = known.iter().sum::<f64>() / known.len() as f64;
            DcRow {
                dc: same[0].dc,
                latency_ema_ms: (!known.is_empty()).then_some(mean),
                v4: same
                    .iter()
                    .map(|row| row.v4)
                    .fold(FamilyState::Unknown, FamilyState::or),
                v6: same
                    .iter()
                    .map(|row| row.v6)
                    .fold(FamilyState::Unknown, FamilyState::or),
            }
        })
        .collect()
}

impl FamilyState {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Works, _) | (_, Self::Works) => Self::Works,
            (Self::Fails, _) | (_, Self::Fails) => Self::Fails,
            (Self::Unknown, Self::Unknown) => Self::Unknown,
        }
    }
}
