//! What the control side costs: start and memory with many users, time of a change, what scraping
//! and a flood of requests take from the shards and from the clients they serve.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    api::Api,
    client::{Client, Mode},
    latency::{Latency, Percentiles},
    load::LoadError,
    measure::Process,
    target::{Surroundings, Target, TargetError, TargetSpec, config::ProxyConfig, free_port},
};

/// How much is done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Plan {
    /// Users configured.
    pub users: usize,
    /// Changes of each kind.
    pub changes: usize,
    /// Seconds of each state that is measured over time.
    pub secs: u64,
    /// Requests per second of the flood.
    pub flood_per_sec: u64,
    /// Clients that are served meanwhile.
    pub clients: usize,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// From start to the first connection with 10 users and with all, milliseconds.
    pub start_ms: (f64, f64),
    /// Resident memory per user, bytes, between 10 users and all.
    pub bytes_per_user: f64,
    /// Creating a user, milliseconds: median and longest.
    pub create_ms: (f64, f64),
    /// Changing a user, milliseconds: median and longest.
    pub patch_ms: (f64, f64),
    /// Part of a core that all shards together use with nobody asking, and when
    /// `zero/all` and `stats/users` are asked for every 100 ms.
    pub shard_cpu: (f64, f64),
    /// The same for all other threads.
    pub other_cpu: (f64, f64),
    /// `/metrics` with 10 users and with all: bytes, and milliseconds in the median.
    pub metrics: [(usize, f64); 2],
    /// Requests per second that were answered in the flood, and those that failed.
    pub flood: (f64, u64),
    /// Round trips of clients without and with the flood.
    pub round_trips: (Percentiles, Percentiles),
}

/// Why there is no outcome.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No proxy.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No clients.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The API does not answer, or `/proc` cannot be read.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// What happened.
        error: io::Error,
    },
    /// An answer other than success.
    #[error("{what}: status {status}: {body}")]
    Refused {
        /// What was attempted.
        what: &'static str,
        /// Of the answer.
        status: u16,
        /// The answer.
        body: String,
    },
}

/// Measures everything, one after the other.
///
/// # Errors
/// [`ControlError`].
pub fn control(
    config: &ProxyConfig,
    around: &Surroundings,
    plan: Plan,
) -> Result<Outcome, ControlError> {
    let few = Rig::start(config, around, FEW)?;
    let few_memory = few.memory()?;
    let few_metrics = few.metrics()?;
    let few_start = few.target.start_time();
    drop(few);
    let rig = Rig::start(config, around, plan.users)?;
    let grown = rig.memory()?.saturating_sub(few_memory);
    let mut outcome = Outcome {
        start_ms: (millis(few_start), millis(rig.target.start_time())),
        bytes_per_user: grown as f64 / (plan.users.saturating_sub(FEW)).max(1) as f64,
        metrics: [few_metrics, rig.metrics()?],
        ..Outcome::default()
    };
    let state = Duration::from_secs(plan.secs);
    let idle = rig.cpu_during(|| thread::sleep(state))?;
    let scraped = rig.scrape(state)?;
    outcome.shard_cpu = (idle.0, scraped.0);
    outcome.other_cpu = (idle.1, scraped.1);
    (outcome.create_ms, outcome.patch_ms) = rig.changes(plan.changes)?;
    let quiet = rig.round_trips(plan.clients, state, None)?;
    let flood = Flood::new(rig.api, plan.flood_per_sec);
    let flooded = rig.round_trips(plan.clients, state, Some(&flood))?;
    outcome.round_trips = (quiet, flooded);
    let answered = flood.answered.load(Ordering::Relaxed) as f64 / state.as_secs_f64();
    outcome.flood = (answered, flood.failed.load(Ordering::Relaxed));
    Ok(outcome)
}

/// A proxy with its API and its metrics open.
struct Rig {
    target: Target,
    api: SocketAddr,
    metrics: SocketAddr,
}

impl Rig {
    fn start(
        config: &ProxyConfig,
        around: &Surroundings,
        users: usize,
    ) -> Result<Rig, ControlError> {
        let port = || free_port().map_err(failed("finding a free port"));
        let api = SocketAddr::from((Ipv4Addr::LOCALHOST, port()?));
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, port()?));
        let mut config = config.clone();
        config.users_more = users.saturating_sub(1);
        for (key, value) in [
            ("server.api.enabled", "true".to_owned()),
            ("server.api.runtime_edge_enabled", "true".to_owned()),
            ("server.api.listen", format!("\"{api}\"")),
            ("server.metrics_listen", format!("\"{metrics}\"")),
        ] {
            config.keys.insert(key.to_owned(), value);
        }
        let target = Target::start(&TargetSpec::Pinnace(config), around)?;
        let rig = Rig {
            target,
            api,
            metrics,
        };
        rig.wait_for_api()?;
        Ok(rig)
    }

    fn memory(&self) -> Result<u64, ControlError> {
        thread::sleep(SETTLE);
        let memory = self.target.process().memory();
        Ok(memory.map_err(failed("reading memory"))?.rss_bytes)
    }

    /// The API opens a moment behind the port of clients.
    fn wait_for_api(&self) -> Result<(), ControlError> {
        let began = Instant::now();
        loop {
            match expect(
                &mut Api::new(self.api),
                "GET",
                "/v1/health",
                "asking for health",
                "",
            ) {
                Ok(_) => return Ok(()),
                Err(error) if began.elapsed() > API_PATIENCE => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    fn metrics(&self) -> Result<(usize, f64), ControlError> {
        let mut api = Api::new(self.metrics);
        let mut times = Vec::new();
        let mut bytes = 0;
        for _ in 0..20 {
            let (body, took) = expect(&mut api, "GET", "/metrics", "/metrics", "")?;
            bytes = body;
            times.push(took);
        }
        Ok((bytes, spread(times).0))
    }

    /// Creates users and changes each of them once.
    fn changes(&self, count: usize) -> Result<(Spread, Spread), ControlError> {
        let mut api = Api::new(self.api);
        let (mut created, mut patched) = (Vec::new(), Vec::new());
        for number in 0..count {
            let body = format!("{{\"username\":\"new{number}\"}}");
            created.push(expect(&mut api, "POST", "/v1/users", "creating a user", &body)?.1);
        }
        for number in 0..count {
            let path = format!("/v1/users/new{number}");
            let body = "{\"max_tcp_conns\":77}";
            patched.push(expect(&mut api, "PATCH", &path, "changing a user", body)?.1);
        }
        Ok((spread(created), spread(patched)))
    }

    /// Parts of a core that shards and other threads use while something is done.
    fn cpu_during(&self, work: impl FnOnce()) -> Result<(f64, f64), ControlError> {
        let cpu = || shard_nanos(self.target.process()).map_err(failed("reading CPU"));
        let (before, began) = (cpu()?, Instant::now());
        work();
        let (after, took) = (cpu()?, began.elapsed().as_nanos() as f64);
        let part = |after: u64, before: u64| after.saturating_sub(before) as f64 / took;
        Ok((part(after.0, before.0), part(after.1, before.1)))
    }

    fn scrape(&self, state: Duration) -> Result<(f64, f64), ControlError> {
        let mut failure = None;
        let used = self.cpu_during(|| {
            let (mut api, began) = (Api::new(self.api), Instant::now());
            while began.elapsed() < state && failure.is_none() {
                for path in ["/v1/stats/zero/all", "/v1/stats/users"] {
                    failure = failure
                        .take()
                        .or_else(|| expect(&mut api, "GET", path, "scraping", "").err());
                }
                thread::sleep(SCRAPE_EVERY);
            }
        })?;
        failure.map_or(Ok(used), Err)
    }

    /// Clients that ask every few milliseconds; with a flood of requests to the API meanwhile.
    fn round_trips(
        &self,
        clients: usize,
        state: Duration,
        flood: Option<&Flood>,
    ) -> Result<Percentiles, ControlError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LoadError::Thread)?;
        let over = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            let floods: Vec<_> = (0..FLOOD_THREADS)
                .filter_map(|_| flood.map(|flood| scope.spawn(|| flood.pour(&over))))
                .collect();
            let measured = runtime.block_on(self.ping(clients, state));
            over.store(true, Ordering::Relaxed);
            for flood in floods {
                flood.join().map_err(|_| LoadError::Panicked)?;
            }
            measured
        })
    }

    async fn ping(&self, clients: usize, state: Duration) -> Result<Percentiles, ControlError> {
        let mut pinging: JoinSet<Result<Latency, LoadError>> = JoinSet::new();
        for number in 0..clients {
            let dial = self.target.dial(Mode::Ee, number);
            pinging.spawn(async move {
                let failed = |error| LoadError::Client { number, error };
                let mut client = Client::connect(&dial).await.map_err(failed)?;
                let (mut latency, began) = (Latency::new(), Instant::now());
                while began.elapsed() < state {
                    let asked = Instant::now();
                    client.ping().await.map_err(failed)?;
                    latency.record(asked.elapsed());
                    tokio::time::sleep(PING_EVERY).await;
                }
                Ok(latency)
            });
        }
        let mut all = Latency::new();
        while let Some(one) = pinging.join_next().await {
            all.add(&one.map_err(|_| LoadError::Panicked)??);
        }
        Ok(all.percentiles())
    }
}

/// Requests at a fixed rate from several connections.
#[derive(Debug)]
struct Flood {
    api: SocketAddr,
    per_sec: u64,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Flood {
    fn new(api: SocketAddr, per_sec: u64) -> Flood {
        Flood {
            api,
            per_sec,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// One thread's share, until told that it is over.
    fn pour(&self, over: &AtomicBool) {
        let mut api = Api::new(self.api);
        let began = Instant::now();
        let share = (self.per_sec / FLOOD_THREADS as u64).max(1) as f64;
        let mut sent = 0.0;
        while !over.load(Ordering::Relaxed) {
            if sent > began.elapsed().as_secs_f64() * share {
                thread::sleep(Duration::from_micros(500));
                continue;
            }
            sent += 1.0;
            let good = api
                .ask("GET", "/v1/stats/summary", "")
                .is_ok_and(|a| a.status == 200);
            let count = if good { &self.answered } else { &self.failed };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Median and longest, milliseconds.
type Spread = (f64, f64);

fn spread(mut times: Vec<Duration>) -> Spread {
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(0.0, |took| millis(*took));
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

/// Asks and times it; the number is that of the body's bytes.
fn expect(
    api: &mut Api,
    method: &str,
    path: &str,
    what: &'static str,
    body: &str,
) -> Result<(usize, Duration), ControlError> {
    let asked = Instant::now();
    let answered = api.ask(method, path, body).map_err(failed(what))?;
    if !(200..300).contains(&answered.status) {
        return Err(ControlError::Refused {
            what,
            status: answered.status,
            body: String::from_utf8_lossy(api.body(answered)).into_owned(),
        });
    }
    Ok((answered.body_bytes, asked.elapsed()))
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> ControlError {
    move |error| ControlError::Io { what, error }
}

/// Nanoseconds of CPU that shards and all other threads have used.
fn shard_nanos(process: Process) -> io::Result<(u64, u64)> {
    let (mut shards, mut others) = (0, 0);
    for (name, nanos) in process.threads()? {
        let sum = if name.starts_with("shard-") {
            &mut shards
        } else {
            &mut others
        };
        *sum += nanos;
    }
    Ok((shards, others))
}

const API_PATIENCE: Duration = Duration::from_secs(10);
const FEW: usize = 10;
const FLOOD_THREADS: usize = 4;
const SETTLE: Duration = Duration::from_millis(700);
const SCRAPE_EVERY: Duration = Duration::from_millis(100);
const PING_EVERY: Duration = Duration::from_millis(10);

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pair = |(a, b): (f64, f64)| format!("{a:.1} / {b:.1} ms");
        let percent = |(a, b): (f64, f64)| format!("{:.2} % / {:.2} %", a * 100.0, b * 100.0);
        writeln!(f, "start, 10 users / all          {}", pair(self.start_ms))?;
        writeln!(
            f,
            "memory per user                {:.0} bytes",
            self.bytes_per_user
        )?;
        writeln!(f, "create, median / longest       {}", pair(self.create_ms))?;
        writeln!(f, "patch, median / longest        {}", pair(self.patch_ms))?;
        writeln!(
            f,
            "shards' CPU, idle / scraped    {}",
            percent(self.shard_cpu)
        )?;
        writeln!(
            f,
            "others' CPU, idle / scraped    {}",
            percent(self.other_cpu)
        )?;
        for (users, (bytes, ms)) in ["10 users", "all users"].iter().zip(self.metrics) {
            writeln!(f, "/metrics, {users:<20} {bytes} bytes in {ms:.2} ms")?;
        }
        let (answered, lost) = self.flood;
        writeln!(
            f,
            "flood                          {answered:.0}/s answered, {lost} failed"
        )?;
        let (quiet, flooded) = (&self.round_trips.0, &self.round_trips.1);
        for (name, p) in [("quiet", quiet), ("flooded", flooded)] {
            writeln!(
                f,
                "round trips, {name:<17} p50 {:.0} us, p99 {:.0} us, {} of them",
                p.p50_us, p.p99_us, p.count
            )?;
        }
        Ok(())
    }
}
