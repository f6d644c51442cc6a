//! Shadowsocks servers: Debian's, for the methods it has, and one made of our own far side for the
//! methods of the 2022 edition. The far side is checked against vectors of others.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::RngExt as _;
use shards::proto::shadowsocks::{
    Entropy, Method, ServerKey,
    far_side::{Served, Wanted},
};

use super::{free_port, servers::find, wait_until};

/// Debian's `ss-server`. Killed when this is dropped.
#[derive(Debug)]
pub(crate) struct SsServer {
    child: Child,
    addr: SocketAddr,
    method: Method,
}

impl SsServer {
    /// Serves a method of the first edition; `None` where the program is missing.
    pub(crate) fn start(method: Method) -> Option<Self> {
        let program = find("ss-server")?;
        let port = free_port();
        let child = Command::new(program)
            .args(["-s", "127.0.0.1", "-p", &port.to_string()])
            .args(["-k", PASSWORD, "-m", method.name(), "-t", "300"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ss-server starts");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until("ss-server listens", || TcpStream::connect(addr).ok());
        Some(Self {
            child,
            addr,
            method,
        })
    }

    /// An entry of `upstreams`.
    pub(crate) fn entry(&self) -> String {
        entry(self.method, PASSWORD, self.addr)
    }

    /// An entry with another password.
    pub(crate) fn entry_with_wrong_password(&self) -> String {
        entry(self.method, "wrong", self.addr)
    }

    /// Ends it and all its connections.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for SsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Our own far side, for any method.
#[derive(Debug)]
pub(crate) struct OwnServer {
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

impl OwnServer {
    /// Serves until the test's process ends.
    pub(crate) fn start(method: Method) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let key = ServerKey::new(method, password(method)).expect("a key");
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                own.accepted.fetch_add(1, Ordering::Relaxed);
                let (key, own) = (key.clone(), Arc::clone(&own));
                thread::spawn(move || serve(client, &key, &own));
            }
        });
        Self {
            addr,
            method,
            shared,
        }
    }

    /// An entry of `upstreams`.
    pub(crate) fn entry(&self) -> String {
        entry(self.method, password(self.method), self.addr)
    }

    /// Where clients wanted to go, in order.
    pub(crate) fn targets(&self) -> Vec<Wanted> {
        self.shared.targets.lock().expect("not poisoned").clone()
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Changes a bit of everything that goes back from now on.
    pub(crate) fn damage(&self) {
        self.shared.damages.store(true, Ordering::Relaxed);
    }
}

fn serve(mut client: TcpStream, key: &ServerKey, shared: &Shared) -> io::Result<()> {
    let mut served = Served::new(key);
    let mut piece = vec![0; PIECE_BYTES];
    let mut first = Vec::new();
    let wanted = loop {
        let got = client.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        let plain = served.receive(&piece[..got], unix_secs());
        first.extend(plain.map_err(io::Error::other)?);
        if let Some(wanted) = served.wanted() {
            break wanted.clone();
        }
    };
    shared
        .targets
        .lock()
        .expect("not poisoned")
        .push(wanted.clone());
    let Wanted::Addr(target) = wanted else {
        return Err(io::Error::other("a DC is told by its address"));
    };
    let mut target = TcpStream::connect(target)?;
    target.write_all(&first)?;
    pump(client, target, served, shared)
}

/// Both directions take turns: whatever is there is passed on.
fn pump(client: TcpStream, target: TcpStream, served: Served, shared: &Shared) -> io::Result<()> {
    let served = Mutex::new(served);
    thread::scope(|scope| {
        let up = scope.spawn(|| {
            let done = up(&client, &target, &served);
            let _ = target.shutdown(Shutdown::Write);
            done
        });
        let done = down(&target, &client, &served, shared);
        let _ = client.shutdown(Shutdown::Write);
        up.join().expect("no panic")?;
        done
    })
}

fn up(mut client: &TcpStream, mut target: &TcpStream, served: &Mutex<Served>) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let got = client.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        let mut served = served.lock().expect("not poisoned");
        let plain = served.receive(&piece[..got], unix_secs());
        drop(served);
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
    loop {
        let got = target.read(&mut piece)?;
        if got == 0 {
            return Ok(());
        }
        let mut wire = Vec::new();
        let mut random = |out: &mut [u8]| rand::rng().fill(out);
        let entropy = Entropy {
            unix_secs: unix_secs(),
            random: &mut random,
        };
        let mut served = served.lock().expect("not poisoned");
        served.answer(&piece[..got], entropy, &mut wire);
        drop(served);
        if shared.damages.load(Ordering::Relaxed)
            && let Some(last) = wire.last_mut()
        {
            *last ^= 1;
        }
        client.write_all(&wire)?;
    }
}

fn entry(method: Method, password: &str, addr: SocketAddr) -> String {
    let password = password
        .replace('=', "%3D")
        .replace('+', "%2B")
        .replace('/', "%2F");
    let url = format!("ss://{}:{password}@{addr}", method.name());
    format!("{{ type = \"shadowsocks\", url = \"{url}\" }}")
}

fn password(method: Method) -> &'static str {
    match method.key_bytes() {
        _ if !method.is_2022() => PASSWORD,
        16 => "meWbaR5IwEiQWqMv3xYfFQ==",
        _ => "mYY+bhdXS45hhy6s/7HYfnkSiD5hfEBs9AZKnWwuQZU=",
    }
}

fn unix_secs() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

const PASSWORD: &str = "correct horse";
const PIECE_BYTES: usize = 40_000;
