//! RPC_PROXY_REQ: a client's message on its way to the ME.
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 4 | operation |
//! | 4 | 4 | flags |
//! | 8 | 8 | connection id |
//! | 16 | 20 | the client's address |
//! | 36 | 20 | ours |
//! | 56 | 0 or 4+k | with flag 4 or 8 only: k, and k bytes of TL objects |
//! | … | m | the message, a multiple of 4 |
//!
//! Source: middle-proxy.md 8.1.

use std::net::SocketAddr;

use super::{
    super::framing::Framing,
    frame::{FrameEncoder, RpcFrameError},
    ops::{self, ConnId},
    tl::address_bytes,
};

/// An ad tag: 16 bytes that name the sponsored channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdTag(pub [u8; 16]);

/// What all messages of a session have in common. The same for every writer but for `conn` and,
/// with several public addresses, `ours`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyReq {
    /// The client on this writer.
    pub conn: ConnId,
    /// The client.
    pub client: SocketAddr,
    /// IP of this writer's keys, port of the listener that took the client.
    pub ours: SocketAddr,
    /// The client's framing.
    pub framing: Framing,
    /// The user's, else the general one.
    pub ad_tag: Option<AdTag>,
}

/// What differs from message to message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MessageFlags {
    /// The client wants a quick ack for this message.
    pub quick_ack: bool,
    /// See [`is_unencrypted`].
    pub unencrypted: bool,
}

impl ProxyReq {
    /// Appends a frame with the message that lies in these pieces. None is an activity signal.
    ///
    /// # Errors
    /// [`RpcFrameError::Length`]: no multiple of four, or too long; nothing is appended. Cannot
    /// happen to messages within [`super::client_frames::MESSAGE_BYTES_MAX`].
    pub fn frame(
        &self,
        encoder: &mut FrameEncoder,
        quick_ack: bool,
        message: &[&[u8]],
        run: &mut Vec<u8>,
    ) -> Result<usize, RpcFrameError> {
        let unencrypted = is_unencrypted(message);
        encoder.frame(run, |run| {
            self.write_head(
                MessageFlags {
                    quick_ack,
                    unencrypted,
                },
                run,
            );
            for piece in message {
                run.extend_from_slice(piece);
            }
        })
    }

    /// Appends everything in front of the message: 56 bytes, or 84 with an ad tag.
    pub fn write_head(&self, message: MessageFlags, out: &mut Vec<u8>) {
        out.extend_from_slice(&ops::PROXY_REQ.to_le_bytes());
        out.extend_from_slice(&self.flags(message).to_le_bytes());
        out.extend_from_slice(&self.conn.0.to_le_bytes());
        out.extend_from_slice(&address_bytes(self.client));
        out.extend_from_slice(&address_bytes(self.ours));
        if let Some(AdTag(tag)) = &self.ad_tag {
            out.extend_from_slice(&TAG_OBJECT_BYTES.to_le_bytes());
            out.extend_from_slice(&TAG_OBJECT.to_le_bytes());
            // A TL string of 16 bytes.
            out.push(16);
            out.extend_from_slice(tag);
            out.extend_from_slice(&[0; 3]);
        }
    }

    /// The flags of one message.
    pub fn flags(&self, message: MessageFlags) -> u32 {
        let framing = match self.framing {
            Framing::Abridged => flag::ABRIDGED,
            Framing::Intermediate => flag::INTERMEDIATE,
            Framing::Padded => flag::INTERMEDIATE | flag::PADDED,
        };
        let set = |condition: bool, flag: u32| if condition { flag } else { 0 };
        flag::TCP
            | flag::OBFUSCATED2
            | framing
            | set(self.ad_tag.is_some(), flag::AD_TAG)
            | set(message.quick_ack, flag::QUICK_ACK)
            | set(message.unencrypted, flag::UNENCRYPTED)
    }
}

/// The message's auth key id is zero: a key exchange, in plain text. Pieces may be cut anywhere.
pub fn is_unencrypted(message: &[&[u8]]) -> bool {
    let mut first = message.iter().copied().flatten().take(8);
    let zeros = first.by_ref().take_while(|&&byte| byte == 0).count();
    zeros == 8
}

/// Bits of the flags. Those not used by [`ProxyReq::flags`] are never set by us.
pub mod flag {
    /// The client speaks HTTP; set with [`HTTP_HEADERS`] and [`HTTP`].
    pub const HTTP_CLIENT: u32 = 0x1;
    /// The message is a key exchange, its first 8 bytes are zero.
    pub const UNENCRYPTED: u32 = 0x2;
    /// A TL object with HTTP headers follows.
    pub const HTTP_HEADERS: u32 = 0x4;
    /// A TL object with the ad tag follows.
    pub const AD_TAG: u32 = 0x8;
    /// The client came over TCP.
    pub const TCP: u32 = 0x1000;
    /// The client came over HTTP.
    pub const HTTP: u32 = 0x2000;
    /// The first, dead way of obfuscation.
    pub const OBFUSCATED1: u32 = 0x1_0000;
    /// obfuscated2, inside FakeTLS or not.
    pub const OBFUSCATED2: u32 = 0x2_0000;
    /// Padded framing.
    pub const PADDED: u32 = 0x0800_0000;
    /// An earlier packet of the client was lost in the proxy; we close instead.
    pub const LOST: u32 = 0x1000_0000;
    /// Intermediate or padded framing.
    pub const INTERMEDIATE: u32 = 0x2000_0000;
    /// Abridged framing.
    pub const ABRIDGED: u32 = 0x4000_0000;
    /// The client wants a quick ack for this message.
    pub const QUICK_ACK: u32 = 0x8000_0000;
}

/// The TL object that holds an ad tag.
pub const TAG_OBJECT: u32 = 0xdb1e_26ae;
const TAG_OBJECT_BYTES: u32 = 24;
/// Bytes in front of a message without and with an ad tag.
pub const HEAD_BYTES: [usize; 2] = [56, 84];

#[cfg(test)]
mod tests {
    use super::*;

    fn req(framing: Framing, ad_tag: Option<AdTag>) -> ProxyReq {
        ProxyReq {
            conn: ConnId(1),
            client: "1.2.3.4:5".parse().unwrap(),
            ours: "6.7.8.9:10".parse().unwrap(),
            framing,
            ad_tag,
        }
    }

    #[test]
    fn base_flags_are_those_of_the_framings() {
        for (framing, base) in [
            (Framing::Abridged, 0x4002_1000),
            (Framing::Intermediate, 0x2002_1000),
            (Framing::Padded, 0x2802_1000),
        ] {
            let none = MessageFlags::default();
            assert_eq!(req(framing, None).flags(none), base);
            let all = MessageFlags {
                quick_ack: true,
                unencrypted: true,
            };
            let tagged = req(framing, Some(AdTag([1; 16])));
            assert_eq!(tagged.flags(all), base | 0x8000_000a);
            for (req, bytes) in [(req(framing, None), 56), (tagged, 84)] {
                let mut head = Vec::new();
                req.write_head(none, &mut head);
                assert_eq!(head.len(), bytes);
            }
        }
    }

    #[test]
    fn finds_key_exchanges_wherever_the_message_is_cut() {
        let zero = [0; 12];
        for cut in 0..=12 {
            let (a, b) = zero.split_at(cut);
            assert!(is_unencrypted(&[a, &[], b]));
            assert_eq!(is_unencrypted(&[a]), cut >= 8);
        }
        assert!(!is_unencrypted(&[&[0, 0, 0, 0, 0, 0, 0, 1]]));
        assert!(!is_unencrypted(&[]));
    }
}
