//! What a shard keeps of one DC group: its writers, and how far its shares, refills and warm-up
//! are.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{
    super::super::Millis,
    dice::Dice,
    exchange::{DialId, WriterKey},
    fill::Fill,
    refill::Refill,
    startup::Start,
    warm::Warm,
};

/// One DC group on one shard.
#[derive(Debug)]
pub(super) struct Group {
    /// All its writers, in no order.
    pub(super) writers: Vec<WriterKey>,
    /// Those new sessions go to: active, on endpoints of the map.
    pub(super) open: Vec<WriterKey>,
    /// Dials under way of all kinds.
    pub(super) dials: u32,
    /// Advances per dial.
    pub(super) turn: usize,
    /// Dials in a row that failed, by endpoint of the map; none for those that did not.
    pub(super) fails: BTreeMap<SocketAddr, u32>,
    /// When a session was last bound.
    pub(super) last_bind: Option<Millis>,
    /// A session needed this group although the shard has no share of it: until then it counts as
    /// one (section 11.3).
    pub(super) demand: Option<Millis>,
    /// The health tick's dials, by family.
    pub(super) fill: [Fill; 2],
    /// The startup's dials.
    pub(super) start: Start,
    /// Refills, by family.
    pub(super) refill: [Option<Refill>; 2],
    /// The warm-up's dials.
    pub(super) warm: Warm,
    /// The dial of a session that recovers on its own ([`crate::settings::NoWriterMode::Inline`]).
    pub(super) inline: Option<DialId>,
}

impl Group {
    pub(super) fn new(dice: &mut Dice) -> Self {
        Self {
            writers: Vec::new(),
            open: Vec::new(),
            dials: 0,
            turn: dice.index(64),
            fails: BTreeMap::new(),
            last_bind: None,
            demand: None,
            fill: [Fill::default(); 2],
            start: Start::default(),
            refill: [None, None],
            warm: Warm::default(),
            inline: None,
        }
    }

    /// Refills under way.
    pub(super) fn refills(&self) -> u32 {
        self.refill
            .iter()
            .map(|refill| u32::from(refill.is_some()))
            .sum()
    }
}

/// The place of an endpoint's family in pairs.
pub(super) fn family(endpoint: SocketAddr) -> usize {
    usize::from(endpoint.is_ipv6())
}
