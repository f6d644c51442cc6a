//! `RuntimeNatStunPayload` and its parts: how we learn our public address.
//!
//! Plain data in the contract's order and words: whoever has a pool fills it. Source:
//! middle-proxy.md 26.9.

use serde::Serialize;

/// How the public address is learned, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeNatStunPayload {
    /// Switches and failures.
    pub flags: RuntimeNatStunFlagsData,
    /// Who is asked.
    pub servers: RuntimeNatStunServersData,
    /// What they said.
    pub reflection: RuntimeNatStunReflectionBlockData,
    /// Until the next round may begin, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stun_backoff_remaining_ms: Option<u64>,
}

/// Switches and failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeNatStunFlagsData {
    /// `middle_proxy_nat_probe` and `network.stun_use`.
    pub nat_probe_enabled: bool,
    /// Its back-off is at the ceiling.
    pub nat_probe_disabled_runtime: bool,
    /// Rounds that failed since the last success, at most 255.
    pub nat_probe_attempts: u8,
}

/// Who is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeNatStunServersData {
    /// Sorted, each once.
    pub configured: Vec<String>,
    /// Those that answered in the last round, sorted.
    pub live: Vec<String>,
    /// How many.
    pub live_total: usize,
}

/// What the servers said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeNatStunReflectionBlockData {
    /// For IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v4: Option<RuntimeNatStunReflectionData>,
    /// For IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v6: Option<RuntimeNatStunReflectionData>,
}

/// A public address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RuntimeNatStunReflectionData {
    /// Address and port.
    pub addr: String,
    /// Since it was learned, seconds.
    pub age_secs: u64,
}
