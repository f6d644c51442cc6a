//! The watchdog of a test: it fails loudly instead of standing still.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::super::Doorbell;

/// Fails the test when the engine sleeps or spins without getting anywhere.
pub(super) struct Watch {
    progress: Arc<AtomicU64>,
    stuck: Arc<AtomicBool>,
    _stop: mpsc::Sender<()>,
}

const TICK: Duration = Duration::from_millis(100);
const STALL_TICKS: u32 = 50;

impl Watch {
    pub(super) fn new(bell: Doorbell) -> Self {
        let progress = Arc::new(AtomicU64::new(0));
        let stuck = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = mpsc::channel::<()>();
        let (seen, told) = (Arc::clone(&progress), Arc::clone(&stuck));
        thread::spawn(move || {
            let mut last = (u64::MAX, 0);
            // Counted in turns of this thread, so that a process that is stopped is not stuck.
            while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                let now = seen.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, 0);
                }
                last.1 += 1;
                if last.1 > 2 * STALL_TICKS {
                    eprintln!("the engine does not even hear its doorbell");
                    std::process::abort();
                } else if last.1 > STALL_TICKS {
                    told.store(true, Ordering::Relaxed);
                    bell.ring();
                }
            }
        });
        Self {
            progress,
            stuck,
            _stop: stop,
        }
    }

    /// Something happened.
    pub(super) fn progress(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing has happened for five seconds.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }
}
