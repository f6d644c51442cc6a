//! Operations: the first four bytes of a payload, little-endian, and the ids that follow them.
//!
//! Source: middle-proxy.md 4, 7 and 8.

/// Nonces and timestamps; the first frame both ways.
pub const NONCE: u32 = 0x7acb_87aa;
/// Process ids and flags; the second frame both ways.
pub const HANDSHAKE: u32 = 0x7682_eef5;
/// The ME refuses a handshake.
pub const HANDSHAKE_ERROR: u32 = 0x6a27_beda;
/// A client's message, to the ME.
pub const PROXY_REQ: u32 = 0x36ce_f1ee;
/// A message for a client, from the ME.
pub const PROXY_ANS: u32 = 0x4403_da0d;
/// A quick acknowledgement for a client, from the ME.
pub const SIMPLE_ACK: u32 = 0x3bac_409b;
/// The ME closes a client.
pub const CLOSE_EXT: u32 = 0x5eb6_34a2;
/// The proxy closes a client.
pub const CLOSE_CONN: u32 = 0x1fcf_425d;
/// Asks for a PONG with the same id, either way.
pub const PING: u32 = 0x5730_a2df;
/// Answers a PING.
pub const PONG: u32 = 0x8430_eaa7;

/// A client within one connection to an ME, in both directions. Not zero, and used once only on
/// that connection. An i64 in the protocol; nothing depends on the sign.
///
/// Source: middle-proxy.md 8.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What the proxy says besides messages: appended as the payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// This client is gone; said once, unless the ME closed it first.
    CloseConn(ConnId),
    /// Asks for a PONG.
    Ping(u64),
    /// Answers a PING with its id.
    Pong(u64),
}

impl Note {
    /// Appends the payload.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_bytes());
    }

    /// The payload.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let (op, id) = match self {
            Self::CloseConn(ConnId(id)) => (CLOSE_CONN, id),
            Self::Ping(id) => (PING, id),
            Self::Pong(id) => (PONG, id),
        };
        let mut out = [0; 12];
        let (first, second) = out.split_at_mut(4);
        first.copy_from_slice(&op.to_le_bytes());
        second.copy_from_slice(&id.to_le_bytes());
        out
    }
}
