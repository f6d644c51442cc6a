//! What all endpoints of a fake share: secrets, the map, the clock, what was seen, and the files
//! that tell a proxy of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::stats::{Opened, SeenClient};

/// What is served over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Page {
    /// `getProxySecret`.
    Secret,
    /// `getProxyConfig`, IPv4.
    ConfigV4,
    /// `getProxyConfigV6`.
    ConfigV6,
}

impl Page {
    /// All pages.
    pub const ALL: [Page; 3] = [Page::Secret, Page::ConfigV4, Page::ConfigV6];

    /// Where it is served.
    pub fn path(self) -> &'static str {
        match self {
            Page::Secret => "/getProxySecret",
            Page::ConfigV4 => "/getProxyConfig",
            Page::ConfigV6 => "/getProxyConfigV6",
        }
    }

    /// The file that [`super::FakeMe::write_files`] makes of it.
    pub fn file(self) -> &'static str {
        match self {
            Page::Secret => "proxy-secret",
            Page::ConfigV4 => "proxy-config-v4.txt",
            Page::ConfigV6 => "proxy-config-v6.txt",
        }
    }
}

/// What a page says in place of what is true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// HTTP status.
    pub status: u16,
    /// Body; the true one when `None`.
    pub body: Option<Vec<u8>>,
}

/// Shared state.
#[derive(Debug)]
pub(super) struct World {
    /// Those that MEs accept, the published one first.
    secrets: Mutex<Vec<Vec<u8>>>,
    map: Mutex<BTreeMap<i16, Vec<SocketAddr>>>,
    said: Mutex<BTreeMap<Page, Said>>,
    seen: Mutex<Vec<SeenClient>>,
    opened: Mutex<Vec<Opened>>,
    connections: AtomicU64,
    clock_offset_secs: AtomicI64,
    pub(super) fetched: [AtomicU64; 3],
}

impl World {
    pub(super) fn new() -> World {
        World {
            secrets: Mutex::new(vec![new_secret()]),
            map: Mutex::default(),
            said: Mutex::default(),
            seen: Mutex::default(),
            opened: Mutex::default(),
            connections: AtomicU64::new(0),
            clock_offset_secs: AtomicI64::new(0),
            fetched: Default::default(),
        }
    }

    pub(super) fn secrets(&self) -> Vec<Vec<u8>> {
        locked(&self.secrets).clone()
    }

    /// A new secret is published; old ones stay good if `keep_old`.
    pub(super) fn rotate_secret(&self, keep_old: bool) {
        let mut secrets = locked(&self.secrets);
        if !keep_old {
            secrets.clear();
        }
        secrets.insert(0, new_secret());
    }

    pub(super) fn set_map(&self, map: BTreeMap<i16, Vec<SocketAddr>>) {
        *locked(&self.map) = map;
    }

    pub(super) fn map(&self) -> BTreeMap<i16, Vec<SocketAddr>> {
        locked(&self.map).clone()
    }

    pub(super) fn say(&self, page: Page, said: Option<Said>) {
        let mut all = locked(&self.said);
        match said {
            Some(said) => all.insert(page, said),
            None => all.remove(&page),
        };
    }

    /// Status and body of a page as it is served now.
    pub(super) fn served(&self, page: Page) -> (u16, Vec<u8>) {
        match locked(&self.said).get(&page).cloned() {
            Some(Said { status, body }) => (status, body.unwrap_or_else(|| self.truth(page))),
            None => (200, self.truth(page)),
        }
    }

    /// A page as it should be.
    pub(super) fn truth(&self, page: Page) -> Vec<u8> {
        match page {
            Page::Secret => locked(&self.secrets).first().cloned().unwrap_or_default(),
            Page::ConfigV4 => self.config(false).into_bytes(),
            Page::ConfigV6 => self.config(true).into_bytes(),
        }
    }

    fn config(&self, ipv6: bool) -> String {
        let mut text = String::from("# force_probability 10 10\ndefault 2;\n");
        for (dc, addrs) in locked(&self.map).iter() {
            for addr in addrs.iter().filter(|addr| addr.is_ipv6() == ipv6) {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "proxy_for {dc} {addr};");
            }
        }
        text
    }

    pub(super) fn write_files(&self, dir: &Path) -> io::Result<()> {
        for page in Page::ALL {
            std::fs::write(dir.join(page.file()), self.truth(page))?;
        }
        Ok(())
    }

    pub(super) fn record(&self, seen: SeenClient) {
        let mut list = locked(&self.seen);
        if list.len() < SEEN_MAX {
            list.push(seen);
        }
    }

    pub(super) fn seen(&self) -> Vec<SeenClient> {
        locked(&self.seen).clone()
    }

    pub(super) fn forget_seen(&self) {
        locked(&self.seen).clear();
    }

    /// Numbers a connection whose handshake is done.
    pub(super) fn open(&self, endpoint: SocketAddr) -> u64 {
        let connection = self.connections.fetch_add(1, Relaxed);
        let mut list = locked(&self.opened);
        if list.len() < SEEN_MAX {
            list.push(Opened {
                endpoint,
                connection,
                at: Instant::now(),
            });
        }
        connection
    }

    pub(super) fn opened(&self) -> Vec<Opened> {
        locked(&self.opened).clone()
    }

    pub(super) fn set_clock_offset(&self, secs: i64) {
        self.clock_offset_secs.store(secs, Relaxed);
    }

    /// The clock of all endpoints and of the HTTP server.
    pub(super) fn unix_secs(&self) -> u32 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs()).cast_signed();
        let offset = self.clock_offset_secs.load(Relaxed);
        u32::try_from(now + offset).unwrap_or(0)
    }
}

/// As long as today's; its first bytes are the selector, which is not zero.
fn new_secret() -> Vec<u8> {
    let mut secret = vec![0; 128];
    rand::fill(&mut secret[..]);
    if let Some(first) = secret.first_mut() {
        *first |= 1;
    }
    secret
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients kept for [`super::FakeMe::seen`], and connections.
pub const SEEN_MAX: usize = 100_000;
