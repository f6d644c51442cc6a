//! TLS records behind the handshake: taking their headers out of a client's stream, and putting
//! headers in front of our own (protocol.md 6.9, 6.10).

/// Bytes of a record header: type, version, u16 BE length.
pub const HEADER: usize = 5;
/// Longest payload we write; TDLib of 2019 refuses more.
pub const PAYLOAD_MAX: usize = 16384;
/// Longest payload we read: the limit of TLS ciphertext.
pub const READ_MAX: usize = 16384 + 256;
/// Fatal alert `unrecognized_name`, whole record (protocol.md 7.4).
pub const ALERT_UNRECOGNIZED_NAME: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x70];
/// Fatal alert `decode_error`, whole record (protocol.md 7.7).
pub const ALERT_DECODE_ERROR: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x32];
/// The client's ChangeCipherSpec, whole record.
pub const CHANGE_CIPHER_SPEC: [u8; 6] = [0x14, 0x03, 0x03, 0x00, 0x01, 0x01];

/// The header in front of `len` bytes of payload, 1 to [`PAYLOAD_MAX`].
///
/// A zero-length record stalls iOS, so callers never ask for one.
pub fn header(len: usize) -> [u8; HEADER] {
    debug_assert!((1..=PAYLOAD_MAX).contains(&len), "record of {len} bytes");
    let [high, low] = (len.min(PAYLOAD_MAX) as u16).to_be_bytes();
    [DATA, 0x03, 0x03, high, low]
}

/// Appends `payload` as records of at most `record_max` bytes each: for the bench and the tests.
pub fn encode(out: &mut Vec<u8>, payload: &[u8], record_max: usize) {
    for piece in payload.chunks(record_max.clamp(1, PAYLOAD_MAX)) {
        out.extend_from_slice(&header(piece.len()));
        out.extend_from_slice(piece);
    }
}

/// Where a reader is in the stream of records. At most 8 bytes; belongs to one direction of one
/// connection.
///
/// `Header -> Payload | Skip -> Header`, and to `Ended` from a header that is an alert's.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordReader {
    state: State,
}

/// What [`RecordReader::compact`] left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Payload bytes, now at the front.
    pub payload: usize,
    /// An alert came: no payload follows any more.
    pub ended: bool,
}

/// Why a stream of records cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Neither application data, ChangeCipherSpec nor alert.
    #[error("record type {got:#04x}")]
    Type {
        /// Record type.
        got: u8,
    },
    /// Not version 3.3.
    #[error("record version {got:#06x}")]
    Version {
        /// Record version.
        got: u16,
    },
    /// Longer than its type allows.
    #[error("record of {got} bytes, at most {max}")]
    Length {
        /// Record length, bytes.
        got: usize,
        /// Limit, bytes.
        max: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// `have < 5` bytes of the next header are in `bytes`.
    Header { bytes: [u8; HEADER - 1], have: u8 },
    /// `left > 0` payload bytes of this record to go.
    Payload { left: u16 },
    /// `left > 0` bytes to be dropped.
    Skip { left: u16 },
    /// An alert came.
    Ended,
}

impl Default for State {
    fn default() -> Self {
        NEXT_HEADER
    }
}

const NEXT_HEADER: State = State::Header {
    bytes: [0; HEADER - 1],
    have: 0,
};

impl RecordReader {
    /// A reader at the beginning of a record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes record headers in place: payload bytes are moved to the front of `data`; says how
    /// many there are and whether the stream ended. What is behind them is garbage.
    ///
    /// Records may be cut anywhere. ChangeCipherSpec and empty records are skipped wherever they
    /// come; an alert ends the stream and the rest of `data` is dropped.
    ///
    /// # Errors
    /// [`RecordError`]: close the connection; `data` is garbage then.
    ///
    /// Source: protocol.md 6.9.
    pub fn compact(&mut self, data: &mut [u8]) -> Result<Compacted, RecordError> {
        let (mut from, mut to) = (0, 0);
        while from < data.len() {
            let here = data.len() - from;
            match &mut self.state {
                State::Header { bytes, have } => {
                    let (bytes, have) = (*bytes, *have);
                    from += self.read_header(bytes, have, data.get(from..).unwrap_or_default())?;
                }
                State::Payload { left } => {
                    let n = here.min(usize::from(*left));
                    // `to <= from` and `from + n <= data.len()`.
                    if to != from {
                        data.copy_within(from..from + n, to);
                    }
                    (from, to) = (from + n, to + n);
                    self.advance(n);
                }
                State::Skip { left } => {
                    let n = here.min(usize::from(*left));
                    from += n;
                    self.advance(n);
                }
                State::Ended => break,
            }
        }
        debug_assert!(to <= data.len());
        Ok(Compacted {
            payload: to,
            ended: matches!(self.state, State::Ended),
        })
    }

    /// Nothing of a record was read since the last one ended.
    pub fn is_between_records(&self) -> bool {
        matches!(self.state, State::Header { have: 0, .. })
    }

    fn advance(&mut self, n: usize) {
        if let State::Payload { left } | State::Skip { left } = &mut self.state {
            // `n <= left`, so it fits.
            *left -= n as u16;
            if *left == 0 {
                self.state = NEXT_HEADER;
            }
        }
    }

    /// Takes header bytes from the front of `input`; returns how many.
    fn read_header(
        &mut self,
        mut bytes: [u8; HEADER - 1],
        have: u8,
        input: &[u8],
    ) -> Result<usize, RecordError> {
        let have = usize::from(have);
        let mut whole = [0; HEADER];
        whole[..HEADER - 1].copy_from_slice(&bytes);
        let mut taken = 0;
        for (slot, &byte) in whole.iter_mut().skip(have).zip(input) {
            *slot = byte;
            taken += 1;
        }
        if have + taken == HEADER {
            self.state = judge(whole)?;
        } else {
            bytes.copy_from_slice(&whole[..HEADER - 1]);
            self.state = State::Header {
                bytes,
                have: (have + taken) as u8,
            };
        }
        Ok(taken)
    }
}

/// What follows a complete header.
fn judge(header: [u8; HEADER]) -> Result<State, RecordError> {
    let [kind, major, minor, high, low] = header;
    let left = u16::from_be_bytes([high, low]);
    let (max, next) = match kind {
        DATA => (READ_MAX, State::Payload { left }),
        CHANGE_CIPHER => (CHANGE_CIPHER_MAX, State::Skip { left }),
        ALERT => return Ok(State::Ended),
        got => return Err(RecordError::Type { got }),
    };
    let version = u16::from_be_bytes([major, minor]);
    if version != 0x0303 {
        return Err(RecordError::Version { got: version });
    }
    let got = usize::from(left);
    if got > max {
        return Err(RecordError::Length { got, max });
    }
    Ok(if left == 0 { NEXT_HEADER } else { next })
}

const CHANGE_CIPHER: u8 = 0x14;
const ALERT: u8 = 0x15;
const DATA: u8 = 0x17;
const CHANGE_CIPHER_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(stream: &[u8], cuts: usize) -> Result<(Vec<u8>, bool), RecordError> {
        let mut reader = RecordReader::new();
        let (mut out, mut ended) = (Vec::new(), false);
        for piece in stream.chunks(cuts) {
            let mut piece = piece.to_vec();
            let got = reader.compact(&mut piece)?;
            out.extend(&piece[..got.payload]);
            ended = got.ended;
        }
        Ok((out, ended))
    }

    #[test]
    fn is_small() {
        assert!(size_of::<RecordReader>() <= 8);
    }

    #[test]
    fn joins_payloads_however_the_stream_is_cut() {
        let payload: Vec<u8> = (0..3000_u32).map(|i| (i * 7 % 251) as u8).collect();
        let mut stream = CHANGE_CIPHER_SPEC.to_vec();
        encode(&mut stream, &payload[..1000], 333);
        stream.extend([DATA, 3, 3, 0, 0]);
        stream.extend(CHANGE_CIPHER_SPEC);
        encode(&mut stream, &payload[1000..], 1999);
        for cuts in (1..40).chain([500, 4000]) {
            assert_eq!(
                compact(&stream, cuts),
                Ok((payload.clone(), false)),
                "{cuts}"
            );
        }
    }

    #[test]
    fn an_alert_ends_the_stream() {
        let mut stream = Vec::new();
        encode(&mut stream, b"abc", 100);
        stream.extend(ALERT_DECODE_ERROR);
        encode(&mut stream, b"def", 100);
        for cuts in [1, 3, 5, 100] {
            assert_eq!(
                compact(&stream, cuts),
                Ok((b"abc".to_vec(), true)),
                "{cuts}"
            );
        }
        let mut reader = RecordReader::new();
        let mut data = stream.clone();
        reader.compact(&mut data).unwrap();
        let ended = Compacted {
            payload: 0,
            ended: true,
        };
        assert_eq!(reader.compact(&mut [0x17; 9]), Ok(ended));
    }

    #[test]
    fn refuses_other_records() {
        for (header, want) in [
            ([0x16, 3, 3, 0, 1], RecordError::Type { got: 0x16 }),
            ([0x00, 3, 3, 0, 1], RecordError::Type { got: 0 }),
            ([0x17, 3, 1, 0, 1], RecordError::Version { got: 0x0301 }),
            ([0x14, 2, 3, 0, 1], RecordError::Version { got: 0x0203 }),
            (
                [0x17, 3, 3, 0x41, 1],
                RecordError::Length {
                    got: 16641,
                    max: 16640,
                },
            ),
            (
                [0x14, 3, 3, 0, 65],
                RecordError::Length { got: 65, max: 64 },
            ),
        ] {
            assert_eq!(compact(&header, 2), Err(want));
        }
        assert!(compact(&[0x17, 3, 3, 0x41, 0, 9], 6).is_ok());
        assert!(compact(&[0x14, 3, 3, 0, 64, 9], 6).is_ok());
    }

    #[test]
    fn writes_headers() {
        assert_eq!(header(1), [0x17, 3, 3, 0, 1]);
        assert_eq!(header(PAYLOAD_MAX), [0x17, 3, 3, 0x40, 0]);
    }
}
