//! One writer as the pool sees it, and the slab of all of them.
//!
//! No rules here but what follows from one writer's own state. Keys are checked: one of a writer
//! that is gone finds nothing, whoever has its place now.

use std::net::SocketAddr;

use super::{super::super::Millis, exchange::WriterKey, pulse::Pulse, registry::Registry};
use crate::policy::{
    me::{
        plan::WriterId,
        report::{WriterRow, WriterState},
    },
    timer::Armed,
};

/// A connection to an ME that shook hands.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) id: WriterId,
    /// The group it was dialled for.
    pub(super) dc: i16,
    pub(super) endpoint: SocketAddr,
    pub(super) generation: u64,
    pub(super) secret_epoch: u64,
    pub(super) state: WriterState,
    /// When it became a writer.
    pub(super) born: Millis,
    /// `None` while sessions are bound.
    pub(super) idle_since: Option<Millis>,
    /// Some session was bound once: there is something to put into an activity signal.
    pub(super) ever_bound: bool,
    /// Percent of its send queue in use.
    pub(super) used_pct: u8,
    /// Its send queue takes another frame.
    pub(super) has_room: bool,
    /// No soft evict before.
    pub(super) evict_after: Millis,
    pub(super) registry: Registry,
    pub(super) pulse: Pulse,
    pub(super) armed: Armed,
}

impl Writer {
    /// Active or warm.
    pub(super) fn is_usable(&self) -> bool {
        !self.state.is_draining()
    }

    pub(super) fn is_active(&self) -> bool {
        self.state == WriterState::Active
    }

    pub(super) fn is_warm(&self) -> bool {
        self.state == WriterState::Warm
    }

    pub(super) fn is_empty(&self) -> bool {
        self.registry.sessions() == 0
    }

    /// How long it has had no session; zero while it has some.
    pub(super) fn idle_ms(&self, now: Millis) -> u64 {
        self.idle_since.map_or(0, |since| now.since(since))
    }

    /// When its drain began; `None` before.
    pub(super) fn drained_since(&self) -> Option<Millis> {
        match self.state {
            WriterState::Draining { started, .. } => Some(started),
            WriterState::Warm | WriterState::Active => None,
        }
    }

    /// What the supervisor and the API see.
    pub(super) fn row(&self) -> WriterRow {
        WriterRow {
            id: self.id,
            dc: self.dc,
            endpoint: self.endpoint,
            generation: self.generation,
            state: self.state,
            degraded: self.pulse.is_degraded(),
            bound_clients: self.registry.sessions(),
            idle_since: self.idle_since,
            rtt_ema_ms: self.pulse.rtt_ema_ms(),
            secret_epoch: self.secret_epoch,
            busy: self.used_pct > BUSY_PCT,
        }
    }
}

/// A send queue fuller than this makes its writer busy.
const BUSY_PCT: u8 = 50;

/// All writers of a shard.
#[derive(Debug, Default)]
pub(super) struct Writers {
    places: Vec<Place>,
    free: Vec<u16>,
    /// Left since [`Self::reuse`] was last called.
    left: Vec<u16>,
    live: usize,
}

#[derive(Debug)]
struct Place {
    /// How often the place was given away, wrapping: keys of 65,536 writers ago are as good as any.
    turn: u16,
    writer: Option<Writer>,
}

impl Writers {
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// `None`: 65,536 writers on one shard are enough.
    pub(super) fn insert(&mut self, writer: Writer) -> Option<WriterKey> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u16::try_from(self.places.len()).ok()?;
                self.places.push(Place {
                    turn: 0,
                    writer: None,
                });
                index
            }
        };
        let place = self.places.get_mut(usize::from(index))?;
        debug_assert!(place.writer.is_none());
        place.turn = place.turn.wrapping_add(1);
        place.writer = Some(writer);
        self.live += 1;
        Some(key(index, place.turn))
    }

    pub(super) fn remove(&mut self, key: WriterKey) -> Option<Writer> {
        let place = self.places.get_mut(key.index())?;
        if turn(key) != place.turn {
            return None;
        }
        let writer = place.writer.take()?;
        self.live -= 1;
        self.left.push((key.0 & 0xffff) as u16);
        Some(writer)
    }

    /// Places that were left may be given away again: whoever keeps something by place has heard
    /// of the end of who was there.
    pub(super) fn reuse(&mut self) {
        self.free.append(&mut self.left);
    }

    pub(super) fn get(&self, key: WriterKey) -> Option<&Writer> {
        let place = self.places.get(key.index())?;
        let writer = place.writer.as_ref()?;
        (turn(key) == place.turn).then_some(writer)
    }

    pub(super) fn get_mut(&mut self, key: WriterKey) -> Option<&mut Writer> {
        let place = self.places.get_mut(key.index())?;
        let writer = place.writer.as_mut()?;
        (turn(key) == place.turn).then_some(writer)
    }

    /// Whoever has that place now: timers name places.
    pub(super) fn at(&self, index: u32) -> Option<WriterKey> {
        let index = u16::try_from(index).ok()?;
        let place = self.places.get(usize::from(index))?;
        place.writer.as_ref().map(|_| key(index, place.turn))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WriterKey, &Writer)> {
        (0_u16..=u16::MAX)
            .zip(&self.places)
            .filter_map(|(index, place)| Some((key(index, place.turn), place.writer.as_ref()?)))
    }
}

fn key(index: u16, turn: u16) -> WriterKey {
    WriterKey(u32::from(turn) << 16 | u32::from(index))
}

fn turn(key: WriterKey) -> u16 {
    (key.0 >> 16) as u16
}
