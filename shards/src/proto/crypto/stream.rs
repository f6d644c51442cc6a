//! AES-256-CTR as a stream that may be cut anywhere.
//!
//! Both relay directions run through [`CtrStream::apply`]; it is the proxy's largest cost.

use aes::{
    Aes256Enc, Block,
    cipher::{
        BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, KeyInit,
        ParBlocks, array::Array, consts::U16, typenum::Unsigned,
    },
};

use super::{copy, pair};

const BLOCK_BYTES: usize = 16;

/// AES-256-CTR with the whole IV as one 128-bit big-endian counter that wraps to zero.
///
/// Runs on without a reset; may be cut at any byte. 288 bytes, no heap.
///
/// Source: protocol.md 3.3 and 3.4.
#[derive(Clone)]
pub struct CtrStream {
    cipher: Aes256Enc,
    /// Counter of the next block to be encrypted.
    counter: u128,
    /// The last keystream block, if part of it is unused. Byte 0 is always used first, so its
    /// place holds the number of used bytes: `1 <= used[0] <= 16`.
    tail: [u8; BLOCK_BYTES],
}

impl CtrStream {
    /// A stream at keystream byte 0.
    pub fn new(key: &[u8; 32], iv: &[u8; 16]) -> Self {
        Self {
            cipher: Aes256Enc::new(key.into()),
            counter: u128::from_be_bytes(*iv),
            tail: Self::NO_TAIL,
        }
    }

    /// XORs the next `data.len()` keystream bytes onto `data`: encrypts or decrypts it in place.
    pub fn apply(&mut self, data: &mut [u8]) {
        let data = self.apply_tail(data);
        let (blocks, rest) = Block::slice_as_chunks_mut(data);
        if blocks.len() < BATCH_BLOCKS_MIN {
            for block in blocks {
                let keystream = self.next_block();
                xor(block, &keystream);
            }
        } else {
            let counter = self.counter;
            self.counter = counter.wrapping_add(blocks.len() as u128);
            self.cipher
                .encrypt_with_backend(Batches { counter, blocks });
        }
        if !rest.is_empty() {
            let keystream = self.next_block();
            xor(rest, &keystream);
            self.keep_tail(keystream, rest.len());
        }
    }

    /// Writes `from` XORed with the next keystream bytes to `to`, which is as long: a copy and
    /// [`CtrStream::apply`] in one pass.
    pub fn apply_from(&mut self, from: &[u8], to: &mut [u8]) {
        debug_assert_eq!(from.len(), to.len());
        let bytes = from.len().min(to.len());
        // Up to the next block, and short data: nothing to be won.
        let head = match bytes / BLOCK_BYTES > BATCH_BLOCKS_MIN {
            true => BLOCK_BYTES - self.used(),
            false => bytes,
        };
        let (from_head, from) = from.split_at(head);
        let (to_head, to) = to.split_at_mut(head);
        to_head.copy_from_slice(from_head);
        self.apply(to_head);
        let (source, rest) = Block::slice_as_chunks(from);
        let (blocks, to_rest) = Block::slice_as_chunks_mut(to);
        let counter = self.counter;
        self.counter = counter.wrapping_add(blocks.len() as u128);
        if !blocks.is_empty() {
            self.cipher.encrypt_with_backend(copy::Batches {
                counter,
                from: source,
                to: blocks,
            });
        }
        to_rest.copy_from_slice(rest);
        self.apply(to_rest);
    }

    /// The same as `first.apply(data)` and then `second.apply(data)`.
    ///
    /// One pass over `data` if it is longer than 1 KiB or so and the streams stand at the
    /// same place within a block, as the two of a session's uplink do.
    #[inline]
    pub fn apply_both(first: &mut Self, second: &mut Self, data: &mut [u8]) {
        if data.len() < PAIR_BYTES_MIN {
            first.apply(data);
            second.apply(data);
        } else if first.used() == second.used() {
            Self::apply_pair(first, second, data);
        } else {
            for piece in data.chunks_mut(PIECE_BYTES) {
                first.apply(piece);
                second.apply(piece);
            }
        }
    }

    /// Both streams, which stand at the same place within a block.
    fn apply_pair(first: &mut Self, second: &mut Self, data: &mut [u8]) {
        let in_tail = data.len().min(BLOCK_BYTES - first.used());
        let (head, data) = data.split_at_mut(in_tail);
        first.apply_tail(head);
        second.apply_tail(head);
        let (blocks, rest) = Block::slice_as_chunks_mut(data);
        pair::apply(
            (&first.cipher, first.counter),
            (&second.cipher, second.counter),
            blocks,
        );
        for stream in [first, second] {
            stream.counter = stream.counter.wrapping_add(blocks.len() as u128);
            stream.apply(rest);
        }
    }

    /// Moves on by `bytes` keystream bytes as if that much data had been applied.
    pub fn skip(&mut self, bytes: u64) {
        let unused = BLOCK_BYTES - self.used();
        let in_tail = usize::try_from(bytes).map_or(unused, |n| n.min(unused));
        self.set_used(self.used() + in_tail);
        let bytes = bytes - in_tail as u64;
        self.counter = self
            .counter
            .wrapping_add(u128::from(bytes / BLOCK_BYTES as u64));
        let partial = (bytes % BLOCK_BYTES as u64) as usize;
        if partial != 0 {
            let keystream = self.next_block();
            self.keep_tail(keystream, partial);
        }
    }

    const NO_TAIL: [u8; BLOCK_BYTES] = {
        let mut tail = [0; BLOCK_BYTES];
        tail[0] = BLOCK_BYTES as u8;
        tail
    };

    /// Applies what is left of the last block; returns the data behind it.
    fn apply_tail<'d>(&mut self, data: &'d mut [u8]) -> &'d mut [u8] {
        let used = self.used();
        let n = data.len().min(BLOCK_BYTES - used);
        if n == 0 {
            return data;
        }
        let (head, data) = data.split_at_mut(n);
        if let Some(keystream) = self.tail.get(used..) {
            xor(head, keystream);
        }
        self.set_used(used + n);
        data
    }

    fn next_block(&mut self) -> [u8; BLOCK_BYTES] {
        let mut block = Block::from(self.counter.to_be_bytes());
        self.cipher.encrypt_block(&mut block);
        self.counter = self.counter.wrapping_add(1);
        block.into()
    }

    fn keep_tail(&mut self, keystream: [u8; BLOCK_BYTES], used: usize) {
        self.tail = keystream;
        self.set_used(used);
    }

    fn used(&self) -> usize {
        usize::from(self.tail[0])
    }

    fn set_used(&mut self, used: usize) {
        debug_assert!((1..=BLOCK_BYTES).contains(&used));
        self.tail[0] = used as u8;
    }
}

/// Whole blocks, in batches as wide as the CPU's AES unit wants them: 64 blocks with VAES and
/// AVX-512, 8 with plain AES-NI.
///
/// The counter mode of the `ctr` crate counts in 128 bits per block and spends as long on that as
/// on the encryption; [`count`] and [`xor_blocks`] become a few wide vector instructions.
pub(super) struct Batches<'a> {
    pub(super) counter: u128,
    pub(super) blocks: &'a mut [Block],
}

impl BlockSizeUser for Batches<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Batches<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut counter = self.counter;
        let mut keystream = Lines(ParBlocks::<B>::default());
        let (batches, rest) = Array::<Block, B::ParBlocksSize>::slice_as_chunks_mut(self.blocks);
        for batch in batches {
            count(&mut keystream.0, counter);
            backend.encrypt_par_blocks((&mut keystream.0).into());
            xor_blocks(batch, &keystream.0);
            counter = counter.wrapping_add(B::ParBlocksSize::U64.into());
        }
        if rest.len() * 2 > B::ParBlocksSize::USIZE {
            count(&mut keystream.0, counter);
            backend.encrypt_par_blocks((&mut keystream.0).into());
            xor_blocks(rest, &keystream.0);
        } else {
            for block in rest {
                let mut keystream = Block::from(counter.to_be_bytes());
                backend.encrypt_block((&mut keystream).into());
                xor(block, &keystream);
                counter = counter.wrapping_add(1);
            }
        }
    }
}

/// Fills `blocks` with consecutive counters; quickest for a multiple of four, 64 at the most.
#[inline(always)]
pub(super) fn count(blocks: &mut [Block], first: u128) {
    let bytes = first.to_be_bytes();
    let low = first as u64;
    let in_steps = blocks.len().is_multiple_of(4) && blocks.len() <= 4 * STEPS.len();
    if in_steps && usize::from(bytes[15]) + blocks.len() <= 256 {
        // Only the last byte differs: one vector addition for four blocks.
        let mut four = [0; WIDE_BYTES];
        for block in four.as_chunks_mut().0 {
            *block = bytes;
        }
        let (wide, _) = Array::slice_as_flattened_mut(blocks).as_chunks_mut();
        for (wide, steps) in wide.iter_mut().zip(&STEPS) {
            let mut sum = four;
            for (byte, step) in sum.iter_mut().zip(steps) {
                *byte = byte.wrapping_add(*step);
            }
            *wide = sum;
        }
    } else if low.checked_add(blocks.len() as u64).is_some() {
        let high = ((first >> 64) as u64).to_be_bytes();
        for (block, i) in blocks.iter_mut().zip(0_u64..) {
            let low = low.wrapping_add(i).to_be_bytes();
            block.0[..8].copy_from_slice(&high);
            block.0[8..].copy_from_slice(&low);
        }
    } else {
        for (block, i) in blocks.iter_mut().zip(0_u128..) {
            *block = first.wrapping_add(i).to_be_bytes().into();
        }
    }
}

#[inline(always)]
fn xor_blocks(blocks: &mut [Block], keystream: &[Block]) {
    let (wide, rest) = Array::slice_as_flattened_mut(blocks).as_chunks_mut::<WIDE_BYTES>();
    let keystream = Array::slice_as_flattened(keystream);
    let rest_key = keystream.get(wide.len() * WIDE_BYTES..).unwrap_or_default();
    for (data, key) in wide.iter_mut().zip(keystream.as_chunks::<WIDE_BYTES>().0) {
        // A copy, which cannot overlap the key: one instruction in the widest registers.
        let mut sum = *data;
        xor(&mut sum, key);
        *data = sum;
    }
    xor(rest, rest_key);
}

/// Keystream in whole cache lines: a wide access across two of them costs twice.
#[repr(align(64))]
pub(super) struct Lines<T>(pub(super) T);

/// The widest vector register: four blocks.
pub(super) const WIDE_BYTES: usize = 64;

/// What the last byte of each block's counter is ahead of the first one's.
#[expect(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler, constant bounds"
)]
const STEPS: [[u8; WIDE_BYTES]; 16] = {
    let mut steps = [[0; WIDE_BYTES]; 16];
    let mut block = 0;
    while block < 64 {
        steps[block / 4][block % 4 * BLOCK_BYTES + 15] = block as u8;
        block += 1;
    }
    steps
};

impl std::fmt::Debug for CtrStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CtrStream(..)")
    }
}

/// One AES-256 block: the keystream of `counter`, without building a stream.
pub(crate) fn keystream_block(key: &[u8; 32], counter: u128) -> [u8; 16] {
    let mut block = Block::from(counter.to_be_bytes());
    Aes256Enc::new(key.into()).encrypt_block(&mut block);
    block.into()
}

#[inline(always)]
fn xor(data: &mut [u8], keystream: &[u8]) {
    for (byte, key) in data.iter_mut().zip(keystream) {
        *byte ^= key;
    }
}

/// Fewer whole blocks are encrypted one by one: that skips spreading the round keys over wide
/// registers.
const BATCH_BLOCKS_MIN: usize = 32;

/// Shorter data goes through the two streams one after the other: it has no whole batch of 64
/// blocks behind the rest of the last block.
const PAIR_BYTES_MIN: usize = 64 * BLOCK_BYTES + BLOCK_BYTES - 1;

/// Small enough for the second stream to find in the first-level cache.
const PIECE_BYTES: usize = 8 * 1024;

#[cfg(test)]
mod tests {
    use ctr::cipher::{KeyIvInit, StreamCipher};

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    /// The counter mode of another crate.
    fn reference(iv: u128, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        ctr::Ctr128BE::<aes::Aes256>::new(&KEY.into(), &iv.to_be_bytes().into())
            .apply_keystream(&mut data);
        data
    }

    #[test]
    fn is_at_most_288_bytes() {
        assert!(size_of::<CtrStream>() <= 288, "{}", size_of::<CtrStream>());
    }

    #[test]
    fn equals_the_reference_for_every_length() {
        for len in (0..1200).chain([2878, 4096, 9999]) {
            let mut data = vec![0; len];
            CtrStream::new(&KEY, &5_u128.to_be_bytes()).apply(&mut data);
            assert_eq!(data, reference(5, len), "{len} bytes");
        }
    }

    #[test]
    fn counts_over_64_and_128_bits() {
        for iv in [
            u128::MAX - 100,
            (5 << 64) | (u128::from(u64::MAX) - 100),
            u128::from(u64::MAX),
        ] {
            for len in [16 * 90, 16 * 101, 16 * 102, 16 * 300 + 5] {
                let mut data = vec![0; len];
                CtrStream::new(&KEY, &iv.to_be_bytes()).apply(&mut data);
                assert_eq!(data, reference(iv, len), "{iv:x} {len}");
            }
        }
    }

    #[test]
    fn both_equals_one_after_the_other() {
        // A small generator: the test must not depend on the order of other tests.
        let mut state = 1_u64;
        let mut draw = |below: usize| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(99);
            (state >> 33) as usize % below
        };
        for round in 0..400 {
            let iv = |kind| match kind {
                0 => u128::MAX - 300,
                1 => (9 << 64) | u128::from(u64::MAX - 100),
                2 => 190,
                _ => 1 << 100,
            };
            let mut one = CtrStream::new(&KEY, &iv(draw(4)).to_be_bytes());
            let mut two = CtrStream::new(&[8; 32], &iv(draw(4)).to_be_bytes());
            let skip = draw(40) as u64;
            one.skip(skip);
            two.skip(if round % 4 == 0 { 7 } else { skip + 64 });
            let (mut one_ref, mut two_ref) = (one.clone(), two.clone());
            let mut data: Vec<u8> = (0..12_000_u32).map(|i| (i * 7) as u8).collect();
            let mut expected = data.clone();
            one_ref.apply(&mut expected);
            two_ref.apply(&mut expected);
            let mut rest = &mut data[..];
            while !rest.is_empty() {
                let below = [3, 70, 1100, 6000][draw(4)];
                let (piece, behind) = rest.split_at_mut(draw(below).min(rest.len()));
                CtrStream::apply_both(&mut one, &mut two, piece);
                rest = behind;
            }
            assert!(data == expected, "round {round}");
        }
    }

    #[test]
    fn both_equals_one_after_the_other_for_every_length_and_place() {
        for len in (900..1300).chain([2047, 2048, 4096 + 33 * 16, 20_000]) {
            let mut one = CtrStream::new(&KEY, &[0xff; 16]);
            let mut two = CtrStream::new(&[8; 32], &[3; 16]);
            one.skip(len as u64 / 3);
            two.skip(len as u64 / 3);
            let (mut one_ref, mut two_ref) = (one.clone(), two.clone());
            let (mut data, mut expected) = (vec![0; len + 50], vec![0; len + 50]);
            let (head, tail) = data.split_at_mut(len);
            CtrStream::apply_both(&mut one, &mut two, head);
            CtrStream::apply_both(&mut one, &mut two, tail);
            one_ref.apply(&mut expected);
            two_ref.apply(&mut expected);
            assert!(data == expected, "{len} bytes");
        }
    }

    #[test]
    fn copying_equals_in_place_for_every_length_and_place() {
        for len in (0..1200).chain([2047, 4096 + 33 * 16, 8192, 20_000]) {
            for skip in [0, 1, 15, 16, 200] {
                let mut one = CtrStream::new(&KEY, &[0xff; 16]);
                one.skip(skip);
                let mut two = one.clone();
                let from: Vec<u8> = (0..len + 40).map(|i| (i * 3) as u8).collect();
                let (mut to, mut expected) = (vec![9; len + 40], from.clone());
                one.apply_from(&from[..len], &mut to[..len]);
                one.apply_from(&from[len..], &mut to[len..]);
                two.apply(&mut expected);
                assert!(to == expected, "{len} bytes after {skip}");
            }
        }
    }

    #[test]
    fn one_block_equals_the_stream() {
        assert_eq!(keystream_block(&KEY, 9).to_vec(), reference(9, 16));
    }

    #[test]
    fn skip_equals_apply() {
        for start in 0..40 {
            for skip in (0..70_usize).chain([1000, 4096]) {
                let mut all = vec![0; start + skip + 50];
                CtrStream::new(&KEY, &[0xff; 16]).apply(&mut all);
                let mut stream = CtrStream::new(&KEY, &[0xff; 16]);
                let mut got = vec![0; start];
                stream.apply(&mut got);
                assert_eq!(got, all[..start]);
                stream.skip(skip as u64);
                let mut got = vec![0; 50];
                stream.apply(&mut got);
                assert_eq!(got, all[start + skip..], "start {start} skip {skip}");
            }
        }
    }

    #[test]
    fn skips_further_than_memory_is_wide() {
        let mut one = CtrStream::new(&KEY, &[0; 16]);
        one.skip(u64::MAX);
        one.skip(1);
        let mut two = CtrStream::new(&KEY, &(1_u128 << 60).to_be_bytes());
        let (mut a, mut b) = ([0; 32], [0; 32]);
        one.apply(&mut a);
        two.apply(&mut b);
        assert_eq!(a, b);
    }
}
