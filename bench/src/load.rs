//! Many clients at once: connect them all, take the target's CPU, let them work, take it again.
//!
//! Each load is a fixed amount of work, so that CPU per unit compares between targets whatever
//! their speed. What the loads are called and how they are judged is in
//! [`scenario`](crate::scenario).

mod work;

use std::{
    sync::{Arc, Barrier, atomic::AtomicU64},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    client::{ClientError, Mode},
    fake_dc::FakeDc,
    latency::{Latency, Percentiles},
    target::Target,
};

/// A fixed amount of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Load {
    /// Downloads; each connection asks once for its share.
    Down {
        /// Clients.
        connections: usize,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// Downloads in parts of one size, several of them under way on each connection: what real
    /// clients do, who must not be sent more than they asked for.
    Parts {
        /// Clients.
        connections: usize,
        /// Bytes of all of them.
        bytes: u64,
        /// Bytes of one part.
        part_bytes: u64,
        /// Parts not yet complete.
        depth: usize,
    },
    /// Uploads in requests of one size, several of them under way on each connection.
    Up {
        /// Clients.
        connections: usize,
        /// Bytes of all of them.
        bytes: u64,
        /// Bytes of one request.
        request_bytes: usize,
        /// Requests not yet answered.
        depth: usize,
    },
    /// Round trips of 64-byte messages, one at a time on each connection.
    Ping {
        /// Clients.
        connections: usize,
        /// Round trips of all of them.
        round_trips: u64,
    },
    /// Connect, one round trip, close.
    Churn {
        /// How many at the same time.
        workers: usize,
        /// Connections in all.
        connections: u64,
    },
}

/// What CPU and throughput are counted per.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// 2^30 bytes of payload.
    Gib,
    /// 10,000 round trips.
    TenThousandRoundTrips,
    /// 1,000 connections.
    ThousandConnections,
}

impl Unit {
    /// For table headings.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Gib => "GiB",
            Unit::TenThousandRoundTrips => "10k round trips",
            Unit::ThousandConnections => "1k connections",
        }
    }
}

/// One measured round.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// CPU seconds of the target's processes, user and system.
    pub cpu_secs: f64,
    /// Wall-clock seconds.
    pub secs: f64,
    /// Units of work done.
    pub units: f64,
    /// CPU seconds per unit.
    pub cpu_per_unit: f64,
    /// Units per second.
    pub units_per_sec: f64,
    /// Of requests, round trips or whole connections; of downloads, whole shares.
    pub latency: Percentiles,
    /// Part of the CPU that each of the busiest threads used, as many as were asked for.
    pub thread_shares: Vec<f64>,
}

/// Why a load did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A client failed.
    #[error("client {number}: {error}")]
    Client {
        /// Which one.
        number: usize,
        /// What happened.
        error: ClientError,
    },
    /// The target's `/proc` entries cannot be read; it has probably ended.
    #[error("measuring {target}: {error}")]
    Measure {
        /// Target's name.
        target: String,
        /// What happened.
        error: std::io::Error,
    },
    /// It did not end.
    #[error("not done after {limit:?}: the target hangs")]
    Hangs {
        /// How long was waited.
        limit: Duration,
    },
    /// No thread or runtime.
    #[error("starting load threads: {0}")]
    Thread(std::io::Error),
    /// A load thread has panicked.
    #[error("a load thread has panicked")]
    Panicked,
}

impl Load {
    /// What is counted.
    pub fn unit(&self) -> Unit {
        match self {
            Load::Down { .. } | Load::Parts { .. } | Load::Up { .. } => Unit::Gib,
            Load::Ping { .. } => Unit::TenThousandRoundTrips,
            Load::Churn { .. } => Unit::ThousandConnections,
        }
    }

    /// The same load with `1/n` of the work and as many clients.
    pub fn divided(self, n: u64) -> Load {
        let n = n.max(1);
        match self {
            Load::Down { connections, bytes } => Load::Down {
                connections,
                bytes: (bytes / n).max(4 << 20),
            },
            Load::Parts {
                connections,
                bytes,
                part_bytes,
                depth,
            } => {
                let least = (connections * depth) as u64 * part_bytes;
                Load::Parts {
                    connections,
                    bytes: (bytes / n).max(least),
                    part_bytes,
                    depth,
                }
            }
            Load::Up {
                connections,
                bytes,
                request_bytes,
                depth,
            } => {
                let least = (connections * depth * request_bytes) as u64;
                Load::Up {
                    connections,
                    bytes: (bytes / n).max(least),
                    request_bytes,
                    depth,
                }
            }
            Load::Ping {
                connections,
                round_trips,
            } => Load::Ping {
                connections,
                round_trips: (round_trips / n).max(connections as u64),
            },
            Load::Churn {
                workers,
                connections,
            } => Load::Churn {
                workers,
                connections: (connections / n).max(workers as u64),
            },
        }
    }

    /// Clients at the same time.
    pub fn clients(&self) -> usize {
        match *self {
            Load::Down { connections, .. }
            | Load::Parts { connections, .. }
            | Load::Up { connections, .. }
            | Load::Ping { connections, .. } => connections,
            Load::Churn { workers, .. } => workers,
        }
    }

    fn units(&self, done: u64) -> f64 {
        done as f64
            / match self.unit() {
                Unit::Gib => (1_u64 << 30) as f64,
                Unit::TenThousandRoundTrips => 1e4,
                Unit::ThousandConnections => 1e3,
            }
    }
}

/// Where and how a load runs.
#[derive(Clone, Debug)]
pub struct Runner<'a> {
    /// What is measured.
    pub target: &'a Target,
    /// The DC behind it, if there are no middle proxies between.
    pub dc: &'a FakeDc,
    /// How clients speak; a relay is always spoken to directly.
    pub mode: Mode,
    /// Generation of the ClientHello in mode `ee`.
    pub classic_hello: bool,
    /// Every connection of a churn is another user's.
    pub all_users: bool,
    /// Threads of clients.
    pub threads: usize,
    /// Busiest threads of the target whose shares are reported.
    pub shares: usize,
    /// Counts bytes received by clients while the load runs.
    pub meter: Option<Arc<AtomicU64>>,
}

impl Runner<'_> {
    /// Runs `load` to its end.
    ///
    /// # Errors
    /// [`LoadError`]: the first client that fails ends the round.
    pub fn run(&self, load: Load) -> Result<Outcome, LoadError> {
        let threads = self.threads.clamp(1, load.clients());
        // Load threads and this one meet twice: when all are connected, and to begin.
        let barrier = Barrier::new(threads + 1);
        let begin = || barrier.wait();
        let open_before = self.open();
        std::thread::scope(|scope| {
            let mut handles = Vec::new();
            for thread in 0..threads {
                let share = work::Share {
                    runner: self,
                    load,
                    thread,
                    threads,
                    barrier: &barrier,
                };
                let handle = std::thread::Builder::new()
                    .name(format!("load-{thread}"))
                    .spawn_scoped(scope, move || share.run());
                handles.push(handle.map_err(LoadError::Thread)?);
            }
            begin();
            let before = self.cpu()?;
            let start = Instant::now();
            begin();
            let mut done = 0;
            let mut latency = Latency::new();
            let mut failed = None;
            for handle in handles {
                match handle.join().map_err(|_| LoadError::Panicked)? {
                    Ok((units, part)) => {
                        done += units;
                        latency.add(&part);
                    }
                    Err(e) => failed = Some(e),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            let took = start.elapsed();
            if matches!(load, Load::Churn { .. }) {
                // Closing is part of the work, and goes on behind the last client's back.
                self.wait_for_closes(open_before);
            }
            let after = self.cpu()?;
            let (units, secs) = (load.units(done), took.as_secs_f64());
            let cpu_secs = after.since(&before).as_secs_f64();
            Ok(Outcome {
                cpu_secs,
                secs,
                units,
                cpu_per_unit: cpu_secs / units,
                units_per_sec: units / secs,
                latency: latency.percentiles(),
                thread_shares: after.shares(&before, self.shares),
            })
        })
    }

    /// How clients really speak: to a relay directly.
    pub fn spoken(&self) -> Mode {
        if self.target.is_direct() {
            Mode::Direct
        } else {
            self.mode
        }
    }

    fn cpu(&self) -> Result<crate::measure::CpuSample, LoadError> {
        let target = || self.target.name().to_owned();
        self.target
            .process()
            .cpu()
            .map_err(|error| LoadError::Measure {
                target: target(),
                error,
            })
    }

    fn wait_for_closes(&self, open_before: u64) {
        let limit = Instant::now() + Duration::from_secs(1);
        while self.open() > open_before && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Clients that the far end knows of.
    fn open(&self) -> u64 {
        match self.target.me() {
            Some(me) => me.total().clients_open,
            None => self.dc.stats().open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dividing_keeps_every_client_busy() {
        let up = Load::Up {
            connections: 4,
            bytes: 1 << 30,
            request_bytes: 1 << 20,
            depth: 4,
        };
        assert_eq!(
            up.divided(1_000_000),
            Load::Up {
                connections: 4,
                bytes: 16 << 20,
                request_bytes: 1 << 20,
                depth: 4
            }
        );
        let ping = Load::Ping {
            connections: 64,
            round_trips: 6400,
        };
        assert_eq!(
            ping.divided(1000),
            Load::Ping {
                connections: 64,
                round_trips: 64
            }
        );
        assert_eq!(ping.units(10_000), 1.0);
        assert_eq!(up.units(1 << 29), 0.5);
    }
}
