//! The ways out: which route and address of a DC are tried next, how long, and how healthy the
//! routes are.
//!
//! [`Upstreams`] is what one shard has learned of all routes; [`Dial`] is one client's connect
//! over all its attempts; [`Trial`] is one that only the DC's first byte decides; [`Board`] carries
//! what the probing shard found to the others.
//!
//! Not here: sockets and SOCKS (`net/connector`). Source: protocol.md 9.5, 9.6.

mod board;
mod dial;
mod route;
#[cfg(test)]
mod tests;
mod trial;

use std::net::SocketAddr;

pub(crate) use self::{
    board::Board,
    dial::{Cause, Dial, Step},
    trial::{Doubt, Trial},
};
use self::{dial::Failed, route::Route};
use super::Millis;
use crate::{
    control::UpstreamRow,
    proto::dc::{DcAddrs, DcId, Resolved},
    settings::{RouteKind, RouteSettings, UpstreamSettings},
};

/// All routes of one shard: what it has learned of them.
#[derive(Debug)]
pub(crate) struct Upstreams {
    routes: Vec<Route>,
    /// What was taken over from the board.
    board_version: u64,
}

/// How a probe of one address ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probed {
    /// Which route it went through.
    pub(crate) route: usize,
    /// Row of the DC.
    pub(crate) dc: i16,
    /// The address.
    pub(crate) addr: SocketAddr,
    /// How long the connect took, milliseconds; `None` when it failed.
    pub(crate) took_ms: Option<u64>,
}

/// A probe round needs so many answers, or all where fewer DCs are tried.
const PROBE_ANSWERS_MIN: usize = 3;
/// What a latency is taken for before the first sample, milliseconds.
const LATENCY_UNKNOWN_MS: f64 = 1_000.0;

impl Upstreams {
    /// Nothing learned yet.
    pub(crate) fn new(routes: usize) -> Self {
        Self {
            routes: (0..routes).map(|_| Route::default()).collect(),
            board_version: 0,
        }
    }

    /// The route for a client's next attempt to reach this DC; `draw` is from 0.0..1.0. Those it
    /// has failed on are taken only when there is no other. `None`: no route may be taken at all.
    fn pick(
        &self,
        dc: &DcAddrs<'_>,
        settings: &[RouteSettings],
        dial: &Dial,
        draw: f64,
    ) -> Option<u16> {
        let fits = |route: &RouteSettings| {
            let (v4, v6) = (dc.v4().next().is_some(), dc.v6().next().is_some());
            route.serves(None) && ((route.ipv4 && v4) || (route.ipv6 && v6))
        };
        if let [only] = settings {
            // The usual case costs nothing.
            return fits(only).then_some(0);
        }
        let all = || (0..).zip(self.routes.iter().zip(settings));
        let fitting = || all().filter(|(_, (_, set))| fits(set));
        let healthy = || fitting().filter(|(_, (route, _))| !route.is_unhealthy());
        let is_new = |index: &u16| !dial.has_tried(*index);
        let weigh = weigh(dc.dc);
        // Better one that has failed someone else than one that has just failed this client.
        draw_from(
            healthy().filter(|(index, _)| is_new(index)).map(&weigh),
            draw,
        )
        .or_else(|| {
            draw_from(
                fitting().filter(|(index, _)| is_new(index)).map(&weigh),
                draw,
            )
        })
        .or_else(|| draw_from(healthy().map(&weigh), draw))
        .or_else(|| draw_from(fitting().map(&weigh), draw))
    }

    /// The route to a middle proxy of a DC and family; `draw` is from 0.0..1.0. Those that hide the
    /// port they leave from are no way there: it enters the keys. How far away a DC is, and with it
    /// its middle proxies, is known from probes and from clients that go to it directly. `None`: no
    /// route may be taken at all.
    ///
    /// Source: config.md 7; middle-proxy.md 9.1.
    pub(crate) fn pick_middle(
        &self,
        settings: &UpstreamSettings,
        dc: DcId,
        ipv6: bool,
        draw: f64,
    ) -> Option<u16> {
        let fits = |route: &RouteSettings| {
            let family = if ipv6 { route.ipv6 } else { route.ipv4 };
            let hides = matches!(route.kind, RouteKind::Shadowsocks { .. });
            route.serves(None) && family && !hides
        };
        let row = match settings.dcs.resolve(dc) {
            Resolved::Found(found) => found.dc,
            Resolved::Rejected => dc.0,
        };
        let weigh = weigh(row);
        let all = || (0..).zip(self.routes.iter().zip(&settings.routes));
        let fitting = || all().filter(|(_, (_, set))| fits(set));
        let healthy = fitting().filter(|(_, (route, _))| !route.is_unhealthy());
        draw_from(healthy.map(&weigh), draw).or_else(|| draw_from(fitting().map(&weigh), draw))
    }

    /// Takes in how a connect or probe of one address ended.
    pub(crate) fn learn(&mut self, probed: &Probed, now: Millis) {
        if let Some(route) = self.routes.get_mut(probed.route) {
            route.learn(probed.dc, probed.addr.is_ipv6(), probed.took_ms, now);
        }
    }

    /// The next connect of a dial. To be called at its start and when a pause is over; `draw` is
    /// from 0.0..1.0.
    pub(crate) fn connect(
        &mut self,
        dial: &mut Dial,
        settings: &UpstreamSettings,
        now: Millis,
        draw: f64,
    ) -> Step {
        if dial.is_over(settings, now) {
            return self.give_up(dial, settings);
        }
        if dial.wants_route() {
            let Resolved::Found(dc) = settings.dcs.resolve(DcId(dial.dc())) else {
                return self.give_up(dial, settings);
            };
            let Some(index) = self.pick(&dc, &settings.routes, dial, draw) else {
                return self.give_up(dial, settings);
            };
            if let Some(last) = dial.route().filter(|last| *last != index) {
                self.count_failure(last, dial, settings);
            }
            if let (Some(route), Some(set)) = (
                self.routes.get(usize::from(index)),
                settings.routes.get(usize::from(index)),
            ) {
                dial.take_route(index, || route.order(&dc, set));
            }
        }
        match dial.begin_attempt(settings, now) {
            Some(hop) => Step::Connect(hop),
            None => self.give_up(dial, settings),
        }
    }

    /// An attempt failed. `jitter` is drawn from 0.0..0.5, `draw` from 0.0..1.0.
    pub(crate) fn failed(
        &mut self,
        dial: &mut Dial,
        cause: Cause,
        settings: &UpstreamSettings,
        now: Millis,
        (jitter, draw): (f64, f64),
    ) -> Step {
        if let Some(probed) = dial.outcome(None) {
            self.learn(&probed, now);
        }
        match dial.failed(cause, settings, now, jitter) {
            Failed::Again => self.connect(dial, settings, now, draw),
            Failed::Pause(until) => Step::Pause(until),
            Failed::Over => self.give_up(dial, settings),
            Failed::Hard => {
                let next = match settings.dcs.resolve(DcId(dial.dc())) {
                    Resolved::Found(dc) => self.pick(&dc, &settings.routes, dial, draw),
                    Resolved::Rejected => None,
                };
                if next.is_some_and(|next| !dial.has_tried(next)) {
                    return self.connect(dial, settings, now, draw);
                }
                dial.fail_fast();
                self.give_up(dial, settings)
            }
        }
    }

    /// The client reached its DC.
    pub(crate) fn reached(&mut self, dial: &Dial, now: Millis) {
        self.recovered(dial, dial.attempt_ms(now), now);
    }

    /// A client got through, connecting took so long.
    fn recovered(&mut self, dial: &Dial, took_ms: u64, now: Millis) {
        if let Some(probed) = dial.outcome(Some(took_ms)) {
            self.learn(&probed, now);
            if let Some(route) = self.routes.get_mut(probed.route) {
                route.recovered();
            }
        }
    }

    /// A round of probes is over, and was learned from: judges the routes by it and tells the
    /// other shards.
    pub(crate) fn publish(&mut self, round: &[Probed], board: &Board) {
        self.judge(round);
        self.board_version = board.post(round);
    }

    /// The verdict on each route that was tried.
    fn judge(&mut self, round: &[Probed]) {
        for (index, route) in self.routes.iter_mut().enumerate() {
            if let Some(healthy) = verdict(round.iter().filter(|probed| probed.route == index)) {
                route.set_healthy(healthy);
            }
        }
    }

    /// Takes over what another shard's probes found, if there is something new.
    pub(crate) fn follow(&mut self, board: &Board, now: Millis) {
        let Some((version, round)) = board.newer_than(self.board_version) else {
            return;
        };
        self.board_version = version;
        for probed in &round {
            self.learn(probed, now);
        }
        self.judge(&round);
    }

    /// What the API shows, in configuration order.
    pub(crate) fn rows(&self, now: Millis) -> Vec<UpstreamRow> {
        self.routes.iter().map(|route| route.row(now)).collect()
    }

    fn give_up(&mut self, dial: &mut Dial, settings: &UpstreamSettings) -> Step {
        if let Some(last) = dial.route() {
            self.count_failure(last, dial, settings);
        }
        Step::Fail
    }

    /// A client's cycle failed on a route, which counts once for each of both.
    fn count_failure(&mut self, index: u16, dial: &mut Dial, settings: &UpstreamSettings) {
        if dial.leave(index)
            && let Some(route) = self.routes.get_mut(usize::from(index))
        {
            route.failed(settings.unhealthy_fails);
        }
    }
}

/// What a route counts in a draw for this row of DCs.
fn weigh(dc: i16) -> impl Fn((u16, (&Route, &RouteSettings))) -> (u16, f64) {
    move |(index, (route, set))| {
        let latency = route.latency_ms(dc).unwrap_or(LATENCY_UNKNOWN_MS);
        (index, f64::from(set.weight) * 1_000.0 / latency.max(1.0))
    }
}

/// One of weighted rows; `None` if there is none. Where all weigh nothing, all are alike.
fn draw_from(rows: impl Iterator<Item = (u16, f64)> + Clone, draw: f64) -> Option<u16> {
    let (sum, count) = rows
        .clone()
        .fold((0.0, 0_u32), |(sum, count), (_, weight)| {
            (sum + weight, count + 1)
        });
    let even = sum <= 0.0;
    let mut rest = draw * if even { f64::from(count) } else { sum };
    let mut last = None;
    for (index, weight) in rows {
        let weight = if even { 1.0 } else { weight };
        if weight <= 0.0 {
            continue;
        }
        last = Some(index);
        if rest < weight {
            break;
        }
        rest -= weight;
    }
    last
}

/// Whether a route's probes make it healthy; `None` when nothing was tried.
fn verdict<'a>(probes: impl Iterator<Item = &'a Probed>) -> Option<bool> {
    let mut dcs: Vec<(i16, bool)> = Vec::new();
    for probed in probes {
        let answered = probed.took_ms.is_some();
        match dcs.iter_mut().find(|(dc, _)| *dc == probed.dc) {
            Some((_, any)) => *any |= answered,
            None => dcs.push((probed.dc, answered)),
        }
    }
    let answered = dcs.iter().filter(|(_, any)| *any).count();
    (!dcs.is_empty()).then(|| answered >= PROBE_ANSWERS_MIN.min(dcs.len()))
}
