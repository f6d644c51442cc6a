//! Middle proxies (MEs) of any number of DCs on loopback, and the files and pages that tell a proxy
//! of them. On a thread of their own, with switches for what can go wrong at real ones.
//!
//! Follows the specification from its own side; clients behind it are answered as by
//! [`fake_dc`](crate::fake_dc), so that all loads run through it. Used by the bench and by
//! end-to-end tests.

mod beginning;
mod clients;
mod connection;
mod endpoint;
mod fault;
mod http;
mod keys;
mod requests;
mod stats;
mod world;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

pub use fault::{Ending, Fault, Order};
pub use stats::{MeStats, Opened, SeenClient};
pub use world::{Page, SEEN_MAX, Said};

use endpoint::{Endpoint, listen};
use world::World;

/// Running fake MEs; they end, with all their connections, when this is dropped.
#[derive(Debug)]
pub struct FakeMe {
    world: Arc<World>,
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
    http: SocketAddr,
    runtime: tokio::runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeMe {
    /// Starts an endpoint on each of these addresses, on free ports; the map names them all. Serves
    /// from a new thread.
    ///
    /// # Errors
    /// An address cannot be listened on, or no thread be started.
    pub fn start(groups: &[(i16, &[IpAddr])]) -> io::Result<FakeMe> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("fake-me".into())
            .spawn(move || {
                // Ends also when the owner is gone without a word.
                let _ = runtime.block_on(stopped);
            })?;
        let world = Arc::new(World::new());
        let pages = listen_anywhere(Ipv4Addr::LOCALHOST.into())?;
        let http = pages.local_addr()?;
        handle.spawn(http::run(pages, Arc::clone(&world)));
        let me = FakeMe {
            world,
            endpoints: Mutex::default(),
            http,
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
        };
        let mut map: BTreeMap<i16, Vec<SocketAddr>> = BTreeMap::new();
        for (dc, ips) in groups {
            for ip in *ips {
                map.entry(*dc).or_default().push(me.add(*dc, *ip)?);
            }
        }
        me.world.set_map(map);
        Ok(me)
    }

    /// DCs 1 to 5 with so many IPv4 endpoints each (at most 40), on 127.0.0.x.
    ///
    /// # Errors
    /// As [`FakeMe::start`].
    pub fn five_dcs(endpoints_each: u8) -> io::Result<FakeMe> {
        let ips: Vec<(i16, Vec<IpAddr>)> = (1..=5_u8)
            .map(|dc| {
                let last = |n: u8| dc * 40 + n;
                let ips = (0..endpoints_each.min(40)).map(|n| [127, 0, 0, last(n)].into());
                (i16::from(dc), ips.collect())
            })
            .collect();
        let groups: Vec<(i16, &[IpAddr])> = ips.iter().map(|(dc, ips)| (*dc, &ips[..])).collect();
        FakeMe::start(&groups)
    }

    /// One more endpoint, on a free port, which the map does not name yet. Clients that ask hear
    /// that they are at `dc`.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn add(&self, dc: i16, ip: IpAddr) -> io::Result<SocketAddr> {
        let listener = listen_anywhere(ip)?;
        let addr = listener.local_addr()?;
        let endpoint = Arc::new(Endpoint::new(addr, dc, Arc::clone(&self.world)));
        self.runtime.spawn(Arc::clone(&endpoint).run(listener));
        self.all().push(endpoint);
        Ok(addr)
    }

    /// All endpoints in the order they were added, those that refuse too.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.all().iter().map(|endpoint| endpoint.addr).collect()
    }

    /// Which endpoints the files and pages name.
    pub fn map(&self) -> BTreeMap<i16, Vec<SocketAddr>> {
        self.world.map()
    }

    /// Names others from now on.
    pub fn set_map(&self, map: BTreeMap<i16, Vec<SocketAddr>>) {
        self.world.set_map(map);
    }

    /// Sets what goes wrong at one endpoint from now on, for new connections and where it applies
    /// for open ones. After [`Fault::Refuse`] its port is closed when this returns, and open again
    /// when another fault is set.
    pub fn set_fault(&self, endpoint: SocketAddr, fault: Fault) {
        for one in self.find(endpoint) {
            one.set_fault(fault);
        }
    }

    /// Sets what goes wrong at all endpoints.
    pub fn set_fault_everywhere(&self, fault: Fault) {
        for endpoint in self.endpoints() {
            self.set_fault(endpoint, fault);
        }
    }

    /// Tells all open connections of an endpoint; returns how many there are.
    pub fn order(&self, endpoint: SocketAddr, order: Order) -> usize {
        let found = self.find(endpoint);
        found.iter().map(|endpoint| endpoint.order(order)).sum()
    }

    /// Tells all open connections of all endpoints; returns how many there are.
    pub fn order_everywhere(&self, order: Order) -> usize {
        let all = self.all().clone();
        all.iter().map(|endpoint| endpoint.order(order)).sum()
    }

    /// Tells the connection that a client came through; false if it is gone.
    pub fn order_connection(&self, seen: &SeenClient, order: Order) -> bool {
        let found = self.find(seen.endpoint);
        let mut found = found.iter();
        found.any(|endpoint| endpoint.order_one(seen.connection, order))
    }

    /// Counts of one endpoint.
    pub fn stats(&self, endpoint: SocketAddr) -> MeStats {
        let found = self.find(endpoint);
        let first = found.first();
        first.map_or_else(MeStats::default, |endpoint| endpoint.counters.snapshot())
    }

    /// Counts of all endpoints together.
    pub fn total(&self) -> MeStats {
        let mut total = MeStats::default();
        for endpoint in self.all().iter() {
            total += endpoint.counters.snapshot();
        }
        total
    }

    /// Clients in the order they came; the first [`SEEN_MAX`] are kept.
    pub fn seen(&self) -> Vec<SeenClient> {
        self.world.seen()
    }

    /// Forgets the clients seen until now.
    pub fn forget_seen(&self) {
        self.world.forget_seen();
    }

    /// Connections in the order their handshakes were done; the first [`SEEN_MAX`] are kept.
    pub fn opened(&self) -> Vec<Opened> {
        self.world.opened()
    }

    /// Publishes a new secret; the endpoints go on taking the old ones too if `keep_old`.
    pub fn rotate_secret(&self, keep_old: bool) {
        self.world.rotate_secret(keep_old);
    }

    /// Puts the clock of all endpoints and pages off by so many seconds. An endpoint whose clock
    /// differs by more than 30 s from the proxy's closes without a word.
    pub fn set_clock_offset(&self, secs: i64) {
        self.world.set_clock_offset(secs);
    }

    /// The address of a page, for the proxy's configuration.
    pub fn url(&self, page: Page) -> String {
        format!("http://{}{}", self.http, page.path())
    }

    /// Makes a page say something else; the truth again with `None`.
    pub fn say(&self, page: Page, said: Option<Said>) {
        self.world.say(page, said);
    }

    /// How often a page was fetched.
    pub fn fetched(&self, page: Page) -> u64 {
        let count = self.world.fetched.get(page as usize);
        count.map_or(0, |count| count.load(Relaxed))
    }

    /// Writes what the pages say into `dir`, under the names of [`Page::file`].
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write_files(&self, dir: &Path) -> io::Result<()> {
        self.world.write_files(dir)
    }

    /// The keys of a configuration, as `table.key` with values in TOML, that make a proxy use these
    /// MEs and nothing outside this machine. Its caches are the files in `dir`.
    pub fn config_keys(&self, dir: &Path) -> Vec<(String, String)> {
        let mut keys: Vec<(String, String)> = FIXED
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        for (page, url, path) in [
            (Page::Secret, "proxy_secret_url", "proxy_secret_path"),
            (
                Page::ConfigV4,
                "proxy_config_v4_url",
                "proxy_config_v4_cache_path",
            ),
            (
                Page::ConfigV6,
                "proxy_config_v6_url",
                "proxy_config_v6_cache_path",
            ),
        ] {
            let file = dir.join(page.file());
            keys.push((format!("general.{url}"), format!("{:?}", self.url(page))));
            keys.push((format!("general.{path}"), format!("{file:?}")));
        }
        keys
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Endpoint>>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, addr: SocketAddr) -> Vec<Arc<Endpoint>> {
        let all = self.all();
        let found = all.iter().filter(|endpoint| endpoint.addr == addr);
        found.cloned().collect()
    }
}

impl Drop for FakeMe {
    fn drop(&mut self) {
        // Dropping the sender is word enough.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed and shows as broken connections here.
            let _ = thread.join();
        }
    }
}

/// What the fake confirms a request of this id with: bit 31 is set, as clients want it, and no two
/// bytes are alike.
pub fn confirm(id: u32) -> u32 {
    id.wrapping_mul(0x9e37_79b1) ^ 0x0102_0304 | 1 << 31
}

const FIXED: [(&str, &str); 5] = [
    ("general.use_middle_proxy", "true"),
    ("general.middle_proxy_nat_probe", "false"),
    ("network.stun_use", "false"),
    ("network.stun_servers", "[]"),
    ("network.http_ip_detect_urls", "[]"),
];

/// A port below those that the kernel gives to connecting sockets, so that it can be closed and
/// opened again.
fn listen_anywhere(ip: IpAddr) -> io::Result<std::net::TcpListener> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..200 {
        let port = 20_000 + rand::random::<u16>() % 12_000;
        match listen(SocketAddr::new(ip, port)) {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(last)
}
