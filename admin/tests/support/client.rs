//! A client that sends exactly the bytes it is given.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `error.code`; empty in a success.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Status and code.
    pub(crate) fn outcome(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

/// A connection that patiently waits for at most 20 seconds.
pub(crate) fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Sends a whole request on a connection of its own.
pub(crate) fn send(addr: SocketAddr, bytes: &[u8]) -> io::Result<Reply> {
    let mut stream = connect(addr);
    stream.write_all(bytes)?;
    receive(&mut BufReader::new(stream), bytes.starts_with(b"HEAD "))
}

/// A request with an optional body.
pub(crate) fn call(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &str,
    body: Option<&str>,
) -> Reply {
    send(addr, request(method, target, headers, body).as_bytes()).unwrap()
}

pub(crate) fn get(addr: SocketAddr, target: &str) -> Reply {
    call(addr, "GET", target, "", None)
}

/// `headers` is whole lines, each with its line end.
pub(crate) fn request(method: &str, target: &str, headers: &str, body: Option<&str>) -> String {
    let length = body.map_or(String::new(), |body| {
        format!("Content-Length: {}\r\n", body.len())
    });
    let body = body.unwrap_or_default();
    format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n{body}")
}

/// Reads one answer.
pub(crate) fn receive(reader: &mut impl BufRead, head_only: bool) -> io::Result<Reply> {
    let mut status = line(reader)?;
    if status.starts_with("HTTP/1.1 100 ") {
        while !line(reader)?.is_empty() {}
        status = line(reader)?;
    }
    let number = status
        .split(' ')
        .nth(1)
        .and_then(|number| number.parse().ok());
    let status = number.ok_or_else(|| io::Error::other(format!("status line {status:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(reader)?;
        let Some((key, value)) = line.split_once(": ") else {
            break;
        };
        headers.push((key.to_owned(), value.to_owned()));
    }
    let mut reply = Reply {
        status,
        headers,
        body: Vec::new(),
    };
    if !head_only {
        let length = reply
            .header("Content-Length")
            .unwrap_or("0")
            .parse()
            .unwrap();
        reply.body.resize(length, 0);
        reader.read_exact(&mut reply.body)?;
    }
    Ok(reply)
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

/// Everything up to the end of the stream.
pub(crate) fn drain(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}
