//! The ClientHello as the proxy reads it: its length, who signed it, when.
//!
//! | Offset | Bytes | Field |
//! |---|---|---|
//! | 0 | 3 | `16`, `0301` or `0303` |
//! | 3 | 2 | record length `L`, BE; the whole is `5 + L` |
//! | 5 | 1 | `01` |
//! | 6 | 3 | `L - 4`, BE |
//! | 9 | 2 | legacy version |
//! | 11 | 32 | random: HMAC of all the rest, its last four bytes XORed with the time |
//! | 43 | 1 | session id length |
//!
//! Authentication comes before parsing: a hello with a valid MAC and odd extensions must be
//! accepted, so the other fields are read by [`parse_fields`], which cannot fail.

use super::super::{
    crypto::{HmacKey, ct_eq},
    reader::Reader,
};

pub use super::{
    hello_builder::{HelloKind, build_hello},
    hello_fields::{Alpn, AlpnOffer, Compression, HelloFields, SUITES, parse_fields},
};

/// Why bytes are no ClientHello of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The first three bytes are not those of a TLS handshake record.
    #[error("no TLS handshake record")]
    NotTls,
    /// Record length out of range.
    #[error(
        "client hello record of {got} bytes, {RECORD_BYTES_MIN} to {RECORD_BYTES_MAX} accepted"
    )]
    Length {
        /// Record length, bytes.
        got: usize,
    },
    /// A handshake message of another type.
    #[error("handshake type {got}, not a client hello")]
    Type {
        /// Handshake type.
        got: u8,
    },
    /// The message does not fill the record, or is spread over several.
    #[error("handshake of {got} bytes in a record with room for {room}")]
    Handshake {
        /// Handshake length, bytes.
        got: usize,
        /// What the record has room for, bytes.
        room: usize,
    },
    /// Session id longer than TLS allows.
    #[error("session id of {got} bytes, at most {SESSION_ID_BYTES_MAX}")]
    SessionId {
        /// Session id length, bytes.
        got: usize,
    },
    /// Bytes behind the record before we answered; no client sends any.
    #[error("{extra} bytes behind the client hello")]
    Trailing {
        /// Surplus bytes.
        extra: usize,
    },
    /// Valid MAC, but the clocks are too far apart.
    #[error("clock differs by {skew_secs} s, limit {limit_secs} s")]
    Skew {
        /// Our clock minus the client's, seconds.
        skew_secs: i64,
        /// Largest accepted difference, seconds.
        limit_secs: i64,
    },
}

/// Judges the beginning of a hello and tells its whole length, record header included.
///
/// `Ok(None)`: more bytes are needed to tell. `Ok(Some(n))`: call again with the bytes until `n`
/// are there; then the hello is complete and well-formed. Wrong bytes are refused as soon as they
/// are seen.
///
/// # Errors
/// [`HelloError`], all but `Skew`.
///
/// Source: protocol.md 6.1.
pub fn hello_len(seen: &[u8]) -> Result<Option<usize>, HelloError> {
    for (&byte, allowed) in seen.iter().zip(RECORD_START) {
        if !allowed.contains(&byte) {
            return Err(HelloError::NotTls);
        }
    }
    let mut r = Reader::new(seen.get(RECORD_START.len()..).unwrap_or_default());
    let Ok(length) = r.u16_be() else {
        return Ok(None);
    };
    let length = usize::from(length);
    if !(RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&length) {
        return Err(HelloError::Length { got: length });
    }
    match r.u8() {
        Ok(CLIENT_HELLO) => {}
        Ok(got) => return Err(HelloError::Type { got }),
        Err(_) => return Ok(None),
    }
    let Ok(handshake) = r.u24_be() else {
        return Ok(None);
    };
    let (handshake, room) = (handshake as usize, length - 4);
    if handshake != room {
        let got = handshake;
        return Err(HelloError::Handshake { got, room });
    }
    let session_id = seen.get(SESSION_ID_AT).copied().map_or(0, usize::from);
    if session_id > SESSION_ID_BYTES_MAX {
        return Err(HelloError::SessionId { got: session_id });
    }
    let total = RECORD_HEADER_BYTES + length;
    match seen.len().checked_sub(total) {
        Some(extra) if extra > 0 => Err(HelloError::Trailing { extra }),
        _ => Ok(Some(total)),
    }
}

/// Zeroes the random of a complete hello in place and returns it. Once, before the candidates.
///
/// A record too short to hold one is left as it is, and zeroes are returned.
pub fn zero_random(record: &mut [u8]) -> [u8; 32] {
    record
        .get_mut(RANDOM_AT..)
        .and_then(<[u8]>::first_chunk_mut)
        .map_or([0; 32], std::mem::take)
}

/// Tries one candidate: the client's Unix time if `key` signed the hello.
///
/// `zeroed` is the whole record, header included, behind [`zero_random`]; `random` what that
/// returned. Compares in constant time.
///
/// Source: protocol.md 6.3.
pub fn verify(zeroed: &[u8], random: &[u8; 32], key: &HmacKey) -> Option<u32> {
    let mut x = key.mac(&[zeroed]);
    for (byte, sent) in x.iter_mut().zip(random) {
        *byte ^= sent;
    }
    let (proof, time) = x.split_last_chunk::<4>()?;
    ct_eq(proof, &[0; 28]).then(|| u32::from_le_bytes(*time))
}

/// Compares the client's clock with ours; `max` in seconds, `None` accepts any.
///
/// # Errors
/// [`HelloError::Skew`] when they differ by more.
///
/// Source: protocol.md 6.4.
pub fn check_skew(timestamp: u32, now_unix: u64, max: Option<u32>) -> Result<(), HelloError> {
    let Some(max) = max else {
        return Ok(());
    };
    let now = i64::try_from(now_unix).unwrap_or(i64::MAX);
    let (skew_secs, limit_secs) = (now - i64::from(timestamp), i64::from(max));
    if skew_secs.abs() > limit_secs {
        return Err(HelloError::Skew {
            skew_secs,
            limit_secs,
        });
    }
    Ok(())
}

/// The key of the replay store: the first 16 bytes of the random. The last four of it can be
/// restamped by whoever recorded a hello.
///
/// Source: protocol.md 6.5.
pub fn replay_key(random: &[u8; 32]) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&random[..16]);
    key
}

/// Offset of the random in a hello.
pub const RANDOM_AT: usize = 11;
/// Shortest record that can be a hello, bytes behind the record header.
pub const RECORD_BYTES_MIN: usize = 100;
/// Longest record, bytes behind the record header.
pub const RECORD_BYTES_MAX: usize = 16384;
/// Longest session id, bytes.
pub const SESSION_ID_BYTES_MAX: usize = 32;

pub(super) const SESSION_ID_AT: usize = 43;
pub(super) const RECORD_HEADER_BYTES: usize = 5;
pub(super) const CLIENT_HELLO: u8 = 1;
/// Handshake record of version 3.1 or 3.3. Never compared with the length behind it: that is how
/// others lose post-quantum clients.
const RECORD_START: [&[u8]; 3] = [&[0x16], &[0x03], &[0x01, 0x03]];

#[cfg(test)]
mod tests {
    use super::{super::super::secret::Secret, *};

    fn hello(kind: HelloKind) -> Vec<u8> {
        let mut next = 1_u8;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                next = next.wrapping_mul(13).wrapping_add(7);
                *byte = next;
            }
        };
        build_hello(
            &mut random,
            &Secret([5; 16]),
            "www.example.com",
            1_700_000_000,
            kind,
        )
    }

    #[test]
    fn tells_the_length_from_every_prefix() {
        for kind in [HelloKind::Classic517, HelloKind::PostQuantum] {
            let hello = hello(kind);
            for cut in 0..=hello.len() {
                let want = (cut >= 9).then_some(hello.len());
                assert_eq!(hello_len(&hello[..cut]), Ok(want), "{cut} bytes");
            }
        }
    }

    #[test]
    fn refuses_at_the_first_wrong_byte() {
        let good = hello(HelloKind::Classic517);
        let room = 508;
        for (at, byte, want) in [
            (0, 0x17, HelloError::NotTls),
            (1, 0x02, HelloError::NotTls),
            (2, 0x02, HelloError::NotTls),
            (5, 0x02, HelloError::Type { got: 2 }),
            (
                6,
                0x01,
                HelloError::Handshake {
                    got: 65536 + room,
                    room,
                },
            ),
            (
                8,
                0xfd,
                HelloError::Handshake {
                    got: room + 1,
                    room,
                },
            ),
            (43, 33, HelloError::SessionId { got: 33 }),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            // The handshake length is one number of three bytes.
            let seen = if at == 6 { 9 } else { at + 1 };
            assert_eq!(hello_len(&bad[..seen]), Err(want), "byte {at}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(hello_len(&long), Err(HelloError::Trailing { extra: 1 }));
    }

    #[test]
    fn bounds_the_record_length() {
        let start = |length: u16| {
            let [a, b] = length.to_be_bytes();
            [0x16, 3, 1, a, b]
        };
        for length in [100, 512, 16384] {
            assert_eq!(hello_len(&start(length)), Ok(None));
        }
        for length in [0, 99, 16385, 65535] {
            let got = usize::from(length);
            assert_eq!(hello_len(&start(length)), Err(HelloError::Length { got }));
        }
    }

    #[test]
    fn verifies_only_the_right_key_and_untouched_bytes() {
        for kind in [HelloKind::Classic517, HelloKind::PostQuantum] {
            let mut record = hello(kind);
            let random = zero_random(&mut record);
            let key = HmacKey::new(&Secret([5; 16]));
            assert_eq!(verify(&record, &random, &key), Some(1_700_000_000));
            assert_eq!(
                verify(&record, &random, &HmacKey::new(&Secret([6; 16]))),
                None
            );
            for at in (0..record.len()).filter(|at| !(11..43).contains(at)) {
                record[at] ^= 0x10;
                assert_eq!(verify(&record, &random, &key), None, "byte {at}");
                record[at] ^= 0x10;
            }
            for at in 0..28 {
                let mut random = random;
                random[at] ^= 1;
                assert_eq!(verify(&record, &random, &key), None, "random {at}");
            }
        }
    }

    #[test]
    fn accepts_skew_up_to_the_limit() {
        let now = 1_700_000_000_u64;
        for (timestamp, max, ok) in [
            (1_700_000_120, Some(120), true),
            (1_699_999_880, Some(120), true),
            (1_700_000_121, Some(120), false),
            (1_699_999_879, Some(120), false),
            (0, None, true),
            (u32::MAX, None, true),
        ] {
            assert_eq!(check_skew(timestamp, now, max).is_ok(), ok, "{timestamp}");
        }
        assert!(check_skew(0, u64::MAX, Some(120)).is_err());
    }

    #[test]
    fn leaves_a_short_record_alone() {
        let mut record = [7; 42];
        assert_eq!(zero_random(&mut record), [0; 32]);
        assert_eq!(record, [7; 42]);
    }
}
