//! [`Input`]: bytes of a peer as they arrive, each wait within a deadline and seen by the pool.
//!
//! Sockets never block; whoever has to wait polls the one descriptor for what is left of its time,
//! so that a peer that sends or takes one byte at a time gains nothing.

use std::{
    io::{self, BufRead, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pool::Turn;

/// What one peer sends, buffered in a worker's own memory.
pub(crate) struct Input<'a> {
    turn: &'a Turn<'a>,
    deadline: Instant,
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
}

impl<'a> Input<'a> {
    /// Continues with bytes that were read before; they fit, having come out of such a buffer.
    pub(crate) fn new(
        turn: &'a Turn<'a>,
        deadline: Instant,
        buffer: &'a mut [u8],
        rest: &[u8],
    ) -> Self {
        let end = rest.len().min(buffer.len());
        for (into, from) in buffer.iter_mut().zip(rest) {
            *into = *from;
        }
        Self {
            turn,
            deadline,
            buffer,
            start: 0,
            end,
        }
    }

    /// Whose bytes they are.
    pub(crate) fn turn(&self) -> &'a Turn<'a> {
        self.turn
    }

    /// Whether a read of so many bytes filled the buffer: then more may be there.
    pub(crate) fn filled(&self, read: usize) -> bool {
        read == self.buffer.len()
    }

    /// Bytes that were read and not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Reads once without waiting; 0 at the end of the stream. Nothing may be buffered.
    ///
    /// # Errors
    /// `WouldBlock` when nothing has arrived, and the socket's.
    pub(crate) fn read_now(&mut self) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        loop {
            let mut stream = self.turn.stream();
            match stream.read(self.buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => {
                    self.end = read;
                    return Ok(read);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(into)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.end {
            match self.read_now() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.turn, PollFlags::IN, self.deadline)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, amount: usize) {
        self.start = self.start.saturating_add(amount).min(self.end);
    }
}

/// Writes everything within [`SEND_TIME`], however slowly the peer takes it.
///
/// # Errors
/// The socket's, and `TimedOut`.
pub(crate) fn write_all(turn: &Turn<'_>, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + SEND_TIME;
    while !bytes.is_empty() {
        let mut stream: &TcpStream = turn.stream();
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(sent) => bytes = bytes.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(turn, PollFlags::OUT, deadline)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the socket is ready. Meanwhile another connection may displace this one.
fn wait(turn: &Turn<'_>, flags: PollFlags, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    let left = Timespec::try_from(left).map_err(io::Error::other)?;
    turn.set_waiting(true);
    let mut descriptors = [PollFd::from_borrowed_fd(turn.stream().as_fd(), flags)];
    let polled = poll(&mut descriptors, Some(&left));
    turn.set_waiting(false);
    match polled {
        Ok(_) => Ok(()),
        // The caller tries again and looks at the clock first.
        Err(error) if error == rustix::io::Errno::INTR => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A peer may take this long to receive one answer.
const SEND_TIME: Duration = Duration::from_secs(15);
