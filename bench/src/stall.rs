//! What makes some proxies hang or swell: both directions full at once, and readers that do not
//! read. Every byte has to arrive in the end, and the proxy must not hold what nobody takes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    client::{Client, ClientError, Mode, Receiver, Sender},
    load::LoadError,
    measure::Process,
    target::Target,
};

/// What came of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stall {
    /// Wall-clock seconds of the exchange in both directions.
    pub exchange_secs: f64,
    /// Wall-clock seconds until the slow readers had everything.
    pub readers_secs: f64,
    /// Largest resident set while they did not read, over the one before, bytes.
    pub growth_bytes: u64,
}

/// How much is exchanged and held back.
#[derive(Clone, Copy, Debug)]
pub struct StallPlan {
    /// Clients.
    pub connections: usize,
    /// Requests of each, all under way at once.
    pub requests: usize,
    /// Bytes of one request and of its answer.
    pub request_bytes: usize,
    /// Bytes that each slow reader lets wait.
    pub reader_bytes: u64,
    /// How long the slow readers do not read at all.
    pub pause: Duration,
    /// Limit of each part; a proxy that hangs shows here.
    pub limit: Duration,
}

impl Default for StallPlan {
    fn default() -> StallPlan {
        StallPlan {
            connections: 4,
            requests: 32,
            request_bytes: 1 << 20,
            reader_bytes: 64 << 20,
            pause: Duration::from_secs(3),
            limit: Duration::from_secs(60),
        }
    }
}

/// Runs both parts.
///
/// # Errors
/// [`LoadError`]; [`ClientError::TimedOut`] in it when a part does not end.
pub fn stall(target: &Target, mode: Mode, plan: StallPlan) -> Result<Stall, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Thread)?;
    runtime.block_on(async {
        let start = Instant::now();
        each(
            target,
            mode,
            plan,
            "exchanging in both directions",
            move |client| exchange(client, plan),
        )
        .await?;
        let exchange_secs = start.elapsed().as_secs_f64();
        let watch = Watch::start(target.process());
        let start = Instant::now();
        each(target, mode, plan, "reading slowly", move |client| {
            read_slowly(client, plan)
        })
        .await?;
        Ok(Stall {
            exchange_secs,
            readers_secs: start.elapsed().as_secs_f64(),
            growth_bytes: watch.growth(),
        })
    })
}

async fn each<F, W>(
    target: &Target,
    mode: Mode,
    plan: StallPlan,
    step: &'static str,
    work: F,
) -> Result<(), LoadError>
where
    F: Fn(Client) -> W + Copy + Send + Sync + 'static,
    W: Future<Output = Result<(), ClientError>> + Send,
{
    let mut jobs = JoinSet::new();
    for number in 0..plan.connections {
        let mut dial = target.dial(mode, number);
        // Little waits in our own kernel buffers, so that it waits at the proxy.
        dial.receive_buffer_bytes = Some(64 * 1024);
        jobs.spawn(async move {
            let all = async { work(Client::connect(&dial).await?).await };
            let done = tokio::time::timeout(plan.limit, all).await;
            done.unwrap_or(Err(ClientError::TimedOut { step }))
                .map_err(|error| LoadError::Client { number, error })
        });
    }
    while let Some(job) = jobs.join_next().await {
        job.map_err(|_| LoadError::Panicked)??;
    }
    Ok(())
}

/// All requests at once, in both directions at once.
async fn exchange(client: Client, plan: StallPlan) -> Result<(), ClientError> {
    let (tx, rx) = client.split();
    let (asked, answered) = tokio::sync::mpsc::unbounded_channel();
    let (sent, received) = tokio::join!(send(tx, plan, asked), receive(rx, plan, answered));
    sent.and(received)
}

type Asked = (u32, u32);

async fn send(
    mut tx: Sender,
    plan: StallPlan,
    asked: tokio::sync::mpsc::UnboundedSender<Asked>,
) -> Result<(), ClientError> {
    for _ in 0..plan.requests {
        let request = tx
            .exchange(plan.request_bytes, plan.request_bytes as u64)
            .await?;
        // Only a receiver that has failed, and says so itself, does not listen.
        let _ = asked.send(request);
    }
    Ok(())
}

async fn receive(
    mut rx: Receiver,
    plan: StallPlan,
    mut asked: tokio::sync::mpsc::UnboundedReceiver<Asked>,
) -> Result<(), ClientError> {
    for _ in 0..plan.requests {
        let (acknowledged, stream) = (rx.answer().await?, rx.answer().await?);
        let Some((id, crc)) = asked.recv().await else {
            break;
        };
        acknowledged.expect_arg(id, u64::from(crc))?;
        stream.expect_stream(id, plan.request_bytes as u64)?;
    }
    Ok(())
}

/// Asks for much, reads nothing for a while, then a little, then the rest.
async fn read_slowly(client: Client, plan: StallPlan) -> Result<(), ClientError> {
    let (mut tx, mut rx) = client.split();
    let id = tx.download(plan.reader_bytes).await?;
    tokio::time::sleep(plan.pause).await;
    rx.read_bytes_max = 16 * 1024;
    for _ in 0..200 {
        rx.read_once().await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    rx.read_bytes_max = usize::MAX;
    rx.answer().await?.expect_stream(id, plan.reader_bytes)
}

/// Samples a resident set until it is dropped.
pub(crate) struct Watch {
    before: u64,
    largest: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(process: Process) -> Watch {
        let before = process.rss_bytes().unwrap_or(0);
        let (largest, stop) = (
            Arc::new(AtomicU64::new(before)),
            Arc::new(AtomicBool::new(false)),
        );
        let (seen, ended) = (Arc::clone(&largest), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !ended.load(Relaxed) {
                seen.fetch_max(process.rss_bytes().unwrap_or(0), Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Watch {
            before,
            largest,
            stop,
            thread: Some(thread),
        }
    }

    /// Bytes over the first sample at most.
    pub(crate) fn growth(&self) -> u64 {
        self.largest.load(Relaxed).saturating_sub(self.before)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It only sleeps and reads; nothing to report.
            let _ = thread.join();
        }
    }
}
