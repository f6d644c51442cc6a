//! What goes to the other end: salt, header, then chunks of a sealed length and sealed bytes.
//!
//! | Edition | First bytes of a request |
//! |---|---|
//! | first | salt, chunk of target and payload |
//! | 2022 | salt, sealed type, time and n; sealed target, padding and payload (n bytes) |

use super::{LENGTH_BYTES, Salt, ServerKey, TAG_BYTES, TYPE_REQUEST, TYPE_RESPONSE, aead::Aead};
use crate::proto::{
    reader::Writer,
    socks::{Target, write_target},
};

/// What a first flight needs besides its content.
pub struct Entropy<'a> {
    /// Our clock, seconds since 1970.
    pub unix_secs: u64,
    /// Fills with random bytes.
    pub random: &'a mut dyn FnMut(&mut [u8]),
}

/// One direction of one connection, ours outwards. About 600 bytes.
pub struct Sealer {
    aead: Option<Aead>,
    chunk_bytes_max: usize,
}

impl Sealer {
    /// A connection to `target` through the server: appends salt, header and `payload` to `out`.
    /// A 2022 request without payload gets padding, as servers want it.
    pub(super) fn start(
        key: &ServerKey,
        target: Target<'_>,
        payload: &[u8],
        entropy: Entropy<'_>,
        out: &mut Vec<u8>,
    ) -> (Self, Salt) {
        let salt = Salt::draw(key.method, entropy.random);
        let mut sealer = Self::new(key, &salt, out);
        let room = sealer.chunk_bytes_max - TARGET_BYTES_MAX;
        let (first, rest) = payload.split_at(payload.len().min(room));
        let padding = if first.is_empty() {
            padding(entropy.random)
        } else {
            0
        };
        let mut prefix = [TYPE_REQUEST; 9];
        let prefix = if key.method.is_2022() {
            stamp(&mut prefix, entropy.unix_secs);
            &prefix[..]
        } else {
            &[]
        };
        sealer.chunk(out, prefix, |out| {
            let mut w = Writer::new(out);
            write_target(&mut w, target);
            if key.method.is_2022() {
                w.u16_be(padding);
                if padding > 0 {
                    w.fill(usize::from(padding), entropy.random);
                }
            }
            w.bytes(first);
        });
        sealer.seal(rest, out);
        (sealer, salt)
    }

    /// The server's direction: appends salt, header and the first chunk of `payload`. For tests
    /// and fakes.
    pub(super) fn respond(
        key: &ServerKey,
        request_salt: &Salt,
        payload: &[u8],
        entropy: Entropy<'_>,
        out: &mut Vec<u8>,
    ) -> Self {
        let salt = Salt::draw(key.method, entropy.random);
        let mut sealer = Self::new(key, &salt, out);
        if !key.method.is_2022() {
            sealer.seal(payload, out);
            return sealer;
        }
        let (first, rest) = payload.split_at(payload.len().min(sealer.chunk_bytes_max));
        let mut prefix = [TYPE_RESPONSE; 9];
        stamp(&mut prefix, entropy.unix_secs);
        let mut prefix = prefix.to_vec();
        prefix.extend_from_slice(request_salt.bytes());
        sealer.chunk(out, &prefix, |out| out.extend_from_slice(first));
        sealer.seal(rest, out);
        sealer
    }

    fn new(key: &ServerKey, salt: &Salt, out: &mut Vec<u8>) -> Self {
        let aead = Aead::new(key, salt);
        debug_assert!(aead.is_some(), "a key of fixed length");
        out.extend_from_slice(salt.bytes());
        Self {
            aead,
            chunk_bytes_max: key.method.chunk_bytes_max(),
        }
    }

    /// Appends `payload` to `out`, in as many chunks as it takes.
    pub fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        let at = out.len();
        out.resize(at + self.sealed_bytes(payload.len()), 0);
        let (_, place) = out.split_at_mut(at);
        self.seal_into(payload, place);
    }

    /// Writes `payload` to `place`, in as many chunks as it takes. `place` is as long as
    /// [`Self::sealed_bytes`] says.
    pub fn seal_into(&mut self, payload: &[u8], place: &mut [u8]) {
        debug_assert_eq!(place.len(), self.sealed_bytes(payload.len()));
        let pieces = payload.chunks(self.chunk_bytes_max);
        let places = place.chunks_mut(self.chunk_bytes_max + CHUNK_EXTRA_BYTES);
        for (piece, place) in pieces.zip(places) {
            let (head, rest) = place.split_at_mut(LENGTH_BYTES.min(place.len()));
            let (body, tag) = rest.split_at_mut(piece.len().min(rest.len()));
            body.copy_from_slice(piece);
            self.chunk_at(head, body, tag);
        }
    }

    /// Encrypts `payload` where it lies, in as many chunks as it takes: each but the last has
    /// [`Self::chunk_bytes_max`]. What goes around them is written to `frames`, which is as long as
    /// [`Self::frame_bytes`] says: [`LENGTH_BYTES`] that go before the first one, [`TAG_BYTES`]
    /// that go behind it, then the next one's.
    pub fn seal_in_place(&mut self, payload: &mut [u8], frames: &mut [u8]) {
        if frames.len() != self.frame_bytes(payload.len()) {
            debug_assert!(false, "{} bytes for frames", frames.len());
            // What cannot be sealed must not leave.
            return payload.fill(0);
        }
        let pieces = payload.chunks_mut(self.chunk_bytes_max);
        for (piece, frame) in pieces.zip(frames.chunks_mut(CHUNK_EXTRA_BYTES)) {
            let (head, tag) = frame.split_at_mut(LENGTH_BYTES.min(frame.len()));
            self.chunk_at(head, piece, tag);
        }
    }

    /// Bytes of payload in a chunk, at most.
    #[must_use]
    pub fn chunk_bytes_max(&self) -> usize {
        self.chunk_bytes_max
    }

    fn chunk_at(&mut self, head: &mut [u8], body: &mut [u8], tag: &mut [u8]) {
        let Some(aead) = &mut self.aead else {
            // What cannot be sealed must not leave.
            return body.fill(0);
        };
        let mut length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
        let length_tag = aead.seal(&mut length);
        for (slot, byte) in head.iter_mut().zip(length.iter().chain(&length_tag)) {
            *slot = *byte;
        }
        for (slot, byte) in tag.iter_mut().zip(aead.seal(body)) {
            *slot = byte;
        }
    }

    /// Bytes that [`Self::seal`] makes of so many.
    #[must_use]
    pub fn sealed_bytes(&self, payload: usize) -> usize {
        payload + self.frame_bytes(payload)
    }

    /// How many of them are no payload.
    #[must_use]
    pub fn frame_bytes(&self, payload: usize) -> usize {
        payload.div_ceil(self.chunk_bytes_max) * CHUNK_EXTRA_BYTES
    }

    /// `prefix` and a length, sealed, then what `body` appends, sealed.
    fn chunk(&mut self, out: &mut Vec<u8>, prefix: &[u8], body: impl FnOnce(&mut Vec<u8>)) {
        let head_at = out.len();
        out.extend_from_slice(prefix);
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        let body_at = out.len();
        body(out);
        let len = out.len() - body_at;
        debug_assert!(len <= usize::from(u16::MAX), "a chunk of {len} bytes");
        let Some(aead) = &mut self.aead else {
            // What cannot be sealed must not leave.
            return out.truncate(head_at);
        };
        let (_, chunk) = out.split_at_mut(head_at);
        let (head, body) = chunk.split_at_mut(body_at - head_at);
        let (head, head_tag) = head.split_at_mut(prefix.len() + 2);
        let (_, length) = head.split_at_mut(prefix.len());
        length.copy_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        head_tag.copy_from_slice(&aead.seal(head));
        let tag = aead.seal(body);
        out.extend_from_slice(&tag);
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(..)")
    }
}

/// Puts the time behind the type.
fn stamp(prefix: &mut [u8; 9], unix_secs: u64) {
    let (_, time) = prefix.split_at_mut(1);
    time.copy_from_slice(&unix_secs.to_be_bytes());
}

/// 1 to 900 bytes.
fn padding(random: &mut dyn FnMut(&mut [u8])) -> u16 {
    let mut drawn = [0; 2];
    random(&mut drawn);
    1 + u16::from_be_bytes(drawn) % PADDING_BYTES_MAX
}

/// What a chunk adds to its payload.
const CHUNK_EXTRA_BYTES: usize = LENGTH_BYTES + TAG_BYTES;
/// Type, length, 255 bytes of name, port; and a length of padding.
const TARGET_BYTES_MAX: usize = 1 + 1 + 255 + 2 + 2;
const PADDING_BYTES_MAX: u16 = 900;
