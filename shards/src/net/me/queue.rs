//! What waits to be sent to one ME: frames laid out in blocks, numbered and encrypted when their
//! turn comes.
//!
//! ```text
//!   message, note ──> segments ──next──> sealed, padded block ──> encryptor ──> socket
//!   ping, pong ─────> ahead ─────┘
//! ```
//!
//! Small messages are copied once, behind one another. A large one that arrived in parts is queued
//! in the blocks it was collected in, which were laid out for that: every part but the last is
//! whole cipher blocks. Pings go ahead of all that is not sealed yet; a CLOSE_CONN keeps its place
//! behind its client's messages.
//!
//! Source: middle-proxy.md 6 and 20.

use std::collections::VecDeque;

use super::head::Head;
use crate::{
    engine::{Block, Blocks},
    proto::middle::{
        frame::{FrameEncoder, Sealing, padding},
        ops::Note,
    },
};

/// Frames for one ME.
pub(super) struct SendQueue {
    blocks: Blocks,
    segments: VecDeque<Segment>,
    /// Frames that go before the segments.
    ahead: Option<Block>,
    /// Set while the parts of a frame are handed out.
    sealing: Option<Sealing>,
    frames: usize,
    bytes: usize,
    /// Bytes of all frames queued so far, and of those handed out: places in the stream without
    /// what [`SendQueue::next`] adds.
    queued_to: u64,
    sealed_to: u64,
}

/// A block of the queue.
struct Segment {
    block: Block,
    content: Content,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Whole frames, so many.
    Frames(usize),
    /// The first part of a frame of so many bytes.
    First(usize),
    /// A further part.
    Part,
}

/// Bytes around a payload: length, number, checksum.
const AROUND: usize = 12;
/// Where a frame's payload begins.
pub(super) const FRAME_HEAD: usize = 8;
const CHECKSUM: usize = 4;
/// Most that padding adds to a block.
pub(super) const PADDING: usize = 12;
/// The first block of a quiet writer, and the blocks of a busy one.
const RUN_BYTES: [usize; 2] = [4 << 10, 66 << 10];

impl SendQueue {
    pub(super) fn new(blocks: Blocks) -> Self {
        Self {
            blocks,
            segments: VecDeque::new(),
            ahead: None,
            sealing: None,
            frames: 0,
            bytes: 0,
            queued_to: 0,
            sealed_to: 0,
        }
    }

    /// Frames that wait.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// Bytes of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the frame queued last ends.
    pub(super) fn queued_to(&self) -> u64 {
        self.queued_to
    }

    /// Where the frame handed out last ends; between is what waits.
    pub(super) fn sealed_to(&self) -> u64 {
        self.sealed_to
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.ahead.is_none()
    }

    /// Queues a client's message, which is copied: a multiple of four bytes.
    pub(super) fn message(&mut self, head: &Head, flags: u32, payload: &[u8]) {
        let length = head.len() + payload.len() + AROUND;
        let run = self.run(length);
        frame_head(length, run);
        head.write(flags, run);
        run.extend_from_slice(payload);
        run.extend_from_slice(&[0; CHECKSUM]);
        self.count(length);
    }

    /// Queues a note behind all messages.
    pub(super) fn note(&mut self, note: Note) {
        let run = self.run(NOTE_BYTES);
        write_note(note, run);
        self.count(NOTE_BYTES);
    }

    /// Queues a note ahead of all that is not sealed yet.
    pub(super) fn note_ahead(&mut self, note: Note) {
        let blocks = &self.blocks;
        let ahead = self.ahead.get_or_insert_with(|| blocks.take(NOTE_BYTES));
        write_note(note, ahead);
    }

    /// Queues a message collected in blocks, as [`Part`]s say. `parts` is left empty.
    pub(super) fn parts(&mut self, parts: &mut Vec<Block>) {
        let length = parts.iter().map(|part| part.len()).sum();
        let mut content = Content::First(length);
        for block in parts.drain(..) {
            self.segments.push_back(Segment { block, content });
            content = Content::Part;
        }
        self.count(length);
    }

    /// The next block, sealed and padded; encrypt it and send it, in this order.
    pub(super) fn next(&mut self, encoder: &mut FrameEncoder) -> Option<Block> {
        if self.sealing.is_none()
            && let Some(mut ahead) = self.ahead.take()
        {
            seal_all(encoder, &mut ahead);
            pad(&mut ahead);
            return Some(ahead);
        }
        let Segment { mut block, content } = self.segments.pop_front()?;
        match content {
            Content::Frames(frames) => {
                self.frames -= frames;
                self.forget(block.len());
                seal_all(encoder, &mut block);
            }
            Content::First(length) => {
                self.frames -= 1;
                self.forget(block.len());
                let sealing = encoder.seal(length, &mut block);
                debug_assert!(sealing.is_ok(), "a message that is no frame");
                self.sealing = sealing.ok();
                self.seal_part(&mut block);
            }
            Content::Part => {
                self.forget(block.len());
                self.seal_part(&mut block);
            }
        }
        pad(&mut block);
        Some(block)
    }

    fn seal_part(&mut self, part: &mut [u8]) {
        if let Some(sealing) = &mut self.sealing
            && sealing.part(part)
        {
            self.sealing = None;
        }
    }

    fn forget(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.sealed_to += bytes as u64;
    }

    fn count(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length;
        self.queued_to += length as u64;
    }

    /// A block with room for a frame of so many bytes and the padding behind it; counts the frame
    /// as one of its own.
    fn run(&mut self, length: usize) -> &mut Block {
        let open = self.segments.back_mut().is_some_and(|segment| {
            let fits = segment.block.room() >= length + PADDING;
            match &mut segment.content {
                Content::Frames(frames) if fits => {
                    *frames += 1;
                    true
                }
                Content::Frames(_) | Content::First(_) | Content::Part => false,
            }
        });
        if !open {
            let [quiet, busy] = RUN_BYTES;
            let least = if self.segments.is_empty() {
                quiet
            } else {
                busy
            };
            let block = self.blocks.take(least.max(length + PADDING));
            self.segments.push_back(Segment {
                block,
                content: Content::Frames(1),
            });
        }
        let last = self.segments.len() - 1;
        &mut self.segments[last].block
    }
}

/// Where the next bytes of a message go that is collected in blocks.
///
/// The first block begins with room for the frame's head and the message's; every block but the
/// last is full, and whole cipher blocks; the last has room for checksum and padding.
pub(super) struct Part;

impl Part {
    /// Bytes of a full block: 64 KiB, which clients like to send, and what is put around them. A
    /// block with a few bytes behind each of those would be encrypted beside others' long ones.
    pub(super) const BYTES: usize = 66 << 10;

    /// Appends `bytes` of a message of which `left` bytes are missing, `bytes` among them.
    pub(super) fn append(parts: &mut Vec<Block>, blocks: &Blocks, bytes: &[u8], left: usize) {
        let (mut rest, mut left) = (bytes, left);
        while !rest.is_empty() {
            let full = parts.last().is_none_or(|part| part.len() >= Self::BYTES);
            if full {
                parts.push(blocks.take((left + CHECKSUM + PADDING).min(Self::BYTES)));
            }
            let Some(part) = parts.last_mut() else { return };
            let (now, later) = rest.split_at(rest.len().min(Self::BYTES - part.len()));
            part.extend_from_slice(now);
            left = left.saturating_sub(now.len());
            rest = later;
        }
    }

    /// Appends the place of the checksum.
    pub(super) fn close(parts: &mut Vec<Block>, blocks: &Blocks) {
        // All is words, so what is not full has room for one, and for the padding to a block.
        if parts.last().is_none_or(|part| part.len() >= Self::BYTES) {
            parts.push(blocks.take(CHECKSUM + PADDING));
        }
        if let Some(part) = parts.last_mut() {
            part.extend_from_slice(&[0; CHECKSUM]);
        }
    }
}

/// Numbers the frames that lie one behind the other.
fn seal_all(encoder: &mut FrameEncoder, run: &mut [u8]) {
    let mut rest = run;
    while let Some(field) = rest.first_chunk::<4>() {
        let length = u32::from_le_bytes(*field) as usize;
        let Some((frame, behind)) = std::mem::take(&mut rest).split_at_mut_checked(length) else {
            debug_assert!(false, "a frame without its length");
            return;
        };
        let sealed = encoder.seal_whole(frame);
        debug_assert!(sealed.is_ok(), "laid out as a frame");
        rest = behind;
    }
}

fn pad(run: &mut Block) {
    run.extend_from_slice(padding(run.len()));
}

fn frame_head(length: usize, out: &mut Block) {
    out.extend_from_slice(&(length as u32).to_le_bytes());
    out.extend_from_slice(&[0; FRAME_HEAD - 4]);
}

fn write_note(note: Note, out: &mut Block) {
    frame_head(NOTE_BYTES, out);
    out.extend_from_slice(&note.to_bytes());
    out.extend_from_slice(&[0; CHECKSUM]);
}

const NOTE_BYTES: usize = 12 + AROUND;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::{
        framing::Framing,
        middle::{
            checksum::Checksum,
            far_side::Request,
            frame::{FrameDecoder, SEQ_DATA},
            ops::ConnId,
            proxy_req::{AdTag, ProxyReq, flag},
        },
    };

    fn head(tagged: bool) -> Head {
        Head::new(&ProxyReq {
            conn: ConnId(7),
            client: "1.2.3.4:5".parse().unwrap(),
            ours: "6.7.8.9:10".parse().unwrap(),
            framing: Framing::Padded,
            ad_tag: tagged.then_some(AdTag([9; 16])),
        })
    }

    /// A message collected in blocks, as a session does it.
    fn collected(blocks: &Blocks, head: &Head, flags: u32, message: &[u8]) -> Vec<Block> {
        let mut first = blocks.take(1_000);
        first.extend_with(FRAME_HEAD + head.len(), |place| place.fill(0));
        let mut parts = vec![first];
        let mut left = message.len();
        for piece in message.chunks(1_460) {
            Part::append(&mut parts, blocks, piece, left);
            left -= piece.len();
        }
        head.put(flags, &mut parts[0][FRAME_HEAD..]);
        Part::close(&mut parts, blocks);
        parts
    }

    /// What the ME reads of all that is handed out.
    fn far_side_reads(queue: &mut SendQueue) -> Vec<String> {
        let mut encoder = FrameEncoder::new(SEQ_DATA, Checksum::Crc32c);
        let mut wire = Vec::new();
        while let Some(block) = queue.next(&mut encoder) {
            assert!(block.len().is_multiple_of(16) && !block.is_empty());
            wire.extend_from_slice(&block);
        }
        let mut decoder = FrameDecoder::new(SEQ_DATA, Checksum::Crc32c);
        let (mut rest, mut seen) = (&wire[..], Vec::new());
        loop {
            let step = decoder.next(rest).unwrap();
            rest = &rest[step.consumed..];
            match step.payload.map(Request::parse) {
                None => break,
                Some(Request::Message(m)) => {
                    assert_eq!(m.conn, ConnId(7));
                    let ack = m.flags & flag::QUICK_ACK != 0;
                    assert!(m.data.windows(2).all(|pair| pair[0] == pair[1]));
                    let first = m.data.first().copied().unwrap_or(0);
                    seen.push(format!("{} x {first}, {ack}", m.data.len()));
                }
                Some(other) => seen.push(format!("{other:?}")),
            }
        }
        assert!(rest.is_empty(), "{} bytes left", rest.len());
        seen
    }

    proptest! {
        #[test]
        fn me_reads_what_was_queued_whatever_the_sizes(
            messages in prop::collection::vec((0..70_000_usize, any::<[bool; 2]>()), 1..12),
            tagged: bool,
        ) {
            let blocks = Blocks::default();
            let (head, mut queue) = (head(tagged), SendQueue::new(blocks.clone()));
            let (mut want, mut bytes) = (Vec::new(), 0);
            for (index, (words, [ack, in_parts])) in messages.into_iter().enumerate() {
                let words = if in_parts { words } else { words / 8 };
                let message = vec![index as u8 + 1; words * 4];
                let flags = if ack { flag::QUICK_ACK } else { 0 };
                if in_parts && words > 0 {
                    queue.parts(&mut collected(&blocks, &head, flags, &message));
                } else {
                    queue.message(&head, flags, &message);
                }
                bytes += message.len() + head.len() + AROUND;
                let first = if words == 0 { 0 } else { index + 1 };
                want.push(format!("{} x {first}, {ack}", message.len()));
                prop_assert_eq!((queue.frames(), queue.bytes()), (index + 1, bytes));
                prop_assert_eq!(queue.queued_to(), bytes as u64);
            }
            prop_assert_eq!(far_side_reads(&mut queue), want);
            prop_assert_eq!((queue.frames(), queue.bytes(), queue.is_empty()), (0, 0, true));
            prop_assert_eq!(queue.sealed_to(), queue.queued_to());
        }
    }

    #[test]
    fn message_that_just_fills_its_blocks_has_its_checksum_behind_them() {
        let blocks = Blocks::default();
        for tagged in [false, true] {
            let head = head(tagged);
            let room = FRAME_HEAD + head.len();
            for words in -5..=5_isize {
                let bytes = (2 * Part::BYTES - room)
                    .checked_add_signed(words * 4)
                    .unwrap();
                let mut queue = SendQueue::new(blocks.clone());
                let message = vec![1; bytes];
                queue.parts(&mut collected(&blocks, &head, 0, &message));
                assert_eq!(far_side_reads(&mut queue), [format!("{bytes} x 1, false")]);
            }
        }
    }

    #[test]
    fn pings_go_ahead_but_never_into_a_frame() {
        let blocks = Blocks::default();
        let (head, mut queue) = (head(false), SendQueue::new(blocks.clone()));
        let mut encoder = FrameEncoder::new(SEQ_DATA, Checksum::Crc32c);
        queue.message(&head, 0, &[1; 4]);
        queue.parts(&mut collected(&blocks, &head, 0, &vec![2; 200_000]));
        queue.note(Note::CloseConn(ConnId(7)));
        queue.note_ahead(Note::Ping(5));
        let mut wire = Vec::new();
        for _ in 0..3 {
            wire.extend_from_slice(&queue.next(&mut encoder).unwrap());
        }
        // The long message has begun to leave.
        queue.note_ahead(Note::Pong(6));
        while let Some(block) = queue.next(&mut encoder) {
            wire.extend_from_slice(&block);
        }
        let mut decoder = FrameDecoder::new(SEQ_DATA, Checksum::Crc32c);
        let (mut rest, mut order) = (&wire[..], String::new());
        while let step = decoder.next(rest).unwrap()
            && let Some(payload) = step.payload
        {
            rest = &rest[step.consumed..];
            order += match Request::parse(payload) {
                Request::Ping(5) => "ping ",
                Request::Pong(6) => "pong ",
                Request::Message(m) if m.data.len() == 4 => "short ",
                Request::Message(_) => "long ",
                Request::Close(ConnId(7)) => "close ",
                _ => "? ",
            };
        }
        assert_eq!(order, "ping short long pong close ");
    }
}
