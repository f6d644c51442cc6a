//! The head of an HTTP/1.x request: bounded, parsed, nothing interpreted twice.
//!
//! Where this parser and another one on the way could disagree about where a request ends, the
//! request is refused: bare control bytes, folded lines, two lengths, a length beside an encoding.

/// One request head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Method, case-sensitive.
    pub(crate) method: String,
    /// Path and query; scheme and authority of an absolute form are gone.
    pub(crate) target: String,
    /// How the body is delimited.
    pub(crate) framing: Framing,
    /// The peer expects `100 Continue` before it sends the body.
    pub(crate) expects_continue: bool,
    /// The peer wants to send more requests.
    pub(crate) keep_alive: bool,
    headers: Vec<(String, Vec<u8>)>,
}

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// The bytes are no HTTP/1.x request head that this server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    /// Longer than [`HEAD_BYTES_MAX`], or more than [`HEADERS_MAX`] lines.
    #[error("request head too long")]
    TooLong,
    /// Anything else.
    #[error("malformed request head")]
    Malformed,
}

/// Longest request head, bytes, blank line included.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header lines of one head.
pub(crate) const HEADERS_MAX: usize = 100;

/// A head of which only a part has arrived. Costs no memory before its first byte.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partial {
    bytes: Vec<u8>,
    /// Seen so far, with blank lines before the head, which are not kept.
    seen: usize,
}

impl Partial {
    /// Takes what belongs to the head, up to and including its blank line: how many bytes that
    /// were, and the head once it is complete. Each byte is looked at once.
    pub(crate) fn take(&mut self, arrived: &[u8]) -> (usize, Option<Result<Head, HeadError>>) {
        let mut used = 0;
        for &byte in arrived {
            if self.seen == HEAD_BYTES_MAX {
                break;
            }
            used += 1;
            self.seen += 1;
            self.bytes.push(byte);
            if byte == b'\n' && ends_with_blank_line(&self.bytes) {
                if self.bytes.len() > 2 {
                    return (used, Some(parse(&std::mem::take(self).bytes)));
                }
                // Some clients send an empty line after a body: RFC 9112, 2.2.
                self.bytes.clear();
            }
        }
        let too_long = self.seen == HEAD_BYTES_MAX;
        (used, too_long.then_some(Err(HeadError::TooLong)))
    }
}

impl Head {
    /// Value of the first header of this name (lower case), without surrounding white space.
    pub(crate) fn header(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_slice())
    }
}

/// Also true for a lone line end.
fn ends_with_blank_line(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n") || matches!(bytes, b"\r\n" | b"\n")
}

fn parse(bytes: &[u8]) -> Result<Head, HeadError> {
    let mut lines = bytes
        .split(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.next().and_then(|line| std::str::from_utf8(line).ok());
    let (method, target, http11) = request_line(first.ok_or(HeadError::Malformed)?)?;
    let mut headers = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        if headers.len() == HEADERS_MAX {
            return Err(HeadError::TooLong);
        }
        headers.push(header_line(line)?);
    }
    let mut head = Head {
        method: method.to_owned(),
        target: target.to_owned(),
        framing: Framing::Empty,
        expects_continue: false,
        keep_alive: false,
        headers,
    };
    head.framing = framing(&head, http11)?;
    head.expects_continue = http11
        && head.framing != Framing::Empty
        && head
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    head.keep_alive = keep_alive(&head, http11);
    Ok(head)
}

fn request_line(line: &str) -> Result<(&str, &str, bool), HeadError> {
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(HeadError::Malformed);
    };
    let http11 = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return Err(HeadError::Malformed),
    };
    let target_fits = !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(method.as_bytes()) || !target_fits {
        return Err(HeadError::Malformed);
    }
    Ok((method, origin_form(target), http11))
}

/// Drops `http://authority` of an absolute form.
fn origin_form(target: &str) -> &str {
    let Some((scheme, rest)) = target.split_once("://") else {
        return target;
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return target;
    }
    rest.find('/')
        .and_then(|slash| rest.get(slash..))
        .unwrap_or("/")
}

fn header_line(line: &[u8]) -> Result<(String, Vec<u8>), HeadError> {
    let colon = line
        .iter()
        .position(|&byte| byte == b':')
        .ok_or(HeadError::Malformed)?;
    let (name, value) = line.split_at(colon);
    let value = value.get(1..).unwrap_or_default().trim_ascii();
    let value_fits = value
        .iter()
        .all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
    if !is_token(name) || !value_fits {
        return Err(HeadError::Malformed);
    }
    Ok((
        String::from_utf8_lossy(name).to_ascii_lowercase(),
        value.to_vec(),
    ))
}

fn framing(head: &Head, http11: bool) -> Result<Framing, HeadError> {
    let mut encodings = head.all("transfer-encoding");
    let mut lengths = head.all("content-length");
    match (encodings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Empty),
        (Some(coding), None) => {
            let only = encodings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked");
            if only && http11 {
                Ok(Framing::Chunked)
            } else {
                Err(HeadError::Malformed)
            }
        }
        (None, Some(length)) => {
            if lengths.any(|other| other != length) || length.len() > 18 || length.is_empty() {
                return Err(HeadError::Malformed);
            }
            let mut bytes = 0_u64;
            for &digit in length {
                if !digit.is_ascii_digit() {
                    return Err(HeadError::Malformed);
                }
                // At most 18 digits: below 10^18, so neither step overflows.
                bytes = bytes * 10 + u64::from(digit - b'0');
            }
            Ok(if bytes == 0 {
                Framing::Empty
            } else {
                Framing::Length(bytes)
            })
        }
        (Some(_), Some(_)) => Err(HeadError::Malformed),
    }
}

fn keep_alive(head: &Head, http11: bool) -> bool {
    let says = |word: &[u8]| {
        head.all("connection")
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(word))
    };
    if http11 {
        !says(b"close")
    } else {
        says(b"keep-alive")
    }
}

/// RFC 9110, 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn head(text: &[u8]) -> Result<Head, HeadError> {
        Partial::default().take(text).1.unwrap()
    }

    #[test]
    fn plain_requests_are_read() {
        let head =
            head(b"\r\nGET /v1/health?x=y HTTP/1.1\r\nHost: a\r\nX-A:  b \r\nx-a: c\r\n\r\n")
                .unwrap();
        assert_eq!(
            (head.method.as_str(), head.target.as_str()),
            ("GET", "/v1/health?x=y")
        );
        assert_eq!(head.header("x-a"), Some(&b"b"[..]));
        assert_eq!((head.framing, head.keep_alive), (Framing::Empty, true));
    }

    #[test]
    fn lines_may_end_without_carriage_return_and_targets_may_be_absolute() {
        let head =
            head(b"PATCH http://h:1/v1/users/a HTTP/1.0\nConnection: x, Keep-Alive\n\n").unwrap();
        assert_eq!(
            (head.target.as_str(), head.keep_alive),
            ("/v1/users/a", true)
        );
    }

    #[test]
    fn framings_are_told_apart() {
        for (headers, expected) in [
            ("Content-Length: 0", Ok(Framing::Empty)),
            ("Content-Length: 12", Ok(Framing::Length(12))),
            (
                "Content-Length: 12\r\nContent-Length: 12",
                Ok(Framing::Length(12)),
            ),
            ("Transfer-Encoding: Chunked", Ok(Framing::Chunked)),
            (
                "Content-Length: 12\r\nContent-Length: 13",
                Err(HeadError::Malformed),
            ),
            ("Content-Length: +1", Err(HeadError::Malformed)),
            ("Content-Length: -1", Err(HeadError::Malformed)),
            ("Content-Length:", Err(HeadError::Malformed)),
            (
                "Content-Length: 1000000000000000000",
                Err(HeadError::Malformed),
            ),
            (
                "Transfer-Encoding: gzip, chunked",
                Err(HeadError::Malformed),
            ),
            (
                "Transfer-Encoding: chunked\r\nContent-Length: 5",
                Err(HeadError::Malformed),
            ),
        ] {
            let text = format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n");
            assert_eq!(
                head(text.as_bytes()).map(|head| head.framing),
                expected,
                "{headers}"
            );
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        for text in [
            &b"GET /\r\n\r\n"[..],
            b"GET / HTTP/2.0\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\n\n",
            b"G(T / HTTP/1.1\r\n\r\n",
            b"GET /\x80 HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            b"GET / HTTP/1.1\r\n: b\r\n\r\n",
        ] {
            assert_eq!(head(text), Err(HeadError::Malformed), "{text:?}");
        }
        assert!(head(b"GET / HTTP/1.1\r\nA: \xc3\xa9\r\n\r\n").is_ok());
    }

    #[test]
    fn endless_heads_stop_at_the_limit() {
        let endless = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 20_000]].concat();
        assert_eq!(head(&endless), Err(HeadError::TooLong));
        assert_eq!(head(&[b'\n'; 20_000]), Err(HeadError::TooLong));
        let many = format!(
            "GET / HTTP/1.1\r\n{}\r\n",
            "A: b\r\n".repeat(HEADERS_MAX + 1)
        );
        assert_eq!(head(many.as_bytes()), Err(HeadError::TooLong));
    }

    #[test]
    fn what_follows_a_head_is_left_alone() {
        let mut partial = Partial::default();
        assert_eq!(partial.take(b"\r\nGET / HT"), (10, None));
        let (used, head) = partial.take(b"TP/1.1\n\nGET /next");
        assert_eq!((used, head.unwrap().unwrap().target.as_str()), (8, "/"));
        assert_eq!(partial.take(b"GET /next HTTP/1.1\n").1, None);
        assert_eq!(partial.take(b"\n").1.unwrap().unwrap().target, "/next");
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_one_answer(
            bytes in vec(prop_oneof![select(&b"\r\n: "[..]), any::<u8>()], 0..400),
            piece in 1_usize..20,
        ) {
            let whole = Partial::default().take(&bytes);
            let mut partial = Partial::default();
            let (mut used, mut head) = (0, None);
            for piece in bytes.chunks(piece) {
                let (taken, found) = partial.take(piece);
                used += taken;
                head = found;
                if head.is_some() {
                    break;
                }
            }
            prop_assert_eq!(whole, (used, head));
        }
    }
}
