//! Hellos of genuine clients with other lists of application protocols and compressions; hellos of
//! others, signed.

use std::time::{SystemTime, UNIX_EPOCH};

use shards::proto::{
    crypto::HmacKey,
    faketls::client_hello::{RANDOM_AT, verify, zero_random},
    secret::Secret,
};

/// The body of an ALPN extension that offers `names`.
pub(crate) fn protocols(names: &[&str]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        list.push(u8::try_from(name.len()).expect("a short name"));
        list.extend(name.as_bytes());
    }
    let mut body = length(list.len()).to_vec();
    body.append(&mut list);
    body
}

/// `hello` with this body in its ALPN extension, or without that extension; signed again with the
/// date it had.
pub(crate) fn with_alpn(hello: &[u8], secret: &Secret, body: Option<&[u8]>) -> Vec<u8> {
    with_extension(hello, secret, 16, body)
}

/// The same with the extension about compressed certificates.
pub(crate) fn with_compression(hello: &[u8], secret: &Secret, body: Option<&[u8]>) -> Vec<u8> {
    with_extension(hello, secret, 27, body)
}

/// `kind` is the type of an extension that `hello` has.
fn with_extension(hello: &[u8], secret: &Secret, kind: usize, body: Option<&[u8]>) -> Vec<u8> {
    const SESSION_ID_AT: usize = 43;
    let key = HmacKey::new(secret);
    let mut out = hello.to_vec();
    let random = zero_random(&mut out);
    let date = verify(&out, &random, &key).expect("a hello with this secret");
    let number = |out: &[u8], at: usize| usize::from(out[at]) << 8 | usize::from(out[at + 1]);
    let suites = SESSION_ID_AT + 1 + usize::from(out[SESSION_ID_AT]);
    let compression = suites + 2 + number(&out, suites);
    let list = compression + 1 + usize::from(out[compression]);
    let mut at = list + 2;
    while number(&out, at) != kind {
        at += 4 + number(&out, at + 2);
    }
    let end = at + 4 + number(&out, at + 2);
    let other = body.map(|body| [&length(kind), &length(body.len()), body].concat());
    out.splice(at..end, other.unwrap_or_default());
    let bytes = out.len();
    out[3..5].copy_from_slice(&length(bytes - 5));
    // The handshake's length has three bytes, of which the first stays zero.
    out[7..9].copy_from_slice(&length(bytes - 9));
    out[list..list + 2].copy_from_slice(&length(bytes - list - 2));
    sign(&mut out, &key, date);
    out
}

/// A hello of anybody's, signed now.
pub(crate) fn signed(hello: &[u8], secret: &Secret) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a date").as_secs();
    let mut out = hello.to_vec();
    zero_random(&mut out);
    let date = u32::try_from(now).expect("a date before 2106");
    sign(&mut out, &HmacKey::new(secret), date);
    out
}

/// `hello` has no random yet.
fn sign(hello: &mut [u8], key: &HmacKey, date: u32) {
    let mut random = key.mac(&[hello]);
    for (byte, date) in random[28..].iter_mut().zip(date.to_le_bytes()) {
        *byte ^= date;
    }
    hello[RANDOM_AT..RANDOM_AT + 32].copy_from_slice(&random);
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a length").to_be_bytes()
}
