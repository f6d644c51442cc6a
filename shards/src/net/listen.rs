//! Opening all listeners, before the first shard starts.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use super::{doors::Door, start::StartError};
use crate::{
    engine::{
        ListenOptions, UnixFile, check_free, listen, listen_unix, needs_program, probe::explain,
        steer_by_cpu,
    },
    settings::{ListenerSettings, RstOnClose, Settings, UnixListenerSettings},
};

/// A listening socket of one shard.
pub(super) struct Opened {
    pub(super) socket: OwnedFd,
    pub(super) door: Door,
}

/// All that listens.
pub(super) struct Bound {
    /// By shard.
    pub(super) sockets: Vec<Vec<Opened>>,
    /// Addresses, ports filled in.
    pub(super) addrs: Vec<SocketAddr>,
    /// Addresses of a family that the host does not have.
    pub(super) skipped: Vec<SocketAddr>,
    /// The file of the Unix socket.
    pub(super) file: Option<UnixFile>,
}

/// One socket per listener and shard; listeners of one address are bound in shard order, which is
/// the order the steering program counts in.
///
/// # Errors
/// [`StartError`]: an address is not to be had, or none is left.
pub(super) fn bind_all(settings: &Settings) -> Result<Bound, StartError> {
    let shards = settings.plane.cores.len();
    let mut bound = Bound {
        sockets: (0..shards).map(|_| Vec::new()).collect(),
        addrs: Vec::new(),
        skipped: Vec::new(),
        file: None,
    };
    let mut listeners = Vec::new();
    // All before the first is bound: our own listeners may overlap.
    for listener in &settings.listeners {
        let addr = listener.addr;
        match wait_until_free(listener) {
            Ok(()) => listeners.push(listener),
            Err(error) if is_without_family(addr, &error) => bound.skipped.push(addr),
            Err(error) => return Err(cannot_listen(addr, &error)),
        }
    }
    for listener in listeners {
        bound.add(listener, settings)?;
    }
    if let Some(unix) = &settings.unix {
        let failed = |error| cannot_listen_unix(&unix.path, &error);
        bound.add_unix(unix).map_err(failed)?;
    }
    match bound.addrs.is_empty() && bound.file.is_none() {
        true => Err(StartError::Nowhere),
        false => Ok(bound),
    }
}

impl Bound {
    fn add(&mut self, listener: &ListenerSettings, settings: &Settings) -> Result<(), StartError> {
        let options = ListenOptions {
            backlog: listener.backlog,
            keepalive: settings.timeouts.keepalive,
            user_timeout: settings.timeouts.client_ack,
            reset: settings.plane.rst_on_close != RstOnClose::Off,
            mss: listener.mss,
        };
        let door = Door {
            proxy: listener.proxy,
            unix: false,
        };
        let mut addr = listener.addr;
        for sockets in &mut self.sockets {
            let socket = listen(addr, options).map_err(|error| cannot_listen(addr, &error))?;
            // Port 0: the first one picks, the others follow.
            addr = local_addr(&socket).unwrap_or(addr);
            sockets.push(Opened { socket, door });
        }
        let last = self.sockets.last().and_then(|sockets| sockets.last());
        if let Some(last) = last
            && needs_program(settings.plane.steering)
        {
            steer_by_cpu(last.socket.as_raw_fd(), &settings.plane.cores)
                .map_err(|error| cannot_listen(addr, &error))?;
        }
        self.addrs.push(addr);
        Ok(())
    }

    /// One socket for all shards: there are no groups of Unix sockets as there are of TCP's.
    fn add_unix(&mut self, unix: &UnixListenerSettings) -> io::Result<()> {
        let opened = once_free(|| listen_unix(&unix.path, unix.mode, unix.backlog));
        let (socket, file) = opened?;
        self.file = Some(file);
        let door = Door {
            proxy: unix.proxy,
            unix: true,
        };
        for sockets in &mut self.sockets {
            let socket = socket.try_clone()?;
            sockets.push(Opened { socket, door });
        }
        Ok(())
    }
}

/// Until nobody listens there; who does may stay if it lets us listen too.
fn wait_until_free(listener: &ListenerSettings) -> io::Result<()> {
    once_free(|| match check_free(listener.addr) {
        Err(error) if is_taken(&error) && listener.shared => Ok(()),
        done => done,
    })
}

/// A listener on a ring outlives its process for a moment, because the kernel takes rings apart in
/// the background: a start right after a crash must not fail for that.
fn once_free<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let limit = Instant::now() + PORT_PATIENCE;
    loop {
        match open() {
            Err(error) if is_taken(&error) && Instant::now() < limit => {
                // The process's first thread; no executor runs yet.
                thread::park_timeout(PORT_PAUSE);
            }
            done => return done,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

/// The host has no address of this family at all. A certain address that it does not have is a
/// mistake in the file.
fn is_without_family(addr: SocketAddr, error: &io::Error) -> bool {
    let any = match addr.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_loopback(),
    };
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
        || (any && error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Rings were seen to take a few milliseconds.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
const PORT_PAUSE: Duration = Duration::from_millis(5);

fn cannot_listen(addr: SocketAddr, error: &io::Error) -> StartError {
    StartError::Listen {
        place: addr.to_string(),
        advice: advise(error, addr),
    }
}

fn cannot_listen_unix(path: &Path, error: &io::Error) -> StartError {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there; name another path".to_owned(),
        io::ErrorKind::AlreadyExists => {
            "a file is there that is no socket; remove it or name another path".to_owned()
        }
        io::ErrorKind::NotFound => "its directory does not exist".to_owned(),
        _ => explain(error),
    };
    StartError::Listen {
        place: path.display().to_string(),
        advice,
    }
}

fn local_addr(socket: &OwnedFd) -> Option<SocketAddr> {
    socket2::SockRef::from(socket)
        .local_addr()
        .ok()?
        .as_socket()
}

fn advise(error: &io::Error, addr: SocketAddr) -> String {
    let port = addr.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("port {port} is taken; see who has it with `ss -ltnp sport = :{port}`")
        }
        io::ErrorKind::PermissionDenied => String::from(
            "ports below 1024 need a capability: `setcap cap_net_bind_service=+ep <pinnace>`, or \
             AmbientCapabilities=CAP_NET_BIND_SERVICE in the service file",
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "{} is no address of this host; `ip addr` lists them",
                addr.ip()
            )
        }
        _ => explain(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_for_a_moment_is_waited_for_and_other_errors_are_not() {
        let mut tries = 0;
        let opened = once_free(|| {
            tries += 1;
            let errors = [io::ErrorKind::AddrInUse, io::ErrorKind::AddrInUse];
            errors
                .get(tries - 1)
                .map_or(Ok(tries), |kind| Err((*kind).into()))
        });
        assert_eq!(opened.unwrap(), 3);
        let refused = once_free(|| -> io::Result<()> {
            tries += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(tries, 4);
    }
}
