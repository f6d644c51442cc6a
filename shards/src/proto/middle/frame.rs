//! Frames: how payloads are put between a length, a sequence number and a checksum.
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 4 | length of the whole frame |
//! | 4 | 4 | sequence number, i32, from -2 |
//! | 8 | n | payload, `n >= 4`, a multiple of 4; an operation first |
//! | 8+n | 4 | checksum over all before it |
//!
//! A length of 4 is a pad word: four bytes that mean nothing. The reader here wants whole frames in
//! one piece; [`super::frame_stream`] takes them as they arrive. All errors are fatal for the
//! connection.
//!
//! Source: middle-proxy.md 3.

use super::checksum::{Checksum, Running};

/// Writes the frames of one direction, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEncoder {
    next_seq: i32,
    checksum: Checksum,
}

impl FrameEncoder {
    /// A direction whose next frame has this sequence number.
    pub fn new(next_seq: i32, checksum: Checksum) -> Self {
        Self { next_seq, checksum }
    }

    /// The number of the next frame.
    pub fn next_seq(&self) -> i32 {
        self.next_seq
    }

    /// What the frames end with.
    pub fn checksum(&self) -> Checksum {
        self.checksum
    }

    /// Appends a frame to `run`, with the payload that `write` appends; returns the frame's bytes.
    ///
    /// Frames of any number of clients may follow one another in a run; [`pad_run`] comes last.
    ///
    /// # Errors
    /// [`RpcFrameError::Length`]: the payload is empty, no multiple of four, or too long. `run` is
    /// then as it was and no sequence number is used.
    pub fn frame(
        &mut self,
        run: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<usize, RpcFrameError> {
        let start = run.len();
        run.extend_from_slice(&[0; 4]);
        run.extend_from_slice(&self.next_seq.to_le_bytes());
        write(run);
        let total = run.len().saturating_sub(start) + CHECKSUM_BYTES;
        let length = u32::try_from(total).unwrap_or(u32::MAX);
        if !is_frame_length(length) {
            run.truncate(start);
            return Err(RpcFrameError::Length { got: length });
        }
        let whole = run.get_mut(start..).unwrap_or_default();
        if let Some(field) = whole.first_chunk_mut() {
            *field = length.to_le_bytes();
        }
        let sum = self.checksum.of(whole);
        run.extend_from_slice(&sum.to_le_bytes());
        self.next_seq = self.next_seq.wrapping_add(1);
        Ok(total)
    }
}

/// A frame that was laid out before its turn came, in one part or several: its length and number
/// are written first, the checksum at its very end.
///
/// For frames that wait in a queue, where others may still go ahead of them.
#[derive(Clone, Debug)]
pub struct Sealing {
    sum: Running,
    /// Bytes of the frame that are still to come.
    left: usize,
}

impl FrameEncoder {
    /// Gives the next number to a laid-out frame of `length` bytes: 8 of head, the payload, 4 of
    /// checksum. All its parts go through [`Sealing::part`] next, in order.
    ///
    /// # Errors
    /// [`RpcFrameError::Length`]: no frame is that long, or `first` is shorter than its head.
    pub fn seal(&mut self, length: usize, first: &mut [u8]) -> Result<Sealing, RpcFrameError> {
        self.number(length, first)?;
        Ok(Sealing {
            sum: Running::new(self.checksum),
            left: length,
        })
    }

    /// The same for a frame that lies in one piece, which is quicker.
    ///
    /// # Errors
    /// As for [`FrameEncoder::seal`].
    pub fn seal_whole(&mut self, frame: &mut [u8]) -> Result<(), RpcFrameError> {
        self.number(frame.len(), frame)?;
        if let Some((summed, field)) = frame.split_last_chunk_mut::<CHECKSUM_BYTES>() {
            *field = self.checksum.of(summed).to_le_bytes();
        }
        Ok(())
    }

    fn number(&mut self, length: usize, first: &mut [u8]) -> Result<(), RpcFrameError> {
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let wrong = RpcFrameError::Length { got: length };
        let (field, rest) = first.split_first_chunk_mut::<4>().ok_or(wrong)?;
        let seq = rest.first_chunk_mut::<4>().ok_or(wrong)?;
        if !is_frame_length(length) {
            return Err(wrong);
        }
        *field = length.to_le_bytes();
        *seq = self.next_seq.to_le_bytes();
        self.next_seq = self.next_seq.wrapping_add(1);
        Ok(())
    }
}

impl Sealing {
    /// Takes the next part; true when it was the last, whose final four bytes are the checksum now.
    /// They must lie in one part.
    pub fn part(&mut self, part: &mut [u8]) -> bool {
        debug_assert!(
            part.len() <= self.left,
            "more parts than the frame has bytes"
        );
        self.left = self.left.saturating_sub(part.len());
        if self.left > 0 {
            self.sum.update(part);
        } else if let Some((summed, field)) = part.split_last_chunk_mut::<CHECKSUM_BYTES>() {
            self.sum.update(summed);
            *field = self.sum.finish().to_le_bytes();
        }
        self.left == 0
    }
}

/// Appends pad words until the run that begins at `start` is whole cipher blocks: 0 to 3 of them.
///
/// Source: middle-proxy.md 6: padding is per flush.
pub fn pad_run(run: &mut Vec<u8>, start: usize) {
    run.extend_from_slice(padding(run.len().saturating_sub(start)));
}

/// What pads a run of so many bytes.
pub(crate) fn padding(run_bytes: usize) -> &'static [u8] {
    debug_assert!(run_bytes.is_multiple_of(4), "frames are words");
    let bytes = run_bytes.next_multiple_of(BLOCK_BYTES) - run_bytes;
    PADDING.as_flattened().get(..bytes).unwrap_or_default()
}

const PADDING: [[u8; 4]; 3] = [PAD_WORD; 3];

/// Reads whole frames of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameDecoder {
    expected_seq: i32,
    checksum: Checksum,
}

/// What one call of [`FrameDecoder::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameStep<'a> {
    /// Bytes of the input that are done with; pad words are among them.
    pub consumed: usize,
    /// A frame's payload; `None` when the rest of the input is not a whole frame yet.
    pub payload: Option<&'a [u8]>,
}

impl FrameDecoder {
    /// A direction whose next frame has this sequence number.
    pub fn new(expected_seq: i32, checksum: Checksum) -> Self {
        Self {
            expected_seq,
            checksum,
        }
    }

    /// The number of the next frame.
    pub(super) fn expected_seq(&self) -> i32 {
        self.expected_seq
    }

    /// Reads the frame at the front of `input`. Call until there is no payload.
    ///
    /// # Errors
    /// [`RpcFrameError`]: close the connection.
    pub fn next<'a>(&mut self, input: &'a [u8]) -> Result<FrameStep<'a>, RpcFrameError> {
        let (pads, rest) = skip_pads(input);
        let waiting = Ok(FrameStep {
            consumed: pads,
            payload: None,
        });
        let Some(&field) = rest.first_chunk::<4>() else {
            return waiting;
        };
        let length = frame_length(field)?;
        let Some((frame, _)) = rest.split_at_checked(length) else {
            return waiting;
        };
        let payload = self.open(frame)?;
        Ok(FrameStep {
            consumed: pads + length,
            payload: Some(payload),
        })
    }

    /// `frame` is as long as its length field says.
    fn open<'a>(&mut self, frame: &'a [u8]) -> Result<&'a [u8], RpcFrameError> {
        let short = RpcFrameError::Length { got: 0 };
        let (summed, sum) = frame.split_last_chunk::<CHECKSUM_BYTES>().ok_or(short)?;
        let (head, payload) = summed.split_first_chunk::<HEAD_BYTES>().ok_or(short)?;
        if self.checksum.of(summed).to_le_bytes() != *sum {
            return Err(RpcFrameError::Checksum);
        }
        let [_, _, _, _, seq @ ..] = *head;
        check_seq(i32::from_le_bytes(seq), &mut self.expected_seq)?;
        Ok(payload)
    }
}

/// Why a direction cannot be read on, or a frame not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcFrameError {
    /// Under 16, no multiple of four, or over [`FRAME_BYTES_MAX`].
    #[error("ME frame of {got} bytes")]
    Length {
        /// The length field, or what it would have been.
        got: u32,
    },
    /// Damaged, or the keys disagree.
    #[error("ME frame with a wrong checksum")]
    Checksum,
    /// A frame is missing or came twice.
    #[error("ME frame {got} where {expected} was due")]
    Sequence {
        /// Its number.
        got: i32,
        /// The number it should have.
        expected: i32,
    },
}

/// The length field of a frame as usize. A pad word is none.
///
/// # Errors
/// [`RpcFrameError::Length`].
pub(super) fn frame_length(field: [u8; 4]) -> Result<usize, RpcFrameError> {
    let length = u32::from_le_bytes(field);
    if is_frame_length(length) {
        Ok(length as usize)
    } else {
        Err(RpcFrameError::Length { got: length })
    }
}

/// # Errors
/// [`RpcFrameError::Sequence`].
pub(super) fn check_seq(got: i32, expected: &mut i32) -> Result<(), RpcFrameError> {
    if got != *expected {
        let expected = *expected;
        return Err(RpcFrameError::Sequence { got, expected });
    }
    *expected = expected.wrapping_add(1);
    Ok(())
}

fn is_frame_length(length: u32) -> bool {
    length.is_multiple_of(4) && (16..=FRAME_BYTES_MAX).contains(&length)
}

/// Bytes of the pad words at the front, and what is behind them.
fn skip_pads(input: &[u8]) -> (usize, &[u8]) {
    let mut rest = input;
    while let Some(behind) = rest.strip_prefix(&PAD_WORD) {
        rest = behind;
    }
    (input.len() - rest.len(), rest)
}

/// Longest frame either way, bytes.
///
/// Source: middle-proxy.md 3 and 8.4.
pub const FRAME_BYTES_MAX: u32 = 1 << 24;
/// Number of the first frame of a direction, the NONCE.
pub const SEQ_NONCE: i32 = -2;
/// Number of the second frame of a direction, the HANDSHAKE.
pub const SEQ_HANDSHAKE: i32 = -1;
/// Number of the third frame of a direction, the first with data.
pub const SEQ_DATA: i32 = 0;
/// Bytes of a cipher block; a flush is a multiple of it.
pub const BLOCK_BYTES: usize = 16;
pub(super) const PAD_WORD: [u8; 4] = [4, 0, 0, 0];
pub(super) const HEAD_BYTES: usize = 8;
pub(super) const CHECKSUM_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(payloads: &[&[u8]]) -> Vec<u8> {
        let (mut encoder, mut run) = (FrameEncoder::new(SEQ_NONCE, Checksum::Crc32c), vec![]);
        for payload in payloads {
            let frame = encoder.frame(&mut run, |out| out.extend_from_slice(payload));
            assert_eq!(frame, Ok(payload.len() + 12));
        }
        run
    }

    #[test]
    fn leaves_the_run_alone_when_a_payload_does_not_fit() {
        let mut encoder = FrameEncoder::new(3, Checksum::Crc32);
        let mut run = vec![9];
        for bytes in [0, 1, 5, FRAME_BYTES_MAX as usize - 8] {
            let refused = encoder.frame(&mut run, |out| out.resize(out.len() + bytes, 0));
            let got = bytes as u32 + 12;
            assert_eq!(refused, Err(RpcFrameError::Length { got }));
            assert_eq!((run.as_slice(), encoder.next_seq()), (&[9][..], 3));
        }
        let fits = FRAME_BYTES_MAX as usize - 12;
        let frame = encoder.frame(&mut run, |out| out.resize(out.len() + fits, 0));
        assert_eq!(frame, Ok(FRAME_BYTES_MAX as usize));
    }

    #[test]
    fn frames_sealed_late_are_those_written_at_once() {
        for bytes in [4, 64, 1_000] {
            let payload = vec![7; bytes];
            let want = encode(&[&payload, &payload]);
            let mut encoder = FrameEncoder::new(SEQ_NONCE, Checksum::Crc32c);
            let mut got = vec![0; want.len()];
            let (one, two) = got.split_at_mut(want.len() / 2);
            for frame in [&mut *one, &mut *two] {
                let end = frame.len() - 4;
                frame[8..end].copy_from_slice(&payload);
            }
            encoder.seal_whole(one).unwrap();
            let mut sealing = encoder.seal(two.len(), two).unwrap();
            let (a, b) = two.split_at_mut(bytes / 2 + 4);
            assert!(!sealing.part(a));
            assert!(sealing.part(b));
            assert_eq!(got, want);
        }
        let mut encoder = FrameEncoder::new(0, Checksum::Crc32);
        assert!(encoder.seal_whole(&mut [0; 12]).is_err());
        assert!(encoder.seal_whole(&mut [0; 18]).is_err());
        assert!(encoder.seal(16, &mut [0; 7]).is_err());
        assert_eq!(encoder.next_seq(), 0);
    }

    #[test]
    fn pads_a_run_from_where_it_begins() {
        for (bytes, want) in [(0, 0), (16, 16), (4, 16), (8, 16), (12, 16), (28, 32)] {
            let mut run = vec![0; 5 + bytes];
            pad_run(&mut run, 5);
            assert_eq!(run.len() - 5, want);
            assert!(
                run[5 + bytes..]
                    .as_chunks()
                    .0
                    .iter()
                    .all(|w| *w == PAD_WORD)
            );
        }
    }

    #[test]
    fn skips_pads_between_frames_and_waits_for_the_rest() {
        let mut wire = PAD_WORD.repeat(3);
        wire.extend(encode(&[&[1; 4]]));
        let mut decoder = FrameDecoder::new(SEQ_NONCE, Checksum::Crc32c);
        for cut in 0..wire.len() {
            let step = decoder.next(&wire[..cut]).unwrap();
            let consumed = (cut / 4 * 4).min(12);
            let payload = None;
            assert_eq!(step, FrameStep { consumed, payload });
        }
        assert_eq!(decoder.next(&wire).unwrap().payload, Some(&[1; 4][..]));
        assert_eq!(decoder.next(&[]).unwrap().consumed, 0);
    }

    #[test]
    fn wraps_sequence_numbers() {
        let mut encoder = FrameEncoder::new(i32::MAX, Checksum::Crc32);
        let mut run = Vec::new();
        for _ in 0..2 {
            encoder
                .frame(&mut run, |out| out.extend_from_slice(&[0; 4]))
                .unwrap();
        }
        let mut decoder = FrameDecoder::new(i32::MAX, Checksum::Crc32);
        let first = decoder.next(&run).unwrap().consumed;
        assert!(decoder.next(&run[first..]).unwrap().payload.is_some());
        let again = decoder.next(&run);
        let (got, expected) = (i32::MAX, i32::MIN + 1);
        assert_eq!(again, Err(RpcFrameError::Sequence { got, expected }));
    }
}
