//! A stream that came about: plain TCP, what a SOCKS server let through, or sealed for Shadowsocks.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::RngExt as _;
use shards::proto::{
    shadowsocks::{Entropy, Leg, ServerKey},
    socks::Target,
};

/// A blocking stream to a host. Set a timeout before each use.
#[derive(Debug)]
pub(crate) struct Stream {
    socket: TcpStream,
    /// Plaintext received and not read yet, from `at` on.
    early: Vec<u8>,
    at: usize,
    tunnel: Option<Box<Tunnel>>,
}

/// What a server is asked for.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Addr(SocketAddr),
    Name(String, u16),
}

impl Wanted {
    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Addr(addr) => Target::Addr(*addr),
            Self::Name(name, port) => Target::Name(name, *port),
        }
    }
}

/// The Shadowsocks part. The request leaves with the first bytes written, or before the first read.
#[derive(Debug)]
struct Tunnel {
    key: ServerKey,
    wanted: Wanted,
    leg: Option<Leg>,
    wire: Vec<u8>,
}

impl Stream {
    pub(super) fn plain(socket: TcpStream) -> Self {
        Self::behind(socket, Vec::new())
    }

    /// Its first bytes have come already.
    pub(super) fn behind(socket: TcpStream, early: Vec<u8>) -> Self {
        Self {
            socket,
            early,
            at: 0,
            tunnel: None,
        }
    }

    pub(super) fn sealed(socket: TcpStream, key: ServerKey, wanted: Wanted) -> Self {
        let tunnel = Tunnel {
            key,
            wanted,
            leg: None,
            wire: Vec::new(),
        };
        Self {
            tunnel: Some(Box::new(tunnel)),
            ..Self::plain(socket)
        }
    }

    /// Limits each read and write from now on; `None` for no limit.
    ///
    /// # Errors
    /// The socket is broken.
    pub(crate) fn set_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        // Zero would be refused.
        let limit = limit.map(|limit| limit.max(Duration::from_millis(1)));
        self.socket.set_read_timeout(limit)?;
        self.socket.set_write_timeout(limit)
    }

    /// Receives and opens until there is something to read, or the end.
    fn fill(&mut self) -> io::Result<()> {
        let Some(tunnel) = &mut self.tunnel else {
            return Ok(());
        };
        if tunnel.leg.is_none() {
            tunnel.send(&mut self.socket, &[])?;
        }
        let Some(leg) = &mut tunnel.leg else {
            return Ok(());
        };
        self.early.clear();
        self.at = 0;
        let mut piece = vec![0; PIECE_BYTES];
        while self.early.is_empty() {
            let got = self.socket.read(&mut piece)?;
            if got == 0 {
                return match leg.down.is_between_chunks() {
                    true => Ok(()),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            let data = piece.get_mut(..got).unwrap_or_default();
            let early = &mut self.early;
            let opened = leg.down.open(data, unix_secs(), |joined| {
                early.extend_from_slice(joined);
            });
            let front = opened.map_err(broken)?;
            early.extend_from_slice(data.get(..front).unwrap_or_default());
        }
        Ok(())
    }
}

impl Tunnel {
    fn send(&mut self, socket: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
        self.wire.clear();
        if let Some(leg) = &mut self.leg {
            leg.up.seal(payload, &mut self.wire);
        } else {
            let mut random = |out: &mut [u8]| rand::rng().fill(out);
            let entropy = Entropy {
                unix_secs: unix_secs(),
                random: &mut random,
            };
            let target = self.wanted.target();
            let leg = Leg::start(&self.key, target, payload, entropy, &mut self.wire);
            self.leg = Some(leg);
        }
        socket.write_all(&self.wire)
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.early.len() {
            if self.tunnel.is_none() {
                return self.socket.read(into);
            }
            self.fill()?;
        }
        let ready = self.early.get(self.at..).unwrap_or_default();
        let taken = ready.len().min(into.len());
        for (slot, byte) in into.iter_mut().zip(ready) {
            *slot = *byte;
        }
        self.at += taken;
        Ok(taken)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tunnel) = &mut self.tunnel else {
            return self.socket.write(bytes);
        };
        let (piece, _) = bytes.split_at(bytes.len().min(PIECE_BYTES));
        if !piece.is_empty() {
            tunnel.send(&mut self.socket, piece)?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn unix_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Sealed or received at a time.
const PIECE_BYTES: usize = 16 * 1024;
