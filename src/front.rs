//! Learns how the sites behind our FakeTLS domains answer browsers, so that our answers look like
//! theirs: a thread that asks each site now and then, tells the shards, and keeps what it learned
//! on disk for the next start.
//!
//! | File | What |
//! |---|---|
//! | `ask.rs` | one connection: a hello out, the answer in, where the flight ends |
//! | `learn.rs` | the few questions to a site, and what follows from the answers |
//! | `cache.rs` | what was learned, on disk |
//! | `route.rs` | how a site is reached |
//!
//! Not here: hellos and answers as bytes (`shards::proto::faketls`), what shards do with a table
//! (`shards/src/policy/server_flight.rs`). Called by `serve`. Source: protocol.md 6.7.

mod ask;
mod cache;
mod learn;
mod route;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rand::RngExt as _;
use shards::{
    FrontTable,
    proto::faketls::{
        client_hello::{AlpnOffer, Compression},
        site_hello::SiteStyle,
    },
    settings::{Front, SuiteOrder},
};

use self::learn::Learned;
pub(crate) use self::{
    learn::Ask,
    route::{Route, Target},
};

/// What is learned from whom, and how.
pub(crate) struct Settings {
    /// Domains of clients, and where their sites are.
    pub(crate) sites: Vec<(String, Target)>,
    /// How sites are asked.
    pub(crate) ask: Ask,
    /// How long the style that worked is tried first; zero never.
    pub(crate) style_ttl: Duration,
    /// Where what was learned is kept.
    pub(crate) dir: PathBuf,
}

/// Who is told what is known of all sites together.
pub(crate) type Tell = Box<dyn Fn(Arc<FrontTable>) + Send>;

/// Tells what the last process learned, then goes on learning on a thread of its own for as long
/// as the process lives.
///
/// # Errors
/// There are no more threads to be had.
pub(crate) fn start(settings: Settings, route: Route, tell: Tell) -> io::Result<()> {
    let fronts = Fronts::new(settings, route, tell);
    thread::Builder::new()
        .name("front".to_owned())
        .spawn(move || fronts.run())
        .map(drop)
}

/// The thread's state.
struct Fronts {
    sites: Vec<Site>,
    ask: Ask,
    style_ttl: Duration,
    dir: PathBuf,
    route: Route,
    tell: Tell,
}

/// One domain.
struct Site {
    domain: String,
    target: Target,
    known: Option<Known>,
    /// When it is asked next.
    due: Instant,
    /// Rounds in a row that brought nothing.
    failures: u32,
    /// What worked, and when.
    style: Option<(SiteStyle, Instant)>,
    /// What was last complained of.
    complaint: String,
}

/// What was learned of a site, by this process or an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    front: Front,
    /// When, Unix seconds.
    at: u64,
}

impl Fronts {
    fn new(settings: Settings, route: Route, tell: Tell) -> Self {
        let now = Instant::now();
        let dir = settings.dir;
        let sites = settings.sites.into_iter().map(|(domain, target)| Site {
            known: cache::load(&dir, &domain, &target),
            domain,
            target,
            due: now,
            failures: 0,
            style: None,
            complaint: String::new(),
        });
        let fronts = Self {
            sites: sites.collect(),
            ask: settings.ask,
            style_ttl: settings.style_ttl,
            dir,
            route,
            tell,
        };
        for site in &fronts.sites {
            if let Some(known) = site.known {
                let hours = unix_now().saturating_sub(known.at) / 3600;
                let what = describe(&known.front);
                tracing::info!("front {}: learned {hours} h ago: {what}", site.domain);
            }
        }
        if fronts.sites.iter().any(|site| site.known.is_some()) {
            fronts.publish();
        }
        fronts
    }

    fn run(mut self) {
        loop {
            let Some(at) = (0..self.sites.len()).min_by_key(|at| self.sites.get(*at).map(due))
            else {
                return;
            };
            let wait = self.sites.get(at).map(due).unwrap_or_else(Instant::now);
            thread::sleep(wait.saturating_duration_since(Instant::now()));
            self.round(at);
        }
    }

    /// Asks one site and notes what came of it.
    fn round(&mut self, at: usize) {
        let Some(site) = self.sites.get_mut(at) else {
            return;
        };
        let begun = Instant::now();
        let fresh = |(_, when): &(SiteStyle, Instant)| when.elapsed() < self.style_ttl;
        let first = site.style.filter(fresh).map(|(style, _)| style);
        let asked = learn::Site {
            domain: &site.domain,
            target: &site.target,
        };
        match learn::learn(&self.ask, &self.route, asked, first) {
            Ok(learned) => {
                let news = site.learned(learned, &self.dir);
                // What the log says is in effect.
                self.publish();
                if let Some(news) = news {
                    tracing::info!("{news}");
                }
            }
            Err(error) => site.failed(&error.to_string()),
        }
        tracing::debug!("asking took {} ms", begun.elapsed().as_millis());
    }

    fn publish(&self) {
        let known = self.sites.iter().filter_map(|site| {
            let known = site.known?;
            Some((site.domain.clone(), known.front))
        });
        (self.tell)(Arc::new(FrontTable::new(known)));
    }
}

fn due(site: &Site) -> Instant {
    site.due
}

impl Site {
    /// Takes over what was learned; what there is to say about it.
    fn learned(&mut self, learned: Learned, dir: &Path) -> Option<String> {
        let mut front = learned.front;
        let before = self.known.map(|known| known.front);
        if let Some(before) = before {
            front.flights = learn::widen(before.flights, front.flights);
        }
        let what = describe(&front);
        let how = if learned.tls13 {
            ""
        } else {
            ", estimated from TLS 1.2"
        };
        let (domain, target) = (&self.domain, &self.target);
        let news = (before != Some(front) || self.failures > 0)
            .then(|| format!("front {domain}: learned from {target}{how}: {what}"));
        let known = Known {
            front,
            at: unix_now(),
        };
        if let Err(error) = cache::store(dir, domain, target, &known) {
            let text = format!("cannot be kept in {}: {error}", dir.display());
            if text != self.complaint {
                tracing::warn!("front {domain}: what was learned {text}");
                self.complaint = text;
            }
        } else {
            self.complaint.clear();
        }
        self.known = Some(known);
        self.failures = 0;
        self.style = Some((learned.style, Instant::now()));
        // Not at the minute: many processes may have been started at the same one.
        let jitter = rand::rng().random_range(0.9..1.1);
        self.due = Instant::now() + REFRESH.mul_f64(jitter);
        news
    }

    fn failed(&mut self, error: &str) {
        let pause = RETRY
            .saturating_mul(1 << self.failures.min(16))
            .min(REFRESH);
        self.failures = self.failures.saturating_add(1);
        self.due = Instant::now() + pause;
        let (domain, target) = (&self.domain, &self.target);
        let meanwhile = match self.known {
            Some(_) => "what was learned before stays in use",
            None => "answers have default sizes meanwhile",
        };
        // Once for each reason: a site may be down for days.
        if error == self.complaint {
            return tracing::debug!("front {domain}: nothing learned from {target}: {error}");
        }
        let secs = pause.as_secs();
        tracing::warn!(
            "front {domain}: nothing learned from {target}: {error}; {meanwhile}; next try in \
             {secs} s"
        );
        error.clone_into(&mut self.complaint);
    }
}

/// One site in words for the log.
fn describe(front: &Front) -> String {
    let suites = match front.suites {
        SuiteOrder::Client => "the client's first suite".to_owned(),
        SuiteOrder::Site([first, ..]) => format!("suite {first:04x} first"),
    };
    let group = if front.hybrid {
        "X25519MLKEM768"
    } else {
        "X25519"
    };
    let order = if front.key_share_first {
        "key_share first"
    } else {
        "supported_versions first"
    };
    // Only where they make a difference.
    let compressed = front.flights.of(AlpnOffer::H2, Compression::Brotli);
    let other = |compression| {
        let own = front.flights.of(AlpnOffer::H2, compression);
        own.filter(|_| own != compressed)
    };
    let flights = [
        ("h2", front.flights.h2),
        ("http/1.1", front.flights.http11),
        ("no protocol", front.flights.neither),
        ("h2, zlib", other(Compression::Zlib)),
        ("h2, uncompressed", other(Compression::None)),
    ];
    let sizes: Vec<String> = flights
        .into_iter()
        .filter_map(|(offer, bytes)| {
            let bytes = bytes?;
            Some(match bytes.most - bytes.least {
                0 => format!("{} ({offer})", bytes.least),
                _ => format!("{} to {} ({offer})", bytes.least, bytes.most),
            })
        })
        .collect();
    let sizes = if sizes.is_empty() {
        "unknown".to_owned()
    } else {
        sizes.join(", ")
    };
    format!("{suites}, {group}, {order}, flight bytes without hash: {sizes}")
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Pause between two looks at a site that answers: certificates change every few weeks.
const REFRESH: Duration = Duration::from_secs(3600);
/// Pause after the first failure; doubled with each, up to `REFRESH`.
const RETRY: Duration = Duration::from_secs(30);
