//! What comes from the other end: checked and decrypted where it lies.
//!
//! ```text
//! first edition   Salt ->           Length -> Payload -> Length ...
//! 2022            Salt -> Header ->           Payload -> Length ...
//! ```

use super::{
    LENGTH_BYTES, SKEW_SECS_MAX, Salt, ServerKey, TAG_BYTES, TYPE_REQUEST, TYPE_RESPONSE,
    aead::Aead,
};
use crate::proto::{
    crypto::ct_eq,
    reader::{Reader, Short},
};

/// One direction of one connection, towards us. About 700 bytes, and up to one chunk (64 KiB)
/// while one has come in part.
pub struct Opener {
    key: ServerKey,
    sender: Sender,
    aead: Option<Aead>,
    state: State,
    /// The beginning of what `state` waits for.
    partial: Vec<u8>,
}

/// Whose bytes are read.
#[derive(Clone, Copy)]
enum Sender {
    /// A server's, who answers the request with this salt.
    Server(Salt),
    /// A client's.
    Client,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Salt,
    Header,
    Length,
    /// So many bytes and their tag.
    Payload(u16),
    /// The stream is broken: nothing is read any more.
    Broken,
}

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Wrong password or method, or bytes were changed.
    #[error("a tag does not fit: wrong password or method, or damaged bytes")]
    Tag,
    /// Longer than the edition allows.
    #[error("chunk of {got} bytes, at most {max}")]
    Length {
        /// Stated length.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// A header that is not of this direction.
    #[error("header type {got}")]
    Type {
        /// Its type.
        got: u8,
    },
    /// The clocks differ.
    #[error("clocks differ by {skew_secs} s, limit {SKEW_SECS_MAX} s")]
    Clock {
        /// Absolute difference, seconds.
        skew_secs: u64,
    },
    /// An answer to another request: recorded and played again.
    #[error("the answer belongs to another request")]
    Replayed,
    /// Our own bytes came back.
    #[error("our own salt came back")]
    Reflected,
    /// An earlier call failed.
    #[error("bytes behind a broken place")]
    Broken,
}

impl Opener {
    /// Reads the answer to the request with this salt.
    pub(super) fn of_response(key: &ServerKey, request: Salt) -> Self {
        Self::new(key, Sender::Server(request))
    }

    /// Reads a request. For tests and fakes.
    pub(super) fn of_request(key: &ServerKey) -> Self {
        Self::new(key, Sender::Client)
    }

    fn new(key: &ServerKey, sender: Sender) -> Self {
        Self {
            key: key.clone(),
            sender,
            aead: None,
            state: State::Salt,
            partial: Vec::new(),
        }
    }

    /// Decrypts received bytes in place: payload is moved to the front of `data`, and the result
    /// says how many bytes of it there are; what is behind them is garbage. A chunk that began in
    /// an earlier call is put together in memory of the opener's and handed to `joined`, at most
    /// once and before anything that is left in `data`.
    ///
    /// Nothing is handed out before its tag is checked. `unix_secs` is our clock; it matters for
    /// the header of the 2022 edition only.
    ///
    /// # Errors
    /// [`OpenError`]: close the connection. What was handed to `joined` was good.
    pub fn open(
        &mut self,
        data: &mut [u8],
        unix_secs: u64,
        mut joined: impl FnMut(&mut [u8]),
    ) -> Result<usize, OpenError> {
        let (mut from, mut to) = (0, 0);
        loop {
            let want = self.unit_bytes()?;
            let here = data.len() - from;
            if self.partial.is_empty() && here >= want {
                // `to <= from` and `from + want <= data.len()`.
                let unit = data.get_mut(to..from + want).unwrap_or_default();
                to += self.unit(unit, from - to, unix_secs)?;
                from += want;
                continue;
            }
            let took = here.min(want - self.partial.len());
            if took == 0 {
                break;
            }
            self.partial.reserve_exact(want - self.partial.len());
            let more = data.get(from..from + took).unwrap_or_default();
            self.partial.extend_from_slice(more);
            from += took;
            if self.partial.len() == want {
                let mut unit = std::mem::take(&mut self.partial);
                let len = self.unit(&mut unit, 0, unix_secs)?;
                if let Some(payload) = unit.get_mut(..len).filter(|payload| !payload.is_empty()) {
                    joined(payload);
                }
                unit.clear();
                self.partial = unit;
            }
        }
        if self.partial.is_empty() && self.partial.capacity() > KEPT_BYTES_MAX {
            self.partial = Vec::new();
        }
        Ok(to)
    }

    /// The salt, once it was read.
    pub(super) fn salt_seen(&self) -> bool {
        self.state != State::Salt
    }

    /// Bytes it keeps of a chunk that came in part.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        let held = self.partial.capacity();
        if held <= KEPT_BYTES_MAX {
            self.partial.len()
        } else {
            held
        }
    }

    /// Nothing of a chunk was read since the last one ended: an end here is a clean one.
    #[must_use]
    pub fn is_between_chunks(&self) -> bool {
        matches!(self.state, State::Salt | State::Length) && self.partial.is_empty()
    }

    /// Bytes of what comes next.
    fn unit_bytes(&self) -> Result<usize, OpenError> {
        let salt = self.key.method.key_bytes();
        Ok(match (self.state, self.sender) {
            (State::Salt, _) => salt,
            (State::Header, Sender::Server(_)) => 1 + 8 + salt + LENGTH_BYTES,
            (State::Header, Sender::Client) => 1 + 8 + LENGTH_BYTES,
            (State::Length, _) => LENGTH_BYTES,
            (State::Payload(len), _) => usize::from(len) + TAG_BYTES,
            (State::Broken, _) => return Err(OpenError::Broken),
        })
    }

    /// Takes one unit, which lies behind the first `skip` bytes of `unit`; returns how many bytes
    /// of payload are at the front then.
    fn unit(&mut self, unit: &mut [u8], skip: usize, unix: u64) -> Result<usize, OpenError> {
        let before = std::mem::replace(&mut self.state, State::Broken);
        let (next, payload) = match (before, &mut self.aead) {
            (State::Salt, _) => (self.salt(unit.get(skip..).unwrap_or_default())?, 0),
            (State::Header, Some(aead)) => {
                let header = aead.open(unit, skip)?;
                (self.sender.check(header, unix)?, 0)
            }
            (State::Length, Some(aead)) => {
                let got = Reader::new(aead.open(unit, skip)?).u16_be();
                let (got, max) = (got.unwrap_or(0), self.key.method.chunk_bytes_max());
                if usize::from(got) > max {
                    let got = usize::from(got);
                    return Err(OpenError::Length { got, max });
                }
                (State::Payload(got), 0)
            }
            (State::Payload(_), Some(aead)) => (State::Length, aead.open(unit, skip)?.len()),
            (_, None) | (State::Broken, _) => return Err(OpenError::Broken),
        };
        self.state = next;
        Ok(payload)
    }

    fn salt(&mut self, salt: &[u8]) -> Result<State, OpenError> {
        let salt = Salt::from_slice(salt);
        match &mut self.sender {
            // With the same salt our own chunks would open.
            Sender::Server(ours) if *ours == salt => return Err(OpenError::Reflected),
            Sender::Server(_) | Sender::Client => {}
        }
        self.aead = Aead::new(&self.key, &salt);
        Ok(if self.key.method.is_2022() {
            State::Header
        } else {
            State::Length
        })
    }
}

impl Sender {
    /// Judges a header of the 2022 edition.
    fn check(&self, header: &[u8], unix: u64) -> Result<State, OpenError> {
        // The length was fixed before: it is never short.
        self.read(&mut Reader::new(header), unix)
            .unwrap_or(Err(OpenError::Broken))
    }

    fn read(&self, r: &mut Reader<'_>, unix: u64) -> Result<Result<State, OpenError>, Short> {
        let got = r.u8()?;
        let want = match self {
            Self::Server(_) => TYPE_RESPONSE,
            Self::Client => TYPE_REQUEST,
        };
        if got != want {
            return Ok(Err(OpenError::Type { got }));
        }
        let skew_secs = u64::from_be_bytes(*r.array()?).abs_diff(unix);
        if skew_secs > SKEW_SECS_MAX {
            return Ok(Err(OpenError::Clock { skew_secs }));
        }
        if let Self::Server(ours) = self
            && !ct_eq(r.take(ours.bytes().len())?, ours.bytes())
        {
            return Ok(Err(OpenError::Replayed));
        }
        Ok(Ok(State::Payload(r.u16_be()?)))
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener({:?})", self.state)
    }
}

/// What an idle opener keeps for the pieces to come.
const KEPT_BYTES_MAX: usize = 128;
