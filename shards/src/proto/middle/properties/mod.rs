//! Properties every decoder of the ME leg keeps: any bytes are survived, any split of the input
//! gives the same result, what was encoded is decoded. Here is what the three files share.

mod files;
mod frames;
mod talk;

use std::net::{IpAddr, SocketAddr};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    super::framing::Framing,
    answers::{Answer, AnswerEvent, AnswerReader, Signal},
    checksum::Checksum,
    ops::ConnId,
};

/// `data` cut at these places, in order; pieces may be empty.
fn split<'a>(data: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
    at.extend([0, data.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &data[pair[0]..pair[1]]).collect()
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    vec(any::<Index>(), 0..12)
}

fn checksums() -> impl Strategy<Value = Checksum> {
    prop_oneof![Just(Checksum::Crc32), Just(Checksum::Crc32c)]
}

fn framings() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::Abridged),
        Just(Framing::Intermediate),
        Just(Framing::Padded)
    ]
}

fn addrs() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| (IpAddr::from(ip), port)),
        any::<([u8; 16], u16)>().prop_map(|(ip, port)| (IpAddr::from(ip).to_canonical(), port)),
    ]
    .prop_map(SocketAddr::from)
}

#[derive(Clone, Debug, PartialEq)]
enum Got {
    Data(ConnId, u32, Vec<u8>),
    Signal(Signal),
}

fn parse(payload: &[u8]) -> Got {
    match Answer::parse(payload) {
        Answer::Data { conn, flags, data } => Got::Data(conn, flags, data.to_vec()),
        Answer::Signal(signal) => Got::Signal(signal),
    }
}

fn read_answers(reader: &mut AnswerReader, input: &[u8], open: &mut Option<Got>) -> Vec<Got> {
    let (mut rest, mut all) = (input, Vec::new());
    loop {
        let step = reader.next(rest).unwrap();
        match step.event {
            Some(AnswerEvent::Data {
                conn,
                flags,
                data_bytes,
            }) => {
                let data = Vec::with_capacity(data_bytes as usize);
                assert!(open.replace(Got::Data(conn, flags, data)).is_none());
            }
            Some(AnswerEvent::Piece(at)) => match open {
                Some(Got::Data(_, _, data)) => data.extend_from_slice(&rest[at]),
                _ => panic!("a piece of nothing"),
            },
            Some(AnswerEvent::DataEnd) => all.extend(open.take()),
            Some(AnswerEvent::Signal(signal)) => all.push(Got::Signal(signal)),
            None => {
                assert_eq!(step.consumed, rest.len());
                return all;
            }
        }
        rest = &rest[step.consumed..];
    }
}
