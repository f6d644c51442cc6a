//! Health probes: a TCP connect to every DC in every allowed family, now and then.
//!
//! The first shard probes for the process; what it learns shows in its row and, merged, in the
//! API. Source: protocol.md 9.5, 9.6.

use std::{net::SocketAddr, time::Duration};

use super::shard::Shard;
use crate::{engine::SocketId, policy::Millis, settings::Settings};

/// The present round of probes and when the next begins.
#[derive(Debug, Default)]
pub(super) struct Probing {
    every: Duration,
    next_round: Option<Millis>,
    round: Vec<Probe>,
    round_until: Millis,
}

#[derive(Clone, Copy, Debug)]
struct Probe {
    dc: i16,
    addr: SocketAddr,
    socket: SocketId,
    started: Millis,
    /// How it ended; `None` while it runs.
    answered: Option<bool>,
}

/// Limit of one probe.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

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
        let upstream = &self.settings.upstream;
        let mut targets = Vec::new();
        for target in upstream.dcs.probe_targets() {
            let v4 = target.v4.first().filter(|_| upstream.ipv4);
            let v6 = target.v6.first().filter(|_| upstream.ipv6);
            targets.extend(v4.into_iter().chain(v6).map(|addr| (target.dc, *addr)));
        }
        self.probing.next_round = Some(self.now.after(self.probing.every));
        self.probing.round_until = self.now.after(PROBE_LIMIT);
        for (dc, addr) in targets {
            let key = u32::try_from(self.probing.round.len()).unwrap_or(u32::MAX);
            let socket = self.engine.connect(addr, Self::probe_owner(key));
            self.probing.round.push(Probe {
                dc,
                addr,
                socket: socket.as_ref().map_or(SocketId::NONE, |socket| *socket),
                started: self.now,
                answered: None,
            });
            if socket.is_err() {
                self.settle(key, false);
            }
        }
        self.end_round_if_done();
    }

    /// A DC answered: that is all we wanted to know.
    pub(super) fn probe_answered(&mut self, key: u32, socket: SocketId) {
        self.engine.close(socket);
        self.settle(key, true);
        self.end_round_if_done();
    }

    /// A DC did not answer.
    pub(super) fn probe_failed(&mut self, key: u32) {
        self.settle(key, false);
        self.end_round_if_done();
    }

    fn settle(&mut self, key: u32, answered: bool) {
        let Some(probe) = self.probing.round.get_mut(key as usize) else {
            return;
        };
        probe.answered = Some(answered);
        let took = answered.then(|| self.now.since(probe.started));
        self.upstream.learn(probe.dc, probe.addr, took, self.now);
    }

    fn end_round_if_done(&mut self) {
        if self
            .probing
            .round
            .iter()
            .all(|probe| probe.answered.is_some())
        {
            self.end_round();
        }
    }

    fn end_round(&mut self) {
        let round = std::mem::take(&mut self.probing.round);
        for probe in &round {
            if probe.answered.is_none() {
                self.engine.close(probe.socket);
                self.upstream.learn(probe.dc, probe.addr, None, self.now);
            }
        }
        let mut tried: Vec<i16> = round.iter().map(|probe| probe.dc).collect();
        tried.dedup();
        let answers = |dc: &&i16| {
            round
                .iter()
                .any(|p| p.dc == **dc && p.answered == Some(true))
        };
        let answered = tried.iter().filter(answers).count();
        if !tried.is_empty() {
            self.upstream.probed(answered, tried.len());
        }
    }
}
