//! [`Pool`]: every open connection of a port, and the threads that serve them.
//!
//! ```text
//! accepted -> parked -> ready -> busy (with a worker) -> parked | ready | closed
//! ```
//!
//! Parked connections wait for bytes and cost a row each; the poller (`poller.rs`) makes them
//! ready. Only busy ones have a thread, and there is a bound on both kinds. When all workers are
//! taken, the one that has kept its worker waiting longest loses it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Shutdown, TcpStream},
    os::fd::AsRawFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mio::{Interest, Registry, Token, unix::SourceFd};

use crate::connection::{Connection, Service, Then};

/// Bounds of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Open connections.
    pub(crate) connections_max: usize,
    /// Threads that serve them.
    pub(crate) workers_max: usize,
}

/// All connections of a port and its workers.
pub(crate) struct Pool {
    name: &'static str,
    limits: Limits,
    service: Arc<dyn Service>,
    registry: Registry,
    state: Mutex<State>,
    /// Somebody is ready.
    more: Condvar,
}

/// A connection is in one of the first three. Ids grow with time, and so do deadlines.
#[derive(Default)]
struct State {
    parked: BTreeMap<usize, Connection>,
    ready: VecDeque<(usize, Connection)>,
    busy: BTreeMap<usize, Busy>,
    next_id: usize,
    workers: usize,
    /// Workers that have nothing to do.
    resting: usize,
}

/// A connection that a worker serves.
struct Busy {
    stream: Arc<TcpStream>,
    /// Since it first kept its worker waiting.
    since: Option<Instant>,
    /// It keeps its worker waiting now.
    waiting: bool,
    /// It lost its place and will end at once.
    displaced: bool,
}

impl Pool {
    /// Nobody yet; `name` is that of its threads.
    pub(crate) fn new(
        name: &'static str,
        limits: Limits,
        service: Arc<dyn Service>,
        registry: Registry,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            limits,
            service,
            registry,
            state: Mutex::default(),
            more: Condvar::new(),
        })
    }

    /// Whether another connection can be taken in: there is a place, or one that can be given away,
    /// or one that is just being freed. When all are being served newcomers wait in the kernel.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = self.lock();
        state.open() < self.limits.connections_max
            || !state.parked.is_empty()
            || state.displace(1, Instant::now()) > 0
    }

    /// Takes a connection in, unless its peer is not wanted; in a full pool it gets the place of
    /// the oldest parked one. It does not block.
    pub(crate) fn admit(&self, stream: TcpStream, peer: IpAddr) {
        if self.service.drops_at_once(peer) {
            return;
        }
        let mut state = self.lock();
        if state.open() >= self.limits.connections_max {
            state.parked.pop_first();
        }
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        self.park(&mut state, id, Connection::new(stream, peer));
    }

    /// Closes the oldest parked connection, if there is one: what it held is needed more elsewhere.
    pub(crate) fn shed(&self) -> bool {
        self.lock().parked.pop_first().is_some()
    }

    /// Bytes have arrived, or the peer has gone.
    pub(crate) fn wake(self: &Arc<Self>, id: usize) {
        let mut state = self.lock();
        let Some(connection) = state.parked.remove(&id) else {
            return;
        };
        let descriptor = connection.stream.as_raw_fd();
        // Cannot fail: it was registered when it was parked.
        let _ = self.registry.deregister(&mut SourceFd(&descriptor));
        state.ready.push_back((id, connection));
        self.staff(state);
    }

    /// Closes connections whose time is up and frees workers that are kept waiting while others
    /// are ready; how soon it wants to be called again.
    pub(crate) fn tidy(self: &Arc<Self>, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        while let Some(oldest) = state.parked.first_entry()
            && oldest.get().deadline <= now
        {
            oldest.remove();
        }
        if state.ready.len() > state.resting {
            if state.workers >= self.limits.workers_max {
                let wanted = state.ready.len() - state.resting;
                state.displace(wanted, now);
            }
            self.staff(state);
            return Some(STUCK_EVERY);
        }
        // Whoever is busy may be parked next, with less time left than those parked now.
        let next = match state.parked.values().next() {
            Some(oldest) => oldest
                .deadline
                .saturating_duration_since(now)
                .min(TIDY_EVERY),
            None => TIDY_EVERY,
        };
        (state.open() > 0).then_some(next)
    }

    fn park(&self, state: &mut State, id: usize, connection: Connection) {
        let descriptor = connection.stream.as_raw_fd();
        let registered =
            self.registry
                .register(&mut SourceFd(&descriptor), Token(id), Interest::READABLE);
        match registered {
            Ok(()) => {
                state.parked.insert(id, connection);
            }
            Err(error) => tracing::warn!(%error, "{}: cannot watch a connection", self.name),
        }
    }

    /// Sees to it that somebody serves whoever is ready.
    fn staff(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.resting > 0 {
            self.more.notify_one();
        }
        let short = state.ready.len() > state.resting;
        if !short || state.workers >= self.limits.workers_max {
            return;
        }
        state.workers += 1;
        drop(state);
        let working = Working(Arc::clone(self));
        let thread = thread::Builder::new()
            .name(format!("{}-worker", self.name))
            .stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(move || working.run()) {
            // Dropping `working` has counted it off; the next round tries again.
            tracing::warn!(%error, "{}: no thread for a connection", self.name);
        }
    }

    /// The next connection to serve; `None` when there has been none for a while.
    fn next(&self) -> Option<(usize, Connection)> {
        let mut state = self.lock();
        let give_up = Instant::now() + REST_TIME;
        loop {
            if let Some((id, connection)) = state.ready.pop_front() {
                let stream = Arc::clone(&connection.stream);
                state.busy.insert(id, Busy::new(stream));
                return Some((id, connection));
            }
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state.resting += 1;
            let waited = self.more.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.resting -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&self) -> usize {
        self.parked.len() + self.ready.len() + self.busy.len()
    }

    /// Ends up to `wanted` connections that keep their workers waiting, the slowest first.
    fn displace(&mut self, wanted: usize, now: Instant) -> usize {
        let patient = now.checked_sub(PATIENCE);
        let mut slow: Vec<(Instant, &mut Busy)> = self
            .busy
            .values_mut()
            .filter(|busy| busy.waiting && !busy.displaced)
            .filter_map(|busy| Some((busy.since.filter(|since| Some(*since) <= patient)?, busy)))
            .collect();
        slow.sort_by_key(|(since, _)| *since);
        let ended = slow.into_iter().take(wanted);
        ended
            .map(|(_, busy)| {
                busy.displaced = true;
                // Its worker sees the end of the stream; if it is closed already, all the better.
                let _ = busy.stream.shutdown(Shutdown::Both);
            })
            .count()
    }
}

impl Busy {
    fn new(stream: Arc<TcpStream>) -> Self {
        Self {
            stream,
            since: None,
            waiting: false,
            displaced: false,
        }
    }
}

/// A connection with its worker.
pub(crate) struct Turn<'a> {
    pool: &'a Pool,
    id: usize,
    stream: Arc<TcpStream>,
}

impl Turn<'_> {
    /// The socket; reads and writes do not block.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether it waits for its peer; only then may another connection displace it.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        if let Some(busy) = self.pool.lock().busy.get_mut(&self.id) {
            busy.waiting = waiting;
            busy.since.get_or_insert_with(Instant::now);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pool.lock().busy.remove(&self.id);
    }
}

/// One worker; counted off when dropped, also by a panic.
struct Working(Arc<Pool>);

impl Working {
    fn run(&self) {
        step_back();
        let pool = &self.0;
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some((id, connection)) = pool.next() {
            let stream = Arc::clone(&connection.stream);
            let turn = Turn { pool, id, stream };
            let then = connection.serve(pool.service.as_ref(), &turn, &mut buffer);
            // It must not be busy any more when it is parked or ready.
            drop(turn);
            match then {
                Then::Park(connection) => pool.park(&mut pool.lock(), id, connection),
                Then::Again(connection) => {
                    let mut state = pool.lock();
                    state.ready.push_back((id, connection));
                }
                Then::Close => {}
            }
        }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.lock().workers -= 1;
    }
}

/// Lowers the calling thread's priority: shards go first. Threads it starts inherit that.
pub(crate) fn step_back() {
    // Lowering is always allowed; where it is not known, nothing is lost.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "cannot lower a thread's priority");
    }
}

/// A tenth of a shard's share of a contended core.
const NICE: i32 = 10;
/// Reading the configuration happens on it too; only what is touched costs memory.
const STACK_BYTES: usize = 1 << 20;
const BUFFER_BYTES: usize = 8 << 10;
/// A worker without work ends after this.
const REST_TIME: Duration = Duration::from_secs(5);
/// A connection may keep its worker waiting this long before another one may displace it.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often workers are looked after while connections are ready and nobody serves them.
const STUCK_EVERY: Duration = Duration::from_millis(10);
const TIDY_EVERY: Duration = Duration::from_secs(1);
