//! Threads that go before all others of their core.
//!
//! Clients that are measured beside a crowd must not wait for the crowd's own threads: with a core
//! of their own they would not.

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Puts the calling thread into the real-time class (`SCHED_FIFO`), at its low end. False where
/// that is not allowed: it takes `CAP_SYS_NICE`.
pub(crate) fn go_first() -> bool {
    let lowest = ThreadPriorityValue::try_from(PRIORITY).map(ThreadPriority::Crossplatform);
    let class = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    lowest.is_ok_and(|lowest| {
        set_thread_priority_and_policy(thread_native_id(), lowest, class).is_ok()
    })
}

/// Of 0 to 99; before everything that is not real-time.
const PRIORITY: u8 = 1;
