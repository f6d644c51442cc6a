//! From a dial to a writer: connect, addresses, keys, handshake, each within its limit.
//!
//! Source: middle-proxy.md 8.4, 8.5 and 9.1.

use std::{net::SocketAddr, time::Duration};

use rand::RngExt;

use super::link::{Dialing, Link, Writer};
use crate::{
    engine::{Buf, OutgoingOptions, SocketId},
    net::{
        client::{Side, owner},
        connector::{Advance, Connector, Failure},
        shard::Shard,
    },
    policy::{
        Millis,
        me::{
            plan::Plan,
            pool::{Derived, DialFailure, DialId, DialLimits, Opened},
            report::KeyFacts,
        },
        timer::Armed,
    },
    proto::{
        dc::DcId,
        middle::{
            address::{Known, ProxyAddress, Via},
            handshake::HandshakeError,
            opening::{MeChannel, MeOpening, OpeningError, OpeningInput, OpeningStage},
        },
    },
};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const SOCKET: OutgoingOptions<'static> = OutgoingOptions {
    bind: None,
    device: None,
    keepalive: Duration::from_secs(30),
    keepalive_interval: Duration::from_secs(10),
    user_timeout: Duration::from_secs(30),
};

impl Shard {
    /// Starts a dial to a middle proxy of this DC.
    pub(super) fn me_dial(
        &mut self,
        dial: DialId,
        dc: DcId,
        endpoint: SocketAddr,
        limits: DialLimits,
    ) {
        let now = self.now;
        let Some(me) = &mut self.me else { return };
        let plan = me.pool.plan();
        if plan.secret.is_none() {
            return self.me_dial_ended(dial, DialFailure::Other("no proxy secret yet"));
        }
        if me.closing_until.is_some() {
            return self.me_dial_ended(dial, DialFailure::Other("going down"));
        }
        let limit = match limits {
            DialLimits::Fast => plan.settings.dial.fast_timeout,
            DialLimits::Slow => CONNECT_LIMIT,
        };
        let deadline = now.after(limit);
        let key = u32::try_from(me.links.vacant_key()).unwrap_or(u32::MAX);
        let draw = self.rng.random_range(0.0..1.0);
        let ipv6 = endpoint.ip().to_canonical().is_ipv6();
        self.upstream.follow(&self.board, now);
        let settings = &self.settings.upstream;
        let Some(route) = self.upstream.pick_middle(settings, dc, ipv6, draw) else {
            let why = "no upstream leads to an ME of this family";
            return self.me_dial_ended(dial, DialFailure::Other(why));
        };
        let owner = owner(key, Side::Me);
        let connector = match self.connect_through(route, endpoint, owner, Some(SOCKET)) {
            Ok(connector) => connector,
            Err(failure) => {
                self.connect_failed(route);
                return self.me_dial_ended(dial, DialFailure::Other(failure.words()));
            }
        };
        let Some(me) = &mut self.me else { return };
        me.links.insert(Link::Dial(Box::new(Dialing {
            dial,
            endpoint,
            limits,
            route,
            connector,
            via: None,
            opening: None,
            ours: endpoint.ip(),
            secret_epoch: 0,
            deadline,
            armed: Armed::default(),
        })));
        me.arm_link(key);
    }

    /// The first hop is connected: the ME, or a SOCKS server that is asked for it.
    pub(in crate::net) fn me_connected(&mut self, key: u32, socket: SocketId) {
        let Some(dialing) = self.me_dialing(key) else {
            return self.engine.close(socket);
        };
        let mut connector = std::mem::replace(&mut dialing.connector, Connector::NONE);
        let routes = &self.settings.upstream.routes;
        let advance = connector.connected(&mut self.engine, routes);
        self.me_put_connector(key, connector);
        self.me_advanced(key, advance);
    }

    /// Bytes of a SOCKS server. How many of them are the ME's already, if its stream begins.
    fn me_socks_bytes(&mut self, key: u32, bytes: &[u8]) -> usize {
        let Some(dialing) = self.me_dialing(key) else {
            return 0;
        };
        let mut connector = std::mem::replace(&mut dialing.connector, Connector::NONE);
        let routes = &self.settings.upstream.routes;
        let advance = connector.received(&mut self.engine, routes, bytes);
        self.me_put_connector(key, connector);
        let mut rest = 0;
        if let (Ok(Advance::Ready(ready)), Some(dialing)) = (&advance, self.me_dialing(key)) {
            dialing.via = Some(ready.reported);
            rest = ready.rest;
        }
        self.me_advanced(key, advance);
        rest
    }

    fn me_put_connector(&mut self, key: u32, connector: Connector) {
        if let Some(dialing) = self.me_dialing(key) {
            dialing.connector = connector;
        }
    }

    fn me_advanced(&mut self, key: u32, advance: Result<Advance, Failure>) {
        match advance {
            Ok(Advance::Wait) => {}
            Ok(Advance::Ready(_)) => self.me_reached(key),
            Err(failure) => self.me_not_reached(key, failure),
        }
    }

    /// The stream to the ME begins: says who we are.
    fn me_reached(&mut self, key: u32) {
        let (now, unix) = (self.now, self.now_unix);
        let Some(me) = &mut self.me else { return };
        let plan = std::sync::Arc::clone(me.pool.plan());
        let Some(Link::Dial(dialing)) = me.links.get_mut(key as usize) else {
            return;
        };
        let socket = dialing.connector.socket();
        let local = self.engine.local_addr(socket);
        let (Some(local), Some(secret)) = (local, &plan.secret) else {
            return self.me_dial_failed(key, DialFailure::Other("connection lost at once"));
        };
        let known = known(dialing, local, &plan);
        let proxy = known.proxy_address();
        if let Via::Socks { reported, .. } = known.via {
            me.pool.socks_connected(known.me, reported, proxy.is_err());
        }
        let Ok(proxy) = proxy else {
            return self.me_dial_failed(key, DialFailure::NoBound);
        };
        dialing.ours = proxy.addr.ip();
        dialing.secret_epoch = secret.epoch;
        let input = OpeningInput {
            secret: secret.secret.clone(),
            me: known.me,
            proxy: proxy.addr,
            nonce: self.rng.random(),
            unix_secs: u32::try_from(unix).unwrap_or(u32::MAX),
            pid: me.setup.pid,
            start_unix_secs: me.setup.start_unix_secs,
        };
        let mut out = Vec::new();
        let Ok(opening) = MeOpening::start(input, &mut out) else {
            let why = "our address for the keys is of another family than the ME's";
            return self.me_dial_failed(key, DialFailure::Other(why));
        };
        dialing.opening = Some(opening);
        dialing.extend(now);
        me.derived.retain(|(link, _)| *link != key);
        me.derived.push((key, derived(&known, &proxy)));
        me.arm_link(key);
        self.engine.send_bytes(socket, out.into_boxed_slice());
        self.engine.resume(socket);
    }

    /// Bytes of an ME that shakes hands.
    pub(super) fn me_opening_bytes(&mut self, key: u32, mut buf: Buf) {
        let now = self.now;
        if self.me_dialing(key).is_some_and(|d| d.opening.is_none()) {
            let rest = self.me_socks_bytes(key, buf.bytes());
            if rest == 0 {
                return;
            }
            buf.skip(buf.len().saturating_sub(rest));
        }
        let Some(me) = &mut self.me else { return };
        let Some(Link::Dial(dialing)) = me.links.get_mut(key as usize) else {
            return;
        };
        let Some(opening) = &mut dialing.opening else {
            return;
        };
        let before = opening.stage();
        let mut out = Vec::new();
        let step = match opening.receive(buf.bytes(), &mut out) {
            Ok(step) => step,
            Err(error) => return self.me_dial_failed(key, failure(error)),
        };
        let keys_derived = before == OpeningStage::Nonce && opening.stage() != before;
        let socket = dialing.connector.socket();
        if keys_derived {
            dialing.extend(now);
            if let Some(at) = me.derived.iter().position(|(link, _)| *link == key) {
                let (_, derived) = me.derived.swap_remove(at);
                me.pool.keys_derived(derived);
            }
            me.arm_link(key);
        }
        if !out.is_empty() {
            self.engine.send_bytes(socket, out.into_boxed_slice());
        }
        if let Some(channel) = step.ready {
            self.me_opened(key, *channel);
            let rest = buf.bytes_mut().get_mut(step.consumed..).unwrap_or_default();
            if !rest.is_empty() {
                self.me_cipher_text(key, rest);
            }
        }
    }

    fn me_opened(&mut self, key: u32, channel: MeChannel) {
        let now = self.now;
        let Some(me) = &mut self.me else { return };
        let Some(Link::Dial(dialing)) = me.links.get(key as usize) else {
            return;
        };
        let opened = Opened {
            secret_epoch: dialing.secret_epoch,
        };
        let (dial, socket, ours) = (dialing.dial, dialing.connector.socket(), dialing.ours);
        let Some(writer_key) = me.pool.dial_ended(dial, Ok(opened), now) else {
            me.links.remove(key as usize);
            return self.engine.close(socket);
        };
        let blocks = self.engine.blocks();
        let writer = Writer::new(writer_key, socket, ours, channel, blocks);
        if let Some(link) = me.links.get_mut(key as usize) {
            *link = Link::Open(Box::new(writer));
        }
        me.set_link(writer_key, key);
    }

    /// The dial under this key failed: closes what there is of it.
    pub(super) fn me_dial_failed(&mut self, key: u32, failure: DialFailure) {
        let Some(me) = &mut self.me else { return };
        let Some(Link::Dial(dialing)) = me.links.get(key as usize) else {
            return;
        };
        let (dial, socket) = (dialing.dial, dialing.connector.socket());
        tracing::debug!(endpoint = %dialing.endpoint, ?failure, "no connection to this ME");
        me.links.remove(key as usize);
        me.derived.retain(|(link, _)| *link != key);
        self.engine.close(socket);
        self.me_dial_ended(dial, failure);
    }

    fn me_dial_ended(&mut self, dial: DialId, failure: DialFailure) {
        if let Some(me) = &mut self.me {
            let none = me.pool.dial_ended(dial, Err(failure), self.now);
            debug_assert!(none.is_none(), "a failed dial is no writer");
        }
    }

    /// The connect failed; the socket is gone.
    pub(in crate::net) fn me_refused(&mut self, key: u32, errno: i32) {
        if let Some(dialing) = self.me_dialing(key) {
            let failure = dialing.connector.refused(errno);
            self.me_not_reached(key, failure);
        }
    }

    /// No stream to the ME came about.
    fn me_not_reached(&mut self, key: u32, failure: Failure) {
        if let Some(dialing) = self.me_dialing(key) {
            let route = dialing.route;
            self.connect_failed(route);
        }
        self.me_dial_failed(key, DialFailure::Other(failure.words()));
    }

    /// A dial took too long.
    pub(super) fn me_dial_expired(&mut self, key: u32) {
        let why = match self.me_stage(key) {
            None => return self.me_refused(key, 0),
            Some(OpeningStage::Nonce) => "no NONCE within the limit",
            Some(OpeningStage::Handshake | OpeningStage::Done) => "no HANDSHAKE within the limit",
        };
        self.me_dial_failed(key, DialFailure::Other(why));
    }

    /// The ME closed, or broke off, a connection that was not open yet.
    pub(super) fn me_closed_early(&mut self, key: u32) {
        let why = match self.me_stage(key) {
            None => return self.me_not_reached(key, Failure::HungUp),
            Some(OpeningStage::Nonce) => "secret, clock or source address rejected",
            Some(OpeningStage::Handshake | OpeningStage::Done) => {
                "keys disagree: check public address and NAT"
            }
        };
        self.me_dial_failed(key, DialFailure::Other(why));
    }

    fn me_dialing(&mut self, key: u32) -> Option<&mut Dialing> {
        match self.me.as_mut()?.links.get_mut(key as usize)? {
            Link::Dial(dialing) => Some(dialing),
            Link::Open(_) => None,
        }
    }

    fn me_stage(&self, key: u32) -> Option<OpeningStage> {
        match self.me.as_ref()?.links.get(key as usize)? {
            Link::Dial(dialing) => dialing.opening.as_ref().map(MeOpening::stage),
            Link::Open(_) => None,
        }
    }

    /// Nobody wants this dial any more.
    pub(super) fn me_cancel_dial(&mut self, dial: DialId) {
        let Some(me) = &mut self.me else { return };
        let found = me.links.iter().find_map(|(key, link)| match link {
            Link::Dial(dialing) if dialing.dial == dial => Some((key, dialing.connector.socket())),
            Link::Dial(_) | Link::Open(_) => None,
        });
        if let Some((key, socket)) = found {
            me.links.remove(key);
            me.derived.retain(|(link, _)| *link as usize != key);
            self.engine.close(socket);
        }
    }
}

impl Dialing {
    /// The next answer has its own time, unless the whole dial has one.
    fn extend(&mut self, now: Millis) {
        if self.limits == DialLimits::Slow {
            self.deadline = now.after(ANSWER_LIMIT);
        }
    }
}

/// What there is to choose our address for the keys from.
fn known(dialing: &Dialing, local: SocketAddr, plan: &Plan) -> Known {
    let me = dialing.endpoint;
    let policy = plan.settings.families.bound_policy;
    Known {
        me,
        local,
        via: match dialing.via {
            None => Via::Direct,
            Some(reported) => Via::Socks { reported, policy },
        },
        nat_ip: plan.addresses.nat_ip,
        reflected: if me.ip().to_canonical().is_ipv4() {
            plan.addresses.reflected_v4
        } else {
            plan.addresses.reflected_v6
        },
    }
}

fn derived(known: &Known, proxy: &ProxyAddress) -> Derived {
    Derived {
        facts: KeyFacts {
            me: known.me,
            proxy_ip: proxy.addr.ip(),
            proxy_port: proxy.addr.port(),
            source: proxy.source,
            reflected: known.reflected,
            bound: match known.via {
                Via::Direct => None,
                Via::Socks { reported, .. } => reported,
            },
        },
        fell_back: proxy.fell_back,
    }
}

fn failure(error: OpeningError) -> DialFailure {
    match error {
        OpeningError::Handshake(HandshakeError::Refused { code }) => {
            DialFailure::Rejected(Some(code))
        }
        OpeningError::Nonce(_) => DialFailure::Other("NONCE not accepted"),
        OpeningError::Handshake(_) => DialFailure::Other("HANDSHAKE not accepted"),
        OpeningError::Frame(_) => DialFailure::Other("damaged answer, or keys disagree"),
        OpeningError::Families(_) => DialFailure::Other("addresses of two families"),
        OpeningError::Over => DialFailure::Other("bytes behind the end"),
    }
}
