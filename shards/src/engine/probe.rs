//! Whether this host can run a shard, and which command makes it so.

use std::{fs, io};

use io_uring::{IoUring, Probe, opcode};
use thiserror::Error;

use super::descriptors::{limit, raise_open_files};

/// What was found out about the host; shown at start.
#[derive(Clone, Debug, PartialEq)]
pub struct HostReport {
    /// Kernel release as `uname` says it.
    pub kernel: String,
    /// Operations the engine uses, all present.
    pub operations: usize,
    /// `RLIMIT_MEMLOCK`, bytes; `None` is no limit.
    pub memlock_bytes: Option<u64>,
    /// `RLIMIT_NOFILE` after it was raised to the hard limit.
    pub open_files: u64,
    /// `RLIMIT_NOFILE` as it was found.
    pub open_files_before: u64,
    /// Cores this process may run on: its CPU mask.
    pub cores: Vec<usize>,
    /// Cores' worth of CPU time the control group grants; `None` is no limit.
    pub cpu_quota: Option<f64>,
    /// Bytes of memory of the host, or of the control group where that is less; `None` where the
    /// kernel does not say.
    pub memory_bytes: Option<u64>,
}

/// Why this host cannot run a shard. Each text says what to do.
#[derive(Debug, Error)]
pub enum HostError {
    /// `io_uring_setup` is not allowed at all.
    #[error(
        "io_uring is switched off for this process ({reason}): run `sysctl kernel.io_uring_disabled=0`, \
         and in a container allow the io_uring system calls in its seccomp profile"
    )]
    Disabled {
        /// The kernel's words.
        reason: String,
    },
    /// The kernel lacks something the engine needs.
    #[error("Linux {kernel} lacks {missing}; pinnace needs Linux 6.1 or newer: upgrade the kernel")]
    TooOld {
        /// Release found.
        kernel: String,
        /// First thing missing.
        missing: &'static str,
    },
    /// Not enough memory may be locked for the rings.
    #[error(
        "{bytes} bytes of locked memory are not enough for {shards} rings: run `ulimit -l unlimited`, \
         or set LimitMEMLOCK=infinity in the service file"
    )]
    LockedMemory {
        /// `RLIMIT_MEMLOCK` found.
        bytes: u64,
        /// Shards wanted.
        shards: usize,
    },
}

/// Checks kernel, operations and limits; raises the number of open files to the hard limit.
///
/// # Errors
/// [`HostError`], in the order of its variants.
pub fn check_host(shards: usize) -> Result<HostReport, HostError> {
    let kernel = kernel_release();
    let operations = check_ring(&kernel)?;
    let memlock = limit(libc::RLIMIT_MEMLOCK).0;
    // Rings are charged to the user's locked memory on older kernels: two small ones per shard.
    let wanted = shards as u64 * RING_BYTES_LOCKED;
    if memlock != libc::RLIM_INFINITY && memlock < wanted && IoUring::new(4096).is_err() {
        return Err(HostError::LockedMemory {
            bytes: memlock,
            shards,
        });
    }
    let (before, after) = raise_open_files();
    Ok(HostReport {
        kernel,
        operations,
        memlock_bytes: (memlock != libc::RLIM_INFINITY).then_some(memlock),
        open_files: after,
        open_files_before: before,
        cores: allowed_cores(),
        cpu_quota: cgroup_quota(),
        memory_bytes: memory(),
    })
}

/// About what two rings of one shard lock.
const RING_BYTES_LOCKED: u64 = 512 * 1024;

fn check_ring(kernel: &str) -> Result<usize, HostError> {
    let too_old = |missing| HostError::TooOld {
        kernel: kernel.to_owned(),
        missing,
    };
    let ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) => HostError::Disabled {
                reason: error.to_string(),
            },
            Some(libc::ENOMEM) => HostError::LockedMemory {
                bytes: limit(libc::RLIMIT_MEMLOCK).0,
                shards: 1,
            },
            _ => too_old("IORING_SETUP_SINGLE_ISSUER and IORING_SETUP_DEFER_TASKRUN (6.1)"),
        })?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|_| too_old("the io_uring probe"))?;
    for (code, name) in OPERATIONS {
        if !probe.is_supported(*code) {
            return Err(too_old(name));
        }
    }
    Ok(OPERATIONS.len())
}

const OPERATIONS: &[(u8, &str)] = &[
    (opcode::AcceptMulti::CODE, "IORING_OP_ACCEPT"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT"),
    (opcode::RecvMulti::CODE, "IORING_OP_RECV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
    (opcode::AsyncCancel2::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::Timeout::CODE, "IORING_OP_TIMEOUT"),
    (opcode::Read::CODE, "IORING_OP_READ"),
    (opcode::Close::CODE, "IORING_OP_CLOSE"),
    (opcode::Nop::CODE, "IORING_OP_NOP"),
];

fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "?".into(), |s| s.trim().into())
}

/// The process's CPU mask, ascending; never empty.
#[must_use]
pub fn allowed_cores() -> Vec<usize> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect();
    cores.sort_unstable();
    if cores.is_empty() { vec![0] } else { cores }
}

/// CPU quota of the nearest control group that has one (v2 `cpu.max`, v1 `cpu.cfs_quota_us`).
fn cgroup_quota() -> Option<f64> {
    least_of_groups("cpu.max", parse_cpu_max).or_else(cgroup_v1_quota)
}

/// Memory of the host, or of the control group where that is less.
fn memory() -> Option<u64> {
    let host = fs::read_to_string("/proc/meminfo").ok();
    let host = host.and_then(|text| parse_memory_total(&text));
    // "max" is no number and no limit; the first version says so by a number beyond any host's.
    let number = |text: &str| text.trim().parse().ok();
    let group = least_of_groups("memory.max", number).or_else(|| {
        let text = fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes").ok()?;
        number(&text)
    });
    host.into_iter().chain(group).min()
}

fn parse_memory_total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least of what a file says in our control group and in those it is part of.
fn least_of_groups<T: PartialOrd>(name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    let mut least: Option<T> = None;
    let mut dir = std::path::PathBuf::from("/sys/fs/cgroup").join(path.trim_start_matches('/'));
    loop {
        let text = fs::read_to_string(dir.join(name)).ok();
        if let Some(found) = text.and_then(|text| parse(&text)) {
            least = match least {
                Some(least) if least <= found => Some(least),
                _ => Some(found),
            };
        }
        if dir.as_os_str() == "/sys/fs/cgroup" || !dir.pop() {
            break;
        }
    }
    least
}

fn cgroup_v1_quota() -> Option<f64> {
    let read = |name: &str| -> Option<f64> {
        fs::read_to_string(format!("/sys/fs/cgroup/cpu/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let (quota, period) = (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    let quota: f64 = words.next()?.parse().ok()?;
    let period: f64 = words.next()?.parse().ok()?;
    (period > 0.0).then(|| quota / period)
}

/// Says what an error of a shard's start means and what to do about it.
pub(crate) fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => format!(
            "{error}: not enough locked memory for the ring; run `ulimit -l unlimited` or set \
             LimitMEMLOCK=infinity in the service file"
        ),
        Some(libc::EMFILE) => {
            format!(
                "{error}: raise the open-file limit, `ulimit -n 1048576` or LimitNOFILE=1048576"
            )
        }
        Some(libc::EPERM | libc::ENOSYS) => {
            format!("{error}: io_uring is not allowed; run `sysctl kernel.io_uring_disabled=0`")
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quota_of_control_group() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max(""), None);
    }

    #[test]
    fn reads_memory_of_the_host() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\n";
        assert_eq!(parse_memory_total(text), Some(16 << 20));
        assert_eq!(parse_memory_total("MemFree: 1 kB\n"), None);
        assert!(memory().is_some_and(|bytes| bytes > 64 << 20));
    }

    #[test]
    fn this_host_passes() {
        let report = check_host(1).expect("tests run where the proxy can");
        assert!(report.open_files >= report.open_files_before);
        assert!(!report.cores.is_empty());
    }
}
