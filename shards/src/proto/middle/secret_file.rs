//! The file `proxy-secret`: what authenticates us to a middle proxy.
//!
//! Fetching, caching and telling a new one from the old one (an epoch) belong to whoever owns the
//! file. It is not related to client secrets.

use std::sync::Arc;

/// The content of `proxy-secret`, every byte of it, with its selector. Never shown by `Debug`.
///
/// Cheap to copy; a handshake holds one for both selector and bytes.
///
/// Source: middle-proxy.md 2.1.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxySecret {
    selector: u32,
    bytes: Arc<[u8]>,
}

impl ProxySecret {
    /// Accepts a file. Nothing is trimmed: a newline at the end enters the keys.
    ///
    /// `bytes_max` is the longest one accepted: [`SECRET_BYTES_MAX_DEFAULT`] unless configured.
    ///
    /// # Errors
    /// [`SecretFileError`]: too short, too long, or a selector of zero.
    pub fn new(bytes: &[u8], bytes_max: usize) -> Result<Self, SecretFileError> {
        let got = bytes.len();
        let range = SECRET_BYTES_MIN..=bytes_max;
        let first = bytes.first_chunk().filter(|_| range.contains(&got));
        let selector = first.copied().map(u32::from_le_bytes);
        match selector {
            None => Err(SecretFileError::Length {
                got,
                max: bytes_max,
            }),
            Some(0) => Err(SecretFileError::NoKey),
            Some(selector) => Ok(Self {
                selector,
                bytes: bytes.into(),
            }),
        }
    }

    /// Names the secret on the wire; it is not secret.
    pub fn selector(&self) -> u32 {
        self.selector
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for ProxySecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProxySecret(..)")
    }
}

/// Why a file is no proxy secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretFileError {
    /// Under [`SECRET_BYTES_MIN`] or over the limit.
    #[error("proxy secret of {got} bytes, {SECRET_BYTES_MIN} to {max} accepted")]
    Length {
        /// Bytes of the file.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Its first four bytes are zero, which means "no key" on the wire.
    #[error("proxy secret begins with four zero bytes")]
    NoKey,
}

/// Shortest file accepted, bytes.
pub const SECRET_BYTES_MIN: usize = 32;
/// Longest file accepted without a setting, bytes.
pub const SECRET_BYTES_MAX_DEFAULT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_by_length_and_selector() {
        let new = |bytes: &[u8]| ProxySecret::new(bytes, SECRET_BYTES_MAX_DEFAULT);
        for got in [0, 3, 31, 257] {
            let error = SecretFileError::Length { got, max: 256 };
            assert_eq!(new(&vec![1; got]).err(), Some(error));
        }
        let secret = new(&[1, 2, 3, 4].repeat(64)).unwrap();
        assert_eq!(
            (secret.selector(), secret.bytes().len()),
            (0x0403_0201, 256)
        );
        assert_eq!(new(&[0; 32]).err(), Some(SecretFileError::NoKey));
        assert!(ProxySecret::new(&[1; 300], 4096).is_ok());
        assert_eq!(format!("{secret:?}"), "ProxySecret(..)");
    }

    #[test]
    fn keeps_a_newline_at_the_end() {
        let mut file = vec![7; 32];
        file.push(b'\n');
        assert_eq!(ProxySecret::new(&file, 256).unwrap().bytes(), file);
    }
}
