//! The first hop: a TCP connection from where the route says, and SOCKS spoken on it.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use shards::{
    proto::socks::{Handshake, Progress, Proxy},
    settings::{Interface, RouteSettings, SourceSettings},
};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::stream::{Stream, Wanted};

/// How to talk to a SOCKS server; user id, or name and password.
#[derive(Clone, Copy)]
pub(super) enum Socks<'a> {
    V4(&'a str),
    V5(Option<(&'a str, &'a str)>),
}

/// Connects to the first address that answers; all of them share the time.
pub(super) fn connect(
    addresses: &[SocketAddr],
    route: &RouteSettings,
    turn: &AtomicUsize,
    until: Instant,
) -> io::Result<TcpStream> {
    let mut error = None;
    for (tried, &addr) in addresses.iter().enumerate() {
        let others = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        match one(addr, &route.source, turn, left(until)? / others) {
            Ok(socket) => return Ok(socket),
            Err(failed) => error = Some(failed),
        }
    }
    Err(error.unwrap_or_else(|| io::Error::other("no address of a family that is allowed")))
}

fn one(
    addr: SocketAddr,
    source: &SourceSettings,
    turn: &AtomicUsize,
    limit: Duration,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(device) = &source.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(ip) = source_address(source, addr.is_ipv6(), turn)? {
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    socket.set_tcp_keepalive(&keepalive.with_interval(KEEPALIVE))?;
    // Zero would be refused.
    socket.connect_timeout(&addr.into(), limit.max(Duration::from_millis(1)))?;
    Ok(socket.into())
}

/// Where the socket is bound, if anywhere (protocol.md 9.1).
fn source_address(
    source: &SourceSettings,
    ipv6: bool,
    turn: &AtomicUsize,
) -> io::Result<Option<IpAddr>> {
    let fits = |ip: &&IpAddr| ip.is_ipv6() == ipv6;
    let none = |what: &str| io::Error::new(io::ErrorKind::AddrNotAvailable, what.to_owned());
    if !source.addresses.is_empty() {
        let own: Vec<IpAddr> = source.addresses.iter().filter(fits).copied().collect();
        let at = turn.fetch_add(1, Ordering::Relaxed);
        let chosen = at.checked_rem(own.len()).and_then(|at| own.get(at));
        let chosen = chosen.ok_or_else(|| none("no bind address of this family"))?;
        return Ok(Some(*chosen));
    }
    match &source.interface {
        None => Ok(None),
        Some(Interface::Address(ip)) if ip.is_ipv6() == ipv6 => Ok(Some(*ip)),
        Some(Interface::Address(_)) => Err(none("the interface's address is of another family")),
        Some(Interface::Name(name)) => match interface_address(name, ipv6) {
            Some(ip) => Ok(Some(ip)),
            None => Err(none("the interface has no address of this family")),
        },
    }
}

/// An interface's first address of a family that reaches further than its link.
fn interface_address(name: &str, ipv6: bool) -> Option<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    all.filter(|interface| interface.interface_name == name)
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|ip| ip.is_ipv6() == ipv6)
        .find(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
}

/// Asks a SOCKS server for a connection.
pub(super) fn socks(
    mut socket: TcpStream,
    proxy: Socks<'_>,
    wanted: &Wanted,
    until: Instant,
) -> io::Result<Stream> {
    let refused = |error| io::Error::new(io::ErrorKind::ConnectionRefused, error);
    let proxy = match proxy {
        Socks::V4(user_id) => Proxy::V4 { user_id },
        Socks::V5(credentials) => Proxy::V5 { credentials },
    };
    let mut out = Vec::new();
    let started = Handshake::start(proxy, wanted.target(), &mut out);
    let mut handshake = started.map_err(io::Error::other)?;
    let mut seen = Vec::new();
    loop {
        socket.set_write_timeout(Some(left(until)?))?;
        socket.write_all(&out)?;
        out.clear();
        match handshake.receive(&seen, &mut out).map_err(refused)? {
            Progress::Next { consumed } => drop(seen.drain(..consumed)),
            Progress::Done { consumed, .. } => {
                seen.drain(..consumed);
                return Ok(Stream::behind(socket, seen));
            }
            Progress::NeedMore => {
                let mut piece = [0; PIECE_BYTES];
                socket.set_read_timeout(Some(left(until)?))?;
                let got = socket.read(&mut piece)?;
                if got == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                seen.extend_from_slice(piece.get(..got).unwrap_or_default());
            }
        }
    }
}

/// What is left of the time; an error when nothing is.
fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

const KEEPALIVE: Duration = Duration::from_secs(15);
/// No reply of a SOCKS server is longer.
const PIECE_BYTES: usize = 512;
