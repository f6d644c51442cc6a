//! The least that makes a DC answer: an opening and the first message of a client without keys.
//!
//! For probes. Nothing of the answer is needed but that it comes. Source: protocol.md 4.1, 5.1;
//! the message is `req_pq_multi` of MTProto itself, unencrypted.

use super::{
    dc::DcId,
    framing::Framing,
    obfuscated2::{HEADER_BYTES, Opening, dc_header},
};

/// All bytes to send to the DC, encrypted as a client's. `random` fills a buffer with random bytes;
/// `unix_secs` is our clock.
pub(crate) fn key_request(random: &mut dyn FnMut(&mut [u8]), dc: DcId, unix_secs: u64) -> Vec<u8> {
    let framing = Framing::Intermediate;
    let mut header = dc_header(random, &Opening { framing, dc }, None);
    let mut out = Vec::with_capacity(HEADER_BYTES + LENGTH_BYTES + MESSAGE_BYTES);
    out.extend_from_slice(&header.wire);
    out.extend_from_slice(&(MESSAGE_BYTES as u32).to_le_bytes());
    // No key yet.
    out.extend_from_slice(&0_u64.to_le_bytes());
    // Ids of messages are times, in units of 2⁻³² seconds; those of clients are multiples of four.
    out.extend_from_slice(&(unix_secs << 32).to_le_bytes());
    out.extend_from_slice(&((MESSAGE_BYTES - 20) as u32).to_le_bytes());
    out.extend_from_slice(&REQ_PQ_MULTI.to_le_bytes());
    let mut nonce = [0; 16];
    random(&mut nonce);
    out.extend_from_slice(&nonce);
    if let Some(frame) = out.get_mut(HEADER_BYTES..) {
        header.p2d.apply(frame);
    }
    out
}

const LENGTH_BYTES: usize = 4;
/// Key id 8, message id 8, length 4, constructor 4, nonce 16.
const MESSAGE_BYTES: usize = 40;
/// `req_pq_multi nonce:int128 = ResPQ`.
const REQ_PQ_MULTI: u32 = 0xbe7e_8ef1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::obfuscated2::dc_side;

    #[test]
    fn a_dc_reads_one_frame_that_asks_for_a_key() {
        let mut next = 0_u8;
        let mut random = |out: &mut [u8]| {
            out.fill_with(|| {
                next = next.wrapping_add(7);
                next
            });
        };
        let sent = key_request(&mut random, DcId(-4), 0x6553_f100);
        let (header, frame) = sent.split_first_chunk().unwrap();
        let mut side = dc_side(header).unwrap();
        assert_eq!((side.dc, side.framing), (DcId(-4), Framing::Intermediate));
        let mut frame = frame.to_vec();
        side.p2d.apply(&mut frame);
        assert_eq!(frame.len(), 44);
        assert_eq!(frame[..12], [40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(frame[12..20], [0, 0, 0, 0, 0x00, 0xf1, 0x53, 0x65]);
        assert_eq!(frame[20..28], [20, 0, 0, 0, 0xf1, 0x8e, 0x7e, 0xbe]);
        assert_ne!(frame[28..], [0; 16]);
    }
}
