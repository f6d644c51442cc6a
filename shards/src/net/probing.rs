//! Health probes: a TCP connect through every route to every DC in every allowed family, now and
//! then.
//!
//! A Shadowsocks server is connected whether or not it knows our key and reaches the DC: through it
//! the DC is asked the first question of a client, and what comes back must open.
//!
//! The first shard probes for the process and tells the others by the [`Board`]. Source:
//! protocol.md 9.5, 9.6.

use std::time::Duration;

use rand::RngExt as _;

use super::{
    connector::{Advance, Connector, Failure},
    shard::Shard,
};
use crate::{
    engine::{Buf, SocketId},
    policy::{
        Millis,
        upstream::{Board, Probed},
    },
    proto::{dc::DcId, key_request::key_request, shadowsocks::Leg},
    settings::Settings,
};

/// The present round of probes and when the next begins.
#[derive(Debug, Default)]
pub(super) struct Probing {
    every: Duration,
    next_round: Option<Millis>,
    round: Vec<Probe>,
    round_until: Millis,
    /// Rounds begun.
    rounds: u64,
}

#[derive(Debug)]
struct Probe {
    /// What is tried, and how long it took.
    tried: Probed,
    connector: Connector,
    /// Set when the DC was asked through a Shadowsocks server.
    leg: Option<Box<Leg>>,
    started: Millis,
    /// It has ended, one way or the other.
    over: bool,
}

/// Limit of one probe.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
/// The same for those at the start.
const FIRST_PROBE_LIMIT: Duration = Duration::from_secs(5);

/// An empty board for all that is to be probed: the first address of each family of each DC
/// through each route that may use it.
pub(super) fn board(settings: &Settings) -> Board {
    let upstream = &settings.upstream;
    let targets = upstream.dcs.probe_targets();
    let routes = upstream.routes.iter().enumerate();
    Board::new(routes.flat_map(|(index, route)| {
        targets.iter().flat_map(move |target| {
            let v4 = target.v4.first().filter(|_| route.ipv4);
            let v6 = target.v6.first().filter(|_| route.ipv6);
            v4.into_iter()
                .chain(v6)
                .map(move |addr| (index, target.dc, *addr))
        })
    }))
}

impl Probing {
    /// Probes on the first shard only, if at all.
    pub(super) fn new(settings: &Settings, shard: usize) -> Self {
        let every = if shard == 0 {
            settings.upstream.probe_every
        } else {
            Duration::ZERO
        };
        Self {
            every,
            ..Self::default()
        }
    }

    /// When there is something to do.
    pub(super) fn next(&self) -> Option<Millis> {
        if self.round.is_empty() {
            self.next_round
        } else {
            Some(self.round_until)
        }
    }

    /// No further rounds.
    pub(super) fn stop(&mut self) {
        self.next_round = None;
        self.every = Duration::ZERO;
    }
}

impl Shard {
    /// The first round, at once.
    pub(super) fn start_probing(&mut self) {
        if !self.probing.every.is_zero() {
            self.probing.next_round = Some(self.now);
            self.run_probes();
        }
    }

    /// Begins a round that is due, ends one whose time is up.
    pub(super) fn run_probes(&mut self) {
        if !self.probing.round.is_empty() {
            if self.probing.round_until <= self.now {
                self.end_round();
            }
            return;
        }
        if self.probing.next_round.is_some_and(|at| at <= self.now) {
            self.begin_round();
        }
    }

    fn begin_round(&mut self) {
        let limit = match self.probing.rounds {
            0 => FIRST_PROBE_LIMIT,
            _ => PROBE_LIMIT,
        };
        self.probing.rounds += 1;
        self.probing.next_round = Some(self.now.after(self.probing.every));
        self.probing.round_until = self.now.after(limit);
        let board = std::sync::Arc::clone(&self.board);
        for (route, dc, addr) in board.places() {
            let key = u32::try_from(self.probing.round.len()).unwrap_or(u32::MAX);
            let index = u16::try_from(route).unwrap_or(u16::MAX);
            let connector = self.connect_through(index, addr, Self::probe_owner(key), None);
            let failed = connector.is_err();
            self.probing.round.push(Probe {
                tried: Probed {
                    route,
                    dc,
                    addr,
                    took_ms: None,
                },
                connector: connector.unwrap_or(Connector::NONE),
                leg: None,
                started: self.now,
                over: false,
            });
            if failed {
                self.settle(key, false);
            }
        }
        self.end_round_if_done();
    }

    /// The first hop is there.
    pub(super) fn probe_connected(&mut self, key: u32, socket: SocketId) {
        let Some(probe) = self.probing.round.get_mut(key as usize) else {
            return self.engine.close(socket);
        };
        let routes = &self.settings.upstream.routes;
        let advance = probe.connector.connected(&mut self.engine, routes);
        self.probe_advanced(key, advance);
    }

    /// Bytes of the first hop.
    pub(super) fn probe_bytes(&mut self, key: u32, mut buf: Buf) {
        let Some(probe) = self.probing.round.get_mut(key as usize) else {
            return;
        };
        if let Some(leg) = &mut probe.leg {
            let mut any = false;
            let opened = leg
                .down
                .open(buf.bytes_mut(), self.now_unix, |_| any = true);
            return match opened {
                Ok(0) if !any => {}
                Ok(_) => self.probe_answered(key),
                Err(error) => {
                    tracing::debug!(%error, "what a probe's Shadowsocks server sent cannot be opened");
                    self.probe_failed(key);
                }
            };
        }
        let routes = &self.settings.upstream.routes;
        let advance = probe
            .connector
            .received(&mut self.engine, routes, buf.bytes());
        self.probe_advanced(key, advance);
    }

    fn probe_advanced(&mut self, key: u32, advance: Result<Advance, Failure>) {
        match advance {
            Ok(Advance::Wait) => {}
            Ok(Advance::Ready(_)) => {
                if !self.ask_through_server(key) {
                    self.probe_answered(key);
                }
            }
            Err(failure) => {
                tracing::debug!(%failure, "a probe failed");
                self.probe_failed(key);
            }
        }
    }

    /// Asks the DC for an answer where only that shows that it was reached; whether this is so.
    fn ask_through_server(&mut self, key: u32) -> bool {
        let Some(probe) = self.probing.round.get(key as usize) else {
            return false;
        };
        let (tried, socket) = (probe.tried, probe.connector.socket());
        if !probe.connector.is_sealed() {
            return false;
        }
        let mut random = |out: &mut [u8]| self.rng.fill(out);
        let question = key_request(&mut random, DcId(tried.dc), self.now_unix);
        let route = u16::try_from(tried.route).unwrap_or(u16::MAX);
        let Some((leg, request)) = self.seal_first(route, tried.addr, &question) else {
            return false;
        };
        if let Some(probe) = self.probing.round.get_mut(key as usize) {
            probe.leg = Some(Box::new(leg));
        }
        self.engine.send_bytes(socket, request);
        self.engine.resume(socket);
        true
    }

    /// The DC was reached: that is all we wanted to know.
    fn probe_answered(&mut self, key: u32) {
        self.settle(key, true);
        self.end_round_if_done();
    }

    /// A DC did not answer, or the way to it failed.
    pub(super) fn probe_failed(&mut self, key: u32) {
        self.settle(key, false);
        self.end_round_if_done();
    }

    fn settle(&mut self, key: u32, answered: bool) {
        let Some(probe) = self.probing.round.get_mut(key as usize) else {
            return;
        };
        probe.over = true;
        let socket = std::mem::replace(&mut probe.connector, Connector::NONE).socket();
        probe.tried.took_ms = answered.then(|| self.now.since(probe.started));
        self.upstream.learn(&probe.tried, self.now);
        self.engine.close(socket);
    }

    fn end_round_if_done(&mut self) {
        if self.probing.round.iter().all(|probe| probe.over) {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let open = self.probing.round.iter().enumerate();
        let open: Vec<usize> = open
            .filter(|(_, probe)| !probe.over)
            .map(|(key, _)| key)
            .collect();
        for key in open {
            self.settle(u32::try_from(key).unwrap_or(u32::MAX), false);
        }
        let round = std::mem::take(&mut self.probing.round);
        let round: Vec<Probed> = round.iter().map(|probe| probe.tried).collect();
        let routes = self.settings.upstream.routes.len();
        for route in 0..routes {
            let failed = |probed: &&Probed| probed.route == route && probed.took_ms.is_none();
            if round.iter().any(|probed| failed(&probed)) {
                self.connect_failed(u16::try_from(route).unwrap_or(u16::MAX));
            }
        }
        self.upstream.publish(&round, &self.board);
    }
}
