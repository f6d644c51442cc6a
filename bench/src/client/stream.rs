//! The two directions of a connected client: requests out, answers in and verified.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::SystemTime,
};

use shards::proto::framing::FrameEvent;
use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{ClientError, request};
use crate::{
    message::{Message, MessageError, MessageReader},
    pattern::{PIECE_BYTES, fold, pattern},
    stamps,
    transport::{Inbound, Outbound},
    wire::{HEAD_BYTES, Head, Op},
};

/// What came back for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`Op::Echo`] or [`Op::Done`].
    pub op: Op,
    /// The request's.
    pub id: u32,
    /// Bytes of all bodies of this answer, each compared with its CRC-32.
    pub bytes: u64,
    /// Checksum of the stream, already compared, or what the request says about the argument.
    pub arg: u64,
    /// Body of an echo.
    pub body: Vec<u8>,
}

/// Requests.
#[derive(Debug)]
pub struct Sender {
    half: OwnedWriteHalf,
    out: Outbound,
    next_id: u32,
}

impl Sender {
    pub(super) fn new(half: OwnedWriteHalf, out: Outbound) -> Sender {
        Sender {
            half,
            out,
            next_id: 1,
        }
    }

    /// Sends a request without a body; returns its id.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn request(&mut self, op: Op, arg: u64) -> Result<u32, ClientError> {
        let id = self.id();
        self.out
            .push_frame([&Head::request(op, id, arg).encode()[..]])?;
        self.flush().await?;
        Ok(id)
    }

    /// Asks for `bytes`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn download(&mut self, bytes: u64) -> Result<u32, ClientError> {
        self.request(Op::Download, bytes).await
    }

    /// Sends `body` to be sent back.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn echo(&mut self, body: &[u8]) -> Result<u32, ClientError> {
        let id = self.id();
        let head = request(Op::Echo, id, 0, body).encode();
        self.out.push_frame([&head[..], body])?;
        self.flush().await?;
        Ok(id)
    }

    /// As [`Sender::echo`], asking for a quick acknowledgement.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn acked_echo(&mut self, body: &[u8]) -> Result<u32, ClientError> {
        let id = self.id();
        let head = request(Op::Echo, id, 0, body).encode();
        self.out.push_acked_frame([&head[..], body])?;
        self.flush().await?;
        Ok(id)
    }

    /// Sends one request of `bytes`; returns its id and the checksum that the DC must find.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn upload(&mut self, bytes: usize) -> Result<(u32, u32), ClientError> {
        self.bulk(Op::Upload, bytes, 0).await
    }

    /// Sends `up` bytes and asks for `down` bytes.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn exchange(&mut self, up: usize, down: u64) -> Result<(u32, u32), ClientError> {
        self.bulk(Op::Exchange, up, down).await
    }

    /// Sends any payload as one frame.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn frame(&mut self, payload: &[u8]) -> Result<(), ClientError> {
        self.out.push_frame([payload])?;
        self.flush().await
    }

    /// Sends what is waiting.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        self.out.seal();
        let (out, half) = (&mut self.out, &mut self.half);
        poll_fn(|cx| out.poll_flush(cx, Pin::new(half)))
            .await
            .map_err(|e| socket("sending", &e))
    }

    /// Ends this direction; answers still come.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn shutdown(&mut self) -> Result<(), ClientError> {
        self.flush().await?;
        self.half
            .shutdown()
            .await
            .map_err(|e| socket("ending the uplink", &e))
    }

    async fn bulk(&mut self, op: Op, bytes: usize, arg: u64) -> Result<(u32, u32), ClientError> {
        let id = self.id();
        // Requests of one size differ, and their checksums come from a short list.
        let first = id as usize;
        let crc = BODY_CRCS.with_borrow_mut(|known| known.of(first, bytes));
        let head = Head {
            body_bytes: bytes as u32,
            crc,
            ..Head::request(op, id, arg)
        };
        let padding = self.out.begin_frame(HEAD_BYTES + bytes)?;
        self.out.put(&head.encode());
        let (mut n, mut left) = (first, bytes);
        while left > 0 {
            let piece = pattern().piece(n, left);
            self.out.put(piece);
            left -= piece.len();
            n += 1;
            if self.out.pending() >= WRITE_BYTES {
                self.flush().await?;
            }
        }
        self.out.end_frame(padding);
        self.flush().await?;
        Ok((id, crc))
    }

    fn id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }
}

/// Answers.
#[derive(Debug)]
pub struct Receiver {
    half: OwnedReadHalf,
    inbound: Inbound,
    assembly: Assembly,
    /// Bytes of one read at most; small values make a slow reader.
    pub read_bytes_max: usize,
    /// Echoes come with their body; off, with their checksum only.
    pub keep_bodies: bool,
    meter: Option<Arc<AtomicU64>>,
    ended: bool,
    /// The kernel stamps what comes in, and when the last of it came.
    stamps: Option<Option<SystemTime>>,
}

/// What was read and not yet handed out.
#[derive(Debug, Default)]
struct Assembly {
    reader: MessageReader,
    answers: VecDeque<Answer>,
    /// The download that is coming in: id, bytes, pieces, digest.
    stream: Option<(u32, u64, u16, u64)>,
    /// Frames are kept as they are instead.
    raw: bool,
    frames: VecDeque<Vec<u8>>,
    frame: Vec<u8>,
    acks: VecDeque<u32>,
}

impl Receiver {
    pub(super) fn new(
        half: OwnedReadHalf,
        inbound: Inbound,
        meter: Option<Arc<AtomicU64>>,
    ) -> Receiver {
        let assembly = Assembly::default();
        Receiver {
            half,
            inbound,
            assembly,
            read_bytes_max: READ_BYTES,
            keep_bodies: true,
            meter,
            ended: false,
            stamps: None,
        }
    }

    /// The next complete answer.
    ///
    /// # Errors
    /// [`ClientError`]; `Closed` when the stream ends between frames.
    pub async fn answer(&mut self) -> Result<Answer, ClientError> {
        loop {
            if let Some(answer) = self.assembly.answers.pop_front() {
                return Ok(answer);
            }
            self.read_once().await?;
        }
    }

    /// The next frame as it is. Not to be mixed with answers that are still due.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn frame(&mut self) -> Result<Vec<u8>, ClientError> {
        self.assembly.raw = true;
        while self.assembly.frames.is_empty() {
            self.read_once().await?;
        }
        self.assembly.raw = false;
        Ok(self.assembly.frames.pop_front().unwrap_or_default())
    }

    /// The next quick acknowledgement, bit 31 set.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn ack(&mut self) -> Result<u32, ClientError> {
        loop {
            if let Some(ack) = self.assembly.acks.pop_front() {
                return Ok(ack);
            }
            self.read_once().await?;
        }
    }

    /// Reads once and works through what came; for readers that pause between calls.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn read_once(&mut self) -> Result<usize, ClientError> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// Has the kernel stamp what comes in.
    ///
    /// # Errors
    /// [`ClientError`]: the kernel has no stamps.
    pub(super) fn stamp(&mut self) -> Result<(), ClientError> {
        if self.stamps.is_none() {
            stamps::enable(self.half.as_ref()).map_err(|e| socket("stamping", &e))?;
            self.stamps = Some(None);
        }
        Ok(())
    }

    /// When the last bytes came in, as far as they were stamped.
    pub(super) fn came(&self) -> Option<SystemTime> {
        self.stamps.flatten()
    }

    /// An answer that is complete already.
    pub fn ready_answer(&mut self) -> Option<Answer> {
        self.assembly.answers.pop_front()
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ClientError>> {
        if self.ended {
            return Poll::Ready(Err(ClientError::Closed { step: READING }));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let limit = self.read_bytes_max.clamp(1, READ_BYTES);
            let bytes = match &mut self.stamps {
                None => {
                    let mut buf = ReadBuf::new(&mut scratch[..limit]);
                    ready!(Pin::new(&mut self.half).poll_read(cx, &mut buf))
                        .map_err(|e| socket(READING, &e))?;
                    buf.filled().len()
                }
                Some(last) => {
                    let read = stamps::poll_read(self.half.as_ref(), cx, &mut scratch[..limit]);
                    let (bytes, came) = ready!(read).map_err(|e| socket(READING, &e))?;
                    *last = came;
                    bytes
                }
            };
            let data = &mut scratch[..bytes];
            if let Some(meter) = &self.meter {
                meter.fetch_add(bytes as u64, Relaxed);
            }
            let (assembly, keep) = (&mut self.assembly, self.keep_bodies);
            self.inbound
                .feed::<ClientError>(data, |event| assembly.take(event, keep))?;
            self.ended = bytes == 0;
            if self.ended && !self.inbound.is_between_frames() {
                return Poll::Ready(Err(ClientError::Closed {
                    step: "reading a frame",
                }));
            }
            Poll::Ready(if bytes == 0 {
                Err(ClientError::Closed { step: READING })
            } else {
                Ok(bytes)
            })
        })
    }
}

impl Assembly {
    fn take(&mut self, event: FrameEvent<'_>, keep: bool) -> Result<(), ClientError> {
        if let FrameEvent::QuickAck(ack) = event {
            self.acks.push_back(ack);
            return Ok(());
        }
        if self.raw {
            match event {
                FrameEvent::Begin { .. } | FrameEvent::QuickAck(_) => {}
                FrameEvent::Payload(piece) => self.frame.extend_from_slice(piece),
                FrameEvent::End => self.frames.push_back(std::mem::take(&mut self.frame)),
            }
            return Ok(());
        }
        match self.reader.take(event, |op| keep && op == Op::Echo)? {
            Some(message) => self.message(message),
            None => Ok(()),
        }
    }

    fn message(&mut self, message: Message) -> Result<(), ClientError> {
        let Head {
            op,
            seq,
            id,
            body_bytes,
            crc,
            arg,
        } = message.head;
        let mut answer = Answer {
            op,
            id,
            bytes: u64::from(body_bytes),
            arg,
            body: message.body,
        };
        match op {
            Op::Data => {
                let (stream, bytes, pieces, digest) = self.stream.unwrap_or((id, 0, 0, 0));
                if (stream, pieces) != (id, seq) {
                    return Err(answer.wrong("the next piece of a download"));
                }
                let bytes = bytes + answer.bytes;
                self.stream = Some((id, bytes, pieces.wrapping_add(1), fold(digest, crc)));
                return Ok(());
            }
            Op::Done => {
                if let Some((stream, bytes, _, digest)) = self.stream.take() {
                    answer.bytes = bytes;
                    if (stream, digest) != (id, arg) {
                        return Err(answer.wrong("the end of a download"));
                    }
                }
            }
            _ => {}
        }
        self.answers.push_back(answer);
        Ok(())
    }
}

impl From<crate::transport::InboundError> for ClientError {
    fn from(e: crate::transport::InboundError) -> ClientError {
        ClientError::Message(MessageError::Inbound(e))
    }
}

pub(super) fn socket(step: &'static str, e: &io::Error) -> ClientError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => ClientError::Closed { step },
        kind => ClientError::Io { step, kind },
    }
}

const READING: &str = "reading";
/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;
/// Bytes collected before a write.
const WRITE_BYTES: usize = 3 * PIECE_BYTES;

/// Checksums of request bodies by first piece and length.
#[derive(Debug, Default)]
struct BodyCrcs {
    known: Vec<(usize, usize, u32)>,
}

impl BodyCrcs {
    fn of(&mut self, first: usize, bytes: usize) -> u32 {
        let first = first % crate::pattern::PIECES;
        if let Some(&(_, _, crc)) = self
            .known
            .iter()
            .find(|&&(f, b, _)| (f, b) == (first, bytes))
        {
            return crc;
        }
        let crc = pattern().crc_of_body(first, bytes);
        if self.known.len() < 64 {
            self.known.push((first, bytes, crc));
        }
        crc
    }
}

thread_local! {
    /// One read buffer for all clients of a thread: nothing of it is kept between polls.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    static BODY_CRCS: RefCell<BodyCrcs> = RefCell::default();
}
