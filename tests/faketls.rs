//! FakeTLS: hellos of every shape and age, the policy for foreign names, and records cut anywhere.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::time::{SystemTime, UNIX_EPOCH};

use bench::client::{Client, ClientError, Dial, Mode, Opening};
use shards::proto::{
    crypto::HmacKey,
    faketls::{
        client_hello::{HelloKind, RANDOM_AT, verify, zero_random},
        record::ALERT_UNRECOGNIZED_NAME,
        server_hello::check_answer,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use support::{
    Config, Proxy,
    bytes::{chopper, first_bytes, listen, recutter, say},
    config::{ALICE, BOB},
    fake_dc, until,
};

const HELLOS: [HelloKind; 2] = [HelloKind::Classic517, HelloKind::PostQuantum];

fn dial(proxy: &Proxy, hello: HelloKind) -> Dial {
    Dial {
        hello,
        ..proxy.dial(Mode::Ee)
    }
}

fn named(proxy: &Proxy, domain: &str) -> Dial {
    Dial {
        domain: domain.into(),
        ..proxy.dial(Mode::Ee)
    }
}

async fn serve(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    client.ping().await?;
    client.exchange(20_000, 20_000).await
}

#[tokio::test]
async fn clocks_may_differ_by_two_minutes() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 1)
        .start();
    for hello in HELLOS {
        for clock_offset_secs in [-110, 0, 110] {
            let near = Dial {
                clock_offset_secs,
                ..dial(&proxy, hello)
            };
            serve(&near).await.unwrap();
        }
        for clock_offset_secs in [-130, 130, -1_000_000_000] {
            let far = Dial {
                clock_offset_secs,
                ..dial(&proxy, hello)
            };
            let said = say(proxy.addr, &first_bytes(&far)).await;
            said.expect_silence(&format!("a clock off by {clock_offset_secs} s"));
        }
    }
    assert_eq!(proxy.bad("tls_clock_skew"), 6);
    assert_eq!(dc.stats().accepted, 6);
}

#[tokio::test]
async fn clocks_may_be_ignored() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("access.ignore_time_skew", true)
        .start();
    for clock_offset_secs in [-1_000_000_000, 1_000_000] {
        let far = Dial {
            clock_offset_secs,
            ..proxy.dial(Mode::Ee)
        };
        serve(&far).await.unwrap();
    }
}

#[tokio::test]
async fn a_recorded_hello_with_a_new_date_is_a_replay() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 1)
        .start();
    let dial = proxy.dial(Mode::Ee);
    let opening = Opening::new(&dial);
    Client::connect_with(&dial, &opening).await.unwrap();
    let mut hello = opening.hello.unwrap();
    // Who recorded it knows when, and the date is only XORed in (protocol.md 6.5).
    hello[RANDOM_AT + 28] ^= 1;
    let mut zeroed = hello.clone();
    let random = zero_random(&mut zeroed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let date = verify(&zeroed, &random, &HmacKey::new(&ALICE)).unwrap();
    assert!(u64::from(date).abs_diff(now.as_secs()) < 60);
    let said = say(proxy.addr, &hello).await;
    said.expect_silence("a restamped hello");
    assert_eq!(proxy.bad("tls_replay"), 1);
}

#[tokio::test]
async fn foreign_names_are_dropped() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("censorship.unknown_sni_action", "\"drop\"")
        .start();
    let said = say(proxy.addr, &first_bytes(&named(&proxy, "www.example.com"))).await;
    assert!(said.bytes.is_empty() && !said.reset, "{said:?}");
    assert_eq!(proxy.bad("tls_unknown_sni"), 1);
    expect_ours(&proxy).await;
}

#[tokio::test]
async fn foreign_names_are_accepted() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("censorship.unknown_sni_action", "\"accept\"")
        .start();
    serve(&named(&proxy, "www.example.com")).await.unwrap();
    expect_ours(&proxy).await;
}

#[tokio::test]
async fn foreign_names_get_the_alert() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("censorship.unknown_sni_action", "\"reject_handshake\"")
        .start();
    for _ in 0..10 {
        let said = say(proxy.addr, &first_bytes(&named(&proxy, "www.example.com"))).await;
        assert_eq!(said.bytes, ALERT_UNRECOGNIZED_NAME);
        assert_eq!(said.bytes, [0x15, 3, 3, 0, 2, 2, 0x70]);
        assert!(!said.reset);
    }
    assert_eq!(proxy.bad("tls_unknown_sni"), 10);
    expect_ours(&proxy).await;
}

#[tokio::test]
async fn foreign_names_are_strangers_until_there_is_a_mask() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("censorship.unknown_sni_action", "\"mask\"")
        .set("timeouts.client_handshake", 1)
        .start();
    let said = say(proxy.addr, &first_bytes(&named(&proxy, "www.example.com"))).await;
    said.expect_silence("a foreign name");
    expect_ours(&proxy).await;
}

/// The policy for foreign names does not concern these.
async fn expect_ours(proxy: &Proxy) {
    for name in ["www.example.org", "WWW.Example.ORG", ""] {
        serve(&named(proxy, name)).await.unwrap();
    }
}

#[tokio::test]
async fn every_configured_name_is_ours() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set(
            "censorship.tls_domains",
            "[\"second.example\", \"Third.Example\"]",
        )
        .start();
    for name in ["second.example", "third.example", "www.example.org"] {
        serve(&named(&proxy, name)).await.unwrap();
    }
    let closed = serve(&named(&proxy, "fourth.example")).await.unwrap_err();
    assert!(matches!(closed, ClientError::Closed { .. }), "{closed}");
}

#[tokio::test]
async fn hellos_and_records_may_come_byte_by_byte() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for piece_bytes in [1, 7, 516] {
        let addr = chopper(proxy.addr, piece_bytes).await;
        for hello in HELLOS {
            let cut = Dial {
                addr,
                ..dial(&proxy, hello)
            };
            let mut client = Client::connect(&cut).await.unwrap();
            client.ping().await.unwrap();
            client.upload(3000).await.unwrap();
        }
    }
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn header_and_frames_may_be_cut_across_records() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for record_bytes in [1, 5, 63, 64, 65, 1000] {
        let cut = Dial {
            addr: recutter(proxy.addr, record_bytes).await,
            ..proxy.dial(Mode::Ee)
        };
        let mut client = Client::connect(&cut).await.unwrap();
        client.ping().await.unwrap();
        client.upload(6000).await.unwrap();
        client.exchange(6000, 100_000).await.unwrap();
    }
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn other_records_behind_the_answer_end_it() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for (what, bytes) in [
        ("a handshake record", &[0x16, 3, 3, 0, 1, 0][..]),
        ("an alert", &[0x15, 3, 3, 0, 2, 1, 0]),
        ("a record of another version", &[0x17, 3, 1, 0, 1, 0]),
        ("a record that is too long", &[0x17, 3, 3, 0xff, 0xff, 0]),
    ] {
        let mut stream = answered(&proxy).await;
        stream.write_all(bytes).await.unwrap();
        let said = listen(&mut stream, false).await;
        assert!(said.bytes.is_empty() && !said.reset, "{what}: {said:?}");
    }
    proxy.wait_for_bad("tls_bad_inner_handshake", 4);
}

#[tokio::test]
async fn an_alert_ends_the_uplink_of_a_relay() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    let mut stream = answered(&proxy).await;
    let opening = Opening::new(&proxy.dial(Mode::Ee));
    let mut flight = vec![0x17, 3, 3, 0, 64];
    flight.extend(opening.header);
    flight.extend([0x15, 3, 3, 0, 2, 1, 0]);
    stream.write_all(&flight).await.unwrap();
    let said = listen(&mut stream, false).await;
    assert!(said.bytes.is_empty() && !said.reset, "{said:?}");
    assert_eq!(dc.stats().accepted, 1);
    proxy.until_connections(0).await;
}

/// A connection whose hello was accepted, and the answer to it read.
async fn answered(proxy: &Proxy) -> TcpStream {
    let hello = Opening::new(&proxy.dial(Mode::Ee)).hello.unwrap();
    let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let random = *hello[RANDOM_AT..].first_chunk::<32>().unwrap();
    let mut answer = Vec::new();
    loop {
        stream.read_buf(&mut answer).await.unwrap();
        let checked = check_answer(&answer, &HmacKey::new(&ALICE), &random).unwrap();
        if let Some(bytes) = checked {
            assert_eq!(bytes, answer.len(), "something follows the answer");
            return stream;
        }
    }
}

#[tokio::test]
async fn answers_differ_and_have_the_configured_size() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("censorship.fake_cert_len", 3333)
        .set("censorship.server_hello_delay_min_ms", 5)
        .set("censorship.server_hello_delay_max_ms", 20)
        .start();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for hello in HELLOS {
        for _ in 0..3 {
            let opening = Opening::new(&dial(&proxy, hello));
            let mut stream = TcpStream::connect(proxy.addr).await.unwrap();
            stream.write_all(&opening.hello.unwrap()).await.unwrap();
            let a_bytes = if hello == HELLOS[0] { 127 } else { 1215 };
            let mut answer = vec![0; a_bytes + 6 + 5 + 3333];
            stream.read_exact(&mut answer).await.unwrap();
            let behind = &answer[a_bytes..a_bytes + 11];
            let c_bytes = 3333_u16.to_be_bytes();
            assert_eq!(behind[..9], [0x14, 3, 3, 0, 1, 1, 0x17, 3, 3]);
            assert_eq!(behind[9..], c_bytes);
            // Nothing before the client's next record, nor when it goes.
            stream.shutdown().await.unwrap();
            assert!(listen(&mut stream, false).await.bytes.is_empty());
            let flight = answer[a_bytes + 11..].to_vec();
            assert!(!seen.contains(&flight));
            seen.push(flight);
        }
    }
}

#[tokio::test]
async fn kinds_of_clients_are_counted_by_fingerprint_address_network_and_user() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("server.api.runtime_edge_enabled", true)
        .set("timeouts.client_handshake", 1)
        .start();
    for hello in [HELLOS[0], HELLOS[1], HELLOS[1]] {
        serve(&dial(&proxy, hello)).await.unwrap();
    }
    let stranger = Dial {
        secret: BOB,
        ..dial(&proxy, HELLOS[1])
    };
    say(proxy.addr, &first_bytes(&stranger)).await;
    let path = "/v1/runtime/tls-fingerprints";
    let data = until("all hellos are counted", || {
        let data = proxy.get(path)["data"].clone();
        let rows = data["by_fingerprint"].as_array()?;
        let total: u64 = rows.iter().filter_map(|row| row["total"].as_u64()).sum();
        (total == 4).then_some(data)
    })
    .await;
    let find = |list: &str, total: u64| {
        let rows = data[list].as_array().unwrap();
        let row = rows.iter().find(|row| row["total"] == total);
        row.unwrap_or_else(|| unreachable!("{list}: {rows:?}"))
            .clone()
    };
    assert_eq!(data["by_fingerprint"].as_array().unwrap().len(), 2);
    for (list, scope) in [
        ("by_fingerprint", None),
        ("by_ip", Some("127.0.0.1")),
        ("by_cidr", Some("127.0.0.0/24")),
    ] {
        // TLS 1.3 with a name and h2 among the protocols.
        let modern = find(list, 3);
        assert!(modern["ja4"].as_str().unwrap().starts_with("t13d"));
        assert!(modern["ja4"].as_str().unwrap().contains("h2_"));
        assert_eq!(modern["ja3"].as_str().unwrap().len(), 32);
        assert_eq!(modern["auth_success"], 2);
        assert_eq!(modern["bad_or_probe"], 1);
        assert_eq!(modern.get("scope").and_then(|scope| scope.as_str()), scope);
        assert_eq!(find(list, 1)["auth_success"], 1);
    }
    let alice = find("by_user", 2);
    assert_eq!(
        (&alice["scope"], &alice["bad_or_probe"]),
        (&"alice".into(), &0.into())
    );
    assert_eq!(data["parse_error_total"], 0);
}
