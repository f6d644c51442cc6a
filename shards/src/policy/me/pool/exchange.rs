//! What a shard's pool and its edge say to each other: keys, facts in, actions out.
//!
//! Nothing here decides. Called by `net/me`, which owns sockets and sessions.

use std::net::SocketAddr;

use super::super::{super::Millis, plan::WriterId, report::KeyFacts};
use crate::proto::middle::ops::ConnId;

/// A writer of this shard: a place in the slab (low 16 bits) and how often the place was given away
/// (high 16 bits). A key outlives its writer and then means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WriterKey(pub(crate) u32);

impl WriterKey {
    /// The place in the slab: small numbers. A later writer has it only after the edge has taken
    /// all actions, the one that closes this writer among them.
    pub(crate) fn index(self) -> usize {
        usize::from((self.0 & 0xffff) as u16)
    }
}

/// A dial under way; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DialId(pub(crate) u64);

/// What the edge has to do, in the order the pool said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Connect and shake hands, then [`super::Pool::dial_ended`]. Secret and addresses are those of
    /// the plan in force when the connect begins.
    Dial {
        /// To be named when it ended.
        dial: DialId,
        /// The group it is for.
        dc: i16,
        /// Where.
        endpoint: SocketAddr,
        /// How long.
        limits: DialLimits,
    },
    /// Give the dial up; what becomes of it interests nobody, `dial_ended` need not be called.
    CancelDial(DialId),
    /// The writer is no longer the pool's. Send what is queued, then close. Its sessions were
    /// unbound by actions before this one.
    CloseWriter(WriterKey),
    /// Queue a PING ahead of data frames that are not yet encrypted. There was room for it.
    Ping {
        /// Where.
        writer: WriterKey,
        /// Comes back with the PONG.
        id: u64,
    },
    /// Queue a PROXY_REQ without data, with address and flags of the last session bound to this
    /// writer (there was one; the edge keeps its data beside the writer).
    Signal {
        /// Where.
        writer: WriterKey,
        /// A fresh id, known to [`super::Pool::target`] as `Service`.
        conn: ConnId,
    },
    /// Queue a CLOSE_CONN for an activity signal's id.
    CloseSignal {
        /// Where.
        writer: WriterKey,
        /// The id.
        conn: ConnId,
    },
    /// The session is bound no longer. It keeps its queued answers and binds again with its next
    /// c2d message, or at once if it has one; nothing is said to an ME before that.
    Move(Unbound),
    /// Close the session.
    Close(Unbound),
    /// Bind again now: there may be a place. The wait goes on as it was if there is none.
    Woken {
        /// Who.
        session: u32,
    },
    /// The wait was too long: close the session (class `me_no_writer`).
    GiveUp {
        /// Who.
        session: u32,
    },
}

/// A session that lost its writer; its route is gone already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unbound {
    /// Who.
    pub(crate) session: u32,
    /// What it was bound to.
    pub(crate) writer: WriterKey,
    /// Under which id.
    pub(crate) conn: ConnId,
    /// The writer is alive: queue CLOSE_CONN for the id.
    pub(crate) tell: bool,
}

/// How long a dial may take (sections 8.4 and 14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialLimits {
    /// `me_one_timeout_ms` for connect and handshake together.
    Fast,
    /// 5 s for the connect, 10 s each for NONCE and HANDSHAKE.
    Slow,
}

/// A dial that shook hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Epoch of the secret it used ([`super::super::plan::Secret::epoch`]).
    pub(crate) secret_epoch: u64,
}

/// Why a dial did not become a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DialFailure {
    /// RPC_HANDSHAKE_ERROR; `None` when it was too short to hold a code.
    Rejected(Option<i32>),
    /// Given up because the SOCKS server reported no usable address and the policy is strict.
    NoBound,
    /// Anything else, as words for the log; no secrets.
    Other(&'static str),
}

/// What the edge learns when it derives the keys of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Derived {
    /// For the self-test.
    pub(crate) facts: KeyFacts,
    /// The dial went on with a guessed address (row 3 of section 9.1).
    pub(crate) fell_back: bool,
}

/// How a writer ended without the pool's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The ME's FIN.
    Eof,
    /// Reset, user timeout, send or receive error.
    Reset,
    /// Checksum, sequence or length error.
    Broken,
}

/// What decides whether a session survives its writer. Asked at the moment of the loss or release.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SessionFacts {
    /// Some of its c2d bytes have not been written to the writer's socket.
    pub(crate) unsent: bool,
    /// The ME's TCP has acknowledged all its c2d bytes: none unsent, and the offset of the last one
    /// is at most what was written less `SIOCOUTQ`.
    pub(crate) acknowledged: bool,
    /// When it last gave the writer a c2d message.
    pub(crate) last_c2d: Option<Millis>,
    /// When a d2c frame last came for it.
    pub(crate) last_d2c: Option<Millis>,
    /// Its last c2d message had auth_key_id 0.
    pub(crate) key_exchange: bool,
}

/// Asks the edge about a session bound to a writer. It may not call the pool.
pub(crate) type Ask<'a> = &'a mut dyn FnMut(WriterKey, u32) -> SessionFacts;

/// Where a session's first message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    /// To this writer, under this id, until [`super::Pool::unbind`], `Action::Move` or `Close`.
    To(WriterKey, ConnId),
    /// Nowhere yet: do not read the session until `Action::Woken` or `GiveUp`; if it ends before,
    /// [`super::Pool::forget`] it.
    Wait,
    /// Too many wait already: close the session (class `me_no_writer`).
    Refused,
}

/// Whose a frame from an ME is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// This session's.
    Session(u32),
    /// The pool's own, and dealt with. Not `no_conn`.
    Service,
    /// Nobody's: count `route_drop_no_conn_total`, answer CLOSE_CONN if so said.
    Unknown {
        /// Not for ids we closed in the last 10 s, and once per id and second.
        answer: bool,
    },
}

/// Who ended a session's place on a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    /// We: the edge queues CLOSE_CONN; late frames are not answered for 10 s.
    Us,
    /// The ME: nothing is sent back.
    Me,
}

/// What the edge may want to know of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriterFacts {
    /// For logs.
    pub(crate) id: WriterId,
    /// The group.
    pub(crate) dc: i16,
    /// The ME.
    pub(crate) endpoint: SocketAddr,
}
