//! How plain threads reach a host: through the configured upstreams, as clients' connections do.
//!
//! For downloads of secret and maps and for looking at a mask site. Blocking; shards have a
//! connector of their own. Not here: which keys there are (`config/upstreams.rs`), what was learned
//! of a route by its clients (`shards`). Source: protocol.md 9.

mod socket;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError, atomic::AtomicUsize, mpsc},
    thread,
    time::Instant,
};

use rand::RngExt as _;
use shards::settings::{Host, HostPort, NameTable, RouteKind, RouteSettings};

pub(crate) use self::stream::Stream;
use self::stream::Wanted;
use crate::{config::kinds::DnsPin, names::Families};

/// The ways out; one per process.
pub(crate) struct RouteOut {
    routes: Vec<RouteSettings>,
    /// Straight out, for those who may.
    direct: RouteSettings,
    /// `network.dns_overrides`, and nothing else.
    pins: Mutex<NameTable>,
    /// Which source address comes next.
    turn: AtomicUsize,
    /// Resolves a name; blocks.
    resolve: Resolve,
}

/// Resolves a name; tests have one without a network.
pub(crate) type Resolve = fn(&str) -> io::Result<Vec<IpAddr>>;

/// What a thread wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    /// Routes reserved for this scope; `None` for those reserved for nobody.
    pub(crate) scope: Option<&'a str>,
    /// Address or name.
    pub(crate) host: &'a str,
    /// TCP port.
    pub(crate) port: u16,
    /// Name, first hop and what its protocol needs, over all routes tried.
    pub(crate) deadline: Instant,
    /// What to do when no route of the scope leads there.
    pub(crate) otherwise: Otherwise,
}

/// What to do when no route leads to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// It is an error.
    Fail,
    /// Go straight out.
    Direct,
}

impl RouteOut {
    /// Opens nothing yet.
    pub(crate) fn new(routes: Vec<RouteSettings>, families: Families, resolve: Resolve) -> Self {
        let Families {
            ipv4,
            ipv6,
            prefer_ipv6,
        } = families;
        Self {
            routes,
            direct: RouteSettings::direct(ipv4, ipv6, prefer_ipv6),
            pins: Mutex::default(),
            turn: AtomicUsize::new(0),
            resolve,
        }
    }

    /// Replaces all pins of `network.dns_overrides`.
    pub(crate) fn pin(&self, pins: &[DnsPin]) {
        let pins = pins.iter().map(|pin| (pin.host.clone(), pin.port, pin.ip));
        let table = NameTable::new([], pins, Vec::new());
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// A stream to the host. Routes are tried in an order drawn by their weights.
    ///
    /// # Errors
    /// The last route's; [`io::ErrorKind::NotFound`] if no route serves the scope.
    pub(crate) fn connect(&self, wish: &Wish<'_>) -> io::Result<Stream> {
        let mut error = None;
        let mut order = self.order(wish.scope);
        if wish.otherwise == Otherwise::Direct {
            order.push(&self.direct);
        }
        for (tried, route) in order.iter().enumerate() {
            // Those behind must get their turn.
            let left = wish.deadline.saturating_duration_since(Instant::now());
            let others = u32::try_from(order.len() - tried).unwrap_or(u32::MAX);
            let until = Instant::now() + left / others;
            match self.through(route, wish, until) {
                Ok(stream) => return Ok(stream),
                Err(failed) => {
                    let way = label(route);
                    tracing::debug!(host = wish.host, %way, error = %failed, "no way there");
                    error = Some(failed);
                }
            }
        }
        Err(error.unwrap_or_else(|| {
            let scope = wish.scope.unwrap_or_default();
            let text = format!("no enabled upstream serves connections of scope \"{scope}\"");
            io::Error::new(io::ErrorKind::NotFound, text)
        }))
    }

    /// A stream straight to the host, whatever the configuration says.
    ///
    /// # Errors
    /// As the system has them.
    pub(crate) fn straight(&self, wish: &Wish<'_>) -> io::Result<Stream> {
        self.through(&self.direct, wish, wish.deadline)
    }

    /// Routes of the scope: drawn by weight, those without any at the end.
    fn order(&self, scope: Option<&str>) -> Vec<&RouteSettings> {
        let mut left: Vec<_> = self.routes.iter().filter(|r| r.serves(scope)).collect();
        let mut order = Vec::with_capacity(left.len() + 1);
        while !left.is_empty() {
            let total: u32 = left.iter().map(|route| u32::from(route.weight)).sum();
            let mut drawn = rand::rng().random_range(0..total.max(1));
            let at = left.iter().position(|route| {
                let weight = u32::from(route.weight);
                let taken = drawn < weight;
                drawn = drawn.saturating_sub(weight);
                taken
            });
            order.push(left.remove(at.unwrap_or(0)));
        }
        order
    }

    fn through(
        &self,
        route: &RouteSettings,
        wish: &Wish<'_>,
        until: Instant,
    ) -> io::Result<Stream> {
        let host = HostPort::new(wish.host, wish.port);
        let hop = match &route.kind {
            RouteKind::Direct => &host,
            RouteKind::Socks4 { server, .. }
            | RouteKind::Socks5 { server, .. }
            | RouteKind::Shadowsocks { server, .. } => server,
        };
        // Families are those of the host; a server is reached by any.
        let any = hop != &host;
        let addresses = self.addresses(hop, until)?;
        let addresses = choose(addresses, route, any);
        let socket = socket::connect(&addresses, route, &self.turn, until)?;
        match &route.kind {
            RouteKind::Direct => Ok(Stream::plain(socket)),
            RouteKind::Socks4 { user_id, .. } => {
                // By name it is 4a, which servers rarely parse: the name is resolved here.
                let addresses = choose(self.addresses(&host, until)?, route, false);
                let target = first(&addresses)?;
                let proxy = socket::Socks::V4(wish.scope.unwrap_or(&user_id.0));
                socket::socks(socket, proxy, &Wanted::Addr(target), until)
            }
            RouteKind::Socks5 { credentials, .. } => {
                let own = credentials.as_ref();
                let own = own.map(|(user, password)| (&*user.0, &*password.0));
                let scoped = wish.scope.map(|scope| (scope, scope));
                let proxy = socket::Socks::V5(scoped.or(own));
                socket::socks(socket, proxy, &self.wanted(&host), until)
            }
            RouteKind::Shadowsocks { key, .. } => {
                Ok(Stream::sealed(socket, key.clone(), self.wanted(&host)))
            }
        }
    }

    /// What a server is told: the pinned address, or the name, so that it resolves and nobody else
    /// hears of it.
    fn wanted(&self, host: &HostPort) -> Wanted {
        match (self.pinned(host), &host.host) {
            (Some(ip), _) | (None, &Host::Addr(ip)) => Wanted::Addr(SocketAddr::new(ip, host.port)),
            (None, Host::Name(name)) => Wanted::Name(name.to_string(), host.port),
        }
    }

    /// What `network.dns_overrides` has for a server written as `host:port`.
    pub(crate) fn pinned_addr(&self, server: &str) -> Option<SocketAddr> {
        let server: HostPort = server.parse().ok()?;
        let ip = self.pinned(&server)?;
        Some(SocketAddr::new(ip, server.port))
    }

    fn pinned(&self, host: &HostPort) -> Option<IpAddr> {
        host.host.name()?;
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.addresses(host).first().copied()
    }

    /// Pinned, literal or resolved.
    fn addresses(&self, host: &HostPort, until: Instant) -> io::Result<Vec<SocketAddr>> {
        let ips = match (self.pinned(host), &host.host) {
            (Some(ip), _) | (None, &Host::Addr(ip)) => vec![ip],
            (None, Host::Name(name)) => look_up(self.resolve, name, until)?,
        };
        let at = |ip: IpAddr| SocketAddr::new(ip.to_canonical(), host.port);
        Ok(ips.into_iter().map(at).collect())
    }
}

/// The system's resolver blocks for as long as it likes: on a thread of its own.
fn look_up(resolve: Resolve, name: &str, until: Instant) -> io::Result<Vec<IpAddr>> {
    let (tell, answer) = mpsc::sync_channel(1);
    let own = name.to_owned();
    thread::Builder::new()
        .name("name-lookup".to_owned())
        .spawn(move || drop(tell.send(resolve(&own))))?;
    let left = until.saturating_duration_since(Instant::now());
    let answer = answer.recv_timeout(left);
    let late = |_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("cannot resolve {name} in time"),
        )
    };
    let found = answer.map_err(late)??;
    match found.is_empty() {
        true => Err(io::Error::other(format!("{name} has no address"))),
        false => Ok(found),
    }
}

/// Addresses of the route's families, each once, the preferred ones first.
fn choose(all: Vec<SocketAddr>, route: &RouteSettings, any: bool) -> Vec<SocketAddr> {
    let mut chosen: Vec<SocketAddr> = Vec::new();
    for addr in all {
        let on = if addr.is_ipv4() {
            route.ipv4
        } else {
            route.ipv6
        };
        if (any || on) && !chosen.contains(&addr) {
            chosen.push(addr);
        }
    }
    chosen.sort_by_key(|addr| addr.is_ipv6() != route.prefer_ipv6);
    chosen.truncate(ADDRESSES_MAX);
    chosen
}

fn first(addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
    let none = || io::Error::other("no address of a family that this route allows");
    addresses.first().copied().ok_or_else(none)
}

/// For the log.
fn label(route: &RouteSettings) -> String {
    let kind = match &route.kind {
        RouteKind::Direct => return "direct".to_owned(),
        RouteKind::Socks4 { .. } => "socks4",
        RouteKind::Socks5 { .. } => "socks5",
        RouteKind::Shadowsocks { .. } => "shadowsocks",
    };
    let server = route.server().map(ToString::to_string);
    format!("{kind} {}", server.unwrap_or_default())
}

impl std::fmt::Debug for RouteOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RouteOut({} routes)", self.routes.len())
    }
}

/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;
