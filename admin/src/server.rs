//! The API's port: bind, and serve it for ever.
//!
//! tiny_http writes the answers (`send.rs`), but its own server does not face the network,
//! because with version 0.12 any peer that reaches the port could end the process or the port:
//! dropping a request allocates what its `Content-Length` announced (a huge one aborts the
//! process), a head has neither a size limit nor a deadline, and when descriptors run out between
//! `accept` and `dup` its accept thread panics without telling anybody.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    connection::Service, events::Events, handlers::ApiState, plane::ControlPlane, poller,
    pool::Limits, settings::ApiSettings, store::UserStore,
};

/// A control API that serves. Dropping this handle does not stop it; the process's end does.
pub struct Api {
    state: Arc<ApiState>,
    addr: SocketAddr,
}

impl Api {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Switches answers on or off while the port stays open: off is `503 api_disabled`.
    pub fn set_enabled(&self, enabled: bool) {
        self.state.set_enabled(enabled);
    }
}

/// Why the API or the metrics did not start. The proxy itself goes on without them.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("cannot listen on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread for it.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// No name of a metric can begin so.
    #[error("{0:?} cannot begin the name of a metric")]
    Prefix(String),
}

/// Starts the control API as configured; `None` when it is switched off or its port is 0.
///
/// # Errors
/// [`StartError`].
pub fn start(
    settings: ApiSettings,
    plane: Arc<dyn ControlPlane>,
    store: Arc<dyn UserStore>,
    events: Arc<Events>,
) -> Result<Option<Api>, StartError> {
    if !settings.enabled || settings.listen.port() == 0 {
        return Ok(None);
    }
    let listener = bind(settings.listen)?;
    serve(listener, settings, plane, store, events).map(Some)
}

/// Opens the port; an IPv6 wildcard takes IPv4 too.
///
/// # Errors
/// [`StartError::Bind`].
pub fn bind(addr: SocketAddr) -> Result<TcpListener, StartError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|source| StartError::Bind { addr, source })
}

/// Serves on an open listener, whatever `enabled` and `listen` say.
///
/// # Errors
/// [`StartError::Thread`], and [`StartError::Bind`] when the listener does not know its address.
pub fn serve(
    listener: TcpListener,
    settings: ApiSettings,
    plane: Arc<dyn ControlPlane>,
    store: Arc<dyn UserStore>,
    events: Arc<Events>,
) -> Result<Api, StartError> {
    let addr = listener.local_addr().map_err(|source| StartError::Bind {
        addr: settings.listen,
        source,
    })?;
    let limits = Limits {
        connections_max: settings.connections_max.max(1),
        workers_max: WORKERS_MAX,
    };
    let state = Arc::new(ApiState::new(settings, plane, store, events));
    let service = Arc::clone(&state) as Arc<dyn Service>;
    poller::start("api", listener, limits, service).map_err(StartError::Thread)?;
    Ok(Api { state, addr })
}

/// Thousands may come at once while shards have the cores.
const BACKLOG: i32 = 4_096;
/// Requests wait for shards and the file, so more of them than cores; each thread costs about
/// 90 KiB.
const WORKERS_MAX: usize = 32;
