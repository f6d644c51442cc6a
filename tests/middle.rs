//! Clients through middle proxies: every framing, what goes along with messages, how sessions end,
//! how the pool starts.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use bench::{
    client::{Client, ClientError, Dial, Mode},
    fake_me::{FakeMe, Fault, SeenClient, confirm},
};
use shards::proto::{
    dc::DcId,
    faketls::client_hello::HelloKind,
    middle::proxy_req::{AdTag, flag},
};

use support::{
    Proxy,
    config::BOB,
    has_ipv6, has_two_cores,
    me::{Middle, a_while},
    until,
};

const MIB: usize = 1 << 20;

/// All that a client does, with every byte compared at both ends. Parts of a download are such as
/// real clients ask for: nobody holds back what a client does not take yet.
async fn exercise(dial: &Dial) -> Result<(), ClientError> {
    let mut client = Client::connect(dial).await?;
    let (dc, tag) = client.who_am_i().await?;
    let framing = dial.framing.tag()[0];
    assert_eq!((dc.0, tag), (dial.dc.0.abs(), framing), "{:?}", dial.mode);
    client.ping().await?;
    client.download(MIB as u64).await?;
    client.upload(MIB).await?;
    client.exchange(MIB, MIB as u64).await?;
    let body: Vec<u8> = (0..1000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(client.echo(&body).await?, body);
    client.ping().await
}

/// Every kind of client once.
fn every_client(proxy: &Proxy) -> Vec<Dial> {
    let mut dials: Vec<Dial> = Mode::PROXIED.map(|mode| proxy.dial(mode)).into();
    dials.push(Dial {
        hello: HelloKind::Classic517,
        ..proxy.dial(Mode::Ee)
    });
    dials
}

async fn check_every_client(middle: &Middle, proxy: &Proxy) {
    for dial in every_client(proxy) {
        exercise(&dial)
            .await
            .unwrap_or_else(|e| unreachable!("{:?} {:?}: {e}", dial.mode, dial.hello));
    }
    until("the MEs know that all are gone", || {
        (middle.me.total().clients_open == 0).then_some(())
    })
    .await;
    let total = middle.me.total();
    assert_eq!((total.clients_opened, total.clients_closed), (5, 5));
    middle.expect_clean();
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn every_client_is_served() {
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(middle.config()).await;
    check_every_client(&middle, &proxy).await;
    let seen = middle.me.seen();
    let flags: Vec<u32> = seen.iter().map(|seen| seen.flags).collect();
    let padded = 0x2802_1000;
    assert_eq!(flags, [0x4002_1000, 0x2002_1000, padded, padded, padded]);
    for seen in seen {
        assert!(seen.client.ip().is_loopback(), "{seen:?}");
        assert_eq!(seen.proxy.port(), proxy.addr.port(), "{seen:?}");
        assert_eq!(seen.ad_tag, None);
    }
}

#[tokio::test]
async fn old_mes_without_crc32c_serve_as_well() {
    let middle = Middle::five_dcs(1);
    middle.me.set_fault_everywhere(Fault::NoCrc32c);
    let proxy = middle.start(middle.config()).await;
    check_every_client(&middle, &proxy).await;
}

#[tokio::test]
async fn mes_of_ipv6_serve_as_well() {
    if !has_ipv6() {
        return;
    }
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    let me = FakeMe::start(&[(1, &[v6]), (2, &[v6, v6])]).unwrap();
    let middle = Middle::around(me);
    let config = middle
        .config()
        .set("network.ipv6", true)
        .set("network.prefer", 6);
    let proxy = middle.start(config).await;
    check_every_client(&middle, &proxy).await;
}

#[tokio::test]
async fn keys_are_made_of_the_address_behind_a_nat() {
    let middle = Middle::five_dcs(1);
    let seen_as: IpAddr = Ipv4Addr::new(203, 0, 113, 5).into();
    middle.me.set_fault_everywhere(Fault::SeenAs(seen_as));
    let config = middle
        .config()
        .set("general.middle_proxy_nat_ip", format!("\"{seen_as}\""));
    let proxy = middle.start(config).await;
    check_every_client(&middle, &proxy).await;
    let mut seen = middle.me.seen().into_iter();
    assert!(seen.all(|seen| seen.proxy.ip() == seen_as));
}

#[tokio::test]
async fn dc_ids_lead_to_their_groups() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    // Those of no group go to the default one, which the file says is 2.
    for (id, group) in [(1, 1), (-1, 1), (3, 3), (-5, 5), (777, 2), (203, 2), (0, 2)] {
        for mode in [Mode::Abridged, Mode::Ee] {
            let dial = Dial {
                dc: DcId(id),
                ..proxy.dial(mode)
            };
            let mut client = Client::connect(&dial).await.unwrap();
            assert_eq!(client.who_am_i().await.unwrap().0, DcId(group), "dc {id}");
        }
    }
    middle.expect_clean();
}

#[tokio::test]
async fn quick_acks_come_as_each_framing_wants_them() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    for dial in every_client(&proxy) {
        let mut client = Client::connect(&dial).await.unwrap();
        for _ in 0..20 {
            let (id, ack) = client.acked_ping().await.unwrap();
            assert_eq!(ack, confirm(id), "{:?}", dial.mode);
            client.ping().await.unwrap();
        }
    }
    assert_eq!(middle.me.total().acks, 100);
    assert_eq!(proxy.me_count("d2c_ack_frames_total"), 100);
    middle.expect_clean();
}

#[tokio::test]
async fn errors_of_a_dc_reach_the_client() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    for mode in Mode::PROXIED {
        let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
        // A key exchange that no DC understands.
        client.send_frame(&[0; 40]).await.unwrap();
        let frame = client.recv_frame().await.unwrap();
        assert_eq!(frame[..4], (-404_i32).to_le_bytes(), "{mode:?}");
        client.ping().await.unwrap();
    }
    let seen = middle.me.seen();
    assert!(seen.iter().all(|seen| seen.flags & flag::UNENCRYPTED != 0));
    middle.expect_clean();
}

/// The newest client.
fn last(me: &FakeMe) -> SeenClient {
    *me.seen().last().unwrap()
}

#[tokio::test]
async fn ad_tags_of_users_come_before_the_general_one() {
    let middle = Middle::five_dcs(1);
    let (general, own) = ([0x11; 16], [0x22; 16]);
    let config = middle
        .config()
        .user("bob", BOB)
        .set("general.ad_tag", format!("\"{}\"", hex::encode(general)))
        .set(
            "access.user_ad_tags.bob",
            format!("\"{}\"", hex::encode(own)),
        );
    let proxy = middle.start(config).await;
    for mode in Mode::PROXIED {
        for (secret, tag) in [(proxy.dial(mode).secret, general), (BOB, own)] {
            let dial = Dial {
                secret,
                ..proxy.dial(mode)
            };
            // Each message carries it: the ME ends clients whose tag changes.
            exercise(&dial).await.unwrap();
            assert_eq!(last(&middle.me).ad_tag, Some(AdTag(tag)), "{mode:?}");
            assert_ne!(last(&middle.me).flags & flag::AD_TAG, 0);
        }
    }
    middle.expect_clean();
}

#[tokio::test]
async fn a_client_closed_by_the_me_gets_everything_first() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    for dial in every_client(&proxy) {
        let (mut tx, mut rx) = Client::connect(&dial).await.unwrap().split();
        let download = tx.download(4 * MIB as u64).await.unwrap();
        let close = tx.request(bench::wire::Op::Close, 0).await.unwrap();
        let answer = rx.answer().await.unwrap();
        answer.expect_stream(download, 4 * MIB as u64).unwrap();
        rx.answer().await.unwrap().expect_arg(close, 0).unwrap();
        let end = rx.answer().await.unwrap_err();
        assert!(matches!(end, ClientError::Closed { .. }), "{end}");
    }
    a_while().await;
    // Whom the ME has closed, the proxy does not close once more.
    let total = middle.me.total();
    let ends = (total.clients_ended, total.clients_closed, total.late);
    assert_eq!(ends, (5, 0, 0));
    middle.expect_clean();
    proxy.until_connections(0).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_told_to_the_me_once() {
    let middle = Middle::five_dcs(1);
    let proxy = middle.start(middle.config()).await;
    for round in 1..=10 {
        for dial in every_client(&proxy) {
            let mut client = Client::connect(&dial).await.unwrap();
            client.ping().await.unwrap();
        }
        until("the ME knows that they are gone", || {
            (middle.me.total().clients_closed == 5 * round).then_some(())
        })
        .await;
    }
    assert_eq!(middle.me.total().clients_open, 0);
    middle.expect_clean();
}

#[tokio::test]
async fn pings_and_signs_of_life_are_sent_and_counted() {
    let middle = Middle::five_dcs(1);
    let config = middle
        .config()
        .set("general.rpc_proxy_req_every", 10)
        .set("general.me_keepalive_interval_secs", 1)
        .set("general.me_keepalive_jitter_secs", 0);
    let proxy = middle.start(config).await;
    let mut client = Client::connect(&proxy.dial(Mode::Ee)).await.unwrap();
    client.ping().await.unwrap();
    let signal = |what: &str| proxy.me_count(&format!("rpc_proxy_req_signal_{what}_total"));
    until("a signal was answered and closed", || {
        (signal("close_sent") > 0).then_some(())
    })
    .await;
    assert!(signal("sent") > 0 && signal("response") > 0);
    // Writers that never had a client have no address to give.
    assert!(signal("skipped_no_meta") > 0);
    assert_eq!(signal("failed"), 0);
    let total = middle.me.total();
    assert!(total.signals > 0 && total.pings >= proxy.me_count("keepalive_pong_total"));
    assert!(proxy.me_count("keepalive_pong_total") > 30);
    assert_eq!(proxy.me_count("keepalive_timeout_total"), 0);
    client.exchange(10_000, 10_000).await.unwrap();
    middle.expect_clean();
}

#[tokio::test]
async fn clients_of_all_shards_share_the_writers() {
    if !has_two_cores() {
        return;
    }
    let middle = Middle::five_dcs(2);
    let proxy = middle.start(middle.config().shards(2)).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mode = Mode::PROXIED[number % 4];
        let dial = Dial {
            dc: DcId(1 + (number % 5) as i16),
            ..proxy.dial(mode)
        };
        clients.spawn(async move {
            let mut client = Client::connect(&dial).await?;
            for _ in 0..20 {
                client.ping().await?;
                client.exchange(20_000, 20_000).await?;
            }
            Ok::<(), ClientError>(())
        });
    }
    for client in clients.join_all().await {
        client.unwrap();
    }
    let total = middle.me.total();
    assert_eq!(total.clients_opened, 200);
    assert_eq!(total.handshakes, proxy.writers("required_writers"));
    middle.expect_clean();
}

/// What the API says of a pool at its floor, and what the MEs say. So many come without a pause.
async fn check_start(middle: &Middle, shards: usize, wanted: u64, at_once: u64) {
    let step = Duration::from_millis(600);
    let config = middle
        .config()
        .shards(shards)
        .set("general.me_warmup_step_delay_ms", step.as_millis())
        .set("general.me_warmup_step_jitter_ms", 100);
    let proxy = middle.start(config).await;
    assert_eq!(proxy.writers("required_writers"), wanted);
    a_while().await;
    let total = middle.me.total();
    let seen = (total.accepted, total.handshakes, total.writers);
    assert_eq!(
        seen,
        (wanted, wanted, wanted),
        "no more than the floors ask"
    );
    let opened = middle.me.opened();
    let began = opened[0].at;
    let later = opened.iter().filter(|one| one.at - began >= step);
    assert_eq!(later.count() as u64, wanted - at_once, "come a step later");
    middle.expect_clean();
}

/// Four where the machine has them: each shard wants a core.
#[tokio::test]
async fn shards_open_what_the_floors_ask_for_and_no_more() {
    let shards = core_affinity::get_core_ids()
        .unwrap_or_default()
        .len()
        .clamp(1, 4);
    let n = shards as u64;
    // Ten groups with three endpoints per shard: three writers on each, one of them for the start,
    // one in the first round behind it and one in the second.
    let middle = Middle::five_dcs(3 * shards as u8);
    check_start(&middle, shards, 30 * n, 20 * n).await;
    // Of one endpoint: three, or as many as shards, all at once.
    let middle = Middle::five_dcs(1);
    let all = 10 * n.max(3);
    check_start(&middle, shards, all, all).await;
}
