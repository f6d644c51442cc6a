//! Request bodies, counted while they arrive. Source: control-api.md 6.

use std::io::{BufRead, Read};

use crate::{head::Framing, reply::ApiError};

/// Reads a body of at most `limit_bytes`; memory grows with what has arrived, not with what was
/// announced.
///
/// # Errors
/// [`ApiError::PayloadTooLarge`] as soon as the limit is known to be passed, [`ApiError::BadBody`]
/// when the peer stops early or the chunks are malformed.
pub(crate) fn read(
    reader: &mut impl BufRead,
    framing: Framing,
    limit_bytes: usize,
) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    match framing {
        Framing::Empty => {}
        Framing::Length(bytes) => take(reader, &mut body, bytes, limit_bytes)?,
        Framing::Chunked => {
            while let Some(bytes) = chunk_size(reader)? {
                take(reader, &mut body, bytes, limit_bytes)?;
                if !line(reader)?.is_empty() {
                    return Err(ApiError::BadBody);
                }
            }
            trailers(reader)?;
        }
    }
    Ok(body)
}

/// Moves exactly `bytes` over, unless the limit would be passed.
fn take(
    reader: &mut impl BufRead,
    body: &mut Vec<u8>,
    bytes: u64,
    limit_bytes: usize,
) -> Result<(), ApiError> {
    let free = limit_bytes.saturating_sub(body.len());
    if u64::try_from(free).is_ok_and(|free| bytes > free) {
        return Err(ApiError::PayloadTooLarge { limit_bytes });
    }
    let taken = reader
        .take(bytes)
        .read_to_end(body)
        .map_err(|_| ApiError::BadBody)?;
    if u64::try_from(taken) == Ok(bytes) {
        Ok(())
    } else {
        Err(ApiError::BadBody)
    }
}

/// Size of the next chunk; `None` for the last one. Extensions are ignored.
fn chunk_size(reader: &mut impl BufRead) -> Result<Option<u64>, ApiError> {
    let line = line(reader)?;
    let digits = line
        .split(|&byte| byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();
    let digits = std::str::from_utf8(digits).map_err(|_| ApiError::BadBody)?;
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ApiError::BadBody);
    }
    let bytes = u64::from_str_radix(digits, 16).map_err(|_| ApiError::BadBody)?;
    Ok((bytes != 0).then_some(bytes))
}

fn trailers(reader: &mut impl BufRead) -> Result<(), ApiError> {
    for _ in 0..TRAILERS_MAX {
        if line(reader)?.is_empty() {
            return Ok(());
        }
    }
    Err(ApiError::BadBody)
}

/// One line without its end.
fn line(reader: &mut impl BufRead) -> Result<Vec<u8>, ApiError> {
    let mut line = Vec::new();
    let mut bounded = reader.take(LINE_BYTES_MAX);
    bounded
        .read_until(b'\n', &mut line)
        .map_err(|_| ApiError::BadBody)?;
    if line.pop() != Some(b'\n') {
        return Err(ApiError::BadBody);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

/// Longest chunk size line or trailer, bytes.
const LINE_BYTES_MAX: u64 = 1_024;
const TRAILERS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader};

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn chunked(text: &[u8], limit_bytes: usize) -> Result<Vec<u8>, ApiError> {
        read(&mut &text[..], Framing::Chunked, limit_bytes)
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        let too_large = Err(ApiError::PayloadTooLarge { limit_bytes: 4 });
        assert_eq!(
            read(&mut &b"abcdX"[..], Framing::Length(4), 4),
            Ok(b"abcd".to_vec())
        );
        assert_eq!(read(&mut &b"abcde"[..], Framing::Length(5), 4), too_large);
        assert_eq!(read(&mut &b""[..], Framing::Length(u64::MAX), 4), too_large);
        assert_eq!(
            chunked(b"2\r\nab\r\n2;x=y\r\ncd\r\n0\r\nT: x\r\n\r\n", 4),
            Ok(b"abcd".to_vec())
        );
        assert_eq!(chunked(b"2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n", 4), too_large);
        assert_eq!(chunked(b"ffffffffffffffff\r\n", 4), too_large);
    }

    #[test]
    fn broken_bodies_are_refused() {
        assert_eq!(
            read(&mut &b"abc"[..], Framing::Length(4), 9),
            Err(ApiError::BadBody)
        );
        for text in [
            &b""[..],
            b"2\r\nab",
            b"2\r\nabc\r\n0\r\n\r\n",
            b"+2\r\nab\r\n0\r\n\r\n",
            b"\r\n",
            b"zz\r\n",
            b"10000000000000000\r\n",
            b"0\r\n",
            b"0\r\nA: b\r\n",
            b"\xff\r\n",
        ] {
            assert_eq!(chunked(text, 9), Err(ApiError::BadBody), "{text:?}");
        }
        let mut endless = BufReader::new(io::repeat(b'0'));
        assert_eq!(
            read(&mut endless, Framing::Chunked, 9),
            Err(ApiError::BadBody)
        );
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_give_the_body_back(
            pieces in vec(vec(any::<u8>(), 1..40), 0..10),
            capacity in 1_usize..30,
        ) {
            let mut wire = Vec::new();
            for piece in &pieces {
                wire.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                wire.extend_from_slice(piece);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            let mut reader = BufReader::with_capacity(capacity, &wire[..]);
            prop_assert_eq!(read(&mut reader, Framing::Chunked, 400), Ok(pieces.concat()));
        }

        #[test]
        fn any_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = chunked(&bytes, 50);
        }
    }
}
