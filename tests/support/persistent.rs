//! Clients as official ones are: they ask again when no answer comes, and connect again when they
//! are closed.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bench::client::{Client, ClientError, Dial, Mode, Receiver, Sender};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use shards::proto::dc::DcId;
use tokio::task::JoinSet;

use super::{PATIENCE, Proxy};

/// Clients of all modes for all DCs, each on its own.
#[derive(Debug)]
pub(crate) struct Crowd {
    met: Arc<Met>,
    clients: JoinSet<Result<(), ClientError>>,
}

impl Crowd {
    /// So many clients; what they do follows from the seed.
    pub(crate) fn start(proxy: &Proxy, count: usize, seed: u64) -> Crowd {
        let met = Arc::new(Met::default());
        let mut clients = JoinSet::new();
        for number in 0..count {
            let dial = Dial {
                dc: DcId([1, 2, 3, 4, 5, -1, -2, -3, -4, -5][number % 10]),
                timeout: Duration::from_secs(5),
                ..proxy.dial(Mode::PROXIED[number % 4])
            };
            let client = Persistent {
                dial,
                dice: StdRng::seed_from_u64(seed ^ (number as u64 + 1)),
                met: Arc::clone(&met),
            };
            clients.spawn(client.run());
        }
        Crowd { met, clients }
    }

    /// Answers that came, each compared byte by byte.
    pub(crate) fn answers(&self) -> u64 {
        self.met.answers.load(Relaxed)
    }

    /// Requests that were never answered; an official client sends them once more.
    pub(crate) fn unanswered(&self) -> u64 {
        self.met.unanswered.load(Relaxed)
    }

    /// Sessions that the proxy ended.
    pub(crate) fn lost(&self) -> u64 {
        self.met.lost.load(Relaxed)
    }

    /// Connects that did not become a session.
    pub(crate) fn turned_away(&self) -> u64 {
        self.met.turned_away.load(Relaxed)
    }

    /// Ends them all. Damage to any of their bytes fails the test.
    pub(crate) async fn stop(&mut self, told: impl Fn() -> String) {
        self.met.stop.store(true, Relaxed);
        let all = async {
            while let Some(client) = self.clients.join_next().await {
                let ended = client.unwrap();
                ended.unwrap_or_else(|e| unreachable!("{e}\n{}", told()));
            }
        };
        let all = tokio::time::timeout(PATIENCE, all).await;
        all.expect("clients end");
    }
}

/// What all clients have met.
#[derive(Debug, Default)]
struct Met {
    stop: AtomicBool,
    answers: AtomicU64,
    unanswered: AtomicU64,
    lost: AtomicU64,
    turned_away: AtomicU64,
}

/// A client that asks again when no answer comes, as official ones do, and connects again when it
/// is closed.
struct Persistent {
    dial: Dial,
    dice: StdRng,
    met: Arc<Met>,
}

impl Persistent {
    async fn run(mut self) -> Result<(), ClientError> {
        while !self.met.stop.load(Relaxed) {
            let session = match Client::connect(&self.dial).await {
                Ok(client) => self.session(client).await,
                Err(error) => Err(error),
            };
            match session {
                Ok(()) => return Ok(()),
                // A closed gate keeps connects waiting.
                Err(
                    ClientError::Closed { .. }
                    | ClientError::Io { .. }
                    | ClientError::TimedOut { step: "connecting" },
                ) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                // Anything else is damage.
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn session(&mut self, client: Client) -> Result<(), ClientError> {
        let (mut tx, mut rx) = client.split();
        let mut open = BTreeSet::new();
        let mut answered = false;
        let end = loop {
            if self.met.stop.load(Relaxed) {
                break Ok(());
            }
            if let Err(error) = self.ask(&mut tx, &mut rx, &mut open, &mut answered).await {
                break Err(error);
            }
        };
        self.met.unanswered.fetch_add(open.len() as u64, Relaxed);
        if end.is_err() {
            let count = if answered {
                &self.met.lost
            } else {
                &self.met.turned_away
            };
            count.fetch_add(1, Relaxed);
        }
        end
    }

    /// One request, which is one frame each way, and its answer or that of an earlier one.
    async fn ask(
        &mut self,
        tx: &mut Sender,
        rx: &mut Receiver,
        open: &mut BTreeSet<u32>,
        answered: &mut bool,
    ) -> Result<(), ClientError> {
        let bytes = match self.dice.random_range(0..20) {
            0 => self.dice.random_range(10_000..100_000) * 4,
            1..5 => self.dice.random_range(100..4_000) * 4,
            _ => 40,
        };
        let mut body = vec![0; bytes];
        self.dice.fill_bytes(&mut body);
        open.insert(tx.echo(&body).await?);
        let limit = tokio::time::Instant::now() + ANSWER_LIMIT;
        loop {
            let Ok(answer) = tokio::time::timeout_at(limit, rx.answer()).await else {
                return Ok(());
            };
            let answer = answer?;
            *answered = true;
            // Each once: none is made up, none comes twice.
            assert!(open.remove(&answer.id), "an answer to {}", answer.id);
            self.met.answers.fetch_add(1, Relaxed);
            if open.is_empty() {
                break;
            }
        }
        let pause = Duration::from_millis(self.dice.random_range(0..30));
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// How long a client waits before it asks again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
