//! One download: connects, follows redirections, reads a bounded body and the server's clock.
//!
//! Not here: when and how often (`fetch.rs`), what the body means (`shards::proto::middle`).
//! Source: middle-proxy.md 23.

use std::{
    env, fs,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jiff::fmt::rfc2822::DateTimeParser;
use ureq::{
    Agent,
    tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem},
    unversioned::transport::{Connector as _, RustlsConnector},
};

pub(crate) use super::http_way::Way;
use super::http_way::{NoResolver, RouteConnector};
use crate::route_out::RouteOut;

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

/// Downloads over HTTPS with the roots that are built in, or those of the file that the variable
/// `SSL_CERT_FILE` names. Ignores proxies of the environment: what is downloaded decides under
/// which address MEs expect us.
#[derive(Clone, Debug)]
pub(crate) struct Https(Agent);

impl Https {
    /// Opens nothing yet.
    pub(crate) fn new(out: Arc<RouteOut>, way: Way, roots: RootCerts) -> Self {
        let tls = TlsConfig::builder().root_certs(roots).build();
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(Some(REQUEST_MAX))
            .http_status_as_error(false)
            .max_redirects(REDIRECTS_MAX)
            .max_idle_connections(0)
            .user_agent(concat!("pinnace/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .tls_config(tls)
            .build();
        let connector = RouteConnector { out, way }.chain(RustlsConnector::default());
        Self(Agent::with_parts(config, connector, NoResolver))
    }
}

/// The roots that servers' certificates must lead to: those of the file that `SSL_CERT_FILE` names,
/// as other programs do it, or else those that are built in.
pub(crate) fn roots() -> RootCerts {
    let Some(path) = env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) else {
        return RootCerts::WebPki;
    };
    let shown = Path::new(&path).display();
    match fs::read(&path) {
        Ok(pem) => {
            let roots = certificates(&pem);
            if roots.is_empty() {
                tracing::error!(
                    "SSL_CERT_FILE: {shown} holds no certificate; no server is trusted"
                );
            }
            RootCerts::from(roots.into_iter())
        }
        Err(error) => {
            tracing::error!(%error, "SSL_CERT_FILE: cannot read {shown}; the built-in roots are used");
            RootCerts::WebPki
        }
    }
}

/// Certificates of a PEM file; other items and what cannot be read are left out.
fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let items = parse_pem(pem).filter_map(Result::ok);
    items
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect()
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
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);
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

    fn https() -> Https {
        let families = crate::names::Families {
            ipv4: true,
            ipv6: false,
            prefer_ipv6: false,
        };
        let out = RouteOut::new(Vec::new(), families, crate::names::resolve);
        Https::new(Arc::new(out), Way::Straight, RootCerts::WebPki)
    }

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
        let answer = https().get(&url, 4).unwrap();
        assert_eq!((answer.status, is_success(answer.status)), (404, false));
        assert_eq!(answer.body, b"none");
        assert!(answer.skew_secs.unwrap() > 900_000_000);
    }

    #[test]
    fn long_bodies_and_closed_ports_are_errors() {
        let url = server("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour");
        let error = https().get(&url, 3).unwrap_err();
        assert!(error.contains("longer than 3 bytes"), "{error}");
        let closed = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", closed.local_addr().unwrap());
        drop(closed);
        assert!(https().get(&url, 3).is_err());
    }

    #[test]
    fn servers_that_do_not_speak_tls_are_errors() {
        let url = server("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfour");
        let url = url.replace("http:", "https:");
        let error = https().get(&url, 4).unwrap_err();
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
