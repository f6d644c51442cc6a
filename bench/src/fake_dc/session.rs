//! One connection at the fake DC: the header, then requests in and answers out at the same time.
//!
//! It reads whatever its own answers do, so that both directions of a proxy can be busy at once.
//! Answers wait as descriptions, not as bytes, until the socket takes them.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
    time::Duration,
};

use shards::proto::{
    framing::{FrameError, Side},
    obfuscated2::{self, DcSide, HEADER_BYTES},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{Fault, Seen, Shared};
use crate::{
    answers::{Answers, NoRequest, Step},
    message::{MessageError, MessageReader},
    stamps,
    transport::{Inbound, InboundError, Outbound},
    wire::{Head, Op},
};

/// Serves one connection until it ends.
pub(super) async fn serve(mut stream: TcpStream, peer: SocketAddr, fault: Fault, shared: &Shared) {
    match fault {
        Fault::Silent => return std::future::pending().await,
        Fault::CloseAtAccept => return,
        _ => {}
    }
    // Without it round trips would wait for delayed acknowledgements; nothing else can fail here.
    let _ = stream.set_nodelay(true);
    let mut header = [0; HEADER_BYTES];
    if stream.read_exact(&mut header).await.is_err() {
        return;
    }
    let Some(side) = obfuscated2::dc_side(&header) else {
        shared.damaged.fetch_add(1, Relaxed);
        return;
    };
    shared.bytes_in.fetch_add(HEADER_BYTES as u64, Relaxed);
    shared.record(Seen {
        dc: side.dc,
        framing: side.framing,
        peer,
        header,
    });
    let mut session = Session::new(stream, side, fault, shared);
    match poll_fn(|cx| session.poll(cx)).await {
        Ok(()) | Err(End::Socket) => {}
        Err(End::Reset) => {
            // Unsent bytes are dropped and the peer gets RST.
            let _ = socket2::SockRef::from(&session.stream).set_linger(Some(Duration::ZERO));
        }
        Err(End::Damaged) => {
            shared.damaged.fetch_add(1, Relaxed);
        }
    }
}

/// Why a connection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Socket,
    Reset,
    Damaged,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Socket
    }
}

impl From<InboundError> for End {
    fn from(_: InboundError) -> End {
        End::Damaged
    }
}

impl From<MessageError> for End {
    fn from(_: MessageError) -> End {
        End::Damaged
    }
}

impl From<NoRequest> for End {
    fn from(_: NoRequest) -> End {
        End::Damaged
    }
}

impl From<FrameError> for End {
    fn from(_: FrameError) -> End {
        End::Damaged
    }
}

struct Session<'a> {
    stream: TcpStream,
    side: (u16, u8),
    inbound: Inbound,
    outbound: Outbound,
    reader: MessageReader,
    answers: Answers,
    read_ended: bool,
    /// The kernel stamps what comes in: somebody has asked for it.
    stamped: bool,
    reset_after: Option<u64>,
    delay: Option<Duration>,
    sleep: Option<Pin<Box<Sleep>>>,
    shared: &'a Shared,
}

impl Session<'_> {
    fn new(stream: TcpStream, side: DcSide, fault: Fault, shared: &Shared) -> Session<'_> {
        Session {
            stream,
            side: (side.dc.0.cast_unsigned(), side.framing.tag()[0]),
            inbound: Inbound::new(side.p2d, side.framing, Side::Uplink, false),
            outbound: Outbound::new(side.d2p, side.framing, None),
            reader: MessageReader::default(),
            answers: Answers::default(),
            read_ended: false,
            stamped: false,
            reset_after: if let Fault::ResetAfter(bytes) = fault {
                Some(bytes)
            } else {
                None
            },
            delay: if let Fault::Delay(delay) = fault {
                Some(delay)
            } else {
                None
            },
            sleep: None,
            shared,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            let mut progress = false;
            if !self.read_ended && self.answers.len() < JOBS_MAX {
                progress |= self.poll_read(cx)?.is_ready();
            }
            if self.outbound.pending() == 0 && self.may_answer(cx) {
                self.generate()?;
            }
            if self.outbound.pending() > 0 {
                progress |= self.poll_write(cx)?.is_ready();
            } else if self.read_ended && self.answers.is_empty() {
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                return Poll::Ready(Ok(()));
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let (bytes, came) = if self.stamped {
                ready!(stamps::poll_read(&self.stream, cx, scratch))?
            } else {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
                (buf.filled().len(), None)
            };
            let data = &mut scratch[..bytes];
            self.shared.bytes_in.fetch_add(data.len() as u64, Relaxed);
            self.read_ended = data.is_empty();
            let (inbound, reader, answers) =
                (&mut self.inbound, &mut self.reader, &mut self.answers);
            let (shared, side) = (self.shared, self.side);
            let was_idle = answers.is_empty();
            let mut wants_stamps = false;
            inbound.feed::<End>(data, |event| {
                if let Some(message) = reader.take(event, |op| op == Op::Echo)? {
                    shared.requests.fetch_add(1, Relaxed);
                    wants_stamps |= message.head.op == Op::Stamped;
                    answers.plan(message, side, came)?;
                }
                Ok(())
            })?;
            if wants_stamps && !self.stamped {
                stamps::enable(&self.stream)?;
                self.stamped = true;
            }
            if let Some(delay) = self.delay.filter(|_| was_idle && !answers.is_empty()) {
                self.sleep = Some(Box::pin(tokio::time::sleep(delay)));
            }
            Poll::Ready(Ok(()))
        })
    }

    fn may_answer(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(sleep) = &mut self.sleep
            && sleep.as_mut().poll(cx).is_pending()
        {
            return false;
        }
        self.sleep = None;
        true
    }

    /// Fills the send buffer from the waiting answers.
    fn generate(&mut self) -> Result<(), End> {
        while self.outbound.pending() < OUT_BYTES {
            let outbound = &mut self.outbound;
            match self.answers.step(|head, body| push(outbound, head, body))? {
                Step::Frame => {}
                // Encrypted while it is in the L1 cache.
                Step::Piece => self.outbound.seal(),
                // What was generated before goes out first.
                Step::Reset if self.outbound.pending() > 0 => break,
                Step::Reset => return Err(End::Reset),
                Step::Close => {
                    self.read_ended = true;
                    self.answers.clear();
                    break;
                }
                Step::Empty => break,
            }
        }
        self.outbound.seal();
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let wrote = ready!(self.outbound.poll_write(cx, Pin::new(&mut self.stream)))? as u64;
        self.shared.bytes_out.fetch_add(wrote, Relaxed);
        if let Some(left) = &mut self.reset_after {
            *left = left.saturating_sub(wrote);
            if *left == 0 {
                return Poll::Ready(Err(End::Reset));
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Answers that may wait; beyond this the DC stops reading, as a real one would.
const JOBS_MAX: usize = 4096;
/// Bytes generated ahead of the socket: those of a few connections stay in the L2 cache.
const OUT_BYTES: usize = 96 * 1024;
/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;

thread_local! {
    /// One read buffer for all connections of a thread: nothing of it is kept between polls.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

fn push(outbound: &mut Outbound, head: &Head, body: &[u8]) -> Result<(), End> {
    let head = head.encode();
    Ok(outbound.push_frame([&head[..], body])?)
}
