//! A data centre that speaks obfuscated2 and answers the requests of [`wire`](crate::wire). On a
//! thread of its own, with switches for what can go wrong at a real one.
//!
//! Used by the bench and by end-to-end tests. It knows no secrets and no proxies.

mod session;

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use shards::proto::{dc::DcId, framing::Framing};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::urgent;

/// A running fake DC; it ends, with all its connections, when this is dropped.
#[derive(Debug)]
pub struct FakeDc {
    addr: SocketAddr,
    shared: Arc<Shared>,
    control: watch::Sender<Control>,
    thread: Option<JoinHandle<()>>,
}

/// What goes wrong at a DC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Nobody listens: connects are refused. Connections that exist go on.
    Refuse,
    /// New connections are accepted, and then never read or answered.
    Silent,
    /// New connections are closed at once.
    CloseAtAccept,
    /// New connections are reset after so many bytes of answers.
    ResetAfter(u64),
    /// Answers of new connections are held back this long.
    Delay(Duration),
}

/// The opening of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// DC id in the header, as the proxy wrote it.
    pub dc: DcId,
    /// Tag in the header.
    pub framing: Framing,
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// The 64 bytes as received.
    pub header: [u8; 64],
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DcStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Requests understood.
    pub requests: u64,
    /// Bytes received, headers included.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Connections that ended because what they carried was not ours or came damaged.
    pub damaged: u64,
}

impl FakeDc {
    /// Listens on `addr` (port 0 picks one) and serves from a new thread.
    ///
    /// # Errors
    /// The address cannot be listened on, or no thread can be started.
    pub fn start(addr: SocketAddr) -> io::Result<FakeDc> {
        let first = listen(addr)?;
        let addr = first.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (control, changes) = watch::channel(Control::default());
        let server = Server {
            addr,
            shared: Arc::clone(&shared),
            changes,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name("fake-dc".into())
            .spawn(move || runtime.block_on(server.run(first)))?;
        Ok(FakeDc {
            addr,
            shared,
            control,
            thread: Some(thread),
        })
    }

    /// Where it listens, also while it refuses.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Counts since the start.
    pub fn stats(&self) -> DcStats {
        let s = &self.shared;
        DcStats {
            accepted: s.accepted.load(Relaxed),
            open: s.open.load(Relaxed),
            requests: s.requests.load(Relaxed),
            bytes_in: s.bytes_in.load(Relaxed),
            bytes_out: s.bytes_out.load(Relaxed),
            damaged: s.damaged.load(Relaxed),
        }
    }

    /// Openings in the order they came; the first [`SEEN_MAX`] are kept.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen().clone()
    }

    /// Forgets the openings seen until now.
    pub fn forget_seen(&self) {
        self.shared.seen().clear();
    }

    /// Its thread goes before others of its core from now on. False where that is not allowed.
    pub fn go_first(&self) -> bool {
        self.control.send_modify(|control| control.first = true);
        for _ in 0..ANSWER_WAITS {
            match self.shared.first.load(Relaxed) {
                FIRST_UNKNOWN => std::thread::sleep(Duration::from_millis(1)),
                known => return known == FIRST_YES,
            }
        }
        false
    }

    /// Sets what goes wrong from now on. After [`Fault::Refuse`] the port is closed when this
    /// returns, and open again when another fault is set.
    pub fn set_fault(&self, fault: Fault) {
        let mut wait = 0;
        self.control.send_modify(|c| {
            c.fault = fault;
            c.turn += 1;
            wait = c.turn;
        });
        // The accept loop answers within one turn of its runtime; a dead one must not hang a test.
        for _ in 0..ANSWER_WAITS {
            if self.shared.turn_done.load(Relaxed) >= wait {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for FakeDc {
    fn drop(&mut self) {
        self.control.send_modify(|c| c.stop = true);
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed and shows as broken connections here.
            let _ = thread.join();
        }
    }
}

/// Milliseconds in which the serving thread takes in what it is told.
const ANSWER_WAITS: u32 = 5_000;
const FIRST_UNKNOWN: u8 = 0;
const FIRST_NO: u8 = 1;
const FIRST_YES: u8 = 2;

/// Openings kept for [`FakeDc::seen`].
pub const SEEN_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug, Default)]
struct Control {
    fault: Fault,
    turn: u64,
    first: bool,
    stop: bool,
}

/// What the serving thread and the owner both see.
#[derive(Debug, Default)]
struct Shared {
    accepted: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    damaged: AtomicU64,
    turn_done: AtomicU64,
    /// Whether the thread goes first: one of `FIRST_*`.
    first: AtomicU8,
    seen: Mutex<Vec<Seen>>,
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, seen: Seen) {
        let mut list = self.seen();
        if list.len() < SEEN_MAX {
            list.push(seen);
        }
    }
}

struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    changes: watch::Receiver<Control>,
}

impl Server {
    async fn run(self, first: StdListener) {
        let Server {
            addr,
            shared,
            mut changes,
        } = self;
        let mut listener = TcpListener::from_std(first).ok();
        let mut sessions = JoinSet::new();
        loop {
            let control = *changes.borrow_and_update();
            if control.stop {
                return;
            }
            if control.first && shared.first.load(Relaxed) == FIRST_UNKNOWN {
                let granted = if urgent::go_first() {
                    FIRST_YES
                } else {
                    FIRST_NO
                };
                shared.first.store(granted, Relaxed);
            }
            match control.fault {
                Fault::Refuse => listener = None,
                _ if listener.is_none() => {
                    listener = listen(addr).and_then(TcpListener::from_std).ok();
                }
                _ => {}
            }
            shared.turn_done.store(control.turn, Relaxed);
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = accept(&shared, listener.as_ref(), control.fault, &mut sessions) => {}
            }
        }
    }
}

/// Accepts until the caller has something else to do; never returns without a listener.
async fn accept(
    shared: &Arc<Shared>,
    listener: Option<&TcpListener>,
    fault: Fault,
    sessions: &mut JoinSet<()>,
) {
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
        shared.accepted.fetch_add(1, Relaxed);
        shared.open.fetch_add(1, Relaxed);
        let shared = Arc::clone(shared);
        sessions.spawn(async move {
            session::serve(stream, peer, fault, &shared).await;
            shared.open.fetch_sub(1, Relaxed);
        });
    }
}

fn listen(addr: SocketAddr) -> io::Result<StdListener> {
    let domain = if addr.is_ipv4() {
        socket2::Domain::IPV4
    } else {
        socket2::Domain::IPV6
    };
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
