//! What a middle proxy says: frames read whole, read as they arrive, and as answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, Part, join, pieces};
use shards::{
    fuzzing::frames::{read_stream, read_whole},
    proto::middle::{
        answers::{Answer, AnswerEvent, AnswerReader},
        checksum::Checksum,
        far_side::Request,
        frame::{FrameEncoder, RpcFrameError},
        ops,
    },
};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (flags, seed) = (choices.byte(), choices.byte());
    let checksum = match flags & 1 {
        0 => Checksum::Crc32,
        _ => Checksum::Crc32c,
    };
    let seq = i32::from(flags as i8);
    let wire = match flags & 2 {
        0 => choices.rest().to_vec(),
        _ => framed(seq, checksum, choices),
    };
    let frames = read_whole(seq, checksum, &wire);
    let answers = read_answers(seq, checksum, &[&wire]);
    for seed in [0, 1, seed] {
        let cut = pieces(seed, &wire);
        assert_eq!(read_stream(seq, checksum, &cut), frames);
        assert_eq!(read_answers(seq, checksum, &cut), answers);
    }
    for payload in &frames.0 {
        Answer::parse(payload);
        Request::parse(payload);
    }
});

/// Good frames whose payloads are the input's, then damage at one place.
fn framed(seq: i32, checksum: Checksum, mut choices: Choices<'_>) -> Vec<u8> {
    let (at, with) = (choices.word(), choices.byte());
    let (mut encoder, mut out) = (FrameEncoder::new(seq, checksum), Vec::new());
    for _ in 0..choices.byte() % 8 {
        let (op, words) = (choices.byte(), choices.byte());
        let mut payload = match OPS.get(usize::from(op)) {
            Some(op) => op.to_le_bytes().to_vec(),
            None => Vec::new(),
        };
        payload.extend_from_slice(choices.take(usize::from(words) * 4));
        payload.resize(payload.len().next_multiple_of(4).max(4), 0);
        let framed = encoder.frame(&mut out, |out| out.extend_from_slice(&payload));
        framed.expect("payloads are words");
        if op & 0x80 != 0 {
            out.extend_from_slice(&[4, 0, 0, 0]);
        }
    }
    if let Some(byte) = out.get_mut(usize::from(at)) {
        *byte ^= with;
    }
    out.extend_from_slice(choices.rest());
    out
}

/// Messages and signals that came to their end. Where a frame is broken, how much of it was told
/// before depends on the cut.
fn read_answers(
    seq: i32,
    checksum: Checksum,
    pieces: &[&[u8]],
) -> (Vec<Part<AnswerEvent>>, Option<RpcFrameError>) {
    let mut reader = AnswerReader::new(seq, checksum);
    let (mut all, mut proven, mut left) = (Vec::new(), 0, 0_usize);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match reader.next(rest) {
                Ok(step) => step,
                Err(error) => {
                    all.truncate(proven);
                    return (all, Some(error));
                }
            };
            match step.event {
                None => break assert_eq!(step.consumed, rest.len()),
                Some(AnswerEvent::Piece(at)) => {
                    assert!(!at.is_empty() && at.end <= step.consumed);
                    left -= at.len();
                    join(&mut all, &rest[at]);
                }
                Some(event) => {
                    if let AnswerEvent::Data { data_bytes, .. } = event {
                        left = data_bytes as usize;
                    }
                    assert!(left == 0 || matches!(event, AnswerEvent::Data { .. }));
                    let ends = !matches!(event, AnswerEvent::Data { .. });
                    all.push(Part::Event(event));
                    proven = if ends { all.len() } else { proven };
                }
            }
            rest = &rest[step.consumed..];
        }
    }
    all.truncate(proven);
    (all, None)
}

const OPS: [u32; 7] = [
    ops::PROXY_ANS,
    ops::SIMPLE_ACK,
    ops::CLOSE_EXT,
    ops::CLOSE_CONN,
    ops::PING,
    ops::PONG,
    ops::PROXY_REQ,
];
