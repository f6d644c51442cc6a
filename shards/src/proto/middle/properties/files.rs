//! Client streams, files, and the small decoders.

use std::net::SocketAddr;

use proptest::{collection::vec, prelude::*};

use super::{
    super::{
        super::{
            framing::{FrameEvent, FrameReader, Framing, Side},
            reader::Reader,
        },
        bound,
        client_frames::{ClientEvent, ClientFrameError, ClientReader},
        config_file::ConfigFile,
        far_side::Request,
        handshake::Handshake,
        nonce::Nonce,
        stun, tl,
    },
    addrs, cuts, framings, split,
};

type Messages = (Vec<(Vec<u8>, bool)>, Option<ClientFrameError>);

fn read_client(framing: Framing, max: u32, pieces: &[&[u8]]) -> Messages {
    let mut reader = ClientReader::new(framing, max);
    let (mut all, mut open, mut left) = (Vec::new(), None, 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let step = match reader.next(rest) {
                Ok(step) => step,
                Err(error) => return (all, Some(error)),
            };
            match step.event.clone() {
                Some(ClientEvent::Begin {
                    payload_bytes,
                    quick_ack,
                }) => {
                    assert!(payload_bytes.is_multiple_of(4) && (4..=max).contains(&payload_bytes));
                    (open, left) = (Some((Vec::new(), quick_ack)), payload_bytes as usize);
                }
                Some(ClientEvent::Piece(at)) => {
                    left -= at.len();
                    open.as_mut().unwrap().0.extend_from_slice(&rest[at]);
                }
                Some(ClientEvent::End) => {
                    assert_eq!(left, 0);
                    all.extend(open.take());
                }
                None => assert_eq!(step.consumed, rest.len()),
            }
            rest = &rest[step.consumed..];
            if step.event.is_none() {
                break;
            }
        }
    }
    (all, None)
}

proptest! {
    #[test]
    fn client_streams_are_the_same_however_they_arrive(
        framing in framings(),
        frames in vec((1..200_usize, 0..4_usize, any::<bool>()), 0..6),
        junk in vec(any::<u8>(), 0..20),
        cuts in cuts(),
        max in prop_oneof![Just(u32::MAX), 4..900_u32],
    ) {
        let mut wire = Vec::new();
        for (words, padding, quick_ack) in frames {
            let padding = if framing == Framing::Padded { padding } else { 0 };
            let (payload, padding) = (vec![words as u8; words * 4], vec![9; padding]);
            framing.encode(&payload, &padding, quick_ack, &mut wire).unwrap();
        }
        let sound = wire.len();
        wire.extend(junk);
        let whole = read_client(framing, max, &[&wire]);
        prop_assert_eq!(read_client(framing, max, &split(&wire, &cuts)), whole);
        // Without mistakes it reads what the reader of direct mode's tools reads.
        if max == u32::MAX {
            let mut reader = FrameReader::new(framing, Side::Uplink);
            let (mut rest, mut want) = (&wire[..sound], Vec::new());
            loop {
                let step = reader.next(rest).unwrap();
                rest = &rest[step.consumed..];
                match step.event {
                    Some(FrameEvent::Begin { quick_ack, .. }) => want.push((Vec::new(), quick_ack)),
                    Some(FrameEvent::Payload(piece)) => {
                        want.last_mut().unwrap().0.extend_from_slice(piece);
                    }
                    Some(FrameEvent::End) => {}
                    Some(FrameEvent::QuickAck(_)) => panic!("uplink"),
                    None => break,
                }
            }
            prop_assert_eq!(read_client(framing, max, &[&wire[..sound]]), (want, None));
        }
    }

    #[test]
    fn client_readers_survive_anything(
        framing in framings(),
        wire in vec(prop_oneof![Just(0_u8), Just(4), any::<u8>()], 0..600),
        cuts in cuts(),
    ) {
        let whole = read_client(framing, u32::MAX, &[&wire]);
        prop_assert_eq!(read_client(framing, u32::MAX, &split(&wire, &cuts)), whole);
    }

    #[test]
    fn small_decoders_survive_anything(bytes in vec(any::<u8>(), 0..90), id in any::<[u8; 12]>()) {
        let _ = Nonce::decode(&bytes);
        let _ = Handshake::decode(&bytes);
        let _ = Request::parse(&bytes);
        let _ = bound::reported(&bytes);
        let _ = tl::read_string(&mut Reader::new(&bytes));
        let _ = stun::response(&bytes, &id);
        let mut answer = stun::request(&id).to_vec();
        answer[0] = 1;
        answer[3] = bytes.len() as u8;
        answer.extend(&bytes);
        let _ = stun::response(&answer, &id);
        let payload = [&0x36ce_f1ee_u32.to_le_bytes()[..], &bytes].concat();
        let _ = Request::parse(&payload);
    }

    #[test]
    fn config_files_survive_anything(
        text in "(proxy_for|default|[ \t;#:\\[\\]\n-]|[0-9]{1,3}|\\PC){0,60}",
        bytes in vec(any::<u8>(), 0..200),
    ) {
        let file = ConfigFile::parse(text.as_bytes());
        prop_assert!(file.map.endpoint_count() <= file.accepted);
        ConfigFile::parse(&bytes);
    }

    #[test]
    fn config_files_say_what_was_written(
        lines in vec((prop_oneof![-5..6_i16, any::<i16>()], addrs()), 0..30),
        default in proptest::option::of(1..100_i16),
    ) {
        let usable = |(dc, at): &(i16, SocketAddr)| *dc != 0 && at.port() != 0;
        let lines: Vec<_> = lines.into_iter().filter(usable).collect();
        let text = lines.iter().map(|(dc, at)| format!("proxy_for {dc} {at};\n"));
        let mut text: String = text.collect();
        if let Some(default) = default {
            text.push_str(&format!("default {default}"));
        }
        let file = ConfigFile::parse(text.as_bytes());
        prop_assert_eq!((file.accepted, file.ignored), (lines.len(), 0));
        prop_assert_eq!(file.map.default, default);
        for (dc, at) in &lines {
            prop_assert!(file.map.groups[dc].binary_search(at).is_ok());
        }
        let mut mirrored = file.map.clone();
        mirrored.mirror();
        prop_assert!(mirrored.mirror().is_empty());
    }
}
