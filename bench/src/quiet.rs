//! Many quiet clients, each of which asks for a little at fixed times: what they notice of whatever
//! else happens to the proxy. [`neighbours`](crate::neighbours) and [`hostile`](crate::hostile) say
//! what that is.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    client::{Client, ClientError, Dial, Mode},
    latency::{Latency, Percentiles},
    load::LoadError,
    stall::Watch,
    target::Target,
    urgent,
};

/// One phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Phase {
    /// Round trips as the quiet clients see them, their own wait for a busy core included.
    pub latency: Percentiles,
    /// The same without what client and DC wait for, by the kernel's stamps: the proxy's part.
    /// Empty with [`Ask::Echo`].
    pub through: Percentiles,
    /// Largest resident set over the one before, bytes.
    pub growth_bytes: u64,
}

/// What the quiet clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// [`Client::ping`].
    Echo,
    /// [`Client::stamped_ping`]; not through ME.
    Stamped,
}

/// The quiet clients on a thread of their own.
pub(crate) struct Quiet {
    seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    latency: Mutex<Latencies>,
    failed: Mutex<Option<(usize, ClientError)>>,
    connected: AtomicU64,
    first: AtomicBool,
}

/// As the clients see them, and through the proxy alone.
#[derive(Default)]
struct Latencies {
    whole: Latency,
    through: Latency,
}

impl Seen {
    fn latency(&self) -> MutexGuard<'_, Latencies> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Option<(usize, ClientError)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quiet {
    /// Returns once all are connected.
    pub(crate) fn start(
        target: &Target,
        mode: Mode,
        clients: usize,
        every: Duration,
        what: Ask,
    ) -> Result<Quiet, LoadError> {
        let seen = Arc::new(Seen::default());
        let dials: Vec<Dial> = (0..clients).map(|n| target.dial(mode, n)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LoadError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&seen);
        let thread = std::thread::Builder::new()
            .name("quiet".into())
            .spawn(move || {
                if what == Ask::Stamped {
                    shared.first.store(urgent::go_first(), Relaxed);
                }
                runtime.block_on(async {
                    let mut asking = JoinSet::new();
                    for (number, dial) in dials.into_iter().enumerate() {
                        let seen = Arc::clone(&shared);
                        let first = every * number as u32 / clients as u32;
                        asking.spawn(async move {
                            if let Err(error) = ask(&dial, first, every, what, &seen).await {
                                *seen.failed() = Some((number, error));
                            }
                        });
                    }
                    // Also when the owner is gone without a word.
                    let _ = stopped.await;
                });
            })
            .map_err(LoadError::Thread)?;
        let quiet = Quiet {
            seen,
            stop: Some(stop),
            thread: Some(thread),
        };
        let limit = Instant::now() + CONNECT_LIMIT;
        while quiet.seen.connected.load(Relaxed) < clients as u64 {
            quiet.check()?;
            if Instant::now() > limit {
                return Err(LoadError::Hangs {
                    limit: CONNECT_LIMIT,
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(quiet)
    }

    /// Measures while `happens` runs, once what the last phase has left behind is done with.
    pub(crate) fn during(
        &self,
        target: &Target,
        happens: impl FnOnce() -> Result<(), LoadError>,
    ) -> Result<Phase, LoadError> {
        std::thread::sleep(SETTLE);
        *self.seen.latency() = Latencies::default();
        let watch = Watch::start(target.process());
        happens()?;
        self.check()?;
        let seen = self.seen.latency();
        Ok(Phase {
            latency: seen.whole.percentiles(),
            through: seen.through.percentiles(),
            growth_bytes: watch.growth(),
        })
    }

    /// The clients' thread goes before others of its core ([`urgent`](crate::urgent)).
    pub(crate) fn goes_first(&self) -> bool {
        self.seen.first.load(Relaxed)
    }

    fn check(&self) -> Result<(), LoadError> {
        match *self.seen.failed() {
            Some((number, error)) => Err(LoadError::Client { number, error }),
            None => Ok(()),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // Dropping the sender is word enough.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

async fn ask(
    dial: &Dial,
    first: Duration,
    every: Duration,
    what: Ask,
    seen: &Seen,
) -> Result<(), ClientError> {
    tokio::time::sleep(first).await;
    let mut client = Client::connect(dial).await?;
    client.ping().await?;
    seen.connected.fetch_add(1, Relaxed);
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        let start = Instant::now();
        let through = match what {
            Ask::Echo => {
                client.ping().await?;
                None
            }
            Ask::Stamped => client.stamped_ping().await?,
        };
        let mut seen = seen.latency();
        seen.whole.record(start.elapsed());
        if let Some(through) = through {
            seen.through.record(through);
        }
    }
}

const CONNECT_LIMIT: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_millis(500);
