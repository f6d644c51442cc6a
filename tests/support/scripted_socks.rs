//! A SOCKS 5 server without credentials that says what a test wants of the address it connects
//! from, and remembers where it was asked to connect.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use socket2::{Domain, Socket, Type};

/// What it reports as its bound address.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    /// `0.0.0.0:0`, as many servers do.
    Nothing,
    /// The truth.
    Own,
    /// This address.
    This(SocketAddr),
}

/// Where it connects from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leaves {
    /// As the kernel has it.
    Anyhow,
    /// From this address and the port of its client.
    WithClientsPort(IpAddr),
}

/// A running server; its threads end with the test's process.
#[derive(Debug)]
pub(crate) struct ScriptedSocks {
    addr: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
}

impl ScriptedSocks {
    /// Serves on a free port.
    pub(crate) fn start(says: Says) -> Self {
        Self::leaving(says, Leaves::Anyhow)
    }

    /// The same, connecting from where it is told to.
    pub(crate) fn leaving(says: Says, leaves: Leaves) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let addr = listener.local_addr().expect("an address");
        let targets = Arc::<Mutex<Vec<SocketAddr>>>::default();
        let seen = Arc::clone(&targets);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || serve(client, says, leaves, &seen));
            }
        });
        Self { addr, targets }
    }

    /// The value of `upstreams` with this server alone.
    pub(crate) fn upstream(&self) -> String {
        format!("[{}]", self.entry())
    }

    /// An entry of `upstreams`.
    pub(crate) fn entry(&self) -> String {
        format!("{{ type = \"socks5\", address = \"{}\" }}", self.addr)
    }

    /// Where it was asked to connect, in order.
    pub(crate) fn targets(&self) -> Vec<SocketAddr> {
        self.targets.lock().expect("not poisoned").clone()
    }
}

fn serve(
    mut client: TcpStream,
    says: Says,
    leaves: Leaves,
    seen: &Mutex<Vec<SocketAddr>>,
) -> io::Result<()> {
    let mut methods = [0; 2];
    client.read_exact(&mut methods)?;
    client.read_exact(&mut vec![0; usize::from(methods[1])])?;
    client.write_all(&[5, 0])?;
    let target = read_target(&mut client)?;
    seen.lock().expect("not poisoned").push(target);
    let connected = match leaves {
        Leaves::Anyhow => TcpStream::connect(target),
        Leaves::WithClientsPort(ip) => {
            let from = SocketAddr::new(ip, client.peer_addr()?.port());
            connect_from(from, target)
        }
    };
    let Ok(server) = connected else {
        return client.write_all(&[5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
    };
    let bound = match says {
        Says::Nothing => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        Says::Own => server.local_addr()?,
        Says::This(addr) => addr,
    };
    let mut reply = vec![5, 0, 0];
    match bound.ip() {
        IpAddr::V4(ip) => reply.extend([&[1][..], &ip.octets()].concat()),
        IpAddr::V6(ip) => reply.extend([&[4][..], &ip.octets()].concat()),
    }
    reply.extend(bound.port().to_be_bytes());
    client.write_all(&reply)?;
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || pump(from, to));
    pump(server, client);
    let _ = up.join();
    Ok(())
}

fn connect_from(from: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect(&target.into())?;
    Ok(socket.into())
}

fn read_target(client: &mut TcpStream) -> io::Result<SocketAddr> {
    let mut head = [0; 4];
    client.read_exact(&mut head)?;
    let ip = match head {
        [5, 1, 0, 1] => {
            let mut ip = [0; 4];
            client.read_exact(&mut ip)?;
            IpAddr::from(ip)
        }
        [5, 1, 0, 4] => {
            let mut ip = [0; 16];
            client.read_exact(&mut ip)?;
            IpAddr::from(ip)
        }
        other => return Err(io::Error::other(format!("asked for {other:?}"))),
    };
    let mut port = [0; 2];
    client.read_exact(&mut port)?;
    Ok(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
