//! Connections below the protocol: strangers that are told nothing, and forwarders that cut a
//! client's bytes into other pieces.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bench::{
    client::{Dial, Opening},
    transport::CHANGE_CIPHER_SPEC,
};
use shards::proto::faketls::record;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::PATIENCE;

/// What came back until the proxy closed.
#[derive(Debug)]
pub(crate) struct Said {
    /// Every byte.
    pub(crate) bytes: Vec<u8>,
    /// From the end of our bytes to the end of the connection.
    pub(crate) after: Duration,
    /// It ended by a reset.
    pub(crate) reset: bool,
}

impl Said {
    /// Nothing came, the connection stayed open as long as a patient server's, and was closed
    /// like any other.
    pub(crate) fn expect_silence(&self, who: &str) {
        assert!(self.bytes.is_empty(), "{who} was told {:02x?}", self.bytes);
        assert!(!self.reset, "{who} was reset");
        let closed_at_once = self.after < Duration::from_millis(900);
        assert!(!closed_at_once, "{who} was closed after {:?}", self.after);
    }
}

/// Sends `bytes` and listens until the other side closes.
pub(crate) async fn say(addr: SocketAddr, bytes: &[u8]) -> Said {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    let sent = stream.write_all(bytes).await;
    listen(&mut stream, sent.is_err()).await
}

/// Listens until the other side closes.
pub(crate) async fn listen(stream: &mut TcpStream, broken: bool) -> Said {
    let began = Instant::now();
    let mut bytes = Vec::new();
    let all = stream.read_to_end(&mut bytes);
    let read = tokio::time::timeout(PATIENCE, all).await;
    let read = read.expect("the proxy never closes a stranger's connection");
    Said {
        bytes,
        after: began.elapsed(),
        reset: read.is_err() || broken,
    }
}

/// What a client says first: its hello, or its header.
pub(crate) fn first_bytes(dial: &Dial) -> Vec<u8> {
    replayable(&Opening::new(dial))
}

/// The same for an opening that is used again.
pub(crate) fn replayable(opening: &Opening) -> Vec<u8> {
    match &opening.hello {
        Some(hello) => hello.clone(),
        None => opening.header.to_vec(),
    }
}

/// A forwarder that sends what clients say in pieces of so many bytes, each in a segment of its
/// own, and passes on answers as they come.
pub(crate) async fn chopper(proxy: SocketAddr, piece_bytes: usize) -> SocketAddr {
    forwarder(proxy, move |data, out: &mut Vec<Vec<u8>>| {
        out.extend(data.chunks(piece_bytes).map(<[u8]>::to_vec));
        data.clear();
    })
    .await
}

/// A forwarder that puts the payload of every application record into records of so many bytes,
/// with an empty one and a ChangeCipherSpec between any two.
pub(crate) async fn recutter(proxy: SocketAddr, record_bytes: usize) -> SocketAddr {
    forwarder(proxy, move |data, out: &mut Vec<Vec<u8>>| {
        while let Some(record) = take_record(data) {
            if record[0] != APPLICATION {
                out.push(record);
                continue;
            }
            for piece in record[record::HEADER..].chunks(record_bytes) {
                let mut cut = CHANGE_CIPHER_SPEC.to_vec();
                cut.extend([APPLICATION, 3, 3, 0, 0]);
                cut.extend(record::header(piece.len()));
                cut.extend(piece);
                out.push(cut);
            }
        }
    })
    .await
}

/// A complete record from the front of `data`.
fn take_record(data: &mut Vec<u8>) -> Option<Vec<u8>> {
    let head = data.first_chunk::<{ record::HEADER }>()?;
    let total = record::HEADER + usize::from(u16::from_be_bytes([head[3], head[4]]));
    (data.len() >= total).then(|| data.drain(..total).collect())
}

async fn forwarder<F>(proxy: SocketAddr, cut: F) -> SocketAddr
where
    F: Fn(&mut Vec<u8>, &mut Vec<Vec<u8>>) + Copy + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(forward(client, proxy, cut));
        }
    });
    addr
}

/// Ends with either side, as `None` when one breaks off.
async fn forward<F>(client: TcpStream, proxy: SocketAddr, cut: F) -> Option<()>
where
    F: Fn(&mut Vec<u8>, &mut Vec<Vec<u8>>),
{
    let server = TcpStream::connect(proxy).await.ok()?;
    server.set_nodelay(true).ok()?;
    let ((mut from, mut to), (mut answers, mut up)) = (client.into_split(), server.into_split());
    let uplink = async {
        let (mut data, mut pieces) = (Vec::new(), Vec::new());
        while from.read_buf(&mut data).await.ok()? > 0 {
            cut(&mut data, &mut pieces);
            for piece in pieces.drain(..) {
                up.write_all(&piece).await.ok()?;
                tokio::task::yield_now().await;
            }
        }
        up.shutdown().await.ok()
    };
    let downlink = tokio::io::copy(&mut answers, &mut to);
    tokio::select! {
        done = uplink => done,
        done = downlink => done.ok().map(drop),
    }
}

const APPLICATION: u8 = 0x17;
