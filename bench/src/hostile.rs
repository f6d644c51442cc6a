//! A hostile crowd beside clients at ping-pong: what the clients notice, and what the proxy still
//! holds when the crowd is gone. Who the hostile are is in [`kinds`].

pub mod kinds;

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    client::{Client, Dial, Mode, Opening},
    compare::median,
    latency::Percentiles,
    load::LoadError,
    quiet::{Ask, Phase, Quiet},
    target::Target,
};
use kinds::Kind;

/// How many, how long.
#[derive(Clone, Debug, Serialize)]
pub struct HostilePlan {
    /// Hostile connections of each crowd, of all kinds in turn.
    pub hostile: usize,
    /// Clients at ping-pong.
    pub clients: usize,
    /// Each client asks once in this time.
    pub every: Duration,
    /// Length of each phase: calm, and from the first hostile connection to the last one's leave.
    pub phase: Duration,
    /// Who is in the crowd, in turn.
    pub kinds: Vec<Kind>,
    /// How long a proxy has to give memory back, once a crowd is gone.
    pub back: Duration,
    /// Times that the phases come in turn; the first crowd fills the proxy's pools.
    pub rounds: usize,
}

impl Default for HostilePlan {
    fn default() -> HostilePlan {
        HostilePlan {
            hostile: 10_000,
            clients: 100,
            every: Duration::from_millis(20),
            phase: Duration::from_secs(10),
            kinds: Kind::ALL.to_vec(),
            back: Duration::from_secs(15),
            rounds: 4,
        }
    }
}

/// What the proxy holds: resident bytes and descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Resident set, bytes.
    pub rss_bytes: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Hostile {
    /// What was done.
    pub plan: HostilePlan,
    /// The clients' thread went before the crowd's.
    pub clients_first: bool,
    /// Nobody else is there.
    pub calm: Vec<Phase>,
    /// The crowd comes, stays and leaves.
    pub crowd: Vec<Phase>,
    /// With the clients alone, before the first crowd.
    pub before: Held,
    /// When each crowd is gone.
    pub after: Vec<Held>,
    /// Some seconds later: what the proxy had to give back, it has given back.
    pub later: Vec<Held>,
    /// Most descriptors seen during a crowd.
    pub descriptors_most: usize,
    /// Hostile connections that could not even connect.
    pub refused: u64,
    /// Seconds until the last crowd's descriptors were back.
    pub gone_secs: f64,
}

impl Hostile {
    /// Median of the rounds' ratios of a p99, crowd to the calm before it.
    pub fn ratio(&self, of: impl Fn(&Phase) -> &Percentiles) -> f64 {
        let rounds = self.calm.iter().zip(&self.crowd);
        median(rounds.map(|(calm, crowd)| of(crowd).p99_us / of(calm).p99_us))
    }

    /// Resident bytes that crowds after the first have left behind for good.
    pub fn growth_bytes(&self) -> i64 {
        let (first, last) = (self.later.first(), self.later.last());
        let rss = |held: Option<&Held>| held.map_or(0, |held| held.rss_bytes.cast_signed());
        rss(last) - rss(first)
    }

    /// Descriptors over those before the first crowd.
    pub fn descriptors_left(&self) -> usize {
        let last = self.after.last().copied().unwrap_or_default();
        last.descriptors.saturating_sub(self.before.descriptors)
    }
}

impl std::fmt::Display for Hostile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let plan = &self.plan;
        let (hostile, clients) = (plan.hostile, plan.clients);
        writeln!(
            f,
            "{hostile} hostile connections, {clients} clients at ping-pong"
        )?;
        writeln!(
            f,
            "p99 in us, on the way through the proxy and as clients see it on their busy core, \
             where they {}",
            if self.clients_first {
                "go first"
            } else {
                "wait with the crowd's threads (CAP_SYS_NICE is missing)"
            }
        )?;
        writeln!(
            f,
            "round  through: calm  crowd  ratio  seen: calm  crowd  ratio  \
             RSS after MiB  later MiB  descriptors"
        )?;
        let held = self.after.iter().zip(&self.later);
        let rounds = self.calm.iter().zip(&self.crowd).zip(held);
        for (round, ((calm, crowd), (after, later))) in (1..).zip(rounds) {
            write!(f, "{round:>5}")?;
            for (width, calm, crowd) in [
                (13, calm.through, crowd.through),
                (10, calm.latency, crowd.latency),
            ] {
                let (calm, crowd) = (calm.p99_us, crowd.p99_us);
                let ratio = crowd / calm;
                write!(f, "  {calm:>width$.0}  {crowd:>5.0}  {ratio:>5.2}")?;
            }
            let (rss, later) = (mib(after.rss_bytes), mib(later.rss_bytes));
            let held = after.descriptors;
            writeln!(f, "  {rss:>13.1}  {later:>9.1}  {held:>11}")?;
        }
        let (before, most) = (self.before, self.descriptors_most);
        writeln!(
            f,
            "before: {:.1} MiB, {} descriptors; at most {most}; not connected: {}",
            mib(before.rss_bytes),
            before.descriptors,
            self.refused
        )?;
        writeln!(
            f,
            "ratio {:.2} through, {:.2} seen; grown after the first crowd by {} KiB; descriptors left: {}; gone in {:.1} s",
            self.ratio(|phase| &phase.through),
            self.ratio(|phase| &phase.latency),
            self.growth_bytes() / 1024,
            self.descriptors_left(),
            self.gone_secs
        )
    }
}

/// Runs all rounds. The crowd comes to `attacked`, which is the proxy itself or, to learn what the
/// machine alone does to clients when so many come, something else on its cores.
///
/// # Errors
/// [`LoadError`]: a client fails, `/proc` cannot be read, or the proxy does not let go of a crowd.
pub fn hostile(
    target: &Target,
    attacked: &Target,
    mode: Mode,
    plan: &HostilePlan,
) -> Result<Hostile, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Thread)?;
    let recorded = runtime.block_on(record(target, plan))?;
    let quiet = Quiet::start(target, mode, plan.clients, plan.every, Ask::Stamped)?;
    std::thread::sleep(SETTLE);
    let before = held(target)?;
    let before_attacked = descriptors(attacked.process().pid());
    let mut all = Hostile {
        plan: plan.clone(),
        clients_first: quiet.goes_first(),
        calm: Vec::new(),
        crowd: Vec::new(),
        before,
        after: Vec::new(),
        later: Vec::new(),
        descriptors_most: 0,
        refused: 0,
        gone_secs: 0.0,
    };
    for _ in 0..plan.rounds {
        all.calm.push(quiet.during(target, || {
            std::thread::sleep(plan.phase);
            Ok(())
        })?);
        let (mut refused, mut most) = (0, 0);
        all.crowd.push(quiet.during(target, || {
            (refused, most) = runtime.block_on(crowd(attacked, plan, &recorded));
            Ok(())
        })?);
        all.refused += refused;
        all.descriptors_most = all.descriptors_most.max(most);
        let left = Instant::now();
        while held(target)?.descriptors > before.descriptors
            || descriptors(attacked.process().pid()) > before_attacked
        {
            if left.elapsed() > GONE_LIMIT {
                return Err(LoadError::Hangs { limit: GONE_LIMIT });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        all.gone_secs = left.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        all.after.push(held(target)?);
        std::thread::sleep(plan.back);
        all.later.push(held(target)?);
    }
    Ok(all)
}

/// Hellos that were accepted once.
async fn record(target: &Target, plan: &HostilePlan) -> Result<Vec<Vec<u8>>, LoadError> {
    let mut recorded = Vec::new();
    for _ in 0..plan.hostile.min(RECORDED) {
        let dial = target.dial(Mode::Ee, 0);
        let opening = Opening::new(&dial);
        let connected = Client::connect_with(&dial, &opening).await;
        connected.map_err(|error| LoadError::Client { number: 0, error })?;
        recorded.extend(opening.hello);
    }
    Ok(recorded)
}

/// All of a crowd: each comes at its time in the first half of the phase and stays for the length
/// of the other half. How many could not connect, and the most descriptors the proxy had.
async fn crowd(target: &Target, plan: &HostilePlan, recorded: &[Vec<u8>]) -> (u64, usize) {
    let begin = tokio::time::Instant::now();
    let end = begin + plan.phase;
    let mut running = JoinSet::new();
    for number in 0..plan.hostile {
        let share = number as f64 / plan.hostile as f64;
        let kind = plan.kinds[number % plan.kinds.len()];
        let opening = match kind {
            Kind::Replay => recorded.get(number % recorded.len().max(1)).cloned(),
            _ => None,
        };
        let dial = Arc::new(Dial {
            source: target.source(number),
            ..target.dial(Mode::Ee, number)
        });
        let come = begin + plan.phase.mul_f64(share / 2.0);
        let leave = come + plan.phase / 2;
        running.spawn(async move {
            tokio::time::sleep_until(come).await;
            kind.attack(&dial, opening, leave, number).await
        });
    }
    let process = target.process().pid();
    let mut most = 0;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(plan.phase / 20).await;
        most = most.max(descriptors(process));
    }
    let mut refused = 0;
    while let Some(ended) = running.join_next().await {
        refused += u64::from(!ended.unwrap_or(false));
    }
    (refused, most)
}

fn held(target: &Target) -> Result<Held, LoadError> {
    let process = target.process();
    Ok(Held {
        rss_bytes: process.rss_bytes().map_err(|error| LoadError::Measure {
            target: target.name().into(),
            error,
        })?,
        descriptors: descriptors(process.pid()),
    })
}

fn descriptors(pid: u32) -> usize {
    let folder = format!("/proc/{pid}/fd");
    // Its size is their number since Linux 6.2. Listing thousands takes the load's core from the
    // clients for milliseconds.
    match fs::metadata(&folder).map(|folder| folder.len()) {
        Ok(0) | Err(_) => fs::read_dir(folder).map_or(0, Iterator::count),
        Ok(count) => usize::try_from(count).unwrap_or(usize::MAX),
    }
}

/// The keys with which a proxy sends strangers to this address, with no limit on how much they get,
/// as options of a target.
pub fn mask_options(origin: SocketAddr) -> String {
    format!(
        "censorship.mask=true,censorship.mask_host=\"{}\",censorship.mask_port={},\
         censorship.mask_relay_max_bytes=0",
        origin.ip(),
        origin.port()
    )
}

const RECORDED: usize = 200;
/// Handshake limits are over by then, and a mask host's idle limit.
const GONE_LIMIT: Duration = Duration::from_secs(120);
const SETTLE: Duration = Duration::from_secs(1);
