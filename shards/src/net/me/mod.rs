//! Sessions through middle proxies: performs what the pool decides, and carries the bytes.
//!
//! | File | What |
//! |---|---|
//! | `dial.rs`, `link.rs` | a connection to an ME: connect, handshake, what it is then made of |
//! | `queue.rs`, `head.rs` | frames on their way to an ME |
//! | `writer.rs` | encrypts and sends what waits; hears of room, ends and losses |
//! | `session.rs` | what is kept of a client |
//! | `up.rs`, `desync.rs` | a client's bytes to messages; streams that are out of step |
//! | `answers.rs`, `down.rs`, `flush.rs` | an ME's bytes to sessions, to batches, to sockets |
//! | `actions.rs`, `moves.rs` | what the pool wants done; which session survives its writer |
//! | `serve.rs`, `ends.rs` | how a session begins, and how it ends |
//!
//! ```text
//!   client ──up──> queue ──writer (all writers at once, at the end of the turn)──> ME
//!   client <──flush── down <──answers── ME
//! ```
//!
//! Source: middle-proxy.md 8, 9 and 17 to 22.

mod actions;
mod answers;
mod desync;
mod dial;
mod down;
mod ends;
mod flush;
mod head;
mod link;
mod moves;
mod queue;
mod serve;
mod session;
mod up;
mod writer;

use std::{collections::VecDeque, sync::Arc};

use async_channel::Sender;
use slab::Slab;

pub(super) use self::session::Middle;
use self::{desync::Desync, link::Link, writer::Lane};
use super::{
    client::{Session, State},
    shard::Shard,
};
use crate::{
    counters::MeCounters,
    policy::{
        Millis,
        me::{
            plan::{Plan, Route},
            pool::{Derived, Place, Pool, WriterKey},
            report::Report,
        },
        timer::Timers,
    },
    settings::MeSetup,
};

/// The ME side of one shard.
pub(super) struct Me {
    pool: Pool,
    setup: MeSetup,
    report: Sender<Report>,
    links: Slab<Link>,
    /// The link of each writer, by the key's index.
    by_writer: Vec<Option<u32>>,
    /// Dials whose keys are not derived yet, and what to say when they are.
    derived: Vec<(u32, Derived)>,
    /// Writers with something to send.
    dirty: Vec<u32>,
    /// Sessions with something for their client.
    flushes: Vec<u32>,
    /// Sessions that had their turn and have more.
    turns: VecDeque<u32>,
    /// Sessions whose batch waits for more, and until when, microseconds; in order of time.
    holds: VecDeque<(u64, u32)>,
    /// Sessions that stand still, in either direction.
    watches: Timers,
    link_timers: Timers,
    /// What the data path counts; the pool has the rest.
    counters: MeCounters,
    desync: Desync,
    /// Sessions here.
    sessions: u64,
    /// Silent ones, the longest silent first; some may have spoken since, or are gone.
    marked: VecDeque<u32>,
    lanes: Vec<Lane>,
    gather: writer::Gather,
    switch: writer::MeSwitch,
    /// Set at the end: when what is not sent by then is given up.
    closing_until: Option<Millis>,
}

impl Me {
    /// The ME side of a shard that has no plan yet.
    pub(super) fn new(setup: MeSetup, report: Sender<Report>, place: Place, now: Millis) -> Self {
        let settings = Arc::clone(&setup.settings);
        Self {
            pool: Pool::new(place, settings, now),
            setup,
            report,
            links: Slab::new(),
            by_writer: Vec::new(),
            derived: Vec::new(),
            dirty: Vec::new(),
            flushes: Vec::new(),
            turns: VecDeque::new(),
            holds: VecDeque::new(),
            watches: Timers::default(),
            link_timers: Timers::default(),
            counters: MeCounters::default(),
            desync: Desync::default(),
            sessions: 0,
            marked: VecDeque::new(),
            lanes: Vec::new(),
            gather: writer::Gather::default(),
            switch: writer::MeSwitch::default(),
            closing_until: None,
        }
    }

    /// Where new sessions go.
    pub(super) fn route(&self) -> Route {
        let plan = self.pool.plan();
        let admission = &plan.settings.admission;
        match plan.serial {
            // Nobody has said yet: what is right while nothing is ready.
            0 if admission.fallback && admission.fast => Route::Direct,
            0 => Route::Closed,
            _ => plan.route,
        }
    }

    fn link_of(&self, writer: WriterKey) -> Option<u32> {
        *self.by_writer.get(writer.index())?
    }

    fn set_link(&mut self, writer: WriterKey, link: u32) {
        let index = writer.index();
        if self.by_writer.len() <= index {
            self.by_writer.resize(index + 1, None);
        }
        self.by_writer[index] = Some(link);
    }

    fn forget_link(&mut self, writer: WriterKey, link: u32) {
        if let Some(slot) = self.by_writer.get_mut(writer.index())
            && *slot == Some(link)
        {
            *slot = None;
        }
    }

    fn arm_link(&mut self, key: u32) {
        if let Some(link) = self.links.get_mut(key as usize) {
            let (deadline, armed) = link.timer();
            self.link_timers.arm(armed, key, deadline);
        }
    }
}

impl Shard {
    /// Goes by another plan.
    pub(super) fn me_plan(&mut self, plan: &Arc<Plan>) {
        let now = self.now;
        let Some(me) = &mut self.me else { return };
        me.pool.apply(plan, now);
        self.me_settings();
        self.follow_route();
    }

    /// What the knobs of a plan change at once.
    pub(super) fn me_settings(&mut self) {
        let Some(me) = &mut self.me else { return };
        let settings = &me.pool.plan().settings;
        let shrink = settings.downlink.shrink_bytes;
        let counts = settings.counts;
        let counted = me.counted(self.engine.blocks().shrunk());
        me.switch.set(counts, &counted);
        self.engine.blocks().shrink_beyond(shrink);
    }

    /// The end of a turn: what the turn brought goes out, all writers together.
    pub(super) fn me_turn_ends(&mut self) {
        if self.me.is_none() {
            return;
        }
        // What is flushed may make room for those that waited, who may have something to flush.
        for _ in 0..ROUNDS_MAX {
            self.middle_turns();
            let acted = self.me_act();
            self.middle_flushes();
            self.me_flush_writers();
            let Some(me) = &self.me else { return };
            // What writers put off to the next turn is no reason to go on; that turn comes at once.
            let put_off = me.dirty.is_empty() || self.engine.has_more();
            if !acted && me.turns.is_empty() && put_off && me.flushes.is_empty() {
                return;
            }
        }
        // There is no end of it: others have their turn.
        self.engine.hurry();
    }

    fn middle(&self, key: u32) -> Option<&Middle> {
        middle_ref(self.sessions.get(key as usize)?)
    }

    fn middle_mut(&mut self, key: u32) -> Option<&mut Middle> {
        middle_of(self.sessions.get_mut(key as usize)?)
    }
}

/// Rounds of one turn; more than two are rare.
const ROUNDS_MAX: usize = 16;

/// The same, not to be changed.
fn middle_ref(session: &Session) -> Option<&Middle> {
    match &session.state {
        State::Middle(middle) => Some(middle),
        State::Proxied(_)
        | State::Handshake(_)
        | State::Answering(_)
        | State::Refused
        | State::Closing
        | State::Dialing(_)
        | State::Relay(_)
        | State::Approach(_)
        | State::Splice(_) => None,
    }
}

/// The session as one that goes through an ME.
fn middle_of(session: &mut Session) -> Option<&mut Middle> {
    match &mut session.state {
        State::Middle(middle) => Some(middle),
        State::Proxied(_)
        | State::Handshake(_)
        | State::Answering(_)
        | State::Refused
        | State::Closing
        | State::Dialing(_)
        | State::Relay(_)
        | State::Approach(_)
        | State::Splice(_) => None,
    }
}
