//! `/metrics` on a listener of its own: Prometheus text made from the counter rows.
//!
//! The port is held like the API's (`poller.rs`, `pool.rs`), with fewer threads; what a scrape
//! shows is put together in `render.rs`.

mod render;
mod text;
mod users;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use ipnet::IpNet;

use self::users::Others;
use crate::{
    connection::{Answer, ReadBody, Service},
    gate::Whitelist,
    head::Head,
    plane::ControlPlane,
    poller,
    pool::Limits,
    reply::Reply,
    server::{StartError, bind},
};

/// What is served, where, to whom.
#[derive(Clone, Debug)]
pub struct MetricsSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Peers that may scrape; empty means everybody. A bare address is a full-length prefix.
    pub whitelist: Vec<IpNet>,
    /// First part of every name: letters, digits and `_`, not starting with a digit.
    pub prefix: String,
    /// Users with series of their own: those with the most traffic. All others are one aggregate.
    pub top_n: usize,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            whitelist: Vec::new(),
            prefix: "pinnace_".to_owned(),
            top_n: 100,
        }
    }
}

/// Metrics that are served. Dropping this handle does not stop it; the process's end does.
#[derive(Debug)]
pub struct Metrics {
    addr: SocketAddr,
}

impl Metrics {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Serves `/metrics` at `settings.listen`.
///
/// # Errors
/// [`StartError`].
pub fn start_metrics(
    settings: MetricsSettings,
    plane: Arc<dyn ControlPlane>,
) -> Result<Metrics, StartError> {
    if !text::is_name(&settings.prefix) {
        return Err(StartError::Prefix(settings.prefix));
    }
    let listener = bind(settings.listen)?;
    let addr = listener.local_addr().map_err(|source| StartError::Bind {
        addr: settings.listen,
        source,
    })?;
    let service = Arc::new(Scrapes {
        whitelist: Whitelist::new(&settings.whitelist),
        settings,
        plane,
        others: Mutex::default(),
        refusals: AtomicU64::new(0),
    });
    poller::start("metrics", listener, LIMITS, service).map_err(StartError::Thread)?;
    Ok(Metrics { addr })
}

/// Everything scrapes share.
struct Scrapes {
    settings: MetricsSettings,
    whitelist: Whitelist,
    plane: Arc<dyn ControlPlane>,
    others: Mutex<Others>,
    /// Peers turned away by the whitelist.
    refusals: AtomicU64,
}

impl Scrapes {
    fn gated(&self, peer: IpAddr, next: impl FnOnce(&Self) -> Reply) -> Answer {
        if self.whitelist.allows(peer) {
            return Answer::Reply(next(self));
        }
        let count = self
            .refusals
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(1);
        // Ever more rarely, so that nobody can fill the log.
        if count.is_power_of_two() {
            tracing::warn!(
                %peer,
                count,
                "metrics: not in server.metrics_whitelist; add the address there to let it in"
            );
        }
        Answer::Reply(Reply::text(403, "forbidden\n"))
    }

    fn scrape(&self) -> Reply {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let body = render::render(&self.settings, self.plane.as_ref(), &mut others);
        Reply {
            content_type: text::CONTENT_TYPE,
            ..Reply::text(200, &body)
        }
    }
}

impl Service for Scrapes {
    fn drops_at_once(&self, _: IpAddr) -> bool {
        false
    }

    /// `GET` and `HEAD` of `/metrics`, whatever the query; no body is read.
    fn answer(&self, peer: IpAddr, head: &Head, _: &mut ReadBody<'_>) -> Answer {
        self.gated(peer, |scrapes| {
            let path = head.target.split('?').next();
            match (path, head.method.as_str()) {
                (Some("/metrics"), "GET" | "HEAD") => scrapes.scrape(),
                (Some("/metrics"), _) => Reply {
                    allow: Some("GET, HEAD"),
                    ..Reply::text(405, "method not allowed\n")
                },
                _ => Reply::text(404, "not found; metrics are at /metrics\n"),
            }
        })
    }

    fn refuse(&self, peer: IpAddr) -> Answer {
        self.gated(peer, |_| Reply::text(400, "malformed request\n"))
    }
}

/// A few scrapers at most.
const LIMITS: Limits = Limits {
    connections_max: 256,
    workers_max: 4,
};
