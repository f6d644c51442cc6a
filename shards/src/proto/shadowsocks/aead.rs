//! One direction's cipher: its subkey, and a nonce that counts. Sits on `ring`, which seals and
//! opens in place; BLAKE3 and MD5 come from their own crates.

use md5::{Digest, Md5};
use ring::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};

use super::{KEY_BYTES_MAX, Method, OpenError, ServerKey, TAG_BYTES};

/// A salt of its method's length.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Salt {
    bytes: [u8; KEY_BYTES_MAX],
    len: usize,
}

impl Salt {
    /// Copies a received one; longer than any method's is cut, which no caller has.
    pub(super) fn from_slice(salt: &[u8]) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        for (slot, byte) in bytes.iter_mut().zip(salt) {
            *slot = *byte;
        }
        Self {
            bytes,
            len: salt.len().min(KEY_BYTES_MAX),
        }
    }

    /// A fresh one.
    pub(super) fn draw(method: Method, random: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut bytes = [0; KEY_BYTES_MAX];
        let len = method.key_bytes();
        let (used, _) = bytes.split_at_mut(len);
        random(used);
        Self { bytes, len }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let (used, _) = self.bytes.split_at(self.len);
        used
    }
}

/// Seals or opens one direction of one connection.
pub(super) struct Aead {
    key: LessSafeKey,
    /// The nonce of the next operation.
    next: u64,
}

impl Aead {
    /// The cipher of the direction that begins with `salt`; `None` if the library refuses the key,
    /// whose length is fixed.
    pub(super) fn new(key: &ServerKey, salt: &Salt) -> Option<Self> {
        let algorithm = algorithm(key.method);
        let key = if key.method.is_2022() {
            let mut material = [0; 2 * KEY_BYTES_MAX];
            let n = key.method.key_bytes();
            let both = key.bytes().iter().chain(salt.bytes());
            for (slot, byte) in material.iter_mut().zip(both) {
                *slot = *byte;
            }
            let subkey = blake3::derive_key(CONTEXT_2022, material.get(..2 * n)?);
            UnboundKey::new(algorithm, subkey.get(..n)?).ok()?
        } else {
            let salt = hkdf::Salt::new(hkdf::HKDF_SHA1_FOR_LEGACY_USE_ONLY, salt.bytes());
            let extracted = salt.extract(key.bytes());
            UnboundKey::from(extracted.expand(&[INFO], algorithm).ok()?)
        };
        Some(Self {
            key: LessSafeKey::new(key),
            next: 0,
        })
    }

    /// Encrypts in place; the tag.
    pub(super) fn seal(&mut self, bytes: &mut [u8]) -> [u8; TAG_BYTES] {
        let nonce = self.nonce();
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), bytes);
        let Ok(tag) = sealed else {
            // Only beyond 64 GiB in one piece; what cannot be sealed must not leave.
            debug_assert!(false, "a chunk that cannot be sealed");
            bytes.fill(0);
            return [0; TAG_BYTES];
        };
        let mut out = [0; TAG_BYTES];
        for (slot, byte) in out.iter_mut().zip(tag.as_ref()) {
            *slot = *byte;
        }
        out
    }

    /// Decrypts what lies behind the first `skip` bytes, tag last, towards the front of `bytes`;
    /// returns the plaintext there.
    pub(super) fn open<'a>(
        &mut self,
        bytes: &'a mut [u8],
        skip: usize,
    ) -> Result<&'a mut [u8], OpenError> {
        let nonce = self.nonce();
        let opened = self.key.open_within(nonce, Aad::empty(), bytes, skip..);
        opened.map_err(|_| OpenError::Tag)
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        for (slot, byte) in nonce.iter_mut().zip(self.next.to_le_bytes()) {
            *slot = byte;
        }
        self.next += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

fn algorithm(method: Method) -> &'static aead::Algorithm {
    match method {
        Method::Aes128Gcm | Method::Blake3Aes128Gcm => &aead::AES_128_GCM,
        Method::Aes256Gcm | Method::Blake3Aes256Gcm => &aead::AES_256_GCM,
        Method::ChaCha20Poly1305 | Method::Blake3ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    }
}

/// `D1 | D2` of the first edition, of which a method takes as much as it needs.
pub(super) fn password_key(password: &[u8]) -> [u8; KEY_BYTES_MAX] {
    let first = Md5::new().chain_update(password).finalize();
    let second = Md5::new()
        .chain_update(first)
        .chain_update(password)
        .finalize();
    let mut key = [0; KEY_BYTES_MAX];
    for (slot, byte) in key.iter_mut().zip(first.iter().chain(second.iter())) {
        *slot = *byte;
    }
    key
}

const INFO: &[u8] = b"ss-subkey";
const CONTEXT_2022: &str = "shadowsocks 2022 session subkey";
