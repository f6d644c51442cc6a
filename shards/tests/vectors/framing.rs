//! `frames`, `frames_invalid`, `error_frames`, `quick_ack_downlink`.

use shards::proto::framing::{Control, FrameError, FrameEvent, FrameReader, Framing, Side};

use super::{CLIENT, bytes, framing, list, text};

/// A frame read whole: payload and quick-ack request. Panics on anything but one frame.
fn read_one(framing: Framing, side: Side, wire: &[u8]) -> Result<(Vec<u8>, bool), FrameError> {
    let mut reader = FrameReader::new(framing, side);
    let (mut rest, mut payload, mut ack, mut ended) = (wire, Vec::new(), None, false);
    loop {
        let step = reader.next(rest)?;
        rest = &rest[step.consumed..];
        match step.event {
            Some(FrameEvent::Begin {
                payload_bytes,
                quick_ack,
            }) => {
                assert_eq!(ack.replace(quick_ack), None);
                payload.reserve(payload_bytes as usize);
            }
            Some(FrameEvent::Payload(piece)) => payload.extend(piece),
            Some(FrameEvent::End) => ended = true,
            Some(FrameEvent::QuickAck(token)) => panic!("token {token:x}"),
            None => break,
        }
    }
    assert!(ended && rest.is_empty() && reader.is_between_frames());
    Ok((payload, ack.expect("a frame began")))
}

#[test]
fn frames_are_written_and_read() {
    for entry in list("frames") {
        let name = text(entry, "name");
        let (payload, wire) = (bytes(entry, "payload"), bytes(entry, "wire"));
        let padding = entry["padding"].as_str().map(|_| bytes(entry, "padding"));
        let quick_ack = entry["quick_ack"].as_bool().unwrap_or(false);
        let mut out = Vec::new();
        let padding = padding.unwrap_or_default();
        framing(entry)
            .encode(&payload, &padding, quick_ack, &mut out)
            .unwrap();
        assert_eq!(out, wire, "{name}");
        let (got, got_ack) = read_one(framing(entry), Side::Uplink, &wire).unwrap();
        let want = entry["recovered_len_by_mask"]
            .as_u64()
            .unwrap_or(payload.len() as u64);
        assert_eq!((got.len() as u64, got_ack), (want, quick_ack), "{name}");
        assert_eq!(got[..payload.len()], payload, "{name}");
    }
}

#[test]
fn invalid_frames_are_refused() {
    for entry in list("frames_invalid") {
        for side in [Side::Uplink, Side::Downlink] {
            let mut reader = FrameReader::new(framing(entry), side);
            assert!(
                reader.next(&bytes(entry, "wire")).is_err(),
                "{}",
                entry["why"]
            );
        }
    }
}

#[test]
fn errors_are_ordinary_frames() {
    for entry in list("error_frames") {
        let code = i32::try_from(entry["code"].as_i64().unwrap()).unwrap();
        assert_eq!(bytes(entry, "payload"), code.to_le_bytes());
        for (field, framing) in [
            ("abridged", Framing::Abridged),
            ("intermediate", Framing::Intermediate),
            ("padded_no_padding", Framing::Padded),
            ("padded_3", Framing::Padded),
        ] {
            let wire = bytes(entry, field);
            let (payload, _) = read_one(framing, Side::Downlink, &wire).unwrap();
            assert_eq!(
                Control::parse(&payload),
                Some(Control::Error(code)),
                "{field}"
            );
            let padding = if field == "padded_3" { &wire[8..] } else { &[] };
            let mut out = Vec::new();
            framing.encode(&payload, padding, false, &mut out).unwrap();
            assert_eq!(out, wire, "{field}");
        }
    }
}

#[test]
fn quick_ack_tokens_replace_frames() {
    let case = &CLIENT["quick_ack_downlink"];
    let token = u32::try_from(case["token_u32"].as_u64().unwrap()).unwrap();
    for (field, framing) in [
        ("abridged", Framing::Abridged),
        ("intermediate", Framing::Intermediate),
        ("padded", Framing::Padded),
    ] {
        let wire = bytes(case, field);
        assert_eq!(framing.encode_quick_ack(token).to_vec(), wire, "{field}");
        let step = FrameReader::new(framing, Side::Downlink)
            .next(&wire)
            .unwrap();
        assert_eq!(step.event, Some(FrameEvent::QuickAck(token)), "{field}");
        assert_eq!(step.consumed, 4, "{field}");
    }
    let framed = bytes(case, "framed_padded_no_padding");
    let (payload, _) = read_one(Framing::Padded, Side::Downlink, &framed).unwrap();
    assert_eq!(payload, bytes(case, "framed_payload"));
    assert_eq!(Control::parse(&payload), Some(Control::QuickAck(token)));
}
