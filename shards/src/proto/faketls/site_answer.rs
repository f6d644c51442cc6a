//! A web server's answer to a hello of ours, as far as it can be read without its keys: what the
//! ServerHello picked, and how long the records of the encrypted flight are.
//!
//! ```text
//!   TLS 1.3   16 ServerHello, 14, 17 encrypted …          the end shows in that nothing follows
//!   TLS 1.2   16 ServerHello, Certificate, …, ServerHelloDone
//! ```
//!
//! Called by the binary's `src/front` each time bytes came, with all there are.
//!
//! Source: RFC 8446 4.1.3, 4.4 and 5; RFC 5246 7.4.

use super::{
    super::reader::{Reader, Short},
    client_hello::SUITES,
    hello_fields::{ALPN, KEY_SHARE, SUPPORTED_VERSIONS, TLS13},
    record::READ_MAX,
};

/// What was read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SiteAnswer {
    /// Once it is complete.
    pub hello: Option<SiteServerHello>,
    /// Payload bytes of each complete encrypted record.
    pub encrypted: Vec<u16>,
    /// The bytes end with a complete record.
    pub is_between_records: bool,
    /// TLS 1.2: the flight, once it is complete.
    pub tls12: Option<Tls12Flight>,
}

/// What a ServerHello says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteServerHello {
    /// TLS 1.3 was picked.
    pub tls13: bool,
    /// Another hello is wanted, with a share for `group`.
    pub retry: bool,
    /// Cipher suite.
    pub suite: u16,
    /// Key exchange group; TLS 1.3 only.
    pub group: Option<u16>,
    /// `key_share` comes before `supported_versions`.
    pub key_share_first: bool,
    /// Extensions that TLS 1.3 moves to the encrypted flight, bytes.
    moved_bytes: usize,
}

/// A flight of TLS 1.2, which is not encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tls12Flight {
    /// Certificates sent.
    pub certificates: usize,
    /// Their lengths together, each with the three bytes before it.
    pub certificate_bytes: usize,
    /// The signature under the key exchange.
    pub signature_bytes: usize,
    /// The stapled answer about the certificate, as an extension of TLS 1.3.
    pub status_bytes: usize,
}

/// Why an answer is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SiteAnswerError {
    /// The site refused the hello.
    #[error("the site answered with alert {code}")]
    Alert {
        /// Description, as in RFC 8446 6.
        code: u8,
    },
    /// No TLS record, or one that has no place here.
    #[error("record type {got:#04x} in a server's answer")]
    Type {
        /// Record type.
        got: u8,
    },
    /// A record or message longer than TLS allows, or all together longer than we read.
    #[error("an answer with {got} bytes where {max} are allowed")]
    Length {
        /// Bytes.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// The first message is no ServerHello, or not a well-formed one.
    #[error("no ServerHello at the beginning")]
    NoServerHello,
}

impl SiteAnswer {
    /// Payload bytes of all encrypted records together.
    pub fn encrypted_bytes(&self) -> usize {
        self.encrypted.iter().copied().map(usize::from).sum()
    }

    /// Everything of a TLS 1.2 flight came, or of a TLS 1.3 flight what may be everything: the
    /// site says nothing that ends it.
    pub fn may_be_complete(&self) -> bool {
        match self.hello {
            None => false,
            Some(hello) if hello.retry => true,
            Some(hello) if hello.tls13 => self.is_between_records && !self.encrypted.is_empty(),
            Some(_) => self.tls12.is_some(),
        }
    }

    /// The flight without the hash in `Finished`: payload bytes of its encrypted records. Of TLS
    /// 1.2 what it would be in TLS 1.3, within a few bytes. `None` before it is complete.
    pub fn flight_bytes(&self) -> Option<usize> {
        let hello = self.hello.filter(|hello| !hello.retry)?;
        if hello.tls13 {
            let hash = finished_bytes(hello.suite)?;
            return self.encrypted_bytes().checked_sub(hash);
        }
        let flight = self.tls12?;
        // Four messages, each in a record of its own with its type and its tag.
        let records = 4 * (1 + 16);
        let extensions = MESSAGE_HEADER + 2 + hello.moved_bytes;
        let each = 2 * flight.certificates + flight.certificate_bytes + flight.status_bytes;
        let certificate = MESSAGE_HEADER + 1 + 3 + each;
        let verify = MESSAGE_HEADER + 4 + flight.signature_bytes;
        Some(records + extensions + certificate + verify + MESSAGE_HEADER)
    }
}

/// Bytes of the hash in `Finished`; `None` for a suite that is not of TLS 1.3.
pub fn finished_bytes(suite: u16) -> Option<usize> {
    match suite {
        0x1302 => Some(48),
        suite if SUITES.contains(&suite) => Some(32),
        _ => None,
    }
}

/// Reads all bytes that came so far.
///
/// # Errors
/// [`SiteAnswerError`]: whatever comes, it will be of no use.
pub fn read_site_answer(seen: &[u8]) -> Result<SiteAnswer, SiteAnswerError> {
    if seen.len() > ANSWER_BYTES_MAX {
        let (got, max) = (seen.len(), ANSWER_BYTES_MAX);
        return Err(SiteAnswerError::Length { got, max });
    }
    let mut answer = SiteAnswer::default();
    let mut clear = Vec::new();
    let mut r = Reader::new(seen);
    while let Some((kind, payload)) = next_record(&mut r)? {
        match kind {
            HANDSHAKE => clear.extend_from_slice(payload),
            CHANGE_CIPHER => {}
            DATA => {
                // Only a ServerHello makes encrypted records possible.
                if answer.encrypted.is_empty() {
                    let mut before = SiteAnswer::default();
                    messages(&clear, &mut before)?;
                    before.hello.ok_or(SiteAnswerError::NoServerHello)?;
                }
                let bytes = u16::try_from(payload.len()).unwrap_or(u16::MAX);
                answer.encrypted.push(bytes);
            }
            ALERT => {
                let code = payload.get(1).copied().unwrap_or_default();
                return Err(SiteAnswerError::Alert { code });
            }
            got => return Err(SiteAnswerError::Type { got }),
        }
    }
    answer.is_between_records = r.is_empty() && !seen.is_empty();
    messages(&clear, &mut answer)?;
    Ok(answer)
}

/// The next complete record; `None` when the rest is none.
fn next_record<'a>(r: &mut Reader<'a>) -> Result<Option<(u8, &'a [u8])>, SiteAnswerError> {
    let mut ahead = *r;
    let Ok(kind) = ahead.u8() else {
        return Ok(None);
    };
    // Told at the first byte: a server that is none may go on for long.
    if !(CHANGE_CIPHER..=DATA).contains(&kind) {
        return Err(SiteAnswerError::Type { got: kind });
    }
    let (Ok(_version), Ok(length)) = (ahead.u16_be(), ahead.u16_be()) else {
        return Ok(None);
    };
    let got = usize::from(length);
    if got > READ_MAX {
        let max = READ_MAX;
        return Err(SiteAnswerError::Length { got, max });
    }
    let Ok(payload) = ahead.take(got) else {
        return Ok(None);
    };
    *r = ahead;
    Ok(Some((kind, payload)))
}

/// Handshake messages in clear.
fn messages(clear: &[u8], answer: &mut SiteAnswer) -> Result<(), SiteAnswerError> {
    let mut r = Reader::new(clear);
    let mut flight = Tls12Flight::default();
    while let Some((kind, body)) = next_message(&mut r) {
        match (kind, answer.hello) {
            (SERVER_HELLO, None) => {
                let hello = server_hello(body);
                answer.hello = Some(hello.map_err(|Short { .. }| SiteAnswerError::NoServerHello)?);
            }
            (_, None) => return Err(SiteAnswerError::NoServerHello),
            (CERTIFICATE, Some(_)) => certificates(body, &mut flight),
            (CERTIFICATE_STATUS, Some(_)) => flight.status_bytes = 4 + body.len(),
            (SERVER_KEY_EXCHANGE, Some(_)) => {
                flight.signature_bytes = signature_bytes(body).unwrap_or_default();
            }
            (SERVER_HELLO_DONE, Some(hello)) if !hello.tls13 => answer.tls12 = Some(flight),
            _ => {}
        }
    }
    // A first message of another kind is told before it is complete.
    match clear.first() {
        Some(&kind) if kind != SERVER_HELLO => Err(SiteAnswerError::NoServerHello),
        _ => Ok(()),
    }
}

fn next_message<'a>(r: &mut Reader<'a>) -> Option<(u8, &'a [u8])> {
    let kind = r.u8().ok()?;
    let length = r.u24_be().ok()?;
    Some((kind, r.take(length as usize).ok()?))
}

fn server_hello(body: &[u8]) -> Result<SiteServerHello, Short> {
    let mut r = Reader::new(body);
    r.u16_be()?;
    let retry = r.array::<32>()? == &RETRY_RANDOM;
    let session_id = usize::from(r.u8()?);
    r.take(session_id)?;
    let mut hello = SiteServerHello {
        tls13: false,
        retry,
        suite: r.u16_be()?,
        group: None,
        key_share_first: false,
        moved_bytes: 0,
    };
    r.u8()?;
    if r.is_empty() {
        return Ok(hello);
    }
    let length = usize::from(r.u16_be()?);
    let mut r = Reader::new(r.take(length)?);
    while !r.is_empty() {
        let kind = r.u16_be()?;
        let length = usize::from(r.u16_be()?);
        let value = r.take(length)?;
        match kind {
            SUPPORTED_VERSIONS => hello.tls13 = Reader::new(value).u16_be()? == TLS13,
            KEY_SHARE => {
                hello.group = Some(Reader::new(value).u16_be()?);
                hello.key_share_first = !hello.tls13;
            }
            SERVER_NAME | ALPN => hello.moved_bytes += 4 + length,
            _ => {}
        }
    }
    Ok(hello)
}

fn certificates(body: &[u8], flight: &mut Tls12Flight) {
    let mut r = Reader::new(body);
    let Ok(_all) = r.u24_be() else { return };
    flight.certificate_bytes = r.remaining();
    flight.certificates = 0;
    while let Ok(length) = r.u24_be() {
        if r.take(length as usize).is_err() {
            return;
        }
        flight.certificates += 1;
    }
}

/// Curve, point, scheme, signature; all of it must be there.
fn signature_bytes(body: &[u8]) -> Result<usize, Short> {
    let mut r = Reader::new(body);
    r.take(3)?;
    let point = usize::from(r.u8()?);
    r.take(point)?;
    r.u16_be()?;
    let length = usize::from(r.u16_be()?);
    r.take(length)?;
    Ok(length)
}

/// Most bytes of an answer that are looked at.
pub const ANSWER_BYTES_MAX: usize = 128 << 10;

/// Type and length.
const MESSAGE_HEADER: usize = 4;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;
const SERVER_KEY_EXCHANGE: u8 = 12;
const SERVER_HELLO_DONE: u8 = 14;
const CERTIFICATE_STATUS: u8 = 22;
const CHANGE_CIPHER: u8 = 0x14;
const ALERT: u8 = 0x15;
const HANDSHAKE: u8 = 0x16;
const DATA: u8 = 0x17;
const SERVER_NAME: u16 = 0x0000;
/// SHA-256 of "HelloRetryRequest" (RFC 8446 4.1.3).
const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

#[cfg(test)]
mod tests;
