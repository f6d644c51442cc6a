//! Clients straight to the fake DC and through the relay: the bench's own halves fit together.

use std::{net::SocketAddr, time::Duration};

use bench::{
    client::{Client, ClientError, Dial},
    fake_dc::{FakeDc, Fault},
    relay::Relay,
};
use shards::proto::{dc::DcId, framing::Framing};

const FRAMINGS: [Framing; 3] = [Framing::Abridged, Framing::Intermediate, Framing::Padded];

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn every_request_is_answered_in_every_framing() {
    let dc = FakeDc::start(any()).unwrap();
    let relay = Relay::start(any(), dc.addr()).unwrap();
    for addr in [dc.addr(), relay.addr()] {
        for framing in FRAMINGS {
            let dial = Dial {
                dc: DcId(-4),
                ..Dial::direct(addr, framing)
            };
            let mut client = Client::connect(&dial).await.unwrap();
            client.ping().await.unwrap();
            assert_eq!(client.who_am_i().await, Ok((DcId(-4), framing.tag()[0])));
            let body: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
            assert_eq!(client.echo(&body).await.as_ref(), Ok(&body));
            for bytes in [4, 65_536, 65_540, 1_000_000] {
                client.download(bytes).await.unwrap();
                client.upload(bytes as usize).await.unwrap();
                client.exchange(bytes as usize, bytes).await.unwrap();
            }
            client.hold().await.unwrap();
            client.ask_close().await.unwrap();
            client.closed().await.unwrap();
        }
    }
    assert_eq!(dc.stats().accepted, 6);
    assert_eq!(dc.stats().damaged, 0);
    assert_eq!(dc.seen().len(), 6);
}

#[tokio::test]
async fn both_directions_are_busy_at_once() {
    let dc = FakeDc::start(any()).unwrap();
    let relay = Relay::start(any(), dc.addr()).unwrap();
    let (mut tx, mut rx) = Client::connect(&Dial::direct(relay.addr(), Framing::Padded))
        .await
        .unwrap()
        .split();
    let send = async {
        let mut sent = Vec::new();
        for _ in 0..8 {
            sent.push(tx.exchange(1 << 20, 1 << 20).await.unwrap());
        }
        sent
    };
    let receive = async {
        let mut got = Vec::new();
        for _ in 0..8 {
            got.push((rx.answer().await.unwrap(), rx.answer().await.unwrap()));
        }
        got
    };
    let (sent, got) = tokio::join!(send, receive);
    for ((id, crc), (ack, stream)) in sent.into_iter().zip(got) {
        ack.expect_arg(id, u64::from(crc)).unwrap();
        stream.expect_stream(id, 1 << 20).unwrap();
    }
}

#[tokio::test]
async fn faults_show_at_the_client() {
    let dc = FakeDc::start(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0))).unwrap();
    let dial = Dial {
        timeout: Duration::from_millis(300),
        ..Dial::direct(dc.addr(), Framing::Padded)
    };
    let connected = Client::connect(&dial).await.unwrap();
    dc.set_fault(Fault::Refuse);
    let refused = Client::connect(&dial).await.unwrap_err();
    assert!(matches!(
        refused,
        ClientError::Io {
            kind: std::io::ErrorKind::ConnectionRefused,
            ..
        }
    ));
    dc.set_fault(Fault::Silent);
    let mut client = Client::connect(&dial).await.unwrap();
    assert!(matches!(
        client.ping().await,
        Err(ClientError::TimedOut { .. })
    ));
    dc.set_fault(Fault::CloseAtAccept);
    assert!(Client::connect(&dial).await.unwrap().ping().await.is_err());
    dc.set_fault(Fault::ResetAfter(100_000));
    let mut client = Client::connect(&dial).await.unwrap();
    let reset = client.download(1 << 22).await.unwrap_err();
    assert!(matches!(
        reset,
        ClientError::Io {
            kind: std::io::ErrorKind::ConnectionReset,
            ..
        }
    ));
    dc.set_fault(Fault::Delay(Duration::from_millis(60)));
    let mut client = Client::connect(&dial).await.unwrap();
    let start = std::time::Instant::now();
    client.ping().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(60));
    dc.set_fault(Fault::None);
    let mut client = Client::connect(&dial).await.unwrap();
    let reset = client.reset_after(4096).await.unwrap_err();
    assert!(matches!(
        reset,
        ClientError::Io {
            kind: std::io::ErrorKind::ConnectionReset,
            ..
        }
    ));
    drop(connected);
}

#[tokio::test]
async fn frames_pass_as_they_are() {
    let dc = FakeDc::start(any()).unwrap();
    let mut client = Client::connect(&Dial::direct(dc.addr(), Framing::Intermediate))
        .await
        .unwrap();
    let mut frame = bench::wire::Head::request(bench::wire::Op::Hold, 77, 0)
        .encode()
        .to_vec();
    client.send_frame(&frame).await.unwrap();
    let answer = client.recv_frame().await.unwrap();
    assert_eq!(answer[4..8], 77_u32.to_le_bytes());
    frame[1] ^= 1;
    client.send_frame(&frame).await.unwrap();
    client.closed().await.unwrap();
    assert_eq!(dc.stats().damaged, 1);
}
