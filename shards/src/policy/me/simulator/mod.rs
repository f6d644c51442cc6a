//! Supervisor and pools of a whole process against a network of MEs that fails on purpose, in
//! virtual time.
//!
//! ```text
//!   Supervisor <──reports── Shard (a real Pool, clients) ──dials, frames──> Network (moods)
//!        └──────plans, a moment later──────^                    one heap of events, seeded
//! ```
//!
//! An hour takes seconds. Everything follows from the seed; a failure names it, and `SIM_SEED=`
//! runs one again.
//!
//! Source: middle-proxy.md part B; what is checked is in [`checks`].

mod checks;
mod network;
mod runs;
mod shard;
mod world;
