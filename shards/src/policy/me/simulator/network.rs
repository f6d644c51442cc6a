//! The MEs: each endpoint has a mood, and all of them know which secrets are good.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::super::{
    dice::Dice,
    pool::{DialFailure, DialLimits, Loss},
};

/// How an endpoint behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mood {
    /// As it should; it closes connections now and then all the same.
    #[default]
    Fine,
    /// Refuses connections.
    Refuses,
    /// Says nothing: no dial succeeds, no ping is answered, nothing is closed.
    Stalls,
    /// Resets each connection within seconds.
    Flaps,
    /// Answers the handshake with an error.
    Rejects,
}

impl Mood {
    pub(super) const BAD: [Self; 4] = [Self::Refuses, Self::Stalls, Self::Flaps, Self::Rejects];
}

/// All of them.
pub(super) struct Network {
    moods: BTreeMap<SocketAddr, Mood>,
    /// Secrets before this epoch are no longer accepted.
    pub(super) secret_min: u64,
}

/// How a dial will go.
pub(super) struct Fate {
    pub(super) after: Duration,
    pub(super) result: Result<(), DialFailure>,
}

impl Network {
    pub(super) fn new() -> Self {
        Self {
            moods: BTreeMap::new(),
            secret_min: 0,
        }
    }

    pub(super) fn mood(&self, endpoint: &SocketAddr) -> Mood {
        self.moods.get(endpoint).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, endpoint: SocketAddr, mood: Mood) {
        self.moods.insert(endpoint, mood);
    }

    pub(super) fn calm(&mut self) {
        self.moods.clear();
    }

    pub(super) fn dial(
        &self,
        endpoint: &SocketAddr,
        secret: u64,
        limits: DialLimits,
        dice: &mut Dice,
    ) -> Fate {
        let rtt = Duration::from_millis(20) + dice.part_of(Duration::from_millis(60));
        let patience = match limits {
            DialLimits::Fast => Duration::from_millis(1_200),
            DialLimits::Slow => Duration::from_secs(5 + 10 * dice.up_to(1)),
        };
        let failed = |after, why| Fate {
            after,
            result: Err(why),
        };
        match self.mood(endpoint) {
            Mood::Refuses => failed(rtt, DialFailure::Other("connection refused")),
            Mood::Stalls => failed(patience, DialFailure::Other("timeout")),
            Mood::Rejects => failed(rtt * 3, DialFailure::Rejected(Some(-4))),
            Mood::Fine | Mood::Flaps if secret < self.secret_min => {
                failed(rtt * 2, DialFailure::Other("closed after our NONCE"))
            }
            Mood::Fine | Mood::Flaps => Fate {
                after: rtt * 3,
                result: Ok(()),
            },
        }
    }

    /// When and how an endpoint ends a connection that has just been opened.
    pub(super) fn life(&self, endpoint: &SocketAddr, dice: &mut Dice) -> (Duration, Loss) {
        match self.mood(endpoint) {
            Mood::Flaps => (dice.part_of(Duration::from_secs(8)), Loss::Reset),
            Mood::Fine | Mood::Refuses | Mood::Stalls | Mood::Rejects => {
                let min = Duration::from_secs(30);
                (dice.between(min, Duration::from_secs(900)), Loss::Eof)
            }
        }
    }
}
