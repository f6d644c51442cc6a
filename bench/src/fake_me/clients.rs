//! The clients of one connection by their ids, and whose answer comes next: one frame each in turn.
//!
//! Used by `connection`, which writes the frames.

use std::collections::{HashMap, VecDeque};

use shards::proto::middle::{ops::ConnId, proxy_req::flag};

use super::requests::About;
use crate::{
    answers::{Answers, NoRequest},
    message::Message,
};

/// All clients of a connection.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_id: HashMap<u64, Client>,
    /// Who has answers waiting, each once.
    turns: VecDeque<u64>,
    /// Answers that wait, of all.
    waiting: usize,
    /// Ids that were used, and by whom they were closed.
    closed: HashMap<u64, ClosedBy>,
}

/// One client.
#[derive(Debug)]
pub(super) struct Client {
    about: About,
    pub(super) answers: Answers,
    /// It is in `turns`.
    queued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClosedBy {
    Proxy,
    Us,
}

/// What a message is to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Its client's first.
    First,
    /// One more.
    More,
    /// Its client was closed from here, which the proxy did not know yet.
    Late,
    /// No proxy may send it.
    Violation,
}

/// What closes a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// It was open.
    Open,
    /// It was closed from here.
    Late,
    /// It never was, or was closed before.
    Violation,
}

impl Clients {
    /// Clients open now.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Answers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Looks at who sends; a new one is remembered.
    pub(super) fn arrive(&mut self, about: &About) -> Arrival {
        let id = about.conn.0;
        if let Some(client) = self.by_id.get(&id) {
            let same = |about: &About| About {
                flags: about.flags & !PER_MESSAGE,
                ..*about
            };
            return if same(&client.about) == same(about) {
                Arrival::More
            } else {
                Arrival::Violation
            };
        }
        match self.closed.get(&id) {
            Some(ClosedBy::Us) => return Arrival::Late,
            Some(ClosedBy::Proxy) => return Arrival::Violation,
            None => {}
        }
        if id == 0 || about.flags & ALWAYS != ALWAYS {
            return Arrival::Violation;
        }
        let client = Client {
            about: *about,
            answers: Answers::default(),
            queued: false,
        };
        self.by_id.insert(id, client);
        Arrival::First
    }

    /// Queues the answers to a message of a client that has arrived.
    pub(super) fn plan(
        &mut self,
        conn: ConnId,
        message: Message,
        dc: i16,
    ) -> Result<(), NoRequest> {
        self.queue(conn, |client| {
            let who = (dc.cast_unsigned(), tag(client.about.flags));
            client.answers.plan(message, who, None)
        })
    }

    /// Closes a client behind the answers that wait.
    pub(super) fn plan_close(&mut self, conn: ConnId) {
        let planned = self.queue(conn, |client| {
            client.answers.plan_close();
            Ok(())
        });
        debug_assert!(planned.is_ok(), "a close is no request");
    }

    fn queue(
        &mut self,
        conn: ConnId,
        plan: impl FnOnce(&mut Client) -> Result<(), NoRequest>,
    ) -> Result<(), NoRequest> {
        let Some(client) = self.by_id.get_mut(&conn.0) else {
            return Ok(());
        };
        let before = client.answers.len();
        plan(client)?;
        self.waiting += client.answers.len() - before;
        if !client.queued {
            client.queued = true;
            self.turns.push_back(conn.0);
        }
        Ok(())
    }

    /// Who is next, and what to do for it. Answers that are left bring it another turn.
    pub(super) fn next<T>(&mut self, step: impl FnOnce(ConnId, &mut Answers) -> T) -> Option<T> {
        loop {
            let id = self.turns.pop_front()?;
            // Closed ones leave their turn behind.
            let Some(client) = self.by_id.get_mut(&id) else {
                continue;
            };
            let before = client.answers.len();
            let done = step(ConnId(id), &mut client.answers);
            self.waiting -= before - client.answers.len();
            client.queued = !client.answers.is_empty();
            if client.queued {
                self.turns.push_back(id);
            }
            return Some(done);
        }
    }

    /// The proxy closes a client.
    pub(super) fn depart(&mut self, conn: ConnId) -> Departure {
        if self.remove(conn, ClosedBy::Proxy) {
            return Departure::Open;
        }
        match self.closed.get(&conn.0) {
            Some(ClosedBy::Us) => Departure::Late,
            _ => Departure::Violation,
        }
    }

    /// We close a client; false if it is not here.
    pub(super) fn end(&mut self, conn: ConnId) -> bool {
        self.remove(conn, ClosedBy::Us)
    }

    /// The proxy may close a client that it never had.
    pub(super) fn expect_close(&mut self, conn: ConnId) {
        self.closed.insert(conn.0, ClosedBy::Us);
    }

    /// Some of those that are open.
    pub(super) fn some(&self, count: usize) -> Vec<ConnId> {
        self.by_id
            .keys()
            .take(count)
            .map(|&id| ConnId(id))
            .collect()
    }

    fn remove(&mut self, conn: ConnId, by: ClosedBy) -> bool {
        let Some(client) = self.by_id.remove(&conn.0) else {
            return false;
        };
        self.waiting -= client.answers.len();
        self.closed.insert(conn.0, by);
        true
    }
}

/// The tag byte of the client's framing.
fn tag(flags: u32) -> u8 {
    match flags & (flag::ABRIDGED | flag::INTERMEDIATE | flag::PADDED) {
        flag::ABRIDGED => 0xef,
        flag::INTERMEDIATE => 0xee,
        _ => 0xdd,
    }
}

/// Flags that may differ between messages of a client.
const PER_MESSAGE: u32 = flag::QUICK_ACK | flag::UNENCRYPTED;
/// Flags of every message.
const ALWAYS: u32 = flag::TCP | flag::OBFUSCATED2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        answers::Step,
        wire::{Head, Op},
    };

    fn about(id: u64) -> About {
        About {
            conn: ConnId(id),
            flags: ALWAYS | flag::ABRIDGED,
            client: "1.2.3.4:5".parse().unwrap(),
            proxy: "1.2.3.4:6".parse().unwrap(),
            ad_tag: None,
        }
    }

    #[test]
    fn ids_are_used_once() {
        let mut clients = Clients::default();
        assert_eq!(clients.arrive(&about(0)), Arrival::Violation);
        assert_eq!(clients.arrive(&about(5)), Arrival::First);
        let ack = About {
            flags: about(5).flags | flag::QUICK_ACK,
            ..about(5)
        };
        assert_eq!(clients.arrive(&ack), Arrival::More);
        let other = About {
            client: "9.9.9.9:9".parse().unwrap(),
            ..about(5)
        };
        assert_eq!(clients.arrive(&other), Arrival::Violation);
        assert_eq!(clients.depart(ConnId(5)), Departure::Open);
        assert_eq!(clients.depart(ConnId(5)), Departure::Violation);
        assert_eq!(clients.arrive(&about(5)), Arrival::Violation);
        assert_eq!(clients.arrive(&about(6)), Arrival::First);
        assert!(clients.end(ConnId(6)) && !clients.end(ConnId(6)));
        assert_eq!(clients.arrive(&about(6)), Arrival::Late);
        assert_eq!(clients.depart(ConnId(6)), Departure::Late);
    }

    #[test]
    fn clients_take_turns() {
        let mut clients = Clients::default();
        for id in 1..=3 {
            clients.arrive(&about(id));
            for _ in 0..2 {
                let head = Head::request(Op::WhoAmI, 0, 0);
                let body = Vec::new();
                clients
                    .plan(ConnId(id), Message { head, body }, -2)
                    .unwrap();
            }
        }
        assert_eq!(clients.waiting(), 6);
        clients.end(ConnId(2));
        let mut order = Vec::new();
        while let Some(id) = clients.next(|conn, answers| {
            let arg = |head: &Head, _: &[u8]| {
                assert_eq!(head.arg, 0xef_fffe);
                Ok::<(), ()>(())
            };
            assert_eq!(answers.step(arg), Ok(Step::Frame));
            conn.0
        }) {
            order.push(id);
        }
        assert_eq!((order, clients.waiting()), (vec![1, 3, 1, 3], 0));
    }
}
