//! The machine a measurement was made on, and who runs on which of its cores.

use std::{fs, io, process::Command};

use serde::Serialize;

/// Facts that figures depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Model name of the first CPU.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Runnable tasks at the start, beside ourselves: a busy machine spoils figures.
    pub load_average: String,
}

impl Machine {
    /// Reads them.
    pub fn read() -> Machine {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text
                .lines()
                .find(|l| l.starts_with(key))
                .unwrap_or_default();
            line.split_once(':')
                .map_or("", |(_, v)| v)
                .trim()
                .to_owned()
        };
        let memory = after(&text("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        Machine {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: after(&text("/proc/cpuinfo"), "model name"),
            cores: allowed_cores().len(),
            memory_mib: memory_kib / 1024,
            load_average: text("/proc/loadavg")
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

/// Who runs where. With a core of its own the target is not disturbed by the load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cores {
    /// The target's.
    pub target: Vec<usize>,
    /// Ours: clients and fake DC.
    pub load: Vec<usize>,
}

impl Cores {
    /// The first `n` cores of `all` for the target and the others for us, who take all where no
    /// others are left.
    pub fn split(all: &[usize], n: usize) -> Cores {
        let (target, others) = all.split_at(n.clamp(1, all.len()));
        let load = if others.is_empty() { all } else { others };
        Cores {
            target: target.to_vec(),
            load: load.to_vec(),
        }
    }

    /// Threads of clients that the load cores carry; the DC has one more.
    pub fn load_threads(&self) -> usize {
        (self.load.len() / 2).clamp(1, 4)
    }

    /// Puts all threads of this process, and those they start, on the load cores.
    ///
    /// # Errors
    /// `taskset` fails; without `taskset` nothing is done.
    pub fn pin_self(&self) -> io::Result<()> {
        if !taskset_exists() {
            return Ok(());
        }
        let done = Command::new("taskset")
            .args(["-acp", &list(&self.load), &std::process::id().to_string()])
            .output()?;
        if done.status.success() {
            Ok(())
        } else {
            Err(io::Error::other(
                String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            ))
        }
    }

    /// `program`, to be started on the target's cores.
    pub fn command(&self, program: &str) -> Command {
        if !taskset_exists() {
            return Command::new(program);
        }
        // It replaces itself by the program, so the process id is the program's.
        let mut command = Command::new("taskset");
        command.args(["-c", &list(&self.target), program]);
        command
    }
}

/// Raises the limit of open files to the hard limit; returns what it is then.
pub fn raise_open_files() -> u64 {
    let limits = || {
        let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("Max open files"))
            .unwrap_or_default()
            .to_owned();
        let mut numbers = line
            .split_whitespace()
            .map(|n| n.parse().unwrap_or(u64::MAX));
        (
            numbers.next().unwrap_or(1024),
            numbers.next().unwrap_or(1024),
        )
    };
    let (soft, hard) = limits();
    if soft < hard {
        let me = std::process::id().to_string();
        // Without the tool the soft limit stays, and loads that need more say so.
        let _ = Command::new("prlimit")
            .args(["--pid", &me, &format!("--nofile={hard}:{hard}")])
            .output();
    }
    limits().0
}

/// Cores that this process may use: those it was started on, as long as it was not pinned.
pub fn allowed_cores() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or("0");
    parse_list(line.trim())
}

fn parse_list(text: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse()) {
            cores.extend(first..=last);
        }
    }
    cores
}

fn list(cores: &[usize]) -> String {
    cores
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn taskset_exists() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join("taskset").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_of_cores() {
        assert_eq!(parse_list("0-2,7"), vec![0, 1, 2, 7]);
        assert_eq!(parse_list("5"), vec![5]);
        assert_eq!(list(&[0, 3]), "0,3");
    }

    #[test]
    fn knows_this_machine() {
        let m = Machine::read();
        assert!(
            !m.kernel.is_empty() && m.cores > 0 && m.memory_mib > 0,
            "{m:?}"
        );
    }

    #[test]
    fn cores_are_shared_only_where_there_are_too_few() {
        let split = |n| Cores::split(&[0, 1, 2], n);
        assert_eq!((split(1).target, split(1).load), (vec![0], vec![1, 2]));
        assert_eq!(
            (split(3).target, split(3).load),
            (vec![0, 1, 2], vec![0, 1, 2])
        );
        assert_eq!(split(9).target, vec![0, 1, 2]);
    }
}
