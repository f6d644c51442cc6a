//! Kinds of hostile connections: scanners, probers, broken and slow peers.

use std::{io, time::Duration};

use shards::proto::{
    faketls::client_hello::{HelloKind, build_hello},
    secret::Secret,
};
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout_at},
};

use crate::client::Dial;

/// What a hostile connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
pub enum Kind {
    /// Up to 5,000 random bytes.
    Garbage,
    /// Half of a hello, then silence.
    HalfHello,
    /// Nothing at all.
    Silent,
    /// A hello with a wrong digest, byte by byte.
    Bytewise,
    /// A hello that was accepted before.
    Replay,
    /// Asks a web server for much and does not read.
    SlowReader,
    /// A plain HTTP request.
    Http,
    /// A few bytes, then a reset.
    Reset,
    /// A PROXY header that nobody asked for, and noise behind it.
    ProxyJunk,
    /// A whole hello with a wrong digest, as TLS scanners send.
    Scanner,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 10] = [
        Kind::Garbage,
        Kind::HalfHello,
        Kind::Silent,
        Kind::Bytewise,
        Kind::Replay,
        Kind::SlowReader,
        Kind::Http,
        Kind::Reset,
        Kind::ProxyJunk,
        Kind::Scanner,
    ];

    /// Connects, attacks and stays until the proxy closes, at most until `leave`; whether it could
    /// connect. Every other one leaves by a reset.
    pub(super) async fn attack(
        self,
        dial: &Dial,
        recorded: Option<Vec<u8>>,
        leave: Instant,
        number: usize,
    ) -> bool {
        let Ok(Ok(mut stream)) = timeout_at(leave, connect(dial, self)).await else {
            return false;
        };
        // What the proxy closes meanwhile is its right.
        let _ = timeout_at(leave, self.talk(&mut stream, recorded)).await;
        if self == Kind::Reset || number.is_multiple_of(2) {
            // Where it fails the close is an orderly one.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
        true
    }

    async fn talk(self, stream: &mut TcpStream, recorded: Option<Vec<u8>>) -> io::Result<()> {
        match self {
            Kind::Garbage => {
                let mut length = [0; 2];
                rand::fill(&mut length);
                let mut noise = vec![0; usize::from(u16::from_le_bytes(length)) % 5_000 + 1];
                rand::fill(&mut noise);
                stream.write_all(&noise).await?;
            }
            Kind::HalfHello => {
                let hello = foreign_hello();
                stream.write_all(&hello[..hello.len() / 2]).await?;
            }
            Kind::Silent => {}
            Kind::Bytewise => {
                for byte in foreign_hello() {
                    stream.write_all(&[byte]).await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            Kind::Replay => stream.write_all(&recorded.unwrap_or_default()).await?,
            Kind::SlowReader => {
                let request = b"GET /bytes/50000000 HTTP/1.1\r\nHost: x\r\n\r\n";
                stream.write_all(request).await?;
                // Beyond the end of every phase.
                tokio::time::sleep(Duration::from_secs(600)).await;
            }
            Kind::Http => {
                stream
                    .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    .await?
            }
            Kind::Reset => return stream.write_all(&[0x16, 3, 1, 2, 0, 1]).await,
            Kind::ProxyJunk => {
                let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 70000 -1\r\n\r\nnoise";
                stream.write_all(line).await?;
            }
            Kind::Scanner => stream.write_all(&foreign_hello()).await?,
        }
        // Until it is closed, whatever is answered.
        let mut answer = [0; 4096];
        while stream.read(&mut answer).await? > 0 {}
        Ok(())
    }
}

async fn connect(dial: &Dial, kind: Kind) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if kind == Kind::SlowReader {
        socket.set_recv_buffer_size(4096)?;
    }
    if let Some(source) = dial.source {
        socket.bind((source, 0).into())?;
    }
    socket.connect(dial.addr).await
}

/// Of somebody with another secret: the proxy cannot know the digest.
fn foreign_hello() -> Vec<u8> {
    let mut secret = [0; 16];
    rand::fill(&mut secret);
    let random = &mut |bytes: &mut [u8]| rand::fill(bytes);
    let (secret, domain) = (Secret(secret), crate::client::DOMAIN);
    build_hello(
        random,
        &secret,
        domain,
        1_800_000_000,
        HelloKind::Classic517,
    )
}
