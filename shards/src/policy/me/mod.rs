//! Middle proxies: what the supervisor of the process and the pool of each shard decide.
//!
//! ```text
//!   fetches, STUN ──> Supervisor ──Plan──> Pool (one per shard) ──Action──> net/me (sockets)
//!                         ^──────Report─────'    ^──what became of it──────────'
//! ```
//!
//! The supervisor knows all writers of all shards by their latest reports, and decides what
//! concerns the process: floors, shares, generations, gates, families, quarantine, readiness. It
//! says so in a [`plan::Plan`], which is whole each time: a shard that missed one has missed
//! nothing. A pool decides about its own writers and sessions. Both are state and `now` in,
//! verdicts out.
//!
//! Source: middle-proxy.md, part B.

pub(crate) mod dice;
pub(crate) mod families;
pub(crate) mod floor;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod readiness;
pub(crate) mod refresh;
pub(crate) mod report;
pub(crate) mod selftest;
#[cfg(test)]
mod simulator;
pub(crate) mod startup;
pub(crate) mod status;
pub(crate) mod supervisor;
