//! What the targets share: choices taken from the front of an input, and ways to cut the rest.
//!
//! A target's input is a few bytes of choices (which secret, which framing, where to cut), then the
//! bytes under test. Everything follows from the input: a finding repeats itself.

use shards::proto::{crypto::sha256, secret::Secret};

/// Takes choices from the front of an input; zero where the input is over.
pub struct Choices<'a> {
    rest: &'a [u8],
}

impl<'a> Choices<'a> {
    /// Of a whole input.
    pub fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        byte
    }

    /// Two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// At most so many bytes.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// Secrets that follow from the whole input: every change of it is a change of them, so no
/// signature is found bit by bit.
pub fn secrets(input: &[u8]) -> [Secret; 3] {
    [0, 1, 2].map(|user| {
        let hash = sha256(&[&[user], input]);
        Secret(*hash.first_chunk().expect("a hash has 32 bytes"))
    })
}

/// Cuts `data`: 0 not at all, 1 into single bytes, anything else at places that follow from `seed`.
pub fn pieces(seed: u8, data: &[u8]) -> Vec<&[u8]> {
    match seed {
        0 => vec![data],
        1 => data.chunks(1).collect(),
        seed => {
            let (mut rest, mut out) = (data, Vec::new());
            let mut next = source(u64::from(seed));
            while !rest.is_empty() {
                let mut draw = [0; 2];
                next(&mut draw);
                // Mostly short ones, and some that are longer than any header.
                let most = [4, 20, 200, 3_000][usize::from(draw[0]) % 4];
                let (piece, behind) = rest.split_at((usize::from(draw[1]) % most).min(rest.len()));
                out.push(piece);
                rest = behind;
            }
            out
        }
    }
}

/// A source of bytes that repeats itself for the same seed.
pub fn source(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed;
    move |out: &mut [u8]| {
        for byte in out {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }
}

/// An event that tells where in its input bytes lie, made independent of the cuts: bytes of one
/// part are joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<T> {
    /// Something else than bytes.
    Event(T),
    /// Bytes, all that came without an event between them.
    Bytes(Vec<u8>),
}

/// Appends bytes to the last part, or begins one.
pub fn join<T>(parts: &mut Vec<Part<T>>, bytes: &[u8]) {
    match parts.last_mut() {
        Some(Part::Bytes(open)) => open.extend_from_slice(bytes),
        _ => parts.push(Part::Bytes(bytes.to_vec())),
    }
}
