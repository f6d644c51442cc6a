//! `RuntimeMePoolStatePayload` and its parts: generations, writers by state, refills.
//!
//! Plain data in the contract's order and words: whoever has a pool fills it. Source:
//! middle-proxy.md 26.6.

use serde::Serialize;

/// The ME pool's generations, writers and refills.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStatePayload {
    /// Generation numbers.
    pub generations: RuntimeMePoolStateGenerationData,
    /// The change of generations.
    pub hardswap: RuntimeMePoolStateHardswapData,
    /// Writers counted by state.
    pub writers: RuntimeMePoolStateWriterData,
    /// Refills under way.
    pub refill: RuntimeMePoolStateRefillData,
}

/// Generation numbers (section 15).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateGenerationData {
    /// Of ordinary writers.
    pub active_generation: u64,
    /// Being warmed up; 0 for none.
    pub warm_generation: u64,
    /// Waits for its gate; 0 for none.
    pub pending_hardswap_generation: u64,
    /// For how long, seconds.
    pub pending_hardswap_age_secs: Option<u64>,
    /// Those that draining writers carry, ascending, each once.
    pub draining_generations: Vec<u64>,
}

/// The change of generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateHardswapData {
    /// `hardswap`.
    pub enabled: bool,
    /// A generation waits for its gate.
    pub pending: bool,
}

/// Writers counted by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateWriterData {
    /// All of them.
    pub total: usize,
    /// Those that do not drain.
    pub alive_non_draining: usize,
    /// Those that drain.
    pub draining: usize,
    /// Slow ones that do not drain.
    pub degraded: usize,
    /// By state.
    pub contour: RuntimeMePoolStateWriterContourData,
    /// By health.
    pub health: RuntimeMePoolStateWriterHealthData,
}

/// Writers by state; adds up to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateWriterContourData {
    /// For the generation to come.
    pub warm: usize,
    /// In use.
    pub active: usize,
    /// On their way out.
    pub draining: usize,
}

/// Writers by health; adds up to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateWriterHealthData {
    /// Neither slow nor draining.
    pub healthy: usize,
    /// Slow, not draining.
    pub degraded: usize,
    /// Draining.
    pub draining: usize,
}

/// Refills under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateRefillData {
    /// Of all shards.
    pub inflight_endpoints_total: usize,
    /// Distinct DCs and families among them.
    pub inflight_dc_total: usize,
    /// Ascending by DC and family.
    pub by_dc: Vec<RuntimeMePoolStateRefillDcData>,
}

/// Refills of one DC and family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeMePoolStateRefillDcData {
    /// Signed DC id.
    pub dc: i16,
    /// `V4` or `V6` (conflict C5).
    pub family: &'static str,
    /// Shards that refill it.
    pub inflight: usize,
}
