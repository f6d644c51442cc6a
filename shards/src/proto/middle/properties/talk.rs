//! Openings, and whole conversations with the far side.

use std::net::SocketAddr;

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    super::{
        super::framing::Framing,
        answers::Signal,
        far_side::{FarInput, FarSide, Request, write_ack, write_answer},
        frame::pad_run,
        handshake::ProcessId,
        opening::{MeChannel, MeOpening, OpeningError, OpeningInput},
        ops::{ConnId, Note},
        proxy_req::{AdTag, ProxyReq, flag},
        secret_file::ProxySecret,
    },
    Got, addrs, cuts, framings, read_answers, split,
};

fn opening(out: &mut Vec<u8>, secret: &ProxySecret) -> MeOpening {
    let input = OpeningInput {
        secret: secret.clone(),
        me: "149.154.175.50:8888".parse().unwrap(),
        proxy: "9.9.9.9:45678".parse().unwrap(),
        nonce: [5; 16],
        unix_secs: 1_700_000_000,
        pid: 4242,
        start_unix_secs: 1_600_000_000,
    };
    MeOpening::start(input, out).unwrap()
}

fn far(crc32c: bool, secret: &ProxySecret) -> FarSide {
    FarSide::new(FarInput {
        secret: secret.clone(),
        me: "149.154.175.50:8888".parse().unwrap(),
        proxy: "9.9.9.9:45678".parse().unwrap(),
        nonce: [6; 16],
        unix_secs: 1_700_000_009,
        pid: ProcessId::default(),
        crc32c,
    })
}

/// Runs an opening over what the ME sent, in these pieces; how it failed, if it did.
fn open(
    opening: &mut MeOpening,
    pieces: &[&[u8]],
) -> (Option<Box<MeChannel>>, Result<usize, OpeningError>) {
    let mut total = 0;
    for piece in pieces {
        match opening.receive(piece, &mut Vec::new()) {
            Ok(step) => {
                total += step.consumed;
                if step.ready.is_some() {
                    return (step.ready, Ok(total));
                }
                assert_eq!(step.consumed, piece.len());
            }
            Err(error) => return (None, Err(error)),
        }
    }
    (None, Ok(total))
}

/// Framing, then conn id, quick ack and tag, both addresses, and the message.
type Sent = (Framing, (u64, bool, bool), SocketAddr, SocketAddr, Vec<u32>);

fn messages() -> impl Strategy<Value = Sent> {
    let words = prop_oneof![Just(vec![0; 4]), vec(any::<u32>(), 0..60)];
    (
        framings(),
        any::<(u64, bool, bool)>(),
        addrs(),
        addrs(),
        words,
    )
}

proptest! {
    #[test]
    fn openings_survive_anything(
        random in vec(any::<u8>(), 0..200),
        keep in any::<Index>(),
        cuts in cuts(),
        crc32c in any::<bool>(),
        whole in any::<bool>(),
    ) {
        let secret = ProxySecret::new(&[7; 64], 256).unwrap();
        // A good conversation, cut off somewhere and followed by anything.
        let mut to_me = Vec::new();
        let mut good = opening(&mut to_me, &secret);
        let (mut far, mut wire) = (far(crc32c, &secret), Vec::new());
        far.receive(&to_me, &mut wire, &mut |_| {}).unwrap();
        to_me.clear();
        good.receive(&wire, &mut to_me).unwrap();
        far.receive(&to_me, &mut wire, &mut |_| {}).unwrap();
        let sent = wire.len();
        wire.truncate(if whole { sent } else { keep.index(sent) });
        wire.extend(random);
        let read = |pieces: &[&[u8]]| {
            let (channel, result) = open(&mut opening(&mut Vec::new(), &secret), pieces);
            (channel.map(|channel| channel.encoder), result)
        };
        let once = read(&[&wire]);
        if whole {
            prop_assert_eq!(once.1, Ok(sent));
        }
        prop_assert_eq!(read(&split(&wire, &cuts)), once);
    }

    #[test]
    fn both_ends_understand_each_other(
        messages in vec(messages(), 0..5),
        answers in vec((any::<u64>(), vec(any::<u32>(), 0..60)), 0..5),
        crc32c in any::<bool>(),
        cuts in cuts(),
    ) {
        let secret = ProxySecret::new(&[7; 128], 256).unwrap();
        let (mut to_me, mut to_proxy) = (Vec::new(), Vec::new());
        let mut opening = opening(&mut to_me, &secret);
        let mut far = far(crc32c, &secret);
        far.receive(&to_me, &mut to_proxy, &mut |_| {}).unwrap();
        to_me.clear();
        opening.receive(&to_proxy, &mut to_me).unwrap();
        to_proxy.clear();
        far.receive(&to_me, &mut to_proxy, &mut |_| {}).unwrap();
        // Data right behind the handshake, in the same segment and the same blocks.
        for (conn, words) in &answers {
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            far.queue(|out| write_answer(ConnId(*conn), 0x10, &data, out)).unwrap();
            far.queue(|out| write_ack(ConnId(*conn), 9, out)).unwrap();
            far.queue(|out| Note::Ping(*conn).write(out)).unwrap();
        }
        far.flush(&mut to_proxy);
        let step = opening.receive(&to_proxy, &mut Vec::new()).unwrap();
        let mut channel = step.ready.unwrap();
        let (mut got, mut half) = (Vec::new(), None);
        for piece in split(&to_proxy[step.consumed..], &cuts) {
            let mut piece = piece.to_vec();
            let plain = channel.decryptor.decrypt(&mut piece);
            if let Some(seam) = plain.seam {
                got.extend(read_answers(&mut channel.reader, &seam, &mut half));
            }
            got.extend(read_answers(&mut channel.reader, &piece[plain.body], &mut half));
        }
        prop_assert_eq!(got.len(), answers.len() * 3);
        let ignored = |one: &Got| matches!(one, Got::Signal(Signal::Ignored { .. }));
        prop_assert!(!got.iter().any(ignored));

        let mut run = Vec::new();
        for (framing, (conn, quick_ack, tag), client, ours, words) in &messages {
            let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let req = ProxyReq {
                conn: ConnId(*conn),
                client: *client,
                ours: *ours,
                framing: *framing,
                ad_tag: tag.then_some(AdTag([3; 16])),
            };
            let pieces = split(&data, &cuts);
            req.frame(&mut channel.encoder, *quick_ack, &pieces, &mut run).unwrap();
        }
        pad_run(&mut run, 0);
        channel.encryptor.encrypt(&mut run).unwrap();
        let mut left = messages.iter();
        for piece in split(&run, &cuts) {
            far.receive(piece, &mut Vec::new(), &mut |request| {
                let Request::Message(got) = request else { panic!("{request:?}") };
                let (_, (conn, quick_ack, tag), client, ours, words) = left.next().unwrap();
                let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                assert_eq!((got.conn, got.client, got.proxy), (ConnId(*conn), *client, *ours));
                assert_eq!(got.ad_tag, tag.then_some(AdTag([3; 16])));
                assert_eq!(got.flags & flag::QUICK_ACK != 0, *quick_ack);
                let zeros = data.len() >= 8 && data[..8] == [0; 8];
                assert_eq!(got.flags & flag::UNENCRYPTED != 0, zeros);
                assert_eq!(got.data, data);
            }).unwrap();
        }
        prop_assert!(left.next().is_none());
    }
}
