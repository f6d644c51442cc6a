//! Servers that are connected and yet no way to any DC: another password, or no Shadowsocks at all.
//! And good ones that are not to be blamed for DCs and clients.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_dc::{FakeDc, Fault},
    wire::{Head, Op},
};
use rand::RngExt as _;
use serde_json::Value;
use shards::proto::{dc::DcId, obfuscated2::client_side, shadowsocks::Method};

use super::{
    config, exercise_shortly,
    support::{
        Config, Proxy, fake_dc, free_port,
        ss_server::{SsServer, own_server},
        until,
    },
};

/// One row of `/v1/stats/upstreams`.
fn row(proxy: &Proxy, index: usize) -> Value {
    proxy.get("/v1/stats/upstreams")["upstreams"][index].clone()
}

fn health(proxy: &Proxy, index: usize) -> (bool, u64) {
    let row = row(proxy, index);
    let fails = row["fails"].as_u64().expect("a number");
    (row["healthy"] == true, fails)
}

/// Taken by nearly every client as long as it is healthy.
fn preferred(entry: &str) -> String {
    entry.replace(" }", ", weight = 60000 }")
}

/// Without probes, judged soon.
fn unprobed(dc: &FakeDc, entries: &[String]) -> Config {
    config(dc, entries)
        .set("general.tg_connect", 1)
        .set("general.upstream_unhealthy_fail_threshold", 2)
}

async fn ping(dial: Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(&dial).await?;
    client.ping().await
}

/// Gives up, but not before the proxy has.
fn impatient(proxy: &Proxy) -> Dial {
    Dial {
        timeout: Duration::from_secs(3),
        ..proxy.dial(Mode::Dd)
    }
}

/// Clients come, one after the other, until the first upstream is not healthy any more; from then
/// on all of them are served.
async fn clients_find_out(bad: &str) {
    let dc = fake_dc();
    let good = own_server(Method::Aes128Gcm);
    let proxy = unprobed(&dc, &[preferred(bad), good.entry()]).start();
    let mut failed = 0;
    for _ in 0..40 {
        failed += u64::from(ping(impatient(&proxy)).await.is_err());
        if !health(&proxy, 0).0 {
            break;
        }
    }
    assert_eq!(health(&proxy, 0), (false, 2), "{failed} failed");
    assert!(failed >= 2, "{failed}");
    assert_eq!(proxy.zero("upstream/connect_fail_total"), failed);
    let before = good.accepted();
    for _ in 0..6 {
        exercise_shortly(&proxy).await.expect("a client is served");
    }
    assert_eq!(good.accepted() - before, 6);
    assert_eq!(health(&proxy, 1), (true, 0));
    assert_eq!(
        row(&proxy, 1)["dc"][0]["latency_ema_ms"]
            .as_f64()
            .map(|ms| ms < 1e3),
        Some(true)
    );
}

#[tokio::test]
async fn clients_find_out_that_a_server_has_another_key() {
    let Some(server) = SsServer::start(Method::ChaCha20Poly1305) else {
        return;
    };
    clients_find_out(&server.entry_with_wrong_password()).await;
}

/// An entry for something that listens, reads a piece, says `words` and hangs up.
fn rude(words: &'static [u8]) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let addr = listener.local_addr().expect("an address");
    let answer = move |mut stream: TcpStream| {
        let mut piece = [0; 30];
        let _ = stream.read(&mut piece);
        let _ = stream.write_all(words);
        // The rest was not read: this is a reset, unless there is something to be read first.
        thread::sleep(Duration::from_millis(20));
    };
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    format!("{{ type = \"shadowsocks\", url = \"ss://aes-128-gcm:any@{addr}\" }}")
}

#[tokio::test]
async fn clients_find_out_that_a_server_hangs_up() {
    clients_find_out(&rude(b"")).await;
}

#[tokio::test]
async fn clients_find_out_that_a_server_speaks_something_else() {
    clients_find_out(&rude(&[b'x'; 200])).await;
}

#[tokio::test]
async fn probes_find_out_that_a_server_has_another_key() {
    let (Some(bad), Some(good)) = (
        SsServer::start(Method::Aes256Gcm),
        SsServer::start(Method::Aes128Gcm),
    ) else {
        return;
    };
    let dc = fake_dc();
    let entries = [preferred(&bad.entry_with_wrong_password()), good.entry()];
    let proxy = config(&dc, &entries).set("shards.probe_secs", 1).start();
    until("the first round is over", || {
        (!health(&proxy, 0).0).then_some(())
    })
    .await;
    assert_eq!(health(&proxy, 1), (true, 0));
    let data = proxy.get("/v1/stats/upstreams");
    assert_eq!(data["summary"]["healthy_total"], 1, "{data}");
    assert_eq!(data["summary"]["unhealthy_total"], 1, "{data}");
    dc.forget_seen();
    for _ in 0..6 {
        exercise_shortly(&proxy).await.unwrap();
    }
    assert_eq!(proxy.zero("upstream/connect_attempt_total"), 6);
    assert_eq!(dc.stats().damaged, 0, "what probes ask is understood");
}

#[tokio::test]
async fn probes_find_every_edition_healthy_and_a_dead_dc_behind_it_not() {
    for method in Method::ALL {
        let dc = fake_dc();
        let server = own_server(method);
        let proxy = config(&dc, &[server.entry()])
            .set("shards.probe_secs", 1)
            .start();
        until("all DCs have answered", || {
            let seen = dc.seen();
            (1..=5)
                .all(|id| seen.iter().any(|seen| seen.dc == DcId(id)))
                .then_some(())
        })
        .await;
        assert_eq!(health(&proxy, 0), (true, 0), "{method:?}");
        dc.set_fault(Fault::Refuse);
        until("no DC answers", || (!health(&proxy, 0).0).then_some(())).await;
        dc.set_fault(Fault::None);
        until("they answer again", || health(&proxy, 0).0.then_some(())).await;
        assert_eq!(dc.stats().damaged, 0);
    }
}

#[tokio::test]
async fn clients_that_leave_early_say_nothing_of_a_server() {
    let dc = fake_dc();
    let server = own_server(Method::Blake3Aes256Gcm);
    let proxy = unprobed(&dc, &[server.entry()])
        .set("general.tg_connect", 10)
        .start();
    dc.set_fault(Fault::Silent);
    for mode in Mode::PROXIED {
        let dial = Dial {
            timeout: Duration::from_millis(300),
            ..proxy.dial(mode)
        };
        ping(dial).await.unwrap_err();
        let (mut tx, rx) = Client::connect(&proxy.dial(mode)).await.unwrap().split();
        tx.download(5).await.unwrap();
        tx.shutdown().await.unwrap();
        drop((tx, rx));
    }
    proxy.until_connections(0).await;
    assert_eq!(health(&proxy, 0), (true, 0));
    assert_eq!(proxy.zero("upstream/connect_fail_total"), 0);
    dc.set_fault(Fault::None);
    exercise_shortly(&proxy).await.unwrap();
    assert_eq!(proxy.zero("upstream/connect_success_total"), 1);
}

#[tokio::test]
async fn clients_that_ask_for_nothing_say_nothing_of_a_server() {
    let dc = fake_dc();
    let server = own_server(Method::Aes128Gcm);
    let proxy = unprobed(&dc, &[server.entry()]).start();
    let dial = proxy.dial(Mode::Abridged);
    let mut random = |out: &mut [u8]| rand::rng().fill(out);
    let mut side = client_side(&mut random, &dial.secret, dial.framing, dial.dc);
    let mut spare = TcpStream::connect(proxy.addr).unwrap();
    spare.write_all(&side.wire).unwrap();
    until("its opening is passed on", || {
        (dc.seen().len() == 1).then_some(())
    })
    .await;
    // Longer than a DC may take to answer.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(health(&proxy, 0), (true, 0));
    let head = Head::request(Op::WhoAmI, 1, 0).encode();
    let mut frame = Vec::new();
    dial.framing.encode(&head, &[], false, &mut frame).unwrap();
    side.c2p.apply(&mut frame);
    spare.write_all(&frame).unwrap();
    until("its answer is counted", || {
        (proxy.zero("upstream/connect_success_total") == 1).then_some(())
    })
    .await;
    // What the client took to ask is not what the connect took.
    assert_eq!(
        proxy.zero("upstream/connect_duration_success_bucket_gt_1000ms"),
        0
    );
}

#[tokio::test]
async fn a_proven_server_is_not_blamed_for_a_dc_that_refuses_or_is_silent() {
    let (dc, silent) = (fake_dc(), fake_dc());
    silent.set_fault(Fault::Silent);
    let server = own_server(Method::Blake3Aes128Gcm);
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = unprobed(&dc, &[server.entry()])
        .dc(1, &[silent.addr()])
        .dc(3, &[nobody])
        .start();
    exercise_shortly(&proxy).await.unwrap();
    for id in [3, 3, 3, 1, 1, 1] {
        let dial = Dial {
            dc: DcId(id),
            ..impatient(&proxy)
        };
        ping(dial).await.unwrap_err();
    }
    assert_eq!(health(&proxy, 0), (true, 0));
    assert_eq!(proxy.zero("upstream/connect_fail_total"), 6);
    assert_eq!(row(&proxy, 0)["dc"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn a_late_answer_shows_that_a_server_is_good() {
    let dc = fake_dc();
    let server = own_server(Method::Aes256Gcm);
    let proxy = unprobed(&dc, &[server.entry()]).start();
    dc.set_fault(Fault::Delay(Duration::from_secs(3)));
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    let late = tokio::spawn(async move { client.ping().await });
    until("it counts as failed", || {
        (health(&proxy, 0).1 == 1).then_some(())
    })
    .await;
    late.await.unwrap().unwrap();
    assert_eq!(health(&proxy, 0), (true, 0));
    assert_eq!(proxy.zero("upstream/connect_fail_total"), 1);
    assert_eq!(proxy.zero("upstream/connect_success_total"), 0);
}
