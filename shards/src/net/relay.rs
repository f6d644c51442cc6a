//! Bytes both ways: decrypted and encrypted in the buffer they came in, and sent from there.
//!
//! In fast mode the DC encrypts with the client's keys, so downlink bytes are not touched at all;
//! FakeTLS only puts record headers around them (protocol.md 4.2, 6.10).

mod tunnel;

use self::tunnel::{Opened, Tunnel, Up};
use super::{
    client::{Session, Side, State},
    shard::Shard,
};
use crate::{
    engine::{Buf, SocketId},
    policy::{
        Millis,
        end::SessionEnd,
        handshake::Accepted,
        meter::{Charged, Direction, Flow, Meter},
        record_sizes::RecordSizes,
        timer::Armed,
        upstream::Doubt,
        users::UserId,
    },
    proto::{
        crypto::CtrStream,
        faketls::record::{self, RecordReader},
        obfuscated2::DcHeader,
    },
};

/// A client and its DC.
pub(super) struct Relay {
    pub(super) dc: SocketId,
    pub(super) user: UserId,
    c2p: CtrStream,
    p2d: CtrStream,
    /// Downlink ciphers, DC first; none in fast mode.
    ciphers_down: Option<Box<(CtrStream, CtrStream)>>,
    /// Set for FakeTLS.
    records: Option<RecordReader>,
    /// How long those towards the client are.
    pub(super) sizes: RecordSizes,
    /// Set where a Shadowsocks server is between us and the DC.
    tunnel: Option<Box<Tunnel>>,
    pub(super) last_active: Millis,
    /// Limits on its bytes, if it has any.
    pub(super) meter: Option<Box<Meter>>,
    /// Why the client is not read.
    pub(super) up: Flow,
    /// Why the DC is not read.
    pub(super) down: Flow,
    /// Its entry among the timers of those that are ahead of their rate.
    pub(super) pace: Armed,
    client_ended: bool,
    pub(super) dc_ended: bool,
    /// Our end towards the client is sent; nothing more will be.
    client_finished: bool,
}

impl Relay {
    pub(super) fn new(accepted: &Accepted, header: &DcHeader, fast: bool, now: Millis) -> Self {
        let ciphers_down = (!fast).then(|| Box::new((header.d2p.clone(), accepted.keys.p2c())));
        Self {
            dc: SocketId::NONE,
            user: accepted.user,
            c2p: accepted.keys.c2p.clone(),
            p2d: header.p2d.clone(),
            ciphers_down,
            records: accepted.records,
            sizes: RecordSizes::default(),
            tunnel: None,
            last_active: now,
            meter: None,
            up: Flow::default(),
            down: Flow::default(),
            pace: Armed::default(),
            client_ended: false,
            dc_ended: false,
            client_finished: false,
        }
    }

    /// One side has ended.
    pub(super) fn is_closing(&self) -> bool {
        self.client_ended || self.dc_ended
    }

    /// The state of one direction.
    pub(super) fn flow_mut(&mut self, direction: Direction) -> &mut Flow {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// Charges bytes before they go on; false when they may not.
    #[must_use]
    pub(super) fn charge(&mut self, direction: Direction, bytes: usize, now: Millis) -> bool {
        let Some(meter) = &self.meter else {
            return true;
        };
        match meter.charge(direction, bytes, now) {
            Charged::Pass => true,
            Charged::Pause(until) => {
                self.flow_mut(direction).until = Some(until);
                true
            }
            Charged::Spent => false,
        }
    }

    /// When something last moved, or will: who waits for their rate is not idle.
    fn last_move(&self) -> Millis {
        let waits = [self.up.until, self.down.until].into_iter().flatten();
        waits.fold(self.last_active, Millis::max)
    }

    /// From the client's keys to the DC's.
    pub(super) fn encrypt_up(&mut self, bytes: &mut [u8]) {
        both(&mut self.c2p, &mut self.p2d, bytes);
    }

    /// Turns received uplink bytes into what the DC gets; returns how many. `None`: the record
    /// layer is broken. Sets `ended` when an alert says that nothing more will come.
    pub(super) fn take_up(&mut self, buf: &mut Buf, ended: &mut bool) -> Option<usize> {
        if let Some(records) = &mut self.records {
            let compacted = records.compact(buf.bytes_mut()).ok()?;
            buf.truncate(compacted.payload);
            *ended |= compacted.ended;
        }
        self.encrypt_up(buf.bytes_mut());
        Some(buf.len())
    }
}

/// Two ciphers over the same bytes.
fn both(first: &mut CtrStream, second: &mut CtrStream, bytes: &mut [u8]) {
    CtrStream::apply_both(first, second, bytes);
}

impl Shard {
    /// Uplink bytes of a relay.
    pub(super) fn relay_up(&mut self, key: u32, mut buf: Buf) {
        let Some(Session {
            client,
            state: State::Relay(relay),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        let mut ended = false;
        relay.last_active = self.now;
        let Some(len) = relay.take_up(&mut buf, &mut ended) else {
            return self.end(key, SessionEnd::Done);
        };
        if relay.client_ended {
            return;
        }
        // A DC that has ended may still read. If it does not, its reset comes to `dc_failed`, which
        // leaves the flush to the client alone.
        let (client, dc, user) = (*client, relay.dc, relay.user);
        if len > 0 {
            // What comes for a DC that is gone goes nowhere, and is not charged.
            if dc != SocketId::NONE && !relay.charge(Direction::Up, len, self.now) {
                return self.end(key, SessionEnd::Quota);
            }
            let ahead = relay.up.until.is_some();
            let sealed = relay.seal_up(buf, self.engine.blocks(), self.now);
            let due = relay.answer_due(&self.settings.upstream);
            match sealed {
                Up::Plain(buf) => self.engine.send(dc, buf),
                Up::Together(block) => self.engine.send_block(dc, block),
                Up::Around(framed) => self.engine.send_framed(dc, framed),
            }
            if self.engine.queued(dc) > self.settings.plane.buffers.queue_bytes_max {
                self.stall(key, Direction::Up);
                self.engine.pause(client);
                self.engine.notify_writable(dc);
                self.totals.core.backpressure_total += 1;
            }
            self.count_up(user, len);
            if let Some(due) = due {
                self.set_deadline(key, due);
            }
            if ahead {
                self.hold_back(key, Side::Client);
            }
        }
        if ended {
            self.client_ended(key);
        }
    }

    /// Downlink bytes of a relay.
    pub(super) fn relay_down(&mut self, key: u32, mut buf: Buf) {
        let Some(Session {
            client,
            state: State::Relay(relay),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return self.dial_answer(key, buf);
        };
        if relay.dc_ended {
            // Our end is said, or about to be: what was still on its way is too late.
            return;
        }
        relay.last_active = self.now;
        relay.sizes.begin(self.now);
        let opened = relay.open_down(&mut buf, self.now_unix, self.engine.blocks());
        let Opened { first, first_bytes } = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, "what the Shadowsocks server sent cannot be opened");
                self.leg_doubted(key, Doubt::Unreadable);
                return self.end(key, SessionEnd::BrokenUpstream);
            }
        };
        let len = first_bytes + buf.len();
        if len > 0
            && let Some(trial) = relay.take_trial()
        {
            let counters = &mut self.upstream_counters;
            self.upstream.answered(&trial, self.now, counters);
        }
        if !relay.charge(Direction::Down, len, self.now) {
            return self.end(key, SessionEnd::Quota);
        }
        let ahead = relay.down.until.is_some();
        if let Some(down) = &mut relay.ciphers_down {
            both(&mut down.0, &mut down.1, buf.bytes_mut());
        }
        let (client, dc, user) = (*client, relay.dc, relay.user);
        let framed = relay.records.is_some();
        let sizes = relay.sizes.cut(buf.len());
        if let Some(block) = first {
            self.engine.send_block(client, block);
        }
        match (framed, sizes) {
            (true, Some(sizes)) => {
                let header = record::header;
                self.engine.send_sized_records(client, buf, &sizes, header);
            }
            (true, None) => self.engine.send_records(client, buf, record::header),
            (false, _) => self.engine.send(client, buf),
        }
        if self.engine.queued(client) > self.settings.plane.buffers.queue_bytes_max {
            self.stall(key, Direction::Down);
            self.engine.pause(dc);
            self.engine.notify_writable(client);
            self.totals.core.backpressure_total += 1;
        }
        self.totals.core.octets_to_client_total += len as u64;
        if self.counts_users
            && let Some(row) = self.user_rows.get_mut(user.0 as usize)
        {
            row.octets_to_client += len as u64;
        }
        if ahead {
            self.hold_back(key, Side::Dc);
        }
    }

    /// Notes that the other side takes no more for now.
    fn stall(&mut self, key: u32, direction: Direction) {
        if let Some(session) = self.sessions.get_mut(key as usize)
            && let State::Relay(relay) = &mut session.state
        {
            relay.flow_mut(direction).stalled = true;
        }
    }

    /// Counts uplink payload.
    pub(super) fn count_up(&mut self, user: UserId, len: usize) {
        self.totals.core.octets_from_client_total += len as u64;
        if self.counts_users
            && let Some(row) = self.user_rows.get_mut(user.0 as usize)
        {
            row.octets_from_client += len as u64;
        }
    }

    /// A stalled side takes bytes again: its source is read again, unless it is ahead of its rate.
    pub(super) fn writable(&mut self, key: u32, side: Side) {
        let Some(Session {
            client,
            state: State::Relay(relay),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        let (flow, source) = if side == Side::Client {
            (&mut relay.down, relay.dc)
        } else {
            (&mut relay.up, *client)
        };
        flow.stalled = false;
        if flow.is_open() && !(side == Side::Client && relay.dc_ended) {
            self.engine.resume(source);
        }
    }

    /// The client will send no more: pass that on, and give the DC a while to finish.
    pub(super) fn client_ended(&mut self, key: u32) {
        let Some(Session {
            state: State::Relay(relay),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            return;
        };
        relay.client_ended = true;
        let (dc, over) = (relay.dc, relay.client_finished);
        if over {
            return self.end(key, SessionEnd::Done);
        }
        self.engine.finish(dc);
        let limit = self.now.after(self.settings.timeouts.half_close);
        self.set_deadline(key, limit);
    }

    /// The DC will send no more: everything goes to the client, then the end.
    pub(super) fn dc_ended(&mut self, key: u32) {
        let Some(Session {
            client,
            state: State::Relay(relay),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            self.dial_cut_off(key);
            return;
        };
        if relay.is_unanswered() {
            self.leg_doubted(key, Doubt::Ended);
            return self.end(key, SessionEnd::DcUnreachable);
        }
        relay.dc_ended = true;
        relay.last_active = self.now;
        let client = *client;
        if self.engine.finish(client) {
            self.finished(key, Side::Client);
        } else {
            let idle = self.now.after(self.idle_limit());
            self.set_deadline(key, idle);
        }
    }

    /// The DC broke off or takes nothing more: what it said so far still goes to the client.
    pub(super) fn dc_failed(&mut self, key: u32) {
        let Some(Session {
            client,
            state: State::Relay(relay),
            ..
        }) = self.sessions.get_mut(key as usize)
        else {
            if !self.dial_cut_off(key) {
                self.end(key, SessionEnd::Done);
            }
            return;
        };
        let dc = std::mem::replace(&mut relay.dc, SocketId::NONE);
        let told = relay.dc_ended;
        // Nobody is waited for any more: the client is read, to hear of its end.
        relay.up = Flow::default();
        self.engine.resume(*client);
        self.engine.close(dc);
        if !told {
            self.dc_ended(key);
        }
    }

    /// Everything is sent to one side, and the end after it.
    pub(super) fn finished(&mut self, key: u32, side: Side) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Relay(relay) = &mut session.state else {
            // The few bytes of a refusal are out.
            return self.remove(key);
        };
        if side != Side::Client {
            return;
        }
        relay.client_finished = true;
        if relay.client_ended {
            return self.end(key, SessionEnd::Done);
        }
        let limit = self.now.after(self.settings.timeouts.half_close);
        self.set_deadline(key, limit);
    }

    /// A relay's time is up, or its lazily moved deadline came.
    pub(super) fn relay_expired(&mut self, key: u32) {
        let idle = self.idle_limit();
        let due = self.answer_due(key);
        if due.is_some_and(|due| due <= self.now) {
            self.leg_doubted(key, Doubt::Silent);
        }
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Relay(relay) = &mut session.state else {
            return;
        };
        let closing = relay.client_ended || relay.dc_ended;
        if !closing || (relay.dc_ended && !relay.client_finished) {
            // Bytes may still flow: only silence ends it.
            session.deadline = relay.last_move().after(idle);
            if let Some(due) = relay.answer_due(&self.settings.upstream) {
                session.deadline = session.deadline.min(due);
            }
        }
        if session.deadline > self.now {
            return self.rearm(key);
        }
        if !closing || relay.client_finished || relay.dc_ended {
            let end = if closing {
                SessionEnd::Done
            } else {
                SessionEnd::Idle
            };
            return self.end(key, end);
        }
        // The client ended and the DC had its while: what it said so far still goes out.
        let dc = relay.dc;
        self.engine.pause(dc);
        self.dc_ended(key);
    }
}
