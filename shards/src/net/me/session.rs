//! A client whose messages go through an ME: what is kept of it between events.
//!
//! An idle session owns no buffer: its blocks are taken when there is something to put into them
//! and leave with it.

use std::net::SocketAddr;

use super::{down::Down, head::Head, queue::Part};
use crate::{
    engine::{Block, Buf},
    policy::{
        Millis,
        end::SessionEnd,
        me::pool::WriterKey,
        meter::{Flow, Meter},
        timer::Armed,
        users::UserId,
    },
    proto::{
        crypto::CtrStream,
        faketls::record::RecordReader,
        framing::Framing,
        middle::{client_frames::ClientReader, ops::ConnId, proxy_req::AdTag},
    },
};

/// A client behind MEs.
pub(in crate::net) struct Middle {
    pub(in crate::net) user: UserId,
    /// As the ME is told.
    pub(super) peer: SocketAddr,
    pub(super) listener_port: u16,
    pub(super) ad_tag: Option<AdTag>,
    pub(super) framing: Framing,
    /// As the client named it.
    pub(super) dc: i16,
    pub(super) bound: Option<Bound>,
    pub(super) up: Up,
    pub(super) down: Down,
    /// Limits on its bytes, if it has any.
    pub(in crate::net) meter: Option<Box<Meter>>,
    /// Its entry among the timers of those that are ahead of their rate.
    pub(in crate::net) pace: Armed,
    /// Its entry among the timers of those that stand still.
    pub(super) watch: Armed,
    /// When the client last sent something.
    pub(super) last_c2d: Millis,
    /// When an answer last came.
    pub(super) last_d2c: Option<Millis>,
    /// Silent for the soft limit: goes first when places are scarce.
    pub(super) marked: bool,
    /// Set when no more is taken in from either side.
    pub(super) closing: Option<Closing>,
    pub(super) client_ended: bool,
}

/// A place on a writer.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) writer: WriterKey,
    pub(super) link: u32,
    pub(super) conn: ConnId,
    pub(super) head: Head,
    /// Where its last message ends in the writer's queue.
    pub(super) sent_to: u64,
    /// Its messages and bytes since all before them had left the queue.
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// When it last gave the writer a message.
    pub(super) last_message: Millis,
    /// That message was part of a key exchange.
    pub(super) key_exchange: bool,
    /// The ME has been told that the session is over.
    pub(super) told: bool,
}

/// The end that follows when everything is delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    pub(super) end: SessionEnd,
    /// Our end towards the client is queued behind all data.
    pub(super) finishing: bool,
    /// It is sent.
    pub(super) finished: bool,
}

/// From the client.
pub(super) struct Up {
    cipher: CtrStream,
    /// Set for FakeTLS.
    records: Option<RecordReader>,
    pub(super) reader: ClientReader,
    /// A message of which a part has come, or one that waits for its writer.
    pub(super) message: Option<Box<Collected>>,
    /// Decrypted bytes whose turn has not come.
    pub(super) held: Vec<u8>,
    /// Why they wait; they are looked at again for that reason only.
    pub(super) stop: Stop,
    /// When that began, and when it is too long; not for those that only wait for their turn.
    pub(super) stopped_until: Option<Millis>,
    /// Why the client is not read.
    pub(super) flow: Flow,
}

/// Why a session's messages do not go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stop {
    /// They do.
    #[default]
    None,
    /// Others have their turn.
    Turn,
    /// No writer; the pool wakes it.
    NoWriter,
    /// Its writer is full, or full of its messages.
    Full,
}

/// A message collected in blocks of its own.
pub(super) struct Collected {
    pub(super) parts: Vec<Block>,
    pub(super) message_bytes: usize,
    /// Bytes still to come.
    pub(super) left: usize,
    pub(super) quick_ack: bool,
    /// Padding has come too: it can be queued.
    pub(super) complete: bool,
}

impl Up {
    pub(super) fn new(
        cipher: CtrStream,
        records: Option<RecordReader>,
        reader: ClientReader,
    ) -> Self {
        Self {
            cipher,
            records,
            reader,
            message: None,
            held: Vec::new(),
            stop: Stop::None,
            stopped_until: None,
            flow: Flow::default(),
        }
    }

    /// Decrypts what came with the handshake, records already removed.
    pub(super) fn decrypt(&mut self, early: &mut [u8]) {
        self.cipher.apply(early);
    }

    /// Decrypts received bytes in place. `None`: the record layer is broken. Sets `ended` when an
    /// alert says that nothing more will come.
    pub(super) fn take(&mut self, buf: &mut Buf, ended: &mut bool) -> Option<()> {
        if let Some(records) = &mut self.records {
            let compacted = records.compact(buf.bytes_mut()).ok()?;
            buf.truncate(compacted.payload);
            *ended |= compacted.ended;
        }
        self.cipher.apply(buf.bytes_mut());
        Some(())
    }
}

impl Middle {
    /// Until when the client is ahead of its rate.
    pub(in crate::net) fn up_until(&self) -> Option<Millis> {
        self.up.flow.until
    }

    /// Messages wait, for whatever reason.
    pub(super) fn has_waiting(&self) -> bool {
        let complete = self.up.message.as_ref().is_some_and(|m| m.complete);
        complete || !self.up.held.is_empty()
    }
}

impl Collected {
    /// An empty one for a message of so many bytes, in a session with or without an ad tag.
    pub(super) fn new(
        blocks: &crate::engine::Blocks,
        message_bytes: usize,
        quick_ack: bool,
        tagged: bool,
    ) -> Self {
        let room = super::queue::FRAME_HEAD + Head::bytes_of(tagged);
        let all = room + message_bytes + super::queue::PADDING + 4;
        let mut first = blocks.take(all.min(Part::BYTES));
        first.extend_with(room, |place| place.fill(0));
        Self {
            parts: vec![first],
            message_bytes,
            left: message_bytes,
            quick_ack,
            complete: false,
        }
    }

    /// Takes the next bytes of it.
    pub(super) fn append(&mut self, blocks: &crate::engine::Blocks, bytes: &[u8]) {
        Part::append(&mut self.parts, blocks, bytes, self.left);
        self.left = self.left.saturating_sub(bytes.len());
    }

    /// The first bytes of the message that have come.
    pub(super) fn front(&self, tagged: bool) -> &[u8] {
        let room = super::queue::FRAME_HEAD + Head::bytes_of(tagged);
        self.parts
            .first()
            .and_then(|part| part.get(room..))
            .unwrap_or_default()
    }
}
