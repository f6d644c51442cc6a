//! One question to a site: a hello goes out, the answer comes in until the site waits for us.
//!
//! A flight of TLS 1.3 has no end that could be read from outside: behind it the server waits for
//! our `Finished`, and session tickets come only after that. So the end is where nothing comes for
//! a while, at the end of a record; of TLS 1.2 it can be read.

use std::{
    io,
    time::{Duration, Instant},
};

use shards::proto::faketls::site_answer::{
    ANSWER_BYTES_MAX, SiteAnswer, SiteAnswerError, read_site_answer,
};

use super::{Route, Target};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// It cannot be reached.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection broke.
    #[error("broken off: {0}")]
    Broken(io::Error),
    /// It closed in the middle.
    #[error("closed after {0} bytes of an answer")]
    Closed(usize),
    /// No complete answer in time.
    #[error("no complete answer in time, {0} bytes of one")]
    TooSlow(usize),
    /// It answered with something else.
    #[error("{0}")]
    Answer(#[from] SiteAnswerError),
}

/// Sends `hello` and reads the answer, all within `limit`.
pub(super) fn ask(
    route: &Route,
    target: &Target,
    hello: &[u8],
    limit: Duration,
) -> Result<SiteAnswer, AskError> {
    let begun = Instant::now();
    let until = begun + limit;
    let mut wire = route.open(target, limit).map_err(AskError::Connect)?;
    // The flight may need another round trip, when it is longer than a first window.
    let quiet = (begun.elapsed() * 3).clamp(QUIET_MIN, QUIET_MAX);
    let left = left(until).ok_or(AskError::TooSlow(0))?;
    wire.limit(left).map_err(AskError::Broken)?;
    wire.write_all(hello).map_err(AskError::Broken)?;
    let mut seen = Vec::with_capacity(8192);
    let mut answer = SiteAnswer::default();
    loop {
        let bytes = seen.len();
        let complete = answer.may_be_complete();
        let over = complete && answer.tls12.is_some();
        let Some(patience) = self::left(until).filter(|_| !over) else {
            return if complete {
                Ok(answer)
            } else {
                Err(AskError::TooSlow(bytes))
            };
        };
        let patience = if complete {
            patience.min(quiet)
        } else {
            patience
        };
        wire.limit(patience).map_err(AskError::Broken)?;
        let mut piece = [0; 8192];
        match wire.read(&mut piece) {
            Ok(0) if complete => return Ok(answer),
            Ok(0) => return Err(AskError::Closed(bytes)),
            Ok(read) => {
                seen.extend_from_slice(piece.get(..read).unwrap_or_default());
                answer = read_site_answer(&seen)?;
                debug_assert!(seen.len() <= ANSWER_BYTES_MAX);
            }
            Err(error) if is_late(&error) && complete => return Ok(answer),
            Err(error) if is_late(&error) => return Err(AskError::TooSlow(bytes)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if complete => return Ok(answer),
            Err(error) => return Err(AskError::Broken(error)),
        }
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn left(until: Instant) -> Option<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    (!left.is_zero()).then_some(left)
}

/// Least time without a byte that ends a flight.
const QUIET_MIN: Duration = Duration::from_millis(500);
/// The same at most, for sites far away.
const QUIET_MAX: Duration = Duration::from_secs(2);
