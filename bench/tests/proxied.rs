//! Clients of all three modes against a proxy of a few lines, made from the same wire formats and
//! nothing of the real one: what the clients check, and what they refuse.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, outside functions that are marked as tests"
)]

use std::{net::SocketAddr, time::Duration};

use bench::{
    client::{Client, ClientError, Dial, Mode, Opening},
    fake_dc::FakeDc,
};
use shards::proto::{
    crypto::{CtrStream, HmacKey},
    dc::DcId,
    faketls::{
        client_hello::{HelloKind, parse_fields, verify, zero_random},
        record::{self, RecordReader},
        server_hello::{Answer, AnswerError, Group, answer},
    },
    obfuscated2::{self, HEADER_BYTES},
    secret::Secret,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const SECRET: Secret = Secret([0x5a; 16]);

/// What the proxy does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    BytesBehindAnswer,
    FlippedBit,
}

async fn proxy(dc: SocketAddr, mistake: Mistake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, dc, mistake));
        }
    });
    addr
}

/// Anything unexpected ends the connection, as `None`.
async fn serve(mut client: TcpStream, dc: SocketAddr, mistake: Mistake) -> Option<()> {
    let mut first = [0; HEADER_BYTES];
    let mut first_bytes = client.read(&mut first).await.ok()?;
    let tls = first[0] == 0x16;
    if tls {
        let mut hello = first[..first_bytes].to_vec();
        let total = 5 + usize::from(u16::from_be_bytes([first[3], first[4]]));
        hello.resize(total, 0);
        client.read_exact(&mut hello[first_bytes..]).await.ok()?;
        client
            .write_all(&server_hello(hello, mistake)?)
            .await
            .ok()?;
        first_bytes = 0;
    }
    client
        .read_exact(&mut first[first_bytes..][..if tls { 0 } else { HEADER_BYTES - first_bytes }])
        .await
        .ok()?;
    let mut records = RecordReader::new();
    let mut waiting = Vec::new();
    while tls && waiting.len() < HEADER_BYTES {
        let mut data = [0; 4096];
        let got = client.read(&mut data).await.ok().filter(|&n| n > 0)?;
        let payload = records.compact(&mut data[..got]).ok()?.payload;
        waiting.extend_from_slice(&data[..payload]);
    }
    if tls {
        first.copy_from_slice(&waiting.drain(..HEADER_BYTES).collect::<Vec<u8>>());
    }
    let opening = obfuscated2::open(&first, &SECRET)?;
    let mut keys = obfuscated2::client_keys(&first, &SECRET);
    let mut header = obfuscated2::dc_header(
        &mut |b| rand::fill(b),
        &opening,
        Some((&keys.p2c_key, &keys.p2c_iv)),
    );
    let mut server = TcpStream::connect(dc).await.ok()?;
    recrypt(&mut keys.c2p, &mut header.p2d, &mut waiting);
    server
        .write_all(&[&header.wire[..], &waiting].concat())
        .await
        .ok()?;
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 16_000]);
    loop {
        tokio::select! {
            got = client.read(&mut up) => {
                let got = got.ok().filter(|&n| n > 0)?;
                let payload = if tls { records.compact(&mut up[..got]).ok()?.payload } else { got };
                recrypt(&mut keys.c2p, &mut header.p2d, &mut up[..payload]);
                server.write_all(&up[..payload]).await.ok()?;
            }
            got = server.read(&mut down) => {
                let got = got.ok().filter(|&n| n > 0)?;
                down[got / 2] ^= u8::from(mistake == Mistake::FlippedBit);
                if tls { client.write_all(&record::header(got)).await.ok()?; }
                client.write_all(&down[..got]).await.ok()?;
            }
        }
    }
}

fn recrypt(from: &mut CtrStream, to: &mut CtrStream, data: &mut [u8]) {
    from.apply(data);
    to.apply(data);
}

fn server_hello(mut hello: Vec<u8>, mistake: Mistake) -> Option<Vec<u8>> {
    let random = zero_random(&mut hello);
    let key = HmacKey::new(&SECRET);
    verify(&hello, &random, &key)?;
    let fields = parse_fields(&hello);
    let group = if fields.mlkem {
        Group::Hybrid
    } else {
        Group::X25519
    };
    let key_share = vec![9; group.key_share_bytes()];
    let says = Answer {
        session_id: fields.session_id,
        suite: fields.suite,
        group,
        key_share: &key_share,
        flight_bytes: 3000,
        key_share_first: false,
    };
    let mut out = Vec::new();
    answer(&mut out, &key, &random, &says, &mut |b| rand::fill(b));
    if mistake == Mistake::BytesBehindAnswer {
        out.extend_from_slice(&[0x17, 3, 3, 0, 1, 0]);
    }
    Some(out)
}

fn dial(mode: Mode, addr: SocketAddr) -> Dial {
    Dial {
        timeout: Duration::from_secs(5),
        ..Dial::new(mode, addr, SECRET)
    }
}

#[tokio::test]
async fn every_mode_gets_through() {
    let dc = FakeDc::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = proxy(dc.addr(), Mistake::None).await;
    for mode in Mode::PROXIED {
        for hello in [HelloKind::Classic517, HelloKind::PostQuantum] {
            let dial = Dial {
                hello,
                dc: DcId(-3),
                ..dial(mode, addr)
            };
            let mut client = Client::connect(&dial).await.unwrap();
            assert_eq!(
                client.who_am_i().await,
                Ok((DcId(-3), mode.framing().tag()[0])),
                "{mode:?}"
            );
            client.ping().await.unwrap();
            client.upload(100_000).await.unwrap();
            client.download(300_000).await.unwrap();
            client.exchange(1 << 20, 1 << 20).await.unwrap();
        }
    }
    assert_eq!(dc.stats().damaged, 0);
}

#[tokio::test]
async fn wrong_secret_is_not_served() {
    let dc = FakeDc::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let addr = proxy(dc.addr(), Mistake::None).await;
    for mode in Mode::PROXIED {
        let dial = Dial {
            secret: Secret([1; 16]),
            ..dial(mode, addr)
        };
        let got = match Client::connect(&dial).await {
            Ok(mut client) => client.ping().await,
            Err(e) => Err(e),
        };
        assert!(
            matches!(
                got,
                Err(ClientError::Closed { .. } | ClientError::Io { .. })
            ),
            "{mode:?}: {got:?}"
        );
    }
    assert_eq!(dc.stats().accepted, 0);
}

#[tokio::test]
async fn clients_refuse_what_official_ones_refuse() {
    let dc = FakeDc::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let chatty = proxy(dc.addr(), Mistake::BytesBehindAnswer).await;
    let surplus = Client::connect(&dial(Mode::Ee, chatty)).await.unwrap_err();
    assert_eq!(surplus, ClientError::Surplus { bytes: 6 });
    let damaging = proxy(dc.addr(), Mistake::FlippedBit).await;
    let mut client = Client::connect(&dial(Mode::Ee, damaging)).await.unwrap();
    assert!(client.download(100_000).await.is_err());
    let right = proxy(dc.addr(), Mistake::None).await;
    let one = Opening::new(&dial(Mode::Ee, right));
    let mut other = Opening::new(&dial(Mode::Ee, right));
    Client::connect_with(&dial(Mode::Ee, right), &one)
        .await
        .unwrap();
    // Signed with the right secret, for the hello of somebody else.
    let mine = HmacKey::new(&SECRET);
    let answer = server_hello(one.hello.clone().unwrap(), Mistake::None).unwrap();
    let random = zero_random(other.hello.as_mut().unwrap());
    let checked = shards::proto::faketls::server_hello::check_answer(&answer, &mine, &random);
    assert_eq!(checked, Err(AnswerError::Mac));
}
