//! Asks a control API many times and reports rate, times and errors:
//! `cargo run --release -p admin --example load -- 127.0.0.1:9091 rate=10000 secs=10`.
//!
//! Further arguments: `path=/v1/health`, `peers=N` (connections, each with a thread), `close` (one
//! connection per request), `auth=VALUE`, `idle=N` (connections that only stay open meanwhile).
//! Without `rate` every peer asks as fast as it is answered.

#![expect(
    clippy::unwrap_used,
    reason = "a tool for tests: any failure may end it"
)]

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

fn main() {
    let mut args = std::env::args().skip(1);
    let addr = args.next().unwrap_or_else(|| "127.0.0.1:9091".to_owned());
    let args: Vec<String> = args.collect();
    let text = |name: &str| args.iter().find_map(|arg| arg.strip_prefix(name));
    let number =
        |name: &str, default: u64| text(name).map_or(default, |text| text.parse().unwrap());
    let peers = number("peers=", 16);
    let duration = Duration::from_secs(number("secs=", 10));
    let idle: Vec<TcpStream> = (0..number("idle=", 0))
        .map_while(|_| TcpStream::connect(&addr).ok())
        .collect();
    let job = Job {
        addr: addr.clone(),
        request: request(text("path=").unwrap_or("/v1/health"), text("auth=")),
        close: args.iter().any(|arg| arg == "close"),
        pause: match number("rate=", 0) {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(1_000_000_000 * peers / rate),
        },
        until: Instant::now() + duration,
        errors: AtomicU64::new(0),
    };
    let begun = Instant::now();
    let mut times: Vec<u32> = thread::scope(|scope| {
        let peers: Vec<_> = (0..peers).map(|_| scope.spawn(|| job.run())).collect();
        let times = peers.into_iter().flat_map(|peer| peer.join().unwrap());
        times.collect()
    });
    let took = begun.elapsed();
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 1_000).copied().unwrap_or(0);
    let rate = u128::try_from(times.len()).unwrap() * 1_000_000 / took.as_micros();
    println!(
        "{} answers in {took:.1?}: {rate}/s, {} errors, {} idle; times in us: \
         p50 {} p99 {} p99.9 {} max {}",
        times.len(),
        job.errors.load(Ordering::Relaxed),
        idle.len(),
        at(500),
        at(990),
        at(999),
        times.last().copied().unwrap_or(0),
    );
}

/// What every peer does.
struct Job {
    addr: String,
    request: String,
    close: bool,
    /// Between the beginnings of two requests of one peer.
    pause: Duration,
    until: Instant,
    errors: AtomicU64,
}

impl Job {
    /// Times of all answers, microseconds.
    fn run(&self) -> Vec<u32> {
        let mut times = Vec::new();
        let mut connection = None;
        let mut next = Instant::now();
        while next < self.until && Instant::now() < self.until {
            thread::sleep(next.saturating_duration_since(Instant::now()));
            next += self.pause;
            let begun = Instant::now();
            if self.ask(&mut connection).is_ok() {
                times.push(u32::try_from(begun.elapsed().as_micros()).unwrap());
            } else {
                self.errors.fetch_add(1, Ordering::Relaxed);
                connection = None;
            }
            if self.close {
                connection = None;
            }
        }
        times
    }

    /// One request and its answer; the server ends connections after a while, which is no error.
    fn ask(&self, connection: &mut Option<BufReader<TcpStream>>) -> io::Result<()> {
        let reused = connection.is_some();
        let mut reader = match connection.take() {
            Some(reader) => reader,
            None => BufReader::new(TcpStream::connect(&self.addr)?),
        };
        reader.get_ref().set_nodelay(true)?;
        let result = exchange(&mut reader, &self.request);
        match result {
            Ok(stays) => {
                *connection = stays.then_some(reader);
                Ok(())
            }
            Err(_) if reused => self.ask(connection),
            Err(error) => Err(error),
        }
    }
}

fn request(path: &str, auth: Option<&str>) -> String {
    let auth = auth.map_or(String::new(), |auth| format!("Authorization: {auth}\r\n"));
    format!("GET {path} HTTP/1.1\r\nHost: x\r\n{auth}\r\n")
}

/// Whether the connection stays open.
fn exchange(reader: &mut BufReader<TcpStream>, request: &str) -> io::Result<bool> {
    reader.get_mut().write_all(request.as_bytes())?;
    let (mut length, mut stays, mut status) = (0_u64, true, String::new());
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if status.is_empty() {
            text.clone_into(&mut status);
        } else if let Some(bytes) = text.strip_prefix("Content-Length: ") {
            length = bytes.parse().map_err(io::Error::other)?;
        } else if text == "Connection: close" {
            stays = false;
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink())?;
    if status.starts_with("HTTP/1.1 200 ") {
        Ok(stays)
    } else {
        Err(io::Error::other(status))
    }
}
