//! Implements the control API's [`ControlPlane`]: asks all shards, waits for a moment, merges.
//!
//! The configuration in force, the start's progress and the reloads are told to it by `live.rs`.
//! What the configuration file says is `store.rs`'s.

use std::{
    future::Future as _,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use admin::{ControlPlane, PlaneSnapshot, Process, Reloads, Running, Startup, Transport};
use async_channel::{Receiver, Sender};
use shards::control::{Command, Observations, ShardSnapshot, TlsFingerprints, merge_snapshots};

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
        let snapshot = total.map(|total| Arc::new(PlaneSnapshot { total, late_shards }));
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

    fn transport(&self) -> Transport {
        Transport::direct()
    }

    fn startup(&self) -> &Startup {
        &self.startup
    }

    fn reloads(&self) -> Reloads {
        *self.reloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
fn receive<T>(receiver: &Receiver<T>, deadline: Instant) -> Option<T> {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use admin::Build;
    use async_channel::Sender;

    use super::*;

    fn plane(posts: Vec<Post>) -> ShardPlane {
        let process = Process::starting(Build::default(), "/config.toml".to_owned());
        let plane = ShardPlane::new(process, Arc::new(Startup::new(&[])), Running::default());
        plane.attach(posts);
        plane
    }

    fn answer(shard: usize, connections: u64, reply: &Sender<ShardSnapshot>) {
        let mut snapshot = ShardSnapshot {
            shard,
            accepting: true,
            ..ShardSnapshot::default()
        };
        snapshot.core.connections_total = connections;
        reply.try_send(snapshot).unwrap();
    }

    fn prompt(shard: usize, connections: u64) -> Post {
        Box::new(move |command| {
            if let Command::Snapshot { reply } = command {
                answer(shard, connections, &reply);
            }
            Posted::In
        })
    }

    #[test]
    fn counters_of_all_shards_are_added() {
        let plane = plane(vec![prompt(0, 2), prompt(1, 3)]);
        let snapshot = plane.snapshot().unwrap();
        assert_eq!(snapshot.total.core.connections_total, 5);
        assert_eq!(snapshot.late_shards, 0);
    }

    #[test]
    fn answers_from_other_threads_wake_the_request() {
        let slow: Post = Box::new(|command| {
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(20));
                if let Command::Snapshot { reply } = command {
                    answer(0, 7, &reply);
                }
            });
            Posted::In
        });
        assert_eq!(
            plane(vec![slow])
                .snapshot()
                .unwrap()
                .total
                .core
                .connections_total,
            7
        );
    }

    #[test]
    fn silent_shard_counts_with_what_it_said_before() {
        let calls = AtomicUsize::new(0);
        let kept = Mutex::new(Vec::new());
        let stalls: Post = Box::new(move |command| {
            let Command::Snapshot { reply } = command else {
                return Posted::In;
            };
            if calls.fetch_add(1, Ordering::Relaxed) == 0 {
                answer(1, 3, &reply);
            } else {
                // In its mailbox, never looked at.
                kept.lock().unwrap().push(reply);
            }
            Posted::In
        });
        let plane = plane(vec![prompt(0, 2), stalls]);
        assert_eq!(plane.snapshot().unwrap().late_shards, 0);
        let asked = Instant::now();
        let snapshot = plane.snapshot().unwrap();
        assert!(asked.elapsed() < DEADLINE * 3, "{:?}", asked.elapsed());
        assert_eq!(
            (snapshot.total.core.connections_total, snapshot.late_shards),
            (5, 1)
        );
    }

    #[test]
    fn shard_that_has_ended_holds_nothing_and_is_not_late() {
        let calls = AtomicUsize::new(0);
        let ends: Post = Box::new(move |command| {
            let Command::Snapshot { reply } = command else {
                return Posted::In;
            };
            if calls.fetch_add(1, Ordering::Relaxed) > 0 {
                return Posted::Gone;
            }
            let mut snapshot = ShardSnapshot::default();
            snapshot.core.connections_total = 3;
            snapshot.core.connections_current = 3;
            reply.try_send(snapshot).unwrap();
            Posted::In
        });
        let plane = plane(vec![ends]);
        assert_eq!(plane.snapshot().unwrap().total.core.connections_current, 3);
        let after = plane.snapshot().unwrap();
        let core = &after.total.core;
        assert_eq!((core.connections_total, core.connections_current), (3, 0));
        assert_eq!(after.late_shards, 0);
    }

    #[test]
    fn full_mailboxes_and_strange_answers_do_not_wait_or_panic() {
        let full: Post = Box::new(|_| Posted::Full);
        let asked = Instant::now();
        assert!(plane(vec![full]).snapshot().is_none());
        assert!(asked.elapsed() < DEADLINE);
        assert!(plane(vec![prompt(9, 1)]).snapshot().is_none());
        assert!(plane(Vec::new()).snapshot().is_none());
    }

    #[test]
    fn many_requests_at_once_share_rounds() {
        let rounds = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&rounds);
        let slow: Post = Box::new(move |command| {
            counted.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(50));
            if let Command::Snapshot { reply } = command {
                answer(0, 1, &reply);
            }
            Posted::In
        });
        let plane = plane(vec![slow]);
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert!(plane.snapshot().is_some()));
            }
        });
        assert!(rounds.load(Ordering::Relaxed) <= 8, "{rounds:?}");
    }

    #[test]
    fn reloads_are_counted() {
        let plane = plane(Vec::new());
        plane.reloaded(Running {
            users: vec!["a".into()].into(),
            ..Running::default()
        });
        assert_eq!(plane.reloads().count, 1);
        assert_eq!(plane.running().users.len(), 1);
    }
}
