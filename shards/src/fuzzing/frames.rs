//! Frames of a middle proxy, read whole and read as they arrive: for the fuzz target and for the
//! property tests, which compare the two.

use crate::proto::middle::{
    checksum::Checksum,
    frame::{FrameDecoder, RpcFrameError},
    frame_stream::{FrameStream, StreamEvent},
};

/// Payloads of good frames, and what was wrong with the first bad one.
pub type Frames = (Vec<Vec<u8>>, Option<RpcFrameError>);

/// All at once.
pub fn read_whole(seq: i32, checksum: Checksum, wire: &[u8]) -> Frames {
    let mut decoder = FrameDecoder::new(seq, checksum);
    let (mut rest, mut all) = (wire, Vec::new());
    loop {
        match decoder.next(rest) {
            Err(error) => return (all, Some(error)),
            Ok(step) => {
                rest = &rest[step.consumed..];
                match step.payload {
                    Some(payload) => all.push(payload.to_vec()),
                    None => return (all, None),
                }
            }
        }
    }
}

/// Piece by piece.
///
/// # Panics
/// When the reader tells more or less of a frame than it has announced.
pub fn read_stream(seq: i32, checksum: Checksum, pieces: &[&[u8]]) -> Frames {
    let mut stream = FrameStream::new(seq, checksum);
    let (mut all, mut open, mut want) = (Vec::new(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match stream.next(rest) {
                Ok(step) => step,
                Err(error) => return (all, Some(error)),
            };
            match step.event.clone() {
                Some(StreamEvent::Begin {
                    payload_bytes,
                    head,
                }) => {
                    want = payload_bytes as usize;
                    assert_eq!(head.as_bytes().len(), want.min(16));
                    open = head.as_bytes().to_vec();
                }
                Some(StreamEvent::Piece(at)) => {
                    assert!(!at.is_empty() && at.end <= step.consumed);
                    open.extend_from_slice(&rest[at]);
                }
                Some(StreamEvent::End) => {
                    assert_eq!(open.len(), want);
                    all.push(std::mem::take(&mut open));
                }
                None => assert_eq!(step.consumed, rest.len()),
            }
            rest = &rest[step.consumed..];
            if step.event.is_none() {
                break;
            }
        }
    }
    (all, None)
}
