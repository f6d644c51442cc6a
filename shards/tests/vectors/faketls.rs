//! `faketls_hello`, `faketls_hello_checks`, `faketls_server`, `faketls_server_invalid`,
//! `faketls_records`, `tls_alerts`.

use shards::proto::{
    crypto::HmacKey,
    faketls::{
        client_hello::{check_skew, hello_len, parse_fields, replay_key, verify, zero_random},
        record::{
            ALERT_DECODE_ERROR, ALERT_UNRECOGNIZED_NAME, CHANGE_CIPHER_SPEC, Compacted,
            RecordReader, encode, header,
        },
        server_hello::{Answer, AnswerError, Group, answer, check_answer},
    },
    obfuscated2::client_keys,
};

use super::{CLIENT, array, bytes, list, named, secret, text};

#[test]
fn hellos_are_accepted() {
    for entry in list("faketls_hello") {
        let name = text(entry, "name");
        let mut record = bytes(entry, "record");
        assert_eq!(hello_len(&record), Ok(Some(record.len())), "{name}");
        let key = HmacKey::new(&secret(entry));
        let random = zero_random(&mut record);
        assert_eq!(random, array(entry, "client_random"), "{name}");
        assert_eq!(key.mac(&[&record]), array(entry, "hmac"), "{name}");
        let time = u32::try_from(entry["timestamp"].as_u64().unwrap()).unwrap();
        assert_eq!(verify(&record, &random, &key), Some(time), "{name}");
        assert_eq!(replay_key(&random), array(entry, "replay_key"), "{name}");
    }
}

#[test]
fn hello_fields_are_read() {
    for entry in list("faketls_hello") {
        let (name, record) = (text(entry, "name"), bytes(entry, "record"));
        let fields = parse_fields(&record);
        assert_eq!(fields.session_id, bytes(entry, "session_id"), "{name}");
        assert_eq!(fields.sni, entry["sni"].as_str(), "{name}");
        let alpn: Vec<_> = fields
            .alpn
            .unwrap()
            .names()
            .map(String::from_utf8_lossy)
            .collect();
        let want: Vec<_> = entry["alpn"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap())
            .collect();
        assert_eq!(alpn, want, "{name}");
        let suite = fields.suite.to_be_bytes().to_vec();
        assert_eq!(suite, bytes(entry, "first_suite_after_grease"), "{name}");
        let offers = |group: &str| {
            entry["key_share_groups"]
                .as_array()
                .unwrap()
                .iter()
                .any(|g| g == group)
        };
        assert_eq!(
            (fields.x25519, fields.mlkem),
            (offers("001d"), offers("11ec")),
            "{name}"
        );
        assert!(fields.tls13, "{name}");
    }
}

#[test]
fn hello_checks_are_judged() {
    for entry in list("faketls_hello_checks") {
        let name = text(entry, "name");
        let mut record = bytes(entry, "record");
        assert!(hello_len(&record).is_ok(), "{name}");
        let random = zero_random(&mut record);
        let key = HmacKey::new(&secret(entry));
        assert_eq!(key.mac(&[&record]), array(entry, "hmac"), "{name}");
        let time = verify(&record, &random, &key);
        let want = entry["timestamp"]
            .as_u64()
            .map(|t| u32::try_from(t).unwrap());
        assert_eq!(time, want, "{name}");
        let Some(time) = time else { continue };
        let skew = check_skew(time, entry["clock"].as_u64().unwrap(), Some(120));
        if name == "restamped" {
            assert_eq!(skew, Ok(()));
            let original = array(
                named("faketls_hello", text(entry, "same_replay_key_as")),
                "client_random",
            );
            assert_eq!(replay_key(&random), replay_key(&original));
            assert_eq!(replay_key(&random), array(entry, "replay_key"));
        } else {
            assert!(skew.is_err(), "{name}");
        }
    }
}

#[test]
fn answers_are_reproduced_and_accepted() {
    for entry in list("faketls_server") {
        let name = text(entry, "name");
        let zeroed = bytes(entry, "flight_with_zero_random");
        let hybrid = name == "mlkem_hybrid";
        let group = if hybrid { Group::Hybrid } else { Group::X25519 };
        let hello_bytes = entry["server_hello_record_len"].as_u64().unwrap() as usize;
        let key_share_first = zeroed[81..83] == [0x00, 0x33];
        let key_share_at = if key_share_first { 89 } else { 95 };
        let suite = bytes(entry, "cipher_suite");
        let random_at = hello_bytes + 11;
        let a = Answer {
            session_id: &zeroed[44..76],
            suite: u16::from_be_bytes([suite[0], suite[1]]),
            group,
            key_share: &zeroed[key_share_at..key_share_at + group.key_share_bytes()],
            flight_bytes: entry["application_record_payload_len"].as_u64().unwrap() as usize,
            key_share_first,
        };
        let key = HmacKey::new(&secret(entry));
        let client_random = array(entry, "client_random");
        let mut out = Vec::new();
        answer(&mut out, &key, &client_random, &a, &mut |c| {
            c.copy_from_slice(&zeroed[random_at..])
        });
        assert_eq!(out, bytes(entry, "flight"), "{name}");
        assert_eq!(out[11..43], array::<32>(entry, "server_random"), "{name}");
        assert_eq!(
            key.mac(&[&bytes(entry, "hmac_input")]),
            array(entry, "server_random"),
            "{name}"
        );
        let total = entry["total_len"].as_u64().unwrap() as usize;
        assert_eq!(
            check_answer(&out, &key, &client_random),
            Ok(Some(total)),
            "{name}"
        );
        let hello = named("faketls_hello", text(entry, "for_hello"));
        assert_eq!(
            parse_fields(&bytes(hello, "record")).session_id,
            a.session_id,
            "{name}"
        );
    }
}

#[test]
fn surplus_records_are_noticed() {
    let genuine = named("faketls_server", "x25519_key_share_first");
    let key = HmacKey::new(&secret(genuine));
    let client_random = array(genuine, "client_random");
    let outside = bytes(
        named("faketls_server_invalid", "extra_record_outside_hmac"),
        "flight",
    );
    let total = bytes(genuine, "flight").len();
    assert!(outside.len() > total);
    assert_eq!(
        check_answer(&outside, &key, &client_random),
        Ok(Some(total))
    );
    let inside = bytes(
        named("faketls_server_invalid", "extra_record_inside_hmac"),
        "flight",
    );
    assert_eq!(
        check_answer(&inside, &key, &client_random),
        Err(AnswerError::Mac)
    );
}

#[test]
fn records_carry_the_obfuscated2_stream() {
    let case = &CLIENT["faketls_records"];
    let client = named("obfuscated2_client", text(case, "client_case"));
    let stream = [
        bytes(client, "wire_header"),
        bytes(client, "uplink_frame_wire"),
    ]
    .concat();
    for field in [
        "client_first_record",
        "client_first_flight",
        "split_header_flight",
    ] {
        let wire = bytes(case, field);
        for cut in 0..=wire.len() {
            let mut reader = RecordReader::new();
            let mut got: Vec<u8> = Vec::new();
            for piece in [&wire[..cut], &wire[cut..]] {
                let mut piece = piece.to_vec();
                let Compacted { payload, ended } = reader.compact(&mut piece).unwrap();
                assert!(!ended);
                got.extend(&piece[..payload]);
            }
            assert_eq!(got, stream, "{field} cut at {cut}");
            assert!(reader.is_between_records());
        }
    }
    let mut written = CHANGE_CIPHER_SPEC.to_vec();
    assert_eq!(written, bytes(case, "client_ccs"));
    encode(&mut written, &stream, 2878);
    assert_eq!(written, bytes(case, "client_first_flight"));
}

#[test]
fn our_first_record_is_reproduced() {
    let case = &CLIENT["faketls_records"];
    let client = named("obfuscated2_client", text(case, "client_case"));
    let mut payload = bytes(client, "downlink_frame_plain");
    client_keys(&array(client, "wire_header"), &secret(client))
        .p2c()
        .apply(&mut payload);
    let record = [&header(payload.len())[..], &payload].concat();
    assert_eq!(record, bytes(case, "server_first_record"));
}

#[test]
fn alerts_are_whole_records() {
    let case = &CLIENT["tls_alerts"];
    assert_eq!(
        ALERT_UNRECOGNIZED_NAME.to_vec(),
        bytes(case, "unrecognized_name")
    );
    assert_eq!(ALERT_DECODE_ERROR.to_vec(), bytes(case, "decode_error"));
}
