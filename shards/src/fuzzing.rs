//! The door for fuzz targets and for tests from outside: what a newcomer's bytes lead to.
//!
//! `policy` is nobody's outside this crate, so the whole handshake is driven from here, with users,
//! a replay store and a clock that stands still. Compiled for tests and fuzz targets (`fuzz/`)
//! alone; no product code calls it.

pub mod frames;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use crate::{
    policy::{
        Millis,
        admission::Visit,
        end::Refusal,
        fingerprints::Fingerprints,
        handshake::{Context, Handshake, Progress},
        limits::Limits,
        replay::ReplayStore,
        users::{Hints, Row, Standing, UserTable},
    },
    proto::{
        crypto::HmacKey, dc::DcId, faketls::record::RecordReader, framing::Framing, secret::Secret,
    },
    settings::{AddressSettings, FrontTable, Modes, TlsSettings, UnknownSni, UserSettings},
};

/// The proxy's clock, Unix seconds.
pub const NOW_UNIX: u32 = 1_800_000_000;
const REPLAY_WINDOW: Duration = Duration::from_secs(3_600);
/// The host name that hellos may name.
pub const DOMAIN: &str = "www.example.com";

/// A shard as a newcomer meets it.
pub struct Door {
    modes: Modes,
    tls: TlsSettings,
    fronts: FrontTable,
    users: Arc<UserTable>,
    hints: Hints,
    replay: Arc<ReplayStore>,
    /// Kinds of TLS clients are looked at; for each newcomer anew.
    fingerprints: bool,
    evicted_early: u64,
    random: u64,
}

/// What became of a newcomer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Still unknown: more bytes are awaited.
    Waits {
        /// The server answer, if a hello was accepted.
        answer: Option<Vec<u8>>,
    },
    /// Known.
    Accepted {
        /// Which user, by the place of the secret.
        user: u32,
        /// The DC asked for.
        dc: DcId,
        /// Framing of what follows.
        framing: Framing,
        /// The server answer, for FakeTLS.
        answer: Option<Vec<u8>>,
        /// Everything behind the header, out of its records, still encrypted.
        rest: Vec<u8>,
        /// An alert ended the stream.
        ended: bool,
    },
    /// A stranger.
    Refused {
        /// Why.
        why: Refused,
    },
    /// Closed, perhaps with these bytes.
    Closed {
        /// The server answer that went before.
        answer: Option<Vec<u8>>,
        /// What is sent before the close.
        parting: Vec<u8>,
    },
}

/// Why somebody is a stranger, as text: the reasons are `policy`'s own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl Refused {
    /// Seen before, and refused for that alone.
    pub fn is_replay(&self) -> bool {
        [Refusal::TlsReplay, Refusal::ObfuscatedReplay]
            .map(|refusal| format!("{refusal:?}"))
            .contains(&self.0)
    }
}

impl Door {
    /// A door with an empty replay store, and one user for each secret.
    pub fn new(modes: Modes, unknown_sni: UnknownSni, secrets: &[Secret]) -> Self {
        let rows = secrets.iter().map(|secret| {
            Some(Row {
                hmac: HmacKey::new(secret),
                secret: *secret,
                standing: Standing::Served,
                limits: Limits::new(&UserSettings::unlimited("")),
                gauge: Arc::default(),
                ad_tag: None,
            })
        });
        Self {
            modes,
            tls: TlsSettings {
                domains: vec![DOMAIN.to_owned()],
                unknown_sni,
                skew_secs_max: Some(120),
                hello_delay_ms: (0, 0),
                flight_bytes: (2048, 2052),
                alpn_enforce: true,
                record_ramp: false,
                compact_ttl: None,
            },
            fronts: FrontTable::default(),
            users: Arc::new(UserTable::new(rows.collect())),
            hints: Hints::default(),
            replay: Arc::new(ReplayStore::new(64, REPLAY_WINDOW)),
            fingerprints: true,
            evicted_early: 0,
            random: 1,
        }
    }

    /// With room for so many handshakes in the replay store.
    #[must_use]
    pub fn remembering(self, entries: usize) -> Self {
        Self {
            replay: Arc::new(ReplayStore::new(entries, REPLAY_WINDOW)),
            ..self
        }
    }

    /// Another shard of the same process, with the same users and the same replay store; it does
    /// not look at kinds of TLS clients.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            modes: self.modes,
            tls: self.tls.clone(),
            fronts: self.fronts.clone(),
            users: Arc::clone(&self.users),
            hints: Hints::default(),
            replay: Arc::clone(&self.replay),
            fingerprints: false,
            evicted_early: 0,
            random: 1,
        }
    }

    /// Handshakes that this shard has made the store forget before their time.
    pub fn forgotten(&self) -> u64 {
        self.evicted_early
    }

    /// Lets a newcomer send these pieces, one receive each, until its fate is known.
    ///
    /// What comes behind that is taken as the relay would take it, so that the outcome does not
    /// depend on where the bytes were cut.
    ///
    /// # Panics
    /// When the mask host would get anything else than what a stranger has sent.
    pub fn newcomer(&mut self, pieces: &[&[u8]]) -> Outcome {
        let mut handshake = Handshake::default();
        let mut answer = None;
        for index in 0..pieces.len() {
            let (came, later) = pieces.split_at(index + 1);
            let piece = came.last().copied().unwrap_or_default();
            match self.receive(&mut handshake, piece) {
                Progress::More => {}
                Progress::Answer(bytes) => {
                    // Until it is sent, more bytes make a stranger of a client.
                    assert_eq!(handshake.take_seen(), came.concat(), "for the mask host");
                    answer = Some(bytes.into_vec());
                    handshake.answered();
                }
                Progress::Refused(why) => {
                    assert_eq!(handshake.take_seen(), came.concat(), "for the mask host");
                    let why = Refused(format!("{why:?}"));
                    return Outcome::Refused { why };
                }
                Progress::Close(_, parting) => {
                    let parting = parting.to_vec();
                    return Outcome::Closed { answer, parting };
                }
                Progress::Accepted(accepted) => {
                    let (mut rest, mut ended) = (accepted.early, accepted.ended);
                    if !take_on(accepted.records, later, &mut rest, &mut ended) {
                        let parting = Vec::new();
                        return Outcome::Closed { answer, parting };
                    }
                    return Outcome::Accepted {
                        user: accepted.user.0,
                        dc: accepted.opening.dc,
                        framing: accepted.opening.framing,
                        answer,
                        rest,
                        ended,
                    };
                }
            }
        }
        // Whoever stands still here is a stranger in the end.
        if answer.is_none() {
            assert_eq!(handshake.take_seen(), pieces.concat(), "for the mask host");
        }
        Outcome::Waits { answer }
    }

    fn receive(&mut self, handshake: &mut Handshake, piece: &[u8]) -> Progress {
        let mut fingerprints = self.fingerprints.then(Fingerprints::default);
        let state = &mut self.random;
        let mut random = |out: &mut [u8]| {
            for byte in out {
                *state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                *byte = (*state >> 56) as u8;
            }
        };
        let mut context = Context {
            modes: self.modes,
            tls: &self.tls,
            fronts: &self.fronts,
            returning: None,
            users: &self.users,
            hints: &mut self.hints,
            replay: &self.replay,
            visit: Visit {
                from: IpAddr::V4(Ipv4Addr::LOCALHOST),
                now: Millis(0),
                now_unix: u64::from(NOW_UNIX),
                addresses: AddressSettings::default(),
            },
            random: &mut random,
            public_key: &mut || [9; 32],
            evicted_early: &mut self.evicted_early,
            fingerprints: fingerprints.as_mut(),
        };
        handshake.receive(piece, &mut context)
    }
}

/// What the relay reads behind an accepted header; false when it is no stream of records.
fn take_on(
    records: Option<RecordReader>,
    later: &[&[u8]],
    rest: &mut Vec<u8>,
    ended: &mut bool,
) -> bool {
    let Some(mut reader) = records else {
        later.iter().for_each(|piece| rest.extend_from_slice(piece));
        return true;
    };
    for piece in later {
        let mut piece = piece.to_vec();
        let Ok(compacted) = reader.compact(&mut piece) else {
            return false;
        };
        rest.extend_from_slice(piece.get(..compacted.payload).unwrap_or_default());
        *ended |= compacted.ended;
    }
    true
}

#[cfg(test)]
mod replays;
#[cfg(test)]
mod tests;
