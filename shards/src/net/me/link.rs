//! Connections to MEs: one that shakes hands, and one that carries clients.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
};

use super::{head::Head, queue::SendQueue};
use crate::{
    engine::{Blocks, SocketId},
    net::connector::Connector,
    policy::{
        Millis,
        me::pool::{DialId, DialLimits, WriterKey},
        timer::Armed,
    },
    proto::middle::{
        answers::AnswerReader,
        cipher::{CbcEncryptor, DecryptStream},
        frame::FrameEncoder,
        opening::{MeChannel, MeOpening},
    },
};

/// A connection to an ME.
pub(super) enum Link {
    /// Being reached.
    Dial(Box<Dialing>),
    /// Carries clients.
    Open(Box<Writer>),
}

/// A connection that is not open yet.
pub(super) struct Dialing {
    pub(super) dial: DialId,
    pub(super) endpoint: SocketAddr,
    pub(super) limits: DialLimits,
    /// The way there.
    pub(super) route: u16,
    pub(super) connector: Connector,
    /// What a SOCKS server reported; `None` where there is none between.
    pub(super) via: Option<Option<SocketAddr>>,
    /// `None` until the stream to the ME begins.
    pub(super) opening: Option<MeOpening>,
    /// Our IP in the keys.
    pub(super) ours: IpAddr,
    pub(super) secret_epoch: u64,
    pub(super) deadline: Millis,
    pub(super) armed: Armed,
}

/// A connection that carries clients.
pub(super) struct Writer {
    pub(super) key: WriterKey,
    pub(super) socket: SocketId,
    pub(super) queue: SendQueue,
    pub(super) encoder: FrameEncoder,
    /// Lent while runs are encrypted together.
    pub(super) encryptor: Option<Box<CbcEncryptor>>,
    pub(super) decryptor: DecryptStream,
    /// Lent while what it reads is handled.
    pub(super) reader: Option<Box<AnswerReader>>,
    /// Whose answer is coming in; `None` for one that is nobody's.
    pub(super) current: Option<u32>,
    /// Our IP in its keys.
    pub(super) ours: IpAddr,
    /// Of the session bound last, for activity signals.
    pub(super) last_head: Option<Head>,
    /// Sessions that wait for room.
    pub(super) waiting: VecDeque<u32>,
    /// In the list of those that are flushed at the end of the turn.
    pub(super) dirty: bool,
    /// What the pool was told of the queue last.
    pub(super) told: (u8, bool),
    /// The pool has given it up: it closes when everything is sent.
    pub(super) closing: bool,
    pub(super) deadline: Millis,
    pub(super) armed: Armed,
}

impl Link {
    pub(super) fn socket(&self) -> SocketId {
        match self {
            Self::Dial(dialing) => dialing.connector.socket(),
            Self::Open(writer) => writer.socket,
        }
    }

    /// Its time limit, and its entry among the timers.
    pub(super) fn timer(&mut self) -> (Millis, &mut Armed) {
        match self {
            Self::Dial(dialing) => (dialing.deadline, &mut dialing.armed),
            Self::Open(writer) => (writer.deadline, &mut writer.armed),
        }
    }
}

impl Writer {
    pub(super) fn new(
        key: WriterKey,
        socket: SocketId,
        ours: IpAddr,
        channel: MeChannel,
        blocks: &Blocks,
    ) -> Self {
        Self {
            key,
            socket,
            queue: SendQueue::new(blocks.clone()),
            encoder: channel.encoder,
            encryptor: Some(Box::new(channel.encryptor)),
            decryptor: channel.decryptor,
            reader: Some(Box::new(channel.reader)),
            current: None,
            ours,
            last_head: None,
            waiting: VecDeque::new(),
            dirty: false,
            told: (0, true),
            closing: false,
            deadline: Millis(u64::MAX),
            armed: Armed::default(),
        }
    }
}
