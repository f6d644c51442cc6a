//! What one load thread does: its share of the clients, on a runtime of its own.

use std::{
    net::IpAddr,
    sync::{Arc, Barrier, Mutex, PoisonError},
    time::{Duration, Instant},
};

use shards::proto::{faketls::client_hello::HelloKind, secret::Secret};
use tokio::task::JoinSet;

use super::{Load, LoadError, Runner};
use crate::{
    client::{Client, ClientError, Dial, PING_BODY_BYTES},
    latency::Latency,
    pattern::pattern,
};

/// A thread's part of a load.
pub(super) struct Share<'a> {
    pub(super) runner: &'a Runner<'a>,
    pub(super) load: Load,
    pub(super) thread: usize,
    pub(super) threads: usize,
    pub(super) barrier: &'a Barrier,
}

/// Bytes, round trips or connections.
type Job = Result<u64, LoadError>;

/// One histogram for all clients of a thread: one each would not fit the cache.
#[derive(Clone, Debug, Default)]
struct Clock(Arc<Mutex<Latency>>);

impl Clock {
    fn record(&self, start: Instant) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(start.elapsed());
    }

    fn take(&self) -> Latency {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Share<'_> {
    /// Connects, meets the others twice, works. Meets them also when it fails: they would wait.
    pub(super) fn run(self) -> Result<(u64, Latency), LoadError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let connected = match &runtime {
            Ok(runtime) => runtime.block_on(self.connect()),
            Err(e) => Err(LoadError::Thread(std::io::Error::from(e.kind()))),
        };
        self.barrier.wait();
        self.barrier.wait();
        let (clients, runtime) = (connected?, runtime.map_err(LoadError::Thread)?);
        let clock = Clock::default();
        let done = runtime.block_on(self.work(clients, &clock))?;
        Ok((done, clock.take()))
    }

    fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        (self.thread..self.load.clients()).step_by(self.threads)
    }

    fn dial(&self, number: usize) -> Dial {
        let runner = self.runner;
        let mut dial = runner.target.dial(runner.mode, number);
        if runner.classic_hello {
            dial.hello = HelloKind::Classic517;
        }
        dial.meter = runner.meter.clone();
        dial
    }

    /// All clients, each after a first round trip, so that the path to the DC stands.
    async fn connect(&self) -> Result<Vec<(usize, Client)>, LoadError> {
        if matches!(self.load, Load::Churn { .. }) {
            return Ok(Vec::new());
        }
        let mut clients = Vec::new();
        let numbers: Vec<usize> = self.numbers().collect();
        for batch in numbers.chunks(CONNECT_AT_ONCE) {
            let mut connecting = JoinSet::new();
            for &number in batch {
                let dial = self.dial(number);
                connecting.spawn(async move {
                    let ready = async {
                        let mut client = Client::connect(&dial).await?;
                        client.ping().await?;
                        Ok(client)
                    };
                    ready
                        .await
                        .map(|client| (number, client))
                        .map_err(|e| failed(number, e))
                });
            }
            while let Some(client) = connecting.join_next().await {
                clients.push(client.map_err(|_| LoadError::Panicked)??);
            }
        }
        Ok(clients)
    }

    async fn work(&self, clients: Vec<(usize, Client)>, clock: &Clock) -> Job {
        let mut jobs: JoinSet<Job> = JoinSet::new();
        let all = self.load.clients() as u64;
        match self.load {
            Load::Down { bytes, .. } => {
                for (number, client) in clients {
                    let bytes = (bytes / all).next_multiple_of(4);
                    let clock = clock.clone();
                    jobs.spawn(async move {
                        down(client, bytes, clock)
                            .await
                            .map_err(|e| failed(number, e))
                    });
                }
            }
            Load::Parts {
                bytes,
                part_bytes,
                depth,
                ..
            } => {
                for (number, client) in clients {
                    let parts = bytes / all / part_bytes;
                    let clock = clock.clone();
                    jobs.spawn(async move {
                        down_in_parts(client, (parts, part_bytes), depth, clock)
                            .await
                            .map_err(|e| failed(number, e))
                    });
                }
            }
            Load::Up {
                bytes,
                request_bytes,
                depth,
                ..
            } => {
                for (number, client) in clients {
                    let plan = Uploads {
                        requests: bytes / all / request_bytes as u64,
                        request_bytes,
                        depth,
                    };
                    let clock = clock.clone();
                    jobs.spawn(async move {
                        up(client, plan, clock).await.map_err(|e| failed(number, e))
                    });
                }
            }
            Load::Ping { round_trips, .. } => {
                for (number, client) in clients {
                    let count = round_trips / all;
                    let clock = clock.clone();
                    jobs.spawn(async move {
                        ping(client, count, clock)
                            .await
                            .map_err(|e| failed(number, e))
                    });
                }
            }
            Load::Churn { connections, .. } => {
                for worker in self.numbers() {
                    let count = connections / all;
                    let churn = Churn::new(self.runner, self.dial(worker), worker, count);
                    let clock = clock.clone();
                    jobs.spawn(async move {
                        churn.run(count, clock).await.map_err(|e| failed(worker, e))
                    });
                }
            }
        }
        let all = tokio::time::timeout(LOAD_LIMIT, collect(jobs)).await;
        all.unwrap_or(Err(LoadError::Hangs { limit: LOAD_LIMIT }))
    }
}

async fn collect(mut jobs: JoinSet<Job>) -> Job {
    let mut done = 0;
    while let Some(job) = jobs.join_next().await {
        done += job.map_err(|_| LoadError::Panicked)??;
    }
    Ok(done)
}

/// No load takes a tenth of this on a proxy that works.
const LOAD_LIMIT: Duration = Duration::from_secs(120);

/// Connects under way at the same time: fewer than any proxy's accept backlog.
const CONNECT_AT_ONCE: usize = 64;

fn failed(number: usize, error: ClientError) -> LoadError {
    LoadError::Client { number, error }
}

async fn down(client: Client, bytes: u64, clock: Clock) -> Result<u64, ClientError> {
    let start = Instant::now();
    let (mut tx, mut rx) = client.split();
    let id = tx.download(bytes).await?;
    rx.answer().await?.expect_stream(id, bytes)?;
    clock.record(start);
    Ok(bytes)
}

async fn down_in_parts(
    client: Client,
    (parts, part_bytes): (u64, u64),
    depth: usize,
    clock: Clock,
) -> Result<u64, ClientError> {
    let (mut tx, mut rx) = client.split();
    let mut waiting = std::collections::VecDeque::new();
    let mut asked = 0;
    loop {
        while asked < parts && waiting.len() < depth {
            waiting.push_back((tx.download(part_bytes).await?, Instant::now()));
            asked += 1;
        }
        let Some((id, start)) = waiting.pop_front() else {
            return Ok(parts * part_bytes);
        };
        rx.answer().await?.expect_stream(id, part_bytes)?;
        clock.record(start);
    }
}

struct Uploads {
    requests: u64,
    request_bytes: usize,
    depth: usize,
}

async fn up(client: Client, plan: Uploads, clock: Clock) -> Result<u64, ClientError> {
    let (mut tx, mut rx) = client.split();
    let mut waiting = std::collections::VecDeque::new();
    let mut sent = 0;
    loop {
        if sent < plan.requests {
            let start = Instant::now();
            let (id, crc) = tx.upload(plan.request_bytes).await?;
            waiting.push_back((id, crc, start));
            sent += 1;
            if waiting.len() < plan.depth {
                continue;
            }
        }
        let Some((id, crc, start)) = waiting.pop_front() else {
            break;
        };
        rx.answer().await?.expect_arg(id, u64::from(crc))?;
        clock.record(start);
    }
    Ok(sent * plan.request_bytes as u64)
}

/// Without the time limit of a single call, which costs a timer each: the load as a whole has one.
async fn ping(client: Client, count: u64, clock: Clock) -> Result<u64, ClientError> {
    let body = pattern().piece(0, PING_BODY_BYTES);
    let (mut tx, mut rx) = client.split();
    rx.keep_bodies = false;
    for _ in 0..count {
        let start = Instant::now();
        let id = tx.echo(body).await?;
        rx.answer().await?.expect_echo(id, body.len())?;
        clock.record(start);
    }
    Ok(count)
}

struct Churn {
    dial: Dial,
    /// Source addresses taken in turn: a port stays blocked for a minute after a close.
    sources: Vec<IpAddr>,
    /// Users taken in turn.
    secrets: Vec<Secret>,
}

impl Churn {
    fn new(runner: &Runner<'_>, dial: Dial, worker: usize, count: u64) -> Churn {
        let target = runner.target;
        let sources = (0..4)
            .filter_map(|n| target.source(worker * 4 + n))
            .collect();
        // Far from each other, so that users seen last are no help.
        let user = |n: u64| target.secret_of((worker + n as usize * 16) * 7919);
        let secrets = if runner.all_users {
            (0..count).map(user).collect()
        } else {
            vec![dial.secret]
        };
        Churn {
            dial,
            sources,
            secrets,
        }
    }

    async fn run(mut self, count: u64, clock: Clock) -> Result<u64, ClientError> {
        let mut sources = self.sources.into_iter().cycle();
        let mut secrets = self.secrets.into_iter().cycle();
        for _ in 0..count {
            self.dial.source = sources.next().or(self.dial.source);
            self.dial.secret = secrets.next().unwrap_or(self.dial.secret);
            let start = Instant::now();
            let mut client = Client::connect(&self.dial).await?;
            client.ping().await?;
            drop(client);
            clock.record(start);
        }
        Ok(count)
    }
}
