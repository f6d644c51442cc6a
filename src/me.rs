//! The Middle-End's side of the process that is no shard: who decides, who downloads, who finds out
//! our public address. Three threads, none of which any client waits for.
//!
//! ```text
//!   me-fetch ──secret, maps──┐                 ┌──plans──> shards
//!   me-nat ────addresses─────┼─> me-supervisor ┤
//!   shards ────reports───────┘                 └──events─> log, events ring
//! ```
//!
//! The decisions are `shards::me::Supervisor`'s; what is here carries things to and fro. Called by
//! `serve` (start), `live` (changed keys) and `plane` (status).

mod driver;
mod fetch;
mod fetcher;
mod http;
mod http_way;
pub(crate) mod nat;
mod nat_thread;
pub(crate) mod sources;
mod stun;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use admin::Events;
use async_channel::{Receiver, Sender};
use shards::{
    me::{MeLink, MeStatus, Millis, Plan, Report, Setup, Supervisor},
    settings::MeSettings,
};

use self::{
    driver::{Driver, Input},
    fetch::{Guards, TRIES_AFTER},
    http::{Download, Https, Way},
    nat::{Nat, NatStatus},
    nat_thread::Asker,
    sources::Sources,
    stun::Asking,
};
use crate::{links::Detected, route_out::RouteOut};

/// Takes plans to the shards; tests have one that takes notes.
pub(crate) trait Link: Send {
    /// Every shard goes by this plan from now on.
    fn post(&self, plan: &Arc<Plan>);
}

impl Link for MeLink {
    fn post(&self, plan: &Arc<Plan>) {
        Self::post(self, plan);
    }
}

/// The shards' clock.
pub(crate) type Now = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What the Middle-End's side is made of.
pub(crate) struct Parts {
    /// The keys of pool and relay.
    pub(crate) settings: MeSettings,
    /// The keys of the sources.
    pub(crate) sources: Sources,
    /// How many there are.
    pub(crate) shards: usize,
    /// CPUs this process may run on.
    pub(crate) cores: usize,
    /// What the shards say.
    pub(crate) reports: Receiver<Report>,
    /// What they are told by.
    pub(crate) link: Box<dyn Link>,
    /// Their clock.
    pub(crate) now: Now,
    /// What has happened, for the control API.
    pub(crate) events: Arc<Events>,
    /// The ways to what is downloaded.
    pub(crate) out: Arc<RouteOut>,
}

/// The Middle-End's side, running until the shards end.
pub(crate) struct Me {
    supervisor: Arc<Mutex<Supervisor>>,
    nat: Arc<Mutex<Nat>>,
    now: Now,
    inputs: Sender<Input>,
    fetch: mpsc::Sender<fetcher::Order>,
}

/// How the outside world is asked.
struct World {
    download: Arc<dyn Download>,
    /// Asks who we are, which no upstream may answer for us.
    straight: Arc<dyn Download>,
    tries: [Duration; 3],
    asking: Asking,
    local: fn(bool) -> Option<IpAddr>,
}

impl Me {
    /// Starts the threads; nothing is waited for.
    ///
    /// # Errors
    /// There are no more threads to be had.
    pub(crate) fn start(parts: Parts) -> io::Result<Self> {
        let (out, roots) = (&parts.out, http::roots());
        let https = |way| Arc::new(Https::new(Arc::clone(out), way, roots.clone()));
        let world = World {
            download: https(Way::Upstreams),
            straight: https(Way::Straight),
            tries: TRIES_AFTER,
            asking: Asking::new(parts.sources.nat.tcp_fallback),
            local: local_address,
        };
        Self::start_in(parts, world)
    }

    fn start_in(parts: Parts, world: World) -> io::Result<Self> {
        let now = (parts.now)();
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let unix_ms = since_epoch.unwrap_or_default().as_millis();
        let unix_ms = u64::try_from(unix_ms).unwrap_or(u64::MAX);
        let setup = Setup {
            settings: Arc::new(parts.settings.clone()),
            shards: parts.shards,
            cores: parts.cores,
            seed: rand::random(),
            started_unix_ms: unix_ms.saturating_sub(now.0),
        };
        let supervisor = Arc::new(Mutex::new(Supervisor::new(setup, now)));
        let nat = Arc::new(Mutex::new(Nat::new(parts.sources.nat.clone())));
        let (tell, inputs) = async_channel::unbounded();
        let (fetch, fetch_orders) = mpsc::channel();
        let (reset_nat, nat_resets) = mpsc::channel();
        let driver = Driver::new(driver::Parts {
            supervisor: Arc::clone(&supervisor),
            settings: parts.settings.clone(),
            link: parts.link,
            now: Arc::clone(&parts.now),
            events: parts.events,
            reset_nat: reset_nat.clone(),
        });
        let fetcher = fetcher::Fetcher::new(
            fetcher::Parts {
                sources: parts.sources,
                download: Arc::clone(&world.download),
                tries: world.tries,
                tell: tell.clone(),
                reset_nat,
            },
            &parts.settings,
        );
        let asker = Asker {
            nat: Arc::clone(&nat),
            download: world.straight,
            out: parts.out,
            asking: world.asking,
            local: world.local,
            tell: tell.clone(),
            complained: false,
        };
        // The address first: dials wait for it, and it is quicker.
        spawn("me-nat", move || asker.run(&nat_resets))?;
        spawn("me-fetch", move || fetcher.run(&fetch_orders))?;
        let reports = parts.reports;
        spawn("me-supervisor", move || driver.run(&reports, &inputs))?;
        Ok(Self {
            supervisor,
            nat,
            now: parts.now,
            inputs: tell,
            fetch,
        })
    }

    /// Other values of the keys that apply while the process runs.
    pub(crate) fn apply(&self, settings: MeSettings, secret_bytes_max: usize) {
        // Both fail when the shards have ended.
        let _ = self.fetch.send(fetcher::Order {
            every: settings.refresh.every,
            secret_bytes_max,
            guards: Guards::of(&settings.refresh),
        });
        let _ = self.inputs.try_send(Input::Settings(Box::new(settings)));
    }

    /// What the supervisor knows at this moment.
    pub(crate) fn status(&self) -> MeStatus {
        let supervisor = self.supervisor.lock();
        let supervisor = supervisor.unwrap_or_else(PoisonError::into_inner);
        supervisor.status((self.now)())
    }

    /// The shards' clock.
    pub(crate) fn now(&self) -> Millis {
        (self.now)()
    }

    /// What is known of our public address at this moment.
    pub(crate) fn nat_status(&self) -> NatStatus {
        let nat = self.nat.lock().unwrap_or_else(PoisonError::into_inner);
        nat.status(Instant::now())
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.to_owned());
    builder.spawn(body).map(drop)
}

/// The address of the interface that would reach the Internet.
pub(crate) fn local_address(ipv6: bool) -> Option<IpAddr> {
    let detected = Detected::find();
    match ipv6 {
        false => detected.v4.map(IpAddr::V4),
        true => detected.v6.map(IpAddr::V6),
    }
}
