//! Shadowsocks over TCP, the client's side: both editions with their three ciphers each.
//!
//! | File | What is there |
//! |---|---|
//! | `mod.rs` | methods, keys, limits, errors |
//! | `url.rs` | `ss://` texts |
//! | `aead.rs` | subkeys, and the cipher of one direction with its counter |
//! | `seal.rs` | what goes to the server: salt, header, chunks |
//! | `open.rs` | what comes from it, opened where it lies |
//! | `far_side.rs` | the server's own side, for tests and fakes |
//!
//! No sockets and no relaying: `net` has the leg to a DC, the binary a blocking stream.
//!
//! Source: protocol.md 9.4.

mod aead;
pub mod far_side;
mod open;
mod seal;
mod url;

#[cfg(test)]
mod tests;

use self::aead::Salt;
pub use self::{
    open::{OpenError, Opener},
    seal::{Entropy, Sealer},
    url::{ServerUrl, UrlError},
};
use super::secret::decode_base64;

/// A cipher and an edition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// First edition.
    Aes128Gcm,
    /// First edition.
    Aes256Gcm,
    /// First edition.
    ChaCha20Poly1305,
    /// 2022 edition.
    Blake3Aes128Gcm,
    /// 2022 edition.
    Blake3Aes256Gcm,
    /// 2022 edition.
    Blake3ChaCha20Poly1305,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Aes128Gcm,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
        Self::Blake3Aes128Gcm,
        Self::Blake3Aes256Gcm,
        Self::Blake3ChaCha20Poly1305,
    ];

    /// Its name in URLs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "aes-128-gcm",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-ietf-poly1305",
            Self::Blake3Aes128Gcm => "2022-blake3-aes-128-gcm",
            Self::Blake3Aes256Gcm => "2022-blake3-aes-256-gcm",
            Self::Blake3ChaCha20Poly1305 => "2022-blake3-chacha20-poly1305",
        }
    }

    /// The method of this name, in any case.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|method| method.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a key, and of a salt.
    #[must_use]
    pub fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Blake3Aes128Gcm => 16,
            Self::Aes256Gcm
            | Self::ChaCha20Poly1305
            | Self::Blake3Aes256Gcm
            | Self::Blake3ChaCha20Poly1305 => 32,
        }
    }

    /// Of the 2022 edition.
    #[must_use]
    pub fn is_2022(self) -> bool {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm | Self::ChaCha20Poly1305 => false,
            Self::Blake3Aes128Gcm | Self::Blake3Aes256Gcm | Self::Blake3ChaCha20Poly1305 => true,
        }
    }

    /// Payload bytes of one chunk at most.
    #[must_use]
    pub fn chunk_bytes_max(self) -> usize {
        if self.is_2022() { 0xffff } else { 0x3fff }
    }
}

/// A method and the key of a server. Shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerKey {
    method: Method,
    /// The first [`Method::key_bytes`] count.
    bytes: [u8; KEY_BYTES_MAX],
}

impl ServerKey {
    /// The key that a password makes: derived from any text in the first edition, base64 of the
    /// key itself in the other.
    ///
    /// # Errors
    /// [`UrlError::Password`] for an empty password or no such key, [`UrlError::Keys`] for several.
    pub fn new(method: Method, password: &str) -> Result<Self, UrlError> {
        let mut key = Self {
            method,
            bytes: [0; KEY_BYTES_MAX],
        };
        if password.is_empty() {
            return Err(UrlError::Password);
        }
        if !method.is_2022() {
            key.bytes = aead::password_key(password.as_bytes());
            return Ok(key);
        }
        if password.contains(':') {
            return Err(UrlError::Keys);
        }
        let bytes = decode_base64(password).ok_or(UrlError::Password)?;
        let fits = bytes.len() == method.key_bytes();
        match key.bytes.get_mut(..bytes.len()) {
            Some(slot) if fits => slot.copy_from_slice(&bytes),
            _ => return Err(UrlError::Password),
        }
        Ok(key)
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The key itself.
    fn bytes(&self) -> &[u8] {
        let (key, _) = self.bytes.split_at(self.method.key_bytes());
        key
    }
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerKey({}, ..)", self.method.name())
    }
}

/// A connection to a server, both directions.
pub struct Leg {
    /// What goes there.
    pub up: Sealer,
    /// What comes from there.
    pub down: Opener,
}

impl Leg {
    /// A connection whose first bytes, `payload` among them, are appended to `out`.
    pub fn start(
        key: &ServerKey,
        target: super::socks::Target<'_>,
        payload: &[u8],
        entropy: Entropy<'_>,
        out: &mut Vec<u8>,
    ) -> Self {
        let (up, salt) = Sealer::start(key, target, payload, entropy, out);
        let down = Opener::of_response(key, salt);
        Self { up, down }
    }
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leg(..)")
    }
}

const KEY_BYTES_MAX: usize = 32;
/// Bytes of the tag behind everything that is sealed.
pub const TAG_BYTES: usize = 16;
/// Bytes of a chunk's sealed length.
pub const LENGTH_BYTES: usize = 2 + TAG_BYTES;
/// How far the clocks of both ends may differ in the 2022 edition, seconds.
const SKEW_SECS_MAX: u64 = 30;
/// First byte of a 2022 request's header.
const TYPE_REQUEST: u8 = 0;
/// First byte of a 2022 response's header.
const TYPE_RESPONSE: u8 = 1;
