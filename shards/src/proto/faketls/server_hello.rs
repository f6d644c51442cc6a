//! The answer to a hello: ServerHello, ChangeCipherSpec and one record of random bytes, nothing
//! more. Clients hash exactly these three; a fourth breaks every official client.
//!
//! | Record | Bytes |
//! |---|---|
//! | A | `16 0303`, u16, `02`, u24, `0303`, random 32, session id, suite, `00`, extensions |
//! | B | `14 0303 0001 01` |
//! | C | `17 0303`, u16, random bytes |
//!
//! A's random is `HMAC(client random ‖ A ‖ B ‖ C)` with itself zeroed. It must go out as one
//! write: Android looks at the eleven bytes behind A before they have arrived.
//!
//! Source: protocol.md 6.7, 6.8.

use super::{
    super::{
        crypto::{HmacKey, ct_eq},
        reader::{Reader, Writer},
    },
    client_hello::{RANDOM_AT, RECORD_HEADER_BYTES, SESSION_ID_BYTES_MAX},
    hello_fields::{KEY_SHARE, SUPPORTED_VERSIONS, TLS13, X25519, X25519_MLKEM768},
};

/// Key exchange group of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `001d`, also for clients that offered none.
    X25519,
    /// `11ec`, X25519MLKEM768; only for clients that offered it.
    Hybrid,
}

impl Group {
    /// Bytes of our key share: an X25519 public key, behind 1088 bytes of ciphertext if hybrid.
    pub fn key_share_bytes(self) -> usize {
        match self {
            Self::X25519 => 32,
            Self::Hybrid => 1088 + 32,
        }
    }

    fn id(self) -> u16 {
        match self {
            Self::X25519 => X25519,
            Self::Hybrid => X25519_MLKEM768,
        }
    }
}

/// What an answer says; all else is fixed.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The client's session id, echoed; at most 32 bytes.
    pub session_id: &'a [u8],
    /// Cipher suite, from the client's offer.
    pub suite: u16,
    /// Key exchange group.
    pub group: Group,
    /// [`Group::key_share_bytes`] bytes, of which the last 32 are a real X25519 key.
    pub key_share: &'a [u8],
    /// Payload of record C, bytes; clamped to 1024..=10000.
    pub flight_bytes: usize,
    /// Order of the two extensions; OpenSSL has `supported_versions` first.
    pub key_share_first: bool,
}

/// Appends the three records to `out`. `flight_random` fills record C with fresh random bytes.
///
/// `client_random` is as received, with the time mixed in. Send the whole in one write, and
/// nothing behind it before the client's next record.
pub fn answer(
    out: &mut Vec<u8>,
    hmac: &HmacKey,
    client_random: &[u8; 32],
    a: &Answer<'_>,
    flight_random: &mut dyn FnMut(&mut [u8]),
) {
    debug_assert_eq!(a.key_share.len(), a.group.key_share_bytes());
    debug_assert!(a.session_id.len() <= SESSION_ID_BYTES_MAX);
    let start = out.len();
    let flight_bytes = a.flight_bytes.clamp(FLIGHT_BYTES_MIN, FLIGHT_BYTES_MAX);
    let mut w = Writer::new(out);
    w.bytes(&RECORD_START).block::<2>(|w| {
        w.u8(SERVER_HELLO).block::<3>(|w| {
            w.u16_be(0x0303).bytes(&[0; 32]);
            w.block::<1>(|w| {
                w.bytes(a.session_id);
            });
            w.u16_be(a.suite).u8(0).block::<2>(|w| extensions(w, a));
        });
    });
    w.bytes(&BETWEEN).block::<2>(|w| {
        w.fill(flight_bytes, flight_random);
    });
    let Some(flight) = out.get_mut(start..) else {
        return;
    };
    let mac = hmac.mac(&[client_random, flight]);
    let random = flight
        .get_mut(RANDOM_AT..)
        .and_then(<[u8]>::first_chunk_mut);
    if let Some(random) = random {
        *random = mac;
    }
}

fn extensions(w: &mut Writer<'_>, a: &Answer<'_>) {
    if a.key_share_first {
        key_share(w, a);
    }
    w.u16_be(SUPPORTED_VERSIONS).u16_be(2).u16_be(TLS13);
    if !a.key_share_first {
        key_share(w, a);
    }
}

fn key_share(w: &mut Writer<'_>, a: &Answer<'_>) {
    w.u16_be(KEY_SHARE).block::<2>(|w| {
        w.u16_be(a.group.id()).block::<2>(|w| {
            w.bytes(a.key_share);
        });
    });
}

/// Checks an answer as TDLib and Desktop do: for the bench and the tests.
///
/// `Ok(None)`: more bytes are needed. `Ok(Some(n))`: the first `n` bytes are the answer; what is
/// behind them the client would take for MTProto.
///
/// # Errors
/// [`AnswerError`]: what a client would hang up on.
///
/// Source: protocol.md 6.8.
pub fn check_answer(
    seen: &[u8],
    hmac: &HmacKey,
    client_random: &[u8; 32],
) -> Result<Option<usize>, AnswerError> {
    let Some(total) = answer_len(seen)? else {
        return Ok(None);
    };
    let mut r = Reader::new(seen);
    let parts = (
        r.take(RANDOM_AT),
        r.array::<32>(),
        r.take(total.saturating_sub(43)),
    );
    let (Ok(before), Ok(random), Ok(behind)) = parts else {
        return if seen.len() < total {
            Ok(None)
        } else {
            Err(AnswerError::Shape)
        };
    };
    let mac = hmac.mac(&[client_random, before, &[0; 32], behind]);
    if ct_eq(&mac, random) {
        Ok(Some(total))
    } else {
        Err(AnswerError::Mac)
    }
}

/// Length of the three records together, once their headers are there.
fn answer_len(seen: &[u8]) -> Result<Option<usize>, AnswerError> {
    let mut r = Reader::new(seen);
    let Some(hello) = record_len(&mut r, &RECORD_START)? else {
        return Ok(None);
    };
    if r.take(hello).is_err() {
        return Ok(None);
    }
    let Some(flight) = record_len(&mut r, &BETWEEN)? else {
        return Ok(None);
    };
    let between = BETWEEN.len() + 2;
    Ok(Some(RECORD_HEADER_BYTES + hello + between + flight))
}

/// Literal bytes, then a u16 length of at most 10 240.
fn record_len(r: &mut Reader<'_>, start: &[u8]) -> Result<Option<usize>, AnswerError> {
    if r.rest().iter().zip(start).any(|(got, want)| got != want) {
        return Err(AnswerError::Shape);
    }
    match (r.take(start.len()), r.u16_be()) {
        (Ok(_), Ok(got)) if usize::from(got) > CLIENT_RECORD_BYTES_MAX => {
            Err(AnswerError::Length { got })
        }
        (Ok(_), Ok(got)) => Ok(Some(usize::from(got))),
        _ => Ok(None),
    }
}

/// Why a client hangs up on an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not the literal bytes clients look for.
    #[error("not a server hello, change cipher spec and application data")]
    Shape,
    /// A record longer than iOS takes.
    #[error("record of {got} bytes, at most {CLIENT_RECORD_BYTES_MAX}")]
    Length {
        /// Record length, bytes.
        got: u16,
    },
    /// Signed with another secret or for another hello, or altered.
    #[error("server random does not fit")]
    Mac,
}

/// Fewest bytes of the emulated certificate flight.
pub const FLIGHT_BYTES_MIN: usize = 1024;
/// Most bytes of the emulated certificate flight; iOS takes no record over 10 240.
pub const FLIGHT_BYTES_MAX: usize = 10_000;

const CLIENT_RECORD_BYTES_MAX: usize = 10_240;
const SERVER_HELLO: u8 = 2;
const RECORD_START: [u8; 3] = [0x16, 0x03, 0x03];
/// Record B and the start of record C.
const BETWEEN: [u8; 9] = [0x14, 0x03, 0x03, 0x00, 0x01, 0x01, 0x17, 0x03, 0x03];

#[cfg(test)]
mod tests {
    use super::{super::super::secret::Secret, *};

    const CLIENT_RANDOM: [u8; 32] = [0x42; 32];

    fn key() -> HmacKey {
        HmacKey::new(&Secret([3; 16]))
    }

    fn build(group: Group, session_id: &[u8], flight_bytes: usize) -> Vec<u8> {
        let a = Answer {
            session_id,
            suite: 0x1302,
            group,
            key_share: &vec![8; group.key_share_bytes()],
            flight_bytes,
            key_share_first: false,
        };
        let mut out = vec![0xaa; 3];
        answer(&mut out, &key(), &CLIENT_RANDOM, &a, &mut |c| c.fill(0x77));
        out.split_off(3)
    }

    #[test]
    fn has_the_lengths_of_the_table() {
        for (group, session, extensions, handshake, record) in [
            (Group::X25519, 32, 46, 118, 122),
            (Group::X25519, 0, 46, 86, 90),
            (Group::Hybrid, 32, 1134, 1206, 1210),
        ] {
            let flight = build(group, &vec![1; session], 2000);
            assert_eq!(flight[3..5], u16::to_be_bytes(record), "{group:?}");
            assert_eq!(flight[5..9], (2 << 24 | handshake as u32).to_be_bytes());
            let at = 47 + session;
            assert_eq!(flight[at..at + 2], u16::to_be_bytes(extensions));
            let behind = 5 + usize::from(record);
            assert_eq!(flight[behind..behind + 9], BETWEEN);
            assert_eq!(flight.len(), behind + 11 + 2000);
        }
    }

    #[test]
    fn is_accepted_once_complete() {
        for group in [Group::X25519, Group::Hybrid] {
            let flight = build(group, &[1; 32], 1500);
            for cut in 0..flight.len() {
                let got = check_answer(&flight[..cut], &key(), &CLIENT_RANDOM);
                assert_eq!(got, Ok(None), "{cut} bytes");
            }
            let mut longer = flight.clone();
            longer.extend([0x17, 3, 3]);
            for seen in [&flight, &longer] {
                let got = check_answer(seen, &key(), &CLIENT_RANDOM);
                assert_eq!(got, Ok(Some(flight.len())));
            }
            let other = HmacKey::new(&Secret([4; 16]));
            assert_eq!(
                check_answer(&flight, &other, &CLIENT_RANDOM),
                Err(AnswerError::Mac)
            );
            assert_eq!(
                check_answer(&flight, &key(), &[0; 32]),
                Err(AnswerError::Mac)
            );
        }
    }

    #[test]
    fn clamps_the_flight() {
        let a = 127 + 11;
        assert_eq!(
            build(Group::X25519, &[1; 32], 0).len(),
            a + FLIGHT_BYTES_MIN
        );
        assert_eq!(
            build(Group::X25519, &[1; 32], usize::MAX).len(),
            a + FLIGHT_BYTES_MAX
        );
    }

    #[test]
    fn refuses_other_shapes() {
        let flight = build(Group::X25519, &[1; 32], 1500);
        for (at, byte, want) in [
            (0, 0x15, AnswerError::Shape),
            (3, 0x29, AnswerError::Length { got: 0x297a }),
            (127, 0x16, AnswerError::Shape),
            (135, 0x01, AnswerError::Shape),
            (136, 0x29, AnswerError::Length { got: 0x29dc }),
            (20, 0, AnswerError::Mac),
        ] {
            let mut bad = flight.clone();
            bad[at] = byte;
            assert_eq!(
                check_answer(&bad, &key(), &CLIENT_RANDOM),
                Err(want),
                "byte {at}"
            );
        }
    }
}
