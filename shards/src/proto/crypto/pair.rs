//! Two AES-256-CTR keystreams over the same whole blocks, in one pass over the data.
//!
//! Cutting a stream anywhere lives in [`super::stream`], which is the only caller.

use aes::{
    Aes256Enc, Block,
    cipher::{
        BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser, ParBlocks,
        array::Array, consts::U16, typenum::Unsigned,
    },
};

use super::stream::{Batches, Lines, WIDE_BYTES, count};

/// A cipher and the counter of its next block.
pub(super) type Position<'a> = (&'a Aes256Enc, u128);

/// XORs the keystreams from both positions onto `blocks`.
pub(super) fn apply(first: Position<'_>, second: Position<'_>, blocks: &mut [Block]) {
    first.0.encrypt_with_backend(Outer {
        counter: first.1,
        second,
        blocks,
    });
}

/// Has the first cipher's backend, asks for the second's.
struct Outer<'a> {
    counter: u128,
    second: Position<'a>,
    blocks: &'a mut [Block],
}

impl BlockSizeUser for Outer<'_> {
    type BlockSize = U16;
}

impl BlockCipherEncClosure for Outer<'_> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let (cipher, counter) = self.second;
        cipher.encrypt_with_backend(Inner {
            first: backend,
            counters: (self.counter, counter),
            blocks: self.blocks,
        });
    }
}

struct Inner<'a, F> {
    first: &'a F,
    counters: (u128, u128),
    blocks: &'a mut [Block],
}

impl<F> BlockSizeUser for Inner<'_, F> {
    type BlockSize = U16;
}

impl<F: BlockCipherEncBackend<BlockSize = U16>> BlockCipherEncClosure for Inner<'_, F> {
    #[inline(always)]
    fn call<S: BlockCipherEncBackend<BlockSize = U16>>(self, second: &S) {
        let (mut one, mut two) = self.counters;
        let mut blocks = self.blocks;
        // Always so: both ciphers found the same CPU. Only the type system has to be told.
        if F::ParBlocksSize::USIZE == S::ParBlocksSize::USIZE {
            let mut keys_one = Lines(ParBlocks::<F>::default());
            let mut keys_two = Lines(ParBlocks::<S>::default());
            let (batches, rest) = Array::<Block, F::ParBlocksSize>::slice_as_chunks_mut(blocks);
            for batch in batches {
                count(&mut keys_one.0, one);
                self.first.encrypt_par_blocks((&mut keys_one.0).into());
                count(&mut keys_two.0, two);
                second.encrypt_par_blocks((&mut keys_two.0).into());
                xor_both(batch, &keys_one.0, &keys_two.0);
                one = one.wrapping_add(F::ParBlocksSize::U64.into());
                two = two.wrapping_add(F::ParBlocksSize::U64.into());
            }
            blocks = rest;
        }
        Batches {
            counter: one,
            blocks: &mut *blocks,
        }
        .call(self.first);
        Batches {
            counter: two,
            blocks,
        }
        .call(second);
    }
}

/// XORs both keystreams onto a batch, whose size is a multiple of four blocks.
#[inline(always)]
fn xor_both(batch: &mut [Block], one: &[Block], two: &[Block]) {
    let (batch, rest) = Array::slice_as_flattened_mut(batch).as_chunks_mut::<WIDE_BYTES>();
    let (one, _) = Array::slice_as_flattened(one).as_chunks::<WIDE_BYTES>();
    let (two, _) = Array::slice_as_flattened(two).as_chunks::<WIDE_BYTES>();
    debug_assert!(rest.is_empty());
    for ((data, one), two) in batch.iter_mut().zip(one).zip(two) {
        // A copy, which cannot overlap the keys: one instruction in the widest registers.
        let mut sum = *data;
        for ((byte, one), two) in sum.iter_mut().zip(one).zip(two) {
            *byte ^= one ^ two;
        }
        *data = sum;
    }
}
