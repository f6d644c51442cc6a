//! What a connection's first bytes look like, before any secret is tried.
//!
//! Follows protocol.md 6.1 (recognising TLS) and 7.2 (deciding early). Says nothing of who the
//! client is: that takes `faketls` or `obfuscated2`.

use crate::settings::Modes;

/// What the bytes seen so far can still become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    /// Too few bytes to tell.
    NeedMore,
    /// A TLS record of a version clients use; `faketls::client_hello` goes on.
    Tls,
    /// Perhaps an obfuscated2 header; decided once all 64 bytes are there.
    Header,
    /// None of ours: mask at once.
    Stranger,
}

/// Judges the first bytes of a connection; four decide.
///
/// Bytes that a header's *writer* avoids are no reason to refuse, except the openings of other
/// protocols that wait for an answer: a genuine client begins so with probability 2⁻³² each.
///
/// Source: protocol.md 6.1 point 1, 7.2 rules 1 and 2, 3.2.
pub fn sniff(seen: &[u8], modes: Modes) -> Sniffed {
    let plain = modes.classic || modes.secure;
    match (tls_start(seen), modes.tls) {
        (Some(true), true) => return Sniffed::Tls,
        (None, true) => return Sniffed::NeedMore,
        (Some(false), _) | (_, false) => {}
    }
    if !plain {
        // A first byte is awaited even if nothing can match it: a server that closes or dials
        // before it was spoken to would be odd.
        return if seen.is_empty() {
            Sniffed::NeedMore
        } else {
            Sniffed::Stranger
        };
    }
    match seen.first_chunk::<4>() {
        None => Sniffed::NeedMore,
        Some(start) if OTHER_PROTOCOLS.contains(&start) => Sniffed::Stranger,
        Some(_) => Sniffed::Header,
    }
}

/// Whether the bytes begin a TLS record: `16 03 01` or `16 03 03`. `None`: too few to tell.
fn tls_start(seen: &[u8]) -> Option<bool> {
    match seen {
        [0x16, 0x03, 0x01 | 0x03, ..] => Some(true),
        [] | [0x16] | [0x16, 0x03] => None,
        _ => Some(false),
    }
}

/// HTTP methods and SSH: whoever sends these waits for an answer.
const OTHER_PROTOCOLS: [&[u8; 4]; 11] = [
    b"GET ", b"POST", b"HEAD", b"OPTI", b"PUT ", b"DELE", b"CONN", b"TRAC", b"PATC", b"PRI ",
    b"SSH-",
];

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Modes = Modes {
        classic: true,
        secure: true,
        tls: true,
    };
    const PLAIN: Modes = Modes {
        classic: true,
        secure: false,
        tls: false,
    };
    const TLS: Modes = Modes {
        classic: false,
        secure: false,
        tls: true,
    };
    const NONE: Modes = Modes {
        classic: false,
        secure: false,
        tls: false,
    };

    #[test]
    fn tells_tls_headers_and_strangers_apart() {
        use Sniffed::{Header, NeedMore, Stranger, Tls};
        // Bytes, then the verdict with all modes, plain ones, TLS alone, none.
        let cases: [(&[u8], [Sniffed; 4]); 17] = [
            (b"", [NeedMore; 4]),
            (b"\x16", [NeedMore, NeedMore, NeedMore, Stranger]),
            (b"\x16\x03", [NeedMore, NeedMore, NeedMore, Stranger]),
            (b"\x16\x03\x01", [Tls, NeedMore, Tls, Stranger]),
            (b"\x16\x03\x03", [Tls, NeedMore, Tls, Stranger]),
            (b"\x16\x03\x02", [NeedMore, NeedMore, Stranger, Stranger]),
            (b"\x16\x03\x01\x06", [Tls, Header, Tls, Stranger]),
            (b"\x16\x03\x02\x06", [Header, Header, Stranger, Stranger]),
            (b"\x16\x02", [NeedMore, NeedMore, Stranger, Stranger]),
            (b"G", [NeedMore, NeedMore, Stranger, Stranger]),
            (b"GET", [NeedMore, NeedMore, Stranger, Stranger]),
            (b"GET /", [Stranger; 4]),
            (b"GETx", [Header, Header, Stranger, Stranger]),
            (b"SSH-2.0", [Stranger; 4]),
            (b"PRI * HTTP/2.0", [Stranger; 4]),
            (b"\xef\xef\xef\xef", [Header, Header, Stranger, Stranger]),
            (&[0xee; 64], [Header, Header, Stranger, Stranger]),
        ];
        for (seen, want) in cases {
            let got = [ALL, PLAIN, TLS, NONE].map(|modes| sniff(seen, modes));
            assert_eq!(got, want, "{seen:02x?}");
        }
    }
}
