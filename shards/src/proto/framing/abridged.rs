//! Abridged framing, tag `ef`: the length in words, in one byte or behind `7f` in three more.
//!
//! | First byte | Meaning |
//! |---|---|
//! | `01`..`7e` | that many words |
//! | `7f` | u24 LE words follow, at least `7f` of them |
//! | bit `80` set | uplink: quick-ack request; downlink: these four bytes are a token, BE |

use super::{FRAME_BYTES_MAX, FrameError, FrameHeader, Head, QUICK_ACK_BIT, Side};

const LONG: u8 = 0x7f;
const QUICK_ACK: u8 = 0x80;

/// `length` is a checked multiple of four.
pub(super) fn encode(length: u32, quick_ack: bool) -> FrameHeader {
    let ack = if quick_ack { QUICK_ACK } else { 0 };
    let [first, second, third, _] = (length / 4).to_le_bytes();
    if length / 4 < u32::from(LONG) {
        FrameHeader::short(first | ack)
    } else {
        FrameHeader::long([LONG | ack, first, second, third])
    }
}

pub(super) fn decode(seen: &[u8], side: Side) -> Result<Option<Head>, FrameError> {
    let Some(&first) = seen.first() else {
        return Ok(None);
    };
    let flagged = first & QUICK_ACK != 0;
    let short = first & !QUICK_ACK;
    let word = seen.first_chunk::<4>();
    if flagged && side == Side::Downlink {
        return Ok(word.map(|&token| Head::Token(u32::from_be_bytes(token) | QUICK_ACK_BIT)));
    }
    if short != LONG {
        return frame(u32::from(short), flagged).map(Some);
    }
    let Some(&[_, a, b, c]) = word else {
        return Ok(None);
    };
    let words = u32::from_le_bytes([a, b, c, 0]);
    if words < u32::from(LONG) {
        return Err(FrameError::LongForm { words });
    }
    frame(words, flagged).map(Some)
}

fn frame(words: u32, quick_ack: bool) -> Result<Head, FrameError> {
    let payload_bytes = words * 4;
    if !(4..=FRAME_BYTES_MAX).contains(&payload_bytes) {
        return Err(FrameError::Length { got: payload_bytes });
    }
    Ok(Head::Frame {
        payload_bytes,
        padding_bytes: 0,
        quick_ack,
    })
}
