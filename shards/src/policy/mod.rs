//! Decisions: who is one of ours, when a session ends, which address is tried next.
//!
//! State plus `now` in, a verdict out. No sockets, no clock, no randomness of its own: `net` hands
//! all of it in, so that every rule can be tested in virtual time.

pub(crate) mod addresses;
pub(crate) mod admission;
pub(crate) mod directory;
pub(crate) mod end;
pub(crate) mod fingerprints;
pub(crate) mod handshake;
pub(crate) mod limits;
pub(crate) mod mask;
pub(crate) mod me;
pub(crate) mod meter;
pub(crate) mod nets;
pub(crate) mod observations;
pub(crate) mod permits;
pub(crate) mod rates;
pub(crate) mod record_sizes;
pub(crate) mod replay;
pub(crate) mod returning;
pub(crate) mod server_flight;
pub(crate) mod timer;
pub(crate) mod upstream;
pub(crate) mod users;

/// Milliseconds since the plane started: the same on all shards, but for the length of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// Later by a duration; saturates.
    #[must_use]
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }

    /// Milliseconds from `earlier` to here; zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
