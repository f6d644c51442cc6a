//! A client's framing to ME messages and back.
//!
//! Frames of the ME leg have rules of their own beside those of [`super::super::framing`]: empty
//! ones are skipped but counted, the limit is configured, and each mistake has its name because
//! each is counted differently. Downlink headers are [`Framing::encode_header`]'s.
//!
//! Source: middle-proxy.md 8.3, 8.4, 21.5.

use std::ops::Range;

use super::super::framing::{FrameError, Framing, Head, Side};

/// Cuts a client's decrypted stream into messages, in place.
///
/// `Header -> Payload -> Padding -> Header`. Holds at most three bytes.
#[derive(Clone, Copy, Debug)]
pub struct ClientReader {
    framing: Framing,
    /// At most [`MESSAGE_BYTES_MAX`].
    bytes_max: u32,
    /// What empty frames cost; under [`DEBT_MAX`].
    debt: u16,
    frames: u64,
    state: State,
}

/// What one call of [`ClientReader::next`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientStep {
    /// Bytes of the input that are done with; call again with those behind them.
    pub consumed: usize,
    /// What they were; `None` when all input was consumed and more is needed.
    pub event: Option<ClientEvent>,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// A message begins.
    Begin {
        /// Its bytes, which follow as pieces: a multiple of four, not zero.
        payload_bytes: u32,
        /// The client wants a quick ack for it.
        quick_ack: bool,
    },
    /// Where in the input more of it is; never empty.
    Piece(Range<usize>),
    /// It is complete.
    End,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `have <= 3` bytes of a length.
    Header { seen: [u8; 4], have: u8 },
    /// Bytes to go; padding behind them.
    Payload { left: u32, padding: u32 },
    /// Padding bytes to go; none is fine.
    Padding { left: u32 },
}

const START: State = State::Header {
    seen: [0; 4],
    have: 0,
};

impl ClientReader {
    /// A stream at its first frame. `client_frame_bytes_max` is the configured limit of a message.
    pub fn new(framing: Framing, client_frame_bytes_max: u32) -> Self {
        Self {
            framing,
            bytes_max: client_frame_bytes_max.min(MESSAGE_BYTES_MAX),
            debt: 0,
            frames: 0,
            state: START,
        }
    }

    /// Messages that were begun, for the desync buckets.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Nothing of a frame was read since the last one ended.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    /// Reads the next part from the front of `input`. Call until `event` is `None`.
    ///
    /// # Errors
    /// [`ClientFrameError`]: close the session.
    pub fn next(&mut self, input: &[u8]) -> Result<ClientStep, ClientFrameError> {
        match self.state {
            State::Header { seen, have } => self.header(seen, usize::from(have), input),
            State::Payload { left: 0, padding } => Ok(self.padding(padding, input)),
            State::Payload { left, padding } => {
                let taken = input.len().min(left as usize);
                let left = left - taken as u32;
                self.state = State::Payload { left, padding };
                Ok(ClientStep {
                    consumed: taken,
                    event: (taken > 0).then_some(ClientEvent::Piece(0..taken)),
                })
            }
            State::Padding { left } => Ok(self.padding(left, input)),
        }
    }

    fn padding(&mut self, left: u32, input: &[u8]) -> ClientStep {
        let taken = input.len().min(left as usize);
        let left = left - taken as u32;
        self.state = match left {
            0 => START,
            left => State::Padding { left },
        };
        ClientStep {
            consumed: taken,
            event: (left == 0).then_some(ClientEvent::End),
        }
    }

    /// Takes bytes one by one until a length is complete that is not zero.
    fn header(
        &mut self,
        mut seen: [u8; 4],
        mut have: usize,
        input: &[u8],
    ) -> Result<ClientStep, ClientFrameError> {
        for (at, &byte) in input.iter().enumerate() {
            if let Some(slot) = seen.get_mut(have) {
                *slot = byte;
                have += 1;
            }
            let known = seen.get(..have).unwrap_or_default();
            match self.framing.decode_header(known, Side::Uplink) {
                Ok(None) => {}
                Ok(Some(head)) => {
                    return Ok(ClientStep {
                        consumed: at + 1,
                        event: Some(self.begin(head, seen)?),
                    });
                }
                Err(FrameError::Length { got: 0 }) => {
                    self.owe()?;
                    (seen, have) = ([0; 4], 0);
                }
                Err(error) => return Err(self.judge(error, seen)),
            }
        }
        let have = have as u8;
        self.state = State::Header { seen, have };
        Ok(ClientStep {
            consumed: input.len(),
            event: None,
        })
    }

    fn begin(&mut self, head: Head, seen: [u8; 4]) -> Result<ClientEvent, ClientFrameError> {
        let Head::Frame {
            payload_bytes,
            padding_bytes,
            quick_ack,
        } = head
        else {
            debug_assert!(false, "tokens come down, not up");
            return Err(ClientFrameError::Words { got: 0 });
        };
        if payload_bytes > self.bytes_max {
            return Err(self.too_long(payload_bytes, seen));
        }
        self.debt = self.debt.saturating_sub(1);
        self.frames += 1;
        self.state = State::Payload {
            left: payload_bytes,
            padding: padding_bytes,
        };
        Ok(ClientEvent::Begin {
            payload_bytes,
            quick_ack,
        })
    }

    /// An empty frame was skipped.
    fn owe(&mut self) -> Result<(), ClientFrameError> {
        self.debt += EMPTY_FRAME_DEBT;
        if self.debt >= DEBT_MAX {
            return Err(ClientFrameError::EmptyFrames);
        }
        Ok(())
    }

    fn judge(&self, error: FrameError, seen: [u8; 4]) -> ClientFrameError {
        match error {
            FrameError::Length { got } if got > self.bytes_max => self.too_long(got, seen),
            FrameError::Length { got } if self.framing == Framing::Padded => {
                ClientFrameError::Padding { got }
            }
            FrameError::Length { got } => ClientFrameError::Words { got },
            FrameError::LongForm { words } => ClientFrameError::LongForm { words },
        }
    }

    fn too_long(&self, got: u32, seen: [u8; 4]) -> ClientFrameError {
        ClientFrameError::TooLong {
            got,
            max: self.bytes_max,
            seen,
        }
    }
}

/// Why a client's stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientFrameError {
    /// Over the limit: a desync.
    #[error("client message of {got} bytes, at most {max} accepted")]
    TooLong {
        /// Bytes it claims.
        got: u32,
        /// The limit.
        max: u32,
        /// The length as it came, zeros behind it; for the log.
        seen: [u8; 4],
    },
    /// Padded framing, under four bytes.
    #[error("padded client frame of {got} bytes")]
    Padding {
        /// Bytes it claims.
        got: u32,
    },
    /// Intermediate framing, no multiple of four.
    #[error("client message of {got} bytes is not whole words")]
    Words {
        /// Bytes it claims.
        got: u32,
    },
    /// Abridged framing, the long form for a short length.
    #[error("long form used for {words} words")]
    LongForm {
        /// Words it claims.
        words: u32,
    },
    /// Too many empty frames for the messages between them.
    #[error("too many empty frames")]
    EmptyFrames,
}

/// Padding of a downlink frame, 0 to 3 bytes: none in framings that have none.
pub fn downlink_padding(framing: Framing, random: u8) -> usize {
    match framing {
        Framing::Abridged | Framing::Intermediate => 0,
        Framing::Padded => usize::from(random % 4),
    }
}

/// A quick ack as the client gets it, without a header: four bytes out of a SIMPLE_ACK's `confirm`.
/// They are passed on unchanged; Telegram sets the top bit by which clients know them.
pub fn quick_ack(framing: Framing, confirm: u32) -> [u8; 4] {
    match framing {
        Framing::Abridged => confirm.to_be_bytes(),
        Framing::Intermediate | Framing::Padded => confirm.to_le_bytes(),
    }
}

/// Longest message that fits a frame with an ad tag, bytes.
///
/// Source: middle-proxy.md 8.4.
pub const MESSAGE_BYTES_MAX: u32 = super::frame::FRAME_BYTES_MAX - 12 - 56 - 28;
const EMPTY_FRAME_DEBT: u16 = 8;
const DEBT_MAX: u16 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(framing: Framing, wire: &[u8]) -> Result<Option<ClientEvent>, ClientFrameError> {
        let mut reader = ClientReader::new(framing, u32::MAX);
        reader.next(wire).map(|step| step.event)
    }

    #[test]
    fn names_each_mistake() {
        let (ab, im, pa) = (Framing::Abridged, Framing::Intermediate, Framing::Padded);
        let too_long = |got: u32, seen| ClientFrameError::TooLong {
            got,
            max: MESSAGE_BYTES_MAX,
            seen,
        };
        for (framing, wire, error) in [
            (
                ab,
                [0x7f, 0x7e, 0, 0],
                ClientFrameError::LongForm { words: 0x7e },
            ),
            (ab, [0x7f, 0, 0, 0], ClientFrameError::LongForm { words: 0 }),
            (
                ab,
                [0xff, 1, 0, 0x40],
                too_long((0x40_0001) * 4, [0xff, 1, 0, 0x40]),
            ),
            (im, [1, 0, 0, 0x80], ClientFrameError::Words { got: 1 }),
            (im, [0x24, 0, 0, 1], too_long(0x0100_0024, [0x24, 0, 0, 1])),
            (im, [0xff; 4], too_long(u32::MAX >> 1, [0xff; 4])),
            (pa, [3, 0, 0, 0], ClientFrameError::Padding { got: 3 }),
            (pa, [0, 0, 0, 1], too_long(1 << 24, [0, 0, 0, 1])),
        ] {
            assert_eq!(read(framing, &wire), Err(error));
        }
        let largest = ClientEvent::Begin {
            payload_bytes: MESSAGE_BYTES_MAX,
            quick_ack: false,
        };
        let wire = (MESSAGE_BYTES_MAX + 3).to_le_bytes();
        assert_eq!(read(pa, &wire), Ok(Some(largest)), "padding does not count");
    }

    #[test]
    fn skips_empty_frames_until_there_are_too_many() {
        for (framing, empty, one) in [
            (Framing::Abridged, &[0x80][..], &[1][..]),
            (Framing::Intermediate, &[0, 0, 0, 0x80], &[4, 0, 0, 0]),
            (Framing::Padded, &[0; 4], &[4, 0, 0, 0]),
        ] {
            let mut reader = ClientReader::new(framing, 1000);
            let step = reader.next(&empty.repeat(63)).unwrap();
            assert_eq!(step.event, None);
            for _ in 0..8 {
                let frame = [one, &[7; 4]].concat();
                assert_eq!(reader.next(&frame).unwrap().consumed, one.len());
                assert_eq!(reader.next(&[7; 4]).unwrap().consumed, 4);
                assert_eq!(reader.next(&[]).unwrap().event, Some(ClientEvent::End));
            }
            assert!(reader.next(empty).is_ok(), "eight messages pay for it");
            assert_eq!(reader.next(empty), Err(ClientFrameError::EmptyFrames));
            assert_eq!(reader.frames(), 8);
        }
    }
}
