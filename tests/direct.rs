//! Plain clients (obfuscated2 with all three tags) and what both kinds share: framings, fast mode,
//! DC ids, users, replayed headers, strangers.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use bench::{
    client::{Client, ClientError, Dial, Mode, Opening},
    fake_dc::FakeDc,
};
use shards::proto::{
    dc::DcId, faketls::client_hello::HelloKind, obfuscated2, obfuscated2::HEADER_BYTES,
    secret::Secret,
};

use support::{
    Config, Proxy,
    bytes::{Said, chopper, first_bytes, replayable, say},
    config::{ALICE, BOB},
    fake_dc, has_two_cores, hasty,
};

const MIB: usize = 1 << 20;
const HELLOS: [HelloKind; 2] = [HelloKind::Classic517, HelloKind::PostQuantum];

/// Every kind of client once.
fn every_client(proxy: &Proxy) -> Vec<Dial> {
    let mut dials: Vec<Dial> = Mode::PROXIED.map(|mode| proxy.dial(mode)).into();
    let other = Dial {
        hello: HELLOS[0],
        ..proxy.dial(Mode::Ee)
    };
    dials.push(other);
    dials
}

/// All that a client does, with every byte compared at both ends.
async fn exercise(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    assert_eq!(
        client.who_am_i().await?,
        (dial.dc, dial.framing.tag()[0]),
        "{:?}",
        dial.mode
    );
    client.ping().await?;
    client.download(MIB as u64).await?;
    client.upload(MIB).await?;
    client.exchange(MIB, MIB as u64).await?;
    let body: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(client.echo(&body).await?, body);
    client.ping().await
}

async fn check_every_client(fast: bool) {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("general.fast_mode", fast)
        .start();
    for dial in every_client(&proxy) {
        dc.forget_seen();
        exercise(&dial)
            .await
            .unwrap_or_else(|e| unreachable!("{:?} {:?}: {e}", dial.mode, dial.hello));
        assert_eq!(dc.seen().len(), 1, "one DC connection per client");
    }
    assert_eq!(dc.stats().damaged, 0);
    proxy.until_connections(0).await;
    assert_eq!(
        proxy.number("/v1/stats/summary", "/connections_bad_total"),
        0
    );
}

#[tokio::test]
async fn every_client_is_served_in_fast_mode() {
    check_every_client(true).await;
}

#[tokio::test]
async fn every_client_is_served_without_fast_mode() {
    check_every_client(false).await;
}

#[tokio::test]
async fn dc_gets_the_clients_downlink_keys_in_fast_mode_only() {
    let dc = fake_dc();
    for fast in [true, false] {
        let proxy = Config::new(dc.addr())
            .set("general.fast_mode", fast)
            .start();
        for mode in Mode::PROXIED {
            dc.forget_seen();
            let dial = proxy.dial(mode);
            let opening = Opening::new(&dial);
            let mut client = Client::connect_with(&dial, &opening).await.unwrap();
            client.ping().await.unwrap();
            let keys = obfuscated2::client_keys(&opening.header, &ALICE);
            let mut material = dc.seen()[0].header[8..56].to_vec();
            material.reverse();
            let same = material == [&keys.p2c_key[..], &keys.p2c_iv].concat();
            assert_eq!(same, fast, "{mode:?}");
        }
    }
}

#[tokio::test]
async fn dc_ids_lead_to_their_dcs_and_stay_as_they_are() {
    let ids = [1, 2, 3, 4, 5, 203, 10001, 10002, 10003];
    let dcs: Vec<FakeDc> = ids.iter().map(|_| fake_dc()).collect();
    let mut config = Config::new(dcs[0].addr());
    for (id, dc) in ids.iter().zip(&dcs) {
        config = config.dc(*id, &[dc.addr()]);
    }
    let proxy = config.start();
    for (id, dc) in ids.iter().zip(&dcs) {
        for dc_id in [DcId(*id), DcId(-id)] {
            for mode in [Mode::Abridged, Mode::Ee] {
                dc.forget_seen();
                let dial = Dial {
                    dc: dc_id,
                    ..proxy.dial(mode)
                };
                let mut client = Client::connect(&dial).await.unwrap();
                client.ping().await.unwrap();
                let seen: Vec<DcId> = dc.seen().iter().map(|seen| seen.dc).collect();
                assert_eq!(seen, [dc_id], "{mode:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_override_of_the_exact_id_wins() {
    let (dc, media) = (fake_dc(), fake_dc());
    let proxy = Config::new(dc.addr()).dc(-4, &[media.addr()]).start();
    for id in [DcId(4), DcId(-4)] {
        let dial = Dial {
            dc: id,
            ..proxy.dial(Mode::Dd)
        };
        Client::connect(&dial).await.unwrap().ping().await.unwrap();
    }
    assert_eq!((dc.stats().accepted, media.stats().accepted), (1, 1));
}

#[tokio::test]
async fn unknown_dcs_lead_to_the_default_one_and_are_noted_once() {
    let (dc, default) = (fake_dc(), fake_dc());
    let proxy = Config::new(dc.addr())
        .set("default_dc", 4)
        .dc(4, &[default.addr()])
        .start();
    for id in [7, 7, 7, -777, 0, i16::MAX, i16::MIN] {
        let dial = Dial {
            dc: DcId(id),
            ..proxy.dial(Mode::Intermediate)
        };
        let mut client = Client::connect(&dial).await.unwrap();
        assert_eq!(client.who_am_i().await.unwrap().0, DcId(id));
    }
    assert_eq!((dc.stats().accepted, default.stats().accepted), (0, 7));
    let log = proxy.log();
    for (id, times) in [("7", 1), ("-777", 1), ("0", 0), ("32767", 1)] {
        let noted = log
            .lines()
            .filter(|line| line.contains("no table knows") && line.ends_with(&format!("dc={id}")));
        assert_eq!(noted.count(), times, "dc {id} in\n{log}");
    }
}

#[tokio::test]
async fn modes_that_are_off_are_not_answered() {
    let dc = fake_dc();
    let cases = [
        ("classic", &[Mode::Abridged, Mode::Intermediate][..]),
        ("secure", &[Mode::Dd]),
        ("tls", &[Mode::Ee]),
    ];
    for (key, off) in cases {
        let proxy = Config::new(dc.addr())
            .set(&format!("general.modes.{key}"), false)
            .set("timeouts.client_handshake", 1)
            .start();
        for mode in Mode::PROXIED {
            let dial = hasty(proxy.dial(mode));
            if off.contains(&mode) {
                let mut flight = first_bytes(&dial);
                // A first request, which nobody can tell from random bytes.
                flight.extend((mode != Mode::Ee).then_some([7; 100]).iter().flatten());
                say(proxy.addr, &flight)
                    .await
                    .expect_silence(&format!("{mode:?}"));
            } else {
                exercise(&dial).await.unwrap();
            }
        }
        assert_eq!(dc.seen().len(), Mode::PROXIED.len() - off.len(), "{key}");
        dc.forget_seen();
    }
}

#[tokio::test]
async fn classic_framings_are_refused_inside_faketls() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for framing in [Mode::Abridged.framing(), Mode::Intermediate.framing()] {
        let dial = Dial {
            framing,
            ..hasty(proxy.dial(Mode::Ee))
        };
        let mut client = Client::connect(&dial).await.unwrap();
        let refused = client.ping().await.unwrap_err();
        assert!(
            matches!(refused, ClientError::Closed { .. } | ClientError::Io { .. }),
            "{refused}"
        );
    }
    proxy.wait_for_bad("tls_bad_inner_handshake", 2);
    assert_eq!(dc.stats().accepted, 0);
}

/// Sends the first bytes of a client with every mode at once; all must be met with silence.
async fn expect_no_answer(proxy: &Proxy, flights: Vec<(String, Vec<u8>)>) {
    let mut talks = tokio::task::JoinSet::new();
    for (who, bytes) in flights {
        let addr = proxy.addr;
        talks.spawn(async move { (who, say(addr, &bytes).await) });
    }
    while let Some(talk) = talks.join_next().await {
        let (who, said): (String, Said) = talk.unwrap();
        said.expect_silence(&who);
    }
}

#[tokio::test]
async fn a_wrong_secret_is_met_with_silence() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .user("bob", BOB)
        .set("timeouts.client_handshake", 1)
        .start();
    let flights = every_client(&proxy).into_iter().map(|dial| {
        let wrong = Dial {
            secret: Secret([0xee; 16]),
            ..dial
        };
        (
            format!("{:?} {:?}", wrong.mode, wrong.hello),
            first_bytes(&wrong),
        )
    });
    expect_no_answer(&proxy, flights.collect()).await;
    assert_eq!(proxy.bad("obfuscated2_auth_failed"), 3);
    assert_eq!(proxy.bad("tls_auth_failed"), 2);
    assert_eq!(dc.stats().accepted, 0);
}

#[tokio::test]
async fn strangers_are_met_with_silence() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .set("timeouts.client_handshake", 1)
        .start();
    let mut unsigned = first_bytes(&proxy.dial(Mode::Ee));
    unsigned[11..43].fill(0x33);
    let huge = [&[0x16, 3, 1, 0xff, 0xff, 1][..], &[0; 3000]].concat();
    let behind = [
        &first_bytes(&proxy.dial(Mode::Ee))[..],
        &[0x17, 3, 3, 0, 1, 0],
    ]
    .concat();
    let strangers: Vec<(&str, Vec<u8>)> = vec![
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n".to_vec(),
        ),
        ("half HTTP", b"GET / HTTP/1.0\r\n".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        (
            "CONNECT",
            b"CONNECT example.org:443 HTTP/1.1\r\n\r\n".to_vec(),
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec()),
        ("SMTP", b"EHLO there\r\n".to_vec()),
        ("SOCKS5", vec![5, 1, 0]),
        (
            "RDP",
            hex::decode("0300002f2ae00000000000436f6f6b69653a206d737473").unwrap(),
        ),
        ("one byte", vec![0x42]),
        ("63 bytes", vec![0x42; 63]),
        ("64 bytes", vec![0x42; 64]),
        ("zeros", vec![0; 4096]),
        ("noise", rand::random::<[u8; 32]>().repeat(40)),
        ("a TLS scanner", unsigned.clone()),
        ("half a hello", unsigned[..300].to_vec()),
        ("a TLS record header", vec![0x16, 3, 1]),
        ("an oversized record", huge),
        ("a tiny record", vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3]),
        ("a TLS alert", vec![0x15, 3, 1, 0, 2, 2, 40]),
        (
            "a hello of another type",
            [&[0x16, 3, 1, 2, 0, 2], &[0; 600][..]].concat(),
        ),
        ("bytes behind a good hello", behind),
    ];
    let count = strangers.len() as u64;
    let flights = strangers
        .into_iter()
        .map(|(who, bytes)| (who.into(), bytes));
    expect_no_answer(&proxy, flights.collect()).await;
    let bad = proxy.number("/v1/stats/summary", "/connections_bad_total");
    assert_eq!((bad, dc.stats().accepted), (count, 0));
    exercise(&proxy.dial(Mode::Ee)).await.unwrap();
}

#[tokio::test]
async fn replayed_openings_are_met_with_silence() {
    let dc = fake_dc();
    let mut config = Config::new(dc.addr()).set("timeouts.client_handshake", 1);
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = config.start();
    let mut flights = Vec::new();
    for mode in Mode::PROXIED {
        let dial = proxy.dial(mode);
        let opening = Opening::new(&dial);
        let mut client = Client::connect_with(&dial, &opening).await.unwrap();
        client.ping().await.unwrap();
        // So many that either of two shards gets some.
        for number in 0..16 {
            let mut again = replayable(&opening);
            if opening.hello.is_none() && number % 2 == 1 {
                // Nothing that matters, so a key over the whole header would miss it.
                again[..8].copy_from_slice(&rand::random::<[u8; 8]>().map(|byte| byte | 0x80));
            }
            flights.push((format!("{mode:?} again"), again));
        }
    }
    let served = dc.stats().accepted;
    expect_no_answer(&proxy, flights).await;
    assert_eq!(proxy.bad("obfuscated2_replay"), 48);
    assert_eq!(proxy.bad("tls_replay"), 16);
    assert_eq!(dc.stats().accepted, served);
}

#[tokio::test]
async fn of_equal_openings_at_once_one_is_served() {
    let dc = fake_dc();
    let mut config = Config::new(dc.addr()).set("timeouts.client_handshake", 1);
    if has_two_cores() {
        config = config.shards(2);
    }
    let proxy = config.start();
    for mode in [Mode::Dd, Mode::Ee] {
        let dial = hasty(proxy.dial(mode));
        let opening = Opening::new(&dial);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (dial, opening) = (dial.clone(), opening.clone());
            clients.spawn(async move {
                let mut client = Client::connect_with(&dial, &opening).await?;
                client.ping().await
            });
        }
        let served = clients.join_all().await;
        let served = served.iter().filter(|served| served.is_ok()).count();
        assert_eq!(served, 1, "{mode:?}");
    }
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr()).start();
    for piece_bytes in [1, HEADER_BYTES - 1, HEADER_BYTES + 1] {
        let addr = chopper(proxy.addr, piece_bytes).await;
        for mode in [Mode::Abridged, Mode::Intermediate, Mode::Dd] {
            let mut client = Client::connect(&Dial::new(mode, addr, ALICE))
                .await
                .unwrap();
            client.ping().await.unwrap();
            client.upload(2000).await.unwrap();
        }
    }
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn users_are_told_apart() {
    let dc = fake_dc();
    let mut config = Config::new(dc.addr()).user("bob", BOB);
    for number in 0..60_u8 {
        config = config.user(&format!("user{number:02}"), Secret([number + 1; 16]));
    }
    let proxy = config.start();
    let mut held = Vec::new();
    let users = [
        ("alice", ALICE, 3),
        ("bob", BOB, 2),
        ("user59", Secret([60; 16]), 1),
    ];
    for (_, secret, each) in users {
        for mode in Mode::PROXIED {
            for _ in 0..each {
                let dial = Dial {
                    secret,
                    ..proxy.dial(mode)
                };
                let mut client = Client::connect(&dial).await.unwrap();
                client.download(10_000 * each).await.unwrap();
                held.push(client);
            }
        }
    }
    for (name, _, each) in users {
        assert_eq!(proxy.user(name, "current_connections"), 4 * each, "{name}");
        let octets = proxy.user(name, "total_octets");
        let payload = 4 * each * 10_000 * each;
        // Frames, heads and padding come on top.
        assert!(
            (payload..payload + payload / 5 + 5_000).contains(&octets),
            "{name}: {octets}"
        );
    }
    assert_eq!(proxy.user("user00", "total_octets"), 0);
    drop(held);
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn disabled_users_are_strangers() {
    let dc = fake_dc();
    let proxy = Config::new(dc.addr())
        .user("bob", BOB)
        .set("access.user_enabled.bob", false)
        .set("timeouts.client_handshake", 1)
        .start();
    let flights = every_client(&proxy).into_iter().map(|dial| {
        let bob = Dial {
            secret: BOB,
            ..dial
        };
        (format!("{:?}", bob.mode), first_bytes(&bob))
    });
    expect_no_answer(&proxy, flights.collect()).await;
    exercise(&proxy.dial(Mode::Dd)).await.unwrap();
}
