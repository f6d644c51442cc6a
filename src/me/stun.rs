//! Asks STUN servers: one server with its tries and time limits, a round over many at a time.
//!
//! Not here: when a round is due and what is believed (`nat.rs`), the messages
//! (`shards::proto::middle::stun`). Source: middle-proxy.md 9.2.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use shards::proto::middle::stun::{self, HEAD_BYTES};

use super::nat::Round;

/// How one server is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// One try over UDP, then TCP, instead of three over UDP.
    pub(crate) tcp_fallback: bool,
    /// Longest wait for one answer, and for one step of TCP.
    pub(crate) step: Duration,
    /// Before the second and the third try.
    pub(crate) pauses: [Duration; 2],
}

impl Asking {
    /// The specification's times.
    pub(crate) fn new(tcp_fallback: bool) -> Self {
        Self {
            tcp_fallback,
            step: Duration::from_secs(3),
            pauses: [Duration::from_secs(1), Duration::from_secs(2)],
        }
    }

    /// Longest time one server may take.
    fn limit(&self) -> Duration {
        match self.tcp_fallback {
            true => self.step * 4,
            false => self.step * 5 / 3,
        }
    }
}

/// Asks all `servers`, at most `concurrency` at a time. Ends when all have answered or had their
/// time; servers whose name takes longer to resolve than that are given up. Those that `pinned` has
/// an address for are not resolved.
pub(crate) fn round(
    servers: &[String],
    ipv6: bool,
    concurrency: usize,
    asking: Asking,
    pinned: impl Fn(&str) -> Option<SocketAddr>,
) -> Round {
    let pairs = servers
        .iter()
        .map(|server| (server.clone(), pinned(server)));
    let queue: Vec<_> = pairs.enumerate().rev().collect();
    let queue = Arc::new(Mutex::new(queue));
    let (tell, answers) = mpsc::channel();
    let workers = concurrency.clamp(1, servers.len().max(1));
    for _ in 0..workers {
        let (queue, tell) = (Arc::clone(&queue), tell.clone());
        let body = move || {
            let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            while let Some((at, (server, pin))) = next() {
                let answer = ask(&server, pin, ipv6, asking);
                if let Err(error) = &answer {
                    tracing::debug!(%server, %error, "no STUN answer");
                }
                // Fails when the round is over.
                if tell.send((at, server, answer.ok())).is_err() {
                    return;
                }
            }
        };
        let spawned = thread::Builder::new()
            .name("me-stun".to_owned())
            .spawn(body);
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for STUN");
        }
    }
    drop(tell);
    let turns = u32::try_from(servers.len().div_ceil(workers)).unwrap_or(u32::MAX);
    let deadline = Instant::now() + asking.limit().saturating_mul(turns) + SLACK;
    let mut got = Vec::new();
    while let Ok((at, server, answer)) =
        answers.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        if let Some(answer) = answer {
            got.push((at, server, answer));
        }
    }
    // Nobody begins with another server now.
    queue.lock().unwrap_or_else(PoisonError::into_inner).clear();
    got.sort_unstable_by_key(|(at, ..)| *at);
    let answers = got.into_iter();
    Round {
        answers: answers
            .map(|(_, server, answer)| (server, answer))
            .collect(),
    }
}

/// The address one server sees. With a `pin` its name is not resolved.
///
/// # Errors
/// The last failure: no such name, no answer in time, an answer that is not to be believed.
fn ask(
    server: &str,
    pin: Option<SocketAddr>,
    ipv6: bool,
    asking: Asking,
) -> io::Result<SocketAddr> {
    let addrs = match pin {
        Some(addr) => vec![addr],
        None => server.to_socket_addrs()?.collect(),
    };
    let Some(addr) = addrs.into_iter().find(|addr| addr.is_ipv6() == ipv6) else {
        let family = if ipv6 { "IPv6" } else { "IPv4" };
        return Err(io::Error::other(format!("has no {family} address")));
    };
    // Not before: the name may have taken its time.
    let deadline = Instant::now() + asking.limit();
    let pauses = match asking.tcp_fallback {
        true => &asking.pauses[..0],
        false => &asking.pauses[..],
    };
    let udp = over_udp(addr, asking.step, pauses, deadline);
    match udp {
        Err(_) if asking.tcp_fallback => over_tcp(addr, asking.step, deadline),
        other => other,
    }
    .and_then(|seen| match seen.is_ipv6() == ipv6 {
        true => Ok(seen),
        false => Err(io::Error::other("names an address of another family")),
    })
}

fn over_udp(
    addr: SocketAddr,
    step: Duration,
    pauses: &[Duration],
    deadline: Instant,
) -> io::Result<SocketAddr> {
    let any: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(addr)?;
    let id = rand::random();
    let pauses = std::iter::once(&Duration::ZERO).chain(pauses);
    let mut last = None;
    for pause in pauses {
        if pause.saturating_add(Duration::from_millis(1)) > left(deadline) {
            break;
        }
        thread::sleep(*pause);
        let until = deadline.min(Instant::now() + step);
        match one_datagram(&socket, &id, until) {
            Ok(seen) => return Ok(seen),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::TimedOut.into()))
}

/// Sends the request and waits for its answer; anything else that arrives is skipped.
fn one_datagram(
    socket: &UdpSocket,
    id: &stun::TransactionId,
    until: Instant,
) -> io::Result<SocketAddr> {
    socket.send(&stun::request(id))?;
    let mut datagram = [0; DATAGRAM_BYTES_MAX];
    loop {
        let left = left(until);
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let got = match socket.recv(&mut datagram) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match stun::response(datagram.get(..got).unwrap_or_default(), id) {
            Ok(seen) => return Ok(seen),
            Err(error) => tracing::trace!(%error, "STUN datagram skipped"),
        }
    }
}

fn over_tcp(addr: SocketAddr, step: Duration, deadline: Instant) -> io::Result<SocketAddr> {
    let step_left = || -> io::Result<Duration> {
        let left = left(deadline).min(step);
        match left.is_zero() {
            true => Err(io::ErrorKind::TimedOut.into()),
            false => Ok(left),
        }
    };
    let id = rand::random();
    let mut socket = TcpStream::connect_timeout(&addr, step_left()?)?;
    socket.set_write_timeout(Some(step_left()?))?;
    socket.write_all(&stun::request(&id))?;
    let mut head = [0; HEAD_BYTES];
    socket.set_read_timeout(Some(step_left()?))?;
    socket.read_exact(&mut head)?;
    let bytes = stun::message_bytes(&head).map_err(io::Error::other)?;
    let mut message = head.to_vec();
    message.resize(bytes, 0);
    socket.set_read_timeout(Some(step_left()?))?;
    socket.read_exact(message.get_mut(HEAD_BYTES..).unwrap_or_default())?;
    stun::response(&message, &id).map_err(io::Error::other)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Threads take a moment to start and to tell.
const SLACK: Duration = Duration::from_millis(500);
/// An answer is under a hundred bytes; what is longer is cut and then not believed.
const DATAGRAM_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A binding success that names `seen` by XOR-MAPPED-ADDRESS.
    fn answer(request: &[u8], seen: SocketAddr) -> Vec<u8> {
        let SocketAddr::V4(seen) = seen else {
            panic!("IPv4 only");
        };
        let mut message = vec![1, 1, 0, 12];
        message.extend(&request[4..20]);
        message.extend([0, 0x20, 0, 8, 0, 1]);
        message.extend((seen.port() ^ 0x2112).to_be_bytes());
        let ip = u32::from(*seen.ip()) ^ 0x2112_a442;
        message.extend(ip.to_be_bytes());
        message
    }

    /// Answers datagrams as `reply` says until it says nothing more.
    fn udp(mut reply: impl FnMut(usize, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> String {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let name = socket.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let mut request = [0; 100];
            for turn in 0.. {
                let (got, from) = socket.recv_from(&mut request).unwrap();
                for message in reply(turn, &request[..got]) {
                    socket.send_to(&message, from).unwrap();
                }
            }
        });
        name
    }

    fn says(seen: &str) -> String {
        let seen = seen.parse().unwrap();
        udp(move |_, request| vec![answer(request, seen)])
    }

    fn silent() -> String {
        udp(|_, _| Vec::new())
    }

    fn hasty(tcp_fallback: bool) -> Asking {
        Asking {
            tcp_fallback,
            step: Duration::from_millis(300),
            pauses: [Duration::from_millis(20); 2],
        }
    }

    #[test]
    fn answers_to_others_and_nonsense_are_skipped() {
        let seen = "9.9.9.9:99".parse().unwrap();
        let server = udp(move |_, request| {
            let mut other = request.to_vec();
            other[19] ^= 1;
            vec![
                vec![1, 2, 3],
                answer(&other, "6.6.6.6:6".parse().unwrap()),
                answer(request, seen),
            ]
        });
        assert_eq!(ask(&server, None, false, hasty(false)).unwrap(), seen);
    }

    #[test]
    fn second_try_helps_when_a_datagram_was_lost() {
        let seen = "9.9.9.9:99".parse().unwrap();
        let server = udp(move |turn, request| match turn {
            0 => Vec::new(),
            _ => vec![answer(request, seen)],
        });
        let mut asking = hasty(false);
        asking.step = Duration::from_millis(600);
        assert_eq!(ask(&server, None, false, asking).unwrap(), seen);
    }

    #[test]
    fn tcp_helps_where_udp_is_not_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let seen: SocketAddr = "9.9.9.9:99".parse().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 20];
            socket.read_exact(&mut request).unwrap();
            // In two pieces.
            let message = answer(&request, seen);
            socket.write_all(&message[..7]).unwrap();
            thread::sleep(Duration::from_millis(20));
            socket.write_all(&message[7..]).unwrap();
        });
        // Nobody has the UDP port: the system may say so at once.
        assert_eq!(ask(&server, None, false, hasty(true)).unwrap(), seen);
    }

    #[test]
    fn servers_without_name_address_or_answer_are_errors() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = closed.local_addr().unwrap();
        drop(closed);
        for (server, tcp) in [
            ("no port", true),
            (&addr.to_string(), true),
            (&silent(), false),
        ] {
            assert!(ask(server, None, false, hasty(tcp)).is_err(), "{server}");
        }
        let error = ask(&says("9.9.9.9:1"), None, true, hasty(false)).unwrap_err();
        assert!(error.to_string().contains("no IPv6 address"), "{error}");
    }

    #[test]
    fn round_keeps_the_order_and_leaves_out_who_is_silent() {
        let servers = [
            says("9.9.9.9:1"),
            silent(),
            says("8.8.8.8:2"),
            says("9.9.9.9:3"),
        ];
        for concurrency in [1, 8] {
            let round = round(&servers, false, concurrency, hasty(false), |_| None);
            let names: Vec<&String> = round.answers.iter().map(|(name, _)| name).collect();
            assert_eq!(names, [&servers[0], &servers[2], &servers[3]]);
        }
        let nobody = round(&[], false, 8, hasty(false), |_| None);
        assert!(nobody.answers.is_empty());
    }

    #[test]
    fn pinned_servers_are_asked_at_their_pin() {
        let server = says("9.9.9.9:1");
        // Nobody resolves these names.
        let servers = ["a.invalid:3478".to_owned(), "b.invalid:3478".to_owned()];
        let pinned = |name: &str| (name == servers[1]).then(|| server.parse().unwrap());
        let round = round(&servers, false, 8, hasty(false), pinned);
        let names: Vec<&String> = round.answers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [&servers[1]]);
    }
}
