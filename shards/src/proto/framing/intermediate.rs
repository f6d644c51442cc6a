//! Intermediate framing, tag `ee`: u32 LE, the payload's bytes; bit 31 is the quick-ack bit.

use super::{FRAME_BYTES_MAX, FrameError, FrameHeader, Head, QUICK_ACK_BIT, Side};

pub(super) fn encode(length: u32, quick_ack: bool) -> FrameHeader {
    let ack = if quick_ack { QUICK_ACK_BIT } else { 0 };
    FrameHeader::long((length | ack).to_le_bytes())
}

pub(super) fn decode(seen: &[u8], side: Side) -> Result<Option<Head>, FrameError> {
    match length_word(seen, side) {
        Some(Word::Length { got, .. }) if got % 4 != 0 => Err(FrameError::Length { got }),
        Some(Word::Length { got, .. }) if !(4..=FRAME_BYTES_MAX).contains(&got) => {
            Err(FrameError::Length { got })
        }
        Some(Word::Length { got, quick_ack }) => Ok(Some(Head::Frame {
            payload_bytes: got,
            padding_bytes: 0,
            quick_ack,
        })),
        Some(Word::Token(token)) => Ok(Some(Head::Token(token))),
        None => Ok(None),
    }
}

/// The first four bytes of a frame or, downlink with bit 31 set, a quick-ack token.
pub(super) enum Word {
    Length { got: u32, quick_ack: bool },
    Token(u32),
}

pub(super) fn length_word(seen: &[u8], side: Side) -> Option<Word> {
    let word = u32::from_le_bytes(*seen.first_chunk::<4>()?);
    let quick_ack = word & QUICK_ACK_BIT != 0;
    Some(if quick_ack && side == Side::Downlink {
        Word::Token(word)
    } else {
        Word::Length {
            got: word & !QUICK_ACK_BIT,
            quick_ack,
        }
    })
}
