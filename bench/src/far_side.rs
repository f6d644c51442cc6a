//! A Shadowsocks server made of our own far side, for any method: Debian's knows none of the 2022
//! edition. The far side is checked against vectors of others; this adds sockets, and switches for
//! what can go wrong.
//!
//! Used by `bench upstream` and by end-to-end tests.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use shards::proto::shadowsocks::{
    Entropy, Method, ServerKey,
    far_side::{Served, Wanted},
};

/// A running server; it serves until the process ends.
#[derive(Debug)]
pub struct ShadowsocksServer {
    addr: SocketAddr,
    method: Method,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    accepted: AtomicUsize,
    /// A bit of what goes back is changed from now on.
    damages: AtomicBool,
    targets: Mutex<Vec<Wanted>>,
}

impl ShadowsocksServer {
    /// Listens on a free port of loopback and serves from threads of its own.
    ///
    /// # Errors
    /// No port.
    pub fn start(method: Method) -> io::Result<ShadowsocksServer> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let key = ServerKey::new(method, password(method)).map_err(io::Error::other)?;
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                own.accepted.fetch_add(1, Ordering::Relaxed);
                let (key, own) = (key.clone(), Arc::clone(&own));
                thread::spawn(move || serve(client, &key, &own));
            }
        });
        Ok(ShadowsocksServer {
            addr,
            method,
            shared,
        })
    }

    /// An entry of `upstreams`.
    pub fn entry(&self) -> String {
        entry(self.method, password(self.method), self.addr)
    }

    /// Where clients wanted to go, in order.
    pub fn targets(&self) -> Vec<Wanted> {
        self.shared.targets().clone()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Changes a bit of everything that goes back from now on.
    pub fn damage(&self) {
        self.shared.damages.store(true, Ordering::Relaxed);
    }
}

/// An entry of `upstreams` that leads to a Shadowsocks server.
pub fn entry(method: Method, password: &str, addr: SocketAddr) -> String {
    let password = password
        .replace('=', "%3D")
        .replace('+', "%2B")
        .replace('/', "%2F");
    let url = format!("ss://{}:{password}@{addr}", method.name());
    format!("{{ type = \"shadowsocks\", url = \"{url}\" }}")
}

/// What the servers of tests and of the bench know their clients by.
pub fn password(method: Method) -> &'static str {
    match method.key_bytes() {
        _ if !method.is_2022() => "correct horse",
        16 => "meWbaR5IwEiQWqMv3xYfFQ==",
        _ => "mYY+bhdXS45hhy6s/7HYfnkSiD5hfEBs9AZKnWwuQZU=",
    }
}

impl Shared {
    fn targets(&self) -> MutexGuard<'_, Vec<Wanted>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(mut client: TcpStream, key: &ServerKey, shared: &Shared) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut served = Served::new(key);
    let mut piece = vec![0; PIECE_BYTES];
    let mut first = Vec::new();
    let wanted = loop {
        let got = client.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        let plain = served.receive(piece.get(..got).unwrap_or_default(), unix_secs());
        first.extend(plain.map_err(io::Error::other)?);
        if let Some(wanted) = served.wanted() {
            break wanted.clone();
        }
    };
    shared.targets().push(wanted.clone());
    let Wanted::Addr(target) = wanted else {
        return Err(io::Error::other("a DC is told by its address"));
    };
    let mut target = TcpStream::connect(target)?;
    target.set_nodelay(true)?;
    target.write_all(&first)?;
    pump(&client, &target, served, shared)
}

/// Both directions at once, until both have ended.
fn pump(client: &TcpStream, target: &TcpStream, served: Served, shared: &Shared) -> io::Result<()> {
    let served = Mutex::new(served);
    thread::scope(|scope| {
        let up = scope.spawn(|| {
            let done = up(client, target, &served);
            let _ = target.shutdown(Shutdown::Write);
            done
        });
        let done = down(target, client, &served, shared);
        let _ = client.shutdown(Shutdown::Write);
        let up = up.join().map_err(|_| io::ErrorKind::Other)?;
        up.and(done)
    })
}

fn up(mut client: &TcpStream, mut target: &TcpStream, served: &Mutex<Served>) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let got = client.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        let bytes = piece.get(..got).unwrap_or_default();
        let plain = lock(served).receive(bytes, unix_secs());
        target.write_all(&plain.map_err(io::Error::other)?)?;
    }
}

fn down(
    mut target: &TcpStream,
    mut client: &TcpStream,
    served: &Mutex<Served>,
    shared: &Shared,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut wire = Vec::new();
    loop {
        let got = target.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        wire.clear();
        let mut random = |out: &mut [u8]| rand::fill(out);
        let entropy = Entropy {
            unix_secs: unix_secs(),
            random: &mut random,
        };
        let bytes = piece.get(..got).unwrap_or_default();
        lock(served).answer(bytes, entropy, &mut wire);
        if shared.damages.load(Ordering::Relaxed)
            && let Some(last) = wire.last_mut()
        {
            *last ^= 1;
        }
        client.write_all(&wire)?;
    }
}

fn lock(served: &Mutex<Served>) -> MutexGuard<'_, Served> {
    served.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unix_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

const PIECE_BYTES: usize = 40_000;
