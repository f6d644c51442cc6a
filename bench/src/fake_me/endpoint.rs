//! One address of the fake: its listener, its connections, its fault.

use std::{
    collections::HashMap,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{
        mpsc::{self, UnboundedSender},
        watch,
    },
    task::JoinSet,
};

use super::{
    beginning::{self, Ends, Failed},
    connection::{Connection, End},
    fault::{Fault, Order},
    stats::{Counters, add, sub},
    world::World,
};

/// One address. What it does is told through `control`, and its open connections through orders.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) addr: SocketAddr,
    /// What clients are told who ask who they are.
    pub(super) dc: i16,
    pub(super) counters: Counters,
    pub(super) world: Arc<World>,
    control: watch::Sender<Control>,
    turn_done: AtomicU64,
    connections: Mutex<HashMap<u64, UnboundedSender<Order>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Control {
    fault: Fault,
    turn: u64,
}

impl Endpoint {
    pub(super) fn new(addr: SocketAddr, dc: i16, world: Arc<World>) -> Endpoint {
        Endpoint {
            addr,
            dc,
            counters: Counters::default(),
            world,
            control: watch::Sender::default(),
            turn_done: AtomicU64::new(0),
            connections: Mutex::default(),
        }
    }

    pub(super) fn fault(&self) -> Fault {
        self.control.borrow().fault
    }

    /// Sets the fault for new connections and the open ones; returns once a listener that has to
    /// be closed or opened is.
    pub(super) fn set_fault(&self, fault: Fault) {
        let mut wait = 0;
        self.control.send_modify(|c| {
            c.fault = fault;
            c.turn += 1;
            wait = c.turn;
        });
        self.order(Order::Fault(fault));
        // The accept loop answers within one turn of its runtime; a dead one must not hang a test.
        for _ in 0..5_000 {
            if self.turn_done.load(Relaxed) >= wait {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells all open connections; returns how many there are.
    pub(super) fn order(&self, order: Order) -> usize {
        let connections = self.connections();
        for connection in connections.values() {
            // One that ends just now has no use for it.
            let _ = connection.send(order);
        }
        connections.len()
    }

    /// Tells one connection; false if it is not one of these.
    pub(super) fn order_one(&self, number: u64, order: Order) -> bool {
        let connections = self.connections();
        connections
            .get(&number)
            .is_some_and(|connection| connection.send(order).is_ok())
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, UnboundedSender<Order>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts and serves for ever.
    pub(super) async fn run(self: Arc<Self>, first: StdListener) {
        let mut changes = self.control.subscribe();
        let mut listener = TcpListener::from_std(first).ok();
        let mut sessions = JoinSet::new();
        loop {
            let control = *changes.borrow_and_update();
            match control.fault {
                Fault::Refuse => listener = None,
                _ if listener.is_none() => {
                    listener = listen(self.addr).and_then(TcpListener::from_std).ok();
                }
                _ => {}
            }
            self.turn_done.store(control.turn, Relaxed);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = self.accept(listener.as_ref(), &mut sessions) => {}
            }
        }
    }

    /// Accepts until the caller has something else to do; never returns without a listener.
    async fn accept(self: &Arc<Self>, listener: Option<&TcpListener>, sessions: &mut JoinSet<()>) {
        let Some(listener) = listener else {
            return std::future::pending().await;
        };
        loop {
            while sessions.try_join_next().is_some() {}
            let Ok((stream, peer)) = listener.accept().await else {
                // Out of file descriptors: some come back when connections end.
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            add(&self.counters.accepted);
            add(&self.counters.open);
            let this = Arc::clone(self);
            sessions.spawn(async move {
                this.serve(stream, peer).await;
                sub(&this.counters.open);
            });
        }
    }

    async fn serve(&self, mut stream: TcpStream, peer: SocketAddr) {
        let fault = self.fault();
        match fault {
            Fault::Silent => return std::future::pending().await,
            Fault::ResetAtAccept => return reset(&stream),
            _ => {}
        }
        // Without it round trips would wait for delayed acknowledgements; nothing else fails here.
        let _ = stream.set_nodelay(true);
        let ends = Ends {
            me: stream.local_addr().unwrap_or(self.addr),
            proxy: peer,
            unix_secs: self.world.unix_secs(),
        };
        let secrets = self.world.secrets();
        let opening = beginning::begin(&mut stream, ends, &secrets, fault);
        let begun = tokio::time::timeout(OPENING_LIMIT, opening).await;
        match begun.unwrap_or(Err(Failed::Ended)) {
            Ok(channel) => self.writer(stream, channel).await,
            Err(Failed::Ended) => add(&self.counters.failed_openings),
            Err(Failed::Wrong) => add(&self.counters.wrong_openings),
            Err(Failed::Hang) => {
                add(&self.counters.failed_openings);
                std::future::pending().await
            }
        }
    }

    async fn writer(&self, mut stream: TcpStream, channel: beginning::Channel) {
        let number = self.world.open(self.addr);
        let (orders, obeyed) = mpsc::unbounded_channel();
        self.connections().insert(number, orders);
        add(&self.counters.handshakes);
        add(&self.counters.writers);
        let connection = Connection::new(&mut stream, self, number, obeyed, channel);
        let end = connection.run().await;
        self.connections().remove(&number);
        sub(&self.counters.writers);
        match end {
            End::Peer => {}
            End::Broken => add(&self.counters.broken),
            End::Rst => reset(&stream),
            End::Fin => finish(stream).await,
        }
    }
}

/// Unsent bytes are dropped and the peer gets RST when the stream is.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Ends our direction, and reads over what still comes: bytes that nobody has read would make the
/// close a reset.
async fn finish(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut rest = [0; 4096];
    let read_over = async { while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {} };
    // A proxy that does not close gets its reset in the end.
    let _ = tokio::time::timeout(FINISH_LIMIT, read_over).await;
}

/// A listener that does not wait for the connections of the last one there.
pub(super) fn listen(addr: SocketAddr) -> io::Result<StdListener> {
    let domain = if addr.is_ipv4() {
        socket2::Domain::IPV4
    } else {
        socket2::Domain::IPV6
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// An ME's patience with an opening.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
const FINISH_LIMIT: Duration = Duration::from_secs(2);
