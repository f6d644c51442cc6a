//! A mask host that a test plays itself.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use socket2::SockRef;

use crate::support::{PATIENCE, wait_until};

/// Where strangers come out.
pub(crate) struct Site(TcpListener);

impl Site {
    /// On a free port.
    pub(crate) fn new() -> Site {
        Site(TcpListener::bind("127.0.0.1:0").expect("a listener"))
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// The next stranger; waits for them.
    pub(crate) fn next(&self) -> Peer {
        self.0.set_nonblocking(true).expect("an option");
        let (stream, _) = wait_until("a stranger comes", || self.0.accept().ok());
        self.0.set_nonblocking(false).expect("an option");
        Peer::new(stream)
    }

    /// Whether nobody has come.
    pub(crate) fn is_idle(&self) -> bool {
        self.0.set_nonblocking(true).expect("an option");
        let idle = self.0.accept().is_err();
        self.0.set_nonblocking(false).expect("an option");
        idle
    }
}

/// One end of a connection; nothing waits for ever.
pub(crate) struct Peer(pub(crate) TcpStream);

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
    /// It did not, in the time there was.
    Open,
}

impl Peer {
    pub(crate) fn new(stream: TcpStream) -> Peer {
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option");
        stream.set_nodelay(true).expect("an option");
        Peer(stream)
    }

    pub(crate) fn connect(addr: SocketAddr) -> Peer {
        Peer::new(TcpStream::connect(addr).expect("a connection"))
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("it takes bytes");
    }

    /// Exactly so many bytes.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).expect("enough bytes");
        bytes
    }

    /// No more will be said.
    pub(crate) fn finish(&self) {
        self.0
            .shutdown(std::net::Shutdown::Write)
            .expect("a half-close");
    }

    /// Breaks off.
    pub(crate) fn reset(self) {
        let linger = SockRef::from(&self.0).set_linger(Some(Duration::ZERO));
        linger.expect("an option");
    }

    /// All that comes until the end, and how that is.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        let mut bytes = Vec::new();
        let end = match self.0.read_to_end(&mut bytes) {
            Ok(_) => End::Fin,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => End::Reset,
            Err(_) => End::Open,
        };
        (bytes, end)
    }
}
