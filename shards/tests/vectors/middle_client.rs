//! `client_downlink`, `client_uplink` of `middle.json`: the client's framings on the ME leg.

use serde_json::Value;
use shards::proto::{
    framing::Framing,
    middle::client_frames::{
        ClientEvent, ClientFrameError, ClientReader, ClientStep, MESSAGE_BYTES_MAX,
        downlink_padding, quick_ack,
    },
};

use super::{bytes, middle::number, text};

const FRAMINGS: [(&str, Framing); 3] = [
    ("abridged", Framing::Abridged),
    ("intermediate", Framing::Intermediate),
    ("padded", Framing::Padded),
];

pub(crate) fn downlink(entry: &Value) {
    match text(entry, "what") {
        "quick ack" => {
            let value = &text(entry, "confirm")[..8];
            let confirm = u32::from_str_radix(value, 16).unwrap();
            for (name, framing) in FRAMINGS {
                assert_eq!(quick_ack(framing, confirm).to_vec(), bytes(entry, name));
            }
        }
        "data header" => {
            let data = number(entry, "data_len");
            for (name, framing, random) in [
                ("abridged", Framing::Abridged, 3),
                ("intermediate", Framing::Intermediate, 3),
                ("padded_with_0", Framing::Padded, 4),
                ("padded_with_3", Framing::Padded, 7),
            ] {
                let padding = downlink_padding(framing, random);
                let header = framing.encode_header(data, padding, false).unwrap();
                assert_eq!(header.as_bytes(), bytes(entry, name), "{name} {data}");
            }
        }
        other => panic!("nothing checks {other}"),
    }
}

pub(crate) fn uplink(entry: &Value) {
    let name = text(entry, "framing");
    let framing = FRAMINGS.iter().find(|row| row.0 == name).unwrap().1;
    let header = bytes(entry, "header");
    let max = entry["max_client_frame"].as_u64().unwrap_or(1 << 24);
    let mut reader = ClientReader::new(framing, u32::try_from(max).unwrap());
    let got = reader.next(&header);
    let Some(error) = entry["error"].as_str() else {
        let (payload, wire) = (number(entry, "payload_len"), number(entry, "wire_len"));
        let event = Some(ClientEvent::Begin {
            payload_bytes: payload,
            quick_ack: entry["quick_ack"].as_bool().unwrap(),
        });
        let consumed = number(entry, "header_len");
        assert_eq!(got, Ok(ClientStep { consumed, event }), "{entry}");
        check_body(&mut reader, payload as usize, wire);
        return;
    };
    let fits = match (error, got) {
        ("overlong length", Err(ClientFrameError::LongForm { words: 0x7e }))
        | ("not a multiple of 4", Err(ClientFrameError::Words { .. }))
        | ("shorter than 4", Err(ClientFrameError::Padding { .. })) => true,
        ("longer than max_client_frame (desync)", Err(ClientFrameError::TooLong { max, .. })) => {
            max == MESSAGE_BYTES_MAX
        }
        ("zero length: counted as a tiny frame, skipped", Ok(step)) => {
            step.event.is_none() && step.consumed == 1 && reader.is_between_frames()
        }
        _ => false,
    };
    assert!(fits, "{entry}");
}

/// The frame's payload comes as a piece; what is behind it on the wire is swallowed.
fn check_body(reader: &mut ClientReader, payload: usize, wire: usize) {
    let body = vec![7; wire];
    let step = reader.next(&body).unwrap();
    assert_eq!(step.event, Some(ClientEvent::Piece(0..payload)));
    let step = reader.next(&body[payload..]).unwrap();
    assert_eq!(step.event, Some(ClientEvent::End));
    assert_eq!(step.consumed, wire - payload);
    assert!(reader.is_between_frames());
}
