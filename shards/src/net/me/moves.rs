//! Sessions that lose their writer: what the pool is told to judge them by, and its verdicts.
//!
//! Source: middle-proxy.md 17, "Loss and release".

use slab::Slab;

use super::{Me, down::Reason, link::Link, middle_of, session::Stop};
use crate::{
    engine::Engine,
    net::{client::Session, shard::Shard},
    policy::{
        end::SessionEnd,
        me::pool::{Loss, SessionFacts, Unbound, WriterKey},
    },
    proto::middle::ops::Note,
};

impl Shard {
    /// A writer ended without the pool's doing.
    pub(super) fn me_lost(&mut self, key: u32, why: Loss) {
        let now = self.now;
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let Some(Link::Open(writer)) = me.links.get(key as usize) else {
            return;
        };
        let writer = writer.key;
        let Me {
            pool,
            links,
            by_writer,
            ..
        } = me;
        let (sessions, engine) = (&self.sessions, &self.engine);
        let link = |writer: WriterKey| by_writer.get(writer.index()).copied().flatten();
        pool.lost(writer, why, now, &mut |writer, session| {
            facts(sessions, links, engine, link(writer), session)
        });
        // Verdicts first: they still find the link.
        self.me_act();
        self.me_close_link(key);
    }

    /// Does what is due in the pool.
    pub(super) fn me_advance(&mut self) {
        let now = self.now;
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        if me.pool.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        let Me {
            pool,
            links,
            by_writer,
            ..
        } = me;
        let (sessions, engine) = (&self.sessions, &self.engine);
        let link = |writer: WriterKey| by_writer.get(writer.index()).copied().flatten();
        pool.advance(now, &mut |writer, session| {
            facts(sessions, links, engine, link(writer), session)
        });
        if let Some(report) = pool.report(now) {
            // A supervisor that is gone takes the process with it.
            drop(me.report.try_send(report));
        }
    }

    /// The session is bound no longer, and stays.
    pub(super) fn middle_moves(&mut self, unbound: Unbound) {
        let key = unbound.session;
        if self.me_unbinds(unbound) {
            // The rest of an answer it has begun to get will not come.
            return self.end(key, SessionEnd::WriterLost);
        }
        let Some(middle) = self.middle_mut(key) else {
            return;
        };
        if middle.up.stop == Stop::Full {
            self.middle_go_on(key);
        }
    }

    /// The session is bound no longer, and ends.
    pub(super) fn middle_closes(&mut self, unbound: Unbound) {
        let key = unbound.session;
        let cut = self.me_unbinds(unbound);
        if cut {
            return self.end(key, SessionEnd::WriterLost);
        }
        // What has come for it is whole, and is delivered.
        self.middle_finish(key, SessionEnd::WriterLost);
    }

    /// Forgets a session's writer; true when an answer was on its way that is cut off by that.
    fn me_unbinds(&mut self, unbound: Unbound) -> bool {
        let Unbound {
            session,
            writer,
            conn,
            tell,
        } = unbound;
        let Some(me) = self.me.as_deref_mut() else {
            return false;
        };
        let bound = self
            .sessions
            .get(session as usize)
            .and_then(super::middle_ref)
            .and_then(|middle| middle.bound);
        if tell
            && bound.is_some_and(|bound| !bound.told)
            && let Some(link) = me.link_of(writer)
            && let Some(Link::Open(open)) = me.links.get_mut(link as usize)
        {
            open.queue.note(Note::CloseConn(conn));
            self.me_mark_dirty(link);
        }
        let Some(middle) = self.sessions.get_mut(session as usize).and_then(middle_of) else {
            debug_assert!(false, "the pool knows a session that is gone");
            return false;
        };
        debug_assert!(
            middle
                .bound
                .is_some_and(|b| b.writer == writer && b.conn == conn)
        );
        middle.bound = None;
        middle.down.partial.is_some()
    }

    /// Looks at a session again whose wait is over.
    pub(super) fn middle_woken(&mut self, key: u32) {
        if self
            .middle(key)
            .is_some_and(|m| m.up.stop == Stop::NoWriter)
        {
            self.middle_go_on(key);
        }
    }

    /// No writer came in time.
    pub(super) fn middle_gives_up(&mut self, key: u32) {
        if self
            .middle(key)
            .is_some_and(|m| m.up.stop == Stop::NoWriter)
        {
            if self.middle(key).is_some_and(|m| !m.down.is_empty()) {
                self.middle_flush(key, Reason::Close);
            }
            self.end(key, SessionEnd::NoWriter);
        }
    }
}

/// What decides whether a session survives its writer.
fn facts(
    sessions: &Slab<Session>,
    links: &Slab<Link>,
    engine: &Engine,
    link: Option<u32>,
    session: u32,
) -> SessionFacts {
    let middle = sessions.get(session as usize).and_then(super::middle_ref);
    let (Some(middle), Some(link)) = (middle, link) else {
        return SessionFacts::default();
    };
    let (Some(bound), Some(Link::Open(writer))) = (&middle.bound, links.get(link as usize)) else {
        return SessionFacts::default();
    };
    // Pads and pings only add to what is on the wire, so that many bytes at the end of what was
    // sealed hold no more than that of messages.
    let sealed = writer.queue.sealed_to();
    let queued = engine.queued(writer.socket) as u64;
    let unwritten_from = sealed.saturating_sub(queued);
    let unsent = bound.sent_to > unwritten_from;
    let in_kernel = engine.unacknowledged(writer.socket);
    let acknowledged = match in_kernel {
        Some(bytes) => !unsent && bound.sent_to <= unwritten_from.saturating_sub(bytes as u64),
        None => false,
    };
    // An answer that is cut off cannot go on elsewhere.
    let cut = middle.down.partial.is_some();
    SessionFacts {
        unsent,
        acknowledged,
        last_c2d: (bound.sent_to > 0).then_some(bound.last_message),
        last_d2c: middle.last_d2c,
        key_exchange: bound.key_exchange || cut,
    }
}
