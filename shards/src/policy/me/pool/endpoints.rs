//! Where the next dial goes: endpoints in turn, those in quarantine left out.
//!
//! Source: middle-proxy.md 14.1 and 14.3.

use std::{net::SocketAddr, sync::Arc};

use super::{super::super::Millis, Pool, group::family, writer::Writer};

/// Which endpoint is wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Of this family only.
    pub(super) family: Option<usize>,
    /// For the generation to come: its writers are counted instead of the active ones.
    pub(super) warm: Option<u64>,
    /// By chance among equals instead of in turn.
    pub(super) shuffled: bool,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    To(SocketAddr),
    /// All are in quarantine; the first comes out then.
    At(Millis),
    /// There is none.
    Nowhere,
}

/// Endpoints that failed more often are not held to be worse.
pub(super) const FAILS_MAX: u32 = 8;
/// How long the endpoint of a writer that was lost early is in quarantine.
const BARRED_MS: u64 = 25_000;

/// Endpoints this shard knows to be in quarantine before the plan says so.
#[derive(Debug, Default)]
pub(super) struct Bars {
    rows: Vec<(SocketAddr, Millis)>,
}

impl Bars {
    pub(super) fn bar(&mut self, endpoint: SocketAddr, now: Millis) {
        self.rows
            .retain(|(at, until)| *at != endpoint && *until > now);
        self.rows.push((endpoint, Millis(now.0 + BARRED_MS)));
    }

    pub(super) fn retain(&mut self, is_known: impl Fn(SocketAddr) -> bool) {
        self.rows.retain(|(at, _)| is_known(*at));
    }

    fn until(&self, endpoint: SocketAddr) -> Option<Millis> {
        let row = self.rows.iter().find(|(at, _)| *at == endpoint);
        row.map(|(_, until)| *until)
    }
}

impl Pool {
    /// Until when an endpoint is in quarantine.
    pub(super) fn barred(&self, endpoint: SocketAddr, now: Millis) -> Option<Millis> {
        let table = &self.plan.quarantine;
        let planned = table.binary_search_by_key(&endpoint, |(at, _)| *at).ok();
        let planned = planned.and_then(|at| Some(table.get(at)?.1));
        let until = planned.max(self.bars.until(endpoint))?;
        (until > now).then_some(until)
    }

    /// The next endpoint of a group: not in quarantine, with the fewest writers, in turn.
    ///
    /// Failed dials count like writers: where one endpoint is dead, it must not be the one with
    /// the fewest forever.
    pub(super) fn choose(&mut self, dc: i16, wish: Wish, now: Millis) -> Choice {
        let plan = Arc::clone(&self.plan);
        let Some(planned) = plan.group(dc) else {
            return Choice::Nowhere;
        };
        let single = planned.endpoints.len() == 1;
        let ignores = single && plan.settings.single.outage_ignores_quarantine;
        let mut first_out: Option<Millis> = None;
        let mut best: Vec<SocketAddr> = Vec::new();
        let mut fewest = u32::MAX;
        for endpoint in planned.endpoints.iter().copied() {
            if wish.family.is_some_and(|wanted| wanted != family(endpoint)) {
                continue;
            }
            if let (Some(until), false) = (self.barred(endpoint, now), ignores) {
                first_out = Some(first_out.map_or(until, |at| at.min(until)));
                continue;
            }
            let load = self.load(dc, endpoint, wish.warm);
            if load < fewest {
                fewest = load;
                best.clear();
            }
            if load == fewest {
                best.push(endpoint);
            }
        }
        if best.is_empty() {
            return first_out.map_or(Choice::Nowhere, Choice::At);
        }
        let Some(group) = self.groups.get_mut(&dc) else {
            return Choice::Nowhere;
        };
        let at = match wish.shuffled {
            true => self.dice.index(best.len()),
            false => group.turn % best.len(),
        };
        group.turn = group.turn.wrapping_add(1);
        best.get(at)
            .map_or(Choice::Nowhere, |endpoint| Choice::To(*endpoint))
    }

    /// Writers of a group at an endpoint, those being dialled and dials in a row that failed.
    fn load(&self, dc: i16, endpoint: SocketAddr, warm: Option<u64>) -> u32 {
        let Some(group) = self.groups.get(&dc) else {
            return 0;
        };
        let counts = |writer: &Writer| match warm {
            Some(generation) => writer.is_warm() && writer.generation == generation,
            None => writer.is_active(),
        };
        let writers = group
            .writers
            .iter()
            .filter_map(|key| self.writers.get(*key));
        let writers = writers.filter(|writer| writer.endpoint == endpoint && counts(writer));
        let running = self.dials.values().filter(|dial| {
            dial.dc == dc && dial.endpoint == endpoint && dial.purpose.is_warm() == warm.is_some()
        });
        let fails = group.fails.get(&endpoint).copied().unwrap_or(0);
        u32::try_from(writers.count() + running.count()).unwrap_or(u32::MAX - FAILS_MAX) + fails
    }
}
