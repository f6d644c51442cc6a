//! The site that a proxy pretends to be: answers HTTP on loopback, as much as it is asked for.
//!
//! `GET /bytes/N` is answered by `N` bytes, any other request by a short page, whatever is no HTTP
//! by status 400 and a close, like common web servers do. No TLS: for a relay bytes are bytes.

use std::{
    io,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{relay::listen_on, target::free_port};

/// An origin in a process of its own; ends when this is dropped.
#[derive(Debug)]
pub struct Origin {
    addr: SocketAddr,
    child: Child,
}

impl Origin {
    /// Starts this program as `bench origin` and waits until it listens.
    ///
    /// # Errors
    /// It cannot be started, or does not listen within 10 s.
    pub fn spawn() -> io::Result<Origin> {
        let addr = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let child = Command::new(std::env::current_exe()?)
            .args(["origin", "--listen", &addr.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        let origin = Origin { addr, child };
        for _ in 0..1_000 {
            if std::net::TcpStream::connect(addr).is_ok() {
                return Ok(origin);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // Only a process that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Listens and serves for ever.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve_on(addr: SocketAddr) -> io::Result<()> {
    serve(listen_on(addr)?).await;
    Ok(())
}

/// Serves for ever.
pub async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(answer(stream));
            }
            // Out of file descriptors: some come back when connections end.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A thousand peers that do not read would otherwise use up the TCP memory of the host, which
    // is the proxy's as well.
    SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let mut seen = Vec::new();
    loop {
        while seen.starts_with(b"GET ")
            && let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let request: Vec<u8> = seen.drain(..end + 4).collect();
            page(&mut stream, wanted(&request)).await?;
        }
        let known = b"GET ".len().min(seen.len());
        if seen.get(..known) != b"GET ".get(..known) || seen.len() > REQUEST_BYTES_MAX {
            stream.write_all(BAD_REQUEST).await?;
            return stream.shutdown().await;
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
    }
}

/// The `N` of `GET /bytes/N `.
fn wanted(request: &[u8]) -> u64 {
    let number = request.strip_prefix(b"GET /bytes/").map(|rest| {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        digits
            .take(15)
            .fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
    });
    number.unwrap_or(PAGE_BYTES)
}

async fn page(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let piece = [b'.'; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE_BYTES as u64);
        // At most PIECE_BYTES, so it fits.
        stream.write_all(&piece[..now as usize]).await?;
        left -= now;
    }
    Ok(())
}

const SEND_BUFFER_BYTES: usize = 256 * 1024;
const PAGE_BYTES: u64 = 600;
const PIECE_BYTES: usize = 64 * 1024;
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const BAD_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_how_much_is_wanted() {
        let cases: [(&[u8], u64); 4] = [
            (b"GET /bytes/0 HTTP/1.1\r\n", 0),
            (b"GET /bytes/123456 HTTP/1.1\r\n", 123_456),
            (b"GET / HTTP/1.1\r\n", PAGE_BYTES),
            (b"GET /bytes/99999999999999999999", 999_999_999_999_999),
        ];
        for (request, bytes) in cases {
            assert_eq!(wanted(request), bytes, "{request:?}");
        }
    }

    #[tokio::test]
    async fn answers_requests_in_turn_and_refuses_noise() {
        let listener = listen_on(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(serve(listener));
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let two = b"GET /bytes/5 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        stream.write_all(two).await.unwrap();
        stream.write_all(b"noise").await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all.matches("200 OK").count(), 2, "{all}");
        assert!(all.contains("\r\n\r\n.....HTTP/1.1 200"), "{all}");
        assert!(all.contains("400 Bad Request"), "{all}");
        serving.abort();
    }
}
