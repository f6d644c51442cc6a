//! The HANDSHAKE: second frame both ways, the first one encrypted.
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 4 | operation |
//! | 4 | 4 | flags |
//! | 8 | 12 | process id of the sender |
//! | 20 | 12 | process id of the peer, as the sender knows it |
//!
//! Source: middle-proxy.md 7.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    super::reader::{Reader, Short},
    keys::reversed,
    ops,
};

/// A process as the protocol names it; zero is a wildcard.
///
/// | Offset | Bytes | Meaning |
/// |---|---|---|
/// | 0 | 4 | IPv4 address, bytes reversed |
/// | 4 | 2 | port |
/// | 6 | 2 | pid |
/// | 8 | 4 | start, unix seconds |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessId {
    /// Zero for IPv6.
    pub ip: u32,
    /// Port it listens at.
    pub port: u16,
    /// The low half of the system's process id.
    pub pid: u16,
    /// When it started, unix seconds.
    pub start_unix_secs: u32,
}

impl ProcessId {
    /// Ourselves: address as in the keys, port 0; no address for IPv6 or loopback.
    pub fn of_proxy(proxy: SocketAddr, pid: u32, start_unix_secs: u32) -> Self {
        let [low, high, ..] = pid.to_le_bytes();
        Self {
            ip: match ipv4(proxy) {
                Some(ip) if !ip.is_loopback() => ip.into(),
                _ => 0,
            },
            port: 0,
            pid: u16::from_le_bytes([low, high]),
            start_unix_secs,
        }
    }

    /// An ME as dialled; pid and start are unknown.
    pub fn of_me(me: SocketAddr) -> Self {
        Self {
            ip: ipv4(me).map_or(0, Into::into),
            port: me.port(),
            ..Self::default()
        }
    }

    /// The 12 bytes.
    pub fn encode(&self) -> [u8; PROCESS_ID_BYTES] {
        let [a, b, c, d] = reversed(self.ip.into());
        let ([e, f], [g, h]) = (self.port.to_le_bytes(), self.pid.to_le_bytes());
        let [i, j, k, l] = self.start_unix_secs.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Short> {
        Ok(Self {
            ip: r.u32_le()?,
            port: r.u16_le()?,
            pid: r.u16_le()?,
            start_unix_secs: r.u32_le()?,
        })
    }

    /// Each field of `self` is a wildcard or the one of `other`.
    pub fn matches(&self, other: &Self) -> bool {
        let fits = |ours: u32, theirs: u32| ours == 0 || ours == theirs;
        fits(self.ip, other.ip)
            && fits(self.port.into(), other.port.into())
            && fits(self.pid.into(), other.pid.into())
            && fits(self.start_unix_secs, other.start_unix_secs)
    }
}

fn ipv4(addr: SocketAddr) -> Option<Ipv4Addr> {
    match addr.ip().to_canonical() {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    }
}

/// What a HANDSHAKE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The low byte is zero; see [`FLAG_CRC32C`].
    pub flags: u32,
    /// Who says it.
    pub sender: ProcessId,
    /// To whom.
    pub peer: ProcessId,
}

impl Handshake {
    /// Appends the payload, 32 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&ops::HANDSHAKE.to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.sender.encode());
        out.extend_from_slice(&self.peer.encode());
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// [`HandshakeError`]: `Length`, `Operation`, `Refused` or `Flags`.
    pub fn decode(payload: &[u8]) -> Result<Self, HandshakeError> {
        let got = payload.len();
        let mut r = Reader::new(payload);
        let read = |r: &mut Reader<'_>| match r.u32_le()? {
            ops::HANDSHAKE => Ok(Ok(Self {
                flags: r.u32_le()?,
                sender: ProcessId::read(r)?,
                peer: ProcessId::read(r)?,
            })),
            ops::HANDSHAKE_ERROR => {
                let code = r.u32_le()?.cast_signed();
                ProcessId::read(r)?;
                Ok(Err(HandshakeError::Refused { code }))
            }
            got => Ok(Err(HandshakeError::Operation { got })),
        };
        let this = read(&mut r).map_err(|_: Short| HandshakeError::Length { got })?;
        match this {
            Err(HandshakeError::Operation { .. }) => this,
            _ if !r.is_empty() => Err(HandshakeError::Length { got }),
            Ok(this) if this.flags & LOW_FLAGS != 0 => {
                Err(HandshakeError::Flags { got: this.flags })
            }
            _ => this,
        }
    }

    /// Reads the ME's answer to `self`. Its sender is not looked at: behind a load balancer it is
    /// not the address that was dialled.
    ///
    /// # Errors
    /// [`HandshakeError`].
    pub fn decode_answer(&self, payload: &[u8]) -> Result<Self, HandshakeError> {
        let answer = Self::decode(payload)?;
        if !answer.peer.matches(&self.sender) {
            return Err(HandshakeError::Peer);
        }
        if answer.flags & !self.flags & FLAG_CRC32C != 0 {
            return Err(HandshakeError::NotOffered);
        }
        Ok(answer)
    }
}

/// Why a HANDSHAKE is not accepted, by us or by the ME.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not 32 bytes, nor the 20 of a refusal.
    #[error("HANDSHAKE of {got} bytes")]
    Length {
        /// Bytes of the payload.
        got: usize,
    },
    /// Another operation.
    #[error("operation {got:#010x} where the HANDSHAKE was due")]
    Operation {
        /// The operation.
        got: u32,
    },
    /// A bit of the low byte.
    #[error("HANDSHAKE with flags {got:#x}")]
    Flags {
        /// All flags.
        got: u32,
    },
    /// Addressed to somebody else.
    #[error("HANDSHAKE for another process")]
    Peer,
    /// CRC-32C wanted, which we had not announced.
    #[error("the ME wants a checksum that was not offered")]
    NotOffered,
    /// RPC_HANDSHAKE_ERROR: -3 length, -4 peer, -6 sender, -7 flags, -8 checksum not offered.
    #[error("the ME refuses the handshake, code {code}")]
    Refused {
        /// As sent.
        code: i32,
    },
}

/// The payload of RPC_HANDSHAKE_ERROR. We never send it; far sides do.
pub fn write_refusal(code: i32, sender: &ProcessId, out: &mut Vec<u8>) {
    out.extend_from_slice(&ops::HANDSHAKE_ERROR.to_le_bytes());
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&sender.encode());
}

/// The sender can do CRC-32C; set by both sides, both directions use it for all data.
pub const FLAG_CRC32C: u32 = 0x800;
/// Bytes of the payload.
pub const HANDSHAKE_BYTES: usize = 32;
/// Bytes of the payload of a refusal.
pub const REFUSAL_BYTES: usize = 20;
const LOW_FLAGS: u32 = 0xff;
const PROCESS_ID_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Handshake {
        Handshake {
            flags: FLAG_CRC32C,
            sender: ProcessId::of_proxy("8.8.4.4:99".parse().unwrap(), 0x0001_1092, 77),
            peer: ProcessId::of_me("1.2.3.4:80".parse().unwrap()),
        }
    }

    fn answer(change: impl FnOnce(&mut Handshake)) -> Result<Handshake, HandshakeError> {
        let ours = ours();
        let mut theirs = Handshake {
            sender: ours.peer,
            peer: ours.sender,
            ..ours
        };
        change(&mut theirs);
        let mut payload = Vec::new();
        theirs.write(&mut payload);
        ours.decode_answer(&payload)
    }

    #[test]
    fn compares_only_what_the_peer_states() {
        assert!(answer(|_| {}).is_ok());
        assert!(answer(|a| a.peer = ProcessId::default()).is_ok());
        assert!(answer(|a| a.sender = ours().sender).is_ok());
        assert!(answer(|a| a.flags = 0).is_ok(), "it may not know CRC-32C");
        assert!(answer(|a| a.flags |= 0x1000).is_ok());
        for change in [
            (|a| a.peer.ip = 1) as fn(&mut Handshake),
            |a| a.peer.port = 1,
            |a| a.peer.pid = 1,
            |a| a.peer.start_unix_secs = 1,
        ] {
            assert_eq!(answer(change), Err(HandshakeError::Peer));
        }
        let flags = HandshakeError::Flags { got: 0x801 };
        assert_eq!(answer(|a| a.flags |= 1), Err(flags));
    }

    #[test]
    fn masks_the_pid_and_hides_loopback() {
        let pid = |addr: &str| ProcessId::of_proxy(addr.parse().unwrap(), 0x0001_1092, 77);
        assert_eq!((pid("8.8.4.4:1").pid, pid("8.8.4.4:1").port), (0x1092, 0));
        assert_eq!((pid("127.0.0.1:1").ip, pid("[2001::1]:1").ip), (0, 0));
        assert_eq!(pid("[::ffff:8.8.4.4]:1"), pid("8.8.4.4:1"));
    }

    #[test]
    fn refuses_a_checksum_that_was_not_offered() {
        let mut payload = Vec::new();
        ours().write(&mut payload);
        let silent = Handshake {
            flags: 0,
            sender: ours().peer,
            peer: ours().sender,
        };
        assert_eq!(
            Handshake {
                sender: ProcessId::default(),
                ..silent
            }
            .decode_answer(&payload),
            Err(HandshakeError::Peer)
        );
        let same = Handshake {
            sender: ours().peer,
            ..silent
        };
        assert_eq!(
            same.decode_answer(&payload),
            Err(HandshakeError::NotOffered)
        );
    }

    #[test]
    fn tells_lengths_operations_and_refusals_apart() {
        let mut payload = Vec::new();
        ours().write(&mut payload);
        for got in [0, 3, 4, 31] {
            let error = HandshakeError::Length { got };
            assert_eq!(Handshake::decode(&payload[..got]), Err(error));
        }
        payload.extend([0; 4]);
        let error = HandshakeError::Length { got: 36 };
        assert_eq!(Handshake::decode(&payload), Err(error));
        let error = HandshakeError::Operation { got: 1 };
        assert_eq!(Handshake::decode(&[1, 0, 0, 0, 9, 9]), Err(error));
        let mut refusal = Vec::new();
        write_refusal(-4, &ours().peer, &mut refusal);
        let error = HandshakeError::Refused { code: -4 };
        assert_eq!(Handshake::decode(&refusal), Err(error));
        assert_eq!(refusal.len(), REFUSAL_BYTES);
        let error = HandshakeError::Length { got: 19 };
        assert_eq!(Handshake::decode(&refusal[..19]), Err(error));
    }
}
