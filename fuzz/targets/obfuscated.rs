//! obfuscated2 headers of both legs, and the framings behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, Part, join, pieces, source};
use shards::{
    proto::{
        dc::{DcId, DcTable},
        framing::{Control, FrameError, FrameEvent, FrameReader, Framing, Side},
        middle::client_frames::{ClientEvent, ClientFrameError, ClientReader},
        obfuscated2::{client_keys, client_side, dc_header, dc_side, may_write, open},
        secret::Secret,
    },
    settings::Modes,
};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (flags, seed, dc) = (choices.byte(), choices.byte(), choices.word());
    let framing = FRAMINGS[usize::from(flags) % 3];
    if let Some(header) = choices.take(64).first_chunk::<64>() {
        headers(header);
    }
    genuine(framing, DcId(dc as i16), u64::from(seed));
    let wire = choices.rest();
    for side in [Side::Uplink, Side::Downlink] {
        let whole = frames(framing, side, &[wire]);
        assert_eq!(frames(framing, side, &pieces(seed, wire)), whole);
        assert_eq!(frames(framing, side, &pieces(1, wire)), whole);
    }
    let most = u32::from(dc) << (flags >> 4);
    let whole = client(framing, most, &[wire]);
    assert_eq!(client(framing, most, &pieces(seed, wire)), whole);
    assert_eq!(client(framing, most, &pieces(1, wire)), whole);
    Control::parse(wire);
});

/// Any 64 bytes: opened or not, never more.
fn headers(header: &[u8; 64]) {
    if let Some(opening) = open(header, &SECRET) {
        client_keys(header, &SECRET).p2c();
        opening.is_served(ALL, true);
        DcTable::builtin().resolve(opening.dc);
    }
    dc_side(header);
    may_write(header);
}

/// A header that a client writes is opened, and the one for its DC says the same.
fn genuine(framing: Framing, dc: DcId, seed: u64) {
    let mut random = source(seed);
    let client = client_side(&mut random, &SECRET, framing, dc);
    let opening = open(&client.wire, &SECRET).expect("a genuine header");
    assert_eq!((opening.framing, opening.dc), (framing, dc));
    let keys = client_keys(&client.wire, &SECRET);
    for fast in [None, Some((&keys.p2c_key, &keys.p2c_iv))] {
        let header = dc_header(&mut random, &opening, fast);
        assert!(may_write(&header.wire));
        let read = dc_side(&header.wire).expect("our own header");
        assert_eq!((read.framing, read.dc), (framing, dc));
    }
}

type Frames = (Vec<Part<FrameEvent<'static>>>, Option<FrameError>);

fn frames(framing: Framing, side: Side, pieces: &[&[u8]]) -> Frames {
    let mut reader = FrameReader::new(framing, side);
    let (mut all, mut left) = (Vec::new(), 0_u32);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match reader.next(rest) {
                Ok(step) => step,
                Err(error) => return (all, Some(error)),
            };
            rest = &rest[step.consumed..];
            match step.event {
                None => break assert!(rest.is_empty()),
                Some(FrameEvent::Payload(bytes)) => {
                    assert!(!bytes.is_empty());
                    left -= bytes.len() as u32;
                    join(&mut all, bytes);
                }
                Some(FrameEvent::Begin {
                    payload_bytes,
                    quick_ack,
                }) => {
                    assert!(payload_bytes.is_multiple_of(4));
                    left = payload_bytes;
                    all.push(Part::Event(FrameEvent::Begin {
                        payload_bytes,
                        quick_ack,
                    }));
                }
                Some(FrameEvent::End) => {
                    assert_eq!(left, 0);
                    all.push(Part::Event(FrameEvent::End));
                }
                Some(FrameEvent::QuickAck(token)) => {
                    all.push(Part::Event(FrameEvent::QuickAck(token)));
                }
            }
        }
    }
    (all, None)
}

type Messages = (Vec<Part<ClientEvent>>, u64, Option<ClientFrameError>);

fn client(framing: Framing, most: u32, pieces: &[&[u8]]) -> Messages {
    let mut reader = ClientReader::new(framing, most);
    let (mut all, mut left) = (Vec::new(), 0_usize);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match reader.next(rest) {
                Ok(step) => step,
                Err(error) => return (all, reader.frames(), Some(error)),
            };
            match step.event {
                None => break assert_eq!(step.consumed, rest.len()),
                Some(ClientEvent::Piece(at)) => {
                    assert!(!at.is_empty() && at.end <= step.consumed);
                    left -= at.len();
                    join(&mut all, &rest[at]);
                }
                Some(ClientEvent::End) => {
                    assert_eq!(left, 0);
                    all.push(Part::Event(ClientEvent::End));
                }
                Some(ClientEvent::Begin {
                    payload_bytes,
                    quick_ack,
                }) => {
                    assert!(payload_bytes > 0 && payload_bytes <= most);
                    left = payload_bytes as usize;
                    all.push(Part::Event(ClientEvent::Begin {
                        payload_bytes,
                        quick_ack,
                    }));
                }
            }
            rest = &rest[step.consumed..];
        }
    }
    (all, reader.frames(), None)
}

const SECRET: Secret = Secret([1; 16]);
const FRAMINGS: [Framing; 3] = [Framing::Abridged, Framing::Intermediate, Framing::Padded];
const ALL: Modes = Modes {
    classic: true,
    secure: true,
    tls: true,
};
