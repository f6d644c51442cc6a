//! Gives memory that all threads have freed back to the system, in place of those that freed it.
//!
//! A shard would give it back in the middle of a turn, all of it at once, while its clients wait;
//! and one that has nothing more to do would keep it. Called by `serve`, once.

use std::{io, thread, time::Duration};

use shards::host::{release_freed_memory, release_on_request};

/// Starts the thread that gives freed memory back from now on.
///
/// # Errors
/// There are no more threads to be had.
pub(crate) fn keep_small() -> io::Result<()> {
    let body = || {
        // Less urgent than anything else on this core. Refused, it is no more urgent than that.
        let _ = rustix::process::setpriority_process(None, LEAST_URGENT);
        loop {
            release_freed_memory();
            thread::sleep(PAUSE);
        }
    };
    let spawned = thread::Builder::new().name("memory".to_owned()).spawn(body);
    spawned.map(|_| release_on_request())
}

const LEAST_URGENT: i32 = 19;
/// What is freed and taken again within it mostly stays.
const PAUSE: Duration = Duration::from_secs(2);
