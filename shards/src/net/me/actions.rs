//! What the pool wants done.

use super::link::Link;
use crate::{
    net::shard::Shard,
    policy::{
        Millis,
        me::pool::{Action, WriterKey},
    },
    proto::{
        dc::DcId,
        middle::ops::{ConnId, Note},
    },
};

impl Shard {
    /// Does all that the pool wants done; whether there was anything.
    pub(super) fn me_act(&mut self) -> bool {
        let mut acted = false;
        while let Some(action) = self.me.as_mut().and_then(|me| me.pool.next_action()) {
            acted = true;
            match action {
                Action::Dial {
                    dial,
                    dc,
                    endpoint,
                    limits,
                } => self.me_dial(dial, DcId(dc), endpoint, limits),
                Action::CancelDial(dial) => self.me_cancel_dial(dial),
                Action::CloseWriter(writer) => self.me_close_writer(writer),
                Action::Ping { writer, id } => self.me_note_ahead(writer, Note::Ping(id)),
                Action::Signal { writer, conn } => self.me_signal_activity(writer, conn),
                Action::CloseSignal { writer, conn } => {
                    self.me_note(writer, Note::CloseConn(conn));
                }
                Action::Move(unbound) => self.middle_moves(unbound),
                Action::Close(unbound) => self.middle_closes(unbound),
                Action::Woken { session } => self.middle_woken(session),
                Action::GiveUp { session } => self.middle_gives_up(session),
            }
        }
        acted
    }

    /// Sends what is queued, then closes.
    fn me_close_writer(&mut self, writer: WriterKey) {
        let until = self.now.after(CLOSE_LIMIT);
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let Some(key) = me.link_of(writer) else {
            return;
        };
        me.forget_link(writer, key);
        if let Some(Link::Open(open)) = me.links.get_mut(key as usize) {
            open.closing = true;
            open.deadline = until;
        }
        me.arm_link(key);
        self.me_mark_dirty(key);
    }

    fn me_note_ahead(&mut self, writer: WriterKey, note: Note) {
        self.me_with_queue(writer, |open| open.queue.note_ahead(note));
    }

    fn me_note(&mut self, writer: WriterKey, note: Note) {
        self.me_with_queue(writer, |open| open.queue.note(note));
    }

    fn me_signal_activity(&mut self, writer: WriterKey, conn: ConnId) {
        self.me_with_queue(writer, |open| {
            if let Some(head) = open.last_head {
                open.queue.message(&head.with_conn(conn), 0, &[]);
            }
        });
    }

    fn me_with_queue(&mut self, writer: WriterKey, work: impl FnOnce(&mut super::link::Writer)) {
        let Some(me) = self.me.as_deref_mut() else {
            return;
        };
        let Some(key) = me.link_of(writer) else {
            return;
        };
        if let Some(Link::Open(open)) = me.links.get_mut(key as usize) {
            work(open);
        }
        self.me_mark_dirty(key);
    }

    /// Everything of the ME side that time brings.
    pub(in crate::net) fn me_timers(&mut self) {
        if self.me.is_none() {
            return;
        }
        self.me_link_timers();
        self.middle_watches();
        self.middle_holds();
        self.me_advance();
    }

    /// Milliseconds from which on a timer of this side is due.
    pub(in crate::net) fn me_deadline(&mut self) -> Option<Millis> {
        self.me_next()
    }
}

/// What a writer that is given up has queued has so long to be sent.
const CLOSE_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
