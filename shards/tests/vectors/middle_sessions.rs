//! `sessions` of `middle.json`: whole conversations, from both ends, and what becomes of them when
//! they are cut or damaged.

use std::sync::Arc;

use serde_json::Value;
use shards::proto::middle::{
    answers::{Answer, AnswerEvent, AnswerReader, Signal},
    cipher::{CbcDecryptor, CbcEncryptor, DecryptStream},
    far_side::{FarInput, FarSide, Request, write_ack, write_answer, write_close},
    frame::pad_run,
    handshake::{FLAG_CRC32C, Handshake},
    keys::{KeyMaterial, Purpose, SessionKey},
    nonce::Nonce,
    opening::{MeChannel, MeOpening, OpeningInput, OpeningStage},
    ops::{ConnId, Note},
};

use super::{
    array, bytes,
    middle::{addr, checksum, number, rewrite_message, secret},
    text,
};

pub(crate) fn session(entry: &Value) {
    keys(entry);
    steps_alone(entry);
    proxy_side(entry);
    far_side(entry);
    cut_anywhere(entry);
    damaged(entry);
}

fn steps(entry: &Value) -> &[Value] {
    entry["steps"].as_array().expect("steps")
}

fn frames(step: &Value) -> &[Value] {
    step["frames"].as_array().expect("frames")
}

fn is_to_me(step: &Value) -> bool {
    match text(step, "dir") {
        "proxy_to_me" => true,
        "me_to_proxy" => false,
        other => panic!("no direction {other}"),
    }
}

/// Payload of the first frame of a step.
fn payload(entry: &Value, step: usize) -> Vec<u8> {
    bytes(&frames(&steps(entry)[step])[0], "payload")
}

fn key_of(entry: &Value, direction: &str) -> SessionKey {
    let keys = &entry["keys"][direction];
    SessionKey {
        key: array(keys, "key"),
        iv: array(keys, "iv"),
    }
}

fn keys(entry: &Value) {
    let inputs = &entry["inputs"];
    let secret = secret(inputs);
    assert_eq!(
        secret.selector().to_le_bytes().to_vec(),
        bytes(inputs, "key_selector")
    );
    let material = KeyMaterial {
        secret: &secret,
        me: addr(inputs, "me"),
        proxy: addr(inputs, "proxy"),
        me_nonce: array(inputs, "me_nonce"),
        proxy_nonce: array(inputs, "proxy_nonce"),
        proxy_unix_secs: number(inputs, "proxy_ts"),
    };
    for (direction, purpose) in [
        ("proxy_to_me", Purpose::ToMe),
        ("me_to_proxy", Purpose::ToProxy),
    ] {
        let input = material.input(purpose).unwrap();
        assert_eq!(input, bytes(&entry["keys"][direction], "kdf_input"));
        assert!(material.derive(purpose).unwrap() == key_of(entry, direction));
    }
}

/// Padding, and the cipher from the IV of each step.
fn steps_alone(entry: &Value) {
    for step in steps(entry).iter().skip(2) {
        let mut run: Vec<u8> = frames(step)
            .iter()
            .flat_map(|frame| bytes(frame, "frame"))
            .collect();
        let unpadded = run.len();
        pad_run(&mut run, 0);
        assert_eq!(
            (run.len() - unpadded) / 4,
            number::<usize>(step, "pad_words")
        );
        let (plain, wire) = (bytes(step, "plain"), bytes(step, "wire"));
        assert_eq!(run, plain);
        let key = SessionKey {
            key: key_of(entry, text(step, "dir")).key,
            iv: array(step, "iv_before"),
        };
        CbcEncryptor::new(&key).encrypt(&mut run).unwrap();
        assert_eq!(run, wire);
        assert_eq!(run[run.len() - 16..], bytes(step, "iv_after"));
        assert_eq!(CbcDecryptor::new(&key).decrypt(&mut run), plain.len());
        assert_eq!(run, plain);
    }
}

fn opening(entry: &Value, out: &mut Vec<u8>) -> MeOpening {
    let inputs = &entry["inputs"];
    // Pid and start are told nowhere else.
    let ours = Handshake::decode(&payload(entry, 2)).unwrap();
    let input = OpeningInput {
        secret: secret(inputs),
        me: addr(inputs, "me"),
        proxy: addr(inputs, "proxy"),
        nonce: array(inputs, "proxy_nonce"),
        unix_secs: number(inputs, "proxy_ts"),
        pid: 0x0007_0000 | u32::from(ours.sender.pid),
        start_unix_secs: ours.sender.start_unix_secs,
    };
    MeOpening::start(input, out).unwrap()
}

/// Every byte the proxy sends, made by its own side.
fn proxy_side(entry: &Value) {
    let mut sent = Vec::new();
    let mut opening = opening(entry, &mut sent);
    let mut channel: Option<Box<MeChannel>> = None;
    let mut got = Vec::new();
    for step in steps(entry) {
        let wire = bytes(step, "wire");
        match (&mut channel, is_to_me(step)) {
            (None, true) => assert_eq!(std::mem::take(&mut sent), wire),
            (None, false) => {
                let step = opening.receive(&wire, &mut sent).unwrap();
                assert_eq!(step.consumed, wire.len());
                channel = step.ready;
            }
            (Some(channel), true) => assert_eq!(send(channel, step), wire),
            (Some(channel), false) => {
                read(&mut channel.decryptor, &mut channel.reader, &wire, &mut got).unwrap();
            }
        }
    }
    assert_eq!(opening.stage(), OpeningStage::Done);
    let channel = channel.unwrap();
    let first_data = &frames(&steps(entry)[4])[0];
    assert_eq!(channel.encoder.checksum(), checksum(first_data));
    assert_eq!(channel.reader.checksum(), checksum(first_data));
    assert_eq!(got, answers(entry));
}

/// A step's frames, written from what they mean.
fn send(channel: &mut MeChannel, step: &Value) -> Vec<u8> {
    let mut run = Vec::new();
    for frame in frames(step) {
        let payload = bytes(frame, "payload");
        let ours = match Request::parse(&payload) {
            Request::Message(_) => rewrite_message(&payload),
            Request::Close(conn) => written(|out| Note::CloseConn(conn).write(out)),
            Request::Ping(id) => written(|out| Note::Ping(id).write(out)),
            Request::Pong(id) => written(|out| Note::Pong(id).write(out)),
            Request::Ignored { op } => panic!("operation {op:x}"),
        };
        assert_eq!(ours, payload, "{}", text(frame, "name"));
        let frame = channel
            .encoder
            .frame(&mut run, |out| out.extend_from_slice(&ours));
        frame.unwrap();
    }
    pad_run(&mut run, 0);
    channel.encryptor.encrypt(&mut run).unwrap();
    run
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// What came: `None` is a message still open.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Open(ConnId, u32, Vec<u8>),
    Data(ConnId, u32, Vec<u8>),
    Signal(Signal),
}

fn answers(entry: &Value) -> Vec<Got> {
    let later = steps(entry).iter().skip(4).filter(|step| !is_to_me(step));
    let payloads = later.flat_map(|step| frames(step).iter().map(|f| bytes(f, "payload")));
    let got = payloads.map(|payload| match Answer::parse(&payload) {
        Answer::Data { conn, flags, data } => Got::Data(conn, flags, data.to_vec()),
        Answer::Signal(signal) => Got::Signal(signal),
    });
    got.collect()
}

fn read(
    decryptor: &mut DecryptStream,
    reader: &mut AnswerReader,
    wire: &[u8],
    got: &mut Vec<Got>,
) -> Result<(), String> {
    let mut wire = wire.to_vec();
    let plain = decryptor.decrypt(&mut wire);
    let seam = plain.seam.unwrap_or_default();
    let seam = &seam[..if plain.seam.is_some() { 16 } else { 0 }];
    for mut rest in [seam, &wire[plain.body]] {
        loop {
            let step = reader.next(rest).map_err(|error| error.to_string())?;
            let input = rest;
            rest = &rest[step.consumed..];
            match (step.event, got.last_mut()) {
                (None, _) => break,
                (Some(AnswerEvent::Data { conn, flags, .. }), _) => {
                    got.push(Got::Open(conn, flags, Vec::new()));
                }
                (Some(AnswerEvent::Piece(at)), Some(Got::Open(_, _, data))) => {
                    data.extend_from_slice(&input[at]);
                }
                (Some(AnswerEvent::DataEnd), Some(last)) => {
                    let Got::Open(conn, flags, data) = last.clone() else {
                        panic!("ends what had not begun");
                    };
                    *last = Got::Data(conn, flags, data);
                }
                (Some(AnswerEvent::Signal(signal)), _) => got.push(Got::Signal(signal)),
                (event, last) => panic!("{event:?} behind {last:?}"),
            }
        }
        assert!(rest.is_empty());
    }
    Ok(())
}

/// Every byte the ME sends, made by the far side, which also reads all of the proxy's.
fn far_side(entry: &Value) {
    let inputs = &entry["inputs"];
    let theirs = Handshake::decode(&payload(entry, 3)).unwrap();
    let mut far = FarSide::new(FarInput {
        secret: secret(inputs),
        me: addr(inputs, "me"),
        proxy: addr(inputs, "proxy"),
        nonce: array(inputs, "me_nonce"),
        unix_secs: number(inputs, "me_ts"),
        pid: theirs.sender,
        crc32c: theirs.flags & FLAG_CRC32C != 0,
    });
    let (mut out, mut requests) = (Vec::new(), 0);
    for step in steps(entry) {
        let wire = bytes(step, "wire");
        if is_to_me(step) {
            let mut got = |request: Request<'_>| {
                assert!(!matches!(request, Request::Ignored { .. }));
                requests += 1;
            };
            far.receive(&wire, &mut out, &mut got).unwrap();
        } else {
            if out.is_empty() {
                queue(&mut far, step);
                far.flush(&mut out);
            }
            assert_eq!(std::mem::take(&mut out), wire);
        }
    }
    assert!(far.is_open());
    let sent = steps(entry).iter().skip(4).filter(|step| is_to_me(step));
    assert_eq!(requests, sent.map(|step| frames(step).len()).sum::<usize>());
}

fn queue(far: &mut FarSide, step: &Value) {
    for frame in frames(step) {
        let payload = bytes(frame, "payload");
        let queued = far.queue(|out| match Answer::parse(&payload) {
            Answer::Data { conn, flags, data } => write_answer(conn, flags, data, out),
            Answer::Signal(Signal::Ack { conn, confirm }) => write_ack(conn, confirm, out),
            Answer::Signal(Signal::Close { conn }) => write_close(conn, out),
            Answer::Signal(Signal::Ping { id }) => Note::Ping(id).write(out),
            Answer::Signal(Signal::Pong { id }) => Note::Pong(id).write(out),
            Answer::Signal(Signal::Ignored { op }) => panic!("operation {op:x}"),
        });
        queued.unwrap();
    }
}

/// The whole of what the ME sends, in these pieces; what the proxy got, and why it closed.
fn replay<'a>(entry: &Value, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Got>, Option<String>) {
    let mut sent = Vec::new();
    let mut opening = opening(entry, &mut sent);
    let mut channel: Option<Box<MeChannel>> = None;
    let mut got = Vec::new();
    for mut piece in pieces {
        if channel.is_none() {
            match opening.receive(piece, &mut sent) {
                Ok(step) => {
                    piece = &piece[step.consumed..];
                    channel = step.ready;
                }
                Err(error) => return (got, Some(error.to_string())),
            }
        }
        if let Some(channel) = &mut channel {
            let read = read(&mut channel.decryptor, &mut channel.reader, piece, &mut got);
            if let Err(error) = read {
                return (got, Some(error));
            }
        }
    }
    (got, None)
}

fn cut_anywhere(entry: &Value) {
    let stream: Arc<[u8]> = bytes(&entry["streams"], "me_to_proxy").into();
    let joined: Vec<u8> = steps(entry)
        .iter()
        .filter(|step| !is_to_me(step))
        .flat_map(|step| bytes(step, "wire"))
        .collect();
    assert_eq!(joined, *stream);
    let want = (answers(entry), None);
    for cut in 0..=stream.len() {
        let (front, back) = stream.split_at(cut);
        assert_eq!(replay(entry, [front, back].into_iter()), want, "cut {cut}");
    }
    for size in 1..40 {
        assert_eq!(
            replay(entry, stream.chunks(size)),
            want,
            "{size} bytes each"
        );
    }
}

/// Any flipped bit behind the NONCE ends in an error or in a last frame that never comes.
fn damaged(entry: &Value) {
    let stream = bytes(&entry["streams"], "me_to_proxy");
    let nonce = bytes(&steps(entry)[1], "wire").len();
    Nonce::decode(&payload(entry, 1)).unwrap();
    let want = answers(entry);
    for at in nonce..stream.len() {
        for bit in 0..8 {
            let mut stream = stream.clone();
            stream[at] ^= 1 << bit;
            let (got, error) = replay(entry, std::iter::once(&stream[..]));
            let last_came = got.len() >= want.len() && got.last() == want.last();
            assert!(error.is_some() || !last_came, "byte {at} bit {bit}");
        }
    }
}
