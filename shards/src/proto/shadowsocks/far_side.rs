//! The server's own side, for tests and fakes: reads a request, writes answers. Keeps what it
//! received, which nothing on the proxy's path does, and remembers no salts.

use std::net::SocketAddr;

use super::{Entropy, OpenError, Opener, Salt, Sealer, ServerKey};
use crate::proto::{
    reader::{Reader, Short},
    socks::{SocksError, Target, read_target},
};

/// Where a client wants to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// An address.
    Addr(SocketAddr),
    /// A name and a port.
    Name(String, u16),
}

/// One connection, seen from the server.
#[derive(Debug)]
pub struct Served {
    key: ServerKey,
    opener: Opener,
    /// The first bytes, until the salt is complete.
    salt: Vec<u8>,
    sealer: Option<Sealer>,
    /// Plaintext before the target was complete.
    seen: Vec<u8>,
    wanted: Option<Wanted>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its target is none.
    #[error(transparent)]
    Target(#[from] SocksError),
    /// Neither payload nor padding in a 2022 request.
    #[error("a request without payload and padding")]
    Bare,
}

impl Served {
    /// A connection just accepted.
    #[must_use]
    pub fn new(key: &ServerKey) -> Self {
        Self {
            key: key.clone(),
            opener: Opener::of_request(key),
            salt: Vec::new(),
            sealer: None,
            seen: Vec::new(),
            wanted: None,
        }
    }

    /// Where to, once that is known.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_ref()
    }

    /// Takes bytes from the client; returns the payload for the target.
    ///
    /// # Errors
    /// [`RequestError`]: close the connection.
    pub fn receive(&mut self, bytes: &[u8], unix_secs: u64) -> Result<Vec<u8>, RequestError> {
        if !self.opener.salt_seen() {
            self.salt.extend_from_slice(bytes);
        }
        let mut bytes = bytes.to_vec();
        let mut plain = Vec::new();
        let front = self.opener.open(&mut bytes, unix_secs, |piece| {
            plain.extend_from_slice(piece)
        })?;
        bytes.truncate(front);
        plain.extend_from_slice(&bytes);
        if self.wanted.is_some() {
            return Ok(plain);
        }
        self.seen.extend_from_slice(&plain);
        let seen = std::mem::take(&mut self.seen);
        match self.read_target(&seen) {
            Ok(rest) => Ok(rest?.to_vec()),
            Err(Short { .. }) => {
                self.seen = seen;
                Ok(Vec::new())
            }
        }
    }

    /// Appends an answer to `out`, header included when it is the first.
    pub fn answer(&mut self, payload: &[u8], entropy: Entropy<'_>, out: &mut Vec<u8>) {
        if let Some(sealer) = &mut self.sealer {
            return sealer.seal(payload, out);
        }
        let request = self.salt.get(..self.key.method.key_bytes());
        let request = Salt::from_slice(request.unwrap_or_default());
        self.sealer = Some(Sealer::respond(&self.key, &request, payload, entropy, out));
    }

    fn read_target<'a>(&mut self, seen: &'a [u8]) -> Result<Result<&'a [u8], RequestError>, Short> {
        let mut r = Reader::new(seen);
        let target = match read_target(&mut r)? {
            Ok(Target::Addr(addr)) => Wanted::Addr(addr),
            Ok(Target::Name(name, port)) => Wanted::Name(name.to_owned(), port),
            Err(error) => return Ok(Err(error.into())),
        };
        if self.key.method.is_2022() {
            let padding = usize::from(r.u16_be()?);
            r.take(padding)?;
            if padding == 0 && r.is_empty() {
                return Ok(Err(RequestError::Bare));
            }
        }
        self.wanted = Some(target);
        Ok(Ok(r.rest()))
    }
}
