//! How a client connection ended, and which counters that ends in.

use crate::{
    counters::{BadClass, FailureClass, FailureStage},
    proto::faketls::client_hello::HelloError,
};

/// Every way a client connection can end; each connection has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// The client closed, or broke off, before it was known.
    ClosedEarly {
        stage: FailureStage,
        any_bytes: bool,
        broken: bool,
    },
    /// It had to begin with a PROXY header and did not.
    NoHeader(NoHeader),
    /// Nothing came within the first-byte limit.
    FirstByteTimeout,
    /// It was not known within the handshake limit.
    HandshakeTimeout { stage: FailureStage },
    /// A stranger, or a client that may not: see [`Refusal`].
    Refused(Refusal),
    /// No address of its DC could be reached.
    DcUnreachable,
    /// What came through its upstream cannot be opened.
    BrokenUpstream,
    /// Its DC is unknown and policy refuses.
    UnknownDc,
    /// A relay ended by one of its sides.
    Done,
    /// A relay with nothing in either direction for too long.
    Idle,
    /// Its user is gone or disabled.
    Removed,
    /// Its user's time is over.
    Expired,
    /// Its bytes do not fit its user's quota.
    Quota,
    /// No ME could be had for it in time.
    NoWriter,
    /// Its ME took no message of it for too long.
    WriterFull,
    /// Its ME is lost, and it could not go to another one.
    WriterLost,
    /// It took too little of what its ME had for it.
    QueueFull,
    /// Its stream is out of step: a length that cannot be true.
    Desync,
    /// Its stream has a frame that no client of ours sends.
    BadFrame,
    /// A message that no connection to an ME takes.
    MessageTooLong,
    /// Its ME sent an answer that is no message.
    BadAnswer,
    /// The process is going down.
    Shutdown,
    /// An invariant was broken; counted, never expected.
    Internal,
}

/// Why there is no usable PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHeader {
    /// The peer may not send one.
    Untrusted,
    /// The first bytes begin none.
    Missing,
    /// It begins like one and is none.
    Malformed,
    /// It was not complete in time.
    Late,
}

/// Why a connection is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// First bytes are neither TLS nor obfuscated2.
    NotOurs,
    /// A TLS record that is no acceptable hello.
    TlsMalformed(HelloError),
    /// No secret fits the hello.
    TlsDigest,
    /// The digest fits, the clock does not.
    TlsSkew { skew_secs: i64 },
    /// The digest fits and was seen before.
    TlsReplay,
    /// The digest fits, the SNI is not ours.
    TlsUnknownSni,
    /// The digest fits, but it offers application protocols that no web server speaks.
    TlsUnknownAlpn,
    /// Behind the ServerHello came something else than a header of this user's.
    TlsInner,
    /// The inner header fits, but its mode is not allowed inside FakeTLS.
    TlsInnerMode,
    /// No secret fits the header.
    ObfuscatedAuth,
    /// A secret fits, but its mode is off.
    ObfuscatedMode,
    /// The header was seen before.
    ObfuscatedReplay,
    /// The user is known and may not come in; where that showed.
    User(UserRefusal, FailureStage),
}

/// Why a client whose user is known may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UserRefusal {
    /// The user's time is over.
    Expired,
    /// The quota is used up.
    Quota,
    /// As many sessions as allowed are open.
    Connections,
    /// As many addresses as allowed count.
    Addresses,
    /// Not from this address.
    Source,
}

impl SessionEnd {
    /// The label in `connections_bad_by_class`; `None` for clients that were ours.
    pub(crate) fn bad_class(self) -> Option<BadClass> {
        match self {
            Self::ClosedEarly { .. } => Some(BadClass::ClosedEarly),
            Self::NoHeader(NoHeader::Untrusted) => Some(BadClass::HeaderUntrusted),
            Self::NoHeader(NoHeader::Missing) => Some(BadClass::HeaderMissing),
            Self::NoHeader(NoHeader::Malformed) => Some(BadClass::HeaderMalformed),
            Self::NoHeader(NoHeader::Late) => Some(BadClass::HeaderLate),
            Self::FirstByteTimeout | Self::HandshakeTimeout { .. } => Some(BadClass::Timeout),
            Self::Refused(refusal) => Some(refusal.bad_class()),
            Self::UnknownDc => Some(BadClass::UnknownDc),
            Self::BrokenUpstream => Some(BadClass::UpstreamBroken),
            Self::NoWriter => Some(BadClass::MeNoWriter),
            Self::WriterFull => Some(BadClass::MeWriterFull),
            Self::WriterLost => Some(BadClass::MeWriterLost),
            Self::Desync => Some(BadClass::MeDesync),
            Self::BadFrame | Self::MessageTooLong => Some(BadClass::MeBadFrame),
            Self::QueueFull
            | Self::BadAnswer
            | Self::DcUnreachable
            | Self::Done
            | Self::Idle
            | Self::Removed
            | Self::Expired
            | Self::Quota
            | Self::Shutdown
            | Self::Internal => None,
        }
    }

    /// What went wrong in the handshake and where; `None` when it did not fail there.
    pub(crate) fn failure(self) -> Option<(FailureClass, FailureStage)> {
        match self {
            Self::ClosedEarly {
                any_bytes: false, ..
            } => None,
            Self::ClosedEarly {
                stage,
                broken: true,
                ..
            } => Some((FailureClass::SocketError, stage)),
            Self::ClosedEarly {
                stage,
                broken: false,
                ..
            } => Some((FailureClass::PeerClosed, stage)),
            Self::HandshakeTimeout { stage } => Some((FailureClass::Timeout, stage)),
            Self::NoHeader(why) => {
                let class = match why {
                    NoHeader::Untrusted => FailureClass::SourceDenied,
                    NoHeader::Missing | NoHeader::Malformed => FailureClass::Malformed,
                    NoHeader::Late => FailureClass::Timeout,
                };
                Some((class, FailureStage::FirstPacketPrelude))
            }
            Self::Refused(refusal) => Some(refusal.failure()),
            Self::FirstByteTimeout
            | Self::NoWriter
            | Self::WriterFull
            | Self::WriterLost
            | Self::QueueFull
            | Self::Desync
            | Self::BadFrame
            | Self::MessageTooLong
            | Self::BadAnswer
            | Self::BrokenUpstream
            | Self::DcUnreachable
            | Self::UnknownDc
            | Self::Done
            | Self::Idle
            | Self::Removed
            | Self::Expired
            | Self::Quota
            | Self::Shutdown
            | Self::Internal => None,
        }
    }

    /// Counted in `handshake_timeouts_total`.
    pub(crate) fn is_handshake_timeout(self) -> bool {
        matches!(self, Self::HandshakeTimeout { .. })
    }
}

impl Refusal {
    fn bad_class(self) -> BadClass {
        match self {
            Self::NotOurs => BadClass::NotOurs,
            Self::TlsMalformed(_) => BadClass::TlsMalformed,
            Self::TlsDigest => BadClass::TlsDigest,
            Self::TlsSkew { .. } => BadClass::TlsSkew,
            Self::TlsReplay => BadClass::TlsReplay,
            Self::TlsUnknownSni => BadClass::TlsUnknownSni,
            Self::TlsUnknownAlpn => BadClass::TlsUnknownAlpn,
            Self::TlsInner | Self::TlsInnerMode => BadClass::TlsInner,
            Self::ObfuscatedAuth | Self::ObfuscatedMode => BadClass::ObfuscatedAuth,
            Self::ObfuscatedReplay => BadClass::ObfuscatedReplay,
            Self::User(UserRefusal::Expired, _) => BadClass::UserExpired,
            Self::User(UserRefusal::Quota, _) => BadClass::UserQuota,
            Self::User(UserRefusal::Connections, _) => BadClass::UserConnections,
            Self::User(UserRefusal::Addresses, _) => BadClass::UserAddresses,
            Self::User(UserRefusal::Source, _) => BadClass::UserSource,
        }
    }

    fn failure(self) -> (FailureClass, FailureStage) {
        match self {
            Self::NotOurs => (FailureClass::Malformed, FailureStage::FirstPacketPrelude),
            Self::TlsMalformed(_) => (FailureClass::Malformed, FailureStage::TlsClienthelloBody),
            Self::TlsDigest => (FailureClass::AuthFailed, FailureStage::TlsCore),
            Self::TlsSkew { .. } => (FailureClass::ClockSkew, FailureStage::TlsCore),
            Self::TlsReplay => (FailureClass::Replay, FailureStage::TlsCore),
            Self::TlsUnknownSni => (FailureClass::UnknownSni, FailureStage::TlsCore),
            Self::TlsUnknownAlpn => (FailureClass::UnknownAlpn, FailureStage::TlsCore),
            Self::TlsInner => (
                FailureClass::Malformed,
                FailureStage::TlsPostServerhelloMtproto,
            ),
            Self::TlsInnerMode => (
                FailureClass::ModeDisabled,
                FailureStage::TlsPostServerhelloMtproto,
            ),
            Self::ObfuscatedAuth => (FailureClass::AuthFailed, FailureStage::DirectMtproto),
            Self::ObfuscatedMode => (FailureClass::ModeDisabled, FailureStage::DirectMtproto),
            Self::ObfuscatedReplay => (FailureClass::Replay, FailureStage::DirectMtproto),
            Self::User(UserRefusal::Source, stage) => (FailureClass::SourceDenied, stage),
            Self::User(
                UserRefusal::Expired
                | UserRefusal::Quota
                | UserRefusal::Connections
                | UserRefusal::Addresses,
                stage,
            ) => (FailureClass::UserLimit, stage),
        }
    }
}
