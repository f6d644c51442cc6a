//! What an ME says once a connection is open: answers, quick acks, closes, pings.
//!
//! [`Answer::parse`] reads a payload that lies in one piece, [`AnswerReader`] the decrypted stream
//! as it arrives. Operations we do not know, and known ones of an impossible length, are ignored.
//!
//! Source: middle-proxy.md 8 and 8.2.

use std::ops::Range;

use super::{
    super::reader::{Reader, Short},
    checksum::Checksum,
    frame::RpcFrameError,
    frame_stream::{FrameStream, PAYLOAD_HEAD_BYTES, StreamEvent},
    ops::{self, ConnId},
};

/// One payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A message for a client: one frame of its framing.
    Data {
        /// For whom.
        conn: ConnId,
        /// [`ANSWER_IS_ERROR`], [`ANSWER_NO_DELAY`]; they do not change what is sent.
        flags: u32,
        /// The message, a multiple of four bytes.
        data: &'a [u8],
    },
    /// Everything without a message.
    Signal(Signal),
}

/// A payload without a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A quick ack for a client, see [`super::client_frames::quick_ack`].
    Ack {
        /// For whom.
        conn: ConnId,
        /// As received, LE.
        confirm: u32,
    },
    /// The client is closed. Deliver what is queued, close it, send nothing back. Also for a
    /// CLOSE_CONN, which no ME is known to send.
    Close {
        /// Who.
        conn: ConnId,
    },
    /// Answer with a PONG of this id at once.
    Ping {
        /// The id.
        id: u64,
    },
    /// Answers our PING.
    Pong {
        /// The id.
        id: u64,
    },
    /// Nothing to do.
    Ignored {
        /// The operation.
        op: u32,
    },
}

impl<'a> Answer<'a> {
    /// Reads a payload, which is at least four bytes long; an empty one is ignored.
    pub fn parse(payload: &'a [u8]) -> Self {
        match data_head(payload) {
            Ok((conn, flags, data)) => Self::Data { conn, flags, data },
            Err(_) => Self::Signal(signal(payload)),
        }
    }
}

/// Conn id, flags and message of a PROXY_ANS; an error for anything else.
fn data_head(payload: &[u8]) -> Result<(ConnId, u32, &[u8]), Short> {
    let mut r = Reader::new(payload);
    if r.u32_le()? != ops::PROXY_ANS {
        return Err(Short { need: 0, have: 0 });
    }
    let flags = r.u32_le()?;
    Ok((ConnId(u64_le(&mut r)?), flags, r.rest()))
}

/// A payload that is no message.
fn signal(payload: &[u8]) -> Signal {
    let mut r = Reader::new(payload);
    let op = r.u32_le().unwrap_or_default();
    let ignored = Signal::Ignored { op };
    let (Ok(id), confirm) = (u64_le(&mut r), r.u32_le()) else {
        return ignored;
    };
    let conn = ConnId(id);
    let whole = r.is_empty();
    match (op, confirm) {
        (ops::SIMPLE_ACK, Ok(confirm)) if whole => Signal::Ack { conn, confirm },
        (ops::CLOSE_EXT | ops::CLOSE_CONN, Err(_)) if whole => Signal::Close { conn },
        (ops::PING, Err(_)) if whole => Signal::Ping { id },
        (ops::PONG, Err(_)) if whole => Signal::Pong { id },
        _ => ignored,
    }
}

fn u64_le(r: &mut Reader<'_>) -> Result<u64, Short> {
    r.array().map(|&bytes| u64::from_le_bytes(bytes))
}

/// Reads the answers of one connection as they arrive, in place.
///
/// `Idle -> Data -> Idle` for messages, `Idle -> Held -> Idle` for signals, which are told when
/// their frame is proven. Feed it the seam and then the body of each
/// [`super::cipher::DecryptStream::decrypt`].
#[derive(Clone, Debug)]
pub struct AnswerReader {
    frames: FrameStream,
    state: State,
}

/// What one call of [`AnswerReader::next`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerStep {
    /// Bytes of the input that are done with; call again with those behind them.
    pub consumed: usize,
    /// What they were; `None` when all input was consumed and more is needed.
    pub event: Option<AnswerEvent>,
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerEvent {
    /// A message for a client begins; its framing's header can be written now.
    Data {
        /// For whom.
        conn: ConnId,
        /// [`ANSWER_IS_ERROR`], [`ANSWER_NO_DELAY`].
        flags: u32,
        /// Bytes that follow as pieces; a multiple of four, may be zero.
        data_bytes: u32,
    },
    /// Where in the input more of the message is; never empty. The reader is done with these
    /// bytes: they may be encrypted in place.
    Piece(Range<usize>),
    /// The message is complete and its frame was sound.
    DataEnd,
    /// A whole frame without a message, sound.
    Signal(Signal),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Between frames, or in the first bytes of one.
    Idle,
    /// In a frame with a message.
    Data,
    /// In a frame whose meaning is known and told at its end.
    Held(Signal),
}

impl AnswerReader {
    /// A direction whose next frame has this sequence number: [`super::frame::SEQ_DATA`].
    pub fn new(expected_seq: i32, checksum: Checksum) -> Self {
        Self {
            frames: FrameStream::new(expected_seq, checksum),
            state: State::Idle,
        }
    }

    /// What the frames end with.
    pub fn checksum(&self) -> Checksum {
        self.frames.checksum()
    }

    /// Nothing of a frame was read since the last one ended: an EOF here loses no answer.
    pub fn is_between_frames(&self) -> bool {
        self.frames.is_between_frames()
    }

    /// Reads the next part from the front of `input`. Call until `event` is `None`.
    ///
    /// # Errors
    /// [`RpcFrameError`]: close the connection. A message that had begun will not end.
    pub fn next(&mut self, input: &[u8]) -> Result<AnswerStep, RpcFrameError> {
        let mut consumed = 0;
        loop {
            let step = self
                .frames
                .next(input.get(consumed..).unwrap_or_default())?;
            let before = consumed;
            consumed += step.consumed;
            let Some(event) = step.event else {
                let event = None;
                return Ok(AnswerStep { consumed, event });
            };
            if let Some(event) = self.event(event, before) {
                let event = Some(event);
                return Ok(AnswerStep { consumed, event });
            }
        }
    }

    /// `before` is where in the caller's input the step began.
    fn event(&mut self, event: StreamEvent, before: usize) -> Option<AnswerEvent> {
        match event {
            StreamEvent::Begin {
                payload_bytes,
                head,
            } => {
                let head = head.as_bytes();
                let message = payload_bytes.checked_sub(PAYLOAD_HEAD_BYTES as u32);
                if let (Ok((conn, flags, _)), Some(data_bytes)) = (data_head(head), message) {
                    self.state = State::Data;
                    return Some(AnswerEvent::Data {
                        conn,
                        flags,
                        data_bytes,
                    });
                }
                // No signal is longer than the head.
                let op = signal(head.first_chunk::<4>().map_or(&[], |op| op));
                let whole = message.is_none_or(|behind| behind == 0);
                self.state = State::Held(if whole { signal(head) } else { op });
                None
            }
            StreamEvent::Piece(at) => match self.state {
                State::Data => Some(AnswerEvent::Piece(before + at.start..before + at.end)),
                State::Idle | State::Held(_) => None,
            },
            StreamEvent::End => match std::mem::replace(&mut self.state, State::Idle) {
                State::Data => Some(AnswerEvent::DataEnd),
                State::Held(signal) => Some(AnswerEvent::Signal(signal)),
                State::Idle => None,
            },
        }
    }
}

/// Flag of a message that is a 4-byte error such as -404.
pub const ANSWER_IS_ERROR: u32 = 0x10;
/// Flag of a message that should not wait for others.
pub const ANSWER_NO_DELAY: u32 = 0x8;

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(op: u32, rest: &[u8]) -> Vec<u8> {
        [&op.to_le_bytes()[..], rest].concat()
    }

    #[test]
    fn ignores_impossible_lengths_and_unknown_operations() {
        for (op, fits) in [
            (ops::SIMPLE_ACK, 12),
            (ops::CLOSE_EXT, 8),
            (ops::CLOSE_CONN, 8),
            (ops::PING, 8),
            (ops::PONG, 8),
            (ops::NONCE, 99),
            (ops::PROXY_REQ, 99),
            (0, 99),
        ] {
            for length in (0..40).step_by(4) {
                let payload = payload(op, &vec![1; length]);
                let Answer::Signal(signal) = Answer::parse(&payload) else {
                    panic!("{op:x} is no message");
                };
                let ignored = matches!(signal, Signal::Ignored { op: got } if got == op);
                assert_eq!(ignored, length != fits, "{op:x}, {length}");
            }
        }
        let short = payload(ops::PROXY_ANS, &[1; 8]);
        let op = ops::PROXY_ANS;
        let ignored = Answer::Signal(Signal::Ignored { op });
        assert_eq!(Answer::parse(&short), ignored);
        let op = 0;
        assert_eq!(Answer::parse(&[]), Answer::Signal(Signal::Ignored { op }));
    }

    #[test]
    fn reads_a_message_without_data() {
        let payload = payload(ops::PROXY_ANS, &[7; 12]);
        let conn = ConnId(0x0707_0707_0707_0707);
        let (flags, data) = (0x0707_0707, &[][..]);
        let want = Answer::Data { conn, flags, data };
        assert_eq!(Answer::parse(&payload), want);
    }
}
