//! Answers of the contract, one struct per type, fields in the contract's order.
//!
//! Nothing is worked out here; `handlers` fill them. A test walks `v1.json` over live answers.

pub(crate) mod config;
pub(crate) mod edge;
pub(crate) mod fingerprints;
pub(crate) mod limits;
pub(crate) mod me;
pub(crate) mod minimal;
pub(crate) mod nat_stun;
pub(crate) mod pool_state;
pub(crate) mod quality;
pub(crate) mod runtime;
pub(crate) mod security;
pub(crate) mod selftest;
pub(crate) mod summary;
pub(crate) mod system;
pub(crate) mod upstreams;
pub(crate) mod users;
pub(crate) mod zero;

/// `feature_disabled`: switched off in the configuration.
pub(crate) const FEATURE_DISABLED: &str = "feature_disabled";
/// `source_unavailable`: nothing to look at now.
pub(crate) const SOURCE_UNAVAILABLE: &str = "source_unavailable";
