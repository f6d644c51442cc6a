//! The contract's own checker against the built binary with clients: every route, every change of
//! users and configuration, with and without authorisation, read-only on and off.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use bench::client::{Client, Mode};

use support::{Config, Proxy, config::BOB, fake_dc, has_two_cores};

/// The checker, when it and Python are there.
fn checker() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/contract/check.py");
    if !path.is_file() {
        println!("skipped: the contract's checker is not beside this checkout");
        return None;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: the contract's checker wants python3");
        return None;
    }
    Some(path)
}

/// Runs it with everything that it can ask for.
fn check(checker: &Path, proxy: &Proxy, auth: Option<&str>) -> Output {
    let mut command = Command::new("python3");
    command
        .arg(checker)
        .args(["--base", &format!("http://{}", proxy.api), "--config"])
        .arg(proxy.config_path())
        .args(["--mutate", "--strict", "--require-later"]);
    if let Some(auth) = auth {
        command.args(["--auth", auth]);
    }
    command.output().unwrap()
}

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
    let (output, proxy) = tokio::task::spawn_blocking(move || {
        let output = check(&checker, &proxy, auth);
        (output, proxy)
    })
    .await
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let bad: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("FAIL") || line.starts_with("WARN"))
        .collect();
    assert!(
        output.status.success() && bad.is_empty(),
        "{bad:#?}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        proxy.log()
    );
    assert!(said.trim_end().ends_with(" passed, 0 failed"), "{said}");
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
