//! Application protocols that genuine clients offer: who offers some, and none of the web, is a
//! stranger where `censorship.alpn_enforce` is on (protocol.md 7.1).

use std::net::SocketAddr;

use bench::client::{Client, Dial, Mode, Opening};
use shards::proto::faketls::{client_hello::HelloKind, record::HEADER};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    masked,
    site::{End, Peer, Site},
    support::{
        Config, Proxy,
        bytes::say,
        config::ALICE,
        fake_dc,
        hello::{protocols, with_alpn},
        nginx::Nginx,
    },
};

const KINDS: [HelloKind; 2] = [HelloKind::Classic517, HelloKind::PostQuantum];

/// Bodies of the extension, `None` leaves it out: some protocol of the web, or no list that could
/// be read (some of Telegram's own builds have odd extensions, protocol.md 6.2).
fn acceptable() -> Vec<Option<Vec<u8>>> {
    vec![
        Some(protocols(&["h2", "http/1.1"])),
        Some(protocols(&["http/1.1"])),
        Some(protocols(&["h2"])),
        Some(protocols(&["\u{a}\u{a}", "spdy/3", "h2"])),
        None,
        Some(protocols(&[])),
        Some(vec![]),
        Some(vec![0]),
        // The first name is longer than the list, and the list longer than the extension.
        Some(vec![0, 3, 200, b'h', b'2']),
        Some(vec![1, 0]),
    ]
}

/// Lists with none of the web's names.
fn foreign() -> Vec<Option<Vec<u8>>> {
    let lists: [&[&str]; 5] = [
        &["h3"],
        &["http/1.0", "http/0.9"],
        &["H2", "HTTP/1.1", "h2c", "http/1.1 "],
        &["mtproto"],
        &["acme-tls/1"],
    ];
    lists.iter().map(|names| Some(protocols(names))).collect()
}

/// A client of user `alice` who offers this.
fn offering(proxy: &Proxy, kind: HelloKind, body: Option<&[u8]>) -> (Dial, Opening) {
    let dial = Dial {
        hello: kind,
        ..proxy.dial(Mode::Ee)
    };
    let mut opening = Opening::new(&dial);
    let hello = opening.hello.take();
    opening.hello = hello.map(|hello| with_alpn(&hello, &ALICE, body));
    (dial, opening)
}

/// Every one of `offers` is served with a ServerHello that says nothing of a protocol: TLS 1.3
/// does so under encryption.
async fn serves(proxy: &Proxy, offers: &[Option<Vec<u8>>]) {
    for kind in KINDS {
        for body in offers {
            let (dial, opening) = offering(proxy, kind, body.as_deref());
            let mut client = Client::connect_with(&dial, &opening).await.unwrap();
            client.ping().await.unwrap();
            client.exchange(5_000, 5_000).await.unwrap();
            let (_, opening) = offering(proxy, kind, body.as_deref());
            let bytes = server_hello_bytes(proxy.addr, &opening.hello.unwrap()).await;
            let wanted = if kind == KINDS[0] { 127 } else { 1215 };
            assert_eq!(bytes, wanted, "{kind:?} {body:02x?}");
        }
    }
}

/// Length of the first record that comes back.
async fn server_hello_bytes(addr: SocketAddr, hello: &[u8]) -> usize {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..3], [0x16, 3, 3]);
    HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]))
}

#[tokio::test]
async fn clients_that_offer_a_protocol_of_the_web_or_none_are_served() {
    let site = Site::new();
    let dc = fake_dc();
    let config = masked(dc.addr(), site.addr());
    // It is on by default.
    for config in [config.clone(), config.set("censorship.alpn_enforce", false)] {
        let proxy = config.start();
        serves(&proxy, &acceptable()).await;
        assert_eq!(proxy.bad("tls_unknown_alpn"), 0);
    }
    assert!(site.is_idle());
}

#[tokio::test]
async fn clients_that_offer_foreign_protocols_alone_are_served_if_nobody_looks() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr())
        .set("censorship.alpn_enforce", false)
        .start();
    serves(&proxy, &foreign()).await;
    assert_eq!(proxy.bad("tls_unknown_alpn"), 0);
    assert!(site.is_idle());
}

#[test]
fn clients_that_offer_foreign_protocols_alone_see_the_site() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr()).start();
    let mut count = 0;
    for kind in KINDS {
        for body in foreign() {
            let (_, opening) = offering(&proxy, kind, body.as_deref());
            let hello = opening.hello.unwrap();
            let mut client = Peer::connect(proxy.addr);
            client.say(&hello);
            let mut host = site.next();
            assert!(host.take(hello.len()) == hello, "{kind:?} {body:02x?}");
            host.say(b"what the site says");
            drop(host);
            let heard = client.rest();
            assert_eq!(heard, (b"what the site says".to_vec(), End::Fin));
            count += 1;
        }
    }
    proxy.wait_for_bad("tls_unknown_alpn", count);
    assert_eq!(dc.stats().accepted, 0);
}

#[tokio::test]
async fn clients_that_offer_foreign_protocols_alone_hear_nothing_without_a_site() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 1)
        .start();
    let (_, opening) = offering(&proxy, KINDS[1], foreign()[0].as_deref());
    let said = say(proxy.addr, &opening.hello.unwrap()).await;
    said.expect_silence("who offers h3");
    assert_eq!(proxy.bad("tls_unknown_alpn"), 1);
}

#[test]
fn foreign_protocols_get_a_real_sites_own_refusal() {
    let Some(nginx) = Nginx::start() else {
        return;
    };
    let dc = fake_dc();
    let proxy = masked(dc.addr(), nginx.addr).start();
    for kind in KINDS {
        let [through, straight] = [proxy.addr, nginx.addr].map(|addr| {
            let (_, opening) = offering(&proxy, kind, Some(&protocols(&["mtproto"])));
            let mut client = Peer::connect(addr);
            client.say(&opening.hello.unwrap());
            client.rest()
        });
        assert_eq!(through, straight);
        // A fatal alert.
        assert_eq!(through.0[..6], [0x15, 3, 3, 0, 2, 2]);
    }
    proxy.wait_for_bad("tls_unknown_alpn", 2);
}
