//! One shard: a real pool, and an edge that has clients but no sockets.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use super::super::{
    super::Millis,
    plan::{Plan, Route},
    pool::{Bind, ClosedBy, DialId, Place, Pool, SessionFacts, Target, WriterKey},
};
use crate::{proto::middle::ops::ConnId, settings::MeSettings};

/// The pool and what its edge knows.
pub(super) struct Shard {
    pub(super) pool: Pool,
    pub(super) sessions: BTreeMap<u32, Session>,
    /// Connections that shook hands: where to.
    pub(super) links: BTreeMap<WriterKey, Link>,
    /// Dials under way.
    pub(super) dials: BTreeMap<DialId, SocketAddr>,
    pub(super) totals: Totals,
    /// When the pool was last told to wake.
    pub(super) wakes_at: Option<Millis>,
    next_nonce: u64,
    /// Ids given on each writer.
    given: BTreeMap<WriterKey, Vec<ConnId>>,
}

/// A connection to an ME.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) dc: i16,
    pub(super) endpoint: SocketAddr,
}

/// A client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) nonce: u64,
    pub(super) dc: i16,
    pub(super) bound: Option<(WriterKey, ConnId)>,
    pub(super) waits: bool,
    last_c2d: Option<Millis>,
    last_d2c: Option<Millis>,
    /// The ME's TCP has not acknowledged the last bytes yet.
    in_flight: bool,
}

/// What became of clients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    pub(super) arrived: u64,
    pub(super) left: u64,
    pub(super) bound: u64,
    pub(super) moved: u64,
    pub(super) closed: u64,
    pub(super) gave_up: u64,
    pub(super) refused: u64,
    pub(super) answers: u64,
    pub(super) dialled: u64,
    pub(super) opened: u64,
    pub(super) late_answers: u64,
}

impl Shard {
    pub(super) fn new(shard: usize, shards: usize, settings: &Arc<MeSettings>, seed: u64) -> Self {
        let place = Place {
            shard,
            shards,
            seed,
        };
        Self {
            pool: Pool::new(place, Arc::clone(settings), Millis(0)),
            sessions: BTreeMap::new(),
            links: BTreeMap::new(),
            dials: BTreeMap::new(),
            totals: Totals::default(),
            wakes_at: None,
            next_nonce: 0,
            given: BTreeMap::new(),
        }
    }

    /// A client, if the gate is open and new sessions go through MEs.
    pub(super) fn arrive(&mut self, dc: i16) -> Option<(u32, u64)> {
        if self.pool.plan().route != Route::Middle {
            return None;
        }
        // Places are used again, as the edge's are.
        let place = (0..).find(|place| !self.sessions.contains_key(place))?;
        self.next_nonce += 1;
        self.totals.arrived += 1;
        let session = Session {
            nonce: self.next_nonce,
            dc,
            bound: None,
            waits: false,
            last_c2d: None,
            last_d2c: None,
            in_flight: false,
        };
        self.sessions.insert(place, session);
        Some((place, self.next_nonce))
    }

    /// The session, if it is still the same one.
    pub(super) fn session(&mut self, place: u32, nonce: u64) -> Option<&mut Session> {
        self.sessions
            .get_mut(&place)
            .filter(|session| session.nonce == nonce)
    }

    /// A message of a client: bound first if need be. Returns where it went.
    pub(super) fn message(
        &mut self,
        place: u32,
        in_flight: bool,
        now: Millis,
    ) -> Option<(WriterKey, ConnId)> {
        let session = self.sessions.get_mut(&place)?;
        if session.waits {
            return None;
        }
        if session.bound.is_none() {
            self.bind(place, now);
        }
        let session = self.sessions.get_mut(&place)?;
        session.last_c2d = Some(now);
        session.in_flight = in_flight;
        session.bound
    }

    /// Binds a session, and checks where.
    pub(super) fn bind(&mut self, place: u32, now: Millis) {
        let Some(session) = self.sessions.get_mut(&place) else {
            panic!("bound without a session");
        };
        assert!(session.bound.is_none());
        match self.pool.bind(session.dc, place, now) {
            Bind::To(writer, conn) => {
                session.waits = false;
                session.bound = Some((writer, conn));
                self.totals.bound += 1;
                let given = self.given.entry(writer).or_default();
                assert!(!given.contains(&conn), "a connection id was given twice");
                given.push(conn);
                let dc = session.dc;
                self.check_bind(dc, writer);
            }
            Bind::Wait => session.waits = true,
            Bind::Refused => {
                self.totals.refused += 1;
                self.sessions.remove(&place);
            }
        }
    }

    /// Only a living writer of the right group, at an endpoint of the map, that does not drain
    /// (stale binds are off).
    fn check_bind(&self, dc: i16, writer: WriterKey) {
        let link = self
            .links
            .get(&writer)
            .expect("bound to a writer that is gone");
        let plan: &Plan = self.pool.plan();
        let (group, _) = plan.resolve(dc).expect("bound without a group");
        assert_eq!(group.dc, link.dc, "bound to another group");
        let mapped = &plan.map[&link.dc];
        assert!(mapped.contains(&link.endpoint), "bound outside the map");
        let facts = self.pool.writer(writer).expect("the pool knows it");
        let rows = self.pool.snapshot().writers;
        let row = rows
            .iter()
            .find(|row| row.id == facts.id)
            .expect("it is in the snapshot");
        assert!(!row.state.is_draining(), "bound to a draining writer");
    }

    /// A client leaves, or its ME ends it.
    pub(super) fn leave(&mut self, place: u32, by: ClosedBy, now: Millis) {
        let Some(session) = self.sessions.remove(&place) else {
            return;
        };
        self.totals.left += 1;
        if let Some((writer, conn)) = session.bound {
            assert!(
                self.pool.unbind(writer, conn, by, now),
                "a binding was lost"
            );
        }
        if session.waits {
            self.pool.forget(place);
        }
    }

    /// A frame from an ME.
    pub(super) fn answer(&mut self, writer: WriterKey, conn: ConnId, now: Millis) {
        match self.pool.target(writer, conn, now) {
            Target::Session(place) => {
                let session = self.sessions.get_mut(&place).expect("routed to nobody");
                assert_eq!(session.bound, Some((writer, conn)), "routed to another");
                session.last_d2c = Some(now);
                session.in_flight = false;
                self.totals.answers += 1;
            }
            Target::Service => {}
            Target::Unknown { .. } => self.totals.late_answers += 1,
        }
    }

    /// The session lost its writer.
    pub(super) fn unbound(&mut self, place: u32, from: (WriterKey, ConnId), keep: bool) {
        let session = self
            .sessions
            .get_mut(&place)
            .expect("unbound without a session");
        assert_eq!(session.bound.take(), Some(from), "unbound from elsewhere");
        if keep {
            self.totals.moved += 1;
        } else {
            self.totals.closed += 1;
            self.sessions.remove(&place);
        }
    }

    /// The writer's socket is closed: nobody may be bound to it.
    pub(super) fn close(&mut self, writer: WriterKey) {
        self.links.remove(&writer).expect("closed twice");
        self.given.remove(&writer);
        let bound = |session: &Session| session.bound.is_some_and(|(at, _)| at == writer);
        assert!(!self.sessions.values().any(bound), "closed with sessions");
    }

    /// What the pool asks about sessions.
    pub(super) fn facts(
        sessions: &BTreeMap<u32, Session>,
        links: &BTreeMap<WriterKey, Link>,
        writer: WriterKey,
        place: u32,
    ) -> SessionFacts {
        let session = sessions.get(&place).expect("asked about nobody");
        assert!(session.bound.is_some_and(|(at, _)| at == writer));
        assert!(
            links.contains_key(&writer),
            "asked about a writer that is gone"
        );
        SessionFacts {
            unsent: false,
            acknowledged: !session.in_flight,
            last_c2d: session.last_c2d,
            last_d2c: session.last_d2c,
            key_exchange: session.nonce.is_multiple_of(50),
        }
    }
}
