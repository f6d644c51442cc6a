//! Padded intermediate framing, tag `dd`: as intermediate, but the length counts random bytes
//! behind the payload too.
//!
//! The payload is recovered as `len & !3`, which leaves up to three surplus words when the padding
//! was four bytes or more; MTProto's own length field resolves that.

use super::{
    FRAME_BYTES_MAX, FrameError, FrameHeader, Head, Side, intermediate,
    intermediate::{Word, length_word},
};

pub(super) fn encode(length: u32, quick_ack: bool) -> FrameHeader {
    intermediate::encode(length, quick_ack)
}

pub(super) fn decode(seen: &[u8], side: Side) -> Result<Option<Head>, FrameError> {
    match length_word(seen, side) {
        Some(Word::Length { got, .. }) if !(4..=FRAME_BYTES_MAX).contains(&got) => {
            Err(FrameError::Length { got })
        }
        Some(Word::Length { got, quick_ack }) => Ok(Some(Head::Frame {
            payload_bytes: got & !3,
            padding_bytes: got & 3,
            quick_ack,
        })),
        Some(Word::Token(token)) => Ok(Some(Head::Token(token))),
        None => Ok(None),
    }
}
