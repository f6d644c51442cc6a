//! What a stranger sees: the mask site, as if they had contacted it.
//!
//! `probes.rs` compares byte by byte with a real nginx, `tools.rs` does so with other people's
//! programs, a browser among them; `splice.rs` has a mask host that tells what it got, `targets.rs`
//! is about which mask host it is, `pins.rs` about names that nobody is asked for, `headers.rs`
//! about what it is told of who came. Not here: who is a stranger (`tests/faketls.rs`,
//! `direct.rs`), but for what clients offer in `alpn.rs`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod alpn;
mod headers;
mod pins;
mod probes;
mod site;
mod splice;
#[path = "../support/mod.rs"]
mod support;
mod targets;
mod tools;

use std::net::SocketAddr;

use support::Config;

/// A configuration whose strangers go to `mask`, with limits longer than any test.
fn masked(dc: SocketAddr, mask: SocketAddr) -> Config {
    patient(dc)
        .set("censorship.mask_host", format!("\"{}\"", mask.ip()))
        .set("censorship.mask_port", mask.port())
}

/// The same without a mask host.
fn patient(dc: SocketAddr) -> Config {
    Config::new(dc)
        .set("censorship.mask", true)
        .set("censorship.mask_relay_max_bytes", 0)
        .set("censorship.mask_relay_timeout_ms", 120_000)
        .set("censorship.mask_relay_idle_timeout_ms", 60_000)
}
