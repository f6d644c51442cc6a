//! Connections of the HTTP client: it asks for a host, [`RouteOut`] finds the way.
//!
//! Not here: what is requested (`http.rs`).

use std::{
    io::{self, Read as _, Write as _},
    sync::Arc,
    time::Instant,
};

use ureq::{
    Error, Timeout,
    config::Config,
    http::{Uri, uri::Scheme},
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport},
    },
};

use crate::route_out::{Otherwise, RouteOut, Stream, Wish};

/// Which way downloads take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The configured upstreams, those without a scope.
    Upstreams,
    /// Straight out: to be seen under the address that sockets of ours have.
    Straight,
}

/// Connects for the HTTP client.
#[derive(Debug)]
pub(super) struct RouteConnector {
    pub(super) out: Arc<RouteOut>,
    pub(super) way: Way,
}

impl Connector<()> for RouteConnector {
    type Out = RouteTransport;

    fn connect(
        &self,
        details: &ConnectionDetails,
        _: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        let uri = details.uri;
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let default = if uri.scheme() == Some(&Scheme::HTTPS) {
            443
        } else {
            80
        };
        let limit = details.timeout.not_zero();
        let limit = limit.map_or(super::http::CONNECT_MAX, |limit| *limit);
        let wish = Wish {
            scope: None,
            host,
            port: uri.port_u16().unwrap_or(default),
            deadline: Instant::now() + limit.min(super::http::CONNECT_MAX),
            otherwise: Otherwise::Fail,
        };
        let stream = match self.way {
            Way::Upstreams => self.out.connect(&wish),
            Way::Straight => self.out.straight(&wish),
        };
        let stream = stream.map_err(|error| failure(error, details.timeout.reason))?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(RouteTransport { stream, buffers }))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct RouteTransport {
    stream: Stream,
    buffers: LazyBuffers,
}

impl Transport for RouteTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream
            .set_timeout(timeout.not_zero().map(|limit| *limit))?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let written = self.stream.write_all(output);
        written.map_err(|error| failure(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream
            .set_timeout(timeout.not_zero().map(|limit| *limit))?;
        let read = self.stream.read(self.buffers.input_append_buf());
        let got = read.map_err(|error| failure(error, timeout.reason))?;
        self.buffers.input_appended(got);
        Ok(got > 0)
    }

    fn is_open(&mut self) -> bool {
        // Connections are not used again.
        false
    }
}

/// Sockets say that nothing came in time in two ways.
fn failure(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout(reason),
        _ => Error::Io(error),
    }
}

/// Leaves names to whoever connects: which of them are resolved here depends on the way.
#[derive(Debug)]
pub(super) struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut none = self.empty();
        // The client insists on one.
        none.push(([0, 0, 0, 0], 0).into());
        Ok(none)
    }
}
