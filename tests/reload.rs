//! Reloading through the built binary: what is noticed, what is said, and that nobody who is not
//! concerned loses a session.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bench::{
    client::{Client, Dial, Mode},
    fake_dc::FakeDc,
};
use shards::proto::secret::Secret;

use support::{
    Config, Proxy,
    config::{ALICE, BOB},
    fake_dc, has_two_cores, hasty, until, wait_until,
};

fn config(dc: &FakeDc) -> Config {
    Config::new(dc.addr()).set("server.api.runtime_edge_enabled", true)
}

async fn connect(dial: &Dial) -> Client {
    let mut client = Client::connect(dial).await.unwrap();
    client.ping().await.unwrap();
    client
}

fn bob(proxy: &Proxy) -> Dial {
    Dial::new(Mode::Ee, proxy.addr, BOB)
}

async fn is_refused(dial: &Dial) -> bool {
    match Client::connect(&hasty(dial.clone())).await {
        Ok(mut client) => client.ping().await.is_err(),
        Err(_) => true,
    }
}

#[tokio::test]
async fn edited_and_replaced_files_take_effect() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    assert!(is_refused(&bob(&proxy)).await);

    let with_bob = proxy.config().user("bob", BOB);
    let line = proxy.reload(&with_bob);
    assert!(
        line.contains("(file changed): applied access.users"),
        "{line}"
    );
    connect(&bob(&proxy)).await;
    // Links of new users are printed, those of others are not again.
    let log = proxy.log();
    let (_, after) = log.split_once("configuration reloaded").unwrap();
    assert!(
        after.contains("bob\n") && after.contains("tg://proxy"),
        "{after}"
    );
    assert!(!after.contains(&hex::encode(ALICE.0)), "{after}");

    // Written in place, in two parts: the half is read and no harm is done.
    let text = proxy
        .config()
        .set("access.user_max_tcp_conns.alice", 1)
        .text();
    let before = proxy.reloads().len();
    std::fs::write(proxy.config_path(), &text).unwrap();
    let line = proxy.wait_for_reload(before);
    assert!(
        line.contains("applied access.users, access.user_max_tcp_conns"),
        "{line}"
    );
    assert!(is_refused(&bob(&proxy)).await);
    assert_eq!(proxy.user("alice", "max_tcp_conns"), 1);
    assert_eq!(proxy.number("/v1/system/info", "/config_reload_count"), 2);
}

#[tokio::test]
async fn included_files_are_watched() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    let main = format!("include = \"more/limits.toml\"\n{}", proxy.config().text());
    std::fs::create_dir(proxy.dir().join("more")).unwrap();
    let included = proxy.dir().join("more/limits.toml");
    // The main file names a file that comes only later.
    proxy.replace(&main);
    let line = proxy.wait_for_reload(0);
    assert!(
        line.contains("not reloaded") && line.contains("limits.toml"),
        "{line}"
    );
    std::fs::write(&included, "[access.user_max_tcp_conns]\nalice = 1\n").unwrap();
    let line = proxy.wait_for_reload(1);
    assert!(line.contains("applied access.user_max_tcp_conns"), "{line}");
    std::fs::write(&included, "[access.user_max_tcp_conns]\nalice = 7\n").unwrap();
    let line = proxy.wait_for_reload(2);
    assert!(line.contains("applied access.user_max_tcp_conns"), "{line}");
    assert_eq!(proxy.user("alice", "max_tcp_conns"), 7);
}

#[tokio::test]
async fn bad_files_change_nothing_and_are_told_of_once() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    let mut client = connect(&proxy.dial(Mode::Ee)).await;
    let bad = proxy
        .config()
        .user("bob", BOB)
        .set("server.port", "\"http\"");
    let line = proxy.reload(&bad);
    assert!(
        line.contains("the old one stays in force; 1 error in"),
        "{line}"
    );
    assert!(
        line.contains("server.port = \"http\" is a string"),
        "{line}"
    );
    client.ping().await.unwrap();
    assert!(is_refused(&bob(&proxy)).await);
    connect(&proxy.dial(Mode::Dd)).await;
    // Looked at again by the slow poll, and still the same.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(proxy.reloads().len(), 1, "{:?}", proxy.reloads());
    // Asked for, it is told of again.
    proxy.signal("HUP");
    let line = proxy.wait_for_reload(1);
    assert!(line.contains("not reloaded (signal)"), "{line}");
    let events = proxy.get("/v1/runtime/events/recent").to_string();
    assert!(events.contains("config.reload.failed"), "{events}");
    // The same text as at the start is nothing to apply.
    proxy.replace(&proxy.config().text());
    proxy.signal("HUP");
    let line = proxy.wait_for_reload(2);
    assert!(line.contains("has not changed"), "{line}");
    assert_eq!(proxy.number("/v1/system/info", "/config_reload_count"), 0);
}

#[tokio::test]
async fn restart_keys_are_named_until_they_are_taken_back() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    let port = proxy.config().set("server.port", 1);
    let both = port
        .clone()
        .set("timeouts.client_handshake", 7)
        .set("general.ntp_check", false)
        .user("bob", BOB);
    let line = proxy.reload(&both);
    for part in [
        "applied access.users;",
        "waiting for a restart: server.port, timeouts.client_handshake;",
        "without effect in this version: general.ntp_check",
    ] {
        assert!(line.contains(part), "{line}");
    }
    // Hot keys apply although others wait.
    connect(&bob(&proxy)).await;
    // What waits is compared with what the process runs with, not with the file before.
    let line = proxy.reload(&port.user("bob", BOB));
    assert!(
        line.contains("nothing to apply; waiting for a restart: server.port;"),
        "{line}"
    );
    let line = proxy.reload(&proxy.config().user("bob", BOB));
    assert!(line.ends_with("nothing to apply"), "{line}");
    let limits = proxy.get("/v1/limits/effective");
    assert_eq!(limits["timeouts"]["client_handshake_secs"], 60);
    let events = proxy.get("/v1/runtime/events/recent").to_string();
    assert!(events.contains("config.reload.applied"), "{events}");
    assert!(!events.contains(&hex::encode(BOB.0)), "{events}");
}

#[tokio::test]
async fn signal_reloads_at_once() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    proxy.signal("HUP");
    let line = proxy.wait_for_reload(0);
    assert!(
        line.contains("(signal)") && line.contains("has not changed"),
        "{line}"
    );
    std::fs::write(proxy.config_path(), proxy.config().user("bob", BOB).text()).unwrap();
    proxy.signal("HUP");
    wait_until("bob is applied", || {
        proxy.log().contains("applied access.users").then_some(())
    });
    connect(&bob(&proxy)).await;
}

#[tokio::test]
async fn misspelt_keys_are_named_at_every_reload() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    proxy.reload(&proxy.config().set("server.prot", 5).user("bob", BOB));
    wait_until("the key is named", || {
        proxy
            .log()
            .contains("server.prot is not a known key")
            .then_some(())
    });
}

#[tokio::test]
async fn changes_that_come_fast_all_arrive() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    for limit in 1..=50 {
        let text = proxy
            .config()
            .set("access.user_max_tcp_conns_global_each", limit)
            .text();
        proxy.replace(&text);
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    until("the last one is in force", || {
        let limits = proxy.get("/v1/limits/effective");
        (limits["user_tcp_policy"]["global_each"] == 50).then_some(())
    })
    .await;
}

#[tokio::test]
async fn untouched_proxy_reads_its_files_no_more() {
    let dc = fake_dc();
    let proxy = config(&dc).start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = proxy.process().cpu().unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let used = proxy.process().cpu().unwrap().since(&before);
    assert!(used < Duration::from_millis(100), "{used:?}");
}

/// Clients that ping for as long as reloads go on; every one must come through.
async fn reload_under_load(clients: usize, reloads: usize) {
    let dc = fake_dc();
    let mut config = config(&dc)
        .set("server.max_connections", 0)
        .user("bob", BOB);
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = Arc::new(config.start());
    let mut tasks = Vec::new();
    let stop = Arc::new(AtomicBool::new(false));
    for index in 0..clients {
        let dial = proxy.dial(Mode::PROXIED[index % 4]);
        let mut client = Client::connect(&dial).await.unwrap();
        let stop = Arc::clone(&stop);
        tasks.push(tokio::spawn(async move {
            let mut pings = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                client.ping().await?;
                pings += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok::<_, bench::client::ClientError>(pings)
        }));
    }
    let mut last = Duration::ZERO;
    for round in 0..reloads {
        let changed = proxy
            .config()
            .user(&format!("user{round}"), Secret([round as u8 + 1; 16]))
            .set("access.user_max_tcp_conns_global_each", clients + round + 1)
            .set("general.telemetry.user_enabled", round % 2 == 0);
        let changed = if round % 2 == 0 {
            changed
        } else {
            changed.unset("access.users.bob")
        };
        let began = Instant::now();
        // On a thread of its own: the clients go on meanwhile.
        let reloaded = Arc::clone(&proxy);
        let task = tokio::task::spawn_blocking(move || reloaded.reload(&changed));
        let line = task.await.unwrap();
        assert!(line.contains("applied"), "{line}");
        last = last.max(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    let mut pings = 0;
    for task in tasks {
        pings += task.await.unwrap().expect("no session is lost");
    }
    assert!(proxy.reloads().iter().all(|line| !line.contains("late")));
    println!("{clients} clients, {reloads} reloads, {pings} pings, slowest reload {last:?}");
}

#[tokio::test]
async fn reloads_cost_no_unaffected_session() {
    reload_under_load(100, 6).await;
}

#[tokio::test]
#[ignore = "a thousand clients take half a minute"]
async fn reloads_cost_none_of_a_thousand_sessions() {
    reload_under_load(1000, 20).await;
}
