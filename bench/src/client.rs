//! One client of each mode, as an async value: connect, ask, verify what comes back.
//!
//! Used by the loads and by end-to-end tests, which also need clients that do something wrong:
//! another secret, a recorded opening, a clock that is off. Many clients at once are in
//! [`load`](crate::load).

mod handshake;
mod stream;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime},
};

use shards::proto::{
    dc::DcId,
    faketls::{client_hello::HelloKind, server_hello::AnswerError},
    framing::{FrameError, Framing},
    secret::Secret,
};

pub use handshake::Opening;
pub use stream::{Answer, Receiver, Sender};

use crate::{
    message::MessageError,
    wire::{Head, Op},
};

/// How a client speaks to what it connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// obfuscated2 with tag `ef`.
    Abridged,
    /// obfuscated2 with tag `ee`.
    Intermediate,
    /// obfuscated2 with tag `dd`.
    Dd,
    /// FakeTLS, inside it tag `dd`.
    Ee,
    /// A DC's header without a secret, tag `dd`: straight to a DC or through a relay.
    Direct,
}

impl Mode {
    /// All that go through a proxy.
    pub const PROXIED: [Mode; 4] = [Mode::Abridged, Mode::Intermediate, Mode::Dd, Mode::Ee];

    /// The framing that goes with it.
    pub fn framing(self) -> Framing {
        match self {
            Mode::Abridged => Framing::Abridged,
            Mode::Intermediate => Framing::Intermediate,
            Mode::Dd | Mode::Ee | Mode::Direct => Framing::Padded,
        }
    }

    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Abridged => "abridged",
            Mode::Intermediate => "intermediate",
            Mode::Dd => "dd",
            Mode::Ee => "ee",
            Mode::Direct => "direct",
        }
    }
}

/// Where and how to connect. Made by [`Dial::new`]; change fields as needed.
#[derive(Clone, Debug)]
pub struct Dial {
    /// What is spoken.
    pub mode: Mode,
    /// Framing, when it is not the one of the mode (only useful with [`Mode::Direct`]).
    pub framing: Framing,
    /// The proxy, or the DC itself in mode `direct`.
    pub addr: SocketAddr,
    /// The user's secret; unused in mode `direct`.
    pub secret: Secret,
    /// Name in SNI; empty leaves the extension out where the hello allows it.
    pub domain: String,
    /// DC id in the header.
    pub dc: DcId,
    /// Generation of the ClientHello.
    pub hello: HelloKind,
    /// Added to the clock that goes into the hello.
    pub clock_offset_secs: i64,
    /// Source address; the kernel's choice when `None`.
    pub source: Option<IpAddr>,
    /// `SO_RCVBUF` of the socket, set before connecting.
    pub receive_buffer_bytes: Option<u32>,
    /// Limit of connecting, FakeTLS handshake included, and of every single call afterwards.
    pub timeout: Duration,
    /// Counts bytes received, as they are on the wire.
    pub meter: Option<Arc<AtomicU64>>,
}

impl Dial {
    /// DC 2, domain [`DOMAIN`], the post-quantum hello, 20 s.
    pub fn new(mode: Mode, addr: SocketAddr, secret: Secret) -> Dial {
        Dial {
            mode,
            framing: mode.framing(),
            addr,
            secret,
            domain: DOMAIN.into(),
            dc: DcId(2),
            hello: HelloKind::PostQuantum,
            clock_offset_secs: 0,
            source: None,
            receive_buffer_bytes: None,
            timeout: Duration::from_secs(20),
            meter: None,
        }
    }

    /// A client that needs no proxy: `addr` is a DC or a relay to one.
    pub fn direct(addr: SocketAddr, framing: Framing) -> Dial {
        Dial {
            framing,
            ..Dial::new(Mode::Direct, addr, Secret([0; 16]))
        }
    }
}

/// Domain that the bench's configurations and clients use.
pub const DOMAIN: &str = "www.example.org";

/// Body of a ping, so that the whole message has 64 bytes.
pub const PING_BODY_BYTES: usize = 40;

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("{step}: {kind}")]
    Io {
        /// What the client was doing.
        step: &'static str,
        /// What the socket said.
        kind: io::ErrorKind,
    },
    /// The other side closed where more was due.
    #[error("closed by the other side while {step}")]
    Closed {
        /// What the client was doing.
        step: &'static str,
    },
    /// [`Dial::timeout`] has passed.
    #[error("nothing came in time while {step}")]
    TimedOut {
        /// What the client was doing.
        step: &'static str,
    },
    /// What came in place of a ServerHello is none, or is not from one who knows the secret.
    #[error("server hello: {0}")]
    Hello(#[from] AnswerError),
    /// Bytes behind the server hello, before we have sent anything: an Android client fails there.
    #[error("{bytes} bytes behind the server hello")]
    Surplus {
        /// How many.
        bytes: usize,
    },
    /// Damaged, lost or doubled bytes.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A request that cannot be framed.
    #[error("request: {0}")]
    Frame(#[from] FrameError),
    /// An answer to something else, of another length or with another checksum.
    #[error("answer to request {id} of {bytes} bytes, checksum {checksum:x}; expected {wanted}")]
    Wrong {
        /// Id in the answer.
        id: u32,
        /// Bytes of all its bodies.
        bytes: u64,
        /// Its checksum or argument.
        checksum: u64,
        /// What was due.
        wanted: &'static str,
    },
}

/// A connected client.
#[derive(Debug)]
pub struct Client {
    tx: Sender,
    rx: Receiver,
    timeout: Duration,
}

impl Client {
    /// Connects; in mode `ee` also performs the FakeTLS handshake. The 64-byte header goes out with
    /// the first request, as real clients do it, or with [`Client::flush`].
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(dial: &Dial) -> Result<Client, ClientError> {
        Client::connect_with(dial, &Opening::new(dial)).await
    }

    /// As [`Client::connect`] with an opening made before: for replays.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect_with(dial: &Dial, opening: &Opening) -> Result<Client, ClientError> {
        let (tx, rx) = within(
            dial.timeout,
            "connecting",
            handshake::connect(dial, opening),
        )
        .await?;
        Ok(Client {
            tx,
            rx,
            timeout: dial.timeout,
        })
    }

    /// The two directions, to be used at the same time. Calls on them have no time limit.
    pub fn split(self) -> (Sender, Receiver) {
        (self.tx, self.rx)
    }

    /// Sends what is waiting, which after connecting is the header alone.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        within(self.timeout, "sending", self.tx.flush()).await
    }

    /// One round trip of a 64-byte message.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        let body = crate::pattern::pattern().piece(0, PING_BODY_BYTES);
        within(self.timeout, "waiting for a ping's answer", async {
            let id = self.tx.echo(body).await?;
            self.rx.answer().await?.expect_echo(id, body.len())
        })
        .await
    }

    /// One round trip of an empty message: how long it took on the way between the two ends'
    /// sockets, by the kernel's stamps, whatever the ends themselves waited for. `None` for the
    /// first, behind which stamps begin. Only a [`FakeDc`](crate::fake_dc::FakeDc) can answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stamped_ping(&mut self) -> Result<Option<Duration>, ClientError> {
        self.rx.stamp()?;
        let sent = SystemTime::now();
        let held = Duration::from_nanos(self.simple(Op::Stamped, 0).await?.arg);
        let round = self
            .rx
            .came()
            .and_then(|came| came.duration_since(sent).ok());
        // A clock that was set meanwhile gives no figure rather than a wrong one.
        Ok(round.and_then(|round| round.checked_sub(held)))
    }

    /// Sends `body` (a multiple of 4 bytes) and returns what comes back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn echo(&mut self, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        within(self.timeout, "waiting for an echo", async {
            let id = self.tx.echo(body).await?;
            let answer = self.rx.answer().await?;
            answer.expect_echo(id, body.len())?;
            Ok(answer.body)
        })
        .await
    }

    /// One round trip of a message that is to be acknowledged at once; returns its id and the
    /// acknowledgement, bit 31 set.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn acked_ping(&mut self) -> Result<(u32, u32), ClientError> {
        let body = crate::pattern::pattern().piece(0, PING_BODY_BYTES);
        within(self.timeout, "waiting for an acknowledgement", async {
            let id = self.tx.acked_echo(body).await?;
            let ack = self.rx.ack().await?;
            self.rx.answer().await?.expect_echo(id, body.len())?;
            Ok((id, ack))
        })
        .await
    }

    /// Receives `bytes` (a multiple of 4).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn download(&mut self, bytes: u64) -> Result<(), ClientError> {
        within(self.timeout, "downloading", async {
            let id = self.tx.download(bytes).await?;
            self.rx.answer().await?.expect_stream(id, bytes)
        })
        .await
    }

    /// Sends one request of `bytes` (a multiple of 4) and compares the DC's checksum.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload(&mut self, bytes: usize) -> Result<(), ClientError> {
        within(self.timeout, "uploading", async {
            // The answer has a few bytes, so that nobody waits for us to read it.
            let (id, crc) = self.tx.upload(bytes).await?;
            self.rx.answer().await?.expect_arg(id, u64::from(crc))
        })
        .await
    }

    /// Sends a request of `up` bytes and receives `down` bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exchange(&mut self, up: usize, down: u64) -> Result<(), ClientError> {
        within(self.timeout, "exchanging", async {
            let (id, crc) = self.tx.exchange(up, down).await?;
            self.rx.answer().await?.expect_arg(id, u64::from(crc))?;
            self.rx.answer().await?.expect_stream(id, down)
        })
        .await
    }

    /// The DC id and tag byte that the DC read in its header.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn who_am_i(&mut self) -> Result<(DcId, u8), ClientError> {
        let answer = self.simple(Op::WhoAmI, 0).await?;
        let [low, high, tag, ..] = answer.arg.to_le_bytes();
        Ok((DcId(i16::from_le_bytes([low, high])), tag))
    }

    /// Tells the DC that nothing will follow for a while; returns once it has understood.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn hold(&mut self) -> Result<(), ClientError> {
        self.simple(Op::Hold, 0).await.map(|_| ())
    }

    /// Asks the DC to send `bytes` and then to reset the connection; returns the error behind it.
    ///
    /// # Errors
    /// Always; [`ClientError::Wrong`] if the connection is not reset.
    pub async fn reset_after(&mut self, bytes: u64) -> Result<(), ClientError> {
        loop {
            self.simple(Op::Reset, bytes).await?;
        }
    }

    /// Asks the DC to close its side; returns once it has agreed. The next call finds the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ask_close(&mut self) -> Result<(), ClientError> {
        self.simple(Op::Close, 0).await.map(|_| ())
    }

    /// Waits for the other side to close without a further message.
    ///
    /// # Errors
    /// [`ClientError`]: it does not close, or closes by a reset.
    pub async fn closed(&mut self) -> Result<(), ClientError> {
        let step = "waiting for the end";
        match within(self.timeout, step, self.rx.answer()).await {
            Err(ClientError::Closed { .. }) => Ok(()),
            Err(e) => Err(e),
            Ok(answer) => answer.expect_arg(u32::MAX, u64::MAX),
        }
    }

    /// Sends any payload as one frame.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_frame(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        within(self.timeout, "sending", self.tx.frame(payload)).await
    }

    /// Receives one frame as it is; padding that its framing cannot tell from payload is left.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn recv_frame(&mut self) -> Result<Vec<u8>, ClientError> {
        within(self.timeout, "waiting for a frame", self.rx.frame()).await
    }

    async fn simple(&mut self, op: Op, arg: u64) -> Result<Answer, ClientError> {
        within(self.timeout, "waiting for an answer", async {
            let id = self.tx.request(op, arg).await?;
            let answer = self.rx.answer().await?;
            if answer.id == id {
                Ok(answer)
            } else {
                Err(answer.wrong("another id"))
            }
        })
        .await
    }
}

impl Answer {
    /// An echo of `bytes` that has kept its checksum.
    ///
    /// # Errors
    /// [`ClientError::Wrong`].
    pub fn expect_echo(&self, id: u32, bytes: usize) -> Result<(), ClientError> {
        let right = self.op == Op::Echo && self.id == id && self.bytes == bytes as u64;
        if right {
            Ok(())
        } else {
            Err(self.wrong("an echo"))
        }
    }

    /// A download of `bytes`; its checksums were compared while it came in.
    ///
    /// # Errors
    /// [`ClientError::Wrong`].
    pub fn expect_stream(&self, id: u32, bytes: u64) -> Result<(), ClientError> {
        let right = self.op == Op::Done && self.id == id && self.bytes == bytes;
        if right {
            Ok(())
        } else {
            Err(self.wrong("a download"))
        }
    }

    /// An answer without a body.
    ///
    /// # Errors
    /// [`ClientError::Wrong`].
    pub fn expect_arg(&self, id: u32, arg: u64) -> Result<(), ClientError> {
        let right = self.op == Op::Done && self.id == id && self.arg == arg && self.bytes == 0;
        if right {
            Ok(())
        } else {
            Err(self.wrong("an acknowledgement"))
        }
    }

    fn wrong(&self, wanted: &'static str) -> ClientError {
        ClientError::Wrong {
            id: self.id,
            bytes: self.bytes,
            checksum: self.arg,
            wanted,
        }
    }
}

fn request(op: Op, id: u32, arg: u64, body: &[u8]) -> Head {
    Head {
        body_bytes: body.len() as u32,
        crc: crc32fast::hash(body),
        ..Head::request(op, id, arg)
    }
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or(Err(ClientError::TimedOut { step }))
}
