//! Listeners as a file configures them: PROXY headers, the Unix socket, several addresses, links.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use bench::client::{Client, Dial, Mode};
use tempfile::TempDir;

use support::{
    Config, PATIENCE, Proxy, config::ALICE, fake_dc, free_port, has_ipv6, hasty, until, wait_until,
};

/// A port in front of a proxy, as a load balancer has one: what `connect` brings, with `header`
/// first.
fn balancer<S>(header: &'static [u8], connect: impl Fn() -> S + Send + 'static) -> SocketAddr
where
    S: Stream,
{
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let (near, mut far) = (near.unwrap(), connect());
            far.write_all(header).unwrap();
            let (from, to) = (near.try_clone().unwrap(), far.twin());
            thread::spawn(move || copy(from, to));
            thread::spawn(move || copy(far, near));
        }
    });
    addr
}

fn copy(mut from: impl Stream, mut to: impl Stream) {
    // However it ends, the other side is told.
    drop(std::io::copy(&mut from, &mut to));
    to.end();
}

/// What both kinds of streams can do.
trait Stream: std::io::Read + std::io::Write + Send + 'static {
    fn twin(&self) -> Self;
    fn end(&self);
}

impl Stream for TcpStream {
    fn twin(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end(&self) {
        drop(self.shutdown(std::net::Shutdown::Write));
    }
}

impl Stream for UnixStream {
    fn twin(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end(&self) {
        drop(self.shutdown(std::net::Shutdown::Write));
    }
}

fn to_tcp(addr: SocketAddr) -> impl Fn() -> TcpStream + Send + 'static {
    move || TcpStream::connect(addr).unwrap()
}

fn to_unix(path: PathBuf) -> impl Fn() -> UnixStream + Send + 'static {
    move || UnixStream::connect(&path).unwrap()
}

async fn ping(dial: &Dial) -> Client {
    let mut client = Client::connect(dial).await.unwrap();
    client.ping().await.unwrap();
    client
}

/// What a stranger gets from `addr` before it is closed.
fn closed(addr: SocketAddr, sent: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be closed before all of it is sent.
    drop(stream.write_all(sent));
    let mut got = Vec::new();
    drop(stream.read_to_end(&mut got));
    got
}

#[tokio::test]
async fn clients_behind_a_balancer_are_counted_by_their_own_address() {
    let dc = fake_dc();
    let config = Config::new(dc.addr())
        .set("server.proxy_protocol", true)
        .set("server.proxy_protocol_trusted_cidrs", "[\"127.0.0.1\"]")
        .set("access.user_max_unique_ips.alice", 1);
    let proxy = config.start();
    let shown = proxy.get("/v1/security/posture");
    assert_eq!(shown["proxy_protocol_enabled"], true);
    let one = balancer(
        b"PROXY TCP4 203.0.113.7 192.0.2.1 5 443\r\n",
        to_tcp(proxy.addr),
    );
    let other = balancer(
        b"PROXY TCP4 203.0.113.8 192.0.2.1 5 443\r\n",
        to_tcp(proxy.addr),
    );
    for mode in Mode::PROXIED {
        let held = ping(&Dial::new(mode, one, ALICE)).await;
        // The same address once more, and one too many.
        drop(ping(&Dial::new(mode, one, ALICE)).await);
        let refused = hasty(Dial::new(mode, other, ALICE));
        let served = match Client::connect(&refused).await {
            Ok(mut client) => client.ping().await.is_ok(),
            Err(_) => false,
        };
        assert!(!served);
        drop(held);
        proxy.until_connections(0).await;
    }
}

#[tokio::test]
async fn log_says_why_a_header_was_not_taken() {
    let dc = fake_dc();
    let base = Config::new(dc.addr())
        .set("general.log_level", "\"normal\"")
        .set("server.proxy_protocol", true);
    let keys = [
        "server.proxy_protocol ",
        "server.proxy_protocol_trusted_cidrs",
        "server.proxy_protocol_header_timeout_ms",
    ];
    let told = |proxy: &Proxy, reason: &str, trusted: bool| {
        let line = wait_until("it is told", || {
            let log = proxy.log();
            log.lines()
                .find(|line| line.contains(reason))
                .map(str::to_owned)
        });
        assert!(line.contains("peer=127.0.0.1:"), "{line}");
        assert!(line.contains(&format!("trusted={trusted}")), "{line}");
        for key in keys {
            assert!(line.contains(key), "{line}");
        }
    };
    let proxy = base.clone().start();
    assert!(
        proxy
            .log()
            .contains("whoever reaches the port may state any source address")
    );
    assert_eq!(closed(proxy.addr, b"\x16\x03\x01\x02\x00\x01"), b"");
    told(&proxy, "no PROXY header: first byte 0x16", true);
    assert_eq!(closed(proxy.addr, b"PROXY TCP4 x\r\n"), b"");
    told(&proxy, "malformed PROXY header: malformed PROXY line", true);
    assert_eq!(closed(proxy.addr, b"PRO"), b"");
    told(&proxy, "no complete PROXY header within 500 ms", true);
    let classes = proxy.get("/v1/stats/summary")["connections_bad_by_class"].to_string();
    for class in [
        "proxy_header_missing",
        "proxy_header_malformed",
        "proxy_header_timeout",
    ] {
        assert!(classes.contains(class), "{classes}");
    }
    let proxy = base
        .set("server.proxy_protocol_trusted_cidrs", "[]")
        .start();
    assert!(proxy.log().contains("nobody may send a PROXY header"));
    assert_eq!(closed(proxy.addr, b"PROXY UNKNOWN\r\n"), b"");
    told(&proxy, "the peer is not trusted", false);
}

#[tokio::test]
async fn header_limit_is_the_files() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("server.proxy_protocol", true)
        .set("server.proxy_protocol_header_timeout_ms", 1_500)
        .start();
    // Later than the default allows.
    let mut stream = TcpStream::connect(proxy.addr).unwrap();
    stream.write_all(b"PROXY UNK").unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    stream.write_all(b"NOWN\r\n").unwrap();
    until("the header is taken", || {
        let open = proxy.number("/v1/stats/summary", "/connections_bad_total") == 0;
        open.then_some(())
    })
    .await;
    assert_eq!(closed(proxy.addr, b"PROXY UNK"), b"");
    assert!(proxy.log().contains("within 1500 ms"));
}

fn unix_config(dc: SocketAddr, dir: &TempDir) -> (Config, PathBuf) {
    let path = dir.path().join("clients.sock");
    let config = Config::new(dc)
        .set("server.listen_unix_sock", format!("\"{}\"", path.display()))
        .set("server.listen_unix_sock_perm", "\"0600\"");
    (config, path)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn unix_socket_serves_survives_a_kill_and_goes_with_the_process() {
    let (dc, dir) = (fake_dc(), tempfile::tempdir().unwrap());
    let (config, path) = unix_config(dc.addr(), &dir);
    let mut proxy = config.start();
    assert_eq!(mode(&path), 0o600);
    assert!(
        proxy
            .log()
            .contains(&format!("listening on  {}", path.display()))
    );
    let near = balancer(b"", to_unix(path.clone()));
    for mode in Mode::PROXIED {
        drop(ping(&Dial::new(mode, near, ALICE)).await);
    }
    proxy.signal("KILL");
    proxy.wait_for_end();
    assert!(path.exists(), "nobody could remove it");
    proxy.start_over();
    drop(ping(&Dial::new(Mode::Ee, near, ALICE)).await);
    proxy.signal("TERM");
    assert_eq!(proxy.wait_for_end().1, Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn unix_socket_may_be_the_only_listener() {
    let (dc, dir) = (fake_dc(), tempfile::tempdir().unwrap());
    let (config, path) = unix_config(dc.addr(), &dir);
    let proxy = config.set("server.listen_tcp", false).start();
    assert!(TcpStream::connect(proxy.addr).is_err());
    drop(ping(&Dial::new(Mode::Dd, balancer(b"", to_unix(path)), ALICE)).await);
}

#[tokio::test]
async fn each_listener_has_its_own_port_header_and_name_in_links() {
    let dc = fake_dc();
    let (plain, behind) = (free_port(), free_port());
    let v6 = has_ipv6();
    let third = match v6 {
        true => format!("[[server.listeners]]\nip = \"::1\"\nport = {plain}\n"),
        false => String::new(),
    };
    let config = Config::new(dc.addr())
        .unset("general.links.public_host")
        .set("network.ipv6", v6);
    let proxy = config
        .more(&format!(
            "[[server.listeners]]\nip = \"127.0.0.1\"\nport = {plain}\nannounce = \"a.example\"\n\
             [[server.listeners]]\nip = \"127.0.0.2\"\nport = {behind}\nproxy_protocol = true\n\
             announce_ip = \"192.0.2.9\"\n{third}"
        ))
        .start();
    let at = |addr: &str| -> SocketAddr { addr.parse().unwrap() };
    let (one, two) = (format!("127.0.0.1:{plain}"), format!("127.0.0.2:{behind}"));
    drop(ping(&Dial::new(Mode::Dd, at(&one), ALICE)).await);
    let front = balancer(b"PROXY UNKNOWN\r\n", to_tcp(at(&two)));
    drop(ping(&Dial::new(Mode::Dd, front, ALICE)).await);
    assert_eq!(closed(at(&two), b"GET / HTTP/1.0\r\n\r\n"), b"");
    if v6 {
        drop(ping(&Dial::new(Mode::Dd, at(&format!("[::1]:{plain}")), ALICE)).await);
    }
    let log = proxy.log();
    for addr in [&one, &two] {
        assert!(log.contains(&format!("listening on  {addr}")), "{log}");
    }
    for host in ["a.example", "192.0.2.9"] {
        let link = format!("tg://proxy?server={host}&port={plain}&");
        assert!(log.contains(&link), "{log}");
    }
}

#[tokio::test]
async fn families_that_are_off_are_skipped_with_a_warning() {
    let dc = fake_dc();
    let port = free_port();
    let proxy = Config::new(dc.addr())
        .more(&format!(
            "[[server.listeners]]\nip = \"127.0.0.1\"\nport = {port}\n\
             [[server.listeners]]\nip = \"::1\"\nport = {port}\n"
        ))
        .start();
    let warning = format!("not listening on [::1]:{port}: its address family is off");
    assert!(proxy.log().contains(&warning), "{}", proxy.log());
}

#[tokio::test]
async fn clients_over_the_bound_wait_and_are_dropped() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("server.max_connections", 2)
        .set("server.accept_permit_timeout_ms", 300)
        .start();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(ping(&proxy.dial(Mode::Dd)).await);
    }
    assert!(Client::connect(&hasty(proxy.dial(Mode::Ee))).await.is_err());
    let total = || proxy.number("/v1/stats/zero/all", "/core/accept_permit_timeout_total");
    until("it is counted", || (total() == 1).then_some(())).await;
    // One who waits gets the place of one who leaves meanwhile.
    let dial = proxy.dial(Mode::Ee);
    let waiting = tokio::spawn(async move { ping(&dial).await });
    held.pop();
    drop(waiting.await.unwrap());
    assert_eq!(total(), 1);
}

#[test]
fn segment_sizes_that_stop_android_clients_are_told() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("server.client_mss", "\"2in8\"")
        .start();
    let log = proxy.log();
    assert!(log.contains("server.client_mss"), "{log}");
    assert!(log.contains("Android"), "{log}");
}
