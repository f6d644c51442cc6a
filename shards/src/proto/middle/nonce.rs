//! The NONCE: first frame both ways, in plain text, 32 bytes.
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 4 | operation |
//! | 4 | 4 | selector of the secret |
//! | 8 | 4 | crypto schema |
//! | 12 | 4 | unix seconds |
//! | 16 | 16 | nonce |
//!
//! Source: middle-proxy.md 4.

use super::{
    super::reader::{Reader, Short},
    ops,
};

/// What a NONCE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce {
    /// [`super::secret_file::ProxySecret::selector`].
    pub selector: u32,
    /// The sender's clock, unix seconds.
    pub unix_secs: u32,
    /// Random.
    pub nonce: [u8; 16],
}

impl Nonce {
    /// The payload.
    pub fn encode(&self) -> [u8; NONCE_BYTES] {
        let mut out = [0; NONCE_BYTES];
        let fields = [ops::NONCE, self.selector, SCHEMA_AES, self.unix_secs];
        let (words, nonce) = out.split_at_mut(16);
        for (word, field) in words.as_chunks_mut().0.iter_mut().zip(fields) {
            *word = field.to_le_bytes();
        }
        nonce.copy_from_slice(&self.nonce);
        out
    }

    /// Reads a payload; every schema but 1 is an error.
    ///
    /// # Errors
    /// [`NonceError`], all but `Selector` and `Skew`.
    pub fn decode(payload: &[u8]) -> Result<Self, NonceError> {
        let got = payload.len();
        let mut r = Reader::new(payload);
        let length = |_: Short| NonceError::Length { got };
        let (op, selector) = (r.u32_le().map_err(length)?, r.u32_le().map_err(length)?);
        let (schema, unix_secs) = (r.u32_le().map_err(length)?, r.u32_le().map_err(length)?);
        let nonce = *r.array().map_err(length)?;
        match (op, schema) {
            (ops::NONCE, SCHEMA_AES) if r.is_empty() => Ok(Self {
                selector,
                unix_secs,
                nonce,
            }),
            (ops::NONCE, SCHEMA_AES) => Err(NonceError::Length { got }),
            (ops::NONCE, got) => Err(NonceError::Schema { got }),
            (got, _) => Err(NonceError::Operation { got }),
        }
    }

    /// Reads the ME's answer to `self`.
    ///
    /// # Errors
    /// [`NonceError`].
    pub fn decode_answer(&self, payload: &[u8]) -> Result<Self, NonceError> {
        let answer = Self::decode(payload)?;
        if answer.selector != self.selector {
            return Err(NonceError::Selector);
        }
        let skew_secs = i64::from(answer.unix_secs) - i64::from(self.unix_secs);
        if skew_secs.abs() > SKEW_SECS_MAX {
            return Err(NonceError::Skew { skew_secs });
        }
        Ok(answer)
    }
}

/// Why a NONCE is not accepted. An ME that does not accept ours closes without a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NonceError {
    /// Not 32 bytes.
    #[error("NONCE of {got} bytes")]
    Length {
        /// Bytes of the payload.
        got: usize,
    },
    /// Another operation.
    #[error("operation {got:#010x} where the NONCE was due")]
    Operation {
        /// The operation.
        got: u32,
    },
    /// 0 no encryption, 2 several keys, 3 Diffie-Hellman: none is offered.
    #[error("crypto schema {got}, only 1 is offered")]
    Schema {
        /// The schema.
        got: u32,
    },
    /// The ME uses another secret.
    #[error("the ME answers with another key selector")]
    Selector,
    /// Clocks differ by more than [`SKEW_SECS_MAX`].
    #[error("the ME's clock differs by {skew_secs} s, limit {SKEW_SECS_MAX} s")]
    Skew {
        /// Theirs minus ours, seconds.
        skew_secs: i64,
    },
}

/// Bytes of the payload.
pub const NONCE_BYTES: usize = 32;
/// Most that two clocks may differ, seconds; MEs apply the same to ours.
pub const SKEW_SECS_MAX: i64 = 30;
const SCHEMA_AES: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Nonce = Nonce {
        selector: 7,
        unix_secs: 1_700_000_000,
        nonce: [3; 16],
    };

    #[test]
    fn refuses_what_was_not_offered() {
        let good = OURS.encode();
        let change = |at: usize, byte: u8| {
            let mut wire = good;
            wire[at] = byte;
            OURS.decode_answer(&wire)
        };
        assert_eq!(change(8, 1), Ok(OURS));
        for schema in [0, 2, 3] {
            let got = schema.into();
            assert_eq!(change(8, schema), Err(NonceError::Schema { got }));
        }
        assert_eq!(change(4, 8), Err(NonceError::Selector));
        let got = ops::NONCE - 1;
        assert_eq!(change(0, 0xa9), Err(NonceError::Operation { got }));
        let mut long = good.to_vec();
        long.extend([0; 4]);
        let length = |got| Err(NonceError::Length { got });
        assert_eq!(OURS.decode_answer(&long), length(36));
        assert_eq!(OURS.decode_answer(&good[..28]), length(28));
    }

    #[test]
    fn allows_half_a_minute_of_skew_both_ways() {
        for (skew_secs, fine) in [(-31, false), (-30, true), (30, true), (31, false)] {
            let unix_secs = OURS.unix_secs.wrapping_add_signed(skew_secs as i32);
            let answer = OURS.decode_answer(&Nonce { unix_secs, ..OURS }.encode());
            let error = NonceError::Skew { skew_secs };
            assert_eq!(answer.err(), (!fine).then_some(error));
        }
    }
}
