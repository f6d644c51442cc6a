//! What the end-to-end tests share: the built binary with a configuration of its own, on free
//! loopback ports, with fake DCs for every DC id, so that nothing can leave this machine.
//!
//! Not here: clients and fake DCs (`bench`). Used by every binary in `tests/`.
#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses its own part"
)]
#![allow(clippy::unwrap_used, reason = "only tests come here")]

pub(crate) mod api;
pub(crate) mod bytes;
pub(crate) mod checker;
pub(crate) mod config;
pub(crate) mod hello;
pub(crate) mod me;
pub(crate) mod namespace;
pub(crate) mod nginx;
pub(crate) mod persistent;
pub(crate) mod process;
pub(crate) mod scripted_socks;
pub(crate) mod servers;
pub(crate) mod socks_server;
pub(crate) mod ss_server;
pub(crate) mod tls_site;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_dc::FakeDc,
};

pub(crate) use self::{config::Config, process::Proxy};

/// Limit of everything that has to happen sooner or later: several builds may share the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A fake DC on a free port.
pub(crate) fn fake_dc() -> FakeDc {
    FakeDc::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a fake DC")
}

/// A port that nobody listens on, each number once per process; below those that the kernel gives
/// to connecting sockets.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    let start = rand::random::<u16>() % COUNT;
    let _ = NEXT.compare_exchange(0, start.max(1), Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..COUNT {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    unreachable!("all ports are taken")
}

/// Waits until `look` has found something; the limit is [`PATIENCE`].
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// As [`wait_until`], letting the other tasks of the runtime go on.
pub(crate) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The kernel's loopback has IPv6.
pub(crate) fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        println!("skipped: no IPv6 on this machine's loopback");
    }
    has
}

/// This process may use two cores, so that two shards can be pinned.
pub(crate) fn has_two_cores() -> bool {
    let has = core_affinity::get_core_ids().unwrap_or_default().len() >= 2;
    if !has {
        println!("skipped: two shards want two cores");
    }
    has
}

/// The same client with a limit that suits tests which expect it to fail.
pub(crate) fn hasty(dial: Dial) -> Dial {
    Dial {
        timeout: Duration::from_secs(5),
        ..dial
    }
}

/// Clients of every mode that end their uplink after a request still get the answer to it.
pub(crate) async fn expect_answers_after_half_close(proxy: &Proxy) {
    const BYTES: u64 = 3 << 20;
    for mode in Mode::PROXIED {
        let (mut tx, mut rx) = Client::connect(&proxy.dial(mode)).await.unwrap().split();
        let id = tx.download(BYTES).await.unwrap();
        tx.shutdown().await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, rx.answer()).await;
        let answer = answer.expect("an answer").unwrap();
        answer.expect_stream(id, BYTES).unwrap();
        let end = tokio::time::timeout(PATIENCE, rx.answer()).await;
        let end = end.expect("an end").unwrap_err();
        assert!(matches!(end, ClientError::Closed { .. }), "{mode:?}: {end}");
    }
    proxy.until_connections(0).await;
}
