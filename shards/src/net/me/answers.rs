//! d2c: what an ME says, decrypted where it was received, to the sessions it is for.
//!
//! Nothing here waits for a client: what a client does not take stays in its own queue, which has
//! bounds, and whose crossing ends the session and nobody else's.
//!
//! Source: middle-proxy.md 8.2, 21.1 and 21.3.

use rand::RngExt;

use super::{
    down::{Over, Partial, Reason},
    link::Link,
    middle_of,
};
use crate::{
    net::{client::Session, shard::Shard},
    policy::{
        end::SessionEnd,
        me::pool::{ClosedBy, Loss, Target, WriterFacts},
        meter::{ChargedDown, Meter},
    },
    proto::middle::{
        answers::{AnswerEvent, AnswerReader, Signal},
        client_frames::{downlink_padding, quick_ack},
        frame::RpcFrameError,
        ops::{ConnId, Note},
    },
};

/// How much fits a session's queue.
struct Bounds {
    frames_max: usize,
    bytes_max: usize,
    watermark_pct: usize,
}

/// Bytes a session may have waiting, whatever its frames.
const QUEUE_BYTES_MIN: usize = 16 << 20;
/// Bytes for each frame it may have waiting.
const FRAME_BYTES: usize = 16 << 10;

impl Shard {
    /// Cipher text of an open connection.
    pub(super) fn me_cipher_text(&mut self, key: u32, bytes: &mut [u8]) {
        let Some(writer) = self.me_writer(key) else {
            return;
        };
        let Some(mut reader) = writer.reader.take() else {
            debug_assert!(false, "a reader within its own work");
            return;
        };
        // What is decrypted is read, copied and encrypted again while it is in the nearest cache.
        let mut pieces = bytes.chunks_mut(PIECE_BYTES);
        let read = pieces.try_for_each(|piece| self.me_piece(key, &mut reader, piece));
        if let Some(writer) = self.me_writer(key) {
            writer.reader = Some(reader);
        }
        if let Err(error) = read {
            if let Some(facts) = self.me_writer(key).map(|writer| writer.key)
                && let Some(me) = &self.me
                && let Some(WriterFacts { id, dc, endpoint }) = me.pool.writer(facts)
            {
                tracing::warn!(writer = id.0, dc, %endpoint, %error, "broken stream of an ME");
            }
            self.me_lost(key, Loss::Broken);
        }
    }

    fn me_piece(
        &mut self,
        key: u32,
        reader: &mut AnswerReader,
        bytes: &mut [u8],
    ) -> Result<(), RpcFrameError> {
        let Some(writer) = self.me_writer(key) else {
            return Ok(());
        };
        let plain = writer.decryptor.decrypt(bytes);
        if let Some(seam) = &plain.seam {
            self.me_plain_text(key, reader, seam)?;
        }
        self.me_plain_text(key, reader, bytes.get(plain.body).unwrap_or_default())
    }

    fn me_plain_text(
        &mut self,
        key: u32,
        reader: &mut AnswerReader,
        bytes: &[u8],
    ) -> Result<(), RpcFrameError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let step = reader.next(rest)?;
            match step.event {
                None => return Ok(()),
                Some(AnswerEvent::Data {
                    conn, data_bytes, ..
                }) => self.answer_begins(key, conn, data_bytes),
                Some(AnswerEvent::Piece(at)) => {
                    if let Some(piece) = rest.get(at) {
                        self.answer_piece(key, piece);
                    }
                }
                Some(AnswerEvent::DataEnd) => self.answer_ends(key),
                Some(AnswerEvent::Signal(signal)) => self.me_signal(key, signal),
            }
            rest = rest.get(step.consumed..).unwrap_or_default();
        }
        Ok(())
    }

    fn me_signal(&mut self, key: u32, signal: Signal) {
        let now = self.now;
        match signal {
            Signal::Ack { conn, confirm } => self.ack(key, conn, confirm),
            Signal::Close { conn } => self.closed_by_me(key, conn),
            Signal::Ping { id } => {
                if let Some(writer) = self.me_writer(key) {
                    writer.queue.note_ahead(Note::Pong(id));
                    self.me_mark_dirty(key);
                }
            }
            Signal::Pong { id } => {
                if let Some(me) = self.me.as_deref_mut()
                    && let Some(Link::Open(writer)) = me.links.get(key as usize)
                {
                    me.pool.pong(writer.key, id, now);
                }
            }
            Signal::Ignored { op } => tracing::trace!(op, "an ME says what we do not know"),
        }
    }

    /// The session a frame is for, if it takes any; counts the frame otherwise.
    fn route(&mut self, key: u32, conn: ConnId) -> Option<u32> {
        let now = self.now;
        let me = self.me.as_deref_mut()?;
        let Link::Open(writer) = me.links.get_mut(key as usize)? else {
            return None;
        };
        match me.pool.target(writer.key, conn, now) {
            Target::Session(session) => {
                let takes = self
                    .sessions
                    .get_mut(session as usize)
                    .and_then(middle_of)
                    .is_some_and(|middle| middle.closing.is_none());
                if !takes {
                    me.counters.route_drop_channel_closed_total += 1;
                }
                takes.then_some(session)
            }
            Target::Service => None,
            Target::Unknown { answer } => {
                me.counters.route_drop_no_conn_total += 1;
                if answer {
                    writer.queue.note(Note::CloseConn(conn));
                    self.me_mark_dirty(key);
                }
                None
            }
        }
    }

    /// A message for a client begins.
    fn answer_begins(&mut self, key: u32, conn: ConnId, data_bytes: u32) {
        if let Some(writer) = self.me_writer(key) {
            writer.current = None;
        }
        let Some(session) = self.route(key, conn) else {
            return;
        };
        if data_bytes == 0 {
            return;
        }
        let padding: u8 = self.rng.random();
        let now = self.now;
        let Some(Session {
            client: _,
            state: crate::net::client::State::Middle(middle),
            ..
        }) = self.sessions.get_mut(session as usize)
        else {
            return;
        };
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        middle.last_d2c = Some(now);
        let downlink = &me.pool.plan().settings.downlink;
        let overshoot = downlink.quota_overshoot_bytes;
        let bounds = Bounds::of(downlink);
        let occupied = bounds.occupied_pct(middle.down.frames(), middle.down.bytes());
        let fits = bounds.fits(&middle.down, data_bytes as usize);
        let high = occupied >= bounds.watermark_pct;
        if !fits && middle.down.over.is_some() {
            me.count_full(high);
            return self.end(session, SessionEnd::QueueFull);
        }
        let charged = charge(middle.meter.as_deref(), data_bytes, overshoot, now);
        let last = match charged {
            ChargedDown::Pass => false,
            ChargedDown::Pause(until) => {
                middle.down.flow.until = Some(until);
                self.paces.arm(&mut middle.pace, session, until);
                false
            }
            ChargedDown::Last => true,
            ChargedDown::Spent => {
                me.counters.d2c_quota_reject_pre_write_total += 1;
                return self.middle_finish(session, SessionEnd::Quota);
            }
        };
        if !fits {
            let wait = match (downlink.backpressure, high) {
                (false, _) => downlink.wait,
                (true, false) => downlink.wait_base,
                (true, true) => downlink.wait_high,
            };
            let until = now.after(wait);
            middle.down.over = Some(Over { until, high });
            me.watches.arm(&mut middle.watch, session, until);
        }
        let padding = downlink_padding(middle.framing, padding);
        let header = middle
            .framing
            .encode_header(data_bytes as usize, padding, false);
        let Ok(header) = header else {
            // Not whole words: nothing a client could make sense of.
            return self.end(session, SessionEnd::BadAnswer);
        };
        middle
            .down
            .frame_around(self.engine.blocks(), header.as_bytes());
        middle.down.partial = Some(Partial {
            link: key,
            data_bytes,
            padding: padding as u8,
            last,
        });
        if let Some(Link::Open(writer)) = me.links.get_mut(key as usize) {
            writer.current = Some(session);
        }
    }

    /// More of the message that has begun.
    fn answer_piece(&mut self, key: u32, piece: &[u8]) {
        let Some(session) = self.me_writer(key).and_then(|writer| writer.current) else {
            return;
        };
        let Some(middle) = self.sessions.get_mut(session as usize).and_then(middle_of) else {
            debug_assert!(false, "an answer outlives its session");
            return;
        };
        let Some(me) = &self.me else { return };
        let batch_bytes_max = me.pool.plan().settings.downlink.batch_bytes_max;
        let blocks = self.engine.blocks();
        // In portions of a batch, or one long answer would be a batch of any size.
        let mut rest = piece;
        let mut full = false;
        while !rest.is_empty() {
            let room = batch_bytes_max
                .saturating_sub(middle.down.open().bytes)
                .max(4);
            let (now, later) = rest.split_at(rest.len().min(room));
            middle.down.payload(blocks, now);
            rest = later;
            if middle.down.open().bytes >= batch_bytes_max && !rest.is_empty() {
                middle.down.close_batch(Reason::Bytes);
                full = true;
            }
        }
        if full || middle.down.open().bytes >= batch_bytes_max {
            self.middle_flush_later_or_now(session);
        }
    }

    /// The message that has begun is complete, and its frame was sound.
    fn answer_ends(&mut self, key: u32) {
        let Some(session) = self.me_writer(key).and_then(|writer| writer.current.take()) else {
            return;
        };
        let random: [u8; 4] = self.rng.random();
        let Some(middle) = self.sessions.get_mut(session as usize).and_then(middle_of) else {
            return;
        };
        let Some(partial) = middle.down.partial.take() else {
            return;
        };
        let padding = random.get(..usize::from(partial.padding));
        let down = &mut middle.down;
        down.frame_around(self.engine.blocks(), padding.unwrap_or_default());
        down.frame_ends(partial.data_bytes);
        if partial.last {
            if let Some(me) = &mut self.me {
                me.counters.d2c_quota_reject_post_write_total += 1;
            }
            return self.middle_finish(session, SessionEnd::Quota);
        }
        self.middle_flush_later_or_now(session);
    }

    /// A quick ack for a client.
    fn ack(&mut self, key: u32, conn: ConnId, confirm: u32) {
        let Some(session) = self.route(key, conn) else {
            return;
        };
        let now = self.now;
        let Some(middle) = self.sessions.get_mut(session as usize).and_then(middle_of) else {
            return;
        };
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        middle.last_d2c = Some(now);
        let downlink = &me.pool.plan().settings.downlink;
        let immediate = downlink.ack_immediate;
        let bounds = Bounds::of(downlink);
        if !bounds.fits(&middle.down, ACK_BYTES) {
            let occupied = bounds.occupied_pct(middle.down.frames(), middle.down.bytes());
            return me.count_full(occupied >= bounds.watermark_pct);
        }
        let ack = quick_ack(middle.framing, confirm);
        debug_assert!(middle.down.partial.is_none_or(|p| p.link != key));
        if middle.down.partial.is_some() {
            // Cannot be: a session's frames come from one connection, one behind the other.
            return self.end(session, SessionEnd::Internal);
        }
        middle.down.ack(self.engine.blocks(), ack);
        if immediate {
            self.middle_flush(session, Reason::Ack);
        } else {
            self.middle_flush_later_or_now(session);
        }
    }

    /// The ME closes a client: what is queued is delivered, then its connection ends.
    fn closed_by_me(&mut self, key: u32, conn: ConnId) {
        let now = self.now;
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let Some(Link::Open(writer)) = me.links.get(key as usize) else {
            return;
        };
        let writer = writer.key;
        let session = match me.pool.target(writer, conn, now) {
            Target::Session(session) => Some(session),
            Target::Service | Target::Unknown { .. } => None,
        };
        me.pool.unbind(writer, conn, ClosedBy::Me, now);
        if let Some(session) = session {
            if let Some(middle) = self.middle_mut(session) {
                middle.bound = None;
            }
            self.middle_finish(session, SessionEnd::Done);
        }
    }
}

impl super::Me {
    /// A frame was dropped because its session's queue is full.
    pub(super) fn count_full(&mut self, high: bool) {
        self.counters.route_drop_queue_full_total += 1;
        if high {
            self.counters.route_drop_queue_full_high_total += 1;
        } else {
            self.counters.route_drop_queue_full_base_total += 1;
        }
    }
}

impl Bounds {
    fn of(downlink: &crate::settings::DownlinkSettings) -> Self {
        let frames_max = downlink.session_frames_max;
        Self {
            frames_max,
            bytes_max: frames_max.saturating_mul(FRAME_BYTES).max(QUEUE_BYTES_MIN),
            watermark_pct: usize::from(downlink.high_watermark_pct),
        }
    }

    fn fits(&self, down: &super::down::Down, bytes: usize) -> bool {
        down.frames() < self.frames_max && down.bytes() + bytes <= self.bytes_max
    }

    /// The larger of the two fractions.
    fn occupied_pct(&self, frames: usize, bytes: usize) -> usize {
        let frames = frames.saturating_mul(100) / self.frames_max.max(1);
        frames.max(bytes.saturating_mul(100) / self.bytes_max.max(1))
    }
}

/// The queue of a session is within its bounds.
pub(super) fn is_within(
    down: &super::down::Down,
    downlink: &crate::settings::DownlinkSettings,
) -> bool {
    let bounds = Bounds::of(downlink);
    down.frames() <= bounds.frames_max && down.bytes() <= bounds.bytes_max
}

fn charge(
    meter: Option<&Meter>,
    bytes: u32,
    overshoot: u64,
    now: crate::policy::Millis,
) -> ChargedDown {
    meter.map_or(ChargedDown::Pass, |meter| {
        meter.charge_answer(bytes as usize, overshoot, now)
    })
}

const ACK_BYTES: usize = 4;
/// What is decrypted at once.
const PIECE_BYTES: usize = 8 << 10;
