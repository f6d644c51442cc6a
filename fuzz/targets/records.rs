//! The reader of a FakeTLS client's records: any cut gives the same payload, end and error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pinnace_fuzz::{Choices, pieces};
use shards::proto::faketls::record::{PAYLOAD_MAX, RecordError, RecordReader, encode};

fuzz_target!(|input: &[u8]| {
    let mut choices = Choices::new(input);
    let (seed, record_max) = (choices.byte(), choices.word());
    let wire = choices.rest();
    let whole = read(&[wire]);
    assert_eq!(read(&pieces(seed, wire)), whole);
    assert_eq!(read(&pieces(1, wire)), whole);

    // What is written is read.
    let mut records = Vec::new();
    let record_max = usize::from(record_max);
    encode(&mut records, wire, record_max);
    let most = record_max.clamp(1, PAYLOAD_MAX);
    assert_eq!(records.len(), wire.len() + 5 * wire.len().div_ceil(most));
    assert_eq!(read(&pieces(seed, &records)), Ok((wire.to_vec(), false)));
});

fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), RecordError> {
    let mut reader = RecordReader::new();
    let (mut out, mut ended) = (Vec::new(), false);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let got = reader.compact(&mut piece)?;
        assert!(!ended || (got.ended && got.payload == 0));
        out.extend_from_slice(&piece[..got.payload]);
        ended = got.ended;
    }
    Ok((out, ended))
}
