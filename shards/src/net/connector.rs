//! A connect through a route, until its stream begins: where it is bound, the first hop, and what
//! is said to a SOCKS server.
//!
//! Whoever wants a connection makes a [`Connector`] with [`Shard::connect_through`], hands it the
//! events of its socket and gives it up when its own deadline passes: everything is done under
//! that one limit. Users: clients' dials (`dial`), probes (`probing`), middle proxies'
//! (`me/dial`).
//!
//! Not here: which route and address (`policy/upstream`). Source: protocol.md 9.1 to 9.3.

use std::net::{IpAddr, SocketAddr};

use super::shard::Shard;
use crate::{
    engine::{Engine, OutgoingOptions, Owner, SocketId},
    policy::{Millis, upstream::Cause},
    proto::{
        middle::bound,
        socks::{Handshake, Progress, Proxy, SocksError, Stage, Target},
    },
    settings::{Host, Interface, RouteKind, RouteSettings, SourceSettings},
};

/// A connection that is being made, or none.
#[derive(Debug)]
pub(super) struct Connector {
    socket: SocketId,
    /// Set while a SOCKS server is between us and the target.
    socks: Option<Box<Socks>>,
    /// The socket goes to a Shadowsocks server, which hears of the target with the first bytes.
    sealed: bool,
}

/// A request to a SOCKS server.
#[derive(Debug)]
struct Socks {
    route: u16,
    target: SocketAddr,
    stage: Option<Stage>,
    /// Received and not used yet: the beginning of an answer.
    seen: Vec<u8>,
}

/// How far a connect has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// Goes on with the socket's next event.
    Wait,
    /// The stream to the target begins.
    Ready(Ready),
}

/// A stream to the target has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// What a SOCKS server told of the address it uses towards the target, usable or not.
    pub(super) reported: Option<SocketAddr>,
    /// So many of the bytes handed in last are the stream's already: those at their end.
    pub(super) rest: usize,
}

/// Why a connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The kernel says so; 0 is a time-out.
    #[error("{}", std::io::Error::from_raw_os_error(*errno))]
    Socket {
        /// Its number.
        errno: i32,
        /// The socket went to the target itself.
        direct: bool,
    },
    /// No address to bind to in the family of the first hop.
    #[error("no source address of this family")]
    NoSource,
    /// The server's name has no address yet.
    #[error("the server's name has no address")]
    NoAddress,
    /// The server ended the connection in the middle of the request.
    #[error("the server hung up")]
    HungUp,
    /// The server refused, or speaks something else.
    #[error(transparent)]
    Socks(#[from] SocksError),
    /// There is no such route.
    #[error("no such route")]
    Unsupported,
}

impl Failure {
    /// In words for the log of a middle proxy's dial; no secrets.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Socket { errno, direct } => match (errno, direct) {
                (0 | libc::ETIMEDOUT, true) => "connect timed out",
                (0 | libc::ETIMEDOUT, false) => "the SOCKS server did not answer in time",
                (libc::ECONNREFUSED, true) => "connection refused",
                (libc::ECONNREFUSED, false) => "the SOCKS server refused the connection",
                (libc::ENETUNREACH | libc::EHOSTUNREACH, true) => "no route",
                (libc::ENETUNREACH | libc::EHOSTUNREACH, false) => "no route to the SOCKS server",
                (_, true) => "connect failed",
                (_, false) => "no connection to the SOCKS server",
            },
            Self::NoSource => "no source address of this family",
            Self::NoAddress => "the SOCKS server's name has no address",
            Self::HungUp => "the SOCKS server hung up",
            Self::Unsupported => "no such route",
            Self::Socks(error) => match error {
                SocksError::Credentials { .. } | SocksError::NoMethod => {
                    "the SOCKS server refused our credentials"
                }
                SocksError::Refused4 { .. } | SocksError::Refused5 { .. } => {
                    "the SOCKS server could not connect, or would not"
                }
                SocksError::Family => "SOCKS 4 cannot reach IPv6",
                SocksError::Text { .. }
                | SocksError::Version { .. }
                | SocksError::Method { .. }
                | SocksError::AddressType { .. } => "the SOCKS server speaks something else",
            },
        }
    }

    /// What it means for the next attempt.
    pub(super) fn cause(self) -> Cause {
        match self {
            Self::Socket {
                errno,
                direct: true,
            } => Cause::of_connect(errno),
            Self::Socket { errno, .. } => Cause::of_local(errno),
            Self::NoSource => Cause::Family,
            Self::NoAddress | Self::HungUp => Cause::Other,
            Self::Unsupported => Cause::Hard,
            Self::Socks(error) => match error {
                // Network or host unreachable, address type unsupported.
                SocksError::Family | SocksError::Refused5 { code: 3 | 4 | 8 } => Cause::Family,
                // Not allowed by the server's rules, command unsupported.
                SocksError::Refused5 { code: 2 | 7 }
                | SocksError::Text { .. }
                | SocksError::NoMethod
                | SocksError::Credentials { .. }
                // No identd, or it disagrees.
                | SocksError::Refused4 { code: 92 | 93 } => Cause::Hard,
                SocksError::Refused5 { .. }
                | SocksError::Refused4 { .. }
                | SocksError::Version { .. }
                | SocksError::Method { .. }
                | SocksError::AddressType { .. } => Cause::Other,
            },
        }
    }
}

impl Connector {
    /// No connect.
    pub(super) const NONE: Self = Self {
        socket: SocketId::NONE,
        socks: None,
        sealed: false,
    };

    /// The socket, connected or not.
    pub(super) fn socket(&self) -> SocketId {
        self.socket
    }

    /// The socket goes to a Shadowsocks server.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// A connect of this route's first hop failed.
    pub(super) fn refused(&self, errno: i32) -> Failure {
        Failure::Socket {
            errno,
            direct: self.socks.is_none() && !self.sealed,
        }
    }

    /// The socket is connected: to the target, or to a server that is now asked for it.
    ///
    /// # Errors
    /// [`Failure::Socks`]: the request cannot be expressed; the socket is left open.
    pub(super) fn connected(
        &mut self,
        engine: &mut Engine,
        routes: &[RouteSettings],
    ) -> Result<Advance, Failure> {
        let Some(socks) = &mut self.socks else {
            return Ok(Advance::Ready(Ready::default()));
        };
        let proxy = proxy(routes, socks.route).ok_or(Failure::Unsupported)?;
        let mut out = Vec::new();
        let handshake = Handshake::start(proxy, Target::Addr(socks.target), &mut out)?;
        socks.stage = Some(handshake.stage());
        engine.send_bytes(self.socket, out.into_boxed_slice());
        engine.resume(self.socket);
        Ok(Advance::Wait)
    }

    /// Bytes of the server.
    ///
    /// # Errors
    /// It refused, or they are no SOCKS; the socket is left open.
    pub(super) fn received(
        &mut self,
        engine: &mut Engine,
        routes: &[RouteSettings],
        bytes: &[u8],
    ) -> Result<Advance, Failure> {
        let Some(socks) = &mut self.socks else {
            return Ok(Advance::Wait);
        };
        let (Some(proxy), Some(stage)) = (proxy(routes, socks.route), socks.stage) else {
            return Err(Failure::Unsupported);
        };
        socks.seen.extend_from_slice(bytes);
        let mut handshake = Handshake::resume(proxy, Target::Addr(socks.target), stage);
        // Ends: the first answer leads to the second or third, and that one to the stream.
        loop {
            let mut out = Vec::new();
            match handshake.receive(&socks.seen, &mut out)? {
                Progress::NeedMore => break,
                Progress::Next { consumed } => {
                    socks.seen.drain(..consumed.min(socks.seen.len()));
                    socks.stage = Some(handshake.stage());
                    engine.send_bytes(self.socket, out.into_boxed_slice());
                }
                Progress::Done { consumed, .. } => {
                    let (reply, rest) = socks.seen.split_at(consumed.min(socks.seen.len()));
                    let ready = Ready {
                        reported: bound::reported(reply),
                        rest: rest.len(),
                    };
                    self.socks = None;
                    return Ok(Advance::Ready(ready));
                }
            }
        }
        Ok(Advance::Wait)
    }
}

/// How to talk to the server of a route; `None` where it is no SOCKS server.
fn proxy(routes: &[RouteSettings], route: u16) -> Option<Proxy<'_>> {
    match &routes.get(usize::from(route))?.kind {
        RouteKind::Socks4 { user_id, .. } => Some(Proxy::V4 {
            user_id: &user_id.0,
        }),
        RouteKind::Socks5 { credentials, .. } => Some(Proxy::V5 {
            credentials: credentials
                .as_ref()
                .map(|(user, password)| (&*user.0, &*password.0)),
        }),
        RouteKind::Direct | RouteKind::Shadowsocks { .. } => None,
    }
}

/// What a shard remembers of a route between connects.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Connects so far: source addresses take turns.
    connects: usize,
    /// Which of the server's addresses is used; the next one after a failure.
    server: usize,
    /// Addresses of the interface, IPv4 and IPv6, and when they were looked up.
    interface: Option<(Millis, Option<IpAddr>, Option<IpAddr>)>,
}

/// The addresses of an interface are looked up again after so many milliseconds.
const INTERFACE_REFRESH_MS: u64 = 30_000;
/// After a failure they are if they are older than this.
const INTERFACE_SUSPECT_MS: u64 = 1_000;

impl Shard {
    /// Starts a connect through a route. `options` say how the socket is kept alive, `None` as
    /// usual; where it is bound is the route's.
    ///
    /// # Errors
    /// Nothing was started.
    pub(super) fn connect_through(
        &mut self,
        route: u16,
        target: SocketAddr,
        owner: Owner,
        options: Option<OutgoingOptions<'static>>,
    ) -> Result<Connector, Failure> {
        let now = self.now;
        let index = usize::from(route);
        let (Some(set), Some(way)) = (
            self.settings.upstream.routes.get(index),
            self.ways.get_mut(index),
        ) else {
            return Err(Failure::Unsupported);
        };
        let (first_hop, named) = match set.server() {
            None => (target, false),
            Some(server) => {
                let addrs = self.names.addresses(server);
                let ip = addrs.get(way.server % addrs.len().max(1));
                let ip = ip.ok_or(Failure::NoAddress)?;
                let named = matches!(server.host, Host::Name(_));
                (SocketAddr::new(*ip, server.port), named)
            }
        };
        // A name may stand for an address of either family (config.md 7).
        let bind = match named {
            true => None,
            false => way.source(&set.source, first_hop.ip(), now)?,
        };
        let device = set.source.device.as_deref();
        let engine = &mut self.engine;
        let socket = if options.is_none() && bind.is_none() && device.is_none() {
            engine.connect(first_hop, owner)
        } else {
            let options = OutgoingOptions {
                bind,
                device,
                ..options.unwrap_or_else(|| engine.usual_options())
            };
            engine.connect_with(first_hop, owner, options)
        };
        let direct = set.server().is_none();
        let socket = socket.map_err(|error| Failure::Socket {
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            direct,
        })?;
        let sealed = matches!(set.kind, RouteKind::Shadowsocks { .. });
        let socks = (!direct && !sealed).then(|| {
            Box::new(Socks {
                route,
                target,
                stage: None,
                seen: Vec::new(),
            })
        });
        Ok(Connector {
            socket,
            socks,
            sealed,
        })
    }

    /// A connect through a route failed: the next one uses the server's next address.
    pub(super) fn connect_failed(&mut self, route: u16) {
        let now = self.now;
        if let Some(way) = self.ways.get_mut(usize::from(route)) {
            way.server = way.server.wrapping_add(1);
            way.interface = way
                .interface
                .filter(|(at, ..)| now.since(*at) < INTERFACE_SUSPECT_MS);
        }
    }
}

impl Way {
    /// The address to bind to for a first hop; `None` leaves it to the kernel.
    fn source(
        &mut self,
        settings: &SourceSettings,
        to: IpAddr,
        now: Millis,
    ) -> Result<Option<IpAddr>, Failure> {
        let fits = |ip: &&IpAddr| ip.is_ipv4() == to.is_ipv4();
        if !settings.addresses.is_empty() {
            let own = || settings.addresses.iter().filter(fits);
            let count = own().count();
            self.connects = self.connects.wrapping_add(1);
            let ip = own().nth(self.connects.wrapping_sub(1) % count.max(1));
            return ip.copied().map(Some).ok_or(Failure::NoSource);
        }
        let ip = match &settings.interface {
            None => return Ok(None),
            Some(Interface::Address(ip)) => Some(*ip).filter(|ip| fits(&ip)),
            Some(Interface::Name(name)) => self.address_of(name, to.is_ipv4(), now),
        };
        ip.map(Some).ok_or(Failure::NoSource)
    }

    fn address_of(&mut self, name: &str, v4: bool, now: Millis) -> Option<IpAddr> {
        let fresh = |at: Millis| now.since(at) < INTERFACE_REFRESH_MS;
        let (first4, first6) = match self.interface {
            Some((at, first4, first6)) if fresh(at) => (first4, first6),
            _ => {
                let (first4, first6) = addresses_of(name);
                self.interface = Some((now, first4, first6));
                (first4, first6)
            }
        };
        if v4 { first4 } else { first6 }
    }
}

/// The first usable address of each family of an interface.
fn addresses_of(name: &str) -> (Option<IpAddr>, Option<IpAddr>) {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return (None, None);
    };
    let own = all.filter(|entry| entry.interface_name == name);
    let (mut first4, mut first6) = (None, None);
    for address in own.filter_map(|entry| entry.address) {
        if let Some(v4) = address.as_sockaddr_in() {
            first4 = first4.or(Some(IpAddr::V4(v4.ip())));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            let ip = v6.ip();
            // Link-local ones reach nobody beyond the link.
            first6 = first6.or((!ip.is_unicast_link_local()).then_some(IpAddr::V6(ip)));
        }
    }
    (first4, first6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(way: &mut Way, settings: &SourceSettings, to: &str) -> Result<String, Failure> {
        let ip = way.source(settings, to.parse().unwrap(), Millis(0))?;
        Ok(ip.map_or_else(|| "any".to_owned(), |ip| ip.to_string()))
    }

    #[test]
    fn source_addresses_of_the_family_take_turns() {
        let list = ["127.0.0.2", "::2", "127.0.0.3"];
        let settings = SourceSettings {
            addresses: list.iter().map(|ip| ip.parse().unwrap()).collect(),
            interface: Some(Interface::Name("lo".to_owned())),
            device: None,
        };
        let mut way = Way::default();
        let mut next = |to| source(&mut way, &settings, to).unwrap();
        assert_eq!(next("127.0.0.1"), "127.0.0.2");
        assert_eq!(next("127.0.0.1"), "127.0.0.3");
        assert_eq!(next("::1"), "::2");
        let only4 = SourceSettings {
            addresses: vec![[127, 0, 0, 2].into()],
            ..SourceSettings::default()
        };
        let refused = source(&mut Way::default(), &only4, "::1");
        assert_eq!(refused, Err(Failure::NoSource));
    }

    #[test]
    fn an_interface_lends_its_first_address() {
        let named = |name: &str| SourceSettings {
            interface: Some(Interface::Name(name.to_owned())),
            ..SourceSettings::default()
        };
        let mut way = Way::default();
        assert_eq!(
            source(&mut way, &named("lo"), "10.0.0.1").unwrap(),
            "127.0.0.1"
        );
        let none = source(&mut Way::default(), &named("none-such"), "10.0.0.1");
        assert_eq!(none, Err(Failure::NoSource));
        let address = SourceSettings {
            interface: Some(Interface::Address([127, 0, 0, 9].into())),
            ..SourceSettings::default()
        };
        assert_eq!(source(&mut way, &address, "10.0.0.1").unwrap(), "127.0.0.9");
        assert_eq!(source(&mut way, &address, "::1"), Err(Failure::NoSource));
        let anywhere = SourceSettings::default();
        assert_eq!(source(&mut way, &anywhere, "::1").unwrap(), "any");
    }

    #[test]
    fn failures_tell_hard_ones_from_those_that_pass() {
        let socket = |errno, direct| Failure::Socket { errno, direct }.cause();
        assert_eq!(socket(libc::ENETUNREACH, true), Cause::Family);
        // The server is not to be had: that says nothing of the DC's family.
        assert_eq!(socket(libc::ENETUNREACH, false), Cause::Other);
        assert_eq!(socket(libc::EADDRNOTAVAIL, false), Cause::Hard);
        assert_eq!(socket(libc::EPERM, true), Cause::Hard);
        assert_eq!(socket(0, true), Cause::Other);
        let socks = |error| Failure::Socks(error).cause();
        assert_eq!(socks(SocksError::Credentials { status: 1 }), Cause::Hard);
        assert_eq!(socks(SocksError::Refused5 { code: 4 }), Cause::Family);
        assert_eq!(socks(SocksError::Refused5 { code: 5 }), Cause::Other);
    }
}
