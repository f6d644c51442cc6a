//! Tokens: what an operation in flight is, and which socket it belongs to, in 64 bits.

/// What kind of operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum OpKind {
    Accept = 1,
    Receive = 2,
    Send = 3,
    Connect = 4,
    Timer = 5,
    Doorbell = 6,
    /// Cancels and closes: their outcome shows in the operation they end.
    Ignore = 7,
    /// A poll for errors.
    Watch = 8,
    /// A read that takes a buffer out of the ring; the slot is the group's number.
    Withdraw = 9,
}

impl OpKind {
    /// What a socket may have in flight.
    const OF_SOCKETS: [OpKind; 5] = [
        OpKind::Accept,
        OpKind::Receive,
        OpKind::Send,
        OpKind::Connect,
        OpKind::Watch,
    ];
}

/// What a socket has in flight: at most one operation of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ops(u16);

impl Ops {
    pub(super) fn insert(&mut self, kind: OpKind) {
        debug_assert!(!self.contains(kind), "a second {kind:?}");
        self.0 |= 1 << kind as u8;
    }

    pub(super) fn remove(&mut self, kind: OpKind) {
        debug_assert!(self.contains(kind), "no {kind:?} in flight");
        self.0 &= !(1 << kind as u8);
    }

    pub(super) fn contains(self, kind: OpKind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }

    pub(super) fn is_only(self, kind: OpKind) -> bool {
        self.0 == 1 << kind as u8
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn iter(self) -> impl Iterator<Item = OpKind> {
        let all = OpKind::OF_SOCKETS.into_iter();
        all.filter(move |kind| self.contains(*kind))
    }
}

/// A socket of the engine. Stays distinct from all later users of the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl SocketId {
    /// No socket: every call with it does nothing.
    pub(crate) const NONE: Self = Self {
        index: u32::MAX,
        generation: u32::MAX,
    };
}

/// Bits of [`SocketId::generation`] that travel in a token.
pub(super) const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Packs kind, generation (24 bits) and slot (32 bits) into `user_data`.
pub(super) fn token(kind: OpKind, id: SocketId) -> u64 {
    (kind as u64) << 56 | u64::from(id.generation & GENERATION_MASK) << 32 | u64::from(id.index)
}

/// The reverse of [`token`]; `None` for a kind that is never issued.
pub(super) fn parse(user_data: u64) -> Option<(OpKind, SocketId)> {
    let kind = match (user_data >> 56) as u8 {
        1 => OpKind::Accept,
        2 => OpKind::Receive,
        3 => OpKind::Send,
        4 => OpKind::Connect,
        5 => OpKind::Timer,
        6 => OpKind::Doorbell,
        7 => OpKind::Ignore,
        8 => OpKind::Watch,
        9 => OpKind::Withdraw,
        _ => return None,
    };
    let index = (user_data & 0xffff_ffff) as u32;
    let generation = (user_data >> 32) as u32 & GENERATION_MASK;
    Some((kind, SocketId { index, generation }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_operations_tells_which_are_in_flight() {
        let mut ops = Ops::default();
        assert!(ops.is_empty());
        ops.insert(OpKind::Watch);
        ops.insert(OpKind::Receive);
        assert!(ops.iter().eq([OpKind::Receive, OpKind::Watch]));
        assert!(!ops.is_only(OpKind::Watch));
        ops.remove(OpKind::Receive);
        assert!(ops.is_only(OpKind::Watch));
        assert!(ops.contains(OpKind::Watch) && !ops.contains(OpKind::Receive));
        ops.remove(OpKind::Watch);
        assert_eq!(ops, Ops::default());
    }

    #[test]
    fn token_survives_the_round_trip() {
        for kind in [
            OpKind::Accept,
            OpKind::Receive,
            OpKind::Send,
            OpKind::Ignore,
            OpKind::Watch,
            OpKind::Withdraw,
        ] {
            for (index, generation) in [(0, 0), (u32::MAX, GENERATION_MASK), (7, 9)] {
                let id = SocketId { index, generation };
                assert_eq!(parse(token(kind, id)), Some((kind, id)));
            }
        }
        assert_eq!(parse(0), None);
    }
}
