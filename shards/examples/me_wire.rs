//! What the middle-proxy wire costs one core: `cargo run --release -p shards --example me_wire`.
//!
//! Each row is the best of many rounds of a millisecond: on a busy machine some are undisturbed.
#![expect(clippy::unwrap_used, reason = "a measurement")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use shards::proto::{
    framing::Framing,
    middle::{
        answers::AnswerReader,
        checksum::Checksum,
        cipher::{CbcDecryptor, CbcEncryptor, DecryptStream, Run, encrypt_lockstep},
        far_side::write_answer,
        frame::{FrameEncoder, pad_run},
        keys::SessionKey,
        ops::ConnId,
        proxy_req::{AdTag, ProxyReq},
    },
};

fn main() {
    for bytes in [160, 4096, 65_536] {
        for lanes in [1, 2, 3, 4, 5, 6, 7, 12] {
            lockstep(lanes, bytes);
        }
        decrypt(bytes);
    }
    for bytes in [64, 1024, 16_384, 262_144] {
        requests(bytes);
        answers(bytes);
    }
}

/// Prints the best round of `work`, which handles `bytes` bytes in `items` items.
fn report(name: &str, bytes: usize, items: usize, mut work: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..300 {
        let (start, mut times) = (Instant::now(), 0_u32);
        while start.elapsed() < Duration::from_millis(1) {
            work();
            times += 1;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(times));
    }
    let (speed, each) = (bytes as f64 / best / 1e6, best * 1e9 / items as f64);
    println!("{name:<44}{speed:>10.0} MB/s{each:>12.0} ns each");
}

fn key(n: usize) -> SessionKey {
    SessionKey::from_input(&[n as u8; 60])
}

fn lockstep(lanes: usize, bytes: usize) {
    let mut ciphers: Vec<_> = (0..lanes).map(|n| CbcEncryptor::new(&key(n))).collect();
    let mut data = vec![vec![7; bytes]; lanes];
    report(
        &format!("CBC encrypt, {lanes} streams of {bytes} B"),
        lanes * bytes,
        lanes,
        || {
            let runs = ciphers.iter_mut().zip(black_box(&mut data));
            let mut runs: Vec<_> = runs.map(|(c, run)| Run::new(c, run).unwrap()).collect();
            encrypt_lockstep(&mut runs);
        },
    );
}

fn decrypt(bytes: usize) {
    let mut stream = DecryptStream::new(CbcDecryptor::new(&key(1)));
    let mut data = vec![7; bytes];
    report(&format!("CBC decrypt of {bytes} B"), bytes, 1, || {
        black_box(stream.decrypt(black_box(&mut data)));
    });
}

/// Messages of clients framed into one run, without the cipher.
fn requests(bytes: usize) {
    let req = ProxyReq {
        conn: ConnId(5),
        client: "203.0.113.5:1234".parse().unwrap(),
        ours: "198.51.100.5:443".parse().unwrap(),
        framing: Framing::Padded,
        ad_tag: Some(AdTag([1; 16])),
    };
    let message = vec![7; bytes];
    let (mut run, mut encoder) = (Vec::new(), FrameEncoder::new(0, Checksum::Crc32c));
    report(
        &format!("PROXY_REQ of {bytes} B framed"),
        16 * bytes,
        16,
        || {
            run.clear();
            for _ in 0..16 {
                req.frame(&mut encoder, false, black_box(&[&message]), &mut run)
                    .unwrap();
            }
            pad_run(&mut run, 0);
        },
    );
}

/// Decrypted answers read out of one buffer, without the cipher.
fn answers(bytes: usize) {
    let message = vec![7; bytes];
    for checksum in [Checksum::Crc32, Checksum::Crc32c] {
        let (mut run, mut encoder) = (Vec::new(), FrameEncoder::new(0, checksum));
        for _ in 0..16 {
            encoder
                .frame(&mut run, |out| write_answer(ConnId(5), 0, &message, out))
                .unwrap();
        }
        let frame_bytes = run.len() / 16;
        for (how, first) in [("whole", run.len()), ("cut", frame_bytes - 4)] {
            // Cut: every frame's checksum comes in another input.
            let name = format!("PROXY_ANS of {bytes} B read {how}, {checksum:?}");
            report(&name, 16 * bytes, 16, || {
                let mut reader = AnswerReader::new(0, checksum);
                let mut rest = black_box(&run[..]);
                let mut piece = first;
                while !rest.is_empty() {
                    let (now, later) = rest.split_at(piece.min(rest.len()));
                    read(&mut reader, now);
                    (rest, piece) = (later, frame_bytes);
                }
            });
        }
    }
}

fn read(reader: &mut AnswerReader, mut rest: &[u8]) {
    loop {
        let step = reader.next(rest).unwrap();
        rest = rest.get(step.consumed..).unwrap_or_default();
        if black_box(&step).event.is_none() {
            break;
        }
    }
}
