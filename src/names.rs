//! What the configured host names mean: a thread that resolves them, again and again, and tells
//! the shards, which never resolve.
//!
//! A name keeps its last good answer. Pins (`network.dns_overrides`) win over answers for their
//! port, and a name whose ports are all pinned is not asked for. Not here: which names there are
//! (`wiring`), what is done with addresses (`shards`). Source: protocol.md 7.3.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use shards::settings::{Host, HostPort, NameTable};

use crate::config::kinds::DnsPin;

/// The names that are kept resolved; one per process.
pub(crate) struct Names(Arc<Shared>);

/// Which addresses of a host are of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Families {
    /// IPv4 ones.
    pub(crate) ipv4: bool,
    /// IPv6 ones.
    pub(crate) ipv6: bool,
    /// IPv6 ones come first.
    pub(crate) prefer_ipv6: bool,
}

/// How the thread reaches the rest of the world; tests have one without a network.
pub(crate) struct World {
    /// Resolves a name; blocks.
    pub(crate) resolve: fn(&str) -> io::Result<Vec<IpAddr>>,
    /// Addresses of local interfaces.
    pub(crate) own: fn() -> Vec<IpAddr>,
    /// Hands out another table.
    pub(crate) publish: Publish,
}

/// Takes another table; called by the thread, must not block.
pub(crate) type Publish = Box<dyn Fn(&Arc<NameTable>) + Send>;

struct Shared {
    state: Mutex<State>,
    /// Rung when something is due, or an answer has come.
    bell: Condvar,
}

struct State {
    hosts: BTreeMap<String, Entry>,
    pins: Vec<DnsPin>,
    own: Vec<IpAddr>,
    table: Arc<NameTable>,
    stopping: bool,
}

/// One name.
struct Entry {
    /// Configuration keys that name it, each once.
    keys: Vec<String>,
    /// Ports on it that they name, each once.
    ports: Vec<u16>,
    addresses: Vec<IpAddr>,
    /// When it is looked up again, or is complained of while it is being looked up.
    due: Instant,
    looking: bool,
    /// Lookups in a row without an answer.
    failures: u32,
}

/// An answer is good for so long; the system's resolver does not tell.
const REFRESH: Duration = Duration::from_secs(60);
/// A lookup that takes longer counts as failed; its answer is still taken when it comes.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after the first failure; doubled up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(2);
/// Interfaces are listed this often (protocol.md 7.3).
const OWN_REFRESH: Duration = Duration::from_secs(300);
/// Lookups at a time: each is a thread.
const LOOKUPS_MAX: usize = 8;
/// Addresses kept of a name.
const ADDRESSES_MAX: usize = 8;

impl Names {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start(families: Families, world: World) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                hosts: BTreeMap::new(),
                pins: Vec::new(),
                own: (world.own)(),
                table: Arc::default(),
                stopping: false,
            }),
            bell: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || own.run(families, &world))?;
        Ok(Self(shared))
    }

    /// Keeps these names resolved from now on, beside those of earlier calls; each comes behind the
    /// configuration key that it is from. Addresses are left out: they mean themselves.
    pub(crate) fn watch(&self, hosts: impl IntoIterator<Item = (String, HostPort)>) {
        let mut state = self.0.state();
        for (key, at) in hosts {
            if let Host::Name(name) = at.host {
                state.watch(&name, at.port, key, Instant::now());
            }
        }
        self.0.bell.notify_all();
    }

    /// Replaces all pins.
    pub(crate) fn pin(&self, pins: &[DnsPin]) {
        self.0.state().pins = pins.to_vec();
        self.0.bell.notify_all();
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.0.state().stopping = true;
        self.0.bell.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self: Arc<Self>, families: Families, world: &World) {
        let mut own_due = Instant::now() + OWN_REFRESH;
        let mut state = self.state();
        while !state.stopping {
            let now = Instant::now();
            if own_due <= now {
                state.own = (world.own)();
                own_due = now + OWN_REFRESH;
            }
            for name in state.take_due(now) {
                self.look_up(name, families, world.resolve);
            }
            if let Some(table) = state.changed() {
                // Posting never blocks.
                (world.publish)(&table);
            }
            let next = state.next_due().map_or(own_due, |due| due.min(own_due));
            let pause = next.saturating_duration_since(now).max(PAUSE_MIN);
            let waited = self.bell.wait_timeout(state, pause);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Starts a lookup on a thread of its own: the system's resolver blocks for as long as it
    /// likes, and other names shall not wait for it.
    fn look_up(
        self: &Arc<Self>,
        name: String,
        families: Families,
        resolve: fn(&str) -> io::Result<Vec<IpAddr>>,
    ) {
        let shared = Arc::clone(self);
        let own_name = name.clone();
        let spawned = thread::Builder::new()
            .name("name-lookup".to_owned())
            .spawn(move || {
                let answer = resolve(&own_name).map(|all| families.choose(all));
                shared.state().answered(&own_name, answer, Instant::now());
                shared.bell.notify_all();
            });
        if let Err(error) = spawned {
            tracing::debug!(%error, name, "no thread for a lookup");
        }
    }
}

impl State {
    fn watch(&mut self, name: &str, port: u16, key: String, now: Instant) {
        let entry = self.hosts.entry(name.to_owned()).or_insert_with(|| Entry {
            keys: Vec::new(),
            ports: Vec::new(),
            addresses: Vec::new(),
            due: now,
            looking: false,
            failures: 0,
        });
        if !entry.keys.contains(&key) {
            entry.keys.push(key);
        }
        if !entry.ports.contains(&port) {
            entry.ports.push(port);
        }
    }

    /// Names to look up now, marked as being looked up; complains of lookups that take too long.
    fn take_due(&mut self, now: Instant) -> Vec<String> {
        let looking = self.hosts.values().filter(|entry| entry.looking).count();
        let mut room = LOOKUPS_MAX.saturating_sub(looking);
        let mut due = Vec::new();
        for (name, entry) in &mut self.hosts {
            if entry.due > now {
                continue;
            }
            if entry.looking {
                entry.due = now + REFRESH;
                entry.failed(name, "no answer within 5 s");
            } else if room > 0 && !entry.is_pinned(name, &self.pins) {
                room -= 1;
                entry.looking = true;
                entry.due = now + PATIENCE;
                due.push(name.clone());
            }
        }
        due
    }

    fn answered(&mut self, name: &str, answer: io::Result<Vec<IpAddr>>, now: Instant) {
        let Some(entry) = self.hosts.get_mut(name) else {
            return;
        };
        entry.looking = false;
        match answer {
            Ok(addresses) if !addresses.is_empty() => {
                if entry.failures > 0 {
                    tracing::info!("{name} has an address again");
                }
                entry.failures = 0;
                entry.addresses = addresses;
                entry.due = now + REFRESH;
            }
            Ok(_) => entry.failed_at(now, name, "it has no address of a family that is on"),
            Err(error) => entry.failed_at(now, name, &error.to_string()),
        }
    }

    /// The new table, if it is another one than before.
    fn changed(&mut self) -> Option<Arc<NameTable>> {
        let hosts = self.hosts.iter();
        let resolved = hosts.filter(|(_, entry)| !entry.addresses.is_empty());
        let pins = self.pins.iter();
        let table = NameTable::new(
            resolved.map(|(name, entry)| (name.clone(), entry.addresses.clone())),
            pins.map(|pin| (pin.host.clone(), pin.port, pin.ip)),
            self.own.clone(),
        );
        if table == *self.table {
            return None;
        }
        self.table = Arc::new(table);
        Some(Arc::clone(&self.table))
    }

    /// When a name is due that can be looked up, or complained of.
    fn next_due(&self) -> Option<Instant> {
        let looking = self.hosts.values().filter(|entry| entry.looking).count();
        let room = looking < LOOKUPS_MAX;
        let waiting = self
            .hosts
            .iter()
            .filter(|(name, entry)| entry.looking || (room && !entry.is_pinned(name, &self.pins)));
        waiting.map(|(_, entry)| entry.due).min()
    }
}

impl Entry {
    /// Whether nobody needs an answer: each port has a pin.
    fn is_pinned(&self, name: &str, pins: &[DnsPin]) -> bool {
        let here = |pin: &&DnsPin| Host::new(&pin.host).name() == Some(name);
        let has_pin = |port: &u16| pins.iter().filter(here).any(|pin| pin.port == *port);
        self.ports.iter().all(has_pin)
    }

    fn failed_at(&mut self, now: Instant, name: &str, why: &str) {
        self.failed(name, why);
        let pause = RETRY.saturating_mul(1 << (self.failures - 1).min(10));
        self.due = now + pause.min(REFRESH);
    }

    /// Said once in a row of failures.
    fn failed(&mut self, name: &str, why: &str) {
        self.failures += 1;
        if self.failures == 1 {
            tracing::warn!("{}", self.complaint(name, why));
        }
    }

    /// With the keys in which whoever wrote the configuration will find the name.
    fn complaint(&self, name: &str, why: &str) -> String {
        let kept = match self.addresses.is_empty() {
            true => "",
            false => "; its last address is used",
        };
        let keys = self.keys.join(", ");
        format!("cannot resolve {name} ({keys}): {why}{kept}")
    }
}

impl Families {
    /// Addresses of families that are on, the preferred one first, each once.
    fn choose(self, all: Vec<IpAddr>) -> Vec<IpAddr> {
        let mut chosen: Vec<IpAddr> = Vec::new();
        for ip in all.into_iter().map(|ip| ip.to_canonical()) {
            let on = if ip.is_ipv4() { self.ipv4 } else { self.ipv6 };
            if on && !chosen.contains(&ip) {
                chosen.push(ip);
            }
        }
        // Stable: within a family the resolver's order stays.
        chosen.sort_by_key(|ip| ip.is_ipv6() != self.prefer_ipv6);
        chosen.truncate(ADDRESSES_MAX);
        chosen
    }
}

/// Asks the system's resolver.
pub(crate) fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    Ok((name, 0).to_socket_addrs()?.map(|addr| addr.ip()).collect())
}

/// Addresses of local interfaces, IPv4-mapped IPv6 unwrapped.
pub(crate) fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let mut own: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .map(|ip| ip.to_canonical())
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}

/// The shortest wait of the thread.
const PAUSE_MIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const V4: Families = Families {
        ipv4: true,
        ipv6: false,
        prefer_ipv6: false,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn state(names: &[&str], now: Instant) -> State {
        let mut state = State {
            hosts: BTreeMap::new(),
            pins: Vec::new(),
            own: Vec::new(),
            table: Arc::default(),
            stopping: false,
        };
        for name in names {
            state.watch(name, 443, "censorship.mask_host".to_owned(), now);
        }
        state
    }

    #[test]
    fn names_are_resolved_and_told_to_whoever_asked() {
        let (tell, told) = mpsc::channel();
        let world = World {
            resolve: |name| match name {
                "mask.example" => Ok(vec![ip("192.0.2.1"), ip("2001:db8::1")]),
                _ => Err(io::Error::other("unknown")),
            },
            own: || vec![ip("10.0.0.1")],
            publish: Box::new(move |table| drop(tell.send(Arc::clone(table)))),
        };
        let names = Names::start(V4, world).unwrap();
        names.pin(&[DnsPin {
            host: "pinned.example".to_owned(),
            port: 443,
            ip: ip("192.0.2.9"),
        }]);
        let hosts = ["Mask.example", "192.0.2.5", "no.example"];
        names.watch(hosts.map(|host| (String::new(), HostPort::new(host, 443))));
        let wanted = ["mask.example:443", "pinned.example:443"].map(|at| at.parse().unwrap());
        loop {
            let table = told
                .recv_timeout(Duration::from_secs(30))
                .expect("another table");
            let [mask, pinned] = wanted.each_ref().map(|at| table.addresses(at));
            if mask == [ip("192.0.2.1")] && pinned == [ip("192.0.2.9")] {
                assert!(table.is_own(ip("10.0.0.1")));
                break;
            }
        }
    }

    #[test]
    fn a_name_keeps_its_last_good_answer() {
        let now = Instant::now();
        let mut state = state(&["a.example"], now);
        assert_eq!(state.take_due(now), ["a.example"]);
        assert!(state.take_due(now).is_empty(), "one lookup at a time");
        state.answered("a.example", Ok(vec![ip("192.0.2.1")]), now);
        assert!(state.changed().is_some());
        let later = now + REFRESH;
        assert_eq!(state.take_due(later), ["a.example"]);
        state.answered("a.example", Err(io::Error::other("down")), later);
        assert!(state.changed().is_none(), "nothing changed");
        let entry = &state.hosts["a.example"];
        assert_eq!(entry.addresses, [ip("192.0.2.1")]);
        assert_eq!(entry.due, later + RETRY);
    }

    #[test]
    fn complaints_tell_which_keys_are_meant() {
        let now = Instant::now();
        let mut state = state(&["a.example"], now);
        for key in ["upstreams[2].address", "censorship.mask_host"] {
            state.watch("a.example", 443, key.to_owned(), now);
        }
        let complaint = |state: &State| state.hosts["a.example"].complaint("a.example", "why");
        let keys = "censorship.mask_host, upstreams[2].address";
        let text = format!("cannot resolve a.example ({keys}): why");
        assert_eq!(complaint(&state), text);
        state.take_due(now);
        state.answered("a.example", Ok(vec![ip("192.0.2.1")]), now);
        assert_eq!(complaint(&state), text + "; its last address is used");
    }

    #[test]
    fn slow_lookups_hold_up_no_other_name() {
        let now = Instant::now();
        let many: Vec<String> = (0..20).map(|n| format!("n{n}.example")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut state = state(&many, now);
        assert_eq!(state.take_due(now).len(), LOOKUPS_MAX);
        assert_eq!(state.next_due(), Some(now + PATIENCE), "no room before");
        let late = now + PATIENCE;
        assert!(state.take_due(late).is_empty());
        state.answered("n0.example", Ok(vec![ip("192.0.2.1")]), late);
        assert_eq!(state.take_due(late).len(), 1);
    }

    #[test]
    fn names_are_looked_up_for_ports_without_a_pin_only() {
        let now = Instant::now();
        let mut state = state(&["a.example", "b.example"], now);
        let pin = |port| DnsPin {
            host: "A.Example.".to_owned(),
            port,
            ip: ip("192.0.2.9"),
        };
        state.pins = vec![pin(443), pin(80)];
        assert_eq!(state.take_due(now), ["b.example"]);
        assert_eq!(state.next_due(), Some(now + PATIENCE), "of the other one");
        state.watch("a.example", 8443, "upstreams[0].address".to_owned(), now);
        assert_eq!(state.next_due(), Some(now));
        state.pins.push(pin(8443));
        assert!(state.take_due(now).is_empty());
        // A reload that takes the pins away.
        state.pins.truncate(2);
        assert_eq!(state.take_due(now), ["a.example"]);
    }

    #[test]
    fn families_that_are_off_are_left_out() {
        let both = Families {
            ipv4: true,
            ipv6: true,
            prefer_ipv6: true,
        };
        let all = || {
            ["192.0.2.1", "::1", "192.0.2.1", "::ffff:192.0.2.2"]
                .map(ip)
                .to_vec()
        };
        assert_eq!(
            both.choose(all()),
            ["::1", "192.0.2.1", "192.0.2.2"].map(ip)
        );
        assert_eq!(V4.choose(all()), ["192.0.2.1", "192.0.2.2"].map(ip));
    }

    #[test]
    fn own_addresses_have_loopback() {
        assert!(own_addresses().contains(&ip("127.0.0.1")));
    }
}
