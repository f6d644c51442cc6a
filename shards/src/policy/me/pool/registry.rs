//! The connection ids of one writer and whose they are.
//!
//! An id is a slot (low 32 bits) and how often the slot was given away (high 32 bits), so a lookup
//! is one array access and an id never comes back: a slot whose count is used up is given away no
//! more. A free slot remembers how long late frames for its past ids are to be passed over; that
//! is also remembered while it is taken again, for all its past ids alike.
//!
//! Source: middle-proxy.md 8.1 and 8.2.

use super::super::super::Millis;
use crate::proto::middle::ops::ConnId;

/// Slots of one writer. 16 bytes for each session of its busiest moment.
#[derive(Debug)]
pub(super) struct Registry {
    slots: Vec<Slot>,
    /// First of the free slots, which are linked by `held`.
    free: u32,
    sessions: u32,
    services: u32,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Of its latest id; 0 before the first.
    count: u32,
    /// The session, or the next free slot.
    held: u32,
    /// Until when frames for past ids are not answered, in [`QUIET_UNIT_MS`].
    quiet: u32,
    used: Use,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Free,
    Session,
    Service,
    /// Its count is used up.
    Retired,
}

/// Whose an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This session's.
    Session(u32),
    /// An activity signal's.
    Service,
    /// Nobody's any more; whether a frame for it is to be answered.
    Past {
        /// CLOSE_CONN, please.
        answer: bool,
    },
    /// It was never given away.
    Stranger,
}

/// No slot.
const NONE: u32 = u32::MAX;
/// More at a time are refused.
const SLOTS_MAX: u32 = 1 << 24;
/// Coarse, so that 32 bits last for years.
const QUIET_UNIT_MS: u64 = 100;
/// Frames for ids we closed are not answered for so long.
const CLOSED_QUIET_MS: u64 = 10_000;
/// And those for one unknown id once in so long.
const ANSWER_QUIET_MS: u64 = 1_000;

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            sessions: 0,
            services: 0,
        }
    }

    /// Sessions bound now.
    pub(super) fn sessions(&self) -> u32 {
        self.sessions
    }

    /// A fresh id for a session; `None` when there are too many.
    pub(super) fn bind(&mut self, session: u32) -> Option<ConnId> {
        let conn = self.take(Use::Session, session)?;
        self.sessions += 1;
        Some(conn)
    }

    /// A fresh id of our own; `None` when there are too many.
    pub(super) fn bind_service(&mut self) -> Option<ConnId> {
        let conn = self.take(Use::Service, 0)?;
        self.services += 1;
        Some(conn)
    }

    fn take(&mut self, used: Use, held: u32) -> Option<ConnId> {
        if self.free == NONE {
            let index = u32::try_from(self.slots.len()).ok()?;
            if index >= SLOTS_MAX {
                return None;
            }
            self.slots.push(Slot {
                count: 0,
                held: NONE,
                quiet: 0,
                used: Use::Free,
            });
            self.free = index;
        }
        let index = self.free;
        let slot = self.slots.get_mut(index as usize)?;
        debug_assert_eq!(slot.used, Use::Free);
        self.free = slot.held;
        slot.count += 1;
        slot.used = used;
        slot.held = held;
        Some(ConnId(u64::from(slot.count) << 32 | u64::from(index)))
    }

    /// Whose an id is. If a frame for a past one is to be answered, the next is not for a second.
    pub(super) fn owner(&mut self, conn: ConnId, now: Millis) -> Owner {
        let (index, count) = parts(conn);
        let Some(slot) = self.slots.get_mut(index) else {
            return Owner::Stranger;
        };
        if count == 0 || count > slot.count {
            return Owner::Stranger;
        }
        match slot.used {
            Use::Session if count == slot.count => Owner::Session(slot.held),
            Use::Service if count == slot.count => Owner::Service,
            Use::Session | Use::Service | Use::Free | Use::Retired => {
                let answer = !is_quiet(slot.quiet, now);
                if answer {
                    slot.quiet = quiet_until(now, ANSWER_QUIET_MS);
                }
                Owner::Past { answer }
            }
        }
    }

    /// Frees an id: whose it was. With `quiet`, late frames are passed over for 10 s.
    pub(super) fn free(&mut self, conn: ConnId, quiet: bool, now: Millis) -> Option<Owner> {
        let (index, count) = parts(conn);
        let slot = self.slots.get_mut(index)?;
        if count != slot.count {
            return None;
        }
        let owner = match slot.used {
            Use::Session => Owner::Session(slot.held),
            Use::Service => Owner::Service,
            Use::Free | Use::Retired => return None,
        };
        if quiet {
            slot.quiet = quiet_until(now, CLOSED_QUIET_MS);
        }
        if slot.count == u32::MAX {
            slot.used = Use::Retired;
        } else {
            slot.used = Use::Free;
            slot.held = self.free;
            // The index came out of an id, whose low half it is.
            self.free = conn.0 as u32;
        }
        match owner {
            Owner::Service => self.services -= 1,
            _ => self.sessions -= 1,
        }
        Some(owner)
    }

    /// All sessions and their ids.
    pub(super) fn bound(&self) -> impl Iterator<Item = (u32, ConnId)> + '_ {
        (0_u64..).zip(&self.slots).filter_map(|(index, slot)| {
            let conn = ConnId(u64::from(slot.count) << 32 | index);
            (slot.used == Use::Session).then_some((slot.held, conn))
        })
    }

    /// Counts agree with the slots, and every free slot is in the list once.
    #[cfg(test)]
    pub(super) fn check_invariants(&self) {
        let used = |wanted: Use| self.slots.iter().filter(|slot| slot.used == wanted).count();
        assert_eq!(used(Use::Session), self.sessions as usize);
        assert_eq!(used(Use::Service), self.services as usize);
        let mut at = self.free;
        let mut free = 0;
        while at != NONE {
            let slot = &self.slots[at as usize];
            assert_eq!(slot.used, Use::Free);
            at = slot.held;
            free += 1;
            assert!(free <= self.slots.len(), "the free list is a ring");
        }
        assert_eq!(free, used(Use::Free));
    }
}

/// Slot and count of an id.
fn parts(conn: ConnId) -> (usize, u32) {
    (conn.0 as u32 as usize, (conn.0 >> 32) as u32)
}

fn quiet_until(now: Millis, ms: u64) -> u32 {
    let until = now.0.saturating_add(ms).div_ceil(QUIET_UNIT_MS);
    u32::try_from(until).unwrap_or(u32::MAX)
}

fn is_quiet(until: u32, now: Millis) -> bool {
    now.0 / QUIET_UNIT_MS < u64::from(until)
}

/// Ids that were never given away and were answered lately: few, and whoever finds no place is not
/// answered, so that no ME can make us talk more than [`STRANGERS`] times a second.
#[derive(Debug)]
pub(super) struct Strangers {
    /// Until when ids that fall on a place are not answered.
    quiet: Vec<Millis>,
}

/// Places for unknown ids, all writers of a shard together.
const STRANGERS: usize = 256;

impl Strangers {
    pub(super) fn new() -> Self {
        Self { quiet: Vec::new() }
    }

    /// Whether a frame for an id of `writer` that was never given away is answered.
    pub(super) fn answer(&mut self, writer: u32, conn: ConnId, now: Millis) -> bool {
        self.quiet.resize(STRANGERS, Millis(0));
        let mixed =
            (conn.0 ^ u64::from(writer).rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (mixed >> 56) as usize % STRANGERS;
        let Some(until) = self.quiet.get_mut(place) else {
            return false;
        };
        let answer = *until <= now;
        if answer {
            *until = Millis(now.0.saturating_add(ANSWER_QUIET_MS));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_session_until_it_is_freed_and_never_again() {
        let mut registry = Registry::new();
        let first = registry.bind(7).expect("room");
        assert_ne!(first.0, 0);
        assert_eq!(registry.owner(first, Millis(0)), Owner::Session(7));
        assert_eq!(
            registry.free(first, true, Millis(0)),
            Some(Owner::Session(7))
        );
        assert_eq!(registry.free(first, true, Millis(0)), None);
        let second = registry.bind(8).expect("room");
        assert_eq!(second.0 as u32, first.0 as u32, "the slot is used again");
        assert_ne!(second, first);
        assert_eq!(registry.owner(second, Millis(0)), Owner::Session(8));
        assert_eq!(
            registry.owner(first, Millis(9_999)),
            Owner::Past { answer: false }
        );
        registry.check_invariants();
    }

    #[test]
    fn ids_we_closed_are_quiet_for_ten_seconds_then_answered_once_a_second() {
        let mut registry = Registry::new();
        let conn = registry.bind(1).expect("room");
        registry.free(conn, true, Millis(0));
        let mut answer = |at| registry.owner(conn, Millis(at)) == Owner::Past { answer: true };
        let answers = [0, 5_000, 9_999, 10_000, 10_500, 10_999, 11_000].map(&mut answer);
        assert_eq!(answers, [false, false, false, true, false, false, true]);
    }

    #[test]
    fn ids_the_me_closed_are_answered_at_once() {
        let mut registry = Registry::new();
        let conn = registry.bind(1).expect("room");
        registry.free(conn, false, Millis(50));
        assert_eq!(
            registry.owner(conn, Millis(50)),
            Owner::Past { answer: true }
        );
        assert_eq!(
            registry.owner(conn, Millis(60)),
            Owner::Past { answer: false }
        );
    }

    #[test]
    fn ids_never_given_away_are_strangers() {
        let mut registry = Registry::new();
        let conn = registry.bind(1).expect("room");
        for id in [
            0,
            conn.0 & 0xffff_ffff,
            conn.0 + (1 << 32),
            conn.0 + 1,
            u64::MAX,
        ] {
            assert_eq!(registry.owner(ConnId(id), Millis(0)), Owner::Stranger);
        }
    }

    #[test]
    fn strangers_are_answered_once_a_second_each_and_bounded_together() {
        let mut strangers = Strangers::new();
        assert!(strangers.answer(1, ConnId(5), Millis(10)));
        assert!(!strangers.answer(1, ConnId(5), Millis(1_009)));
        assert!(strangers.answer(1, ConnId(5), Millis(1_010)));
        let answered = (0..100_000).filter(|id| strangers.answer(2, ConnId(*id), Millis(5_000)));
        assert!(answered.count() <= STRANGERS);
    }

    #[test]
    fn a_slot_whose_count_is_used_up_retires() {
        let mut registry = Registry::new();
        let conn = registry.bind(1).expect("room");
        registry.free(conn, false, Millis(0));
        registry.slots[0].count = u32::MAX - 1;
        let last = registry.bind(2).expect("room");
        assert_eq!(last.0 >> 32, u64::from(u32::MAX));
        registry.free(last, false, Millis(0));
        let next = registry.bind(3).expect("room");
        assert_eq!(next.0 as u32, 1, "another slot");
        registry.check_invariants();
    }

    #[test]
    fn a_session_costs_sixteen_bytes() {
        assert_eq!(size_of::<Slot>(), 16);
    }
}
