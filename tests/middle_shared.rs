//! One client that does not read, or floods, on a writer that it shares with others: they go on,
//! and what the proxy holds is bounded.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::Duration;

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_me::{Fault, MeStats},
};
use tokio::task::JoinSet;

use support::{Config, PATIENCE, Proxy, me::Middle, until};

const MIB: u64 = 1 << 20;
/// What the queue of a session may hold, and what an allocator keeps beside it.
const SESSION_BYTES_MAX: u64 = 40 * MIB;
/// The same of a writer's queue.
const WRITER_BYTES_MAX: u64 = 64 * MIB;

/// With this cap each group has one writer.
fn one_writer(middle: &Middle) -> Config {
    middle
        .config()
        .set("general.me_adaptive_floor_max_active_writers_global", 1)
}

/// Clients that share the writer, all served.
async fn neighbours(proxy: &Proxy) -> Vec<Client> {
    let mut clients = Vec::new();
    for number in 0..50 {
        let dial = Dial {
            // An answer that takes so long has waited for somebody.
            timeout: Duration::from_secs(10),
            ..proxy.dial(Mode::PROXIED[number % 4])
        };
        let mut client = Client::connect(&dial).await.unwrap();
        client.ping().await.unwrap();
        clients.push(client);
    }
    clients
}

async fn all_go_on(clients: &mut [Client], rounds: usize) {
    for _ in 0..rounds {
        for client in &mut *clients {
            client.ping().await.unwrap();
        }
    }
}

fn slow(proxy: &Proxy, mode: Mode) -> Dial {
    Dial {
        receive_buffer_bytes: Some(16 * 1024),
        ..proxy.dial(mode)
    }
}

fn grown(proxy: &Proxy, before: u64) -> u64 {
    proxy.process().rss_bytes().unwrap().saturating_sub(before)
}

#[tokio::test]
async fn all_share_one_writer() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(one_writer(&middle)).await;
    assert_eq!(proxy.writers("alive_writers"), 10);
    let clients = neighbours(&proxy).await;
    let seen = middle.me.seen();
    assert!(seen.iter().all(|one| one.connection == seen[0].connection));
    drop(clients);
}

#[tokio::test]
async fn a_client_that_reads_too_late_is_closed_and_counted() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(one_writer(&middle)).await;
    let mut others = neighbours(&proxy).await;
    let before = proxy.process().rss_bytes().unwrap();
    for (number, mode) in (1..).zip(Mode::PROXIED) {
        let (mut tx, rx) = Client::connect(&slow(&proxy, mode)).await.unwrap().split();
        for _ in 0..64 {
            // Closed before all are asked for, perhaps.
            if tx.download(MIB).await.is_err() {
                break;
            }
        }
        until("the proxy has closed it", || {
            let dropped = proxy.me_count("route_drop_queue_full_total");
            all_closed(&middle, number)
                .then_some(())
                .filter(|()| dropped == number)
        })
        .await;
        all_go_on(&mut others, 2).await;
        let growth = grown(&proxy, before);
        assert!(growth < SESSION_BYTES_MAX, "{mode:?}: {growth} bytes held");
        drop((tx, rx));
    }
    let full = proxy.me_count("route_drop_queue_full_total");
    let kinds = proxy.me_count("route_drop_queue_full_base_total")
        + proxy.me_count("route_drop_queue_full_high_total");
    assert_eq!((full, kinds), (4, 4));
    middle.expect_clean();
}

/// So many clients were closed by the proxy.
fn all_closed(middle: &Middle, wanted: u64) -> bool {
    middle.me.total().clients_closed == wanted
}

#[tokio::test]
async fn a_slow_client_within_its_bound_gets_every_byte() {
    const PARTS: usize = 12;
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(one_writer(&middle)).await;
    let mut others = neighbours(&proxy).await;
    for mode in Mode::PROXIED {
        let (mut tx, mut rx) = Client::connect(&slow(&proxy, mode)).await.unwrap().split();
        let mut ids = Vec::new();
        for _ in 0..PARTS {
            ids.push(tx.download(MIB).await.unwrap());
        }
        all_go_on(&mut others, 10).await;
        for id in ids {
            let answer = tokio::time::timeout(PATIENCE, rx.answer()).await.unwrap();
            answer.unwrap().expect_stream(id, MIB).unwrap();
        }
    }
    assert_eq!(proxy.me_count("route_drop_queue_full_total"), 0);
    middle.expect_clean();
}

async fn flood(dial: Dial, requests: usize, depth: usize) -> Result<(), ClientError> {
    let (mut tx, mut rx) = Client::connect(&dial).await?.split();
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..requests {
        waiting.push_back(tx.upload(MIB as usize).await?);
        if waiting.len() >= depth
            && let Some((id, crc)) = waiting.pop_front()
        {
            rx.answer().await?.expect_arg(id, u64::from(crc))?;
        }
    }
    while let Some((id, crc)) = waiting.pop_front() {
        rx.answer().await?.expect_arg(id, u64::from(crc))?;
    }
    Ok(())
}

#[tokio::test]
async fn others_go_on_beside_floods() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(one_writer(&middle)).await;
    let mut others = neighbours(&proxy).await;
    let before = proxy.process().rss_bytes().unwrap();
    let mut floods = JoinSet::new();
    for mode in Mode::PROXIED {
        floods.spawn(flood(proxy.dial(mode), 48, 16));
    }
    while !floods.is_empty() {
        all_go_on(&mut others, 1).await;
        while let Some(flood) = floods.try_join_next() {
            flood.unwrap().unwrap();
        }
    }
    let growth = grown(&proxy, before);
    assert!(growth < WRITER_BYTES_MAX, "{growth} bytes held");
    middle.expect_clean();
}

#[tokio::test]
async fn a_writer_that_takes_nothing_bounds_its_clients() {
    let middle = Middle::five_dcs(2);
    let config = one_writer(&middle).set("general.me_c2me_send_timeout_ms", 2_000);
    let proxy = middle.start(config).await;
    let before = proxy.process().rss_bytes().unwrap();
    let dials = Mode::PROXIED.map(|mode| proxy.dial(mode));
    let mut clients = Vec::new();
    for dial in &dials {
        let mut client = Client::connect(dial).await.unwrap();
        client.ping().await.unwrap();
        clients.push(client);
    }
    middle.me.set_fault_everywhere(Fault::StallReading);
    let mut floods = JoinSet::new();
    for client in clients {
        floods.spawn(async move {
            let (mut tx, mut rx) = client.split();
            for _ in 0..200 {
                tx.upload(MIB as usize).await?;
            }
            rx.answer().await.map(|_| ())
        });
    }
    while let Some(flood) = floods.join_next().await {
        // None is answered, and each is closed in the end.
        flood.unwrap().unwrap_err();
    }
    let growth = grown(&proxy, before);
    assert!(growth < WRITER_BYTES_MAX, "{growth} bytes held");
    assert_eq!(proxy.bad("me_writer_full"), 4);
    middle.me.set_fault_everywhere(Fault::None);
    let mut client = Client::connect(&dials[0]).await.unwrap();
    client.ping().await.unwrap();
    let MeStats {
        damaged,
        violations,
        ..
    } = middle.me.total();
    assert_eq!((damaged, violations), (0, 0));
}
