//! What goes wrong at an endpoint, and what it can be told to do.

use std::{net::IpAddr, time::Duration};

use shards::proto::middle::ops::ConnId;

/// What goes wrong at an endpoint until another fault is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nobody listens: connects are refused. Connections that exist go on.
    Refuse,
    /// New connections are accepted, and then never read or answered.
    Silent,
    /// New connections are reset at once.
    ResetAtAccept,
    /// New connections are closed behind the proxy's NONCE, as for a wrong secret or clock.
    CloseAtNonce,
    /// The NONCE answer names another secret.
    WrongSelector,
    /// The NONCE answer is not the one that enters the keys: they disagree.
    WrongNonce,
    /// The clock in the NONCE answer is off by so many seconds. The ME takes the proxy's all the
    /// same.
    ClockSkew(i64),
    /// New connections are closed behind the proxy's HANDSHAKE, as for keys that disagree.
    CloseAtHandshake,
    /// The proxy's HANDSHAKE is not answered.
    SilentAtHandshake,
    /// The proxy's HANDSHAKE is refused with this code.
    HandshakeError(i32),
    /// The ME knows CRC-32 only.
    NoCrc32c,
    /// The ME sees proxies under this IP, as behind a NAT.
    SeenAs(IpAddr),
    /// New connections are reset this long after their handshake: the endpoint flaps.
    ResetAfter(Duration),
    /// Open connections are not read.
    StallReading,
    /// Nothing is written to open connections.
    StallWriting,
    /// Open connections are read, and nothing is answered, PINGs neither.
    Mute,
    /// Everything is answered but PINGs.
    NoPongs,
    /// Open connections are read this fast, bytes per second.
    SlowReading(u32),
    /// Answers are held back this long, PONGs too.
    Delay(Duration),
    /// Frames end with a wrong checksum.
    WrongChecksum,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// What was asked until now is answered, then the end of the stream.
    Fin,
    /// A reset at once.
    Rst,
}

/// What an open connection can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Ends the connection, clients bound or not.
    End(Ending),
    /// CLOSE_EXT for this client, behind its answers, if it is one of this connection's.
    CloseClient(ConnId),
    /// CLOSE_EXT for so many clients, whoever they are.
    CloseClients(usize),
    /// An answer for a connection id that nobody has.
    AnswerNobody(ConnId),
    /// A PING with this id.
    Ping(u64),
    /// As when a fault is set.
    Fault(Fault),
}
