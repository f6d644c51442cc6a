//! The address a SOCKS server says it connects from (BND).
//!
//! [`super::super::socks`] makes the connection; this reads its last answer once more, without
//! leaving out what direct mode has no use for, and judges it.
//!
//! Source: middle-proxy.md 9.3 and 24.2 (`bnd`).

use std::net::{IpAddr, SocketAddr};

use super::{
    super::reader::{Reader, Short},
    address::{is_bogon, same_family},
};

/// The address in a SOCKS server's reply that grants a connection, usable or not; `None` if it is
/// a name, cut off, or no such reply.
///
/// `reply` is what [`super::super::socks::Handshake::receive`] consumed last.
pub fn reported(reply: &[u8]) -> Option<SocketAddr> {
    match reply {
        [0, 90, rest @ ..] => read_v4(&mut Reader::new(rest)).ok(),
        [5, 0, _, rest @ ..] => read_v5(&mut Reader::new(rest)).ok().flatten(),
        _ => None,
    }
}

fn read_v4(r: &mut Reader<'_>) -> Result<SocketAddr, Short> {
    let port = r.u16_be()?;
    let ip = IpAddr::from(*r.array::<4>()?);
    Ok(SocketAddr::new(ip, port))
}

fn read_v5(r: &mut Reader<'_>) -> Result<Option<SocketAddr>, Short> {
    let ip = match r.u8()? {
        1 => IpAddr::from(*r.array::<4>()?),
        4 => IpAddr::from(*r.array::<16>()?).to_canonical(),
        _ => return Ok(None),
    };
    Ok(Some(SocketAddr::new(ip, r.u16_be()?)))
}

/// What a reported address is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The address for the keys: of the ME's family, no bogon, with a port.
    pub usable: Option<SocketAddr>,
    /// For the self-test.
    pub addr: AddrState,
    /// For the self-test.
    pub port: PortState,
}

/// The IP of a reported address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddrState {
    /// Usable.
    Ok,
    /// A bogon, or of another family than the ME.
    Bogon,
    /// None was reported.
    Error,
}

/// The port of a reported address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Usable.
    Ok,
    /// 0.
    Zero,
    /// None was reported.
    Error,
}

/// Judges what a SOCKS server reported on the way to `me`.
pub fn judge(reported: Option<SocketAddr>, me: SocketAddr) -> Verdict {
    let Some(reported) = reported else {
        return Verdict {
            usable: None,
            addr: AddrState::Error,
            port: PortState::Error,
        };
    };
    let ip = reported.ip().to_canonical();
    let addr = if same_family(ip, me.ip()) && !is_bogon(ip) {
        AddrState::Ok
    } else {
        AddrState::Bogon
    };
    let port = match reported.port() {
        0 => PortState::Zero,
        _ => PortState::Ok,
    };
    let usable = addr == AddrState::Ok && port == PortState::Ok;
    Verdict {
        usable: usable.then(|| SocketAddr::new(ip, reported.port())),
        addr,
        port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_replies_of_both_versions() {
        for (reply, want) in [
            (&[0, 90, 0x1f, 0x90, 7, 7, 7, 7][..], Some("7.7.7.7:8080")),
            (&[0, 90, 0, 0, 0, 0, 0, 0], Some("0.0.0.0:0")),
            (&[0, 91, 0, 80, 7, 7, 7, 7], None),
            (&[5, 0, 0, 1, 10, 0, 0, 1, 0, 80], Some("10.0.0.1:80")),
            (&[5, 0, 0, 1, 10, 0, 0, 1, 0], None),
            (&[5, 0, 0, 3, 1, b'x', 0, 80], None),
            (&[5, 1, 0, 1, 10, 0, 0, 1, 0, 80], None),
            (&[5, 0], None),
            (&[], None),
        ] {
            let want = want.map(|addr| addr.parse().unwrap());
            assert_eq!(reported(reply), want, "{reply:?}");
        }
        let mut v6 = vec![5, 0, 0, 4];
        v6.extend("2a00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        v6.extend([1, 187]);
        assert_eq!(reported(&v6), "[2a00::1]:443".parse().ok());
    }

    #[test]
    fn judges_address_and_port_apart() {
        use {AddrState as A, PortState as P};
        for (text, usable, addr, port) in [
            ("7.7.7.7:80", true, A::Ok, P::Ok),
            ("7.7.7.7:0", false, A::Ok, P::Zero),
            ("10.0.0.1:80", false, A::Bogon, P::Ok),
            ("0.0.0.0:0", false, A::Bogon, P::Zero),
            ("[2a00::1]:80", false, A::Bogon, P::Ok),
            ("[::ffff:7.7.7.7]:80", true, A::Ok, P::Ok),
            ("", false, A::Error, P::Error),
        ] {
            let verdict = judge(text.parse().ok(), "149.154.175.50:443".parse().unwrap());
            let got = (verdict.usable.is_some(), verdict.addr, verdict.port);
            assert_eq!(got, (usable, addr, port), "{text}");
        }
    }
}
