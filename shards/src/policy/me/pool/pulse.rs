//! The life signs of one writer: pings, round trips, activity signals.
//!
//! ```text
//!   ping:    due ─(room)─> sent ─> PONG, or nothing for 30 s; two of these in a row: lost
//!             └─(no room for 50 ms)─> failed, the next at its time
//!   signal:  due ─(room)─> open ─(answer or 700 ms)─> closing ─(room)─> closed
//!             └─(never a session)─> skipped      └─(no room for 50 ms)─> failed
//! ```
//!
//! Source: middle-proxy.md 18.

use std::{collections::VecDeque, time::Duration};

use super::{super::super::Millis, dice::Dice};
use crate::{proto::middle::ops::ConnId, settings::KeepaliveSettings};

/// Life signs of one writer, by the settings of its beginning.
#[derive(Debug)]
pub(super) struct Pulse {
    settings: KeepaliveSettings,
    next_ping: Millis,
    /// Unanswered pings, oldest first; at most [`PINGS_MAX`].
    pings: VecDeque<(u64, Millis)>,
    /// Timeouts since the last PONG.
    missed: u32,
    counted_pings: u64,
    rtt: Option<Rtt>,
    signal: Signal,
}

#[derive(Clone, Copy, Debug)]
struct Rtt {
    ema_ms: f64,
    base_ms: f64,
}

/// The activity signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// Switched off.
    Off,
    /// The next one.
    Due(Millis),
    /// Sent; frames for it are answers until `until`.
    Open {
        conn: ConnId,
        until: Millis,
        next: Millis,
    },
    /// To be closed as soon as there is room, given up at `until`.
    Closing {
        conn: ConnId,
        until: Millis,
        next: Millis,
    },
}

/// What the writer is like while its life signs are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) has_room: bool,
    pub(super) has_sessions: bool,
    pub(super) ever_bound: bool,
}

/// Something due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send a PING.
    Ping(u64),
    /// A due PING found no room for 50 ms.
    PingFailed,
    /// A ping stayed unanswered for 30 s.
    TimedOut,
    /// The second in a row: the writer is lost.
    Dead,
    /// Send a signal: make an id and say it with [`Pulse::signalled`].
    Signal,
    /// Nothing is known to put into one.
    SignalSkipped,
    /// It, or its end, found no room for 50 ms; the id, if any, is free.
    SignalFailed(Option<ConnId>),
    /// Send its end; the id is free.
    CloseSignal(ConnId),
}

/// Of pings while they are switched off: 25 s, 5 s to either side.
const PLAIN_PERIOD: Duration = Duration::from_secs(25);
const PLAIN_JITTER: Duration = Duration::from_secs(5);
/// Writers without sessions are pinged at least so often.
const IDLE_PERIOD: Duration = Duration::from_secs(5);
/// Whatever the settings say, so that [`PINGS_MAX`] hold all within [`PONG_MS`].
const PERIOD_MIN: Duration = Duration::from_millis(500);
const PINGS_MAX: usize = 64;
const PONG_MS: u64 = 30_000;
const MISSED_MAX: u32 = 2;
/// What is due waits so long for room, and looks that often.
const ROOM_MS: u64 = 50;
const ROOM_LOOK_MS: u64 = 10;
const ANSWER_MS: u64 = 700;
/// Slower than twice the base, and by more than this: degraded.
const DEGRADED_MS: f64 = 10.0;

impl Pulse {
    pub(super) fn new(settings: &KeepaliveSettings, dice: &mut Dice, now: Millis) -> Self {
        let jitter = match settings.enabled {
            true => settings.jitter,
            false => PLAIN_JITTER,
        };
        let signal = match settings.signal_every.is_zero() {
            true => Signal::Off,
            false => Signal::Due(after(now, settings.signal_every, settings.jitter, dice)),
        };
        Self {
            next_ping: now.after(dice.part_of(jitter)),
            pings: VecDeque::new(),
            missed: 0,
            counted_pings: 0,
            rtt: None,
            signal,
            settings: settings.clone(),
        }
    }

    /// When [`Self::beat`] has something to say; earlier looks do no harm.
    pub(super) fn deadline(&self, now: Millis) -> Millis {
        // What is overdue waits for room.
        let look = Millis(now.0.saturating_add(ROOM_LOOK_MS));
        let due = |at: Millis| if at <= now { look } else { at };
        let pong = self.pings.front().map(|(_, sent)| pong_due(*sent));
        let signal = match self.signal {
            Signal::Off => None,
            Signal::Due(at) | Signal::Open { until: at, .. } => Some(due(at)),
            Signal::Closing { .. } => Some(look),
        };
        let ping = due(self.next_ping);
        [pong, signal].into_iter().flatten().fold(ping, Millis::min)
    }

    /// The next thing due, one at a time until there is none.
    pub(super) fn beat(&mut self, view: View, dice: &mut Dice, now: Millis) -> Option<Beat> {
        if self
            .pings
            .front()
            .is_some_and(|(_, sent)| pong_due(*sent) <= now)
        {
            self.pings.pop_front();
            self.missed += 1;
            return Some(Beat::TimedOut);
        }
        if self.missed >= MISSED_MAX {
            return Some(Beat::Dead);
        }
        if self.next_ping <= now {
            if view.has_room {
                self.next_ping = self.next_after(view.has_sessions, dice, now);
                return Some(Beat::Ping(self.ping(dice, now)));
            }
            if now.since(self.next_ping) >= ROOM_MS {
                self.next_ping = self.next_after(view.has_sessions, dice, now);
                return Some(Beat::PingFailed);
            }
        }
        self.signal_beat(view, dice, now)
    }

    fn ping(&mut self, dice: &mut Dice, now: Millis) -> u64 {
        self.counted_pings += 1;
        let id = match self.settings.random_payload {
            true => dice.bits(),
            false => self.counted_pings,
        };
        debug_assert!(self.pings.len() < PINGS_MAX);
        self.pings.push_back((id, now));
        id
    }

    fn next_after(&self, has_sessions: bool, dice: &mut Dice, now: Millis) -> Millis {
        if !self.settings.enabled {
            let least = PLAIN_PERIOD.saturating_sub(PLAIN_JITTER);
            return now.after(dice.between(least, PLAIN_PERIOD + PLAIN_JITTER));
        }
        let period = match has_sessions {
            true => self.settings.interval,
            false => self.settings.interval.min(IDLE_PERIOD),
        };
        after(now, period.max(PERIOD_MIN), self.settings.jitter, dice)
    }

    fn signal_beat(&mut self, view: View, dice: &mut Dice, now: Millis) -> Option<Beat> {
        match self.signal {
            Signal::Off => None,
            Signal::Due(at) if at > now => None,
            Signal::Due(at) => {
                let next = after(now, self.settings.signal_every, self.settings.jitter, dice);
                if !view.ever_bound {
                    self.signal = Signal::Due(next);
                    return Some(Beat::SignalSkipped);
                }
                if view.has_room {
                    return Some(Beat::Signal);
                }
                let late = now.since(at) >= ROOM_MS;
                late.then(|| {
                    self.signal = Signal::Due(next);
                    Beat::SignalFailed(None)
                })
            }
            Signal::Open { until, .. } if until > now => None,
            Signal::Open { conn, next, .. } => {
                self.close_signal(conn, next, now);
                self.signal_beat(view, dice, now)
            }
            Signal::Closing { conn, next, .. } if view.has_room => {
                self.signal = Signal::Due(next);
                Some(Beat::CloseSignal(conn))
            }
            Signal::Closing { until, .. } if until > now => None,
            Signal::Closing { conn, next, .. } => {
                self.signal = Signal::Due(next);
                Some(Beat::SignalFailed(Some(conn)))
            }
        }
    }

    fn close_signal(&mut self, conn: ConnId, next: Millis, now: Millis) {
        let until = Millis(now.0.saturating_add(ROOM_MS));
        self.signal = Signal::Closing { conn, until, next };
    }

    /// A signal went out; `None`: there was no id for it.
    pub(super) fn signalled(&mut self, conn: Option<ConnId>, dice: &mut Dice, now: Millis) {
        let next = after(now, self.settings.signal_every, self.settings.jitter, dice);
        let until = Millis(now.0.saturating_add(ANSWER_MS));
        self.signal = conn.map_or(Signal::Due(next), |conn| Signal::Open { conn, until, next });
    }

    /// A frame came for a signal's id: whether it is the answer.
    pub(super) fn answered(&mut self, now: Millis) -> bool {
        match self.signal {
            Signal::Open { conn, next, until } => {
                self.close_signal(conn, next, now);
                now <= until
            }
            Signal::Off | Signal::Due(_) | Signal::Closing { .. } => false,
        }
    }

    /// The ME closed a signal's id: nothing is sent for it any more.
    pub(super) fn signal_closed(&mut self) {
        match self.signal {
            Signal::Open { next, .. } | Signal::Closing { next, .. } => {
                self.signal = Signal::Due(next);
            }
            Signal::Off | Signal::Due(_) => {}
        }
    }

    /// A signal was sent and not closed.
    pub(super) fn has_open_signal(&self) -> bool {
        matches!(self.signal, Signal::Open { .. } | Signal::Closing { .. })
    }

    /// A PONG: whether its ping was waited for. Takes a sample of the round trip.
    pub(super) fn pong(&mut self, id: u64, now: Millis) -> bool {
        let known = self.pings.iter().position(|(sent, _)| *sent == id);
        let Some((_, sent)) = known.and_then(|at| self.pings.remove(at)) else {
            return false;
        };
        self.missed = 0;
        #[expect(clippy::cast_precision_loss, reason = "at most 30 s")]
        self.sample(now.since(sent) as f64);
        true
    }

    fn sample(&mut self, rtt_ms: f64) {
        self.rtt = Some(match self.rtt {
            None => Rtt {
                ema_ms: rtt_ms,
                base_ms: rtt_ms,
            },
            Some(Rtt { ema_ms, base_ms }) => Rtt {
                ema_ms: 0.8 * ema_ms + 0.2 * rtt_ms,
                base_ms: if rtt_ms < base_ms {
                    rtt_ms
                } else {
                    0.99 * base_ms + 0.01 * rtt_ms
                },
            },
        });
    }

    pub(super) fn rtt_ema_ms(&self) -> Option<f64> {
        self.rtt.map(|rtt| rtt.ema_ms)
    }

    /// Slow against its own past.
    pub(super) fn is_degraded(&self) -> bool {
        self.rtt.is_some_and(|rtt| {
            rtt.ema_ms > 2.0 * rtt.base_ms && rtt.ema_ms - rtt.base_ms > DEGRADED_MS
        })
    }
}

/// `period` and a random part of the jitter from now, which is at most half the period.
fn after(now: Millis, period: Duration, jitter: Duration, dice: &mut Dice) -> Millis {
    now.after(period + dice.part_of(jitter.min(period / 2)))
}

fn pong_due(sent: Millis) -> Millis {
    Millis(sent.0.saturating_add(PONG_MS))
}
