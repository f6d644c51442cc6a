//! A small HTTP/1.1 client for control APIs: one connection, kept open as long as the server likes.
//!
//! Blocking and without any library, because it also makes the flood: thousands of requests per
//! second whose cost must not be that of the client.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// A connection to a control API; opened when it is needed.
#[derive(Debug)]
pub struct Api {
    addr: SocketAddr,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// Bytes of the body.
    pub body_bytes: usize,
}

impl Api {
    /// The API at an address; nothing is sent yet.
    pub fn new(addr: SocketAddr) -> Api {
        Api {
            addr,
            stream: None,
            buffer: Vec::new(),
        }
    }

    /// Sends a request and reads the answer; a connection that the server has closed meanwhile is
    /// opened anew, once.
    ///
    /// # Errors
    /// No connection, no answer within ten seconds, or one that is no HTTP.
    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answered> {
        let reused = self.stream.is_some();
        match self.attempt(method, path, body) {
            Err(_) if reused => {
                self.stream = None;
                self.attempt(method, path, body)
            }
            answer => answer,
        }
    }

    /// Body of the last answer.
    pub fn body(&self, answered: Answered) -> &[u8] {
        let from = self.buffer.len() - answered.body_bytes.min(self.buffer.len());
        &self.buffer[from..]
    }

    fn attempt(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answered> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect_timeout(&self.addr, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream
            }
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n{body}",
            self.addr,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        self.buffer.clear();
        let (head_bytes, head) = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                break (end + 4, head);
            }
            self.fill(&mut stream)?;
        };
        let (status, body_bytes) = understand(&head).ok_or(io::ErrorKind::InvalidData)?;
        while self.buffer.len() < head_bytes + body_bytes {
            self.fill(&mut stream)?;
        }
        if !head.to_ascii_lowercase().contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(Answered { status, body_bytes })
    }

    fn fill(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        let mut chunk = [0; 16 * 1024];
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.buffer.extend_from_slice(&chunk[..n]);
        Ok(())
    }
}

/// Status and length of the body.
fn understand(head: &str) -> Option<(u16, usize)> {
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    Some((status, length.unwrap_or(0)))
}

const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn keeps_its_connection_and_opens_another_when_it_is_closed() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut api = Api::new(server.local_addr().unwrap());
        let serving = std::thread::spawn(move || {
            for answers in [2, 1] {
                let (mut stream, _) = server.accept().unwrap();
                for _ in 0..answers {
                    let mut request = [0; 1024];
                    assert!(stream.read(&mut request).unwrap() > 0);
                    let answer = "HTTP/1.1 201 X\r\ncontent-length: 3\r\n\r\nabc";
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        for _ in 0..3 {
            let answered = api.ask("GET", "/", "").unwrap();
            assert_eq!((answered.status, api.body(answered)), (201, &b"abc"[..]));
        }
        serving.join().unwrap();
    }
}
