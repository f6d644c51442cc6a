//! The host's firewall and the kernel's connection tracking, as far as the configuration wants us
//! to touch them: limits on connection attempts, clients that are not tracked, and pressure.
//!
//! ```text
//!   configuration ──> wish ──> nft, iptables      (rules, ours alone, gone at the end)
//!   places, open files, ends ──> pressure ──> every shard: shorter limits
//!   shards: ends ──> entries ──> the kernel       (tracking entries, a second after the end)
//! ```
//!
//! All of it happens on one thread of its own. Without the right or the tool the proxy serves, and
//! says what it could not do. Source: config.md 8 and 9.

mod entries;
mod iptables;
mod nft;
mod owner;
mod pressure;
mod tools;
mod wish;

use std::{
    fs, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use async_channel::{Receiver, Sender};
use shards::{
    PlaceGauge, PressureLink,
    control::{CloseEvents, ClosedClient},
};

use self::{
    entries::{Deleted, Ends, Entries},
    pressure::{Gauge, Signs, limits, percent},
    tools::Tools,
    wish::Wish,
};
use crate::config::{
    Config,
    server::{Conntrack, ConntrackMode},
};

/// The thread that does all this.
pub(crate) struct Firewall {
    orders: Sender<Order>,
    shown: Arc<Shown>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Order {
    /// Other rules are wanted.
    Rules(Box<Wish>),
    /// Take all rules away and end.
    Stop,
}

/// What the API shows.
#[derive(Debug, Default)]
struct Shown {
    available: AtomicBool,
    rules_ok: AtomicBool,
    pressure: AtomicBool,
    queued: AtomicU64,
    attempts: AtomicU64,
    deleted: AtomicU64,
    not_found: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
}

/// What the thread looks at.
pub(crate) struct Parts {
    /// Clients there are and may be.
    pub(crate) places: PlaceGauge,
    /// Where pressure goes.
    pub(crate) link: PressureLink,
    /// Files this process may open.
    pub(crate) open_files: u64,
}

/// How often the thread looks at how things are.
const LOOK: Duration = Duration::from_secs(1);
/// Ends that may wait for a look; further ones are dropped and counted.
const ENDS_MAX: usize = 32_768;
/// A process that ends waits so long for its rules to be gone.
const STOP_LIMIT: Duration = Duration::from_secs(5);

impl Firewall {
    /// Starts the thread, which puts the rules in place.
    ///
    /// # Errors
    /// No thread is to be had.
    pub(crate) fn start(config: &Config, parts: Parts) -> io::Result<Arc<Self>> {
        let (orders, given) = async_channel::unbounded();
        let shown = Arc::new(Shown::default());
        let (events, told) = CloseEvents::new(ENDS_MAX);
        let tools = Tools::find();
        let enabled = config.conntrack.inline_conntrack_control;
        let deletes = enabled && tools.may && config.conntrack.mode != ConntrackMode::Notrack;
        let worker = Worker {
            wish: Wish::of(config),
            gauge: Gauge::new(&config.conntrack),
            settings: config.conntrack.clone(),
            tools,
            parts,
            shown: Arc::clone(&shown),
            events: deletes.then_some(events),
            told,
            ends: Ends::default(),
            entries: None,
        };
        // Before anybody asks: what is known without a program being run.
        worker.show_tools();
        let thread = thread::Builder::new()
            .name("firewall".to_owned())
            .spawn(move || worker.run(&given))?;
        Ok(Arc::new(Self {
            orders,
            shown,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Puts other rules in place of those that are there; does not wait for it.
    pub(crate) fn apply(&self, config: &Config) {
        let wish = Box::new(Wish::of(config));
        // A thread that has ended was told to.
        drop(self.orders.try_send(Order::Rules(wish)));
    }

    /// Takes all rules away; waits for it, within limits. Only the first call does.
    pub(crate) fn stop(&self) {
        drop(self.orders.try_send(Order::Stop));
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(thread) = thread else { return };
        let limit = Instant::now() + STOP_LIMIT;
        while !thread.is_finished() {
            if Instant::now() >= limit {
                tracing::error!("firewall rules may be left behind: their tool does not end");
                return;
            }
            thread::park_timeout(Duration::from_millis(2));
        }
        drop(thread.join());
    }

    /// What the API shows of it.
    pub(crate) fn conntrack(&self) -> admin::ConntrackState {
        let shown = &self.shown;
        let number = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let is = |value: &AtomicBool| value.load(Ordering::Relaxed);
        admin::ConntrackState {
            available: is(&shown.available),
            rule_apply_ok: is(&shown.rules_ok),
            pressure_active: is(&shown.pressure),
            event_queue_depth: number(&shown.queued),
            delete_attempt_total: number(&shown.attempts),
            delete_success_total: number(&shown.deleted),
            delete_not_found_total: number(&shown.not_found),
            delete_error_total: number(&shown.errors),
            close_event_drop_total: number(&shown.dropped),
        }
    }
}

/// The thread's own.
struct Worker {
    wish: Wish,
    settings: Conntrack,
    tools: Tools,
    parts: Parts,
    shown: Arc<Shown>,
    gauge: Gauge,
    /// Set when tracking entries are to be deleted under pressure.
    events: Option<CloseEvents>,
    told: Receiver<ClosedClient>,
    ends: Ends,
    entries: Option<Entries>,
}

impl Worker {
    fn show_tools(&self) {
        let available = self.tools.may && self.tools.of(self.wish.backend).is_some();
        self.shown.available.store(available, Ordering::Relaxed);
        let nothing = self.wish.untracked.is_empty();
        self.shown.rules_ok.store(nothing, Ordering::Relaxed);
    }

    fn run(mut self, orders: &Receiver<Order>) {
        // Of either tool: this process may use the other one, or none.
        self.tools.remove_stale();
        if !self.wish.is_empty() {
            self.apply();
        }
        loop {
            match next(orders, self.pause()) {
                Some(Order::Rules(wish)) if self.wish != *wish => {
                    self.wish = *wish;
                    self.apply();
                }
                Some(Order::Stop) => break,
                Some(Order::Rules(_)) | None => {}
            }
            if self.settings.inline_conntrack_control {
                self.look();
            }
        }
        self.wish = Wish::default();
        if let Err(reason) = self.tools.apply(&self.wish)
            && self.tools.may
        {
            tracing::error!("firewall rules are left behind: {reason}");
        }
    }

    /// Without anything to look at only orders matter.
    fn pause(&self) -> Duration {
        match self.settings.inline_conntrack_control {
            true => LOOK,
            false => Duration::from_secs(3600),
        }
    }

    fn apply(&mut self) {
        let (limits, untracked) = (self.wish.limits.len(), self.wish.untracked.len());
        let applied = self.tools.apply(&self.wish);
        self.shown
            .rules_ok
            .store(applied.is_ok(), Ordering::Relaxed);
        match applied {
            Ok(()) => tracing::info!(
                "firewall: connection attempts limited on {limits} listeners, {untracked} \
                 addresses not tracked"
            ),
            Err(reason) => tracing::warn!(
                "firewall: no rules (server.listeners.synlimit, \
                 server.conntrack_control.mode): {reason}"
            ),
        }
    }

    /// How things are, and what follows.
    fn look(&mut self) {
        let signs = Signs {
            connections: percent(self.parts.places.taken(), self.parts.places.max()),
            files: percent(
                open_files(),
                usize::try_from(self.parts.open_files).unwrap_or(0),
            ),
            queue: percent(self.told.len(), ENDS_MAX),
        };
        if self.gauge.look(signs, Instant::now()) {
            self.set_pressure(signs);
        }
        self.delete();
        if let Some(events) = &self.events {
            let dropped = events.dropped();
            self.shown.dropped.store(dropped, Ordering::Relaxed);
        }
        let queued = (self.told.len() + self.ends.len()) as u64;
        self.shown.queued.store(queued, Ordering::Relaxed);
    }

    fn set_pressure(&self, signs: Signs) {
        let active = self.gauge.is_active();
        self.shown.pressure.store(active, Ordering::Relaxed);
        if !active {
            tracing::info!("pressure is over: limits are those of the configuration again");
            return self.parts.link.set(None);
        }
        let Signs {
            connections,
            files,
            queue,
        } = signs;
        tracing::warn!(
            "pressure: connections {connections}%, open files {files}%, ends to look at {queue}%; \
             silent clients are closed earlier (server.conntrack_control.profile)"
        );
        let limits = limits(self.settings.profile, self.events.clone());
        self.parts.link.set(Some(&Arc::new(limits)));
    }

    /// Deletes tracking entries of connections that ended before the last look.
    fn delete(&mut self) {
        let budget = usize::try_from(self.settings.delete_budget_per_sec).unwrap_or(usize::MAX);
        let ends: Vec<_> = self.ends.look(&self.told, budget.min(ENDS_MAX)).collect();
        if ends.is_empty() {
            return;
        }
        if self.entries.is_none() {
            self.entries = Entries::open().ok();
        }
        for end in ends {
            let deleted = match &mut self.entries {
                Some(entries) => entries.delete(end),
                None => Deleted::Error,
            };
            let total = match deleted {
                Deleted::Done => &self.shown.deleted,
                Deleted::NotFound => &self.shown.not_found,
                Deleted::Error => &self.shown.errors,
            };
            total.fetch_add(1, Ordering::Relaxed);
            self.shown.attempts.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The next order, if one comes within `limit`.
fn next(orders: &Receiver<Order>, limit: Duration) -> Option<Order> {
    match crate::plane::receive(orders, Instant::now() + limit) {
        // Whoever gave orders is gone: the process ends.
        None if orders.is_closed() => Some(Order::Stop),
        order => order,
    }
}

/// Files this process has open; Linux tells it as the size of the directory since 6.2.
fn open_files() -> usize {
    let dir = "/proc/self/fd";
    match fs::metadata(dir).map(|data| data.len()) {
        Ok(0) | Err(_) => fs::read_dir(dir).map_or(0, Iterator::count),
        Ok(count) => usize::try_from(count).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_files_are_counted() {
        let before = open_files();
        assert!(before > 0);
        let held: Vec<_> = (0..50)
            .map(|_| fs::File::open("/dev/null").unwrap())
            .collect();
        // Other tests close theirs meanwhile, but hardly that many.
        assert!(open_files() + 25 > before + held.len());
    }
}
