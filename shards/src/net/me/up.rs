//! c2d: what a client sends, cut into messages and queued on its writer.
//!
//! A message that lies whole in what was received is copied once, behind the others of this turn.
//! One that does not is collected in blocks it is later encrypted and sent from. A session stops
//! when it had its turn, has no writer, or its writer takes no more; what came meanwhile is held,
//! and the client is not read.
//!
//! Source: middle-proxy.md 19, 20 and 21.5.

use super::{
    Me,
    head::Head,
    link::Link,
    session::{Bound, Collected, Middle, Stop},
};
use crate::{
    engine::{Buf, Engine},
    net::{
        client::{Session, State},
        shard::Shard,
    },
    policy::{
        Millis,
        end::SessionEnd,
        me::pool::{Bind, WriterKey},
        meter::{Charged, Direction},
    },
    proto::middle::{
        client_frames::{ClientEvent, ClientFrameError},
        ops::ConnId,
        proxy_req::{ProxyReq, flag, is_unencrypted},
    },
};

/// Messages of one session before another one gets its turn.
const TURN_MESSAGES: usize = 32;
/// Longer ones are sent from the blocks they were collected in.
const COPY_BYTES_MAX: usize = 4 << 10;

/// What was read of a session's bytes.
struct Read {
    /// Bytes that are done with.
    consumed: usize,
    /// Bytes of the messages that were queued.
    queued_bytes: usize,
    /// Set when the session is to end.
    end: Option<SessionEnd>,
}

/// Everything that reading a session touches besides the session.
struct Reading<'a> {
    me: &'a mut Me,
    engine: &'a Engine,
    now: Millis,
    key: u32,
    queued_bytes: usize,
    queued_max: usize,
}

/// What becomes of a message.
enum Admitted {
    /// It goes to this link.
    To(u32),
    /// It waits.
    Not(Stop),
}

impl Shard {
    /// Bytes of a client behind an ME.
    pub(in crate::net) fn middle_up(&mut self, key: u32, mut buf: Buf) {
        let now = self.now;
        let Some(Session {
            state: State::Middle(middle),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        if middle.closing.is_some() || middle.client_ended {
            return;
        }
        middle.heard(now);
        let mut ended = false;
        if middle.up.take(&mut buf, &mut ended).is_none() {
            return self.end(key, SessionEnd::Done);
        }
        middle.client_ended = ended;
        if middle.up.stop == Stop::None {
            self.middle_read(key, buf.bytes());
        } else {
            middle.up.held.extend_from_slice(buf.bytes());
        }
    }

    /// Reads decrypted bytes of a session that is not stopped; holds what cannot go on.
    pub(super) fn middle_read(&mut self, key: u32, bytes: &[u8]) {
        let Some((middle, mut reading)) = self.reading(key) else {
            return;
        };
        let read = reading.read(middle, bytes);
        if read.end.is_none()
            && let Some(rest) = bytes.get(read.consumed..)
            && !rest.is_empty()
        {
            middle.up.held.extend_from_slice(rest);
        }
        self.middle_has_read(key, &read);
    }

    /// A session that was stopped goes on.
    pub(super) fn middle_go_on(&mut self, key: u32) {
        let Some((middle, mut reading)) = self.reading(key) else {
            return;
        };
        if middle.closing.is_some() {
            return;
        }
        middle.up.stop = Stop::None;
        middle.up.stopped_until = None;
        let mut held = std::mem::take(&mut middle.up.held);
        let read = reading.read(middle, &held);
        if read.consumed < held.len() {
            held.drain(..read.consumed);
            middle.up.held = held;
        }
        self.middle_has_read(key, &read);
    }

    fn reading(&mut self, key: u32) -> Option<(&mut Middle, Reading<'_>)> {
        let Some(Session {
            state: State::Middle(middle),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return None;
        };
        let reading = Reading {
            me: self.me.as_deref_mut()?,
            engine: &self.engine,
            now: self.now,
            key,
            queued_bytes: 0,
            queued_max: self.settings.plane.buffers.queue_bytes_max,
        };
        Some((middle, reading))
    }

    /// Counts what was queued, and sees to it that the client is read or not.
    fn middle_has_read(&mut self, key: u32, read: &Read) {
        let now = self.now;
        let Some(Session {
            client,
            state: State::Middle(middle),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        let (client, user) = (*client, middle.user);
        let Some(me) = &mut self.me else { return };
        let was_stalled = std::mem::take(&mut middle.up.flow.stalled);
        let ahead = middle.up.flow.until.is_some();
        let over = middle.client_ended && !middle.has_waiting();
        match middle.up.stop {
            Stop::None => {}
            Stop::Turn => me.turns.push_back(key),
            Stop::NoWriter | Stop::Full => {
                middle.up.flow.stalled = true;
                if middle.up.stop == Stop::Full && middle.up.stopped_until.is_none() {
                    let until = now.after(me.pool.plan().settings.uplink.stopped_max);
                    middle.up.stopped_until = Some(until);
                    me.watches.arm(&mut middle.watch, key, until);
                }
            }
        }
        let (stalled, open) = (middle.up.flow.stalled, middle.up.flow.is_open());
        if read.queued_bytes > 0 {
            self.count_up(user, read.queued_bytes);
        }
        if let Some(end) = read.end {
            return self.end(key, end);
        }
        if over {
            return self.end(key, SessionEnd::Done);
        }
        if stalled && !was_stalled {
            self.engine.pause(client);
            self.totals.core.backpressure_total += 1;
        } else if was_stalled && open {
            self.engine.resume(client);
        }
        if ahead {
            self.hold_back(key, crate::net::client::Side::Client);
        }
    }

    /// Gives every session that had its turn another one, round after round.
    pub(super) fn middle_turns(&mut self) {
        while let Some(key) = self.me.as_mut().and_then(|me| me.turns.pop_front()) {
            if self.middle(key).is_some_and(|m| m.up.stop == Stop::Turn) {
                self.middle_go_on(key);
            }
        }
    }
}

impl Middle {
    /// The client sent something.
    fn heard(&mut self, now: Millis) {
        self.last_c2d = now;
        self.marked = false;
        self.down.asked(now);
    }
}

impl Reading<'_> {
    fn read(&mut self, middle: &mut Middle, bytes: &[u8]) -> Read {
        let (consumed, end) = match self.go(middle, bytes) {
            Ok(consumed) => (consumed, None),
            Err(end) => (0, Some(end)),
        };
        Read {
            consumed,
            queued_bytes: self.queued_bytes,
            end,
        }
    }

    /// Queues all that is complete; how many bytes are done with.
    fn go(&mut self, middle: &mut Middle, bytes: &[u8]) -> Result<usize, SessionEnd> {
        let (mut at, mut messages) = (0, 0);
        if middle.up.message.as_ref().is_some_and(|m| m.complete) && !self.push_collected(middle)? {
            return Ok(0);
        }
        loop {
            let before = (middle.up.reader, at);
            let rest = bytes.get(at..).unwrap_or_default();
            if messages >= TURN_MESSAGES && !rest.is_empty() {
                middle.up.stop = Stop::Turn;
                return Ok(at);
            }
            let step = match middle.up.reader.next(rest) {
                Ok(step) => step,
                Err(error) => return Err(self.broken(middle, error)),
            };
            at += step.consumed;
            match step.event {
                None => return Ok(at),
                Some(ClientEvent::Begin {
                    payload_bytes,
                    quick_ack,
                }) => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let Some(message) = rest.get(..payload_bytes as usize) else {
                        self.collect(middle, payload_bytes as usize, quick_ack)?;
                        continue;
                    };
                    match self.admit(middle, message.len())? {
                        Admitted::To(link) => self.push(middle, link, quick_ack, message)?,
                        Admitted::Not(stop) => {
                            (middle.up.reader, at) = before;
                            middle.up.stop = stop;
                            return Ok(at);
                        }
                    }
                    // It is queued: the reader only has to pass it.
                    let passed = middle.up.reader.next(message);
                    debug_assert!(passed.is_ok(), "a message that had begun");
                    at += message.len();
                    messages += 1;
                }
                Some(ClientEvent::Piece(range)) => {
                    if let (Some(message), Some(piece)) = (&mut middle.up.message, rest.get(range))
                    {
                        message.append(self.engine.blocks(), piece);
                    }
                }
                Some(ClientEvent::End) => {
                    if let Some(message) = &mut middle.up.message {
                        message.complete = true;
                        messages += 1;
                        if !self.push_collected(middle)? {
                            return Ok(at);
                        }
                    }
                }
            }
        }
    }

    fn collect(
        &self,
        middle: &mut Middle,
        message_bytes: usize,
        quick_ack: bool,
    ) -> Result<(), SessionEnd> {
        if message_bytes > self.me.pool.plan().settings.uplink.writer_bytes_max {
            return Err(SessionEnd::MessageTooLong);
        }
        let tagged = middle.ad_tag.is_some();
        let message = Collected::new(self.engine.blocks(), message_bytes, quick_ack, tagged);
        middle.up.message = Some(Box::new(message));
        Ok(())
    }

    /// Queues the collected message; false when it has to wait.
    fn push_collected(&mut self, middle: &mut Middle) -> Result<bool, SessionEnd> {
        let Some(mut message) = middle.up.message.take() else {
            return Ok(true);
        };
        let link = match self.admit(middle, message.message_bytes)? {
            Admitted::To(link) => link,
            Admitted::Not(stop) => {
                middle.up.message = Some(message);
                middle.up.stop = stop;
                return Ok(false);
            }
        };
        let tagged = middle.ad_tag.is_some();
        if message.message_bytes <= COPY_BYTES_MAX && message.parts.len() == 1 {
            self.push(middle, link, message.quick_ack, message.front(tagged))?;
            return Ok(true);
        }
        let flags = flags(message.quick_ack, message.front(tagged));
        self.charge(middle, message.message_bytes)?;
        if let (Some(bound), Some(part)) = (&middle.bound, message.parts.first_mut()) {
            bound.head.put(
                flags,
                part.get_mut(super::queue::FRAME_HEAD..).unwrap_or_default(),
            );
        }
        super::queue::Part::close(&mut message.parts, self.engine.blocks());
        if let Some(Link::Open(writer)) = self.me.links.get_mut(link as usize) {
            writer.queue.parts(&mut message.parts);
        }
        self.note_queued(middle, link, flags, message.message_bytes);
        Ok(true)
    }

    /// Queues a message that lies in one piece.
    fn push(
        &mut self,
        middle: &mut Middle,
        link: u32,
        quick_ack: bool,
        message: &[u8],
    ) -> Result<(), SessionEnd> {
        self.charge(middle, message.len())?;
        let flags = flags(quick_ack, message);
        if let (Some(Link::Open(writer)), Some(bound)) =
            (self.me.links.get_mut(link as usize), &middle.bound)
        {
            writer.queue.message(&bound.head, flags, message);
        }
        self.note_queued(middle, link, flags, message.len());
        Ok(())
    }

    fn charge(&mut self, middle: &mut Middle, bytes: usize) -> Result<(), SessionEnd> {
        self.queued_bytes += bytes;
        match &middle.meter {
            None => Ok(()),
            Some(meter) => match meter.charge(Direction::Up, bytes, self.now) {
                Charged::Pass => Ok(()),
                Charged::Pause(until) => {
                    middle.up.flow.until = Some(until);
                    Ok(())
                }
                Charged::Spent => {
                    self.queued_bytes -= bytes;
                    Err(SessionEnd::Quota)
                }
            },
        }
    }

    fn note_queued(&mut self, middle: &mut Middle, link: u32, flags: u32, bytes: usize) {
        let Some(Link::Open(writer)) = self.me.links.get_mut(link as usize) else {
            return;
        };
        if let Some(bound) = &mut middle.bound {
            bound.sent_to = writer.queue.queued_to();
            bound.messages += 1;
            bound.bytes += bytes;
            bound.last_message = self.now;
            bound.key_exchange = flags & flag::UNENCRYPTED != 0;
        }
        if !writer.dirty {
            writer.dirty = true;
            self.me.dirty.push(link);
        }
    }

    /// Finds the message a place: the session's writer, if it has room for it.
    fn admit(&mut self, middle: &mut Middle, bytes: usize) -> Result<Admitted, SessionEnd> {
        let uplink = &self.me.pool.plan().settings.uplink;
        let (messages_max, frames_max) = (uplink.session_messages_max, uplink.writer_frames_max);
        let bytes_max = uplink.writer_bytes_max;
        if bytes > bytes_max {
            return Err(SessionEnd::MessageTooLong);
        }
        if middle.bound.is_none() {
            match self.me.pool.bind(middle.dc, self.key, self.now) {
                Bind::To(writer, conn) => self.bind(middle, writer, conn)?,
                Bind::Wait => return Ok(Admitted::Not(Stop::NoWriter)),
                Bind::Refused => return Err(SessionEnd::NoWriter),
            }
        }
        let Some(bound) = &mut middle.bound else {
            return Err(SessionEnd::Internal);
        };
        let Some(Link::Open(writer)) = self.me.links.get_mut(bound.link as usize) else {
            debug_assert!(false, "bound to a writer that is gone");
            return Err(SessionEnd::Internal);
        };
        let queue = &writer.queue;
        if bound.sent_to <= queue.sealed_to() {
            (bound.messages, bound.bytes) = (0, 0);
        }
        // One message beyond what any other connection may have unsent, as its last one.
        let own = bound.messages >= messages_max || bound.bytes > self.queued_max;
        let waiting = queue.bytes() + self.engine.queued(writer.socket);
        let full = queue.frames() >= frames_max || (waiting + bytes > bytes_max && waiting > 0);
        if own || full {
            writer.waiting.push_back(self.key);
            return Ok(Admitted::Not(Stop::Full));
        }
        Ok(Admitted::To(bound.link))
    }

    fn bind(
        &mut self,
        middle: &mut Middle,
        writer: WriterKey,
        conn: ConnId,
    ) -> Result<(), SessionEnd> {
        let Some(link) = self.me.link_of(writer) else {
            debug_assert!(false, "the pool knows a writer that the edge does not");
            return Err(SessionEnd::Internal);
        };
        let Some(Link::Open(open)) = self.me.links.get_mut(link as usize) else {
            return Err(SessionEnd::Internal);
        };
        let req = ProxyReq {
            conn,
            client: middle.peer,
            ours: std::net::SocketAddr::new(open.ours, middle.listener_port),
            framing: middle.framing,
            ad_tag: middle.ad_tag,
        };
        let head = Head::new(&req);
        open.last_head = Some(head);
        middle.bound = Some(Bound {
            writer,
            link,
            conn,
            head,
            sent_to: 0,
            messages: 0,
            bytes: 0,
            last_message: self.now,
            key_exchange: false,
            told: false,
        });
        Ok(())
    }

    /// A client's stream cannot be read on.
    fn broken(&mut self, middle: &Middle, error: ClientFrameError) -> SessionEnd {
        let all_full = self.me.pool.plan().settings.uplink.desync_all_full;
        let frames = middle.up.reader.frames();
        match error {
            ClientFrameError::TooLong { got, seen, .. } => {
                let who = (middle.user, middle.peer.ip().to_canonical(), middle.framing);
                self.me.desync.note(who, frames, all_full, self.now, &|| {
                    tracing::warn!(
                        from = %middle.peer.ip(), framing = ?middle.framing, frames, bytes = got,
                        length = ?seen, looks_like = super::desync::looks_like(seen),
                        "client stream out of step"
                    );
                });
                SessionEnd::Desync
            }
            ClientFrameError::Padding { .. } => {
                self.me.desync.counters.secure_padding_invalid_total += 1;
                SessionEnd::BadFrame
            }
            ClientFrameError::Words { .. }
            | ClientFrameError::LongForm { .. }
            | ClientFrameError::EmptyFrames => SessionEnd::BadFrame,
        }
    }
}

fn flags(quick_ack: bool, message: &[u8]) -> u32 {
    let mut flags = 0;
    if quick_ack {
        flags |= flag::QUICK_ACK;
    }
    if is_unencrypted(&[message]) {
        flags |= flag::UNENCRYPTED;
    }
    flags
}
