//! Answers that look like those of the site behind the domain: learned from a real nginx, kept
//! over a restart, and read by other people's TLS clients.
//!
//! Debian's OpenSSL has no post-quantum group: sites with one are in `hybrid.rs`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod hybrid;
mod rustls_site;
mod seen;
#[path = "../support/mod.rs"]
mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bench::client::{Client, Dial, Mode, Opening};
use shards::proto::faketls::{
    client_hello::HelloKind,
    server_hello::{FLIGHT_BYTES_MAX, FLIGHT_BYTES_MIN},
};

use seen::{ask, ask_often, compare};
use support::{
    Config, Proxy,
    config::ALICE,
    fake_dc,
    hello::{protocols, with_alpn},
    servers,
    tls_site::{Certificate, TlsSite},
    wait_until,
};

fn hello(proxy: &Proxy, kind: HelloKind) -> Vec<u8> {
    let dial = Dial {
        hello: kind,
        ..proxy.dial(Mode::Ee)
    };
    Opening::new(&dial).hello.unwrap()
}

/// What openssl's client, which reads the messages, says about the size of the flight.
fn openssl_counts(addr: SocketAddr, alpn: &str) -> usize {
    let openssl = servers::find("openssl").unwrap();
    let output = Command::new(openssl)
        .args(["s_client", "-msg", "-servername", "www.example.org"])
        .args(["-alpn", alpn, "-connect", &addr.to_string()])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut bytes = 0;
    for line in text.lines() {
        let message = [
            "EncryptedExtensions",
            "Certificate",
            "CertificateVerify",
            "Finished",
        ]
        .iter()
        .any(|name| line.starts_with("<<< ") && line.ends_with(&format!("], {name}")));
        if message {
            let (_, behind) = line.split_once("[length ").unwrap();
            let (length, _) = behind.split_once(']').unwrap();
            let length = usize::from_str_radix(length, 16).unwrap();
            // In records of at most 16 KiB, each with its type and its tag.
            bytes += length + 17 * length.div_ceil(16_384);
        }
    }
    assert!(bytes > 0, "{text}");
    bytes
}

fn proxy(dc: SocketAddr, site: SocketAddr) -> Proxy {
    let proxy = Config::new(dc)
        .set("censorship.tls_emulation", true)
        .set("censorship.mask_host", "\"127.0.0.1\"")
        .set("censorship.mask_port", site.port())
        .start();
    wait_until_learned(&proxy);
    proxy
}

fn wait_until_learned(proxy: &Proxy) {
    wait_until("the site's answers are learned", || {
        proxy.log().contains("learned from").then_some(())
    });
}

#[tokio::test]
async fn answers_are_those_of_a_site_with_an_rsa_key() {
    imitates(Certificate::Rsa, "").await;
}

#[tokio::test]
async fn answers_are_those_of_a_site_with_an_ecdsa_key() {
    imitates(Certificate::Ecdsa, "").await;
}

#[tokio::test]
async fn answers_are_those_of_a_site_with_a_long_chain_and_a_suite_of_its_own() {
    imitates(Certificate::Chain(7), "ssl_prefer_server_ciphers on;").await;
}

/// Sizes, suite, group and extensions in their order.
async fn imitates(certificate: Certificate, more: &str) {
    let dc = fake_dc();
    let Some(site) = TlsSite::start(certificate, more) else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    let [ours, _] = compare(&proxy, site.addr);
    // The same by a client that knows where the flight ends; the hash has 32 or 48 bytes.
    let counted = openssl_counts(site.addr, "h2,http/1.1");
    let ours = ours.flight_bytes;
    assert!(counted.abs_diff(ours) <= 16 + 2, "{counted} and {ours}");
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    client.ping().await.unwrap();
}

#[test]
fn sizes_follow_the_protocol_that_a_client_offers() {
    let dc = fake_dc();
    let Some(site) = TlsSite::start(Certificate::Rsa, "") else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    let offers = [Some(&["h2", "http/1.1"][..]), Some(&["http/1.1"]), None];
    let bodies = offers.map(|names| names.map(protocols));
    for kind in [HelloKind::PostQuantum, HelloKind::Classic517] {
        let hellos: Vec<Vec<u8>> = bodies
            .iter()
            .map(|body| with_alpn(&hello(&proxy, kind), &ALICE, body.as_deref()))
            .collect();
        let sizes = |addr| -> Vec<usize> {
            let all = ask_often(addr, &hellos).into_iter();
            all.map(|seen| seen.flight_bytes).collect()
        };
        let (theirs, ours) = (sizes(site.addr), sizes(proxy.addr));
        // The protocol that was chosen is in the flight, and takes as much as its name is long.
        let told = [theirs[0] - theirs[2], theirs[1] - theirs[2]];
        assert_eq!(told, [4 + 2 + 1 + 2, 4 + 2 + 1 + 8]);
        assert_eq!(ours, theirs);
    }
}

#[test]
fn longer_flights_than_clients_take_are_cut() {
    let dc = fake_dc();
    let Some(site) = TlsSite::start(Certificate::Chain(20), "") else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    let theirs = ask(site.addr, &hello(&proxy, HelloKind::PostQuantum));
    assert!(theirs.flight_bytes > 16_384 && theirs.kinds.len() > 2 + 4);
    let ours = compare(&proxy, site.addr).map(|seen| seen.flight_bytes);
    assert_eq!(ours, [FLIGHT_BYTES_MAX; 2]);
}

#[tokio::test]
async fn what_was_learned_survives_a_restart_without_the_site() {
    let dc = fake_dc();
    let Some(site) = TlsSite::start(Certificate::Rsa, "") else {
        return;
    };
    let mut proxy = proxy(dc.addr(), site.addr);
    let before = ask(proxy.addr, &hello(&proxy, HelloKind::PostQuantum));
    drop(site);
    proxy.signal("TERM");
    proxy.wait_for_end();
    proxy.start_over();
    assert!(proxy.log().contains("learned 0 h ago"), "{}", proxy.log());
    let after = ask(proxy.addr, &hello(&proxy, HelloKind::PostQuantum));
    assert_eq!(after.flight_bytes, before.flight_bytes);
    assert_eq!(after.shape()[76..], before.shape()[76..]);
    wait_until("the site is found to be gone", || {
        proxy.log().contains("stays in use").then_some(())
    });
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    client.ping().await.unwrap();
}

#[test]
fn sites_that_speak_tls_1_2_only_are_estimated() {
    let dc = fake_dc();
    let Some(site) = TlsSite::start_with(Certificate::Rsa, "TLSv1.2", "") else {
        return;
    };
    let Some(modern) = TlsSite::start(Certificate::Rsa, "") else {
        return;
    };
    let proxy = proxy(dc.addr(), site.addr);
    assert!(proxy.log().contains("estimated from TLS 1.2"));
    let ours = ask(proxy.addr, &hello(&proxy, HelloKind::PostQuantum));
    let theirs = ask(modern.addr, &hello(&proxy, HelloKind::PostQuantum));
    // Another certificate of the same kind.
    let apart = ours.flight_bytes.abs_diff(theirs.flight_bytes);
    assert!(
        apart <= 4,
        "{} and {}",
        ours.flight_bytes,
        theirs.flight_bytes
    );
}

#[test]
fn without_imitation_all_answers_have_one_size() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    let size = || ask(proxy.addr, &hello(&proxy, HelloKind::Classic517)).flight_bytes;
    let first = size();
    assert!((1024..=4095).contains(&first));
    assert_eq!((size(), size()), (first, first));
}

#[test]
fn returning_addresses_get_short_answers() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("censorship.fake_cert_len", 4000)
        .set("censorship.serverhello_compact", true)
        .set("censorship.tls_full_cert_ttl_secs", 600)
        .start();
    let size = || ask(proxy.addr, &hello(&proxy, HelloKind::PostQuantum)).flight_bytes;
    assert_eq!(size(), 4000);
    for _ in 0..3 {
        assert!((FLIGHT_BYTES_MIN..FLIGHT_BYTES_MIN + 256).contains(&size()));
    }
    let without = Config::new(dc.addr())
        .set("censorship.fake_cert_len", 4000)
        .start();
    let size = || ask(without.addr, &hello(&without, HelloKind::PostQuantum)).flight_bytes;
    assert_eq!((size(), size()), (4000, 4000));
}

/// Passes on one connection and keeps what the proxy says on it.
fn tap(proxy: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = Arc::clone(&heard);
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = TcpStream::connect(proxy).unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut piece = [0; 65_536];
        while let Ok(read @ 1..) = server.read(&mut piece) {
            ear.lock().unwrap().extend_from_slice(&piece[..read]);
            client.write_all(&piece[..read]).unwrap();
        }
    });
    (addr, heard)
}

/// Payload bytes of the records behind the answer.
fn record_sizes(heard: &Mutex<Vec<u8>>) -> Vec<usize> {
    let bytes = heard.lock().unwrap();
    let mut sizes = Vec::new();
    let mut rest = &bytes[..];
    while let Some((header, behind)) = rest.split_at_checked(5) {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        sizes.push(length);
        rest = behind.get(length..).unwrap_or_default();
    }
    sizes.split_off(3)
}

#[tokio::test]
async fn records_begin_short_and_grow_where_that_is_wanted() {
    let dc = fake_dc();
    for fast in [true, false] {
        let proxy = Config::new(dc.addr())
            .set("shards.record_sizes", "\"ramp\"")
            .set("general.fast_mode", fast)
            .start();
        let (addr, heard) = tap(proxy.addr);
        let dial = Dial {
            addr,
            ..proxy.dial(Mode::Ee)
        };
        let mut client = Client::connect(&dial).await.unwrap();
        for _ in 0..2 {
            let before = record_sizes(&heard).len();
            client.download(4 << 20).await.unwrap();
            let sizes = record_sizes(&heard).split_off(before);
            assert!(sizes[..40].iter().all(|size| *size <= 1450), "{sizes:?}");
            assert!(sizes[..60].iter().all(|size| *size <= 4096), "{sizes:?}");
            assert!(sizes[40..60].iter().any(|size| *size > 1450), "{sizes:?}");
            assert!(sizes[60..].iter().any(|size| *size > 4096), "{sizes:?}");
            // A silence that begins it anew.
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
    }
    let plain = Config::new(dc.addr()).start();
    let (addr, heard) = tap(plain.addr);
    let dial = Dial {
        addr,
        ..plain.dial(Mode::Ee)
    };
    let mut client = Client::connect(&dial).await.unwrap();
    client.download(4 << 20).await.unwrap();
    let sizes = record_sizes(&heard);
    assert!(sizes[..40].iter().any(|size| *size > 4096), "{sizes:?}");
}
