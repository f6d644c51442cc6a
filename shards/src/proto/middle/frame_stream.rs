//! Frames read as they arrive, in place: nothing waits for the end of a long one, and no payload
//! is copied.
//!
//! A frame that lies whole in the input is proven before anything of it is told. The checksum of
//! any other is known at its end only, so its pieces are handed over before. That is as safe as
//! the rest: the cipher has no integrity either, and after an error the whole connection goes,
//! with every client that got something of the broken frame.
//!
//! Source: middle-proxy.md 3.

use std::ops::Range;

use super::{
    checksum::{Checksum, Running},
    frame::{
        CHECKSUM_BYTES, FrameDecoder, FrameStep, HEAD_BYTES, PAD_WORD, RpcFrameError, check_seq,
        frame_length,
    },
};

/// Cuts one decrypted direction into frames.
///
/// `Head -> Body -> Sum -> Head`; pad words stay in `Head`. Holds at most the 24 first bytes of a
/// frame, or its last four.
#[derive(Clone, Debug)]
pub struct FrameStream {
    expected_seq: i32,
    sum: Running,
    state: State,
}

/// The first bytes of a payload, at most [`PAYLOAD_HEAD_BYTES`], wherever the input was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadHead {
    /// Zero behind `len`.
    bytes: [u8; PAYLOAD_HEAD_BYTES],
    /// 4 to 16.
    len: u8,
}

impl PayloadHead {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// What one call of [`FrameStream::next`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamStep {
    /// Bytes of the input that are done with; call again with those behind them.
    pub consumed: usize,
    /// What they were; `None` when all input was consumed and more is needed.
    pub event: Option<StreamEvent>,
}

/// A part of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// A frame begins.
    Begin {
        /// Bytes of its payload, those of `head` included: a multiple of four.
        payload_bytes: u32,
        /// The payload's first bytes; they do not come again as a piece.
        head: PayloadHead,
    },
    /// Where in the input more of the payload is; never empty.
    Piece(Range<usize>),
    /// The frame is complete, its checksum right and its number the one due.
    End,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `have < 24` bytes from the frame's beginning.
    Head { seen: [u8; SEEN_BYTES], have: u8 },
    /// `left` payload bytes to go; may be zero.
    Body { proof: Proof, left: u32 },
    /// `have < 4` bytes of the checksum.
    Sum {
        proof: Proof,
        seen: [u8; 4],
        have: u8,
    },
}

/// What the end of a frame has to show.
#[derive(Clone, Copy, Debug)]
enum Proof {
    /// Nothing: checksum and number were looked at when it began.
    Done,
    /// The checksum, which is running, and this number.
    Due { seq: i32 },
}

const START: State = State::Head {
    seen: [0; SEEN_BYTES],
    have: 0,
};

impl FrameStream {
    /// A direction whose next frame has this sequence number.
    pub fn new(expected_seq: i32, checksum: Checksum) -> Self {
        Self {
            expected_seq,
            sum: Running::new(checksum),
            state: START,
        }
    }

    /// What the frames end with.
    pub fn checksum(&self) -> Checksum {
        self.sum.kind()
    }

    /// Nothing of a frame was read since the last one ended.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Head { have: 0, .. })
    }

    /// Reads the next part from the front of `input`. Call until `event` is `None`.
    ///
    /// # Errors
    /// [`RpcFrameError`]: close the connection.
    pub fn next(&mut self, input: &[u8]) -> Result<StreamStep, RpcFrameError> {
        match self.state {
            State::Head { have: 0, .. } => match self.whole(input)? {
                Some(step) => Ok(step),
                None => self.head([0; SEEN_BYTES], 0, input),
            },
            State::Head { seen, have } => self.head(seen, have, input),
            State::Body { proof, left: 0 } => self.sum(proof, [0; 4], 0, input),
            State::Body { proof, left } => Ok(self.body(proof, left, input)),
            State::Sum { proof, seen, have } => self.sum(proof, seen, have, input),
        }
    }

    /// Begins a frame that lies whole in `input`, if one does. 77 ns instead of 99 for an answer of
    /// 64 bytes.
    fn whole(&mut self, input: &[u8]) -> Result<Option<StreamStep>, RpcFrameError> {
        let mut frames = FrameDecoder::new(self.expected_seq, self.sum.kind());
        let FrameStep { consumed, payload } = frames.next(input)?;
        let Some(payload) = payload else {
            return Ok(None);
        };
        self.expected_seq = frames.expected_seq();
        let mut head = PayloadHead {
            bytes: [0; PAYLOAD_HEAD_BYTES],
            len: 0,
        };
        let mut have = 0;
        fill(&mut head.bytes, &mut have, PAYLOAD_HEAD_BYTES, payload);
        head.len = have as u8;
        let left = payload.len() - have;
        self.state = State::Body {
            proof: Proof::Done,
            left: left as u32,
        };
        Ok(Some(StreamStep {
            consumed: consumed - left - CHECKSUM_BYTES,
            event: Some(StreamEvent::Begin {
                payload_bytes: payload.len() as u32,
                head,
            }),
        }))
    }

    fn head(
        &mut self,
        mut seen: [u8; SEEN_BYTES],
        have: u8,
        input: &[u8],
    ) -> Result<StreamStep, RpcFrameError> {
        let (mut have, mut consumed) = (usize::from(have), 0);
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            // The length first, then as much of the frame as `seen` takes.
            let wanted = match seen.first_chunk::<4>() {
                Some(&field) if have >= 4 => {
                    (frame_length(field)? - CHECKSUM_BYTES).min(SEEN_BYTES)
                }
                _ => 4,
            };
            let taken = fill(&mut seen, &mut have, wanted, rest);
            consumed += taken;
            if have < wanted {
                self.state = State::Head {
                    seen,
                    have: have as u8,
                };
                let event = None;
                return Ok(StreamStep { consumed, event });
            }
            if seen.starts_with(&PAD_WORD) {
                have = 0;
            } else if have > 4 {
                let event = Some(self.begin(seen, have)?);
                return Ok(StreamStep { consumed, event });
            }
        }
    }

    fn begin(&mut self, seen: [u8; SEEN_BYTES], have: usize) -> Result<StreamEvent, RpcFrameError> {
        self.sum.update(seen.get(..have).unwrap_or_default());
        let [a, b, c, d, e, f, g, h, bytes @ ..] = seen;
        let payload_bytes = frame_length([a, b, c, d])? - HEAD_BYTES - CHECKSUM_BYTES;
        let len = have - HEAD_BYTES;
        self.state = State::Body {
            proof: Proof::Due {
                seq: i32::from_le_bytes([e, f, g, h]),
            },
            left: (payload_bytes - len) as u32,
        };
        Ok(StreamEvent::Begin {
            payload_bytes: payload_bytes as u32,
            head: PayloadHead {
                bytes,
                len: len as u8,
            },
        })
    }

    fn body(&mut self, proof: Proof, left: u32, input: &[u8]) -> StreamStep {
        let taken = input.len().min(left as usize);
        if let Proof::Due { .. } = proof {
            self.sum.update(input.get(..taken).unwrap_or_default());
        }
        self.state = State::Body {
            proof,
            left: left - taken as u32,
        };
        StreamStep {
            consumed: taken,
            event: (taken > 0).then_some(StreamEvent::Piece(0..taken)),
        }
    }

    fn sum(
        &mut self,
        proof: Proof,
        mut seen: [u8; 4],
        have: u8,
        input: &[u8],
    ) -> Result<StreamStep, RpcFrameError> {
        let mut have = usize::from(have);
        let consumed = fill(&mut seen, &mut have, CHECKSUM_BYTES, input);
        if have < CHECKSUM_BYTES {
            self.state = State::Sum {
                proof,
                seen,
                have: have as u8,
            };
            let event = None;
            return Ok(StreamStep { consumed, event });
        }
        if let Proof::Due { seq } = proof {
            if self.sum.finish().to_le_bytes() != seen {
                return Err(RpcFrameError::Checksum);
            }
            check_seq(seq, &mut self.expected_seq)?;
        }
        self.state = START;
        Ok(StreamStep {
            consumed,
            event: Some(StreamEvent::End),
        })
    }
}

/// Puts bytes of `input` into `seen` until it has `wanted`; returns how many.
fn fill(seen: &mut [u8], have: &mut usize, wanted: usize, input: &[u8]) -> usize {
    let taken = wanted.saturating_sub(*have).min(input.len());
    let room = seen.get_mut(*have..).and_then(|room| room.get_mut(..taken));
    if let (Some(room), Some(bytes)) = (room, input.get(..taken)) {
        room.copy_from_slice(bytes);
        *have += taken;
    }
    taken
}

/// Payload bytes that come in one piece with a frame's beginning: operation, flags and connection
/// id of an answer.
pub const PAYLOAD_HEAD_BYTES: usize = 16;
const SEEN_BYTES: usize = HEAD_BYTES + PAYLOAD_HEAD_BYTES;
