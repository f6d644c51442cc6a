//! What one session is charged for its bytes: the user's quota, the user's rate, its network's.
//!
//! A session that none of these apply to has no [`Meter`], and pays for one look at that.

use std::{net::IpAddr, sync::Arc};

use super::{
    Millis,
    limits::{AnswerFits, Gauge},
    nets::{NetShare, NetTable},
    rates::receive_bytes_max,
    users::Row,
};
use crate::settings::RateSettings;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client.
    Up,
    /// To the client.
    Down,
}

/// The limits on one session's bytes.
#[derive(Debug)]
pub(crate) struct Meter {
    gauge: Arc<Gauge>,
    quota_bytes: Option<u64>,
    rate: RateSettings,
    net: Option<NetShare>,
}

/// What becomes of an answer of an ME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChargedDown {
    /// It is written.
    Pass,
    /// It is written when its time has come, as all that is queued with it.
    Pause(Millis),
    /// It is written, and the session ends: it went beyond what the quota allows.
    Last,
    /// It is not written: nothing of the quota is left.
    Spent,
}

/// What becomes of bytes that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charged {
    /// They may go on.
    Pass,
    /// They may go on; their source is not to be read until then.
    Pause(Millis),
    /// They do not fit the quota.
    Spent,
}

impl Meter {
    /// The limits of a session; `None` when there are none.
    pub(crate) fn new(row: &Row, nets: &NetTable, from: IpAddr) -> Option<Box<Self>> {
        let none = RateSettings::default();
        let net = nets.share(from).filter(|share| share.rate() != none);
        let (rate, quota_bytes) = (row.limits.rate, row.limits.quota_bytes);
        (quota_bytes.is_some() || rate != none || net.is_some()).then(|| {
            Box::new(Self {
                gauge: Arc::clone(&row.gauge),
                quota_bytes,
                rate,
                net,
            })
        })
    }

    /// Charges payload bytes before they go on.
    pub(crate) fn charge(&self, direction: Direction, bytes: usize, now: Millis) -> Charged {
        if let Some(quota) = self.quota_bytes
            && !self.gauge.use_quota(bytes as u64, quota)
        {
            return Charged::Spent;
        }
        self.charge_rates(direction, bytes, now)
    }

    /// Charges an answer of an ME before it is written.
    ///
    /// Source: middle-proxy.md 21.3.
    pub(crate) fn charge_answer(&self, bytes: usize, overshoot: u64, now: Millis) -> ChargedDown {
        let fits = self.quota_bytes.map_or(AnswerFits::Yes, |quota| {
            self.gauge.use_for_answer(bytes as u64, quota, overshoot)
        });
        match fits {
            AnswerFits::No => ChargedDown::Spent,
            AnswerFits::AsTheLast => ChargedDown::Last,
            AnswerFits::Yes => match self.charge_rates(Direction::Down, bytes, now) {
                Charged::Pass | Charged::Spent => ChargedDown::Pass,
                Charged::Pause(until) => ChargedDown::Pause(until),
            },
        }
    }

    fn charge_rates(&self, direction: Direction, bytes: usize, now: Millis) -> Charged {
        let own = direction.of(self.rate);
        let own = (own > 0).then(|| {
            let bucket = self.gauge.rates.bucket(direction);
            bucket.charge(bytes, own, now)
        });
        let net = self.net.as_ref();
        let net = net
            .filter(|share| direction.of(share.rate()) > 0)
            .map(|share| share.charge(direction, bytes, now));
        own.max(net)
            .and_then(|paid| paid.pause(now))
            .map_or(Charged::Pass, Charged::Pause)
    }

    /// What one receive of this direction may take; `None` for as much as there is.
    pub(crate) fn receive_bytes_max(&self, direction: Direction) -> Option<usize> {
        let (own, net) = self.rates(direction);
        let slowest = [own, net].into_iter().filter(|bps| *bps > 0).min()?;
        usize::try_from(receive_bytes_max(slowest)).ok()
    }

    /// Whether both hold their sessions to the same rates.
    pub(crate) fn has_rates_of(&self, other: &Self) -> bool {
        [Direction::Up, Direction::Down]
            .into_iter()
            .all(|direction| self.rates(direction) == other.rates(direction))
    }

    /// Whether there is a rate in either direction.
    pub(crate) fn has_rates(&self) -> bool {
        [Direction::Up, Direction::Down]
            .into_iter()
            .any(|direction| self.rates(direction) != (0, 0))
    }

    fn rates(&self, direction: Direction) -> (u64, u64) {
        let net = self.net.as_ref().map(NetShare::rate);
        (
            direction.of(self.rate),
            net.map_or(0, |rate| direction.of(rate)),
        )
    }
}

impl Direction {
    /// The rate of this direction, bits per second; 0 for none.
    pub(crate) fn of(self, rate: RateSettings) -> u64 {
        match self {
            Self::Up => rate.up_bps,
            Self::Down => rate.down_bps,
        }
    }
}

/// Why a source is not read at present; it is read only while nothing speaks against it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flow {
    /// The other side takes no more.
    pub(crate) stalled: bool,
    /// It is ahead of its rate until then.
    pub(crate) until: Option<Millis>,
}

impl Flow {
    /// Nothing speaks against reading.
    pub(crate) fn is_open(self) -> bool {
        !self.stalled && self.until.is_none()
    }

    /// Lets the rate's pause end if it is over; whether it did.
    pub(crate) fn is_paid(&mut self, now: Millis) -> bool {
        let over = self.until.is_some_and(|until| until <= now);
        if over {
            self.until = None;
        }
        over
    }
}
