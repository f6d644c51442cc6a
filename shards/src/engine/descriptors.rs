//! How many descriptors the process may have, and room for them in the kernel's table.

use std::{io, os::fd::FromRawFd as _, os::fd::OwnedFd};

/// Entries the table gets room for at most: 8 MiB of the kernel's memory.
const ROOM_MAX: u64 = 1 << 20;

/// Soft and hard limit; `RLIM_INFINITY` when the kernel does not say.
pub(super) fn limit(resource: libc::__rlimit_resource_t) -> (u64, u64) {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel fills in a structure of ours.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    (limit.rlim_cur, limit.rlim_max)
}

fn set_open_files(soft: u64, hard: u64) -> bool {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the kernel reads a structure of ours.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0 }
}

/// Raises the number of open files to the hard limit: what it was and what it is.
pub(super) fn raise_open_files() -> (u64, u64) {
    let (soft, hard) = limit(libc::RLIMIT_NOFILE);
    let raised = set_open_files(hard, hard);
    (soft, if raised { hard } else { soft })
}

/// Gives the process's table of descriptors room for `wanted` of them, as far as the hard limit and
/// a bound of 1,048,576 allow, at 8 bytes of kernel memory each.
///
/// The kernel doubles the table when it is full, and in a process with threads it first waits until
/// no core looks at the old one (`synchronize_rcu`): 10 to 30 ms in which the accepting shard
/// stands still, at 512 descriptors, at 1,024, at 2,048 and so on. In a process that has no second
/// thread yet it need not wait, so this is to be called before any is started.
///
/// # Errors
/// The kernel has no memory for the table; nothing is lost but the room.
pub fn make_descriptor_room(wanted: u64) -> io::Result<()> {
    let (soft, hard) = limit(libc::RLIMIT_NOFILE);
    let room = wanted.min(hard).min(ROOM_MAX);
    let Some(last) = room
        .checked_sub(1)
        .and_then(|last| i32::try_from(last).ok())
    else {
        return Ok(());
    };
    let lifted = room > soft && set_open_files(hard, hard);
    // SAFETY: makes a descriptor of our own standard error; takes no pointers.
    let number = unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, last) };
    let error = io::Error::last_os_error();
    if lifted {
        set_open_files(soft, hard);
    }
    if number >= 0 {
        // SAFETY: the kernel has just given it to us and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
        return Ok(());
    }
    match error.raw_os_error() {
        // No standard error to copy, or a limit below what is open: the table grows as it must.
        Some(libc::EBADF | libc::EINVAL | libc::EMFILE) => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table_entries() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        line.and_then(|text| text.trim().parse().ok())
            .expect("every kernel says it")
    }

    #[test]
    fn the_table_has_room_and_the_limit_stays() {
        let (soft, hard) = limit(libc::RLIMIT_NOFILE);
        let wanted = 3_000.min(hard);
        make_descriptor_room(wanted).expect("room for a few");
        assert!(table_entries() >= wanted);
        assert_eq!(limit(libc::RLIMIT_NOFILE), (soft, hard));
        let grown = table_entries();
        make_descriptor_room(0).expect("nothing to do");
        assert_eq!(table_entries(), grown);
    }
}
