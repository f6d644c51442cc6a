//! The fake ME against a proxy's side of a few lines: openings, messages, faults, files.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside functions that are marked as tests"
)]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream},
    time::Duration,
};

use bench::{
    fake_me::{Ending, FakeMe, Fault, Order, Page, Said as Page_, confirm},
    me_client::{MeClient, MeError, Said},
    pattern::{fold, pattern},
    wire::{HEAD_BYTES, Head, Op},
};
use shards::proto::middle::{
    answers::Signal,
    config_file::ConfigFile,
    handshake::HandshakeError,
    nonce::NonceError,
    opening::{OpeningError, OpeningStage},
    ops::{ConnId, Note},
    proxy_req::AdTag,
};
use tokio::net::TcpStream;

fn secret(me: &FakeMe) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    me.write_files(dir.path()).unwrap();
    std::fs::read(dir.path().join(Page::Secret.file())).unwrap()
}

async fn connect(me: &FakeMe) -> MeClient {
    MeClient::connect(me.endpoints()[0], &secret(me))
        .await
        .unwrap()
}

fn one_v4() -> FakeMe {
    FakeMe::start(&[(2, &[Ipv4Addr::new(127, 0, 0, 9).into()])]).unwrap()
}

/// Head and body of an answer to client `id`.
fn answer(said: Said, id: u64) -> (Head, Vec<u8>) {
    let Said::Data(conn, 0, data) = said else {
        unreachable!("{said:?}")
    };
    assert_eq!(conn, ConnId(id));
    let (head, body) = data.split_first_chunk::<HEAD_BYTES>().unwrap();
    let head = Head::decode(head).unwrap();
    assert_eq!(crc32fast::hash(body), head.crc);
    (head, body.to_vec())
}

/// Waits until a count is there.
fn until(what: &str, look: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if look() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    unreachable!("waited in vain until {what}");
}

async fn exchange(client: &mut MeClient, id: u64, up: usize, down: u64) {
    let req = client.client(id, Some(AdTag([3; 16])));
    let body: Vec<u8> = (0..up as u32 / 4).flat_map(u32::to_le_bytes).collect();
    let crc = crc32fast::hash(&body);
    client
        .request(&req, (Op::Exchange, 7, down), &body)
        .unwrap();
    client.flush().await.unwrap();
    let (ack, _) = answer(client.next().await.unwrap(), id);
    assert_eq!((ack.op, ack.arg), (Op::Done, u64::from(crc)));
    let (mut left, mut digest) = (down, 0);
    loop {
        let (head, body) = answer(client.next().await.unwrap(), id);
        if head.op == Op::Done {
            assert_eq!((left, head.arg), (0, digest));
            return;
        }
        assert_eq!(body, pattern().piece(head.seq.into(), body.len()));
        left -= body.len() as u64;
        digest = fold(digest, head.crc);
    }
}

#[tokio::test]
async fn both_families_carry_both_checksums() {
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    let me = FakeMe::start(&[(2, &[Ipv4Addr::LOCALHOST.into()]), (-4, &[v6, v6])]).unwrap();
    for fault in [Fault::None, Fault::NoCrc32c] {
        me.set_fault_everywhere(fault);
        for (endpoint, dc) in me.endpoints().into_iter().zip([2_i16, -4, -4]) {
            let mut client = MeClient::connect(endpoint, &secret(&me)).await.unwrap();
            for (up, down) in [(0, 4), (64, 40_000), (1 << 20, 1 << 20), (4, 0)] {
                exchange(&mut client, 9, up, down).await;
            }
            let req = client.client(9, Some(AdTag([3; 16])));
            client.request(&req, (Op::WhoAmI, 1, 0), &[]).unwrap();
            client.flush().await.unwrap();
            let (head, _) = answer(client.next().await.unwrap(), 9);
            assert_eq!(head.arg, u64::from(dc.cast_unsigned()) | 0xdd_0000);
        }
    }
    let total = me.total();
    assert_eq!((total.handshakes, total.clients_opened), (6, 6));
    assert_eq!((total.damaged, total.violations, total.broken), (0, 0, 0));
    let seen = me.seen();
    assert_eq!(seen[0].ad_tag, Some(AdTag([3; 16])));
    assert_eq!(seen[0].client, "10.1.2.3:9".parse().unwrap());
}

#[tokio::test]
async fn acks_pings_and_closes() {
    let me = one_v4();
    let mut client = connect(&me).await;
    let (a, b) = (client.client(1, None), client.client(2, None));
    let head = Head::request(Op::Hold, 77, 0).encode();
    client.message(&a, true, &[&head]).unwrap();
    client.note(Note::Ping(5)).unwrap();
    client.flush().await.unwrap();
    let ack = Signal::Ack {
        conn: a.conn,
        confirm: confirm(77),
    };
    assert_eq!(client.next().await.unwrap(), Said::Signal(ack));
    let pong = Signal::Pong { id: 5 };
    assert_eq!(client.next().await.unwrap(), Said::Signal(pong));
    assert_eq!(answer(client.next().await.unwrap(), 1).0.op, Op::Done);
    // Closed behind an answer, on request of the client, of the test and for damage.
    for (id, wrong) in [(2, false), (3, false), (4, true)] {
        let req = client.client(id, None);
        if wrong {
            client.message(&req, false, &[&[9; 32]]).unwrap();
        } else {
            let op = if id == 2 { Op::Close } else { Op::Hold };
            client.request(&req, (op, 1, 0), &[]).unwrap();
        }
        client.flush().await.unwrap();
        if !wrong {
            assert_eq!(answer(client.next().await.unwrap(), id).0.op, Op::Done);
        }
        if id == 3 {
            let seen = *me.seen().iter().find(|seen| seen.conn.0 == 3).unwrap();
            assert!(me.order_connection(&seen, Order::CloseClient(ConnId(3))));
        }
        let close = Signal::Close { conn: ConnId(id) };
        assert_eq!(client.next().await.unwrap(), Said::Signal(close));
    }
    // A key exchange is answered with an error, a message without data with a sign of life.
    client.message(&a, false, &[&[0; 40]]).unwrap();
    client.message(&a, false, &[]).unwrap();
    client.note(Note::CloseConn(a.conn)).unwrap();
    client.note(Note::CloseConn(b.conn)).unwrap();
    client.note(Note::CloseConn(ConnId(55))).unwrap();
    client.flush().await.unwrap();
    let error = Said::Data(a.conn, 0x10, (-404_i32).to_le_bytes().to_vec());
    assert_eq!(client.next().await.unwrap(), error);
    assert!(matches!(
        client.next().await.unwrap(),
        Said::Signal(Signal::Ack { .. })
    ));
    me.order_everywhere(Order::Ping(8));
    let ping = Signal::Ping { id: 8 };
    assert_eq!(client.next().await.unwrap(), Said::Signal(ping));
    client.note(Note::Pong(8)).unwrap();
    client.flush().await.unwrap();
    until("the pong is counted", || me.total().pongs == 1);
    let total = me.total();
    assert_eq!((total.clients_closed, total.clients_ended), (1, 3));
    assert_eq!((total.late, total.violations, total.damaged), (1, 1, 1));
    assert_eq!((total.clients_open, total.signals, total.pings), (0, 1, 1));
}

#[tokio::test]
async fn openings_go_wrong_as_they_are_told_to() {
    let me = one_v4();
    let secret = secret(&me);
    let open = async |fault| {
        me.set_fault(me.endpoints()[0], fault);
        let connecting = MeClient::connect(me.endpoints()[0], &secret);
        tokio::time::timeout(Duration::from_millis(300), connecting).await
    };
    use OpeningStage::{Handshake, Nonce};
    assert!(matches!(open(Fault::Refuse).await, Ok(Err(MeError::Io(_)))));
    assert!(open(Fault::Silent).await.is_err());
    assert!(matches!(
        open(Fault::ResetAtAccept).await,
        Ok(Err(MeError::Io(_)))
    ));
    assert!(matches!(
        open(Fault::CloseAtNonce).await,
        Ok(Err(MeError::Closed(Nonce)))
    ));
    let wrong = open(Fault::WrongSelector).await;
    assert!(matches!(
        wrong,
        Ok(Err(MeError::Opening(OpeningError::Nonce(
            NonceError::Selector
        ))))
    ));
    let wrong = open(Fault::ClockSkew(-100)).await;
    assert!(matches!(
        wrong,
        Ok(Err(MeError::Opening(OpeningError::Nonce(
            NonceError::Skew { .. }
        ))))
    ));
    assert!(matches!(
        open(Fault::WrongNonce).await,
        Ok(Err(MeError::Closed(Handshake)))
    ));
    assert!(matches!(
        open(Fault::CloseAtHandshake).await,
        Ok(Err(MeError::Closed(Handshake)))
    ));
    assert!(open(Fault::SilentAtHandshake).await.is_err());
    let refused = open(Fault::HandshakeError(-4)).await;
    assert!(matches!(
        refused,
        Ok(Err(MeError::Opening(OpeningError::Handshake(
            HandshakeError::Refused { code: -4 }
        ))))
    ));
    // Behind a NAT the proxy has to know its public address.
    let nat: IpAddr = Ipv4Addr::new(203, 0, 113, 5).into();
    assert!(matches!(
        open(Fault::SeenAs(nat)).await,
        Ok(Err(MeError::Closed(Handshake)))
    ));
    let stream = TcpStream::connect(me.endpoints()[0]).await.unwrap();
    let seen = SocketAddr::new(nat, stream.local_addr().unwrap().port());
    MeClient::open(stream, &secret, seen, 0).await.unwrap();
    assert!(open(Fault::None).await.unwrap().is_ok());
    // The proxy's own mistakes.
    for (secret, offset) in [(vec![1; 32], 0), (secret, 100)] {
        let stream = TcpStream::connect(me.endpoints()[0]).await.unwrap();
        let local = stream.local_addr().unwrap();
        let opened = MeClient::open(stream, &secret, local, offset).await;
        assert!(matches!(opened, Err(MeError::Closed(Nonce))));
    }
    // Those two, and keys that did not agree twice.
    until("openings are counted", || me.total().wrong_openings == 4);
}

#[tokio::test]
async fn open_connections_go_wrong_as_they_are_told_to() {
    let me = one_v4();
    let endpoint = me.endpoints()[0];
    let hold = async |client: &mut MeClient, limit_ms| {
        let req = client.client(6, None);
        client.request(&req, (Op::Hold, 1, 0), &[]).unwrap();
        client.note(Note::Ping(1)).unwrap();
        client.flush().await.unwrap();
        let limit = Duration::from_millis(limit_ms);
        tokio::time::timeout(limit, client.next()).await
    };
    for fault in [Fault::StallReading, Fault::StallWriting] {
        let mut client = connect(&me).await;
        me.set_fault(endpoint, fault);
        assert!(hold(&mut client, 200).await.is_err());
        // What was stalled goes on.
        me.set_fault(endpoint, Fault::None);
        client.next().await.unwrap();
        client.next().await.unwrap();
    }
    let mut client = connect(&me).await;
    me.set_fault(endpoint, Fault::Mute);
    assert!(hold(&mut client, 200).await.is_err());
    me.set_fault(endpoint, Fault::NoPongs);
    let (done, _) = answer(hold(&mut client, 5_000).await.unwrap().unwrap(), 6);
    assert_eq!(done.op, Op::Done);
    let next = tokio::time::timeout(Duration::from_millis(100), client.next()).await;
    assert!(next.is_err());
    me.set_fault(endpoint, Fault::Delay(Duration::from_millis(150)));
    let began = std::time::Instant::now();
    hold(&mut client, 5_000).await.unwrap().unwrap();
    assert!(began.elapsed() >= Duration::from_millis(150));
    me.set_fault(endpoint, Fault::WrongChecksum);
    let wrong = loop {
        match hold(&mut client, 5_000).await.unwrap() {
            Ok(_) => {}
            Err(wrong) => break wrong,
        }
    };
    assert!(matches!(wrong, MeError::Frame(_)), "{wrong}");
    me.set_fault(endpoint, Fault::ResetAfter(Duration::from_millis(50)));
    let mut client = connect(&me).await;
    assert!(matches!(client.next().await, Err(MeError::Io(_))));
    me.set_fault(endpoint, Fault::None);
    let mut client = connect(&me).await;
    hold(&mut client, 5_000).await.unwrap().unwrap();
    client.next().await.unwrap();
    me.order(endpoint, Order::End(Ending::Fin));
    assert!(matches!(client.next().await, Err(MeError::Closed(_))));
    let mut client = connect(&me).await;
    me.order(endpoint, Order::AnswerNobody(ConnId(99)));
    assert!(matches!(
        client.next().await,
        Ok(Said::Data(ConnId(99), 0, _))
    ));
    me.order(endpoint, Order::End(Ending::Rst));
    assert!(matches!(client.next().await, Err(MeError::Io(_))));
    // A proxy that breaks its own frames.
    let mut client = connect(&me).await;
    tokio::io::AsyncWriteExt::write_all(client.stream(), &[7; 64])
        .await
        .unwrap();
    until("the bad frame is counted", || me.total().broken == 1);
    let lost = me.total().clients_lost;
    assert!(lost >= 1, "{lost} clients went with their connections");
}

#[tokio::test]
async fn a_slow_reader_reads_slowly() {
    let me = one_v4();
    let mut client = connect(&me).await;
    me.set_fault_everywhere(Fault::SlowReading(400_000));
    let began = std::time::Instant::now();
    exchange(&mut client, 3, 100_000, 4).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
}

fn fetch(me: &FakeMe, page: Page) -> (String, Vec<u8>) {
    let url = me.url(page);
    let (host, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    let mut stream = StdStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head, answer[end + 4..].to_vec())
}

#[test]
fn files_and_pages_tell_of_the_endpoints() {
    let v6: IpAddr = Ipv6Addr::LOCALHOST.into();
    let v4: IpAddr = Ipv4Addr::new(127, 0, 0, 77).into();
    let me = FakeMe::start(&[(1, &[v4, v6]), (-203, &[v4])]).unwrap();
    let (head, text) = fetch(&me, Page::ConfigV4);
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nDate: "));
    let parsed = ConfigFile::parse(&text);
    assert_eq!((parsed.map.groups.len(), parsed.map.default), (2, Some(2)));
    assert_eq!(parsed.map.groups[&1], me.endpoints()[..1]);
    let parsed = ConfigFile::parse(&fetch(&me, Page::ConfigV6).1);
    assert_eq!(parsed.map.groups[&1], me.endpoints()[1..2]);
    let before = fetch(&me, Page::Secret).1;
    assert_eq!(before, secret(&me));
    me.rotate_secret(true);
    assert_ne!(fetch(&me, Page::Secret).1, before);
    let moved = me.add(1, v4).unwrap();
    me.set_map([(1, vec![moved])].into());
    let parsed = ConfigFile::parse(&fetch(&me, Page::ConfigV4).1);
    assert_eq!(parsed.map.groups[&1], [moved]);
    me.set_clock_offset(-784_111_777);
    me.say(
        Page::ConfigV4,
        Some(Page_ {
            status: 503,
            body: Some(b"later".to_vec()),
        }),
    );
    let (head, text) = fetch(&me, Page::ConfigV4);
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert_eq!((text, me.fetched(Page::ConfigV4)), (b"later".to_vec(), 3));
}

/// So many clients on so few connections, each with its own requests under way.
#[tokio::test]
async fn many_clients_share_few_connections() {
    let me = FakeMe::five_dcs(1).unwrap();
    let secret = secret(&me);
    let mut writers = tokio::task::JoinSet::new();
    for endpoint in me.endpoints() {
        let secret = secret.clone();
        writers.spawn(async move {
            let mut client = MeClient::connect(endpoint, &secret).await.unwrap();
            let mut digest = 0;
            for round in 0..4_u32 {
                for id in 1..=400 {
                    let req = client.client(id, None);
                    let body = [id as u8; 40];
                    client.request(&req, (Op::Echo, round, 0), &body).unwrap();
                }
                client.flush().await.unwrap();
                for _ in 0..400 {
                    let Said::Data(conn, _, _) = &client.next().await.unwrap() else {
                        unreachable!("only answers are due")
                    };
                    digest += conn.0;
                }
            }
            digest
        });
    }
    let sums = writers.join_all().await;
    assert_eq!(sums, [4 * 400 * 401 / 2; 5]);
    let total = me.total();
    assert_eq!((total.requests, total.clients_opened), (8_000, 2_000));
}
