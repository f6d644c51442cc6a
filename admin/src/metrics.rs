//! `/metrics`: the counter rows as Prometheus text, on a listener of its own.

use std::{io, net::SocketAddr, sync::Arc};

use ipnet::IpNet;

use crate::{plane::ControlPlane, server::StartError};

/// What is served, where, to whom.
#[derive(Clone, Debug)]
pub struct MetricsSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Peers that may scrape; empty means everybody. A bare address is a full-length prefix.
    pub whitelist: Vec<IpNet>,
    /// First part of every name; letters, digits and `_`, not starting with a digit.
    pub prefix: String,
    /// Users with series of their own: those with the most traffic. All others are one aggregate.
    pub top_n: usize,
}

/// Metrics that are served. Dropping this handle does not stop it; the process's end does.
#[derive(Debug)]
pub struct Metrics {
    addr: SocketAddr,
}

impl Metrics {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Starts serving `/metrics`.
///
/// # Errors
/// [`StartError`].
pub fn start_metrics(
    _settings: MetricsSettings,
    _plane: Arc<dyn ControlPlane>,
) -> Result<Metrics, StartError> {
    Err(StartError::Thread(io::ErrorKind::Unsupported.into()))
}
