//! Removes the kernel's tracking entries of connections that have ended.
//!
//! The kernel keeps an entry for minutes after the end. Under pressure each is deleted a second
//! after it, when the last packets have come, by a netlink message of its own: the tool would be a
//! process for each.

use std::{
    collections::VecDeque,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use async_channel::Receiver;
use shards::control::ClosedClient;
use socket2::{Domain, Protocol, Socket, Type};

/// What became of one deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deleted {
    /// It is gone.
    Done,
    /// There was none.
    NotFound,
    /// The kernel refused.
    Error,
}

/// Ends that wait for their second to pass.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Taken from the channel in an earlier look.
    ripe: VecDeque<ClosedClient>,
    fresh: Vec<ClosedClient>,
}

impl Ends {
    /// How many wait here.
    pub(super) fn len(&self) -> usize {
        self.ripe.len() + self.fresh.len()
    }

    /// Takes in what was told since the last look, a second ago, and hands out what has waited
    /// since then: at most `budget`.
    pub(super) fn look(
        &mut self,
        told: &Receiver<ClosedClient>,
        budget: usize,
    ) -> impl Iterator<Item = ClosedClient> {
        self.ripe.extend(self.fresh.drain(..));
        // Those behind wait in the channel, which is bounded.
        let room = budget.saturating_sub(self.ripe.len());
        let told = std::iter::from_fn(|| told.try_recv().ok());
        self.fresh.extend(told.take(room));
        let now = self.ripe.len().min(budget);
        self.ripe.drain(..now)
    }
}

/// The kernel's door for tracking entries.
pub(super) struct Entries {
    socket: Socket,
    serial: u32,
}

impl Entries {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has none, or no descriptor is left.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::new(
            Domain::from(libc::AF_NETLINK),
            Type::RAW.cloexec(),
            Some(Protocol::from(libc::NETLINK_NETFILTER)),
        )?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { socket, serial: 0 })
    }

    /// Deletes the entry of a connection.
    pub(super) fn delete(&mut self, closed: ClosedClient) -> Deleted {
        self.serial = self.serial.wrapping_add(1);
        let Some(request) = request(closed, self.serial) else {
            return Deleted::NotFound;
        };
        match self.ask(&request) {
            Ok(0) => Deleted::Done,
            Ok(errno) if errno == -libc::ENOENT => Deleted::NotFound,
            Ok(_) | Err(_) => Deleted::Error,
        }
    }

    fn ask(&self, request: &[u8]) -> io::Result<i32> {
        self.socket.send(request)?;
        let mut answer = [0; 512];
        // Late answers to earlier questions are passed over.
        for _ in 0..ANSWERS_MAX {
            let got = (&self.socket).read(&mut answer)?;
            let answer = answer.get(..got).unwrap_or_default();
            if let Some((serial, errno)) = acknowledged(answer)
                && serial == self.serial
            {
                return Ok(errno);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

const ANSWER_LIMIT: Duration = Duration::from_millis(200);
const ANSWERS_MAX: usize = 16;

/// A request to delete the entry of which this is the answering direction: that one has our own
/// address, whatever a rule has made of the destination. `None` for two families.
fn request(closed: ClosedClient, serial: u32) -> Option<Vec<u8>> {
    let (ours, peer) = (closed.ours, closed.peer);
    let (family, ips) = match (ours.ip(), peer.ip()) {
        (IpAddr::V4(ours), IpAddr::V4(peer)) => {
            let ips = [attribute(1, &ours.octets()), attribute(2, &peer.octets())];
            (libc::AF_INET, ips.concat())
        }
        (IpAddr::V6(ours), IpAddr::V6(peer)) => {
            let ips = [attribute(3, &ours.octets()), attribute(4, &peer.octets())];
            (libc::AF_INET6, ips.concat())
        }
        _ => return None,
    };
    let port = |addr: SocketAddr| addr.port().to_be_bytes();
    let tcp = [
        attribute(1, &[u8::try_from(libc::IPPROTO_TCP).unwrap_or(6)]),
        attribute(2, &port(ours)),
        attribute(3, &port(peer)),
    ]
    .concat();
    let tuple = [
        attribute(TUPLE_IP | NESTED, &ips),
        attribute(TUPLE_PROTO | NESTED, &tcp),
    ]
    .concat();
    let tuple = attribute(TUPLE_REPLY | NESTED, &tuple);
    // Family, version 0, resource 0.
    let body = [&[u8::try_from(family).unwrap_or(0), 0, 0, 0][..], &tuple].concat();
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(0);
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&DELETE.to_ne_bytes());
    out.extend_from_slice(&REQUEST_ACK.to_ne_bytes());
    out.extend_from_slice(&serial.to_ne_bytes());
    out.extend_from_slice(&0_u32.to_ne_bytes());
    out.extend_from_slice(&body);
    Some(out)
}

/// Length, type, value, and nothing up to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(8 + value.len());
    out.extend_from_slice(&length.to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// Serial and error of an acknowledgement; `None` when it is something else.
fn acknowledged(answer: &[u8]) -> Option<(u32, i32)> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let serial = u32::from_ne_bytes(*answer.get(8..)?.first_chunk()?);
    let errno = i32::from_ne_bytes(*answer.get(HEADER_BYTES..)?.first_chunk()?);
    (kind == ERROR).then_some((serial, errno))
}

const HEADER_BYTES: usize = 16;
/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_ACK: u16 = 1 | 4;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `CTA_TUPLE_REPLY`, `CTA_TUPLE_IP`, `CTA_TUPLE_PROTO`.
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(port: u16) -> ClosedClient {
        ClosedClient {
            peer: SocketAddr::from(([192, 0, 2, 1], port)),
            ours: SocketAddr::from(([192, 0, 2, 2], 443)),
        }
    }

    #[test]
    fn ends_wait_one_look_and_no_more_than_the_budget_leave_at_once() {
        let (to, told) = async_channel::unbounded();
        let mut ends = Ends::default();
        let mut ports = |budget: usize| -> Vec<u16> {
            ends.look(&told, budget).map(|c| c.peer.port()).collect()
        };
        (1..=5).for_each(|port| to.try_send(closed(port)).unwrap());
        assert_eq!(ports(3), [0; 0]);
        (6..=7).for_each(|port| to.try_send(closed(port)).unwrap());
        assert_eq!(ports(3), [1, 2, 3]);
        assert_eq!(ports(3), [0; 0], "the room was taken when these came in");
        assert_eq!(ports(3), [4, 5, 6]);
    }

    #[test]
    fn requests_have_the_kernels_form() {
        let bytes = request(closed(0x1234), 9).unwrap();
        assert_eq!(bytes.len(), 16 + 4 + 4 + (4 + 16) + (4 + 24));
        assert_eq!(
            usize::try_from(u32::from_ne_bytes(*bytes.first_chunk().unwrap())).unwrap(),
            bytes.len()
        );
        assert_eq!(bytes[16], 2);
        let mixed = ClosedClient {
            peer: "[::1]:5".parse().unwrap(),
            ..closed(1)
        };
        assert_eq!(request(mixed, 1), None);
    }

    #[test]
    fn only_acknowledgements_are_understood() {
        let mut answer = vec![0; 20];
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        answer[8..12].copy_from_slice(&7_u32.to_ne_bytes());
        answer[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(acknowledged(&answer), Some((7, -libc::ENOENT)));
        answer[4] = 3;
        assert_eq!(acknowledged(&answer), None);
        assert_eq!(acknowledged(&answer[..18]), None);
        assert_eq!(acknowledged(&[]), None);
    }
}
