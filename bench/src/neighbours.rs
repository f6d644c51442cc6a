//! Many quiet clients beside one that stops reading or one that floods: what they notice, and what
//! the proxy has to hold for it. The caller sees to it that they share a way to the DC.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::{
    client::{Client, ClientError, Dial, Mode},
    compare::median,
    load::LoadError,
    quiet::{Ask, Phase, Quiet},
    target::Target,
};

/// How many, how long.
#[derive(Clone, Copy, Debug)]
pub struct NeighboursPlan {
    /// Quiet clients.
    pub clients: usize,
    /// Each asks once in this time.
    pub every: Duration,
    /// Length of each phase.
    pub phase: Duration,
    /// Times that the phases come in turn.
    pub rounds: usize,
    /// Parts of 1 MiB that a client who does not read asks for at once: what a proxy may well hold
    /// for it, and far more.
    pub parts: [usize; 2],
    /// Requests of 1 MiB that the flooding client has under way.
    pub depth: usize,
}

impl Default for NeighboursPlan {
    fn default() -> NeighboursPlan {
        NeighboursPlan {
            clients: 1_000,
            every: Duration::from_secs(1),
            phase: Duration::from_secs(4),
            rounds: 5,
            parts: [8, 64],
            depth: 4,
        }
    }
}

/// What came of it, phase by phase in every round.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Neighbours {
    /// Nobody else is there.
    pub calm: Vec<Phase>,
    /// One asks for something and does not read.
    pub stopped: Vec<Phase>,
    /// One asks for far too much and does not read; every second a new one in its place.
    pub greedy: Vec<Phase>,
    /// One floods.
    pub flood: Vec<Phase>,
    /// MiB that all floods have carried.
    pub flood_mib: u64,
    /// Times that a flooding client was closed and came back.
    pub flood_closed: u64,
}

impl Neighbours {
    /// Median p99 of these phases, microseconds.
    pub fn p99_us(phases: &[Phase]) -> f64 {
        median(phases.iter().map(|phase| phase.latency.p99_us))
    }

    /// Median p99 beside somebody bad, ratio to calm phases.
    pub fn ratio(&self, phases: &[Phase]) -> f64 {
        Neighbours::p99_us(phases) / Neighbours::p99_us(&self.calm)
    }

    /// Largest growth in these phases, bytes.
    pub fn growth_bytes(phases: &[Phase]) -> u64 {
        phases
            .iter()
            .map(|phase| phase.growth_bytes)
            .max()
            .unwrap_or(0)
    }
}

/// Runs all phases.
///
/// # Errors
/// [`LoadError`]: a quiet client fails, or nobody can connect.
pub fn neighbours(
    target: &Target,
    mode: Mode,
    plan: NeighboursPlan,
) -> Result<Neighbours, LoadError> {
    let quiet = Quiet::start(target, mode, plan.clients, plan.every, Ask::Echo)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Thread)?;
    let mut bad = target.dial(mode, plan.clients);
    bad.receive_buffer_bytes = Some(16 * 1024);
    let dial = target.dial(mode, plan.clients);
    let number = plan.clients;
    let failed = |error| LoadError::Client { number, error };
    let mut all = Neighbours::default();
    for _ in 0..plan.rounds {
        all.calm.push(quiet.during(target, || {
            std::thread::sleep(plan.phase);
            Ok(())
        })?);
        for (phases, parts, stay) in [
            (&mut all.stopped, plan.parts[0], plan.phase),
            (&mut all.greedy, plan.parts[1], Duration::from_secs(1)),
        ] {
            let stopping = stop_reading(&bad, plan.phase, parts, stay);
            phases.push(quiet.during(target, || runtime.block_on(stopping).map_err(failed))?);
        }
        let mut flood = Flood::default();
        let flooding = flood.run(&dial, plan);
        all.flood
            .push(quiet.during(target, || runtime.block_on(flooding).map_err(failed))?);
        all.flood_mib += flood.requests;
        all.flood_closed += flood.closed;
    }
    Ok(all)
}

async fn stop_reading(
    dial: &Dial,
    phase: Duration,
    parts: usize,
    stay: Duration,
) -> Result<(), ClientError> {
    let end = Instant::now() + phase;
    while Instant::now() < end {
        let mut client = Client::connect(dial).await?;
        client.ping().await?;
        let (mut tx, rx) = client.split();
        for _ in 0..parts {
            // The proxy may have closed it already.
            if tx.download(MIB).await.is_err() {
                break;
            }
        }
        tokio::time::sleep(stay).await;
        drop((tx, rx));
    }
    Ok(())
}

#[derive(Default)]
struct Flood {
    /// Of 1 MiB each, answered.
    requests: u64,
    closed: u64,
}

impl Flood {
    async fn run(&mut self, dial: &Dial, plan: NeighboursPlan) -> Result<(), ClientError> {
        let end = Instant::now() + plan.phase;
        while Instant::now() < end {
            let client = Client::connect(dial).await?;
            match self.flood(client, plan.depth, end).await {
                Err(ClientError::Closed { .. } | ClientError::Io { .. }) => self.closed += 1,
                other => other?,
            }
        }
        Ok(())
    }

    async fn flood(
        &mut self,
        client: Client,
        depth: usize,
        end: Instant,
    ) -> Result<(), ClientError> {
        let (mut tx, mut rx) = client.split();
        rx.keep_bodies = false;
        let mut waiting = std::collections::VecDeque::new();
        loop {
            while Instant::now() < end && waiting.len() < depth {
                waiting.push_back(tx.upload(MIB as usize).await?);
            }
            let Some((id, crc)) = waiting.pop_front() else {
                return Ok(());
            };
            rx.answer().await?.expect_arg(id, u64::from(crc))?;
            self.requests += 1;
        }
    }
}

const MIB: u64 = 1 << 20;
