//! What a process has used, read from `/proc`: CPU time of all its threads and children, and
//! memory. The same for every target, so that figures compare.
//!
//! CPU comes from `schedstat` of each thread (nanoseconds); `stat` counts in ticks of 10 ms, yet it
//! knows threads that have ended, so a large difference between the two means that `stat` is right.

use std::{collections::BTreeMap, fs, io, time::Duration};

use serde::Serialize;

/// CPU of a process tree at one moment.
#[derive(Clone, Debug, Default)]
pub struct CpuSample {
    thread_nanos: BTreeMap<u32, u64>,
    tick_nanos: u64,
}

/// Memory of a process tree, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident set.
    pub rss_bytes: u64,
    /// Share of the resident set, pages shared by n processes counted 1/n.
    pub pss_bytes: u64,
    /// Pages that only this process has.
    pub private_bytes: u64,
}

/// A process and its children, found again at every sample.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pid: u32,
}

impl Process {
    /// The process `pid`; it need not be ours.
    pub fn new(pid: u32) -> Process {
        Process { pid }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU used until now.
    ///
    /// # Errors
    /// The process has ended or may not be read.
    pub fn cpu(&self) -> io::Result<CpuSample> {
        let mut sample = CpuSample::default();
        for pid in self.tree()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            sample.tick_nanos += ticks(&stat).ok_or_else(|| odd(pid, "stat"))? * TICK_NANOS;
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                let Some(tid) = entry?.file_name().to_str().and_then(|t| t.parse().ok()) else {
                    continue;
                };
                // A thread may end between the listing and the reading.
                let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat"))
                else {
                    continue;
                };
                let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
                sample
                    .thread_nanos
                    .insert(tid, nanos.ok_or_else(|| odd(pid, "schedstat"))?);
            }
        }
        Ok(sample)
    }

    /// Name and CPU nanoseconds of each of its own threads that is alive.
    ///
    /// # Errors
    /// The process has ended or may not be read.
    pub fn threads(&self) -> io::Result<Vec<(String, u64)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let path = entry?.path();
            // A thread may end between the listing and the reading.
            let (Ok(name), Ok(text)) = (
                fs::read_to_string(path.join("comm")),
                fs::read_to_string(path.join("schedstat")),
            ) else {
                continue;
            };
            let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok());
            let nanos = nanos.ok_or_else(|| odd(self.pid, "schedstat"))?;
            all.push((name.trim().to_owned(), nanos));
        }
        Ok(all)
    }

    /// Memory now.
    ///
    /// # Errors
    /// The process has ended or may not be read.
    pub fn memory(&self) -> io::Result<Memory> {
        let mut all = Memory::default();
        for pid in self.tree()? {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let one = rollup(&text);
            all.rss_bytes += one.rss_bytes;
            all.pss_bytes += one.pss_bytes;
            all.private_bytes += one.private_bytes;
        }
        Ok(all)
    }

    /// Resident bytes only: a small file, fit for sampling every few milliseconds.
    ///
    /// # Errors
    /// The process has ended or may not be read.
    pub fn rss_bytes(&self) -> io::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        Ok(kib(&text, "VmRSS:") * 1024)
    }

    /// The process and all below it.
    fn tree(&self) -> io::Result<Vec<u32>> {
        let mut pids = vec![self.pid];
        let mut next = 0;
        while let Some(&pid) = pids.get(next) {
            next += 1;
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                // Missing without CONFIG_PROC_CHILDREN, and when the thread ends just now.
                let children =
                    fs::read_to_string(entry?.path().join("children")).unwrap_or_default();
                pids.extend(
                    children
                        .split_whitespace()
                        .filter_map(|c| c.parse::<u32>().ok()),
                );
            }
        }
        Ok(pids)
    }
}

impl CpuSample {
    /// CPU used from `earlier` to this sample.
    pub fn since(&self, earlier: &CpuSample) -> Duration {
        let threads: u64 = self.by_thread(earlier).iter().sum();
        let ticks = self.tick_nanos.saturating_sub(earlier.tick_nanos);
        let slack = (threads / 30).max(4 * TICK_NANOS);
        Duration::from_nanos(if ticks > threads + slack {
            ticks
        } else {
            threads
        })
    }

    /// Part of the CPU that each of the `n` busiest threads used, largest first.
    pub fn shares(&self, earlier: &CpuSample, n: usize) -> Vec<f64> {
        let mut nanos = self.by_thread(earlier);
        nanos.sort_unstable_by(|a, b| b.cmp(a));
        nanos.truncate(n);
        let sum = nanos.iter().sum::<u64>().max(1) as f64;
        nanos.into_iter().map(|t| t as f64 / sum).collect()
    }

    fn by_thread(&self, earlier: &CpuSample) -> Vec<u64> {
        let before = |tid| earlier.thread_nanos.get(tid).copied().unwrap_or(0);
        self.thread_nanos
            .iter()
            .map(|(tid, now)| now.saturating_sub(before(tid)))
            .collect()
    }
}

/// Clock ticks are 10 ms on every Linux we run on (`USER_HZ`).
const TICK_NANOS: u64 = 10_000_000;

fn odd(pid: u32, file: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/{pid}/{file} has an unknown form"),
    )
}

/// User and system time, children waited for included, from the text of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<u64> {
    // The second field is the name in brackets and may itself contain blanks and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let time = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok());
    Some(time(11)? + time(12)?)
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn rollup(text: &str) -> Memory {
    Memory {
        rss_bytes: kib(text, "Rss:") * 1024,
        pss_bytes: kib(text, "Pss:") * 1024,
        private_bytes: (kib(text, "Private_Clean:") + kib(text, "Private_Dirty:")) * 1024,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn sees_our_own_work() {
        let me = Process::new(std::process::id());
        let before = me.cpu().unwrap();
        let start = Instant::now();
        let mut x = 1_u64;
        while start.elapsed() < Duration::from_millis(60) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let used = me.cpu().unwrap().since(&before);
        assert!(used > Duration::from_millis(10), "{used:?}");
        assert!(me.memory().unwrap().rss_bytes > 100_000);
        assert!(me.rss_bytes().unwrap() > 100_000);
        assert!(me.threads().unwrap().iter().any(|(_, nanos)| *nanos > 0));
    }

    #[test]
    fn reads_ticks_of_a_name_with_brackets() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0 20 0 1 0";
        assert_eq!(ticks(stat), Some(42));
    }

    #[test]
    fn ended_threads_are_found_in_the_ticks() {
        let earlier = CpuSample {
            thread_nanos: [(1, 0), (2, 0)].into(),
            tick_nanos: 0,
        };
        let later = CpuSample {
            thread_nanos: [(1, 1_000_000)].into(),
            tick_nanos: 90 * TICK_NANOS,
        };
        assert_eq!(later.since(&earlier), Duration::from_millis(900));
        let same = CpuSample {
            thread_nanos: [(1, 1_000_000), (2, 3_000_000)].into(),
            tick_nanos: 0,
        };
        assert_eq!(same.since(&earlier), Duration::from_millis(4));
        assert_eq!(same.shares(&earlier, 2), vec![0.75, 0.25]);
    }

    #[test]
    fn adds_up_private_pages() {
        let text = "Rss: 100 kB\nPss: 50 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty: 8 kB\n";
        let m = rollup(text);
        assert_eq!(
            (m.rss_bytes, m.pss_bytes, m.private_bytes),
            (102_400, 51_200, 12_288)
        );
    }
}
