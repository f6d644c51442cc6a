//! What a stranger costs: downloads and short connections through the proxy to a mask host, in turn
//! with the same through a plain relay.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    client::ClientError,
    compare::median,
    latency::{Latency, Percentiles},
    load::LoadError,
    target::Target,
};

/// How much.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MaskedPlan {
    /// Times that all targets come in turn.
    pub rounds: usize,
    /// Bytes downloaded in each round, on 4 connections.
    pub bytes: u64,
    /// Short connections of each round, 16 at a time: connect, one small page, close.
    pub connections: usize,
}

impl Default for MaskedPlan {
    fn default() -> MaskedPlan {
        MaskedPlan {
            rounds: 5,
            bytes: 1 << 30,
            connections: 4_000,
        }
    }
}

/// One round of one target.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// CPU seconds per GiB downloaded.
    pub cpu_per_gib: f64,
    /// GiB per second.
    pub gib_per_sec: f64,
    /// CPU microseconds per short connection.
    pub cpu_us_per_connection: f64,
    /// Short connections: from connecting to the page's end.
    pub latency: Percentiles,
}

/// All rounds of one target.
#[derive(Clone, Debug, Serialize)]
pub struct Masked {
    /// Target's name.
    pub target: String,
    /// In the order they were run.
    pub rounds: Vec<Round>,
}

impl Masked {
    /// Median of one figure.
    pub fn median_of(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }
}

impl std::fmt::Display for Masked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:<24.24} {:>7.3} CPU-s/GiB {:>6.2} GiB/s {:>7.1} us CPU/connection  p50 {:>6.0} us  p99 {:>6.0} us",
            self.target,
            self.median_of(|r| r.cpu_per_gib),
            self.median_of(|r| r.gib_per_sec),
            self.median_of(|r| r.cpu_us_per_connection),
            self.median_of(|r| r.latency.p50_us),
            self.median_of(|r| r.latency.p99_us),
        )
    }
}

/// Measures all targets in turn, after one small round each to warm up. Each leads to an
/// [`origin`](crate::origin).
///
/// # Errors
/// [`LoadError`]: a connection fails or is answered by something else.
pub fn masked(targets: &[&Target], plan: MaskedPlan) -> Result<Vec<Masked>, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Thread)?;
    let warm_up = MaskedPlan {
        bytes: plan.bytes / 8,
        connections: plan.connections / 8,
        ..plan
    };
    for target in targets {
        runtime.block_on(round(target, warm_up))?;
    }
    let mut all: Vec<Masked> = targets
        .iter()
        .map(|target| Masked {
            target: target.name().into(),
            rounds: Vec::new(),
        })
        .collect();
    for _ in 0..plan.rounds {
        for (target, masked) in targets.iter().zip(&mut all) {
            masked.rounds.push(runtime.block_on(round(target, plan))?);
        }
    }
    Ok(all)
}

async fn round(target: &Target, plan: MaskedPlan) -> Result<Round, LoadError> {
    let addr = target.addr();
    let process = target.process();
    let cpu = || {
        process.cpu().map_err(|error| LoadError::Measure {
            target: target.name().into(),
            error,
        })
    };
    let (before, start) = (cpu()?, Instant::now());
    let mut jobs = JoinSet::new();
    for _ in 0..DOWNLOADS {
        jobs.spawn(async move { download(addr, None, plan.bytes / DOWNLOADS).await });
    }
    finish(jobs).await?;
    let secs = start.elapsed().as_secs_f64();
    let between = cpu()?;
    let mut jobs = JoinSet::new();
    for worker in 0..AT_ONCE {
        let count = plan.connections / AT_ONCE;
        let source = target.source(worker);
        jobs.spawn(async move {
            let mut latency = Latency::new();
            for _ in 0..count {
                let start = Instant::now();
                download(addr, source, PAGE_BYTES).await?;
                latency.record(start.elapsed());
            }
            Ok(latency)
        });
    }
    let latencies = finish(jobs).await?;
    // The last ones' ends are work too.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = cpu()?;
    let mut latency = Latency::new();
    latencies.iter().for_each(|one| latency.add(one));
    let gib = plan.bytes as f64 / f64::from(1 << 30);
    let connections = (plan.connections / AT_ONCE * AT_ONCE) as f64;
    Ok(Round {
        cpu_per_gib: between.since(&before).as_secs_f64() / gib,
        gib_per_sec: gib / secs,
        cpu_us_per_connection: after.since(&between).as_secs_f64() * 1e6 / connections,
        latency: latency.percentiles(),
    })
}

async fn finish<T: 'static>(
    mut jobs: JoinSet<Result<T, ClientError>>,
) -> Result<Vec<T>, LoadError> {
    let (mut all, mut number) = (Vec::new(), 0);
    while let Some(job) = jobs.join_next().await {
        let done = job.map_err(|_| LoadError::Panicked)?;
        all.push(done.map_err(|error| LoadError::Client { number, error })?);
        number += 1;
    }
    Ok(all)
}

/// One request, read to the end of its answer; the connection is closed behind it.
async fn download(
    addr: SocketAddr,
    source: Option<std::net::IpAddr>,
    bytes: u64,
) -> Result<(), ClientError> {
    let limit = Duration::from_secs(120);
    let done = tokio::time::timeout(limit, fetch(addr, source, bytes)).await;
    done.unwrap_or(Err(ClientError::TimedOut {
        step: "downloading through a mask",
    }))
}

async fn fetch(
    addr: SocketAddr,
    source: Option<std::net::IpAddr>,
    bytes: u64,
) -> Result<(), ClientError> {
    const STEP: &str = "downloading through a mask";
    let io = |error: std::io::Error| ClientError::Io {
        step: STEP,
        kind: error.kind(),
    };
    let socket = TcpSocket::new_v4().map_err(io)?;
    if let Some(source) = source {
        socket.bind((source, 0).into()).map_err(io)?;
    }
    let mut stream = socket.connect(addr).await.map_err(io)?;
    stream.set_nodelay(true).map_err(io)?;
    let request = format!("GET /bytes/{bytes} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(io)?;
    let head = read_head(&mut stream).await.map_err(io)?;
    let mut left = bytes.saturating_sub(head as u64);
    let mut buffer = vec![0; READ_BYTES.min(usize::try_from(bytes).unwrap_or(READ_BYTES).max(1))];
    while left > 0 {
        match stream.read(&mut buffer).await.map_err(io)? {
            0 => return Err(ClientError::Closed { step: STEP }),
            got => left = left.saturating_sub(got as u64),
        }
    }
    Ok(())
}

/// Reads past the head of the answer; how many bytes of the body came with it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<usize> {
    let mut seen = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut seen).await? == 0 || seen.len() > READ_BYTES {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            if !seen.starts_with(b"HTTP/1.1 200") {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
            return Ok(seen.len() - end - 4);
        }
    }
}

const DOWNLOADS: u64 = 4;
const AT_ONCE: usize = 16;
const PAGE_BYTES: u64 = 600;
const READ_BYTES: usize = 256 * 1024;
