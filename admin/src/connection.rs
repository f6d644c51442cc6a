//! One control connection: heads and bodies in, answers out, all of it within a deadline.
//!
//! A worker serves a connection as long as there is something to do without waiting for a head:
//! then the connection is parked, with what has arrived of the head. What requests mean is decided
//! by a [`Service`].

use std::{
    io::{self, BufRead, ErrorKind},
    net::{IpAddr, Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    body,
    head::{Framing, Head, HeadError, Partial},
    input::{Input, write_all},
    pool::Turn,
    reply::{ApiError, Reply},
    send,
};

/// Answers requests; shared by all workers of a port.
pub(crate) trait Service: Send + Sync + 'static {
    /// Whether a peer is to be closed before it says anything.
    fn drops_at_once(&self, peer: IpAddr) -> bool;

    /// Answers a well-formed request.
    fn answer(&self, peer: IpAddr, head: &Head, read_body: &mut ReadBody<'_>) -> Answer;

    /// Answers a request that cannot be understood.
    fn refuse(&self, peer: IpAddr) -> Answer;
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send this.
    Reply(Reply),
    /// Close without a word.
    Close,
}

/// Reads the request body of at most this many bytes; called at most once, and only by routes that
/// define a body.
pub(crate) type ReadBody<'a> = dyn FnMut(usize) -> Result<Vec<u8>, ApiError> + 'a;

/// An open connection between two turns.
pub(crate) struct Connection {
    pub(crate) stream: Arc<TcpStream>,
    peer: IpAddr,
    /// When its time is up. Source: control-api.md 14.
    pub(crate) deadline: Instant,
    state: State,
}

/// ```text
/// Asking -> Asking -> ... -> Leaving
/// ```
enum State {
    /// A request may come.
    Asking {
        /// What has arrived of its head.
        head: Partial,
        /// Bytes behind the last request, when there are any.
        rest: Vec<u8>,
    },
    /// The last answer is out; what the peer still sends is thrown away. Closing a socket with
    /// unread bytes resets it, and a reset can overtake the answer.
    Leaving {
        /// So much of it.
        bytes_left: usize,
    },
}

/// What a connection wants after its turn.
pub(crate) enum Then {
    /// To wait for bytes.
    Park(Connection),
    /// Another turn, after others.
    Again(Connection),
    /// Nothing more.
    Close,
}

impl Connection {
    /// Not blocking, and with all its time before it.
    pub(crate) fn new(stream: TcpStream, peer: IpAddr) -> Self {
        Self {
            stream: Arc::new(stream),
            peer,
            deadline: Instant::now() + LIFETIME,
            state: State::Asking {
                head: Partial::default(),
                rest: Vec::new(),
            },
        }
    }

    /// Serves what has arrived. `buffer` is the worker's.
    pub(crate) fn serve(
        mut self,
        service: &dyn Service,
        turn: &Turn<'_>,
        buffer: &mut [u8],
    ) -> Then {
        match self.state {
            State::Asking { head, rest } => {
                let mut input = Input::new(turn, self.deadline, buffer, &rest);
                self.state = State::Leaving { bytes_left: 0 };
                self.serve_requests(service, head, &mut input)
            }
            State::Leaving { bytes_left } => {
                let mut input = Input::new(turn, self.deadline, buffer, &[]);
                self.discard(&mut input, bytes_left)
            }
        }
    }

    fn serve_requests(
        mut self,
        service: &dyn Service,
        mut head: Partial,
        input: &mut Input<'_>,
    ) -> Then {
        let began = Instant::now();
        let mut served = 0;
        while served < REQUESTS_A_TURN && began.elapsed() < TURN_TIME {
            // Behind an answer nothing is read that has not been: parking tells what is there.
            let request = match next_head(&mut head, input, served == 0) {
                Ok(Some(request)) => request,
                Ok(None) => {
                    let rest = Vec::new();
                    self.state = State::Asking { head, rest };
                    return Then::Park(self);
                }
                Err(_) => return Then::Close,
            };
            served += 1;
            match self.serve_one(service, &request, input) {
                Next::Request => {}
                Next::Discard => return self.discard(input, LINGER_BYTES_MAX),
                Next::Close => return Then::Close,
            }
        }
        let rest = input.buffered().to_vec();
        let next = if rest.is_empty() {
            Then::Park
        } else {
            Then::Again
        };
        self.state = State::Asking { head, rest };
        next(self)
    }

    fn serve_one(
        &self,
        service: &dyn Service,
        request: &Result<Head, HeadError>,
        input: &mut Input<'_>,
    ) -> Next {
        let turn = input.turn();
        let head_only = request.as_ref().is_ok_and(|head| head.method == "HEAD");
        let (answer, keep_alive, all_read) = match request {
            Ok(head) => {
                let (answer, all_read) = self.answer(service, head, input);
                (answer, head.keep_alive, all_read)
            }
            Err(_) => (service.refuse(self.peer), false, false),
        };
        let Answer::Reply(reply) = answer else {
            return Next::Close;
        };
        let reuse = all_read && keep_alive && Instant::now() < self.deadline;
        let bytes = send::bytes(&reply, send::Sending { head_only, reuse });
        let sent = bytes.and_then(|bytes| write_all(turn, &bytes));
        match (sent, reuse) {
            (Err(_), _) => Next::Close,
            (Ok(()), true) => Next::Request,
            // Nothing of the peer is on its way, so nothing can reset the connection.
            (Ok(()), false) if all_read && input.buffered().is_empty() => Next::Close,
            (Ok(()), false) => Next::Discard,
        }
    }

    /// The answer, and whether the whole request was read.
    fn answer(&self, service: &dyn Service, head: &Head, input: &mut Input<'_>) -> (Answer, bool) {
        let mut all_read = head.framing == Framing::Empty;
        let mut read_body = |limit_bytes: usize| {
            if head.expects_continue && !announces_more_than(head.framing, limit_bytes) {
                write_all(input.turn(), CONTINUE).map_err(|_| ApiError::BadBody)?;
            }
            let body = body::read(input, head.framing, limit_bytes);
            all_read = body.is_ok();
            body
        };
        let answer = service.answer(self.peer, head, &mut read_body);
        (answer, all_read)
    }

    /// Tells the peer that nothing more will come, and takes in what it still sends.
    fn discard(mut self, input: &mut Input<'_>, mut bytes_left: usize) -> Then {
        // Doing it again does no harm.
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return Then::Close;
        }
        loop {
            match input.read_now() {
                Ok(0) => return Then::Close,
                Ok(read) if read > bytes_left => return Then::Close,
                Ok(read) => bytes_left -= read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.state = State::Leaving { bytes_left };
                    return Then::Park(self);
                }
                Err(_) => return Then::Close,
            }
        }
    }
}

/// What follows an answer.
enum Next {
    Request,
    Discard,
    Close,
}

/// The next head, or `None` when it has not arrived as a whole.
fn next_head(
    partial: &mut Partial,
    input: &mut Input<'_>,
    mut may_read: bool,
) -> io::Result<Option<Result<Head, HeadError>>> {
    loop {
        let (used, head) = partial.take(input.buffered());
        input.consume(used);
        if head.is_some() {
            return Ok(head);
        }
        if !may_read {
            return Ok(None);
        }
        match input.read_now() {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => may_read = input.filled(read),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// A body announced as too large is refused before the peer is told to go on.
fn announces_more_than(framing: Framing, limit_bytes: usize) -> bool {
    match framing {
        Framing::Length(bytes) => usize::try_from(bytes).map_or(true, |bytes| bytes > limit_bytes),
        Framing::Empty | Framing::Chunked => false,
    }
}

/// A connection sends requests for this long. Source: control-api.md 14.
const LIFETIME: Duration = Duration::from_secs(15);
/// After so many pipelined requests, or after this time, it is others' turn.
const REQUESTS_A_TURN: usize = 16;
const TURN_TIME: Duration = Duration::from_millis(2);
const LINGER_BYTES_MAX: usize = 4 << 20;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
