//! An AES-256-CTR keystream over whole blocks, from one place to another in one pass.
//!
//! Cutting a stream anywhere lives in [`super::stream`], which is the only caller.

use aes::{
    Block,
    cipher::{
        BlockCipherEncBackend, BlockCipherEncClosure, BlockSizeUser, ParBlocks, array::Array,
        consts::U16, typenum::Unsigned,
    },
};

use super::stream::{self, Lines, WIDE_BYTES, count};

/// Writes `from` XORed with the keystream to `to`; both are equally long.
pub(super) struct Batches<'a> {
    pub(super) counter: u128,
    pub(super) from: &'a [Block],
    pub(super) to: &'a mut [Block],
}

impl BlockSizeUser for Batches<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Batches<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let mut counter = self.counter;
        let mut keystream = Lines(ParBlocks::<B>::default());
        let (batches, rest) = Array::<Block, B::ParBlocksSize>::slice_as_chunks_mut(self.to);
        let (sources, source_rest) = Array::<Block, B::ParBlocksSize>::slice_as_chunks(self.from);
        for (batch, source) in batches.iter_mut().zip(sources) {
            count(&mut keystream.0, counter);
            backend.encrypt_par_blocks((&mut keystream.0).into());
            xor_to(batch, source, &keystream.0);
            counter = counter.wrapping_add(B::ParBlocksSize::U64.into());
        }
        rest.copy_from_slice(source_rest);
        stream::Batches {
            counter,
            blocks: rest,
        }
        .call(backend);
    }
}

/// A batch, whose size is a multiple of four blocks.
#[inline(always)]
fn xor_to(to: &mut [Block], from: &[Block], keystream: &[Block]) {
    let (to, rest) = Array::slice_as_flattened_mut(to).as_chunks_mut::<WIDE_BYTES>();
    let (from, _) = Array::slice_as_flattened(from).as_chunks::<WIDE_BYTES>();
    let (keystream, _) = Array::slice_as_flattened(keystream).as_chunks::<WIDE_BYTES>();
    debug_assert!(rest.is_empty());
    for ((to, from), key) in to.iter_mut().zip(from).zip(keystream) {
        let mut sum = *from;
        for (byte, key) in sum.iter_mut().zip(key) {
            *byte ^= key;
        }
        *to = sum;
    }
}
