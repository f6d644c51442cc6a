//! The contract's own checker against the built binary with clients: every route, every change of
//! users and configuration, with and without authorisation, read-only on and off.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use bench::client::{Client, Mode};

use support::{
    Config,
    checker::{checker, content},
    config::BOB,
    fake_dc, has_two_cores,
};

async fn passes(keys: &[(&str, &str)], auth: Option<&'static str>) {
    let Some(checker) = checker() else {
        return;
    };
    let dc = fake_dc();
    let mut config = Config::new(dc.addr())
        .user("bob", BOB)
        .unset("server.api.minimal_runtime_cache_ttl_ms");
    for (key, value) in keys {
        config = config.set(key, value);
    }
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = config.start();
    let mut held = Vec::new();
    for number in 0..4 {
        let mut client = Client::connect(&proxy.dial(Mode::PROXIED[number % 4]))
            .await
            .unwrap();
        client.ping().await.unwrap();
        held.push(client);
    }
    let _proxy = content(&checker, proxy, auth).await;
    // Whoever is not concerned by all this is still served.
    for client in &mut held {
        client.ping().await.unwrap();
    }
}

#[tokio::test]
async fn open_to_everybody() {
    passes(&[], None).await;
}

#[tokio::test]
async fn with_all_features_and_authorisation() {
    let keys = [
        ("server.api.runtime_edge_enabled", "true"),
        ("server.api.auth_header", "\"Bearer of-tests\""),
    ];
    passes(&keys, Some("Bearer of-tests")).await;
}

#[tokio::test]
async fn read_only() {
    passes(&[("server.api.read_only", "true")], None).await;
}

#[tokio::test]
async fn read_only_with_authorisation() {
    let keys = [
        ("server.api.read_only", "true"),
        ("server.api.runtime_edge_enabled", "true"),
        ("server.api.auth_header", "\"of-tests\""),
    ];
    passes(&keys, Some("of-tests")).await;
}
