//! Serves canned answers, for conformance checkers: `cargo run -p admin --example canned -- 9091`.
//!
//! Further arguments: `edge` (runtime_edge_enabled), `no-minimal`, `read-only`, `auth=VALUE`,
//! `empty` (no shard has answered), `whitelist` (127.0.0.1 only), `pool` (an ME pool),
//! `users=N` (that many more, all of them running), `metrics=PORT`.

#![expect(
    clippy::unwrap_used,
    reason = "a tool for tests: any failure may end it"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{sync::Arc, thread};

use admin::{ApiSettings, MetricsSettings, start_metrics};

use support::Server;

fn main() {
    let mut args = std::env::args().skip(1);
    let port: u16 = args
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(9091);
    let args: Vec<String> = args.collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let auth = args.iter().find_map(|arg| arg.strip_prefix("auth="));
    let settings = ApiSettings {
        runtime_edge_enabled: has("edge"),
        minimal_runtime_enabled: !has("no-minimal"),
        read_only: has("read-only"),
        auth_header: auth.unwrap_or_default().to_owned(),
        whitelist: if has("whitelist") {
            vec!["127.0.0.1/32".parse().unwrap()]
        } else {
            Vec::new()
        },
        ..ApiSettings::default()
    };
    let listener = admin::bind(([127, 0, 0, 1], port).into()).unwrap();
    let server = Server::start_on(listener, settings).applying();
    let number = |name: &str| {
        let found = args.iter().find_map(|arg| arg.strip_prefix(name));
        found.and_then(|text| text.parse::<u16>().ok())
    };
    if let Some(users) = number("users=") {
        server.many_users(users);
    }
    let _metrics = number("metrics=").map(|port| {
        let settings = MetricsSettings {
            listen: ([127, 0, 0, 1], port).into(),
            ..MetricsSettings::default()
        };
        start_metrics(settings, Arc::clone(&server.plane) as _).unwrap()
    });
    if has("empty") {
        *server.plane.snapshot.lock().unwrap() = None;
    }
    if has("pool") {
        support::middle::Middle::Up.show(&server.plane);
    }
    for index in 0..60 {
        server
            .events
            .record("admission.state", &format!("open={}", index % 2 == 0));
    }
    println!("http://{}", server.addr());
    loop {
        thread::park();
    }
}
