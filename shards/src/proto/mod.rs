//! Bytes to values and back: no sockets, clock, randomness, logging or `async`.
//!
//! Random bytes and time arrive as arguments, so every test is exact and every decoder can be
//! fuzzed. Codecs work in place and own no buffer; those on the server's path allocate nothing.
//! `policy` and `net` call them; the bench uses the client's and the DC's sides.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod crypto;
pub mod dc;
pub mod faketls;
pub mod framing;
pub(crate) mod key_request;
mod link;
pub mod middle;
pub mod obfuscated2;
pub mod proxy_protocol;
pub mod reader;
pub mod secret;
pub mod shadowsocks;
pub mod sniff;
pub mod socks;

#[cfg(test)]
mod properties;
