//! The end of the process: draining, its limit, the second signal, restarts under load, and ports
//! that somebody else has.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    net::{SocketAddr, TcpListener, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bench::{
    client::{Client, Dial, Mode},
    fake_dc::FakeDc,
};
use serde_json::Value;

use support::{Config, Proxy, fake_dc, has_two_cores, until};

/// A proxy that would drain for minutes.
fn patient(dc: &FakeDc) -> Config {
    Config::new(dc.addr()).set("shards.drain_secs", 600)
}

async fn until_refusing(addr: SocketAddr) {
    until("new connections are refused", || {
        StdStream::connect(addr).is_err().then_some(())
    })
    .await;
}

async fn connect(proxy: &Proxy, mode: Mode) -> Client {
    let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
    client.ping().await.unwrap();
    client
}

#[tokio::test]
async fn sessions_go_on_while_nobody_new_comes_in() {
    let dc = fake_dc();
    for signal in ["TERM", "INT"] {
        let mut config = patient(&dc);
        if has_two_cores() {
            config = config.shards(2);
        }
        let mut proxy = config.start();
        let mut clients = Vec::new();
        for mode in Mode::PROXIED {
            clients.push(connect(&proxy, mode).await);
        }
        proxy.signal(signal);
        until_refusing(proxy.addr).await;
        let (status, answer) = proxy.ask("/v1/health/ready");
        assert_eq!(status, 503);
        assert_eq!(answer["data"]["reason"], "admission_closed");
        let gates = proxy.get("/v1/runtime/gates");
        assert_eq!(gates["accepting_new_connections"], Value::Bool(false));
        for client in &mut clients {
            client.ping().await.unwrap();
            client.exchange(1 << 20, 1 << 20).await.unwrap();
        }
        let last = clients.pop();
        drop(clients);
        proxy.until_connections(1).await;
        assert!(proxy.is_running());
        last.unwrap().ping().await.unwrap();
        let (took, code) = proxy.wait_for_end();
        assert_eq!(code, Some(0), "{}", proxy.log());
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(
            proxy.log().contains("all sessions ended"),
            "{}",
            proxy.log()
        );
    }
}

#[tokio::test]
async fn a_proxy_without_sessions_ends_at_once() {
    let dc = fake_dc();
    let mut proxy = patient(&dc).start();
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
}

#[tokio::test]
async fn sessions_are_closed_at_the_limit() {
    let dc = fake_dc();
    let mut proxy = Config::new(dc.addr()).set("shards.drain_secs", 1).start();
    let mut client = connect(&proxy, Mode::Ee).await;
    // Not yet known to anybody.
    let _silent = StdStream::connect(proxy.addr).unwrap();
    proxy.signal("TERM");
    until_refusing(proxy.addr).await;
    client.ping().await.unwrap();
    client.closed().await.unwrap();
    let (_, code) = proxy.wait_for_end();
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let dc = fake_dc();
    for second in ["TERM", "INT"] {
        let mut proxy = patient(&dc).start();
        let _client = connect(&proxy, Mode::Dd).await;
        proxy.signal("TERM");
        until("it drains", || {
            proxy.log().contains("draining").then_some(())
        })
        .await;
        proxy.signal(second);
        let (took, code) = proxy.wait_for_end();
        assert_eq!(code, Some(0));
        assert!(took < Duration::from_secs(10), "{took:?}");
        assert!(proxy.log().contains("second signal"), "{}", proxy.log());
    }
}

/// Round trips of many clients that connect again whenever they lose their proxy.
struct Load {
    done: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Load {
    fn start(proxy: &Proxy) -> Load {
        let mut load = Load {
            done: Vec::new(),
            stop: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        for number in 0..24 {
            let dial = Dial {
                timeout: Duration::from_secs(5),
                ..proxy.dial(Mode::PROXIED[number % 4])
            };
            let done: Arc<AtomicU64> = Arc::default();
            load.done.push(Arc::clone(&done));
            let stop = Arc::clone(&load.stop);
            load.tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(mut client) = Client::connect(&dial).await {
                        while !stop.load(Ordering::Relaxed) && client.ping().await.is_ok() {
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    // As real clients pause between attempts.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            });
        }
        load
    }

    /// Waits until every client has made so many more.
    async fn until_all_go_on(&self, more: u64) {
        let now = |done: &Arc<AtomicU64>| done.load(Ordering::Relaxed);
        let from: Vec<u64> = self.done.iter().map(now).collect();
        until("every client goes on", || {
            let mut pairs = self.done.iter().zip(&from);
            pairs
                .all(|(done, from)| now(done) >= from + more)
                .then_some(())
        })
        .await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task.unwrap();
        }
    }
}

#[tokio::test]
async fn clients_survive_restarts_under_load() {
    let dc = fake_dc();
    let mut proxy = Config::new(dc.addr()).set("shards.drain_secs", 1).start();
    let load = Load::start(&proxy);
    for signals in [&["TERM"][..], &["TERM", "TERM"], &["KILL"]] {
        load.until_all_go_on(20).await;
        for signal in signals {
            proxy.signal(signal);
        }
        let (_, code) = proxy.wait_for_end();
        assert_eq!(code, (signals != ["KILL"]).then_some(0));
        proxy = proxy.start_again();
    }
    load.until_all_go_on(20).await;
    load.end().await;
    proxy.until_connections(0).await;
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn a_new_process_takes_over_while_the_old_one_drains() {
    let dc = fake_dc();
    let old = patient(&dc).start();
    let mut client = connect(&old, Mode::Ee).await;
    old.signal("TERM");
    until_refusing(old.addr).await;
    let new = patient(&dc).set("server.port", old.addr.port()).start();
    connect(&new, Mode::Ee).await;
    client.ping().await.unwrap();
}

fn expect_port_taken(addr: SocketAddr, dc: &FakeDc) {
    let config = Config::new(dc.addr()).set("server.port", addr.port());
    let mut proxy = Proxy::spawn(config.with_ports(), &|command| command);
    let (_, code) = proxy.wait_for_end();
    let said = proxy.log();
    assert_eq!(code, Some(3), "{said}");
    let advice = format!(
        "port {0} is taken; see who has it with `ss -ltnp sport = :{0}`",
        addr.port()
    );
    assert!(said.contains(&advice), "{said}");
}

#[test]
fn a_port_of_another_program_is_reported() {
    let dc = fake_dc();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    expect_port_taken(other.local_addr().unwrap(), &dc);
}

#[tokio::test]
async fn a_port_of_another_pinnace_is_reported() {
    let dc = fake_dc();
    let first = patient(&dc).start();
    expect_port_taken(first.addr, &dc);
    connect(&first, Mode::Ee).await;
}

#[tokio::test]
async fn without_its_api_port_it_serves_all_the_same() {
    let dc = fake_dc();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = other.local_addr().unwrap();
    let config = Config::new(dc.addr()).set("server.api.listen", format!("\"{api}\""));
    let proxy = Proxy::spawn(config.with_ports(), &|command| command);
    until("it serves", || proxy.log().contains("tg://").then_some(())).await;
    connect(&proxy, Mode::Ee).await;
    assert!(proxy.log().contains("no control API"), "{}", proxy.log());
}
