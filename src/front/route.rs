//! How a site is reached.

use std::{
    fmt,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::route_out::{Otherwise, RouteOut, Stream, Wish};

/// Where a site is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A host, by name or address, and its port.
    Host(String, u16),
    /// A Unix socket of this host.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A connection.
pub(super) trait Wire: Read + Write {
    /// Limit of each read and write from now on, above zero.
    fn limit(&self, limit: Duration) -> io::Result<()>;
}

impl Wire for Stream {
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.set_timeout(Some(limit))
    }
}

impl Wire for UnixStream {
    fn limit(&self, limit: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(limit))?;
        self.set_write_timeout(Some(limit))
    }
}

/// Which way sites are reached.
pub(crate) struct Route {
    /// The ways there are.
    pub(crate) out: Arc<RouteOut>,
    /// Upstreams of this scope; straight out without one.
    pub(crate) scope: Option<String>,
    /// No other way when those do not lead there.
    pub(crate) strict: bool,
}

impl Route {
    /// Connects to a site within `limit`.
    ///
    /// # Errors
    /// No address, or no way there.
    pub(super) fn open(&self, target: &Target, limit: Duration) -> io::Result<Box<dyn Wire>> {
        let (host, port) = match target {
            Target::Host(host, port) => (host, *port),
            Target::Unix(path) => return Ok(Box::new(UnixStream::connect(path)?)),
        };
        let wish = Wish {
            scope: self.scope.as_deref(),
            host,
            port,
            deadline: Instant::now() + limit,
            otherwise: if self.strict {
                Otherwise::Fail
            } else {
                Otherwise::Direct
            },
        };
        let stream = match self.scope {
            Some(_) => self.out.connect(&wish)?,
            None => self.out.straight(&wish)?,
        };
        Ok(Box::new(stream))
    }
}
