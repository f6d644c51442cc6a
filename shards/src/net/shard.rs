//! One shard: its state, its turn, its timers and its mailbox.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_channel::Sender;
use glommio::io::PollableFd;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use slab::Slab;

use super::{
    accept::Notes,
    client::{Session, Side, State, owner, unpack},
    connector::Way,
    control::Applied,
    doors::{Door, Doors},
    mailbox::{Inbox, Order, Question},
    me::Me,
    probing::Probing,
    sources::Sources,
    tally::{Switch, Totals},
};
use crate::{
    control::{Pressure, UnknownDcs},
    counters::{UpstreamCounters, UserCounters},
    engine::{Engine, Event, SocketId},
    keys::KeyPool,
    policy::{
        Millis,
        end::SessionEnd,
        fingerprints::Fingerprints,
        mask::Places,
        me::{pool::Place, report::Report},
        nets::NetTable,
        observations::Observed,
        permits::Permits,
        replay::ReplayStore,
        returning::Returning,
        timer::Timers,
        upstream::{Board, Upstreams},
        users::{Hints, UserTable},
    },
    settings::{FrontTable, HotSettings, NameTable, Parking, Settings},
};

/// Everything one core owns. Plain data: nobody else touches it.
pub(super) struct Shard {
    pub(super) index: usize,
    pub(super) settings: Rc<Settings>,
    pub(super) engine: Engine,
    pub(super) users: Arc<UserTable>,
    pub(super) hot: Arc<HotSettings>,
    pub(super) nets: Arc<NetTable>,
    /// What host names mean at present.
    pub(super) names: Arc<NameTable>,
    /// Places for strangers, and who waits for one.
    pub(super) strangers: Places,
    /// When the log was told last that the mask host is not there.
    pub(super) mask_complained: Option<Millis>,
    pub(super) applied: Applied,
    pub(super) replay: Arc<ReplayStore>,
    pub(super) sessions: Slab<Session>,
    pub(super) sources: Sources,
    pub(super) hints: Hints,
    pub(super) upstream: Upstreams,
    /// What the probing shard finds.
    pub(super) board: Arc<Board>,
    /// What is remembered of each route between connects.
    pub(super) ways: Vec<Way>,
    pub(super) probing: Probing,
    pub(super) totals: Totals,
    pub(super) telemetry: Switch,
    pub(super) upstream_counters: UpstreamCounters,
    pub(super) user_rows: Vec<UserCounters>,
    /// Totals of users are counted; their gauges are in any case.
    pub(super) counts_users: bool,
    /// Some user or network has a rate.
    pub(super) has_rates: bool,
    pub(super) unknown_dcs: Arc<UnknownDcs>,
    pub(super) fingerprints: Fingerprints,
    pub(super) observed: Observed,
    pub(super) fronts: Arc<FrontTable>,
    pub(super) returning: Option<Box<Returning>>,
    pub(super) rng: StdRng,
    pub(super) keys: KeyPool,
    pub(super) now: Millis,
    /// The same in microseconds.
    pub(super) now_us: u64,
    pub(super) now_unix: u64,
    started: Instant,
    timers: Timers,
    /// When sessions that are ahead of their rate are read again.
    pub(super) paces: Timers,
    /// When the time of a user with sessions here is over, Unix seconds.
    pub(super) next_expiry: Option<u64>,
    /// When the ring's timer fires, microseconds.
    timer_set: Option<u64>,
    pub(super) doors: Doors,
    /// Places of the whole process.
    pub(super) permits: Arc<Permits>,
    /// Our own address as a PROXY header states it, for those sessions that had one.
    pub(super) stated: HashMap<u32, SocketAddr>,
    pub(super) header_notes: Notes,
    /// Set while limits are shorter than the settings say.
    pub(super) pressure: Option<Arc<Pressure>>,
    inbox: Inbox,
    /// Set when sessions may go through middle proxies.
    pub(super) me: Option<Box<Me>>,
    /// Set while draining: when the rest is closed.
    drain_until: Option<Millis>,
    stopping: bool,
}

/// What a shard is made from; the parts that cross threads.
pub(super) struct Parts {
    pub(super) index: usize,
    pub(super) settings: Settings,
    pub(super) users: Arc<UserTable>,
    pub(super) hot: Arc<HotSettings>,
    pub(super) nets: Arc<NetTable>,
    pub(super) applied: Applied,
    pub(super) replay: Arc<ReplayStore>,
    pub(super) permits: Arc<Permits>,
    pub(super) board: Arc<Board>,
    pub(super) unknown_dcs: Arc<UnknownDcs>,
    /// The zero of all shards' clocks: what they share has times in it.
    pub(super) started: Instant,
    /// Where reports about middle proxies go.
    pub(super) report: Option<Sender<Report>>,
}

impl Shard {
    /// A shard around an engine that already listens.
    pub(super) fn new(
        parts: Parts,
        engine: Engine,
        listeners: Vec<(SocketId, Door)>,
        inbox: Inbox,
    ) -> Self {
        let users = parts.users.len();
        let mut rng: StdRng = rand::make_rng();
        let keys = KeyPool::new(&mut rng);
        let place = Place {
            shard: parts.index,
            shards: parts.settings.plane.cores.len(),
            seed: rng.random(),
        };
        let now = Millis(u64::try_from(parts.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let me = parts.settings.me.clone().zip(parts.report);
        let me = me.map(|(setup, report)| Box::new(Me::new(setup, report, place, now)));
        let ports = listeners
            .iter()
            .filter_map(|(id, _)| engine.local_addr(*id));
        let mut ports: Vec<u16> = ports.map(|addr| addr.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        let routes = parts.settings.upstream.routes.len();
        let compact_ttl = parts.settings.tls.compact_ttl;
        let mut shard = Self {
            index: parts.index,
            probing: Probing::new(&parts.settings, parts.index),
            upstream: Upstreams::new(routes),
            board: parts.board,
            ways: (0..routes).map(|_| Way::default()).collect(),
            settings: Rc::new(parts.settings),
            engine,
            counts_users: parts.hot.telemetry.user,
            has_rates: parts.users.has_rates() || parts.nets.has_rates(),
            users: parts.users,
            hot: parts.hot,
            nets: parts.nets,
            names: Arc::default(),
            strangers: Places::default(),
            mask_complained: None,
            applied: parts.applied,
            replay: parts.replay,
            sessions: Slab::new(),
            sources: Sources::default(),
            hints: Hints::default(),
            totals: Totals::default(),
            telemetry: Switch::default(),
            upstream_counters: UpstreamCounters::default(),
            user_rows: vec![UserCounters::default(); users],
            unknown_dcs: parts.unknown_dcs,
            fingerprints: Fingerprints::default(),
            observed: Observed::default(),
            fronts: Arc::default(),
            returning: compact_ttl.map(|ttl| Box::new(Returning::new(ttl))),
            rng: StdRng::from_rng(&mut rng),
            keys,
            now: Millis(0),
            now_us: 0,
            now_unix: 0,
            started: parts.started,
            timers: Timers::default(),
            paces: Timers::default(),
            next_expiry: None,
            timer_set: None,
            doors: Doors::new(listeners, ports),
            permits: parts.permits,
            stated: HashMap::new(),
            header_notes: Notes::default(),
            pressure: None,
            inbox,
            me,
            drain_until: None,
            stopping: false,
        };
        shard.tell_time();
        let counted = shard.counted();
        shard.telemetry.set(shard.hot.telemetry.core, &counted);
        shard.me_settings();
        shard.follow_route();
        shard
    }

    /// The port that took this client, as the client sees it.
    pub(super) fn port_of(&self, key: u32) -> u16 {
        let known = self
            .doors
            .port()
            .filter(|_| !self.stated.contains_key(&key));
        let own = || self.own_addr(key).map(|addr| addr.port());
        known.or_else(own).unwrap_or(0)
    }

    /// Runs until the shard is told to stop and has nothing left to do.
    ///
    /// # Errors
    /// The ring broke: the shard is lost.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let parking = self.settings.plane.parking;
        let spin = self.settings.plane.spin;
        let ring = PollableFd::new(RingFd(self.engine.ring_fd())).map_err(io::Error::other)?;
        self.start_probing();
        self.set_next_timer();
        loop {
            if !spin.is_zero() {
                self.spin(spin);
            }
            self.engine.enter(parking == Parking::Ring)?;
            self.tell_time();
            let mut idle = true;
            while let Some(event) = self.engine.next_event() {
                idle = false;
                self.handle(event);
            }
            self.run_timers();
            self.admit_strangers();
            self.me_turn_ends();
            self.set_next_timer();
            if self.is_done() {
                return Ok(());
            }
            if parking == Parking::Executor {
                if idle && !self.engine.is_ready() {
                    ring.readable().await.map_err(io::Error::other)?;
                } else {
                    glommio::yield_if_needed().await;
                }
            }
        }
    }

    fn spin(&mut self, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.engine.is_ready() && Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    fn tell_time(&mut self) {
        let us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        (self.now, self.now_us) = (Millis(us / 1_000), us);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        self.now_unix = unix.map_or(0, |since| since.as_secs());
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Received { owner, buf } => match unpack(owner) {
                (key, Side::Dc) => self.relay_down(key, buf),
                (key, Side::Client) => self.client_bytes(key, buf),
                (key, Side::Me) => self.me_bytes(key, buf),
                (key, Side::Mask) => self.splice_bytes(key, Side::Mask, buf),
                (key, Side::Probe) => self.probe_bytes(key, buf),
            },
            Event::Accepted { socket, listener } => self.accepted(socket, listener),
            Event::AcceptFailed { listener, errno } => self.rest(listener, errno),
            Event::Connected { owner, socket } => match unpack(owner) {
                (key, Side::Probe) => self.probe_connected(key, socket),
                (key, Side::Me) => self.me_connected(key, socket),
                (key, Side::Mask) => self.mask_connected(key, socket),
                (key, _) => self.dc_connected(key, socket),
            },
            Event::ConnectFailed { owner, errno } => match unpack(owner) {
                (key, Side::Probe) => self.probe_failed(key),
                (key, Side::Me) => self.me_refused(key, errno),
                (key, Side::Mask) => self.mask_refused(key, errno),
                (key, _) => self.dc_refused(key, errno),
            },
            Event::Ended { owner } => match unpack(owner) {
                (key, Side::Client) => self.client_eof(key),
                (key, Side::Dc) => self.dc_ended(key),
                (key, Side::Me) => self.me_ended(key),
                (key, Side::Mask) => self.splice_ended(key, Side::Mask),
                (key, Side::Probe) => self.probe_failed(key),
            },
            Event::Failed { owner, errno } => {
                let (key, side) = unpack(owner);
                tracing::trace!(?side, error = %io::Error::from_raw_os_error(errno), "broken off");
                match side {
                    Side::Client => self.client_left(key, true),
                    Side::Dc => self.dc_failed(key),
                    Side::Me => self.me_broke(key),
                    Side::Mask => self.splice_broke(key, Side::Mask),
                    Side::Probe => self.probe_failed(key),
                }
            }
            Event::Writable { owner } => {
                let (key, side) = unpack(owner);
                match (side, self.kind(key)) {
                    (Side::Me, _) => self.me_writable(key),
                    (Side::Mask, _) | (_, Kind::Splice) => self.splice_writable(key, side),
                    (Side::Client, Kind::Middle) => self.middle_writable(key),
                    (Side::Client | Side::Dc | Side::Probe, _) => self.writable(key, side),
                }
            }
            Event::Finished { owner } => {
                let (key, side) = unpack(owner);
                match (side, self.kind(key)) {
                    (Side::Me, _) => self.me_finished(key),
                    (Side::Mask, _) | (_, Kind::Splice) => self.splice_finished(key, side),
                    (Side::Client, Kind::Middle) => self.middle_finished(key),
                    (Side::Client | Side::Dc | Side::Probe, _) => self.finished(key, side),
                }
            }
            Event::Timer => self.timer_set = None,
            Event::Doorbell => self.read_mail(),
        }
    }

    fn client_bytes(&mut self, key: u32, buf: crate::engine::Buf) {
        match self
            .sessions
            .get(key as usize)
            .map(|session| &session.state)
        {
            Some(State::Relay(_)) => self.relay_up(key, buf),
            Some(State::Middle(_)) => self.middle_up(key, buf),
            Some(State::Splice(_)) => self.splice_bytes(key, Side::Client, buf),
            Some(State::Approach(_)) => self.approach_bytes(key, &buf),
            Some(State::Dialing(_)) => self.dialing_bytes(key, buf),
            Some(State::Proxied(_)) => self.header_bytes(key, buf),
            Some(_) => self.handshake_bytes(key, buf),
            None => {}
        }
    }

    fn kind(&self, key: u32) -> Kind {
        match self.sessions.get(key as usize).map(|own| &own.state) {
            Some(State::Middle(_)) => Kind::Middle,
            Some(State::Splice(_)) => Kind::Splice,
            _ => Kind::Other,
        }
    }

    fn client_eof(&mut self, key: u32) {
        match self
            .sessions
            .get(key as usize)
            .map(|session| &session.state)
        {
            Some(State::Relay(_)) => self.client_ended(key),
            _ => self.client_left(key, false),
        }
    }

    /// Moves a session's deadline and makes sure that it is kept.
    pub(super) fn set_deadline(&mut self, key: u32, deadline: Millis) {
        if let Some(session) = self.sessions.get_mut(key as usize) {
            session.deadline = deadline;
            self.timers.arm(&mut session.armed, key, deadline);
        }
    }

    /// Puts a session's present deadline into the heap.
    pub(super) fn rearm(&mut self, key: u32) {
        if let Some(session) = self.sessions.get_mut(key as usize) {
            let deadline = session.deadline;
            self.timers.arm(&mut session.armed, key, deadline);
        }
    }

    fn run_timers(&mut self) {
        // The clock is told in whole milliseconds, rounded down: a deadline counted from it is
        // reached for certain only when its own millisecond is over. No limit is cut short.
        let over = Millis(self.now.0.saturating_sub(1));
        while let Some((at, key)) = self.timers.pop(over) {
            let live = self
                .sessions
                .get_mut(key as usize)
                .is_some_and(|s| s.armed.spend(at));
            if live {
                self.expired(key);
            }
        }
        self.tidy_timers();
        self.run_paces();
        self.run_expiry();
        self.run_probes();
        self.me_timers();
        self.run_doors();
        self.engine.tidy(self.now.0);
        if self.drain_until.is_some_and(|until| until <= self.now) {
            self.close_all();
        }
    }

    /// Connections that are gone leave their entry behind: under churn these would be most.
    fn tidy_timers(&mut self) {
        const SPARE: usize = 4096;
        if self.timers.len() > SPARE + 4 * self.sessions.len() {
            let sessions = &self.sessions;
            self.timers.retain(|at, key| {
                sessions
                    .get(key as usize)
                    .is_some_and(|session| session.armed.is(at))
            });
        }
    }

    fn set_next_timer(&mut self) {
        let candidates = [
            self.timers.next().map(|at| Millis(at.0.saturating_add(1))),
            self.paces.next(),
            self.expiry_timer(),
            self.doors.next(self.now),
            self.drain_until,
            self.probing.next(),
            self.me_deadline(),
            self.engine.tidy_due(self.now.0).map(Millis),
        ];
        let next = candidates.into_iter().flatten().min();
        // The same for one deadline in every turn; what is overdue was looked at a moment ago.
        let next = next.map(|at| match at > self.now {
            true => at.0.saturating_mul(1_000),
            false => self.now_us + 1_000,
        });
        let Some(next) = next.into_iter().chain(self.next_hold_us()).min() else {
            return;
        };
        if self.timer_set.is_none_or(|set| set > next) {
            self.timer_set = Some(next);
            let delay = next.saturating_sub(self.now_us).max(1);
            self.engine.set_timer(Duration::from_micros(delay));
        }
    }

    fn read_mail(&mut self) {
        while let Some(order) = self.inbox.order() {
            match order {
                Order::Update(update) => self.update(&update),
                Order::Me(plan) => self.me_plan(&plan),
                Order::Names(names) => self.names = names,
                Order::Fronts(fronts) => self.fronts = fronts,
                Order::Pressure(pressure) => self.set_pressure(pressure),
                Order::Drain => self.drain(),
                Order::Stop => self.close_all(),
            }
        }
        while let Some(question) = self.inbox.question() {
            // An asker that has given up is no concern of ours.
            match question {
                Question::Snapshot(reply) => drop(reply.try_send(self.snapshot())),
                Question::TlsFingerprints(reply) => {
                    drop(reply.try_send(self.fingerprints.rows(self.now_unix)));
                }
                Question::Observations(reply) => drop(reply.try_send(self.observations())),
            }
        }
    }

    fn drain(&mut self) {
        self.shut_doors();
        self.probing.stop();
        self.drain_until = Some(self.now.after(self.settings.plane.drain));
    }

    fn close_all(&mut self) {
        self.drain();
        self.drain_until = None;
        self.stopping = true;
        let keys: Vec<usize> = self.sessions.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end(u32::try_from(key).unwrap_or(u32::MAX), SessionEnd::Shutdown);
        }
    }

    /// All that was to be done is done; what MEs are still to be told is sent first.
    fn is_done(&mut self) -> bool {
        let over = self.stopping || (self.drain_until.is_some() && self.sessions.is_empty());
        if over {
            self.me_shut_down();
        }
        over && self.me_is_done()
    }

    /// Counts the end and closes both sockets.
    pub(super) fn end(&mut self, key: u32, end: SessionEnd) {
        self.count_end_of(key, end);
        self.remove(key);
    }

    /// Closes what a session holds and forgets it.
    pub(super) fn remove(&mut self, key: u32) {
        let Some(mut session) = self.sessions.try_remove(key as usize) else {
            return;
        };
        self.tell_closed(key, &session);
        self.engine.close(session.client);
        self.totals.core.connections_current -= 1;
        self.permits.give();
        self.stated.remove(&key);
        match std::mem::replace(&mut session.state, State::Closing) {
            State::Relay(relay) => self.engine.close(relay.dc),
            State::Dialing(dialing) => self.engine.close(dialing.socket()),
            State::Middle(middle) => self.middle_gone(key, middle),
            State::Approach(approach) => self.approach_gone(&approach),
            State::Splice(splice) => self.splice_gone(&splice),
            State::Proxied(_)
            | State::Handshake(_)
            | State::Answering(_)
            | State::Refused
            | State::Closing => {}
        }
        let Some(hold) = session.hold else { return };
        self.totals.core.sessions_current -= 1;
        if let Some(row) = self.user_rows.get_mut(hold.user.0 as usize) {
            row.current_connections = row.current_connections.saturating_sub(1);
        }
        let rules = self.hot.addresses;
        self.sources
            .close(hold.user, session.from, self.now, rules.window);
        hold.leave(&rules, self.now);
    }

    /// A probe's owner key for the engine.
    pub(super) fn probe_owner(key: u32) -> crate::engine::Owner {
        owner(key, Side::Probe)
    }
}

/// Who handles what is told of a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Middle,
    Splice,
    Other,
}

/// The ring's descriptor, lent to the executor's poll.
struct RingFd(RawFd);

impl AsRawFd for RingFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}
