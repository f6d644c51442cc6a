//! The whole thing on one machine without any network: a fake Telegram, our proxy, clients in all
//! modes that download, upload and ping for a few seconds, and what the proxy used for it.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinSet;

use crate::{
    client::{Client, ClientError, Dial, Mode},
    latency::Latency,
    load::LoadError,
    report::{Table, figure},
    session::{Bench, BenchError, Entry, Setup, failed, mib},
    target::{Target, TargetSpec},
};

/// Runs it and prints a summary.
///
/// # Errors
/// [`BenchError`]: no proxy, or a client that was not served.
pub fn run(how_long: Duration, pinnace: Option<PathBuf>) -> Result<(), BenchError> {
    let mut bench = Bench::new(Setup {
        rounds: 1,
        divided_by: 1,
        target_cores: 1,
        load_threads: 1,
        pinnace,
        secret: None,
        dc: None,
        verbose: false,
    })?;
    // All cores for everybody: this is a demonstration and no measurement.
    let all = bench.all_cores().to_vec();
    bench.use_cores(crate::machine::Cores {
        target: all.clone(),
        load: all,
    })?;
    let target = bench.start(&TargetSpec::Pinnace(Default::default()))?;
    println!(
        "fake Telegram on {}, {} on {} (process {}), listening after {:.0} ms",
        bench.surroundings().dc,
        target.name(),
        target.addr(),
        target.process().pid(),
        target.start_time().as_secs_f64() * 1e3,
    );
    let modes: Vec<Arc<Tally>> = Mode::PROXIED
        .into_iter()
        .map(|mode| Arc::new(Tally::new(mode)))
        .collect();
    let deadline = Instant::now() + how_long;
    let worker = {
        let (jobs, dials) = (
            modes.clone(),
            modes.iter().map(|t| dials(&target, t)).collect::<Vec<_>>(),
        );
        std::thread::spawn(move || work(&jobs, dials, deadline))
    };
    let mut screen = Screen::new(&modes, how_long);
    let failing = |error| {
        failed(
            "demo",
            &[Entry {
                target: &target,
                mode: Mode::Ee,
            }],
            error,
        )
    };
    let measure = |error| {
        failing(LoadError::Measure {
            target: target.name().into(),
            error,
        })
    };
    let before = target.process().cpu().map_err(measure)?;
    let start = Instant::now();
    while !worker.is_finished() {
        std::thread::sleep(Duration::from_millis(200));
        let memory = target.process().rss_bytes().map_err(measure)?;
        let cpu = target.process().cpu().map_err(measure)?.since(&before);
        screen.show(&modes, start.elapsed(), cpu, memory);
    }
    screen.clear();
    worker
        .join()
        .map_err(|_| failing(LoadError::Panicked))?
        .map_err(failing)?;
    let cpu = target.process().cpu().map_err(measure)?.since(&before);
    let memory = target.process().memory().map_err(measure)?;
    println!("{}", summary(&modes, start.elapsed()));
    println!(
        "\nthe proxy used {:.2} s of CPU in {:.0} s and holds {:.1} MiB; every answer's checksum was right",
        cpu.as_secs_f64(),
        start.elapsed().as_secs_f64(),
        mib(memory.pss_bytes),
    );
    Ok(())
}

/// What the clients of one mode have done.
#[derive(Debug)]
struct Tally {
    mode: Mode,
    connections: AtomicU64,
    received: Arc<AtomicU64>,
    sent: AtomicU64,
    pings: Mutex<Latency>,
}

impl Tally {
    fn new(mode: Mode) -> Tally {
        Tally {
            mode,
            connections: AtomicU64::new(0),
            received: Arc::default(),
            sent: AtomicU64::new(0),
            pings: Mutex::default(),
        }
    }

    fn pings(&self) -> std::sync::MutexGuard<'_, Latency> {
        self.pings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients of each mode: one downloads, one uploads, the others ping, one of them always anew.
const CLIENTS: usize = 8;
const BULK_PAUSE: Duration = Duration::from_millis(20);

fn dials(target: &Target, tally: &Tally) -> Vec<Dial> {
    let dial = |n| Dial {
        meter: Some(Arc::clone(&tally.received)),
        ..target.dial(tally.mode, n)
    };
    (0..CLIENTS).map(dial).collect()
}

fn work(tallies: &[Arc<Tally>], dials: Vec<Vec<Dial>>, deadline: Instant) -> Result<(), LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Thread)?;
    runtime.block_on(async {
        let mut jobs = JoinSet::new();
        for (tally, dials) in tallies.iter().zip(dials) {
            for (number, dial) in dials.into_iter().enumerate() {
                let tally = Arc::clone(tally);
                jobs.spawn(async move {
                    let done = client(number, &dial, &tally, deadline).await;
                    done.map_err(|error| LoadError::Client { number, error })
                });
            }
        }
        while let Some(job) = jobs.join_next().await {
            job.map_err(|_| LoadError::Panicked)??;
        }
        Ok(())
    })
}

async fn client(
    number: usize,
    dial: &Dial,
    tally: &Tally,
    deadline: Instant,
) -> Result<(), ClientError> {
    let connect = || async {
        let client = Client::connect(dial).await?;
        tally.connections.fetch_add(1, Relaxed);
        Ok::<_, ClientError>(client)
    };
    let mut client = connect().await?;
    while Instant::now() < deadline {
        match number {
            // Paced, or the clients would wait for each other and not for the proxy.
            0 => {
                client.download(1 << 20).await?;
                tokio::time::sleep(BULK_PAUSE).await;
            }
            1 => {
                client.upload(512 << 10).await?;
                tally.sent.fetch_add(512 << 10, Relaxed);
                tokio::time::sleep(BULK_PAUSE).await;
            }
            _ => {
                let start = Instant::now();
                client.ping().await?;
                tally.pings().record(start.elapsed());
                tokio::time::sleep(Duration::from_millis(3)).await;
                if number == 2 {
                    client = connect().await?;
                }
            }
        }
    }
    Ok(())
}

/// Bars on a terminal; a line every few seconds elsewhere.
struct Screen {
    bars: Option<(MultiProgress, Vec<ProgressBar>, ProgressBar)>,
    how_long: Duration,
    printed: Duration,
}

impl Screen {
    fn new(tallies: &[Arc<Tally>], how_long: Duration) -> Screen {
        let bars = std::io::stdout().is_terminal().then(|| {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(8));
            // The templates are constants, and a bar with the plain style is better than none.
            let style = |text| {
                ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
            };
            let line = |tally: &Arc<Tally>| {
                let bar = all
                    .add(ProgressBar::no_length().with_style(style("  {prefix:<13} {wide_msg}")));
                bar.set_prefix(tally.mode.name());
                bar
            };
            let lines = tallies.iter().map(line).collect();
            let time = ProgressBar::new(how_long.as_millis().try_into().unwrap_or(u64::MAX));
            let time = all.add(time.with_style(style("  {bar:40.cyan/blue} {wide_msg}")));
            (all, lines, time)
        });
        Screen {
            bars,
            how_long,
            printed: Duration::ZERO,
        }
    }

    fn show(&mut self, tallies: &[Arc<Tally>], passed: Duration, cpu: Duration, rss_bytes: u64) {
        let secs = passed.as_secs_f64().max(0.001);
        let proxy = format!(
            "proxy: {:3.0} % of a core, {:.1} MiB",
            100.0 * cpu.as_secs_f64() / secs,
            mib(rss_bytes)
        );
        if let Some((_, lines, time)) = &self.bars {
            for (line, tally) in lines.iter().zip(tallies) {
                line.set_message(describe(tally, secs));
                line.tick();
            }
            time.set_position(passed.as_millis().try_into().unwrap_or(u64::MAX));
            time.set_message(proxy);
        } else if passed >= self.printed + Duration::from_secs(3) && passed < self.how_long {
            self.printed = passed;
            println!("after {secs:.0} s, {proxy}");
            for tally in tallies {
                println!("  {:<13} {}", tally.mode.name(), describe(tally, secs));
            }
        }
    }

    fn clear(&self) {
        if let Some((all, ..)) = &self.bars {
            // A terminal that has gone away shows nothing anyhow.
            let _ = all.clear();
        }
    }
}

fn describe(tally: &Tally, secs: f64) -> String {
    let pings = tally.pings().percentiles();
    format!(
        "down {:>5} MiB/s  up {:>5} MiB/s  {:>6} pings, median {:.0} us, 99 % {:.0} us  {} connections",
        figure(mib(tally.received.load(Relaxed)) / secs),
        figure(mib(tally.sent.load(Relaxed)) / secs),
        pings.count,
        pings.p50_us,
        pings.p99_us,
        tally.connections.load(Relaxed),
    )
}

fn summary(tallies: &[Arc<Tally>], passed: Duration) -> String {
    let secs = passed.as_secs_f64();
    let mut table = Table::new(&[
        "clients",
        "connections",
        "down MiB/s",
        "up MiB/s",
        "pings",
        "p50 us",
        "p99 us",
        "p99.9 us",
    ]);
    for tally in tallies {
        let pings = tally.pings().percentiles();
        table.row([
            tally.mode.name().into(),
            tally.connections.load(Relaxed).to_string(),
            figure(mib(tally.received.load(Relaxed)) / secs),
            figure(mib(tally.sent.load(Relaxed)) / secs),
            pings.count.to_string(),
            format!("{:.0}", pings.p50_us),
            format!("{:.0}", pings.p99_us),
            format!("{:.0}", pings.p999_us),
        ]);
    }
    table.plain()
}
