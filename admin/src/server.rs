//! The port: bind, accept for ever, one thread per connection, a bound on their number.
//!
//! tiny_http writes the answers (`connection.rs`), but its own server does not face the network,
//! because with version 0.12 any peer that reaches the port could end the process or the port:
//! dropping a request allocates what its `Content-Length` announced (a huge one aborts the
//! process), a head has neither a size limit nor a deadline, and when descriptors run out between
//! `accept` and `dup` its accept thread panics without telling anybody.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    connection, events::Events, handlers::ApiState, plane::ControlPlane, settings::ApiSettings,
    store::UserStore,
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

/// Why the API did not start. The proxy itself goes on without it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("control API: cannot listen on {addr}: {source}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// No thread for it.
    #[error("control API: cannot start its thread: {0}")]
    Thread(io::Error),
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
    let connections = Connections::new(settings.connections_max);
    let state = Arc::new(ApiState::new(settings, plane, store, events));
    let serving = Arc::clone(&state);
    thread::Builder::new()
        .name("api".to_owned())
        .spawn(move || accept(&listener, &serving, &connections))
        .map_err(StartError::Thread)?;
    Ok(Api { state, addr })
}

/// One open connection, seen by its own thread and by the accepting one.
pub(crate) struct Connection {
    stream: TcpStream,
    peer: IpAddr,
    waiting: AtomicBool,
}

impl Connection {
    /// The socket.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Address of the TCP peer, as the kernel gives it.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether it waits for bytes of its peer; only then may another connection displace it.
    pub(crate) fn set_waiting(&self, waiting: bool) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// Accepts until the process ends: no error ends this loop.
fn accept(listener: &TcpListener, state: &Arc<ApiState>, connections: &Arc<Connections>) {
    let mut quiet_until = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let peer = peer.ip();
                if state.drops_at_once(peer) {
                    continue;
                }
                if let Err(error) = spawn(stream, peer, state, connections) {
                    tracing::warn!(%error, "control API: no thread for a connection");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
            // The peer was gone before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if Instant::now() >= quiet_until {
                    tracing::warn!(%error, "control API: accept failed, trying on");
                    quiet_until = Instant::now() + ACCEPT_WARNING_EVERY;
                }
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn spawn(
    stream: TcpStream,
    peer: IpAddr,
    state: &Arc<ApiState>,
    connections: &Arc<Connections>,
) -> io::Result<()> {
    let Some(open) = connections.admit(stream, peer) else {
        return Ok(());
    };
    let state = Arc::clone(state);
    // `open` moves into the thread: whether it ends, panics or never starts, the entry goes.
    let thread = thread::Builder::new()
        .name("api-peer".to_owned())
        .stack_size(STACK_BYTES);
    thread
        .spawn(move || connection::serve(&state, &open.connection))
        .map(|_| ())
}

/// All open connections, by age.
struct Connections {
    max: usize,
    open: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    by_age: BTreeMap<u64, Arc<Connection>>,
}

impl Connections {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: max.max(1),
            open: Mutex::default(),
        })
    }

    /// Makes room for a connection by closing the one that has waited for its peer longest.
    /// `None`, and the connection is closed, when all are being answered.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: IpAddr) -> Option<Open> {
        let mut table = self.lock();
        if table.by_age.len() >= self.max {
            let mut by_age = table.by_age.iter();
            let waiting = by_age.find(|(_, open)| open.waiting.load(Ordering::Relaxed));
            let (&age, _) = waiting?;
            let displaced = table.by_age.remove(&age)?;
            // Its thread sees the end of the stream; if it is closed already, all the better.
            let _ = displaced.stream.shutdown(Shutdown::Both);
        }
        let age = table.next;
        table.next = age.wrapping_add(1);
        let connection = Arc::new(Connection {
            stream,
            peer,
            waiting: AtomicBool::new(true),
        });
        table.by_age.insert(age, Arc::clone(&connection));
        drop(table);
        Some(Open {
            connections: Arc::clone(self),
            age,
            connection,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place in the table.
struct Open {
    connections: Arc<Connections>,
    age: u64,
    connection: Arc<Connection>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.lock().by_age.remove(&self.age);
    }
}

const BACKLOG: i32 = 1_024;
/// Reading the configuration happens on it too; only what is touched costs memory.
const STACK_BYTES: usize = 1 << 20;
/// Out of descriptors or memory, accepting again at once would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_WARNING_EVERY: Duration = Duration::from_secs(10);
