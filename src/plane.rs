//! Implements the control API's [`ControlPlane`]: asks all shards, waits for a moment, merges.
//!
//! The ME pool is put together in `middle.rs`. The configuration in force, the start's progress and
//! the reloads are told to it by `live.rs`. What the configuration file says is `store.rs`'s.

mod middle;
#[cfg(test)]
mod tests;

use std::{
    future::Future as _,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use admin::{
    ConntrackState, ControlPlane, MeStartup, MeView, MinimalDcPathData, PlaneSnapshot, Process,
    Reloads, Running, Startup, Transport, ip_preference,
};
use async_channel::{Receiver, Sender};
use shards::{
    control::{
        Command, Observations, ShardSnapshot, TlsFingerprints, UpstreamRow, merge_snapshots,
    },
    me::MeStatus,
};

pub(crate) use self::middle::Middle;
use crate::firewall::Firewall;

/// Puts a command into one shard's mailbox without waiting.
pub(crate) type Post = Box<dyn Fn(Command) -> Posted + Send>;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// The shard will read it.
    In,
    /// The shard is far behind.
    Full,
    /// The shard has ended.
    Gone,
}

/// The process as the control API sees it.
pub(crate) struct ShardPlane {
    process: Process,
    startup: Arc<Startup>,
    running: RwLock<Arc<Running>>,
    reloads: Mutex<Reloads>,
    shards: Mutex<Shards>,
    /// Set when the middle proxy is wanted.
    middle: OnceLock<Arc<dyn Middle>>,
    firewall: OnceLock<Arc<Firewall>>,
}

/// Mailboxes, and what came back from them.
#[derive(Default)]
struct Shards {
    posts: Vec<Post>,
    /// What each shard last said.
    known: Vec<Option<ShardSnapshot>>,
    /// When the last round began, and its result.
    round: Option<(Instant, Option<Arc<PlaneSnapshot>>)>,
}

impl ShardPlane {
    /// Knows no shards yet: see [`Self::attach`].
    pub(crate) fn new(process: Process, startup: Arc<Startup>, running: Running) -> Self {
        Self {
            process,
            startup,
            running: RwLock::new(Arc::new(running)),
            reloads: Mutex::new(Reloads::default()),
            shards: Mutex::new(Shards::default()),
            middle: OnceLock::new(),
            firewall: OnceLock::new(),
        }
    }

    /// The shards' mailboxes, in shard order. Until then there is no snapshot.
    pub(crate) fn attach(&self, posts: Vec<Post>) {
        let known = posts.iter().map(|_| None).collect();
        *self.lock() = Shards {
            posts,
            known,
            round: None,
        };
    }

    /// The middle proxy is wanted, and this is who runs its supervisor. Only the first call counts.
    pub(crate) fn attach_middle(&self, middle: Arc<dyn Middle>) {
        let _ = self.middle.set(middle);
    }

    /// Who looks after the firewall. Only the first call counts.
    pub(crate) fn attach_firewall(&self, firewall: Arc<Firewall>) {
        let _ = self.firewall.set(firewall);
    }

    fn middle_status(&self) -> Option<MeStatus> {
        Some(self.middle.get()?.status())
    }

    /// The process now runs with another configuration.
    pub(crate) fn reloaded(&self, running: Running) {
        *self.running.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(running);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.count = reloads.count.saturating_add(1);
        reloads.last_epoch_secs = Some(now.as_secs());
    }

    /// Addresses that failed to become clients; `None` when no shard answered.
    pub(crate) fn observations(&self) -> Option<Observations> {
        let parts = self.ask_each(|reply| Command::Observations { reply });
        let known = !parts.is_empty();
        // One shard's rows are in no order: merging into nothing sorts them.
        let total = parts.into_iter().fold(Observations::default(), merged);
        known.then_some(total)
    }

    /// What the shards answer until the deadline.
    fn ask_each<T>(&self, question: impl Fn(Sender<T>) -> Command) -> Vec<T> {
        let shards = self.lock();
        let (reply, replies) = async_channel::bounded(shards.posts.len().max(1));
        let asked = shards
            .posts
            .iter()
            .filter(|post| matches!(post(question(reply.clone())), Posted::In))
            .count();
        drop(reply);
        let deadline = Instant::now() + DEADLINE;
        (0..asked)
            .map_while(|_| receive(&replies, deadline))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Shards> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ControlPlane for ShardPlane {
    fn process(&self) -> &Process {
        &self.process
    }

    fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests that come while a round is under way share the next one, so any number of them
    /// costs the shards two rounds and nobody waits for more than two deadlines.
    fn snapshot(&self) -> Option<Arc<PlaneSnapshot>> {
        let asked = Instant::now();
        let mut shards = self.lock();
        if let Some((began, snapshot)) = &shards.round
            && *began >= asked
        {
            return snapshot.clone();
        }
        let began = Instant::now();
        let late_shards = shards.ask(began + DEADLINE);
        let total = merge_snapshots(shards.known.iter().flatten().cloned());
        let supervisor = self.middle_status();
        let snapshot = total.map(|mut total| {
            // What is decided once for the process is counted there, and nowhere else.
            if let Some(status) = supervisor {
                total.me.merge(&status.me);
                total.pool.merge(&status.pool);
            }
            Arc::new(PlaneSnapshot { total, late_shards })
        });
        shards.round = Some((began, snapshot.clone()));
        snapshot
    }

    fn tls_fingerprints(&self) -> Option<TlsFingerprints> {
        let parts = self.ask_each(|reply| Command::TlsFingerprints { reply });
        parts.into_iter().reduce(|mut total, part| {
            total.merge(part);
            total
        })
    }

    fn me(&self) -> Option<Arc<MeView>> {
        let middle = self.middle.get()?;
        let snapshot = self.snapshot().filter(|all| all.late_shards == 0)?;
        let status = middle.status();
        let moment = middle::Moment {
            status: &status,
            total: &snapshot.total,
            now: middle.now(),
        };
        let path = network_path(&self.running(), &snapshot.total.upstreams);
        middle::view(middle.as_ref(), &moment, path).map(Arc::new)
    }

    fn me_startup(&self) -> MeStartup {
        let status = self.middle_status();
        status.map_or_else(MeStartup::skipped, |status| middle::startup(&status))
    }

    fn conntrack(&self) -> ConntrackState {
        let firewall = self.firewall.get();
        firewall.map_or_else(ConntrackState::default, |firewall| firewall.conntrack())
    }

    fn transport(&self) -> Transport {
        let status = self.middle_status();
        status.map_or_else(Transport::direct, |status| middle::transport(&status))
    }

    fn startup(&self) -> &Startup {
        &self.startup
    }

    fn reloads(&self) -> Reloads {
        *self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How DCs 1 to 5 are reached without the middle proxy, by the first route.
fn network_path(running: &Running, upstreams: &[UpstreamRow]) -> Vec<MinimalDcPathData> {
    let rows = upstreams.first().map_or(&[][..], |route| &route.dcs);
    let preference = |dc| {
        let row = rows.iter().find(|row| row.dc == dc);
        let (v4, v6) = row.map_or_else(Default::default, |row| (row.v4, row.v6));
        ip_preference(v4, v6)
    };
    let dcs = running.dc_addresses.iter();
    dcs.filter(|at| (1..=5).contains(&at.dc))
        .map(|at| MinimalDcPathData {
            dc: at.dc,
            ip_preference: Some(preference(at.dc)),
            selected_addr_v4: at.v4.map(|addr| addr.to_string()),
            selected_addr_v6: at.v6.map(|addr| addr.to_string()),
        })
        .collect()
}

impl Shards {
    /// Asks every shard and takes in what comes back until the deadline; the number of those that
    /// did not answer.
    fn ask(&mut self, deadline: Instant) -> usize {
        // Room for everybody: a shard drops its answer when there is none.
        let (reply, replies) = async_channel::bounded(self.posts.len().max(1));
        let (mut asked, mut gone) = (0, 0);
        for (post, known) in self.posts.iter().zip(&mut self.known) {
            let reply = reply.clone();
            match post(Command::Snapshot { reply }) {
                Posted::In => asked += 1,
                Posted::Full => {}
                Posted::Gone => {
                    gone += 1;
                    if let Some(known) = known {
                        known.end();
                    }
                }
            }
        }
        drop(reply);
        let mut answered = 0;
        while answered < asked {
            let Some(snapshot) = receive(&replies, deadline) else {
                break;
            };
            answered += 1;
            if let Some(known) = self.known.get_mut(snapshot.shard) {
                *known = Some(snapshot);
            }
        }
        self.posts.len() - answered - gone
    }
}

fn merged(mut total: Observations, part: Observations) -> Observations {
    total.merge(part);
    total
}

/// The next message, unless the deadline passes or all senders are gone. This thread is no
/// executor's, and async-channel's own blocking receive knows no deadline.
pub(crate) fn receive<T>(receiver: &Receiver<T>, deadline: Instant) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut message = pin!(receiver.recv());
    loop {
        if let Poll::Ready(message) = message.as_mut().poll(&mut context) {
            return message.ok();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        thread::park_timeout(left);
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// How long a request waits for the shards; one that is busy answers within a few milliseconds.
const DEADLINE: Duration = Duration::from_millis(250);
