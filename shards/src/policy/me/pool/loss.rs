//! Writers that end, and what becomes of the sessions bound to them.
//!
//! Telegram rotates MEs' connections often, so closing every client at each end would be felt:
//! [`survives`] is the one place that says who is moved to another writer and who is closed.
//!
//! Source: middle-proxy.md 17.

use super::{
    super::super::Millis,
    Pool,
    exchange::{Action, Ask, Loss, SessionFacts, Unbound, WriterKey},
    group::family,
    writer::Writer,
};
use crate::{
    policy::me::report::{PoolEvent, WriterState},
    proto::middle::ops::ConnId,
};

/// How a session comes to lose its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The pool lets the session or the writer go; the ME hears CLOSE_CONN.
    Release,
    /// The ME's FIN.
    Fin,
    /// Reset, timeout, pings without answers.
    Cut,
    /// Checksum, sequence or length error: nothing that came is to be trusted.
    Broken,
}

/// A writer lost within this time bars its endpoint.
const EARLY_MS: u64 = 20_000;
/// A session that was quiet for so long has lost nothing by a cut.
const QUIET_MS: u64 = 10_000;
/// Who got something this lately is released after the others.
const LATELY_MS: u64 = 1_000;

/// Whether a session outlives its writer: it is moved if so, closed if not.
///
/// A key exchange never survives: its DC knows it by the connection. Elsewhere the rule is that
/// nothing the client said may be lost unnoticed.
pub(super) fn survives(ending: Ending, facts: &SessionFacts, now: Millis) -> bool {
    if facts.key_exchange {
        return false;
    }
    match ending {
        Ending::Release => !facts.unsent,
        Ending::Fin => facts.acknowledged,
        Ending::Cut => facts.last_c2d.is_none_or(|at| now.since(at) >= QUIET_MS),
        Ending::Broken => false,
    }
}

impl Pool {
    /// See [`Pool::lost`].
    pub(super) fn writer_lost(&mut self, key: WriterKey, why: Loss, now: Millis, ask: Ask<'_>) {
        let Some(writer) = self.writers.get(key) else {
            return;
        };
        if why == Loss::Eof {
            let is_empty = writer.is_empty();
            self.tally.me(|me| {
                me.reader_eof_total += 1;
                me.idle_close_by_peer_total += u64::from(is_empty);
            });
        }
        let ending = match why {
            Loss::Eof => Ending::Fin,
            Loss::Reset => Ending::Cut,
            Loss::Broken => Ending::Broken,
        };
        self.end_writer(key, ending, now, ask);
    }

    /// Takes a writer out with its sessions; what follows from an unexpected end follows.
    pub(super) fn end_writer(&mut self, key: WriterKey, ending: Ending, now: Millis, ask: Ask<'_>) {
        self.release_all(key, ending, now, ask);
        let Some(writer) = self.take_writer(key) else {
            return;
        };
        if writer.state.is_draining() {
            return;
        }
        self.tally
            .pool(|pool| pool.writer_removed_unexpected_total += 1);
        if now.since(writer.born) <= EARLY_MS {
            self.bars.bar(writer.endpoint, now);
            let endpoint = writer.endpoint;
            self.outbox.event(PoolEvent::LostEarly { endpoint });
        }
        if writer.state == WriterState::Active {
            self.replace_lost(&writer, now);
        }
    }

    /// A refill, if the shard's share needs one: a surplus writer is not worth it.
    fn replace_lost(&mut self, writer: &Writer, now: Millis) {
        let plan = std::sync::Arc::clone(&self.plan);
        let Some(planned) = plan.group(writer.dc) else {
            return;
        };
        if !planned.endpoints.contains(&writer.endpoint) {
            return;
        }
        let wanted = family(writer.endpoint);
        if self.alive(planned)[wanted] < self.share_by_family(planned)[wanted] {
            self.trigger_refill(writer.dc, wanted, Some(writer.endpoint), now);
        }
    }

    /// Takes a writer off all lists. Its sessions are gone before.
    pub(super) fn take_writer(&mut self, key: WriterKey) -> Option<Writer> {
        let writer = self.writers.remove(key)?;
        debug_assert!(writer.is_empty());
        if writer.pulse.has_open_signal() {
            // Its end can no longer be queued.
            self.tally
                .me(|me| me.rpc_proxy_req_signal_failed_total += 1);
        }
        self.tally.pool(|pool| pool.writer_removed_total += 1);
        match writer.state {
            WriterState::Warm => self.warm_delta -= 1,
            WriterState::Active => self.active_delta -= 1,
            WriterState::Draining { .. } => {}
        }
        if let Some(group) = self.groups.get_mut(&writer.dc) {
            group.writers.retain(|other| *other != key);
        }
        self.regroup(writer.dc);
        self.outbox.changed();
        self.deadline.touch();
        Some(writer)
    }

    /// Unbinds all sessions of a writer, those that got nothing lately first.
    pub(super) fn release_all(
        &mut self,
        key: WriterKey,
        ending: Ending,
        now: Millis,
        ask: Ask<'_>,
    ) {
        let Some(writer) = self.writers.get(key) else {
            return;
        };
        let mut bound: Vec<(u32, ConnId, SessionFacts)> = writer
            .registry
            .bound()
            .map(|(session, conn)| (session, conn, ask(key, session)))
            .collect();
        bound.sort_by_key(|(_, _, facts)| {
            facts.last_d2c.is_some_and(|at| now.since(at) < LATELY_MS)
        });
        for (session, conn, facts) in bound {
            let keep = survives(ending, &facts, now);
            self.release(key, (session, conn), keep, ending == Ending::Release, now);
        }
    }

    /// Unbinds one session. `tell`: the writer is alive, the ME hears of it.
    pub(super) fn release(
        &mut self,
        key: WriterKey,
        (session, conn): (u32, ConnId),
        keep: bool,
        tell: bool,
        now: Millis,
    ) {
        let Some(writer) = self.writers.get_mut(key) else {
            return;
        };
        writer.registry.free(conn, true, now);
        if writer.is_empty() {
            writer.idle_since = Some(now);
        }
        let unbound = Unbound {
            session,
            writer: key,
            conn,
            tell,
        };
        self.actions.push_back(match keep {
            true => Action::Move(unbound),
            false => Action::Close(unbound),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(100_000);

    #[test]
    fn each_row_of_the_table_moves_or_closes() {
        let none = SessionFacts::default();
        let acknowledged = SessionFacts {
            acknowledged: true,
            last_c2d: Some(NOW),
            ..none
        };
        let unsent = SessionFacts {
            unsent: true,
            last_c2d: Some(NOW),
            ..none
        };
        let silent_since = |ms: u64| SessionFacts {
            last_c2d: Some(Millis(NOW.0 - ms)),
            ..none
        };
        let exchange = SessionFacts {
            key_exchange: true,
            acknowledged: true,
            ..none
        };
        let cases = [
            (Ending::Release, none, true),
            (Ending::Release, unsent, false),
            (Ending::Release, exchange, false),
            (Ending::Fin, acknowledged, true),
            (Ending::Fin, unsent, false),
            (Ending::Fin, none, false),
            (Ending::Fin, exchange, false),
            (Ending::Cut, none, true),
            (Ending::Cut, silent_since(10_000), true),
            (Ending::Cut, silent_since(9_999), false),
            (Ending::Cut, acknowledged, false),
            (Ending::Cut, exchange, false),
            (Ending::Broken, none, false),
            (Ending::Broken, acknowledged, false),
        ];
        for (ending, facts, want) in cases {
            assert_eq!(survives(ending, &facts, NOW), want, "{ending:?} {facts:?}");
        }
    }
}
