//! Transport framings: how MTProto messages are cut out of a stream (protocol.md 5).
//!
//! In direct mode the proxy only carries the tag across and never parses a frame; the ME leg, the
//! bench's fakes and the tests do. Bodies are streamed, not collected.

mod abridged;
mod intermediate;
mod padded;
mod reader;

pub use reader::{FrameEvent, FrameReader, Side, Step};

/// How the stream behind an obfuscated2 header is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Tag `ef`: length in words, one byte or four.
    Abridged,
    /// Tag `ee`: length in bytes, four bytes.
    Intermediate,
    /// Tag `dd`: as intermediate, with up to 15 random bytes behind the payload.
    Padded,
}

impl Framing {
    /// The four equal bytes inside the header.
    pub fn tag(self) -> [u8; 4] {
        match self {
            Self::Abridged => [0xef; 4],
            Self::Intermediate => [0xee; 4],
            Self::Padded => [0xdd; 4],
        }
    }

    /// The framing of a tag, if it is one.
    pub fn from_tag(tag: [u8; 4]) -> Option<Self> {
        [Self::Abridged, Self::Intermediate, Self::Padded]
            .into_iter()
            .find(|framing| framing.tag() == tag)
    }

    /// The length prefix of a frame of `payload_bytes` and `padding_bytes` of padding.
    ///
    /// `quick_ack` asks for a quick acknowledgement (uplink only).
    ///
    /// # Errors
    /// [`FrameError::Length`]: payload no positive multiple of four, too long together with its
    /// padding, or padding in a framing that has none.
    pub fn encode_header(
        self,
        payload_bytes: usize,
        padding_bytes: usize,
        quick_ack: bool,
    ) -> Result<FrameHeader, FrameError> {
        let total = payload_bytes.saturating_add(padding_bytes);
        let length = u32::try_from(total)
            .ok()
            .filter(|_| payload_bytes.is_multiple_of(4) && payload_bytes != 0)
            .filter(|_| padding_bytes == 0 || self == Self::Padded)
            .filter(|&length| length <= FRAME_BYTES_MAX)
            .ok_or(FrameError::Length {
                got: u32::try_from(total).unwrap_or(u32::MAX),
            })?;
        Ok(match self {
            Self::Abridged => abridged::encode(length, quick_ack),
            Self::Intermediate => intermediate::encode(length, quick_ack),
            Self::Padded => padded::encode(length, quick_ack),
        })
    }

    /// Appends a whole frame: prefix, payload, padding.
    ///
    /// # Errors
    /// As [`Framing::encode_header`].
    pub fn encode(
        self,
        payload: &[u8],
        padding: &[u8],
        quick_ack: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), FrameError> {
        let header = self.encode_header(payload.len(), padding.len(), quick_ack)?;
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(payload);
        out.extend_from_slice(padding);
        Ok(())
    }

    /// A quick-ack token as the DC sends it, in place of a frame. Bit 31 of `token` is set by this.
    ///
    /// Source: protocol.md 5.3.
    pub fn encode_quick_ack(self, token: u32) -> [u8; 4] {
        let token = token | QUICK_ACK_BIT;
        match self {
            Self::Abridged => token.to_be_bytes(),
            Self::Intermediate | Self::Padded => token.to_le_bytes(),
        }
    }

    /// Reads a length prefix; `None` means more bytes are needed, at most four in all.
    pub(super) fn decode_header(self, seen: &[u8], side: Side) -> Result<Option<Head>, FrameError> {
        match self {
            Self::Abridged => abridged::decode(seen, side),
            Self::Intermediate => intermediate::decode(seen, side),
            Self::Padded => padded::decode(seen, side),
        }
    }
}

/// The one to four bytes in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    bytes: [u8; 4],
    /// `len` is 1 or 4.
    len: u8,
}

impl FrameHeader {
    fn short(byte: u8) -> Self {
        Self {
            bytes: [byte, 0, 0, 0],
            len: 1,
        }
    }

    fn long(bytes: [u8; 4]) -> Self {
        Self { bytes, len: 4 }
    }

    /// The bytes to send.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }
}

/// Why a stream of frames cannot be read on, or a frame not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Zero, not a multiple of four, under four, or over [`FRAME_BYTES_MAX`].
    #[error("frame of {got} bytes")]
    Length {
        /// Payload and padding, bytes.
        got: u32,
    },
    /// Abridged long form of a length that fits the short form.
    #[error("long form used for {words} words")]
    LongForm {
        /// Payload, words.
        words: u32,
    },
}

/// A payload that is no message.
///
/// Source: protocol.md 5.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// First word 0.
    Nothing,
    /// First word −1, then a quick-ack token.
    QuickAck(u32),
    /// Transport error: −404, −429, −444.
    Error(i32),
}

impl Control {
    /// Reads a payload under 12 bytes (padding may be among them); longer ones are messages.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (first, rest) = payload.split_first_chunk::<4>()?;
        if payload.len() >= CONTROL_BYTES_END {
            return None;
        }
        match (i32::from_le_bytes(*first), rest.first_chunk::<4>()) {
            (0, _) => Some(Self::Nothing),
            (-1, Some(token)) => Some(Self::QuickAck(u32::from_le_bytes(*token))),
            (code, _) => Some(Self::Error(code)),
        }
    }
}

/// What a length prefix says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Frame {
        payload_bytes: u32,
        padding_bytes: u32,
        quick_ack: bool,
    },
    Token(u32),
}

/// Longest frame we parse or write, padding included, bytes (protocol.md 5.2).
pub const FRAME_BYTES_MAX: u32 = 16 << 20;
/// Desktop's limit: shorter payloads are control frames.
const CONTROL_BYTES_END: usize = 12;
const QUICK_ACK_BIT: u32 = 1 << 31;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_apart() {
        for framing in [Framing::Abridged, Framing::Intermediate, Framing::Padded] {
            assert_eq!(Framing::from_tag(framing.tag()), Some(framing));
        }
        assert_eq!(Framing::from_tag([0xef, 0xef, 0xef, 0xee]), None);
        assert_eq!(Framing::from_tag([0; 4]), None);
    }

    #[test]
    fn refuses_to_write_odd_lengths() {
        let length = |got| Err(FrameError::Length { got });
        let max = FRAME_BYTES_MAX as usize;
        for framing in [Framing::Abridged, Framing::Intermediate, Framing::Padded] {
            assert_eq!(framing.encode_header(0, 0, false), length(0));
            assert_eq!(framing.encode_header(5, 0, false), length(5));
            assert_eq!(
                framing.encode_header(max + 4, 0, false),
                length(FRAME_BYTES_MAX + 4)
            );
            assert!(framing.encode_header(max, 0, false).is_ok());
        }
        assert_eq!(Framing::Intermediate.encode_header(4, 3, false), length(7));
        assert_eq!(
            Framing::Abridged.encode_header(usize::MAX, 0, false),
            length(u32::MAX)
        );
    }

    #[test]
    fn tells_control_payloads_from_messages() {
        assert_eq!(Control::parse(&[0; 4]), Some(Control::Nothing));
        assert_eq!(
            Control::parse(&(-404_i32).to_le_bytes()),
            Some(Control::Error(-404))
        );
        let ack = [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0x80];
        assert_eq!(Control::parse(&ack), Some(Control::QuickAck(0x8000_0001)));
        assert_eq!(Control::parse(&[0xff; 4]), Some(Control::Error(-1)));
        assert_eq!(Control::parse(&[0; 12]), None);
        assert_eq!(Control::parse(&[0; 3]), None);
    }
}
