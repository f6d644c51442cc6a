//! Bounds-checked reading of integers and byte runs from a slice, and the matching writer.
//!
//! Every decoder of this crate reads through [`Reader`]; nothing else looks at an offset.

/// Fewer bytes were left than a field needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{have} bytes left where {need} were needed")]
pub struct Short {
    /// Bytes the field needs.
    pub need: usize,
    /// Bytes that were left.
    pub have: usize,
}

/// A slice read from front to back; what was read is gone.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Number of bytes not read yet.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Short`] when fewer are left; nothing is consumed then.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(self.short(n))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Short`] when fewer are left; nothing is consumed then.
    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Short> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.short(N))?;
        self.rest = rest;
        Ok(taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`Short`] at the end.
    pub fn u8(&mut self) -> Result<u8, Short> {
        self.array::<1>().map(|&[a]| a)
    }

    /// Two bytes, most significant first.
    ///
    /// # Errors
    /// [`Short`] when fewer are left.
    pub fn u16_be(&mut self) -> Result<u16, Short> {
        self.array().map(|&b| u16::from_be_bytes(b))
    }

    /// Two bytes, least significant first.
    ///
    /// # Errors
    /// [`Short`] when fewer are left.
    pub fn u16_le(&mut self) -> Result<u16, Short> {
        self.array().map(|&b| u16::from_le_bytes(b))
    }

    /// Three bytes, most significant first.
    ///
    /// # Errors
    /// [`Short`] when fewer are left.
    pub fn u24_be(&mut self) -> Result<u32, Short> {
        self.array()
            .map(|&[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    /// Three bytes, least significant first.
    ///
    /// # Errors
    /// [`Short`] when fewer are left.
    pub fn u24_le(&mut self) -> Result<u32, Short> {
        self.array()
            .map(|&[a, b, c]| u32::from_le_bytes([a, b, c, 0]))
    }

    /// Four bytes, most significant first.
    ///
    /// # Errors
    /// [`Short`] when fewer are left.
    pub fn u32_be(&mut self) -> Result<u32, Short> {
        self.array().map(|&b| u32::from_be_bytes(b))
    }

    /// Four bytes, least significant first.
    ///
    /// # Errors
    /// [`Short`] when fewer are left.
    pub fn u32_le(&mut self) -> Result<u32, Short> {
        self.array().map(|&b| u32::from_le_bytes(b))
    }

    fn short(&self, need: usize) -> Short {
        Short {
            need,
            have: self.rest.len(),
        }
    }
}

/// Appends integers and nested length-prefixed blocks to a caller's buffer.
///
/// Lengths are checked by the callers, who know their limits; a block that outgrows its prefix is
/// a bug of ours, never of a peer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Bytes in the buffer, those of before included.
    pub fn written(&self) -> usize {
        self.out.len()
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.out.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.out.push(value);
        self
    }

    /// Two bytes, most significant first.
    pub fn u16_be(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// `n` bytes made by `fill`, which gets them zeroed.
    pub fn fill(&mut self, n: usize, fill: &mut dyn FnMut(&mut [u8])) -> &mut Self {
        let at = self.out.len();
        self.out.resize(at + n, 0);
        if let Some(fresh) = self.out.get_mut(at..) {
            fill(fresh);
        }
        self
    }

    /// What `body` appends, behind its length in `N` bytes, most significant first.
    pub fn block<const N: usize>(&mut self, body: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        let at = self.out.len();
        self.bytes(&[0; N]);
        body(self);
        let length = (self.out.len() - at - N).to_be_bytes();
        let prefix = self
            .out
            .get_mut(at..)
            .and_then(<[u8]>::first_chunk_mut::<N>);
        if let (Some(prefix), Some((over, value))) = (prefix, length.split_last_chunk::<N>()) {
            debug_assert!(over.iter().all(|&b| b == 0), "block outgrew its prefix");
            *prefix = *value;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_byte_orders() {
        let mut r = Reader::new(&[
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
        ]);
        assert_eq!(r.u8(), Ok(1));
        assert_eq!(r.u16_be(), Ok(0x0203));
        assert_eq!(r.u16_le(), Ok(0x0504));
        assert_eq!(r.u24_be(), Ok(0x06_0708));
        assert_eq!(r.u24_le(), Ok(0x0b_0a09));
        assert_eq!(r.u32_be(), Ok(0x0c0d_0e0f));
        assert_eq!(r.u32_le(), Ok(0x1312_1110));
        assert!(r.is_empty());
    }

    #[test]
    fn keeps_its_place_when_short() {
        let mut r = Reader::new(&[1, 2]);
        assert_eq!(r.u24_be(), Err(Short { need: 3, have: 2 }));
        assert_eq!(r.take(3), Err(Short { need: 3, have: 2 }));
        assert_eq!(r.take(2), Ok(&[1, 2][..]));
        assert_eq!(r.u8(), Err(Short { need: 1, have: 0 }));
    }

    #[test]
    fn nests_blocks() {
        let mut out = vec![9];
        Writer::new(&mut out).block::<3>(|w| {
            w.u8(1).block::<1>(|w| {
                w.u16_be(0x0203);
            });
        });
        assert_eq!(out, [9, 0, 0, 4, 1, 2, 2, 3]);
    }
}
