//! Gives every writer its life signs in time: one heap of deadlines for all of them.
//!
//! The rules are in `pulse`; here they become actions and counts.
//!
//! Source: middle-proxy.md 18.

use super::{
    super::super::Millis,
    Pool,
    exchange::{Action, Ask, WriterKey},
    loss::Ending,
    pulse::{Beat, View},
};

impl Pool {
    /// Makes sure that a writer is looked at by `due`.
    pub(super) fn arm(&mut self, key: WriterKey, due: Millis) {
        let Some(writer) = self.writers.get_mut(key) else {
            return;
        };
        let index = u32::try_from(key.index()).unwrap_or(u32::MAX);
        self.timers.arm(&mut writer.armed, index, due);
        self.deadline.touch();
    }

    /// Life signs that are due.
    pub(super) fn advance_beats(&mut self, now: Millis, ask: Ask<'_>) {
        while let Some((at, index)) = self.timers.pop(now) {
            self.deadline.touch();
            let Some(key) = self.writers.at(index) else {
                continue;
            };
            let writer = self.writers.get_mut(key);
            if writer.is_some_and(|writer| writer.armed.spend(at)) {
                self.beat(key, now, ask);
            }
        }
    }

    fn beat(&mut self, key: WriterKey, now: Millis, ask: Ask<'_>) {
        loop {
            let Some(writer) = self.writers.get_mut(key) else {
                return;
            };
            let view = View {
                has_room: writer.has_room,
                has_sessions: !writer.is_empty(),
                ever_bound: writer.ever_bound,
            };
            match writer.pulse.beat(view, &mut self.dice, now) {
                Some(Beat::Dead) => {
                    self.end_writer(key, Ending::Cut, now, ask);
                    self.actions.push_back(Action::CloseWriter(key));
                    return;
                }
                Some(beat) => self.act_on(key, beat, now),
                None => {
                    let due = writer.pulse.deadline(now);
                    self.arm(key, due);
                    return;
                }
            }
        }
    }

    fn act_on(&mut self, key: WriterKey, beat: Beat, now: Millis) {
        let Some(writer) = self.writers.get_mut(key) else {
            return;
        };
        let tally = &mut self.tally;
        match beat {
            Beat::Ping(id) => {
                tally.me(|me| me.keepalive_sent_total += 1);
                self.actions.push_back(Action::Ping { writer: key, id });
            }
            Beat::PingFailed => tally.me(|me| me.keepalive_failed_total += 1),
            Beat::TimedOut => tally.me(|me| me.keepalive_timeout_total += 1),
            Beat::Signal => {
                let conn = writer.registry.bind_service();
                writer.pulse.signalled(conn, &mut self.dice, now);
                tally.me(|me| match conn {
                    Some(_) => me.rpc_proxy_req_signal_sent_total += 1,
                    None => me.rpc_proxy_req_signal_failed_total += 1,
                });
                if let Some(conn) = conn {
                    self.actions.push_back(Action::Signal { writer: key, conn });
                }
            }
            Beat::SignalSkipped => {
                tally.me(|me| me.rpc_proxy_req_signal_skipped_no_meta_total += 1);
            }
            Beat::SignalFailed(conn) => {
                if let Some(conn) = conn {
                    writer.registry.free(conn, true, now);
                }
                tally.me(|me| me.rpc_proxy_req_signal_failed_total += 1);
            }
            Beat::CloseSignal(conn) => {
                writer.registry.free(conn, true, now);
                tally.me(|me| me.rpc_proxy_req_signal_close_sent_total += 1);
                self.actions
                    .push_back(Action::CloseSignal { writer: key, conn });
            }
            // It ends the writer, and the caller has seen to that.
            Beat::Dead => {}
        }
    }

    /// A frame for an activity signal's id came.
    pub(super) fn signal_answered(&mut self, key: WriterKey, now: Millis) {
        let Some(writer) = self.writers.get_mut(key) else {
            return;
        };
        if writer.pulse.answered(now) {
            self.tally
                .me(|me| me.rpc_proxy_req_signal_response_total += 1);
        }
        // Its end is due now.
        self.arm(key, now);
    }
}
