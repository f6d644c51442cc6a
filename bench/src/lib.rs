//! Load for MTProto proxies, and the fakes it needs: a data centre, clients of all three modes, and
//! a plain relay as yardstick. A library, so that end-to-end tests use the same fakes.
//!
//! Knows `shards::proto` for the wire formats and nothing else of the proxy: whatever is measured
//! here is a process with an address and a secret.
#![forbid(unsafe_code)]

mod answers;
pub mod api;
pub mod client;
pub mod compare;
pub mod control;
pub mod demo;
pub mod fake_dc;
pub mod fake_me;
pub mod far_side;
pub mod hostile;
pub mod latency;
pub mod load;
pub mod machine;
pub mod masked;
pub mod me_client;
pub mod measure;
pub mod message;
pub mod neighbours;
pub mod origin;
pub mod pattern;
mod quiet;
pub mod relay;
pub mod report;
pub mod scenario;
pub mod session;
pub mod stall;
mod stamps;
pub mod standing;
pub mod suite;
pub mod target;
pub mod transport;
mod urgent;
pub mod ways;
pub mod wire;
