//! Replies of SOCKS 4, 4a and 5 servers: the stream begins at the same byte however they arrive.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, pieces};
use shards::proto::socks::{Handshake, Progress, Proxy, SocksError, Target};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (flags, seed) = (choices.byte(), choices.byte());
    let text = choices.take(usize::from(choices_len(flags)));
    let text = std::str::from_utf8(text).unwrap_or("name");
    let proxy = match flags % 3 {
        0 => Proxy::V4 { user_id: text },
        1 => Proxy::V5 { credentials: None },
        _ => Proxy::V5 {
            credentials: Some((text, "password")),
        },
    };
    let target = match (flags >> 2) % 3 {
        0 => Target::Addr(SocketAddr::from(([149, 154, 175, 50], 443))),
        1 => Target::Addr(SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 443))),
        _ => Target::Name(text, 443),
    };
    let replies = choices.rest();
    let whole = talk(proxy, target, &[replies]);
    assert_eq!(talk(proxy, target, &pieces(seed, replies)), whole);
    assert_eq!(talk(proxy, target, &pieces(1, replies)), whole);
});

/// How many bytes of the input are a user's name or the target's.
fn choices_len(flags: u8) -> u8 {
    (flags >> 4) * 17
}

type Talk = (
    Vec<u8>,
    Result<Option<(usize, Option<SocketAddr>)>, SocksError>,
);

/// What was sent, and where the stream begins.
fn talk(proxy: Proxy<'_>, target: Target<'_>, pieces: &[&[u8]]) -> Talk {
    let (mut sent, mut seen, mut used) = (Vec::new(), Vec::new(), 0);
    let mut handshake = match Handshake::start(proxy, target, &mut sent) {
        Ok(handshake) => handshake,
        Err(error) => return (sent, Err(error)),
    };
    for piece in pieces {
        seen.extend_from_slice(piece);
        loop {
            match handshake.receive(&seen[used..], &mut sent) {
                Ok(Progress::NeedMore) => {
                    assert!(seen.len() - used < 300, "a reply without an end");
                    break;
                }
                Ok(Progress::Next { consumed }) => used += consumed,
                Ok(Progress::Done { consumed, bound }) => {
                    used += consumed;
                    assert!(used <= seen.len());
                    return (sent, Ok(Some((used, bound))));
                }
                Err(error) => return (sent, Err(error)),
            }
        }
    }
    (sent, Ok(None))
}
