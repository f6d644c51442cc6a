//! The streaming decoder over all framings: cuts a byte stream into frames without keeping them.

use super::{FrameError, Framing, Head};

/// Which way the stream runs; bit 31 means different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From a client: the quick-ack bit is a request and part of the frame.
    Uplink,
    /// From a DC: the quick-ack bit marks four bytes that are a token and no frame.
    Downlink,
}

/// Cuts one direction of a stream into frames.
///
/// `Header -> Payload -> Padding -> Header`; a token or a frame without padding goes straight back
/// to `Header`. Holds at most the three first bytes of a length prefix.
#[derive(Clone, Copy, Debug)]
pub struct FrameReader {
    framing: Framing,
    side: Side,
    state: State,
}

/// What one call of [`FrameReader::next`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes of the input that are done with; call again with the others.
    pub consumed: usize,
    /// What they were; `None` when all input was consumed and more is needed.
    pub event: Option<FrameEvent<'a>>,
}

/// A piece of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameEvent<'a> {
    /// A frame begins.
    Begin {
        /// Bytes of payload that follow in [`FrameEvent::Payload`] pieces: a multiple of four.
        payload_bytes: u32,
        /// The client wants a quick acknowledgement.
        quick_ack: bool,
    },
    /// Some of the payload, never empty.
    Payload(&'a [u8]),
    /// The frame is complete; its padding was dropped.
    End,
    /// A quick-ack token (downlink), bit 31 set.
    QuickAck(u32),
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `seen_bytes <= 3` bytes of the next prefix are in `seen`.
    Header { seen: [u8; 4], seen_bytes: u8 },
    /// `left >= 0` payload bytes to go, then the padding.
    Payload { left: u32, padding: u32 },
    /// Padding bytes to go before the frame ends.
    Padding { left: u32 },
}

const START: State = State::Header {
    seen: [0; 4],
    seen_bytes: 0,
};

impl FrameReader {
    /// A reader at the beginning of a frame.
    pub fn new(framing: Framing, side: Side) -> Self {
        Self {
            framing,
            side,
            state: START,
        }
    }

    /// Nothing of a frame was read since the last one ended.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header { seen_bytes: 0, .. })
    }

    /// Reads the next piece from the front of `input`. Call until `event` is `None`.
    ///
    /// # Errors
    /// [`FrameError`]: the stream is out of step and cannot be read on.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, FrameError> {
        match self.state {
            State::Header { seen, seen_bytes } => self.header(seen, seen_bytes, input),
            State::Payload { left: 0, padding } => {
                self.state = State::Padding { left: padding };
                self.next(input)
            }
            State::Payload { left, padding } => {
                let (piece, taken) = front(input, left);
                self.state = State::Payload {
                    left: left - taken,
                    padding,
                };
                Ok(Step {
                    consumed: piece.len(),
                    event: (!piece.is_empty()).then_some(FrameEvent::Payload(piece)),
                })
            }
            State::Padding { left } => {
                let (piece, taken) = front(input, left);
                let done = taken == left;
                self.state = if done {
                    START
                } else {
                    State::Padding { left: left - taken }
                };
                Ok(Step {
                    consumed: piece.len(),
                    event: done.then_some(FrameEvent::End),
                })
            }
        }
    }

    /// Takes bytes one by one until the prefix is complete: it has at most four.
    fn header<'a>(
        &mut self,
        mut seen: [u8; 4],
        seen_bytes: u8,
        input: &'a [u8],
    ) -> Result<Step<'a>, FrameError> {
        let mut have = usize::from(seen_bytes);
        let mut consumed = 0;
        for (slot, &byte) in seen.iter_mut().skip(have).zip(input) {
            *slot = byte;
            consumed += 1;
        }
        let fresh = consumed;
        consumed = 0;
        for _ in 0..fresh {
            have += 1;
            consumed += 1;
            let head = self
                .framing
                .decode_header(seen.get(..have).unwrap_or_default(), self.side)?;
            if let Some(head) = head {
                return Ok(Step {
                    consumed,
                    event: Some(self.begin(head)),
                });
            }
        }
        self.state = State::Header {
            seen,
            seen_bytes: have as u8,
        };
        Ok(Step {
            consumed,
            event: None,
        })
    }

    fn begin<'a>(&mut self, head: Head) -> FrameEvent<'a> {
        match head {
            Head::Frame {
                payload_bytes,
                padding_bytes,
                quick_ack,
            } => {
                self.state = State::Payload {
                    left: payload_bytes,
                    padding: padding_bytes,
                };
                FrameEvent::Begin {
                    payload_bytes,
                    quick_ack,
                }
            }
            Head::Token(token) => {
                self.state = START;
                FrameEvent::QuickAck(token)
            }
        }
    }
}

/// At most `limit` bytes from the front of `input`, and their number.
fn front(input: &[u8], limit: u32) -> (&[u8], u32) {
    match input.split_at_checked(limit as usize) {
        Some((piece, _)) => (piece, limit),
        // Shorter than `limit`, so its length fits u32.
        None => (input, input.len() as u32),
    }
}
