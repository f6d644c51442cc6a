//! What the bench's clients and its fake DC say to each other inside the transport frames: a head
//! of 24 bytes, then a body. Real MTProto is not spoken; a proxy in direct mode cannot tell.
//!
//! | offset | bytes | meaning |
//! |---|---|---|
//! | 0 | 1 | op, see [`Op`] |
//! | 1 | 1 | [`MAGIC`]: wrong keys or lost bytes show at once |
//! | 2 | 2 | number of this answer piece, LE, wrapping |
//! | 4 | 4 | request id, LE; answers repeat it |
//! | 8 | 4 | bytes of the body, LE, a multiple of 4 |
//! | 12 | 4 | CRC-32 of the body, LE |
//! | 16 | 8 | argument, LE: depends on the op |

/// Bytes of [`Head`] on the wire.
pub const HEAD_BYTES: usize = 24;
/// Second byte of every head.
pub const MAGIC: u8 = 0xb7;
/// Largest body of one frame that either side accepts (telemt's parsing limit, protocol.md 5.2).
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024 - 64;

/// Length and constructor of `req_pq_multi`.
const KEY_REQUEST: [u8; 8] = [20, 0, 0, 0, 0xf1, 0x8e, 0x7e, 0xbe];

/// What a frame asks for or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Answered by one [`Op::Echo`] with the same body.
    Echo,
    /// Answered by [`Op::Data`] frames of `arg` bytes in all, then [`Op::Done`].
    Download,
    /// Answered by [`Op::Done`] whose argument is the CRC-32 of the body.
    Upload,
    /// Both: the body is checked as in `Upload`, then `arg` bytes follow as in `Download`.
    Exchange,
    /// Answered by [`Op::Done`], after which the DC stays silent on its own account.
    Hold,
    /// Answered by [`Op::Done`] with the header's DC id (low 16 bits) and tag byte (next 8).
    WhoAmI,
    /// Answered by [`Op::Done`] whose argument is the nanoseconds from the kernel's stamp of the
    /// request to the answer; `u64::MAX` where there is none yet, as for the first of a connection.
    Stamped,
    /// The DC sends `arg` bytes of an answer and then resets the connection.
    Reset,
    /// The DC answers [`Op::Done`] and closes its side.
    Close,
    /// Piece of an answer.
    Data,
    /// End of an answer; the argument is the stream's checksum.
    Done,
    /// The one thing of real MTProto: `req_pq_multi`, by which a proxy's probe finds out whether
    /// there is a DC. Answered by [`Op::Done`]. Never in a head of ours.
    KeyRequest,
}

impl Op {
    const ALL: [Op; 11] = [
        Op::Echo,
        Op::Download,
        Op::Upload,
        Op::Exchange,
        Op::Hold,
        Op::WhoAmI,
        Op::Stamped,
        Op::Reset,
        Op::Close,
        Op::Data,
        Op::Done,
    ];

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn from_code(code: u8) -> Option<Op> {
        Op::ALL.into_iter().find(|op| op.code() == code)
    }
}

/// The first bytes of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Request or answer.
    pub op: Op,
    /// Number of the piece within its answer, wrapping.
    pub seq: u16,
    /// Chosen by the client.
    pub id: u32,
    /// Bytes of the body that follows.
    pub body_bytes: u32,
    /// CRC-32 of the body.
    pub crc: u32,
    /// See [`Op`].
    pub arg: u64,
}

/// Why a frame is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Wrong magic or op: wrong keys, lost or doubled bytes.
    #[error("frame begins with {first:02x} {second:02x}: keys or bytes went wrong")]
    Garbled {
        /// Byte 0.
        first: u8,
        /// Byte 1.
        second: u8,
    },
    /// Body longer than any we send.
    #[error("body of {bytes} bytes announced, at most {BODY_BYTES_MAX} are sent")]
    TooLong {
        /// Announced length.
        bytes: u32,
    },
}

impl Head {
    /// A request without a body.
    pub fn request(op: Op, id: u32, arg: u64) -> Head {
        Head {
            op,
            seq: 0,
            id,
            body_bytes: 0,
            crc: 0,
            arg,
        }
    }

    /// The head that stands for a client's first message without keys, if these bytes begin one.
    pub fn of_key_request(bytes: &[u8; HEAD_BYTES]) -> Option<Head> {
        let fits = bytes[..8] == [0; 8] && bytes[16..] == KEY_REQUEST;
        fits.then(|| Head {
            body_bytes: 16,
            ..Head::request(Op::KeyRequest, 0, 0)
        })
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0] = self.op.code();
        out[1] = MAGIC;
        out[2..4].copy_from_slice(&self.seq.to_le_bytes());
        out[4..8].copy_from_slice(&self.id.to_le_bytes());
        out[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.crc.to_le_bytes());
        out[16..24].copy_from_slice(&self.arg.to_le_bytes());
        out
    }

    /// Reads a head.
    ///
    /// # Errors
    /// [`HeadError`] when the bytes cannot be ours.
    pub fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Head, HeadError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let garbled = HeadError::Garbled {
            first: bytes[0],
            second: bytes[1],
        };
        let op = Op::from_code(bytes[0])
            .filter(|_| bytes[1] == MAGIC)
            .ok_or(garbled)?;
        let body_bytes = word(8);
        if body_bytes as usize > BODY_BYTES_MAX {
            return Err(HeadError::TooLong { bytes: body_bytes });
        }
        Ok(Head {
            op,
            seq: u16::from_le_bytes([bytes[2], bytes[3]]),
            id: word(4),
            body_bytes,
            crc: word(12),
            arg: u64::from(word(16)) | u64::from(word(20)) << 32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_encodes() {
        for op in Op::ALL {
            let head = Head {
                op,
                seq: 513,
                id: 7,
                body_bytes: 64,
                crc: 0xdead_beef,
                arg: 1 << 40 | 5,
            };
            assert_eq!(Head::decode(&head.encode()), Ok(head));
        }
    }

    #[test]
    fn refuses_bytes_that_are_not_a_head() {
        let mut bytes = Head::request(Op::Echo, 1, 0).encode();
        bytes[1] ^= 1;
        assert!(matches!(
            Head::decode(&bytes),
            Err(HeadError::Garbled { .. })
        ));
        bytes[1] ^= 1;
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            Head::decode(&bytes),
            Err(HeadError::TooLong { bytes: u32::MAX })
        );
    }
}
