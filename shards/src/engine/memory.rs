//! What the process asks of the system's memory: small pages, and giving back what only a large
//! piece of control work has needed.
//!
//! Reading a configuration of many users takes tens of megabytes for a moment, and so does a crowd
//! of peers that stand still. mimalloc gives freed pages back with a delay that only further work
//! lets pass, and all of them at once, on the thread that happens to do that work: 100 MiB take a
//! shard 10 ms. So one thread of the control side does it for the others, every few seconds.

/// Keeps the whole process from transparent huge pages, which the allocator would ask for: the
/// first touch of one clears 2 MiB while every client of the shard waits (4 ms on a virtual machine
/// whose memory the host provides as it is touched), and memory is held in steps of 2 MiB.
/// Throughput is the same without them. A kernel that does not know of this has none.
///
/// To be called before the process has allocated much. Processes it starts keep the setting.
pub fn avoid_huge_pages() {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: takes no pointers, and changes nothing but how later page faults are served.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, on, unused, unused, unused) };
}

/// Gives the calling thread's freed pages back to the system. Takes milliseconds when there are
/// many: for threads of the control side, after large work. Harmless under another allocator.
pub fn release_freed_memory() {
    // SAFETY: takes no pointers; may be called at any time on any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// From now on pages that were freed go back to the system only when some thread calls
/// [`release_freed_memory`], which has to be done from time to time.
pub fn release_on_request() {
    const FAR_MS: libc::c_long = 60 * 60 * 1000;
    // SAFETY: takes no pointers and knows the option.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, FAR_MS) };
}

/// Hands the calling thread's free pages over to whoever calls [`release_freed_memory`] next. 1 us
/// with some hundred pages; 0.3 ms once if half of 200,000 small blocks were freed since.
pub(super) fn let_go_of_free_pages() {
    // SAFETY: takes no pointers; may be called at any time on any thread.
    unsafe { libmimalloc_sys::mi_collect(false) }
}

/// Bytes of a page of memory.
pub(super) fn page_bytes() -> usize {
    // SAFETY: takes no pointers.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Does large work of which little is kept, giving every page back to the system the moment it is
/// free: afterwards small things in use lie on few pages. The work takes a few percent longer.
///
/// Only before the process has started its threads.
pub fn with_memory_released<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: takes no pointers and knows the option. Not to be called by two threads at once,
    // and there is only one.
    let before = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) };
    let done = work();
    release_freed_memory();
    // SAFETY: as above.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, before) };
    done
}

/// `mi_option_purge_delay`, milliseconds; the bindings do not name it, the library's header does.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_off_once_avoided() {
        avoid_huge_pages();
        let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
        let line = status.lines().find(|line| line.starts_with("THP_enabled"));
        // Older kernels do not say.
        assert!(line.is_none_or(|line| line.ends_with('0')), "{line:?}");
    }

    #[test]
    fn what_is_in_use_stays() {
        let kept: Vec<Vec<u8>> = (0..1_000_u32).map(|n| vec![n as u8; 4_096]).collect();
        drop(vec![1_u8; 32 << 20]);
        release_freed_memory();
        for (n, block) in kept.iter().enumerate() {
            assert!(block.iter().all(|byte| *byte == n as u8));
        }
    }
}
