//! Dials: where the next one goes, whether there may be one, and what becomes of it.
//!
//! What a dial is for decides who goes on when it ended: [`Purpose`].
//!
//! Source: middle-proxy.md 11.5, 14.1, 14.3.

use std::{cmp::Reverse, net::SocketAddr};

use super::{
    super::super::Millis,
    Pool,
    endpoints::FAILS_MAX,
    exchange::{Action, DialFailure, DialId, DialLimits, Opened, WriterKey},
    group::family,
    pulse::Pulse,
    registry::Registry,
    writer::Writer,
};
use crate::policy::{
    me::{
        plan::{Fill, Replacing, WriterId},
        report::{PoolEvent, WriterState},
    },
    timer::Armed,
};

/// A dial under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) dc: i16,
    pub(super) endpoint: SocketAddr,
    pub(super) purpose: Purpose,
    /// Its attempt was counted, so its success is.
    counted: bool,
}

/// What a dial is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Startup, both stages.
    Start,
    /// The health tick.
    Health,
    /// The refill of a group and family.
    Refill { family: usize },
    /// The generation to come.
    Warm { generation: u64 },
    /// A session without a writer, on its own.
    Inline,
    /// A task of the plan.
    Replace {
        task: u64,
        writer: WriterId,
        why: Replacing,
    },
    /// A task of the plan.
    Outage { task: u64 },
}

impl Purpose {
    /// Health tick, refill, outage mode.
    fn is_reconnect(self) -> bool {
        match self {
            Self::Health | Self::Refill { .. } | Self::Outage { .. } => true,
            Self::Start | Self::Warm { .. } | Self::Inline | Self::Replace { .. } => false,
        }
    }

    fn is_outage(self) -> bool {
        matches!(self, Self::Outage { .. })
    }

    pub(super) fn is_warm(self) -> bool {
        matches!(self, Self::Warm { .. })
    }

    /// Fills a share.
    pub(super) fn is_fill(self) -> bool {
        match self {
            Self::Start | Self::Health | Self::Inline | Self::Outage { .. } => true,
            Self::Refill { .. } | Self::Warm { .. } | Self::Replace { .. } => false,
        }
    }

    fn limits(self) -> DialLimits {
        match self {
            Self::Refill { .. } | Self::Inline => DialLimits::Fast,
            Self::Start
            | Self::Health
            | Self::Warm { .. }
            | Self::Replace { .. }
            | Self::Outage { .. } => DialLimits::Slow,
        }
    }
}

impl Pool {
    /// There is something to dial with.
    pub(super) fn may_dial(&self) -> bool {
        self.plan.secret.is_some() && self.plan.fill != Fill::Not
    }

    /// The group may have another dial under way.
    pub(super) fn has_dial_slot(&self, dc: i16) -> bool {
        let limit = self.plan.limits.dials_per_group.max(1);
        self.groups
            .get(&dc)
            .is_some_and(|group| group.dials < limit)
    }

    /// Another active writer may be opened (section 11.5).
    /// `over_cap`: for coverage, which may pass the cap while group or process are below `R`.
    pub(super) fn has_active_room(&self, dc: i16, over_cap: bool) -> bool {
        let running = self
            .dials
            .values()
            .filter(|dial| !dial.purpose.is_warm())
            .count();
        let taken = self.active_delta + i64::try_from(running).unwrap_or(i64::MAX);
        let limits = &self.plan.limits;
        let under_base = || {
            self.plan
                .group(dc)
                .is_some_and(|planned| planned.under_base)
        };
        taken < i64::from(limits.active_room)
            || over_cap && (under_base() || taken < i64::from(limits.override_room))
    }

    /// Another warm writer may be opened.
    pub(super) fn has_warm_room(&self) -> bool {
        let running = self
            .dials
            .values()
            .filter(|dial| dial.purpose.is_warm())
            .count();
        let taken = self.warm_delta + i64::try_from(running).unwrap_or(i64::MAX);
        taken < i64::from(self.plan.limits.warm_room)
    }

    /// Begins a dial.
    pub(super) fn dial(&mut self, dc: i16, endpoint: SocketAddr, purpose: Purpose) -> DialId {
        self.next_dial += 1;
        let dial = DialId(self.next_dial);
        let counted = purpose.is_reconnect() && self.tally.is_on();
        if counted {
            self.tally.me(|me| me.reconnect_attempt_total += 1);
        }
        if purpose.is_outage() {
            let count = &mut self.tally;
            count.me(|me| me.single_endpoint_outage_reconnect_attempt_total += 1);
        }
        self.dials.insert(
            dial,
            Dial {
                dc,
                endpoint,
                purpose,
                counted,
            },
        );
        if let Some(group) = self.groups.get_mut(&dc) {
            group.dials += 1;
        }
        self.outbox.changed();
        self.actions.push_back(Action::Dial {
            dial,
            dc,
            endpoint,
            limits: purpose.limits(),
        });
        dial
    }

    /// Gives up all dials that nobody wants any more; what they were for goes on without them.
    pub(super) fn cancel_dials(&mut self, now: Millis, is_wanted: impl Fn(&Dial) -> bool) {
        let gone: Vec<DialId> = self
            .dials
            .iter()
            .filter(|(_, dial)| !is_wanted(dial))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.actions.push_back(Action::CancelDial(id));
            if let Some(dial) = self.end_dial(id) {
                self.go_on(dial, None, now);
            }
        }
    }

    fn end_dial(&mut self, id: DialId) -> Option<Dial> {
        let dial = self.dials.remove(&id)?;
        if let Some(group) = self.groups.get_mut(&dial.dc) {
            debug_assert!(group.dials > 0);
            group.dials -= 1;
            if group.inline == Some(id) {
                group.inline = None;
            }
        }
        self.outbox.changed();
        Some(dial)
    }

    /// See [`Pool::dial_ended`].
    pub(super) fn finish_dial(
        &mut self,
        id: DialId,
        result: Result<Opened, DialFailure>,
        now: Millis,
    ) -> Option<WriterKey> {
        let dial = self.end_dial(id)?;
        let writer = match result {
            Ok(opened) => self.open_writer(&dial, opened, now),
            Err(why) => {
                self.dial_failed(&dial, why);
                None
            }
        };
        self.go_on(dial, writer, now);
        writer
    }

    fn dial_failed(&mut self, dial: &Dial, why: DialFailure) {
        let words = match why {
            DialFailure::Rejected(code) => {
                self.tally.rejected(code);
                "the ME refused the handshake"
            }
            DialFailure::NoBound => {
                self.tally.me(|me| me.socks_kdf_strict_reject_total += 1);
                "the SOCKS server reported no usable address"
            }
            DialFailure::Other(words) => words,
        };
        let endpoint = dial.endpoint;
        self.outbox.event(PoolEvent::DialFailed {
            endpoint,
            why: words,
        });
        let known = self.plan.map.get(&dial.dc);
        if known.is_some_and(|known| known.contains(&endpoint))
            && let Some(group) = self.groups.get_mut(&dial.dc)
        {
            let fails = group.fails.entry(endpoint).or_default();
            *fails = fails.saturating_add(1).min(FAILS_MAX);
        }
    }

    /// Makes a writer of a dial; `None`: nobody wants it any more.
    fn open_writer(&mut self, dial: &Dial, opened: Opened, now: Millis) -> Option<WriterKey> {
        let generations = self.plan.generations;
        let (generation, state) = match dial.purpose {
            Purpose::Warm { generation } if generations.warming == Some(generation) => {
                (generation, WriterState::Warm)
            }
            Purpose::Warm { generation } if generations.active != generation => return None,
            _ => (generations.active, WriterState::Active),
        };
        let mut writer = Writer {
            id: self.next_writer_id(),
            dc: dial.dc,
            endpoint: dial.endpoint,
            generation,
            secret_epoch: opened.secret_epoch,
            state,
            born: now,
            idle_since: Some(now),
            ever_bound: false,
            used_pct: 0,
            has_room: true,
            evict_after: now,
            registry: Registry::new(),
            pulse: Pulse::new(&self.plan.settings.keepalive, &mut self.dice, now),
            armed: Armed::default(),
        };
        let due = writer.pulse.deadline(now);
        writer.armed = Armed::default();
        let key = self.writers.insert(writer)?;
        self.arm(key, due);
        match state {
            WriterState::Warm => self.warm_delta += 1,
            WriterState::Active | WriterState::Draining { .. } => self.active_delta += 1,
        }
        if dial.counted {
            self.tally.me(|me| me.reconnect_success_total += 1);
        }
        if dial.purpose.is_outage() && dial.counted {
            let count = &mut self.tally;
            count.me(|me| me.single_endpoint_outage_reconnect_success_total += 1);
        }
        let group = self.groups.get_mut(&dial.dc)?;
        group.writers.push(key);
        group.fails.remove(&dial.endpoint);
        self.regroup(dial.dc);
        self.wake(dial.dc);
        self.outbox.changed();
        Some(key)
    }

    fn next_writer_id(&mut self) -> WriterId {
        let k = self.next_writer;
        self.next_writer += 1;
        let (shard, shards) = (self.place.shard as u64, self.place.shards as u64);
        WriterId(k * shards + shard + 1)
    }

    /// What the dial was for takes its end in.
    fn go_on(&mut self, dial: Dial, writer: Option<WriterKey>, now: Millis) {
        self.deadline.touch();
        let Dial { dc, endpoint, .. } = dial;
        let won = writer.is_some();
        match dial.purpose {
            Purpose::Start => self.start_dialled(dc, won, now),
            Purpose::Health => self.fill_dialled(dc, family(endpoint)),
            Purpose::Refill { family } => self.refill_dialled(dc, family, won, now),
            Purpose::Warm { .. } => self.warm_dialled(dc, now),
            Purpose::Inline => self.recover_inline(dc, now),
            Purpose::Replace {
                task,
                writer: old,
                why,
            } => {
                self.replaced(task, (old, why), writer, now);
            }
            Purpose::Outage { task } => self.task_done(task, won),
        }
        self.pump_group(dc, now);
    }

    /// Dials under way of one group that fill a share, by family.
    pub(super) fn filling(&self, dc: i16) -> [u32; 2] {
        let mut running = [0; 2];
        for dial in self.dials.values() {
            if dial.dc == dc && dial.purpose.is_fill() {
                running[family(dial.endpoint)] += 1;
            }
        }
        running
    }

    /// The longest idle first: for lists of writers.
    pub(super) fn by_idleness(&self, keys: &mut [WriterKey], now: Millis) {
        keys.sort_by_key(|key| {
            let idle = self.writers.get(*key).map(|writer| writer.idle_ms(now));
            (Reverse(idle), *key)
        });
    }
}
