//! Frames, blocks and answers.

use proptest::{collection::vec, prelude::*, sample::Index};

use crate::fuzzing::frames::{read_stream, read_whole};

use super::{
    super::{
        answers::AnswerReader,
        checksum::Checksum,
        cipher::{CbcDecryptor, CbcEncryptor, DecryptStream},
        frame::{FrameEncoder, pad_run},
        keys::SessionKey,
    },
    checksums, cuts, parse, read_answers, split,
};

/// Payloads, some with a known operation in front.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let ops = prop_oneof![
        Just(0x4403_da0d_u32),
        Just(0x3bac_409b),
        Just(0x5eb6_34a2),
        Just(0x1fcf_425d),
        Just(0x5730_a2df),
        Just(0x8430_eaa7),
        any::<u32>(),
    ];
    let words = prop_oneof![0..6_usize, 0..300_usize];
    (ops, words, any::<u8>()).prop_map(|(op, words, fill)| {
        let mut payload = op.to_le_bytes().to_vec();
        payload.extend((0..words * 4).map(|i| (i as u8).wrapping_mul(31) ^ fill));
        payload
    })
}

/// Bytes that are often right: frames, pads, and damage.
fn frame_bytes(seq: i32, checksum: Checksum) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => payloads().prop_map(Some),
        2 => Just(None),
    ];
    let damage = proptest::option::weighted(0.3, (any::<Index>(), any::<u8>()));
    (vec(piece, 0..8), damage, vec(any::<u8>(), 0..6)).prop_map(move |(pieces, damage, tail)| {
        let (mut encoder, mut out) = (FrameEncoder::new(seq, checksum), Vec::new());
        for piece in pieces {
            match piece {
                Some(payload) => {
                    let frame = encoder.frame(&mut out, |out| out.extend_from_slice(&payload));
                    frame.unwrap();
                }
                None => out.extend_from_slice(&[4, 0, 0, 0]),
            }
        }
        if let Some((at, with)) = damage
            && !out.is_empty()
        {
            let at = at.index(out.len());
            out[at] ^= with;
        }
        out.extend(tail);
        out
    })
}

proptest! {
    #[test]
    fn frames_are_the_same_however_they_arrive(
        (seq, checksum, wire) in (any::<i32>(), checksums())
            .prop_flat_map(|(seq, sum)| (Just(seq), Just(sum), frame_bytes(seq, sum))),
        cuts in cuts(),
    ) {
        let whole = read_whole(seq, checksum, &wire);
        prop_assert_eq!(read_stream(seq, checksum, &split(&wire, &cuts)), whole.clone());
        let bytes: Vec<&[u8]> = wire.chunks(1).collect();
        prop_assert_eq!(read_stream(seq, checksum, &bytes), whole);
    }

    #[test]
    fn frame_readers_survive_anything(wire in vec(any::<u8>(), 0..200), cuts in cuts()) {
        let whole = read_whole(-2, Checksum::Crc32, &wire);
        prop_assert_eq!(read_stream(-2, Checksum::Crc32, &split(&wire, &cuts)), whole);
    }

    #[test]
    fn answers_are_the_same_however_they_arrive(
        all in vec(payloads(), 0..6),
        cuts in cuts(),
        checksum in checksums(),
    ) {
        let key = SessionKey::from_input(&[1, 2, 3]);
        let (mut encoder, mut run) = (FrameEncoder::new(0, checksum), Vec::new());
        for payload in &all {
            encoder.frame(&mut run, |out| out.extend_from_slice(payload)).unwrap();
        }
        pad_run(&mut run, 0);
        CbcEncryptor::new(&key).encrypt(&mut run).unwrap();
        let mut decryptor = DecryptStream::new(CbcDecryptor::new(&key));
        let (mut reader, mut open) = (AnswerReader::new(0, checksum), None);
        let mut got = Vec::new();
        for piece in split(&run, &cuts) {
            let mut piece = piece.to_vec();
            let plain = decryptor.decrypt(&mut piece);
            if let Some(seam) = plain.seam {
                got.extend(read_answers(&mut reader, &seam, &mut open));
            }
            got.extend(read_answers(&mut reader, &piece[plain.body], &mut open));
        }
        prop_assert!(open.is_none() && reader.is_between_frames());
        prop_assert_eq!(got, all.iter().map(|payload| parse(payload)).collect::<Vec<_>>());
    }

    #[test]
    fn blocks_are_decrypted_however_they_arrive(plain in vec(any::<u8>(), 0..400), cuts in cuts()) {
        let key = SessionKey::from_input(&plain);
        let mut wire = plain.clone();
        wire.truncate(plain.len() / 16 * 16);
        CbcEncryptor::new(&key).encrypt(&mut wire).unwrap();
        let mut stream = DecryptStream::new(CbcDecryptor::new(&key));
        let mut got = Vec::new();
        for piece in split(&wire, &cuts) {
            let mut piece = piece.to_vec();
            let plain = stream.decrypt(&mut piece);
            got.extend(plain.seam.iter().flatten());
            got.extend_from_slice(&piece[plain.body]);
        }
        prop_assert_eq!(&got, &plain[..wire.len()]);
    }
}
