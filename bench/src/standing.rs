//! What a proxy costs while nothing happens: memory of idle connections, CPU without clients, and
//! the time it takes to start.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    client::{Client, ClientError, Mode},
    load::LoadError,
    measure::Memory,
    target::{Surroundings, Target, TargetError, TargetSpec},
};

/// Memory at two numbers of idle connections, and what lies between them.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Idle {
    /// Connections at the first sample.
    pub few: usize,
    /// Connections at the second sample.
    pub many: usize,
    /// Memory before any connection.
    pub none_memory: Memory,
    /// Memory at the first sample.
    pub few_memory: Memory,
    /// Memory at the second sample.
    pub many_memory: Memory,
}

impl Idle {
    /// Bytes per connection of one kind of memory, between the two samples.
    pub fn slope(&self, of: impl Fn(&Memory) -> u64) -> f64 {
        let grown = of(&self.many_memory) as f64 - of(&self.few_memory) as f64;
        grown / (self.many - self.few).max(1) as f64
    }
}

/// Connects `few`, then `many` clients that say one thing and then nothing.
///
/// # Errors
/// [`LoadError`].
pub fn idle(target: &Target, mode: Mode, few: usize, many: usize) -> Result<Idle, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LoadError::Thread)?;
    let memory = || {
        // Whatever is freed or folded away behind the last answer.
        std::thread::sleep(SETTLE);
        let measured = |error| LoadError::Measure {
            target: target.name().into(),
            error,
        };
        target.process().memory().map_err(measured)
    };
    let none_memory = memory()?;
    let mut clients = Vec::new();
    runtime.block_on(connect(target, mode, 0..few, &mut clients))?;
    let few_memory = memory()?;
    runtime.block_on(connect(target, mode, few..many, &mut clients))?;
    let many_memory = memory()?;
    // Idle, but alive: the first and the last still get an answer.
    let checked = runtime.block_on(async {
        let last = clients.len().saturating_sub(1);
        for number in [0, last] {
            if let Some(client) = clients.get_mut(number) {
                client
                    .ping()
                    .await
                    .map_err(|error| LoadError::Client { number, error })?;
            }
        }
        Ok(())
    });
    // Sockets leave the runtime before it ends.
    drop(clients);
    checked.map(|()| Idle {
        few,
        many,
        none_memory,
        few_memory,
        many_memory,
    })
}

/// As many idle connections as `want`, or what the limit of open files leaves: a client and the
/// DC's end of it are both ours.
pub fn idle_connections(want: usize, open_files: u64) -> usize {
    want.min(usize::try_from(open_files.saturating_sub(400) / 2).unwrap_or(want))
}

async fn connect(
    target: &Target,
    mode: Mode,
    numbers: std::ops::Range<usize>,
    clients: &mut Vec<Client>,
) -> Result<(), LoadError> {
    let numbers: Vec<usize> = numbers.collect();
    for batch in numbers.chunks(64) {
        let mut connecting: JoinSet<Result<Client, (usize, ClientError)>> = JoinSet::new();
        for &number in batch {
            let dial = target.dial(mode, number);
            connecting.spawn(async move {
                let mut client = Client::connect(&dial).await.map_err(|e| (number, e))?;
                client.ping().await.map_err(|e| (number, e))?;
                Ok(client)
            });
        }
        while let Some(client) = connecting.join_next().await {
            let client = client.map_err(|_| LoadError::Panicked)?;
            clients.push(client.map_err(|(number, error)| LoadError::Client { number, error })?);
        }
    }
    Ok(())
}

/// CPU of a target without clients, parts of a core.
///
/// # Errors
/// [`LoadError::Measure`].
pub fn quiet(target: &Target, how_long: Duration) -> Result<f64, LoadError> {
    let cpu = || {
        let measured = |error| LoadError::Measure {
            target: target.name().into(),
            error,
        };
        target.process().cpu().map_err(measured)
    };
    std::thread::sleep(SETTLE);
    let (before, start) = (cpu()?, Instant::now());
    std::thread::sleep(how_long);
    Ok(cpu()?.since(&before).as_secs_f64() / start.elapsed().as_secs_f64())
}

/// Milliseconds from start to listening, of several starts.
///
/// # Errors
/// [`TargetError`].
pub fn starts(
    spec: &TargetSpec,
    around: &Surroundings,
    times: usize,
) -> Result<Vec<f64>, TargetError> {
    (0..times)
        .map(|_| Ok(Target::start(spec, around)?.start_time().as_secs_f64() * 1e3))
        .collect()
}

const SETTLE: Duration = Duration::from_millis(700);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slope_is_per_connection() {
        let at = |pss_bytes| Memory {
            pss_bytes,
            ..Memory::default()
        };
        let idle = Idle {
            few: 100,
            many: 300,
            none_memory: at(0),
            few_memory: at(5_000),
            many_memory: at(25_000),
        };
        assert_eq!(idle.slope(|m| m.pss_bytes), 100.0);
        assert_eq!(idle_connections(8000, 20_000), 8000);
        assert_eq!(idle_connections(8000, 1024), 312);
    }
}
