//! Clients whose DCs are behind a Shadowsocks server: Debian's for the first edition, one made of
//! our own far side for the 2022 edition.

mod support;

#[path = "shadowsocks/health.rs"]
mod health;

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_dc::FakeDc,
};
use shards::proto::shadowsocks::{Method, far_side::Wanted};
use support::{
    Config, Proxy, expect_answers_after_half_close, fake_dc, hasty,
    ss_server::{SsServer, own_server},
    until,
};

const MIB: usize = 1 << 20;

fn config(dc: &FakeDc, entries: &[String]) -> Config {
    Config::new(dc.addr()).set("upstreams", format!("[{}]", entries.join(", ")))
}

/// All that a client does, with every byte compared at both ends.
async fn exercise(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    let who = client.who_am_i().await?;
    assert_eq!(who, (dial.dc, dial.framing.tag()[0]), "{:?}", dial.mode);
    client.ping().await?;
    client.download(3 * MIB as u64).await?;
    client.upload(MIB).await?;
    client.exchange(MIB, MIB as u64).await?;
    let body: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(client.echo(&body).await?, body);
    client.ping().await
}

async fn check_every_client(entry: &str, what: Method) {
    let dc = fake_dc();
    for fast in [true, false] {
        let proxy = config(&dc, &[entry.to_owned()])
            .set("general.fast_mode", fast)
            .start();
        for mode in Mode::PROXIED {
            dc.forget_seen();
            let done = exercise(&proxy.dial(mode)).await;
            done.unwrap_or_else(|error| unreachable!("{what:?} {mode:?} {fast}: {error}"));
            assert_eq!(dc.seen().len(), 1, "one DC connection per client");
        }
        assert_eq!(dc.stats().damaged, 0);
        proxy.until_connections(0).await;
        let bad = proxy.number("/v1/stats/summary", "/connections_bad_total");
        assert_eq!(bad, 0);
    }
}

#[tokio::test]
async fn every_client_is_served_through_debians_server() {
    for method in [
        Method::Aes128Gcm,
        Method::Aes256Gcm,
        Method::ChaCha20Poly1305,
    ] {
        let Some(server) = SsServer::start(method) else {
            return;
        };
        check_every_client(&server.entry(), method).await;
    }
}

#[tokio::test]
async fn every_client_is_served_by_the_2022_edition() {
    for method in Method::ALL.into_iter().filter(|method| method.is_2022()) {
        let server = own_server(method);
        check_every_client(&server.entry(), method).await;
        let targets = server.targets();
        assert_eq!(targets.len(), 2 * Mode::PROXIED.len(), "{method:?}");
        assert!(targets.iter().all(|at| matches!(at, Wanted::Addr(_))));
    }
}

#[tokio::test]
async fn many_clients_share_a_server() {
    let dc = fake_dc();
    let server = own_server(Method::Blake3Aes128Gcm);
    let proxy = config(&dc, &[server.entry()]).start();
    let mut clients = Vec::new();
    for i in 0..60 {
        let dial = proxy.dial(Mode::PROXIED[i % 4]);
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(&dial).await?;
            for size in [16, 100, 20_000, 70_000] {
                client.exchange(size, size as u64).await?;
            }
            client.ping().await
        }));
    }
    for client in clients {
        client.await.unwrap().unwrap();
    }
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn clients_that_end_their_uplink_still_get_their_answers() {
    let dc = fake_dc();
    let server = own_server(Method::Aes256Gcm);
    let proxy = config(&dc, &[server.entry()]).start();
    expect_answers_after_half_close(&proxy).await;
    until("the DC's connections end", || {
        (dc.stats().open == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_moves_new_sessions_to_the_next() {
    let Some(mut first) = SsServer::start(Method::Aes128Gcm) else {
        return;
    };
    let dc = fake_dc();
    let second = own_server(Method::Blake3ChaCha20Poly1305);
    let proxy = config(&dc, &[first.entry(), second.entry()]).start();
    for _ in 0..6 {
        exercise_shortly(&proxy).await.unwrap();
    }
    first.kill();
    let before = second.accepted();
    for _ in 0..6 {
        exercise_shortly(&proxy).await.unwrap();
    }
    assert_eq!(second.accepted() - before, 6);
}

async fn exercise_shortly(proxy: &Proxy) -> Result<(), ClientError> {
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await?;
    client.ping().await?;
    client.exchange(1000, 1000).await
}

#[tokio::test]
async fn changed_bytes_end_the_session_and_are_counted() {
    let dc = fake_dc();
    let server = own_server(Method::Aes128Gcm);
    let proxy = config(&dc, &[server.entry()]).start();
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    client.ping().await.unwrap();
    server.damage();
    assert!(client.ping().await.is_err());
    until("the end is counted", || {
        let zero = proxy.get("/v1/stats/zero/all").to_string();
        zero.contains("upstream_broken").then_some(())
    })
    .await;
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn a_wrong_password_serves_nobody() {
    let Some(server) = SsServer::start(Method::ChaCha20Poly1305) else {
        return;
    };
    let dc = fake_dc();
    let proxy = config(&dc, &[server.entry_with_wrong_password()]).start();
    let dial = hasty(proxy.dial(Mode::Dd));
    let outcome = async {
        let mut client = Client::connect(&dial).await?;
        client.ping().await
    };
    assert!(outcome.await.is_err());
    assert_eq!(dc.stats().accepted, 0);
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn a_dc_that_the_server_cannot_reach_ends_the_session() {
    let dc = fake_dc();
    let server = own_server(Method::Blake3Aes256Gcm);
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], support::free_port()));
    let proxy = config(&dc, &[server.entry()]).dc(2, &[nobody]).start();
    let dial = hasty(proxy.dial(Mode::Abridged));
    let outcome = async {
        let mut client = Client::connect(&dial).await?;
        client.ping().await
    };
    assert!(outcome.await.is_err());
    assert_eq!(server.accepted(), 1);
    proxy.until_connections(0).await;
}
