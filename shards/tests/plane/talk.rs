//! A DC and clients: both ends of the encrypted conversations.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::Rng;
use shards::proto::{
    crypto::{CtrStream, HmacKey},
    dc::DcId,
    faketls::{
        client_hello::{HelloKind, build_hello},
        record::{self, RecordReader},
        server_hello::check_answer,
    },
    framing::Framing,
    obfuscated2::{DcSide, client_side, dc_side},
    secret::Secret,
};
use socket2::{Domain, Socket, Type};

use crate::support::{DC, DOMAIN, LIMIT, SECRET};

/// Starts a DC whose every connection is handled on a thread of its own.
pub(crate) fn far(handle: impl Fn(Talk) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (handle, mut stream) = (Arc::clone(&handle), stream.expect("accept"));
            thread::spawn(move || {
                let mut header = [0; 64];
                if stream.read_exact(&mut header).is_err() {
                    return;
                }
                let DcSide {
                    framing,
                    dc,
                    p2d,
                    d2p,
                } = dc_side(&header).expect("a header for a DC");
                assert_eq!((framing, dc.0), (Framing::Padded, DC));
                handle(Talk::new(stream, d2p, p2d, None));
            });
        }
    });
    addr
}

/// A DC that sends everything back.
pub(crate) fn echo() -> SocketAddr {
    far(|mut talk| {
        let mut bytes = vec![0; 100_000];
        loop {
            match talk.read(&mut bytes) {
                0 => return talk.finish(),
                got => talk.write(&bytes[..got]),
            }
        }
    })
}

/// One end of an encrypted conversation.
pub(crate) struct Talk {
    pub(crate) stream: TcpStream,
    out: CtrStream,
    back: CtrStream,
    /// Set for FakeTLS.
    records: Option<RecordReader>,
}

/// Payload of a record, as real clients send them.
const CLIENT_RECORD: usize = 2_878;

impl Talk {
    fn new(
        stream: TcpStream,
        out: CtrStream,
        back: CtrStream,
        records: Option<RecordReader>,
    ) -> Self {
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.set_write_timeout(Some(LIMIT)).expect("a limit");
        stream.set_nodelay(true).expect("nodelay");
        Self {
            stream,
            out,
            back,
            records,
        }
    }

    /// A `dd` client with its header sent.
    pub(crate) fn secure(proxy: SocketAddr) -> Self {
        Self::secure_from(connect(proxy))
    }

    /// A `dd` client on a connection that is there.
    pub(crate) fn secure_from(stream: TcpStream) -> Self {
        Self::secure_as(stream, &SECRET)
    }

    /// The same, of the user with this secret. The proxy may have closed already.
    pub(crate) fn secure_as(mut stream: TcpStream, secret: &Secret) -> Self {
        let side = client_side(&mut random, secret, Framing::Padded, DcId(DC));
        drop(stream.write_all(&side.wire));
        Self::new(stream, side.c2p, side.p2c, None)
    }

    /// An `ee` client: hello sent, answer checked, header sent.
    pub(crate) fn tls(proxy: SocketAddr) -> Self {
        Self::tls_as(connect(proxy), &SECRET)
    }

    /// The same on a connection that is there, of the user with this secret.
    pub(crate) fn tls_as(mut stream: TcpStream, secret: &Secret) -> Self {
        let hello = hello(secret, DOMAIN);
        stream.write_all(&hello).expect("hello");
        read_answer(&mut stream, &hello, secret);
        let side = client_side(&mut random, secret, Framing::Padded, DcId(DC));
        let mut first = vec![0x14, 3, 3, 0, 1, 1];
        record::encode(&mut first, &side.wire, CLIENT_RECORD);
        stream.write_all(&first).expect("inner header");
        Self::new(stream, side.c2p, side.p2c, Some(RecordReader::new()))
    }

    /// The inner header of an `ee` client, in its record.
    pub(crate) fn inner_header(secret: &Secret) -> Vec<u8> {
        let side = client_side(&mut random, secret, Framing::Padded, DcId(DC));
        let mut first = Vec::new();
        record::encode(&mut first, &side.wire, CLIENT_RECORD);
        first
    }

    /// Some bytes; 0 at the end, whichever it is.
    pub(crate) fn read_some(&mut self, bytes: &mut [u8]) -> usize {
        let got = self.stream.read(bytes).unwrap_or(0);
        self.back.apply(&mut bytes[..got]);
        got
    }

    /// Whether so many bytes come back from a DC that echoes.
    pub(crate) fn is_served(&mut self, count: usize) -> bool {
        let mut sent = vec![0; count];
        fill(7, 0, &mut sent);
        self.try_write(&sent) && self.is_answered(&sent)
    }

    fn is_answered(&mut self, sent: &[u8]) -> bool {
        let mut got = vec![0; sent.len()];
        let mut at = 0;
        while at < got.len() {
            match self.stream.read(&mut got[at..]) {
                Ok(0) => return false,
                Ok(more) => at += more,
                Err(error) => {
                    let gone = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                    assert!(gone.contains(&error.kind()), "{error}");
                    return false;
                }
            }
        }
        self.back.apply(&mut got);
        assert!(got == sent, "wrong bytes");
        true
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        assert!(self.try_write(bytes), "the other side is gone");
    }

    /// False when the other side is gone.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> bool {
        let mut wire = bytes.to_vec();
        self.out.apply(&mut wire);
        if self.records.is_some() {
            let mut framed = Vec::with_capacity(wire.len() + wire.len() / 400 + 8);
            record::encode(&mut framed, &wire, CLIENT_RECORD);
            wire = framed;
        }
        self.stream.write_all(&wire).is_ok()
    }

    /// Some bytes; 0 at the end.
    pub(crate) fn read(&mut self, bytes: &mut [u8]) -> usize {
        loop {
            let got = match self.stream.read(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                got => got.expect("read"),
            };
            let mut payload = got;
            if let Some(records) = &mut self.records {
                let compacted = records.compact(&mut bytes[..got]).expect("records");
                payload = compacted.payload;
            }
            if payload > 0 || got == 0 {
                self.back.apply(&mut bytes[..payload]);
                return payload;
            }
        }
    }

    /// Reads so many bytes of the pattern, and checks them.
    pub(crate) fn expect(&mut self, seed: u64, count: usize) {
        self.expect_at(seed, 0, count);
    }

    /// Reads so many bytes of the pattern from `from` on, and checks them.
    pub(crate) fn expect_at(&mut self, seed: u64, from: usize, count: usize) {
        let mut bytes = vec![0; 200_000];
        let mut at = 0;
        while at < count {
            let want = bytes.len().min(count - at);
            let got = self.read(&mut bytes[..want]);
            assert!(got > 0, "the end after {at} of {count} bytes");
            let mut right = vec![0; got];
            fill(seed, from + at, &mut right);
            assert!(bytes[..got] == right, "wrong bytes at {at}..{}", at + got);
            at += got;
        }
    }

    /// Writes so many bytes of the pattern.
    pub(crate) fn say(&mut self, seed: u64, count: usize) {
        let mut at = 0;
        while at < count {
            let mut bytes = vec![0; (count - at).min(1 << 20)];
            fill(seed, at, &mut bytes);
            self.write(&bytes);
            at += bytes.len();
        }
    }

    /// Says the pattern and expects it back.
    pub(crate) fn round_trip(&mut self, seed: u64, count: usize) {
        self.say(seed, count);
        self.expect(seed, count);
    }

    /// Ends our direction.
    pub(crate) fn finish(&mut self) {
        // The other side may be gone already.
        drop(self.stream.shutdown(Shutdown::Write));
    }

    pub(crate) fn expect_end(&mut self) {
        assert_eq!(self.read(&mut [0; 16]), 0, "bytes after the last");
    }

    /// The end, orderly or not, and nothing before it.
    pub(crate) fn expect_end_or_reset(&mut self) {
        match self.stream.read(&mut [0; 16]) {
            Ok(got) => assert_eq!(got, 0, "bytes after the last"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }

    /// A second handle for the other direction. Each may be used for one direction only.
    pub(crate) fn split(&self) -> Self {
        Self {
            stream: self.stream.try_clone().expect("a second handle"),
            out: self.out.clone(),
            back: self.back.clone(),
            records: self.records,
        }
    }
}

/// A signed hello of now.
pub(crate) fn hello(secret: &Secret, domain: &str) -> Vec<u8> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let now = u32::try_from(now.as_secs()).expect("before 2106");
    build_hello(&mut random, secret, domain, now, HelloKind::Classic517)
}

fn read_answer(stream: &mut TcpStream, hello: &[u8], secret: &Secret) {
    let mut client_random = [0; 32];
    client_random.copy_from_slice(&hello[11..43]);
    let mut seen = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte).expect("an answer");
        seen.push(byte[0]);
        let found = check_answer(&seen, &HmacKey::new(secret), &client_random);
        if found.expect("a good answer").is_some() {
            return;
        }
    }
}

pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Connects from 127.0.0.`last`. Dropped, it breaks off: thousands that end in turn would leave no
/// port free for a while.
pub(crate) fn connect_from(addr: SocketAddr, last: u8) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let from: SocketAddr = ([127, 0, 0, last], 0).into();
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
    socket.bind(&from.into()).expect("an address of ours");
    socket.connect(&addr.into()).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Reads until the proxy closes; what came, and after how long.
pub(crate) fn until_closed(stream: &mut TcpStream) -> (Vec<u8>, Duration) {
    let (begun, mut all) = (Instant::now(), Vec::new());
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    (all, begun.elapsed())
}

/// Part of an endless pattern.
pub(crate) fn fill(seed: u64, from: usize, bytes: &mut [u8]) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        let at = (from + index) as u64;
        *byte = ((at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

pub(crate) fn random(out: &mut [u8]) {
    rand::rng().fill_bytes(out);
}
