//! The thread that holds a port: accepts, and watches the connections that wait for bytes.

use std::{
    io::{self, ErrorKind},
    net::TcpListener,
    os::fd::AsRawFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    connection::Service,
    pool::{Limits, Pool, step_back},
};

/// Serves a listener from threads of its own until the process ends.
///
/// # Errors
/// No descriptor or no thread for it.
pub(crate) fn start(
    name: &'static str,
    listener: TcpListener,
    limits: Limits,
    service: Arc<dyn Service>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let poll = Poll::new()?;
    let descriptor = listener.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&descriptor), LISTENER, Interest::READABLE)?;
    let pool = Pool::new(name, limits, service, poll.registry().try_clone()?);
    let poller = Poller {
        name,
        listener,
        pool,
        poll,
        accept_at: None,
        quiet_until: Instant::now(),
    };
    let thread = thread::Builder::new().name(name.to_owned());
    thread.spawn(move || poller.run()).map(|_| ())
}

struct Poller {
    name: &'static str,
    listener: TcpListener,
    pool: Arc<Pool>,
    poll: Poll,
    /// The listener may have more; do not ask it before this moment.
    accept_at: Option<Instant>,
    /// No warning before this moment.
    quiet_until: Instant,
}

impl Poller {
    /// No error ends this loop.
    fn run(mut self) {
        step_back();
        let mut events = Events::with_capacity(EVENTS_A_TURN);
        loop {
            let now = Instant::now();
            let tidy = self.pool.tidy(now);
            let accept = self.accept_at.map(|at| at.saturating_duration_since(now));
            let timeout = [tidy, accept].into_iter().flatten().min();
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != ErrorKind::Interrupted
            {
                self.warn("cannot wait for its connections", &error);
                thread::sleep(PAUSE);
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept_at = Some(Instant::now()),
                    Token(id) => self.pool.wake(id),
                }
            }
            if self.accept_at.is_some_and(|at| at <= Instant::now()) {
                self.accept();
            }
        }
    }

    /// Takes connections in, at most so many that others get their turn.
    fn accept(&mut self) {
        for _ in 0..ACCEPTS_A_TURN {
            if !self.pool.has_room() {
                self.accept_at = Some(Instant::now() + CROWDED_PAUSE);
                return;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    // Answers are written whole: waiting to fill a segment only delays them.
                    let ready = stream.set_nonblocking(true);
                    if ready.and_then(|()| stream.set_nodelay(true)).is_ok() {
                        self.pool.admit(stream, peer.ip());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.accept_at = None;
                    return;
                }
                // The peer was gone before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    self.accept_failed(&error);
                    return;
                }
            }
        }
    }

    /// Out of descriptors or memory, most likely.
    fn accept_failed(&mut self, error: &io::Error) {
        let mut waiting = [PollFd::new(&self.listener, PollFlags::IN)];
        // Without a descriptor to spare this fails when nobody is there to be accepted, too.
        if poll(&mut waiting, Some(&Timespec::default())).is_ok_and(|ready| ready == 0) {
            self.accept_at = None;
            return;
        }
        let pause = if self.pool.shed() {
            Duration::ZERO
        } else {
            PAUSE
        };
        self.warn("accept failed, trying on", error);
        self.accept_at = Some(Instant::now() + pause);
    }

    fn warn(&mut self, what: &str, error: &io::Error) {
        if Instant::now() >= self.quiet_until {
            tracing::warn!(%error, "{}: {what}", self.name);
            self.quiet_until = Instant::now() + WARNING_EVERY;
        }
    }
}

/// Ids of connections count from 0.
const LISTENER: Token = Token(usize::MAX);
const EVENTS_A_TURN: usize = 256;
const ACCEPTS_A_TURN: usize = 256;
/// Out of descriptors or memory, trying again at once would fail again.
const PAUSE: Duration = Duration::from_millis(50);
/// Until somebody has been served, or has kept a worker waiting for too long.
const CROWDED_PAUSE: Duration = Duration::from_millis(5);
const WARNING_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{IpAddr, SocketAddr, TcpStream},
    };

    use super::*;
    use crate::{
        connection::{Answer, ReadBody},
        head::Head,
        reply::Reply,
    };

    /// Panics when asked for `/panic`.
    struct Fragile;

    impl Service for Fragile {
        fn drops_at_once(&self, _: IpAddr) -> bool {
            false
        }

        fn answer(&self, _: IpAddr, head: &Head, _: &mut ReadBody<'_>) -> Answer {
            assert_ne!(head.target, "/panic", "asked for it");
            Answer::Reply(Reply::text(200, "fine"))
        }

        fn refuse(&self, _: IpAddr) -> Answer {
            Answer::Close
        }
    }

    fn ask(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        // A reset is an answer too.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn a_panic_costs_one_connection_and_no_worker() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let limits = Limits {
            connections_max: 2,
            workers_max: 1,
        };
        start("fragile", listener, limits, Arc::new(Fragile)).unwrap();
        for _ in 0..5 {
            assert_eq!(ask(addr, "/panic"), "");
            assert!(ask(addr, "/").ends_with("fine"));
        }
    }
}
