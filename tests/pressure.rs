//! Silent sessions while the host is short of room: they end after a minute of profile
//! `aggressive`, whether they began before or during the pressure, and those that speak go on.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{Duration, Instant};

use bench::client::{Client, Dial, Mode};
use tokio::task::JoinHandle;

use support::{Config, PATIENCE, Proxy, fake_dc, hasty, me::Middle, until};

/// Up to seven clients; four of them are pressure until only one is left.
fn pressed(config: Config) -> Config {
    let control = "server.conntrack_control";
    config
        .set("server.max_connections", 7)
        .set(&format!("{control}.pressure_high_watermark_pct"), 50)
        .set(&format!("{control}.pressure_low_watermark_pct"), 15)
        .set(&format!("{control}.profile"), "\"aggressive\"")
}

fn patient(proxy: &Proxy) -> Dial {
    Dial {
        timeout: LIMIT + PATIENCE,
        ..proxy.dial(Mode::Dd)
    }
}

/// A client that has been served; how long that was ago when it is closed.
async fn silent(proxy: &Proxy) -> JoinHandle<Duration> {
    let mut client = Client::connect(&patient(proxy)).await.unwrap();
    let began = Instant::now();
    client.ping().await.unwrap();
    tokio::spawn(async move {
        let (_tx, mut rx) = client.split();
        // One that is never closed is found by how long this takes.
        if let Ok(end) = tokio::time::timeout(LIMIT + PATIENCE, rx.answer()).await {
            end.unwrap_err();
        }
        began.elapsed()
    })
}

/// A client that speaks now and then until it is no longer served.
async fn lively(dial: &Dial) -> Option<JoinHandle<()>> {
    let mut client = Client::connect(dial).await.ok()?;
    client.ping().await.ok()?;
    Some(tokio::spawn(async move {
        while client.ping().await.is_ok() {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    }))
}

async fn until_active(proxy: &Proxy) {
    until("there is pressure", || {
        let zero = proxy.get("/v1/stats/zero/all");
        (zero["core"]["conntrack_pressure_active"] == true).then_some(())
    })
    .await;
}

/// Not before the limit, and long before that of the configuration.
fn expect_limit(took: Duration) {
    // Clocks of both ends are read before and after.
    let range = LIMIT - Duration::from_secs(1)..LIMIT + PATIENCE;
    assert!(range.contains(&took), "closed after {took:?}");
}

/// Of profile `aggressive`: direct sessions, and the hard one of those through MEs.
const LIMIT: Duration = Duration::from_secs(60);
/// The soft one.
const SOFT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn direct_sessions_end_after_a_minute_of_silence() {
    let dc = fake_dc();
    let proxy = pressed(Config::new(dc.addr())).start();
    let calm = Config::new(dc.addr()).start();
    let mut untouched = Client::connect(&calm.dial(Mode::Dd)).await.unwrap();
    untouched.ping().await.unwrap();
    let early = silent(&proxy).await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(lively(&patient(&proxy)).await.unwrap());
    }
    until_active(&proxy).await;
    let late = silent(&proxy).await;
    expect_limit(early.await.unwrap());
    expect_limit(late.await.unwrap());
    assert!(others.iter().all(|other| !other.is_finished()));
    untouched.ping().await.unwrap();
}

#[tokio::test]
async fn sessions_through_mes_make_room_and_end_after_a_minute_of_silence() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(pressed(middle.config())).await;
    let early = silent(&proxy).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(lively(&patient(&proxy)).await.unwrap());
    }
    until_active(&proxy).await;
    let late = silent(&proxy).await;
    // All places are taken; the first one that has been silent for a while is given away.
    let newcomer = loop {
        if let Some(newcomer) = lively(&hasty(proxy.dial(Mode::Dd))).await {
            break newcomer;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let took = early.await.unwrap();
    assert!((SOFT..LIMIT).contains(&took), "gave way after {took:?}");
    expect_limit(late.await.unwrap());
    assert!(others.iter().all(|other| !other.is_finished()));
    assert!(!newcomer.is_finished());
    middle.expect_clean();
}
