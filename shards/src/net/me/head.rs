//! What stands in front of every message of a session: written once per writer, copied per message.

use crate::{
    engine::Block,
    proto::middle::{
        ops::ConnId,
        proxy_req::{HEAD_BYTES, MessageFlags, ProxyReq},
    },
};

/// The first bytes of a session's PROXY_REQs.
#[derive(Clone, Copy)]
pub(super) struct Head {
    bytes: [u8; HEAD_BYTES_MAX],
    len: u8,
}

const HEAD_BYTES_MAX: usize = HEAD_BYTES[1];
/// Where the flags of one message are.
const FLAGS_AT: std::ops::Range<usize> = 4..8;
const CONN_AT: std::ops::Range<usize> = 8..16;

impl Head {
    /// Of a session on a writer.
    pub(super) fn new(req: &ProxyReq) -> Self {
        let mut out = Vec::with_capacity(HEAD_BYTES_MAX);
        req.write_head(MessageFlags::default(), &mut out);
        let mut bytes = [0; HEAD_BYTES_MAX];
        for (slot, byte) in bytes.iter_mut().zip(&out) {
            *slot = *byte;
        }
        Self {
            bytes,
            len: out.len() as u8,
        }
    }

    /// How many there are of a session with, or without, an ad tag.
    pub(super) fn bytes_of(tagged: bool) -> usize {
        HEAD_BYTES[usize::from(tagged)]
    }

    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// The same for another client id.
    pub(super) fn with_conn(mut self, conn: ConnId) -> Self {
        self.bytes[CONN_AT].copy_from_slice(&conn.0.to_le_bytes());
        self
    }

    /// Appends the head of a message with these flags besides the session's.
    pub(super) fn write(&self, flags: u32, out: &mut Block) {
        let at = out.len();
        out.extend_from_slice(&self.bytes[..self.len()]);
        self.set_flags(flags, &mut out[at..]);
    }

    /// Writes it to the front of `place`, which is as long at least.
    pub(super) fn put(&self, flags: u32, place: &mut [u8]) {
        if let Some(front) = place.get_mut(..self.len()) {
            front.copy_from_slice(&self.bytes[..self.len()]);
            self.set_flags(flags, front);
        }
    }

    fn set_flags(&self, flags: u32, head: &mut [u8]) {
        if let (Some(own), Some(field)) = (self.bytes.get(FLAGS_AT), head.get_mut(FLAGS_AT)) {
            for ((byte, own), flag) in field.iter_mut().zip(own).zip(flags.to_le_bytes()) {
                *byte = own | flag;
            }
        }
    }
}
