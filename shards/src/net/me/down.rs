//! d2c of one session: answers laid out for its client's socket, in batches.
//!
//! A piece of an answer is copied once, encrypted on the way, to where it leaves from: behind the
//! frame's header, with record headers in their places if the client speaks TLS. What is queued is
//! never taken back, short of the end of the session. A batch is what one flush hands over; while
//! the client takes nothing, full batches wait here.
//!
//! Source: middle-proxy.md 21.1 and 21.2.

use std::collections::VecDeque;

use crate::{
    engine::{Block, Blocks},
    policy::{Millis, meter::Flow, record_sizes::RecordSizes},
    proto::{
        crypto::CtrStream,
        faketls::record::{self, HEADER as RECORD_HEADER, PAYLOAD_MAX as RECORD_MAX},
    },
};

/// Towards one client.
pub(super) struct Down {
    cipher: CtrStream,
    /// How records are cut, for a client that reads records.
    records: Option<RecordSizes>,
    /// The batch that is being filled.
    open: Batch,
    /// Full ones that wait for the client, oldest first.
    full: VecDeque<Batch>,
    /// Whole frames that wait, and payload bytes.
    frames: usize,
    bytes: usize,
    /// Why nothing is handed over.
    pub(super) flow: Flow,
    /// The answer that is coming in: the link it comes from, and what is needed at its end.
    pub(super) partial: Option<Partial>,
    /// More waits than may: since when it is known, and whether the client had been far behind.
    pub(super) over: Option<Over>,
    /// In the list of those that are flushed at the end of the turn.
    pub(super) dirty: bool,
    /// When the open batch is handed over at the latest, microseconds; 0 when it does not wait.
    pub(super) held_until_us: u64,
    last_flush_us: u64,
    /// The client has sent something since the last flush.
    asked: bool,
}

/// An answer of which the end has not come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial {
    pub(super) link: u32,
    pub(super) data_bytes: u32,
    pub(super) padding: u8,
    /// The session ends behind it: it is over its user's quota.
    pub(super) last: bool,
}

/// The bound of the queue is crossed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Over {
    pub(super) until: Millis,
    pub(super) high: bool,
}

/// What one flush hands over.
#[derive(Default)]
pub(super) struct Batch {
    last: Option<Filling>,
    /// Blocks before it.
    earlier: Vec<Block>,
    pub(super) data_frames: u64,
    pub(super) ack_frames: u64,
    /// Payload bytes, 4 per ack.
    pub(super) bytes: usize,
    /// Of those, bytes of data.
    pub(super) data_bytes: u64,
    /// Data frames whose wire size is beyond [`SPLIT_BYTES`].
    pub(super) split: u64,
    /// Why it ended, when it is full.
    pub(super) reason: Option<Reason>,
}

/// Why a batch ended; the first that applies counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Close,
    Ack,
    Frames,
    Bytes,
    Delay,
    Drain,
}

/// A block that is being filled.
struct Filling {
    block: Block,
    /// Where the record begins that is being filled.
    record_at: usize,
    /// Payload bytes of that record at most.
    record_max: usize,
}

/// Wire size up to which a frame counts as handed over in one piece.
const SPLIT_BYTES: usize = 128 << 10;
/// A batch that costs more than the system call it leaves with.
const LARGE_BYTES: usize = 32 << 10;
/// Blocks of batches: for one short answer, for more.
const BLOCK_BYTES: [usize; 3] = [1 << 10, 16 << 10, 132 << 10];

impl Down {
    pub(super) fn new(cipher: CtrStream, records: Option<RecordSizes>) -> Self {
        Self {
            cipher,
            records,
            open: Batch::default(),
            full: VecDeque::new(),
            frames: 0,
            bytes: 0,
            flow: Flow::default(),
            partial: None,
            over: None,
            dirty: false,
            held_until_us: 0,
            last_flush_us: 0,
            asked: true,
        }
    }

    /// The client sent something: what comes next is an answer to that.
    pub(super) fn asked(&mut self, now: Millis) {
        self.asked = true;
        if let Some(sizes) = &mut self.records {
            sizes.begin(now);
        }
    }

    /// Frames that wait.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// Payload bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.full.is_empty() && self.open.is_empty()
    }

    /// The batch that is being filled.
    pub(super) fn open(&self) -> &Batch {
        &self.open
    }

    /// Appends header or padding.
    pub(super) fn frame_around(&mut self, blocks: &Blocks, bytes: &[u8]) {
        self.put(blocks, bytes);
    }

    fn put(&mut self, blocks: &Blocks, bytes: &[u8]) {
        self.open
            .put(blocks, bytes, &mut self.records, &mut self.cipher);
    }

    /// Appends payload.
    pub(super) fn payload(&mut self, blocks: &Blocks, bytes: &[u8]) {
        self.put(blocks, bytes);
        self.open.bytes += bytes.len();
        self.open.data_bytes += bytes.len() as u64;
        self.bytes += bytes.len();
    }

    /// The frame that was begun is complete.
    pub(super) fn frame_ends(&mut self, data_bytes: u32) {
        // Header and padding make no difference that matters.
        let wire = data_bytes as usize + 4;
        self.open.split += u64::from(wire > SPLIT_BYTES);
        self.open.data_frames += 1;
        self.frames += 1;
    }

    /// Appends a quick ack.
    pub(super) fn ack(&mut self, blocks: &Blocks, ack: [u8; 4]) {
        self.put(blocks, &ack);
        self.open.ack_frames += 1;
        self.open.bytes += ack.len();
        self.frames += 1;
        self.bytes += ack.len();
    }

    /// The open batch is full: it waits as it is, or goes next.
    pub(super) fn close_batch(&mut self, reason: Reason) {
        let mut batch = std::mem::take(&mut self.open);
        batch.reason = Some(reason);
        self.full.push_back(batch);
    }

    /// The next batch to be handed over; `None` when nothing waits. `reason` is that of
    /// the open one.
    pub(super) fn next(&mut self, reason: Reason) -> Option<(Batch, Reason)> {
        let (mut batch, reason) = match self.full.pop_front() {
            Some(batch) => {
                let reason = batch.reason.unwrap_or(reason);
                (batch, reason)
            }
            None if self.open.is_empty() => return None,
            None => (std::mem::take(&mut self.open), reason),
        };
        if self.full.is_empty() && self.full.capacity() > 0 {
            self.full = VecDeque::new();
        }
        self.frames -= (batch.data_frames + batch.ack_frames) as usize;
        self.bytes -= batch.bytes;
        if let Some(last) = &mut batch.last {
            last.end_record(self.records.is_some());
        }
        Some((batch, reason))
    }

    /// A batch was handed over.
    pub(super) fn flushed(&mut self, now_us: u64) {
        self.last_flush_us = now_us;
        if let Some(sizes) = &mut self.records {
            sizes.begin(Millis(now_us / 1_000));
        }
        self.asked = false;
        self.held_until_us = 0;
    }

    /// Whether the open batch should wait for more: in a stream, that is when the last flush was a
    /// moment ago and the client has not asked for anything since. A large one gains nothing.
    pub(super) fn is_stream(&self, now_us: u64, delay_us: u64) -> bool {
        !self.asked
            && self.open.bytes < LARGE_BYTES
            && now_us.saturating_sub(self.last_flush_us) <= delay_us
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Its blocks, in order.
    pub(super) fn into_blocks(self) -> impl Iterator<Item = Block> {
        let last = self.last.map(|last| last.block);
        self.earlier.into_iter().chain(last)
    }

    fn put(
        &mut self,
        blocks: &Blocks,
        bytes: &[u8],
        records: &mut Option<RecordSizes>,
        cipher: &mut CtrStream,
    ) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match &mut self.last {
                Some(last) => last.put(rest, records, cipher),
                None => 0,
            };
            rest = rest.get(taken..).unwrap_or_default();
            if !rest.is_empty() {
                self.next_block(blocks, rest.len(), records.is_some());
            }
        }
    }

    /// Goes on in another block: a small one first, then larger ones.
    fn next_block(&mut self, blocks: &Blocks, wanted: usize, records: bool) {
        let [small, middle, large] = BLOCK_BYTES;
        let headers = (wanted / RECORD_MAX + 1) * RECORD_HEADER;
        let least = match (&self.last, self.earlier.is_empty()) {
            (None, _) => small,
            (Some(_), true) => middle,
            (Some(_), false) => large,
        };
        let block = blocks.take((wanted + headers).clamp(least, large));
        if let Some(mut last) = self.last.replace(Filling {
            block,
            record_at: 0,
            record_max: 0,
        }) {
            last.end_record(records);
            self.earlier.push(last.block);
        }
    }
}

impl Filling {
    /// Takes what fits; how many bytes.
    fn put(
        &mut self,
        bytes: &[u8],
        records: &mut Option<RecordSizes>,
        cipher: &mut CtrStream,
    ) -> usize {
        let Some(sizes) = records else {
            let taken = bytes.len().min(self.block.room());
            self.extend(bytes.get(..taken).unwrap_or_default(), cipher);
            return taken;
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let mut filled = self.block.len() - self.record_at;
            if filled == 0 || filled == RECORD_HEADER + self.record_max {
                if self.block.room() <= RECORD_HEADER {
                    break;
                }
                self.end_record(true);
                self.record_at = self.block.len();
                self.record_max = sizes.next();
                self.block.extend_from_slice(&[0; RECORD_HEADER]);
                filled = RECORD_HEADER;
            }
            let room = (RECORD_HEADER + self.record_max - filled).min(self.block.room());
            let (now, later) = rest.split_at(rest.len().min(room));
            if now.is_empty() {
                break;
            }
            self.extend(now, cipher);
            rest = later;
        }
        bytes.len() - rest.len()
    }

    fn extend(&mut self, bytes: &[u8], cipher: &mut CtrStream) {
        self.block
            .extend_with(bytes.len(), |place| cipher.apply_from(bytes, place));
    }

    /// Writes the header of the record that was being filled.
    fn end_record(&mut self, records: bool) {
        let payload = (self.block.len() - self.record_at).saturating_sub(RECORD_HEADER);
        if records && payload > 0 {
            let header = record::header(payload);
            let at = self.record_at;
            if let Some(place) = self.block.get_mut(at..at + RECORD_HEADER) {
                place.copy_from_slice(&header);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::faketls::record::RecordReader;

    /// Records of plain clients do not exist; `seed` 0 lets them be as long as may be.
    fn ramped(seed: u32) -> Down {
        let sizes = RecordSizes::new(seed > 0, seed);
        Down::new(CtrStream::new(&[3; 32], &[4; 16]), Some(sizes))
    }

    fn down(records: bool) -> Down {
        let sizes = records.then(RecordSizes::default);
        Down::new(CtrStream::new(&[3; 32], &[4; 16]), sizes)
    }

    /// What a client reads of all that is handed over.
    fn client_reads(down: &mut Down, records: bool) -> Vec<u8> {
        let mut wire = Vec::new();
        while let Some((batch, _)) = down.next(Reason::Drain) {
            for block in batch.into_blocks() {
                assert!(!block.is_empty());
                wire.extend_from_slice(&block);
            }
        }
        if records {
            let payload = RecordReader::new().compact(&mut wire).unwrap().payload;
            wire.truncate(payload);
        }
        CtrStream::new(&[3; 32], &[4; 16]).apply(&mut wire);
        wire
    }

    proptest! {
        #[test]
        fn client_reads_what_was_put_whatever_the_sizes(
            pieces in prop::collection::vec((0..40_000_usize, any::<bool>()), 1..20),
            records: bool,
            ramp in 0..3_u32,
        ) {
            let blocks = Blocks::default();
            let mut down = if records { ramped(ramp) } else { down(false) };
            let mut want = Vec::new();
            for (index, (bytes, close)) in pieces.into_iter().enumerate() {
                let piece = vec![index as u8; bytes];
                down.payload(&blocks, &piece);
                want.extend_from_slice(&piece);
                if close && !down.open().is_empty() {
                    down.frame_ends(4);
                    down.close_batch(Reason::Frames);
                }
            }
            prop_assert_eq!(down.bytes(), want.len());
            prop_assert!(client_reads(&mut down, records) == want);
            prop_assert_eq!((down.bytes(), down.frames(), down.is_empty()), (0, 0, true));
        }
    }

    #[test]
    fn short_answer_takes_a_small_block_and_a_long_one_few() {
        let blocks = Blocks::default();
        for (bytes, count) in [
            (64, 1),
            (1_000, 1),
            (100_000, 1),
            (131_072, 1),
            (300_000, 3),
        ] {
            let mut down = down(true);
            down.payload(&blocks, &vec![1; bytes]);
            let (batch, _) = down.next(Reason::Drain).unwrap();
            let blocks: Vec<Block> = batch.into_blocks().collect();
            assert_eq!(blocks.len(), count, "{bytes}");
            assert!(bytes != 64 || blocks[0].len() + blocks[0].room() == 1 << 10);
        }
    }

    #[test]
    fn waits_only_in_a_stream() {
        let mut down = down(false);
        assert!(!down.is_stream(0, 500), "the first answer of all");
        down.flushed(1_000);
        assert!(down.is_stream(1_500, 500));
        assert!(!down.is_stream(1_501, 500));
        down.asked(Millis(2));
        assert!(!down.is_stream(1_001, 500), "an answer somebody waits for");
    }
}
