//! Giving memory back that only a large piece of control work has needed.
//!
//! Reading a configuration of many users takes tens of megabytes for a moment. mimalloc gives freed
//! pages back with a delay that only further work on the same thread lets pass, and the threads of
//! the control side sleep for hours.

/// Gives the calling thread's freed pages back to the system. Takes milliseconds when there are
/// many: for threads of the control side, after large work. Harmless under another allocator.
pub fn release_freed_memory() {
    // SAFETY: takes no pointers; may be called at any time on any thread.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

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
