//! Every key that applies at once, one proof each: the file is replaced while the proxy runs, and
//! something is different for a client or for who asks the API. A key without a proof fails here.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use bench::{
    client::{Client, Dial, Mode},
    fake_dc::FakeDc,
};

use support::{
    Config, Proxy,
    bytes::say,
    config::BOB,
    hasty,
    process::{pinnace, read_log},
    until,
};

/// Makes a test of each proof, and the list of all keys that have one.
macro_rules! proofs {
    ($( $test:ident: $key:literal, )+) => {
        const PROVEN: &[&str] = &[$( $key ),+];

        $(
            #[tokio::test]
            async fn $test() {
                let dc = crate::support::fake_dc();
                proofs::$test(&dc).await;
            }
        )+
    };
}

#[path = "hot_rows/me.rs"]
mod me;
#[path = "hot_rows/synlimit.rs"]
mod synlimit;

proofs! {
    users: "access.users",
    enabled: "access.user_enabled",
    connections: "access.user_max_tcp_conns",
    connections_of_all: "access.user_max_tcp_conns_global_each",
    expirations: "access.user_expirations",
    quotas: "access.user_data_quota",
    rates: "access.user_rate_limits",
    rates_of_nets: "access.cidr_rate_limits",
    sources: "access.user_source_deny",
    addresses: "access.user_max_unique_ips",
    addresses_of_all: "access.user_max_unique_ips_global_each",
    address_mode: "access.user_max_unique_ips_mode",
    address_window: "access.user_max_unique_ips_window_secs",
    log_level: "general.log_level",
    core_counters: "general.telemetry.core_enabled",
    user_counters: "general.telemetry.user_enabled",
    pins: "network.dns_overrides",
}

#[test]
fn every_key_that_applies_at_once_has_a_proof() {
    let output = pinnace().arg("keys").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let mut hot = Vec::new();
    while let (Some(head), Some(when), Some(_)) = (lines.next(), lines.next(), lines.next()) {
        // Those without effect have more to say.
        if when.trim() == "applies at once" {
            hot.push(head.split(':').next().unwrap().to_owned());
        }
    }
    let own = PROVEN.iter().map(|&key| key.to_owned());
    let mut proven: Vec<String> = own.chain(me::proven()).chain(synlimit::proven()).collect();
    proven.sort_unstable();
    hot.sort_unstable();
    assert_eq!(hot, proven);
}

async fn connect(dial: &Dial) -> Client {
    let mut client = Client::connect(dial).await.unwrap();
    client.ping().await.unwrap();
    client
}

/// Whether a client is turned away before it can ask anything.
async fn is_refused(dial: &Dial) -> bool {
    match Client::connect(&hasty(dial.clone())).await {
        Ok(mut client) => client.ping().await.is_err(),
        Err(_) => true,
    }
}

fn alice(proxy: &Proxy) -> Dial {
    proxy.dial(Mode::Dd)
}

/// `alice` from the other end of the loopback network.
fn elsewhere(proxy: &Proxy) -> Dial {
    Dial {
        source: Some([127, 0, 0, 2].into()),
        ..alice(proxy)
    }
}

fn start(config: Config) -> Proxy {
    config.start()
}

/// Replaces the configuration; nothing but this key changes.
fn reload(proxy: &Proxy, key: &str, config: &Config) {
    let line = proxy.reload(config);
    assert!(line.contains(&format!("applied {key}")), "{line}");
}

async fn until_ended(client: &mut Client) {
    let limit = Instant::now() + support::PATIENCE;
    while client.ping().await.is_ok() {
        assert!(Instant::now() < limit, "the session goes on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn download(client: &mut Client, bytes: u64) -> Duration {
    let began = Instant::now();
    client.download(bytes).await.unwrap();
    began.elapsed()
}

/// A web site at this address that says its name and closes; until the test's process ends.
fn site(ip: [u8; 4], port: u16, name: &'static str) {
    let listener = TcpListener::bind(SocketAddr::from((ip, port))).unwrap();
    std::thread::spawn(move || {
        for mut visitor in listener.incoming().flatten() {
            // Who leaves with something unread resets the connection.
            let _ = visitor.read(&mut [0; 1024]);
            let _ = visitor.write_all(name.as_bytes());
        }
    });
}

mod proofs {
    use super::*;

    pub(super) async fn pins(dc: &FakeDc) {
        let port = support::free_port();
        site([127, 0, 0, 1], port, "the first site");
        site([127, 0, 0, 2], port, "the second site");
        let pin = |ip: &str| format!("[\"site.example:{port}:{ip}\"]");
        let config = Config::new(dc.addr())
            .set("censorship.mask", true)
            .set("censorship.mask_host", "\"site.example\"")
            .set("censorship.mask_port", port)
            .set("network.dns_overrides", pin("127.0.0.1"));
        let proxy = start(config);
        let stranger = async || say(proxy.addr, b"GET / HTTP/1.0\r\n\r\n").await.bytes;
        assert_eq!(stranger().await, b"the first site");
        let config = proxy.config();
        let config = config.set("network.dns_overrides", pin("127.0.0.2"));
        reload(&proxy, "network.dns_overrides", &config);
        let limit = Instant::now() + support::PATIENCE;
        while stranger().await != b"the second site" {
            assert!(Instant::now() < limit, "still the first site");
        }
    }

    pub(super) async fn users(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()));
        let bob = Dial::new(Mode::Dd, proxy.addr, BOB);
        assert!(is_refused(&bob).await);
        reload(&proxy, "access.users", &proxy.config().user("bob", BOB));
        let (mut bobs, mut alices) = (connect(&bob).await, connect(&alice(&proxy)).await);
        reload(&proxy, "access.users", &proxy.config());
        until_ended(&mut bobs).await;
        assert!(is_refused(&bob).await);
        alices.ping().await.unwrap();
    }

    pub(super) async fn enabled(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()));
        let mut client = connect(&alice(&proxy)).await;
        let off = proxy.config().set("access.user_enabled.alice", false);
        reload(&proxy, "access.user_enabled", &off);
        until_ended(&mut client).await;
        assert!(is_refused(&alice(&proxy)).await);
        reload(&proxy, "access.user_enabled", &proxy.config());
        connect(&alice(&proxy)).await;
    }

    async fn one_connection_more(dc: &FakeDc, key: &str, entry: &str) {
        let proxy = start(Config::new(dc.addr()).set(entry, 1));
        let mut first = connect(&alice(&proxy)).await;
        assert!(is_refused(&alice(&proxy)).await);
        reload(&proxy, key, &proxy.config().set(entry, 2));
        let _second = connect(&alice(&proxy)).await;
        assert!(is_refused(&alice(&proxy)).await);
        first.ping().await.unwrap();
    }

    pub(super) async fn connections(dc: &FakeDc) {
        let key = "access.user_max_tcp_conns";
        one_connection_more(dc, key, "access.user_max_tcp_conns.alice").await;
    }

    pub(super) async fn connections_of_all(dc: &FakeDc) {
        let key = "access.user_max_tcp_conns_global_each";
        one_connection_more(dc, key, key).await;
    }

    pub(super) async fn expirations(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()));
        let mut client = connect(&alice(&proxy)).await;
        let entry = "access.user_expirations.alice";
        let past = proxy.config().set(entry, "\"2020-01-01T00:00:00Z\"");
        reload(&proxy, "access.user_expirations", &past);
        until_ended(&mut client).await;
        assert!(is_refused(&alice(&proxy)).await);
    }

    pub(super) async fn quotas(dc: &FakeDc) {
        let entry = "access.user_data_quota.alice";
        let proxy = start(Config::new(dc.addr()).set(entry, 100_000));
        let mut client = connect(&alice(&proxy)).await;
        assert!(client.download(1 << 20).await.is_err());
        assert!(is_refused(&alice(&proxy)).await);
        let more = proxy.config().set(entry, 10_000_000);
        reload(&proxy, "access.user_data_quota", &more);
        connect(&alice(&proxy))
            .await
            .download(1 << 20)
            .await
            .unwrap();
    }

    async fn slower(dc: &FakeDc, key: &str, value: &str, elsewhere_too: bool) {
        const BYTES: u64 = 400_000;
        let proxy = start(Config::new(dc.addr()));
        let mut client = connect(&alice(&proxy)).await;
        let before = download(&mut client, BYTES).await;
        let slow = proxy.config().set(key, value);
        reload(&proxy, key, &slow);
        // Two seconds by the limit, less what may come at once.
        let after = download(&mut client, BYTES).await;
        assert!(
            after > before && after > Duration::from_secs(1),
            "{after:?}"
        );
        if elsewhere_too {
            let mut free = connect(&elsewhere(&proxy)).await;
            let free = download(&mut free, BYTES).await;
            assert!(free < after, "{free:?}");
        }
        reload(&proxy, key, &proxy.config());
        let again = download(&mut client, BYTES).await;
        assert!(again < after, "{again:?}");
    }

    pub(super) async fn rates(dc: &FakeDc) {
        let slow = "{ alice = { down_bps = 1600000 } }";
        slower(dc, "access.user_rate_limits", slow, false).await;
    }

    pub(super) async fn rates_of_nets(dc: &FakeDc) {
        let slow = "{ \"127.0.0.1/32\" = { down_bps = 1600000 } }";
        slower(dc, "access.cidr_rate_limits", slow, true).await;
    }

    pub(super) async fn sources(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()));
        connect(&elsewhere(&proxy)).await;
        let entry = "access.user_source_deny.alice";
        let denied = proxy.config().set(entry, "[\"127.0.0.2/31\"]");
        reload(&proxy, "access.user_source_deny", &denied);
        assert!(is_refused(&elsewhere(&proxy)).await);
        connect(&alice(&proxy)).await;
    }

    async fn one_address_more(dc: &FakeDc, key: &str, entry: &str) {
        let proxy = start(Config::new(dc.addr()).set(entry, 1));
        let _first = connect(&alice(&proxy)).await;
        assert!(is_refused(&elsewhere(&proxy)).await);
        reload(&proxy, key, &proxy.config().set(entry, 2));
        connect(&elsewhere(&proxy)).await;
    }

    pub(super) async fn addresses(dc: &FakeDc) {
        let key = "access.user_max_unique_ips";
        one_address_more(dc, key, "access.user_max_unique_ips.alice").await;
    }

    pub(super) async fn addresses_of_all(dc: &FakeDc) {
        let key = "access.user_max_unique_ips_global_each";
        one_address_more(dc, key, key).await;
    }

    /// One address that counts for an hour, when recent ones count.
    fn one_address(dc: &FakeDc) -> Config {
        Config::new(dc.addr())
            .set("access.user_max_unique_ips.alice", 1)
            .set("access.user_max_unique_ips_window_secs", 3600)
    }

    pub(super) async fn address_mode(dc: &FakeDc) {
        let proxy = start(one_address(dc));
        drop(connect(&alice(&proxy)).await);
        proxy.until_connections(0).await;
        drop(connect(&elsewhere(&proxy)).await);
        proxy.until_connections(0).await;
        let key = "access.user_max_unique_ips_mode";
        reload(&proxy, key, &proxy.config().set(key, "\"time_window\""));
        // Whichever comes first stays the only one.
        drop(connect(&elsewhere(&proxy)).await);
        proxy.until_connections(0).await;
        assert!(is_refused(&alice(&proxy)).await);
    }

    pub(super) async fn address_window(dc: &FakeDc) {
        let mode = "access.user_max_unique_ips_mode";
        let proxy = start(one_address(dc).set(mode, "\"time_window\""));
        drop(connect(&alice(&proxy)).await);
        proxy.until_connections(0).await;
        assert!(is_refused(&elsewhere(&proxy)).await);
        let key = "access.user_max_unique_ips_window_secs";
        reload(&proxy, key, &proxy.config().set(key, 1));
        let limit = Instant::now() + support::PATIENCE;
        while is_refused(&elsewhere(&proxy)).await {
            assert!(Instant::now() < limit, "the address is never forgotten");
        }
    }

    pub(super) async fn log_level(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()).set("general.log_level", "\"normal\""));
        let stranger = Dial::new(Mode::Dd, proxy.addr, BOB);
        assert!(is_refused(&stranger).await);
        let refusals = || read_log(proxy.dir()).matches("not served").count();
        assert_eq!(refusals(), 0);
        let key = "general.log_level";
        reload(&proxy, key, &proxy.config().set(key, "\"verbose\""));
        assert!(is_refused(&stranger).await);
        until("the refusal is logged", || (refusals() == 1).then_some(())).await;
        assert_eq!(proxy.get("/v1/security/posture")["log_level"], "verbose");
        // Errors only: the line about this reload is none.
        proxy.replace(&proxy.config().set(key, "\"silent\"").text());
        until("the level is shown", || {
            let posture = proxy.get("/v1/security/posture");
            (posture["log_level"] == "silent").then_some(())
        })
        .await;
        assert!(is_refused(&stranger).await);
        assert_eq!(refusals(), 1);
    }

    pub(super) async fn core_counters(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()));
        let total = || proxy.number("/v1/stats/summary", "/connections_total");
        connect(&alice(&proxy)).await;
        assert_eq!(total(), 1);
        let key = "general.telemetry.core_enabled";
        reload(&proxy, key, &proxy.config().set(key, false));
        connect(&alice(&proxy)).await;
        assert_eq!(total(), 1);
        reload(&proxy, key, &proxy.config());
        connect(&alice(&proxy)).await;
        assert_eq!(total(), 2);
    }

    pub(super) async fn user_counters(dc: &FakeDc) {
        let proxy = start(Config::new(dc.addr()));
        let octets = || proxy.user("alice", "total_octets");
        connect(&alice(&proxy)).await;
        until("traffic is counted", || (octets() > 0).then_some(())).await;
        proxy.until_connections(0).await;
        let (before, key) = (octets(), "general.telemetry.user_enabled");
        reload(&proxy, key, &proxy.config().set(key, false));
        connect(&alice(&proxy)).await;
        proxy.until_connections(0).await;
        assert_eq!(octets(), before);
        reload(&proxy, key, &proxy.config());
        connect(&alice(&proxy)).await;
        until("traffic is counted again", || {
            (octets() > before).then_some(())
        })
        .await;
    }
}
