//! What the probing shard found, for the others to take over: cells of atomics, no lock.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use super::Probed;

/// One cell for each address that is probed. Written by one shard, read by all others.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// Number of rounds written.
    version: AtomicU64,
    cells: Box<[Cell]>,
}

#[derive(Debug)]
struct Cell {
    /// Route, DC, address; what was found is in `state`.
    place: (usize, i16, SocketAddr),
    /// 0: not tried; 1: failed; more: answered, 2 plus the milliseconds it took.
    state: AtomicU64,
}

impl Board {
    /// An empty board for these places: route, DC, address.
    pub(crate) fn new(places: impl Iterator<Item = (usize, i16, SocketAddr)>) -> Self {
        let cells = places.map(|place| Cell {
            place,
            state: AtomicU64::new(0),
        });
        Self {
            version: AtomicU64::new(0),
            cells: cells.collect(),
        }
    }

    /// What is probed: route, DC, address.
    pub(crate) fn places(&self) -> impl Iterator<Item = (usize, i16, SocketAddr)> {
        self.cells.iter().map(|cell| cell.place)
    }

    /// Writes a round; its version.
    pub(super) fn post(&self, round: &[Probed]) -> u64 {
        for cell in &self.cells {
            let found = round
                .iter()
                .find(|probed| (probed.route, probed.dc, probed.addr) == cell.place);
            let state = found.map_or(0, |probed| probed.took_ms.map_or(1, |ms| ms + 2));
            cell.state.store(state, Ordering::Relaxed);
        }
        self.version.fetch_add(1, Ordering::Release) + 1
    }

    /// The last round, if it is newer than that of `version`, and its own version. One that is
    /// being written meanwhile may be half old: it is read again under its own version.
    pub(super) fn newer_than(&self, version: u64) -> Option<(u64, Vec<Probed>)> {
        let now = self.version.load(Ordering::Acquire);
        if now == version {
            return None;
        }
        let tried = self.cells.iter().filter_map(|cell| {
            let (route, dc, addr) = cell.place;
            let state = cell.state.load(Ordering::Relaxed);
            (state > 0).then_some(Probed {
                route,
                dc,
                addr,
                took_ms: state.checked_sub(2),
            })
        });
        Some((now, tried.collect()))
    }
}
