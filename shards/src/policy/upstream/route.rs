//! What is known of one route: latency and families per DC, failures in a row, health.

use std::{collections::BTreeMap, net::SocketAddr};

use crate::{
    control::{DcRow, FamilyState, UpstreamRow},
    policy::Millis,
    proto::dc::DcAddrs,
    settings::RouteSettings,
};

/// One route as one shard sees it.
#[derive(Debug, Default)]
pub(super) struct Route {
    dcs: BTreeMap<i16, Dc>,
    fails: u32,
    unhealthy: bool,
    last_check: Option<Millis>,
    /// When a DC was last reached.
    answered: Option<Millis>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Dc {
    latency_ema_ms: Option<f64>,
    v4: FamilyState,
    v6: FamilyState,
}

/// New samples of a latency average weigh so much.
const EMA_WEIGHT: f64 = 0.3;

impl Route {
    /// Takes in how a connect of one address ended.
    pub(super) fn learn(&mut self, dc: i16, v6: bool, took_ms: Option<u64>, now: Millis) {
        self.last_check = Some(now);
        if took_ms.is_some() {
            self.answered = Some(now);
        }
        let row = self.dcs.entry(dc).or_default();
        let family = if v6 { &mut row.v6 } else { &mut row.v4 };
        *family = match took_ms {
            Some(_) => FamilyState::Works,
            None => FamilyState::Fails,
        };
        if let Some(ms) = took_ms {
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of a connect")]
            let sample = ms as f64;
            let ema = row
                .latency_ema_ms
                .map_or(sample, |ema| ema + EMA_WEIGHT * (sample - ema));
            row.latency_ema_ms = Some(ema);
        }
    }

    /// Addresses of a DC in the order they are tried: those of a family known to fail come last.
    pub(super) fn order(&self, dc: &DcAddrs<'_>, settings: &RouteSettings) -> Vec<SocketAddr> {
        let row = self.dcs.get(&dc.dc).copied().unwrap_or_default();
        let mut families = [
            (row.v4 == FamilyState::Fails, settings.prefer_ipv6, false),
            (row.v6 == FamilyState::Fails, !settings.prefer_ipv6, true),
        ];
        families.sort_unstable();
        let mut addrs = Vec::new();
        for (_, _, v6) in families {
            match v6 {
                true if settings.ipv6 => addrs.extend(dc.v6()),
                false if settings.ipv4 => addrs.extend(dc.v4()),
                _ => {}
            }
        }
        addrs
    }

    /// Average of the connects to a DC.
    pub(super) fn latency_ms(&self, dc: i16) -> Option<f64> {
        self.dcs.get(&dc)?.latency_ema_ms
    }

    /// When a DC was last reached through it.
    pub(super) fn answered(&self) -> Option<Millis> {
        self.answered
    }

    /// Too many client cycles failed, or the probes did.
    pub(super) fn is_unhealthy(&self) -> bool {
        self.unhealthy
    }

    /// A client's cycle failed on it.
    pub(super) fn failed(&mut self, unhealthy_fails: u32) {
        self.fails = self.fails.saturating_add(1);
        self.unhealthy |= self.fails >= unhealthy_fails;
    }

    /// A client got through.
    pub(super) fn recovered(&mut self) {
        self.fails = 0;
        self.unhealthy = false;
    }

    /// What a round of probes found.
    pub(super) fn set_healthy(&mut self, healthy: bool) {
        self.unhealthy = !healthy;
        if healthy {
            self.fails = 0;
        }
    }

    /// What the API shows.
    pub(super) fn row(&self, now: Millis) -> UpstreamRow {
        let dcs = self.dcs.iter().map(|(dc, row)| DcRow {
            dc: *dc,
            latency_ema_ms: row.latency_ema_ms,
            v4: row.v4,
            v6: row.v6,
        });
        UpstreamRow {
            healthy: !self.unhealthy,
            fails: self.fails,
            last_check_ms: self.last_check.map(|at| now.since(at)),
            dcs: dcs.collect(),
        }
    }
}
