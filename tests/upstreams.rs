//! Ways out of a running proxy: SOCKS servers of the Debian archive, bound addresses, and servers
//! that misbehave. Which way a session took is seen by the fake DC from the address it comes from.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

#[path = "upstreams/bound.rs"]
mod bound;
#[path = "upstreams/carry.rs"]
mod carry;
#[path = "upstreams/fail.rs"]
mod fail;
#[path = "upstreams/scripted.rs"]
mod scripted;
#[path = "upstreams/site.rs"]
mod site;

use std::{collections::BTreeMap, net::IpAddr};

use bench::{
    client::{Client, ClientError, Dial},
    fake_dc::FakeDc,
};
use serde_json::Value;

use support::Proxy;

/// The value of `upstreams`.
fn ways(entries: &[String]) -> String {
    format!("[{}]", entries.join(", "))
}

async fn serve(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    client.ping().await?;
    client.exchange(50_000, 50_000).await
}

/// Source addresses of what the DC was sent, with their number; forgotten afterwards.
fn sources(dc: &FakeDc) -> BTreeMap<IpAddr, usize> {
    let mut all = BTreeMap::new();
    for seen in dc.seen() {
        *all.entry(seen.peer.ip()).or_default() += 1;
    }
    dc.forget_seen();
    all
}

/// One row of `/v1/stats/upstreams`.
fn row(proxy: &Proxy, index: usize) -> Value {
    proxy.get("/v1/stats/upstreams")["upstreams"][index].clone()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
