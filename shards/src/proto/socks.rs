//! The client's side of SOCKS 4, 4a and 5, as bytes in and bytes out (protocol.md 9.2, 9.3).
//!
//! [`Handshake`] owns no socket and no buffer: it appends what must be sent and says how much of
//! what was received it used. Everything behind that belongs to the stream.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::reader::{Reader, Short, Writer};

/// How to talk to the SOCKS server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proxy<'a> {
    /// SOCKS 4, or 4a if the target is a name.
    V4 {
        /// May be empty; holds no zero byte.
        user_id: &'a str,
    },
    /// SOCKS 5.
    V5 {
        /// User name and password, 1 to 255 bytes each.
        credentials: Option<(&'a str, &'a str)>,
    },
}

impl std::fmt::Debug for Proxy<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4 { .. } => f.write_str("V4(..)"),
            Self::V5 { .. } => f.write_str("V5(..)"),
        }
    }
}

/// Where the server shall connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// An address; SOCKS 4 takes IPv4 only.
    Addr(SocketAddr),
    /// A host name of 1 to 255 bytes without a zero, and a port.
    Name(&'a str, u16),
}

/// One connect request: `Reply4`, or `Method -> [Credentials ->] Reply5`.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    proxy: Proxy<'a>,
    target: Target<'a>,
    state: State,
}

/// How far a request has come: for who cannot keep what a [`Handshake`] borrows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage(State);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reply4,
    Method,
    Credentials,
    Reply5,
}

/// What [`Handshake::receive`] made of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was used; wait for more.
    NeedMore,
    /// So many bytes were used; send what was appended, then wait for more.
    Next {
        /// Bytes used.
        consumed: usize,
    },
    /// The stream begins behind so many bytes.
    Done {
        /// Bytes used.
        consumed: usize,
        /// The server's address towards the target, if it told one that the target can see.
        bound: Option<SocketAddr>,
    },
}

impl<'a> Handshake<'a> {
    /// Appends the first bytes to send.
    ///
    /// # Errors
    /// [`SocksError::Family`], [`SocksError::Text`]: the request cannot be expressed.
    pub fn start(
        proxy: Proxy<'a>,
        target: Target<'a>,
        out: &mut Vec<u8>,
    ) -> Result<Self, SocksError> {
        check(proxy, target)?;
        let state = match proxy {
            Proxy::V4 { user_id } => {
                request4(out, user_id, target);
                State::Reply4
            }
            Proxy::V5 { credentials } => {
                out.extend_from_slice(match credentials {
                    None => &[5, 1, NO_AUTH],
                    Some(_) => &[5, 2, NO_AUTH, PASSWORD],
                });
                State::Method
            }
        };
        Ok(Self {
            proxy,
            target,
            state,
        })
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        Stage(self.state)
    }

    /// Goes on with a request that was started with the same `proxy` and `target`.
    pub fn resume(proxy: Proxy<'a>, target: Target<'a>, Stage(state): Stage) -> Self {
        Self {
            proxy,
            target,
            state,
        }
    }

    /// Judges what was received and not used yet; appends what to send next.
    ///
    /// # Errors
    /// [`SocksError`]: refused, or not the protocol. Close the connection.
    pub fn receive(&mut self, seen: &[u8], out: &mut Vec<u8>) -> Result<Progress, SocksError> {
        let mut r = Reader::new(seen);
        let step = match self.state {
            State::Reply4 => return reply4(seen),
            State::Reply5 => return reply5(seen),
            State::Method => self.method(&mut r, out),
            State::Credentials => self.credentials(&mut r, out),
        };
        match step {
            Ok(outcome) => outcome.map(|()| Progress::Next {
                consumed: seen.len() - r.remaining(),
            }),
            Err(Short { .. }) => Ok(Progress::NeedMore),
        }
    }

    fn method(&mut self, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Step {
        let (version, method) = (r.u8()?, r.u8()?);
        let Proxy::V5 { credentials } = self.proxy else {
            return Ok(Err(SocksError::Version { got: version }));
        };
        Ok(match (version, method, credentials) {
            (5, NO_AUTH, _) => {
                self.request5(out);
                Ok(())
            }
            (5, PASSWORD, Some((user, password))) => {
                let mut w = Writer::new(out);
                w.u8(1);
                text(&mut w, user);
                text(&mut w, password);
                self.state = State::Credentials;
                Ok(())
            }
            (5, 0xff, _) => Err(SocksError::NoMethod),
            (5, got, _) => Err(SocksError::Method { got }),
            (got, _, _) => Err(SocksError::Version { got }),
        })
    }

    fn credentials(&mut self, r: &mut Reader<'_>, out: &mut Vec<u8>) -> Step {
        Ok(match (r.u8()?, r.u8()?) {
            (1, 0) => {
                self.request5(out);
                Ok(())
            }
            (1, status) => Err(SocksError::Credentials { status }),
            (got, _) => Err(SocksError::Version { got }),
        })
    }

    fn request5(&mut self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.bytes(&[5, CONNECT, 0]);
        write_target(&mut w, self.target);
        self.state = State::Reply5;
    }
}

/// The outer error: too few bytes. The inner one: wrong ones.
type Step = Result<Result<(), SocksError>, Short>;

/// Why a SOCKS connection cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// SOCKS 4 reaches IPv4 only.
    #[error("SOCKS 4 cannot reach IPv6")]
    Family,
    /// User id, user name, password or host name does not fit.
    #[error("a SOCKS text of {got} bytes is empty, over 255 or holds a zero byte")]
    Text {
        /// Bytes of the text.
        got: usize,
    },
    /// The answer is of another protocol version.
    #[error("SOCKS version {got}")]
    Version {
        /// First byte of the answer.
        got: u8,
    },
    /// None of our methods is acceptable.
    #[error("no acceptable SOCKS method")]
    NoMethod,
    /// A method was picked that we did not offer.
    #[error("SOCKS method {got} was not offered")]
    Method {
        /// The method.
        got: u8,
    },
    /// User name or password refused.
    #[error("SOCKS credentials refused, status {status}")]
    Credentials {
        /// Status byte.
        status: u8,
    },
    /// SOCKS 4: 91 refused, 92 no identd, 93 identd mismatch.
    #[error("SOCKS 4 refused, code {code}")]
    Refused4 {
        /// Code byte.
        code: u8,
    },
    /// SOCKS 5: 1 general, 2 not allowed, 3 net and 4 host unreachable, 5 refused, 6 TTL,
    /// 7 command and 8 address type unsupported.
    #[error("SOCKS 5 reply {code}")]
    Refused5 {
        /// Reply byte.
        code: u8,
    },
    /// An address type that does not exist.
    #[error("SOCKS address type {got}")]
    AddressType {
        /// The type.
        got: u8,
    },
}

fn check(proxy: Proxy<'_>, target: Target<'_>) -> Result<(), SocksError> {
    let fits = |text: &str, min: usize| {
        let got = text.len();
        if (min..=TEXT_BYTES_MAX).contains(&got) && !text.contains('\0') {
            Ok(())
        } else {
            Err(SocksError::Text { got })
        }
    };
    if let Target::Name(name, _) = target {
        fits(name, 1)?;
    }
    match (proxy, target) {
        (Proxy::V4 { .. }, Target::Addr(SocketAddr::V6(_))) => Err(SocksError::Family),
        (Proxy::V4 { user_id }, _) => fits(user_id, 0),
        (Proxy::V5 { credentials: None }, _) => Ok(()),
        (
            Proxy::V5 {
                credentials: Some((user, password)),
            },
            _,
        ) => {
            fits(user, 1)?;
            fits(password, 1)
        }
    }
}

/// `atyp | addr | port`, as SOCKS 5 and Shadowsocks have it. A name has at most 255 bytes.
pub(super) fn write_target(w: &mut Writer<'_>, target: Target<'_>) {
    let port = match target {
        Target::Addr(addr) => {
            match addr.ip() {
                IpAddr::V4(ip) => w.u8(ATYP_V4).bytes(&ip.octets()),
                IpAddr::V6(ip) => w.u8(ATYP_V6).bytes(&ip.octets()),
            };
            addr.port()
        }
        Target::Name(name, port) => {
            w.u8(ATYP_NAME);
            text(w, name);
            port
        }
    };
    w.u16_be(port);
}

/// Reads what [`write_target`] writes. The inner error: no such address type, or a name that is
/// no text.
pub(super) fn read_target<'a>(r: &mut Reader<'a>) -> Result<Result<Target<'a>, SocksError>, Short> {
    let ip = match r.u8()? {
        ATYP_V4 => IpAddr::from(*r.array::<4>()?),
        ATYP_V6 => IpAddr::from(*r.array::<16>()?),
        ATYP_NAME => {
            let got = usize::from(r.u8()?);
            let name = r.take(got)?;
            let port = r.u16_be()?;
            let name = str::from_utf8(name).map_err(|_| SocksError::Text { got });
            return Ok(name.map(|name| Target::Name(name, port)));
        }
        got => return Ok(Err(SocksError::AddressType { got })),
    };
    Ok(Ok(Target::Addr(SocketAddr::new(ip, r.u16_be()?))))
}

fn text(w: &mut Writer<'_>, text: &str) {
    w.block::<1>(|w| {
        w.bytes(text.as_bytes());
    });
}

fn request4(out: &mut Vec<u8>, user_id: &str, target: Target<'_>) {
    let (ip, port, name) = match target {
        // 4a: an address that cannot exist, and the name behind the user id.
        Target::Name(name, port) => (Ipv4Addr::new(0, 0, 0, 1), port, Some(name)),
        Target::Addr(SocketAddr::V4(addr)) => (*addr.ip(), addr.port(), None),
        Target::Addr(SocketAddr::V6(addr)) => (Ipv4Addr::UNSPECIFIED, addr.port(), None),
    };
    let mut w = Writer::new(out);
    w.u8(4).u8(CONNECT).u16_be(port).bytes(&ip.octets());
    w.bytes(user_id.as_bytes()).u8(0);
    if let Some(name) = name {
        w.bytes(name.as_bytes()).u8(0);
    }
}

fn reply4(seen: &[u8]) -> Result<Progress, SocksError> {
    match seen {
        [0, GRANTED4, rest @ ..] if rest.len() >= 6 => Ok(Progress::Done {
            consumed: 8,
            bound: None,
        }),
        [] | [0] | [0, GRANTED4, ..] => Ok(Progress::NeedMore),
        &[0, code, ..] => Err(SocksError::Refused4 { code }),
        &[got, ..] => Err(SocksError::Version { got }),
    }
}

fn reply5(seen: &[u8]) -> Result<Progress, SocksError> {
    let mut r = Reader::new(seen);
    match (r.u8(), r.u8()) {
        (Ok(5), Ok(0)) => {}
        (Ok(5), Ok(code)) => return Err(SocksError::Refused5 { code }),
        (Ok(5), Err(_)) | (Err(_), _) => return Ok(Progress::NeedMore),
        (Ok(got), _) => return Err(SocksError::Version { got }),
    }
    match bound_address(&mut r) {
        Ok(bound) => Ok(Progress::Done {
            consumed: seen.len() - r.remaining(),
            bound: bound?,
        }),
        Err(Short { .. }) => Ok(Progress::NeedMore),
    }
}

/// Reads exactly the address: its length depends on its type, and what is behind is the stream.
fn bound_address(r: &mut Reader<'_>) -> Result<Result<Option<SocketAddr>, SocksError>, Short> {
    r.u8()?;
    let ip = match r.u8()? {
        ATYP_V4 => Some(IpAddr::from(*r.array::<4>()?)),
        ATYP_V6 => Some(IpAddr::from(*r.array::<16>()?)),
        ATYP_NAME => {
            let n = usize::from(r.u8()?);
            r.take(n)?;
            None
        }
        got => return Ok(Err(SocksError::AddressType { got })),
    };
    let port = r.u16_be()?;
    let ip = ip.map(|ip| ip.to_canonical());
    Ok(Ok(ip
        .filter(|&ip| port != 0 && is_public(ip))
        .map(|ip| SocketAddr::new(ip, port))))
}

/// Not unspecified, private, loopback or link-local: those tell nothing about what a DC sees.
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_private() || ip.is_loopback() || ip.is_link_local())
        }
        IpAddr::V6(ip) => !is_local_v6(ip),
    }
}

fn is_local_v6(ip: Ipv6Addr) -> bool {
    ip.is_unspecified() || ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
}

const CONNECT: u8 = 1;
const NO_AUTH: u8 = 0;
const PASSWORD: u8 = 2;
const GRANTED4: u8 = 90;
const ATYP_V4: u8 = 1;
const ATYP_NAME: u8 = 3;
const ATYP_V6: u8 = 4;
const TEXT_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests;
