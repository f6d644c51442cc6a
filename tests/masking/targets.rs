//! Which mask host a stranger gets, and what they see when there is none.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use bench::client::{Client, Dial, Mode};
use shards::proto::{
    proxy_protocol::{Stated, parse},
    secret::Secret,
};

use crate::{
    masked, patient,
    site::{End, Peer, Site},
    support::{
        Proxy,
        bytes::first_bytes,
        fake_dc, free_port,
        process::{pinnace, read_log},
        wait_until,
    },
};

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// A hello with a secret that nobody has.
fn foreign(proxy: &Proxy, domain: &str) -> Vec<u8> {
    first_bytes(&Dial {
        secret: Secret([9; 16]),
        domain: domain.to_owned(),
        ..proxy.dial(Mode::Ee)
    })
}

/// Sends `bytes` and expects them at `site`.
fn arrives(proxy: &Proxy, bytes: &[u8], site: &Site, who: &str) {
    let mut client = Peer::connect(proxy.addr);
    client.say(bytes);
    let mut host = site.next();
    assert!(host.take(bytes.len()) == bytes, "{who}");
}

#[test]
fn names_choose_among_the_operators_sites() {
    let (main, shop, second) = (Site::new(), Site::new(), Site::new());
    let dc = fake_dc();
    let port = second.addr().port();
    let pins = format!("[\"www.example.org:{port}:127.0.0.1\", \"two.example:{port}:127.0.0.1\"]");
    let exclusive = format!("{{ \"shop.example\" = \"{}\" }}", shop.addr());
    let proxy = masked(dc.addr(), main.addr())
        .set("censorship.tls_domains", "[\"two.example\"]")
        .set("censorship.exclusive_mask", &exclusive)
        .start();
    for (domain, site) in [
        ("shop.example", &shop),
        ("www.example.org", &main),
        ("two.example", &main),
        ("evil.example", &main),
    ] {
        arrives(&proxy, &foreign(&proxy, domain), site, domain);
    }
    // Without a mask host the domains are sites of their own.
    let proxy = patient(dc.addr())
        .set("network.dns_overrides", pins)
        .set("censorship.mask_port", port)
        .set("censorship.tls_domains", "[\"two.example\"]")
        .set("censorship.exclusive_mask", exclusive)
        .start();
    for (domain, site) in [
        ("two.example", &second),
        ("shop.example", &shop),
        ("evil.example", &second),
    ] {
        arrives(&proxy, &foreign(&proxy, domain), site, domain);
    }
    assert!(main.is_idle());
}

#[test]
fn clients_that_name_a_foreign_site_are_masked_where_the_policy_says_so() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr())
        .set("censorship.unknown_sni_action", "\"mask\"")
        .start();
    let named = Dial {
        domain: "other.example".into(),
        ..proxy.dial(Mode::Ee)
    };
    arrives(&proxy, &first_bytes(&named), &site, "a foreign name");
    assert_eq!(proxy.bad("tls_unknown_sni"), 1);
}

#[test]
fn users_who_may_not_come_in_see_the_site() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr())
        .set("access.user_expirations.alice", "\"2020-01-01T00:00:00Z\"")
        .start();
    for mode in [Mode::Ee, Mode::Dd] {
        arrives(
            &proxy,
            &first_bytes(&proxy.dial(mode)),
            &site,
            "an expired user",
        );
    }
}

#[test]
fn a_unix_socket_can_be_the_mask_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mask.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let dc = fake_dc();
    let proxy = patient(dc.addr())
        .set("censorship.mask_unix_sock", format!("{path:?}"))
        .start();
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    let (mut host, _) = listener.accept().unwrap();
    let mut got = vec![0; GET.len()];
    std::io::Read::read_exact(&mut host, &mut got).unwrap();
    assert_eq!(got, GET);
    std::io::Write::write_all(&mut host, b"hello").unwrap();
    drop(host);
    assert_eq!(client.rest(), (b"hello".to_vec(), End::Fin));
}

#[test]
fn the_mask_host_is_told_who_came_where_it_wants_to_know() {
    for version in [1, 2] {
        let site = Site::new();
        let dc = fake_dc();
        let proxy = masked(dc.addr(), site.addr())
            .set("censorship.mask_proxy_protocol", version)
            .start();
        let mut client = Peer::connect(proxy.addr);
        client.say(GET);
        client.finish();
        let (got, end) = site.next().rest();
        let (len, stated) = parse(&got).unwrap().expect("a whole header");
        let source = client.0.local_addr().unwrap();
        let destination = proxy.addr;
        assert_eq!(
            stated,
            Stated::Addrs {
                source,
                destination
            }
        );
        assert_eq!(got[0] == b'P', version == 1);
        assert_eq!((&got[len..], end), (GET, End::Fin));
    }
}

/// Says `bytes` and expects silence, then an ordinary end after about as long as a connect.
fn expect_silence(addr: SocketAddr, bytes: &[u8]) {
    let mut client = Peer::connect(addr);
    let began = Instant::now();
    client.say(bytes);
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(4), "closed after {took:?}");
}

#[test]
fn a_mask_host_that_is_not_there_leaves_silence() {
    let dc = fake_dc();
    let gone = Site::new();
    let mask = gone.addr();
    drop(gone);
    let proxy = masked(dc.addr(), mask).start();
    expect_silence(proxy.addr, GET);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nobody.sock");
    let unix = patient(dc.addr())
        .set("censorship.mask_unix_sock", format!("{path:?}"))
        .start();
    expect_silence(unix.addr, &foreign(&unix, "www.example.org"));
    let unresolved = patient(dc.addr())
        .set("network.dns_overrides", "[\"other.invalid:1:127.0.0.1\"]")
        .set("censorship.mask_host", "\"mask.invalid\"")
        .start();
    expect_silence(unresolved.addr, &[7; 64]);
}

#[test]
fn names_without_an_address_are_told_with_the_keys_they_are_from() {
    let dc = fake_dc();
    let proxy = patient(dc.addr())
        .set("censorship.mask_host", "\"Mask.invalid\"")
        .set(
            "upstreams",
            "[{ type = \"direct\" }, { type = \"socks5\", address = \"mask.invalid:1\" }]",
        )
        .start();
    wait_until("it is told", || {
        let keys = "(censorship.mask_host, upstreams[1].address): ";
        let wanted = format!("cannot resolve mask.invalid {keys}");
        proxy.log().contains(&wanted).then_some(())
    });
}

#[tokio::test]
async fn clients_are_served_while_the_mask_host_is_not_there() {
    let dc = fake_dc();
    let gone = Site::new();
    let mask = gone.addr();
    drop(gone);
    let proxy = masked(dc.addr(), mask).start();
    let mut strangers: Vec<Peer> = (0..50).map(|_| Peer::connect(proxy.addr)).collect();
    for stranger in &mut strangers {
        stranger.say(GET);
    }
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    client.ping().await.unwrap();
}

#[test]
fn the_next_address_is_tried_when_one_refuses() {
    // Only the second address of the name listens.
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let dc = fake_dc();
    let proxy = patient(dc.addr())
        .set("censorship.mask_host", "\"localhost\"")
        .set("censorship.mask_port", port)
        .set("network.ipv6", true)
        .set("network.prefer", 6)
        .set("server.listen_addr_ipv6", "\"::1\"")
        .start();
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    let (stream, _) = listener.accept().unwrap();
    assert_eq!(Peer::new(stream).take(GET.len()), GET);
}

#[test]
fn a_mask_host_that_is_the_proxy_itself_does_not_load() {
    let dc = fake_dc();
    let port = free_port();
    let text = patient(dc.addr())
        .set("server.port", port)
        .set("censorship.mask_host", "\"127.0.0.1\"")
        .set("censorship.mask_port", port)
        .with_ports();
    let dir = tempfile::tempdir().unwrap();
    text.write(&dir.path().join("config.toml"));
    for words in [&["config.toml"][..], &["check", "config.toml"]] {
        let output = pinnace()
            .args(words)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("censorship.mask_host"), "{said}");
        assert!(said.contains("this proxy itself"), "{said}");
    }
    assert_eq!(read_log(dir.path()), "");
}

#[test]
fn a_name_that_turns_out_to_be_the_proxy_itself_is_never_contacted() {
    let dc = fake_dc();
    let port = free_port();
    let proxy = patient(dc.addr())
        .set("server.port", port)
        .set(
            "network.dns_overrides",
            format!("[\"self.example:{port}:127.0.0.1\"]"),
        )
        .set("censorship.mask_host", "\"self.example\"")
        .set("censorship.mask_port", port)
        .start();
    expect_silence(proxy.addr, GET);
    let mut client = Peer::connect(proxy.addr);
    client.say(&[b'x'; 20_000]);
    let (said, _) = client.rest();
    assert_eq!(said, b"");
    let log = proxy.log();
    assert!(log.contains("is this proxy itself"), "{log}");
    let ended = proxy.get("/v1/stats/summary")["connections_total"].as_u64();
    assert_eq!(ended, Some(2), "no connection but the test's own");
}
