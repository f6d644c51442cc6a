//! A client that has a place, until its first byte of its own: where it comes from.
//!
//! A listener behind a load balancer gets a PROXY header first, from trusted peers only; what it
//! states replaces the peer's address for everything that follows. Whoever has no usable header is
//! closed and never masked, for it is no probe but a balancer that is set up wrong. Source:
//! protocol.md 8.1.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    client::{Session, Side, State, owner},
    doors::Door,
    shard::Shard,
};
use crate::{
    counters::FailureStage,
    engine::{Buf, SocketId},
    policy::{
        Millis,
        end::{NoHeader, SessionEnd},
        timer::Armed,
    },
    proto::proxy_protocol::{ProxyHeaderError, Stated, parse},
};

/// A client whose PROXY header is not complete.
#[derive(Debug, Default)]
pub(super) struct Proxied {
    seen: Vec<u8>,
}

impl Proxied {
    /// Whether anything came yet.
    pub(super) fn has_bytes(&self) -> bool {
        !self.seen.is_empty()
    }
}

/// What one receive of a client that is not known yet takes, where there are rates.
const OPENING_BYTES_MAX: usize = 2_048;

impl Shard {
    /// Takes in a client that has a place.
    pub(super) fn admit(&mut self, socket: SocketId, door: Door) {
        let peer = match door.unix {
            true => Some(UNIX_PEER),
            false => self.engine.peer_addr(socket),
        };
        let Some(peer) = peer else {
            // Gone before it was accepted.
            self.engine.close(socket);
            self.permits.give();
            return self.count_end(SessionEnd::ClosedEarly {
                stage: FailureStage::FirstPacketPrelude,
                any_bytes: false,
                broken: true,
            });
        };
        let (from, port) = (peer.ip().to_canonical(), peer.port());
        let key = self.sessions.insert(Session {
            client: socket,
            from,
            port,
            armed: Armed::default(),
            deadline: Millis::default(),
            hold: None,
            state: State::Handshake(Box::default()),
        });
        let key = u32::try_from(key).unwrap_or(u32::MAX);
        self.totals.core.connections_current += 1;
        let deadline = if door.proxy {
            let trusted = &self.settings.proxy.trusted;
            if !trusted.iter().any(|net| net.contains(&from)) {
                return self.no_header(key, NoHeader::Untrusted, &"");
            }
            self.set_state(key, State::Proxied(Box::default()));
            self.now.after(self.settings.proxy.header_timeout)
        } else {
            self.first_byte_deadline()
        };
        self.engine.set_owner(socket, owner(key, Side::Client));
        if self.has_rates {
            // What comes along with the handshake is here before the rate of its user is known.
            self.engine.limit_receives(socket, Some(OPENING_BYTES_MAX));
        }
        self.engine.resume(socket);
        self.set_deadline(key, deadline);
    }

    fn first_byte_deadline(&mut self) -> Millis {
        match self.first_byte_limit() {
            Duration::ZERO => self.handshake_deadline(),
            limit => self.now.after(limit),
        }
    }

    /// Bytes of a client whose PROXY header is not complete.
    pub(super) fn header_bytes(&mut self, key: u32, buf: Buf) {
        let Some(session) = self.sessions.get_mut(key as usize) else {
            return;
        };
        let State::Proxied(proxied) = &mut session.state else {
            return;
        };
        let mut seen = std::mem::take(&mut proxied.seen);
        // Most headers come in one piece: then nothing is copied.
        let whole = seen.is_empty();
        if !whole {
            seen.extend_from_slice(buf.bytes());
        }
        let bytes = if whole { buf.bytes() } else { &seen };
        match parse(bytes) {
            Ok(None) => {
                if whole {
                    seen.extend_from_slice(buf.bytes());
                }
                proxied.seen = seen;
            }
            Ok(Some((used, stated))) => {
                session.state = State::Handshake(Box::default());
                if let Stated::Addrs {
                    source,
                    destination,
                } = stated
                {
                    (session.from, session.port) = (source.ip(), source.port());
                    self.stated.insert(key, destination);
                }
                let deadline = self.first_byte_deadline();
                self.set_deadline(key, deadline);
                let rest = bytes.get(used..).unwrap_or_default();
                if !rest.is_empty() {
                    self.handshake_slice(key, rest);
                }
            }
            Err(error @ (ProxyHeaderError::Start { .. } | ProxyHeaderError::Signature)) => {
                self.no_header(key, NoHeader::Missing, &error);
            }
            Err(error) => self.no_header(key, NoHeader::Malformed, &error),
        }
    }

    /// The header's time is up.
    pub(super) fn header_late(&mut self, key: u32) {
        self.no_header(key, NoHeader::Late, &"");
    }

    /// Closes a client that has no usable header and says so, though not too often.
    fn no_header(&mut self, key: u32, why: NoHeader, error: &dyn fmt::Display) {
        if let Some(session) = self.sessions.get(key as usize) {
            let peer = SocketAddr::new(session.from, session.port);
            let trusted = why != NoHeader::Untrusted;
            let reason = match why {
                NoHeader::Untrusted => "the peer is not trusted".to_owned(),
                NoHeader::Missing => format!("no PROXY header: {error}"),
                NoHeader::Malformed => format!("malformed PROXY header: {error}"),
                NoHeader::Late => {
                    let limit = self.settings.proxy.header_timeout.as_millis();
                    format!("no complete PROXY header within {limit} ms")
                }
            };
            if self.header_notes.may(self.now) {
                tracing::warn!(%peer, trusted, "connection closed: {reason}; {KEYS}");
            } else {
                tracing::debug!(%peer, trusted, "connection closed: {reason}");
            }
        }
        self.end(key, SessionEnd::NoHeader(why));
    }

    /// Our own address as the client sees it; `None` when it is gone or came by a Unix socket.
    pub(super) fn own_addr(&self, key: u32) -> Option<SocketAddr> {
        if let Some(stated) = self.stated.get(&key) {
            return Some(*stated);
        }
        let session = self.sessions.get(key as usize)?;
        self.engine.local_addr(session.client)
    }
}

/// So many notes of one kind in a minute.
#[derive(Debug, Default)]
pub(super) struct Notes {
    since: Millis,
    count: u32,
}

impl Notes {
    fn may(&mut self, now: Millis) -> bool {
        if now.since(self.since) >= 60_000 {
            (self.since, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        self.count <= NOTES_MAX
    }
}

const NOTES_MAX: u32 = 20;

/// Who connects by a Unix socket.
const UNIX_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const KEYS: &str = "see server.proxy_protocol (or the listener's own), \
                    server.proxy_protocol_trusted_cidrs and \
                    server.proxy_protocol_header_timeout_ms";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_the_same_is_told_a_few_times_a_minute() {
        let mut notes = Notes::default();
        let told = (0..100).filter(|_| notes.may(Millis(5))).count();
        assert_eq!(told, NOTES_MAX as usize);
        assert!(!notes.may(Millis(59_999)));
        assert!(notes.may(Millis(60_001)));
    }
}
