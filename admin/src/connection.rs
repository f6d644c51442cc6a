//! One control connection: heads and bodies in, answers out, all of it within a deadline.
//!
//! The socket's time-out is set before every read and write to what is left of the deadline, so a
//! peer that sends or takes one byte at a time gains nothing. What requests mean is decided in
//! `handlers`.

use std::{
    io::{self, BufReader, Cursor, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use tiny_http::{HTTPVersion, Header, Response, StatusCode};

use crate::{
    body,
    handlers::{Answer, ApiState},
    head::{self, Framing, Head},
    reply::{ApiError, Reply},
    server::Connection,
};

/// Serves one connection until the peer closes, breaks the protocol, or its time is up.
pub(crate) fn serve(api: &ApiState, connection: &Connection) {
    let deadline = Instant::now() + LIFETIME;
    if first_byte(connection.stream(), deadline).is_err() {
        return;
    }
    let mut reader = BufReader::new(Timed {
        stream: connection.stream(),
        deadline,
    });
    while let Ok(Some(head)) = head::read(&mut reader) {
        connection.set_waiting(false);
        let head_only = head.as_ref().is_ok_and(|head| head.method == "HEAD");
        let (answer, reuse) = match &head {
            Ok(head) => answer(api, connection, head, &mut reader),
            Err(_) => (api.refuse(connection.peer(), ApiError::BadHttp), false),
        };
        let Answer::Reply(reply) = answer else { return };
        let reuse = reuse && Instant::now() < deadline;
        // From here on it is the peer that takes its time: a newcomer may have its place.
        connection.set_waiting(true);
        let sent = send(connection.stream(), &reply, Sending { head_only, reuse });
        if sent.is_err() {
            return;
        }
        if !reuse {
            linger(connection.stream());
            return;
        }
    }
}

/// Waits without touching the heap: the allocator gives every thread that allocates pages of its
/// own. 500 idle connections cost 45 MB of resident memory this way and 111 MB otherwise.
fn first_byte(stream: &TcpStream, deadline: Instant) -> io::Result<()> {
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.peek(&mut [0]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The answer, and whether another request may follow it on this connection.
fn answer(
    api: &ApiState,
    connection: &Connection,
    head: &Head,
    reader: &mut BufReader<Timed<'_>>,
) -> (Answer, bool) {
    let mut all_read = head.framing == Framing::Empty;
    let mut read_body = |limit_bytes: usize| {
        if head.expects_continue && !announces_more_than(head.framing, limit_bytes) {
            write_all(connection.stream(), CONTINUE).map_err(|_| ApiError::BadBody)?;
        }
        connection.set_waiting(true);
        let body = body::read(reader, head.framing, limit_bytes);
        connection.set_waiting(false);
        all_read = body.is_ok();
        body
    };
    let answer = api.answer(connection.peer(), head, &mut read_body);
    (answer, all_read && head.keep_alive)
}

/// A body announced as too large is refused before the peer is told to go on.
fn announces_more_than(framing: Framing, limit_bytes: usize) -> bool {
    match framing {
        Framing::Length(bytes) => usize::try_from(bytes).map_or(true, |bytes| bytes > limit_bytes),
        Framing::Empty | Framing::Chunked => false,
    }
}

#[derive(Clone, Copy)]
struct Sending {
    /// Headers only: the request was `HEAD`.
    head_only: bool,
    /// The connection stays open.
    reuse: bool,
}

fn send(stream: &TcpStream, reply: &Reply, sending: Sending) -> io::Result<()> {
    let headers = [
        ("Server", "pinnace"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Cache-Control", "no-store"),
    ];
    let headers = headers
        .into_iter()
        .chain(reply.allow.map(|allow| ("Allow", allow)));
    let headers = headers
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .collect();
    let body = reply.body.as_slice();
    let response = Response::new(
        StatusCode(reply.status),
        headers,
        Cursor::new(body),
        Some(body.len()),
        None,
    );
    let mut bytes = Vec::with_capacity(512 + body.len());
    response.with_chunked_threshold(usize::MAX).raw_print(
        &mut bytes,
        HTTPVersion(1, 1),
        &[],
        sending.head_only,
        None,
    )?;
    if !sending.reuse {
        // tiny_http refuses to set this header itself.
        let status_line = bytes
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        bytes.splice(status_line..status_line, *b"Connection: close\r\n");
    }
    write_all(stream, &bytes)
}

/// Writes everything within [`SEND_TIME`], however slowly the peer takes it.
fn write_all(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + SEND_TIME;
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes in what the peer is still sending, for a while: closing a socket with unread bytes resets
/// it, and a reset can overtake the answer.
fn linger(stream: &TcpStream) {
    if stream.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let mut rest = Timed {
        stream,
        deadline: Instant::now() + LINGER_TIME,
    }
    .take(LINGER_BYTES_MAX);
    // Only that it ends matters, not how.
    let _ = io::copy(&mut rest, &mut io::sink());
}

/// A socket whose reads end at a deadline.
struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer)
    }
}

/// Time until the deadline.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A time-out of zero would mean none.
    if left.is_zero() {
        Err(io::ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}

/// A connection sends requests for this long. Source: control-api.md 14.
const LIFETIME: Duration = Duration::from_secs(15);
/// A peer may take this long to receive one answer.
const SEND_TIME: Duration = Duration::from_secs(15);
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: u64 = 4 << 20;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
