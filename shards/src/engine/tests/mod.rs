//! The engine against real sockets: a relay like `net::relay`'s, driven on the test's thread in
//! both ways of parking, with plain threads as its peers.
//!
//! Nothing here ticks: a lost wake-up leaves the engine asleep, and the watchdog tells.

mod churn;
mod doors;
mod edges;
mod exhaustion;
mod peers;
mod resets;
mod rig;
mod soak;
mod splice;
mod transfer;
mod trim;
mod wakeups;
mod watch;

use self::rig::{Rig, buffers};
use crate::settings::Parking;

/// Runs a test body in both ways of parking.
fn in_both(body: impl Fn(Parking)) {
    body(Parking::Ring);
    body(Parking::Executor);
}
