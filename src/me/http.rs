//! One download: connects, follows redirections, reads a bounded body and the server's clock.
//!
//! Not here: when and how often (`fetch.rs`), what the body means (`shards::proto::middle`).
//! Source: middle-proxy.md 23.

use std::{
    io::Read as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::fmt::rfc2822::DateTimeParser;
use ureq::Agent;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// How far its clock is from ours, seconds; `None` without a readable `Date`.
    pub(crate) skew_secs: Option<u64>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// 200 to 299.
pub(crate) fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Who downloads; tests have one without sockets.
pub(crate) trait Download: Send + Sync {
    /// Gets `url`; a body of more than `bytes_max` is an error.
    ///
    /// # Errors
    /// Words for the log.
    fn get(&self, url: &str, bytes_max: usize) -> Result<Answer, String>;
}

/// Downloads over HTTPS with the roots that are built in. Ignores proxies of the environment: what
/// is downloaded decides under which address MEs expect us.
#[derive(Clone, Debug)]
pub(crate) struct Https(Agent);

impl Https {
    /// Opens nothing yet.
    pub(crate) fn new() -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(Some(REQUEST_MAX))
            .http_status_as_error(false)
            .max_redirects(REDIRECTS_MAX)
            .max_idle_connections(0)
            .user_agent(concat!("pinnace/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .build();
        Self(Agent::new_with_config(config))
    }
}

impl Download for Https {
    fn get(&self, url: &str, bytes_max: usize) -> Result<Answer, String> {
        let response = self.0.get(url).call().map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let date = response.headers().get("date");
        let skew_secs = date.and_then(|date| skew_secs(date.to_str().ok()?, SystemTime::now()));
        let mut body = Vec::new();
        let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX);
        let reader = response.into_body().into_reader();
        let read = reader.take(limit.saturating_add(1)).read_to_end(&mut body);
        read.map_err(|error| error.to_string())?;
        if body.len() > bytes_max {
            return Err(format!("the answer is longer than {bytes_max} bytes"));
        }
        Ok(Answer {
            status,
            skew_secs,
            body,
        })
    }
}

/// Seconds between an HTTP date and our clock, whichever is ahead.
fn skew_secs(date: &str, now: SystemTime) -> Option<u64> {
    let date = DateTimeParser::new().parse_timestamp(date).ok()?;
    let now = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(date.as_second().abs_diff(i64::try_from(now).ok()?))
}

/// middle-proxy.md 23.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Connect, TLS and answer together.
const REQUEST_MAX: Duration = Duration::from_secs(15);
const REDIRECTS_MAX: u32 = 5;

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// Answers one request with these bytes; its URL.
    fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = socket.read(&mut request);
            let _ = socket.write_all(answer.as_bytes());
        });
        url
    }

    #[test]
    fn tells_status_clock_and_body() {
        let url = server(
            "HTTP/1.1 404 Not Found\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Length: 4\r\n\r\nnone",
        );
        let answer = Https::new().get(&url, 4).unwrap();
        assert_eq!((answer.status, is_success(answer.status)), (404, false));
        assert_eq!(answer.body, b"none");
        assert!(answer.skew_secs.unwrap() > 900_000_000);
    }

    #[test]
    fn long_bodies_and_closed_ports_are_errors() {
        let url = server("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour");
        let error = Https::new().get(&url, 3).unwrap_err();
        assert!(error.contains("longer than 3 bytes"), "{error}");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", closed.local_addr().unwrap());
        drop(closed);
        assert!(Https::new().get(&url, 3).is_err());
    }

    #[test]
    fn servers_that_do_not_speak_tls_are_errors() {
        let url = server("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour");
        let url = url.replace("http:", "https:");
        let error = Https::new().get(&url, 4).unwrap_err();
        assert!(error.contains("corrupt message"), "{error}");
    }

    #[test]
    fn skew_is_the_distance_to_our_clock_in_either_direction() {
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(skew_secs(date, at(784_111_777)), Some(0));
        assert_eq!(skew_secs(date, at(784_111_700)), Some(77));
        assert_eq!(skew_secs(date, at(784_111_800)), Some(23));
        assert_eq!(skew_secs("yesterday", at(0)), None);
    }
}
