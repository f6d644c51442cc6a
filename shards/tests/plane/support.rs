//! A proxy with test settings.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::{Duration, Instant},
};

use shards::{
    Control, Mailbox, Plane,
    control::{Command, ShardSnapshot, merge_snapshots},
    counters::UserCounters,
    me::{MeLink, Plan, Report},
    proto::{dc::DcTable, secret::Secret},
    settings::{
        BufferSettings, HotSettings, ListenerSettings, Modes, Parking, PlaceSettings,
        PlaneSettings, ProxySettings, RateSettings, ReplaySettings, RouteSettings, RstOnClose,
        Settings, Steering, TimeoutSettings, TlsSettings, UnknownSni, UpstreamSettings,
        UserSettings,
    },
};

pub(crate) const SECRET: Secret = Secret([0x42; 16]);
pub(crate) const DOMAIN: &str = "www.example.com";
/// The DC that clients of these tests ask for.
pub(crate) const DC: i16 = 4;
/// What everything has to happen within.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A running proxy; stopped when dropped.
pub(crate) struct Proxy {
    plane: Option<Plane>,
    mailboxes: Vec<Mailbox>,
    /// What it runs with, and the way to change that.
    live: Mutex<Live>,
    pub(crate) addr: SocketAddr,
}

/// Between a plane and who supervises its MEs.
pub(crate) struct MeDoors {
    pub(crate) reports: async_channel::Receiver<Report>,
    pub(crate) link: MeLink,
    pub(crate) clock: shards::Clock,
}

/// Users and hot settings in force.
pub(crate) struct Live {
    pub(crate) users: Vec<UserSettings>,
    pub(crate) hot: HotSettings,
    pub(crate) control: Control,
}

impl Proxy {
    /// Starts with the test's own settings on top of [`settings`].
    pub(crate) fn start(dc: SocketAddr, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = settings(dc);
        change(&mut settings);
        let (users, hot) = (settings.users.to_vec(), settings.hot.clone());
        let mut plane = shards::start(settings).expect("a plane");
        let control = plane.control().expect("asked once");
        assert!(plane.control().is_none());
        Self {
            live: Mutex::new(Live {
                users,
                hot,
                control,
            }),
            mailboxes: plane.mailboxes(),
            addr: plane.addrs()[0],
            plane: Some(plane),
        }
    }

    /// What a supervisor needs.
    pub(crate) fn me_doors(&self) -> MeDoors {
        let plane = self.plane.as_ref().expect("it runs");
        MeDoors {
            reports: plane.me_reports().expect("it may use MEs"),
            link: plane.me_link().expect("it may use MEs"),
            clock: plane.clock(),
        }
    }

    /// Gives every shard another plan.
    pub(crate) fn post(&self, plan: &Plan) {
        let plane = self.plane.as_ref().expect("it runs");
        plane
            .me_link()
            .expect("it may use MEs")
            .post(&Arc::new(plan.clone()));
    }

    /// Users and hot settings.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("no test panics meanwhile")
    }

    /// Changes users or hot settings, on every shard.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Vec<UserSettings>, &mut HotSettings)) {
        self.update_keeping(false, change);
    }

    /// The same; with `keep` nobody's sessions end.
    pub(crate) fn update_keeping(
        &self,
        keep: bool,
        change: impl FnOnce(&mut Vec<UserSettings>, &mut HotSettings),
    ) {
        let live = &mut *self.live();
        change(&mut live.users, &mut live.hot);
        let updating = live.control.update(&live.users, &live.hot, keep);
        assert!(updating.wait(LIMIT), "every shard applies an update");
    }

    /// The counters of one user.
    pub(crate) fn user(&self, name: &str) -> UserCounters {
        let names = self.live().control.names();
        let id = names.iter().position(|known| **known == *name);
        self.snapshot().users[id.expect("a known user")]
    }

    /// Quota used by the only user that has one.
    pub(crate) fn quota_used(&self) -> u64 {
        let quotas = self.live().control.quotas();
        assert_eq!(quotas.len(), 1);
        quotas[0].used_bytes
    }

    /// All counters, of all shards together.
    pub(crate) fn snapshot(&self) -> ShardSnapshot {
        let (reply, replies) = async_channel::bounded(self.mailboxes.len());
        for mailbox in &self.mailboxes {
            assert!(mailbox.post(Command::Snapshot {
                reply: reply.clone()
            }));
        }
        let parts = self
            .mailboxes
            .iter()
            .map(|_| replies.recv_blocking().expect("a live shard"));
        merge_snapshots(parts).expect("a shard")
    }

    /// One of the counters, shard by shard.
    pub(crate) fn by_shard(&self, counter: impl Fn(&ShardSnapshot) -> u64) -> Vec<u64> {
        let one = |mailbox: &Mailbox| {
            let (reply, replies) = async_channel::bounded(1);
            assert!(mailbox.post(Command::Snapshot { reply }));
            counter(&replies.recv_blocking().expect("a live shard"))
        };
        self.mailboxes.iter().map(one).collect()
    }

    /// Waits until the counters say so.
    pub(crate) fn until(
        &self,
        what: &str,
        mut holds: impl FnMut(&ShardSnapshot) -> bool,
    ) -> ShardSnapshot {
        let begun = Instant::now();
        loop {
            let now = self.snapshot();
            if holds(&now) {
                return now;
            }
            assert!(begun.elapsed() < LIMIT, "not within limit: {what}\n{now:?}");
            pause(5);
        }
    }

    /// Waits until no connection is left, and looks at every gauge.
    pub(crate) fn until_idle(&self) -> ShardSnapshot {
        let idle = self.until("no connection", |now| now.core.connections_current == 0);
        assert_eq!(idle.core.sessions_current, 0);
        assert_eq!(idle.core.internal_errors_total, 0);
        assert!(idle.users.iter().all(|user| user.current_connections == 0));
        assert!(idle.user_ips.iter().all(|row| row.active == 0));
        idle
    }

    pub(crate) fn tell(&self, command: impl Fn() -> Command) {
        for mailbox in &self.mailboxes {
            assert!(mailbox.post(command()));
        }
    }

    /// Posts a hundred of them to every shard, whether there is room or not.
    pub(crate) fn flood(&self, command: impl Fn() -> Command) {
        for mailbox in &self.mailboxes {
            for _ in 0..100 {
                let _ = mailbox.post(command());
            }
        }
    }

    /// Waits until every shard has ended.
    pub(crate) fn join(mut self) {
        if let Some(plane) = self.plane.take() {
            plane.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(plane) = self.plane.take() {
            plane.stop();
            plane.join();
        }
    }
}

/// One shard on core 0, everything allowed, limits longer than any test.
pub(crate) fn settings(dc: SocketAddr) -> Settings {
    let long = Duration::from_secs(60);
    Settings {
        plane: PlaneSettings {
            cores: vec![0],
            spin: Duration::ZERO,
            steering: Steering::Hash,
            buffers: BufferSettings {
                small_bytes: 4096,
                small_count: 1024,
                large_bytes: 131_072,
                large_count: 64,
                queue_bytes_max: 524_288,
                spill_bytes_max: 64 << 20,
            },
            connections_max: 100_000,
            drain: long,
            parking: Parking::Ring,
            rst_on_close: RstOnClose::Off,
            fingerprints: true,
            observe: Some(Duration::from_secs(600)),
        },
        listeners: vec![listener()],
        unix: None,
        proxy: ProxySettings {
            trusted: Arc::new([]),
            header_timeout: long,
        },
        places: PlaceSettings {
            connections_max: 100_000,
            wait: None,
        },
        modes: Modes {
            classic: true,
            secure: true,
            tls: true,
        },
        mask: None,
        tls: TlsSettings {
            domains: vec![DOMAIN.to_owned()],
            unknown_sni: UnknownSni::Mask,
            skew_secs_max: Some(120),
            hello_delay_ms: (0, 0),
            flight_bytes: (1024, 4096),
            alpn_enforce: true,
            record_ramp: false,
            compact_ttl: None,
        },
        timeouts: timeouts(long),
        replay: ReplaySettings {
            entries: 65_536,
            window: Duration::from_secs(600),
        },
        upstream: UpstreamSettings {
            dcs: DcTable {
                overrides: BTreeMap::from([(DC, vec![dc])]),
                ..DcTable::builtin()
            },
            ipv4: true,
            ipv6: false,
            prefer_ipv6: false,
            routes: vec![RouteSettings::direct(true, false, false)],
            fast_mode: true,
            connect_timeout: Duration::from_secs(5),
            connect_retries: 2,
            connect_backoff: Duration::from_millis(10),
            connect_budget: Duration::from_secs(5),
            failfast_hard_errors: false,
            unhealthy_fails: 3,
            probe_every: Duration::ZERO,
        },
        me: None,
        hot: HotSettings::default(),
        users: Arc::new([user("one", Secret([1; 16])), user("two", SECRET)]),
    }
}

/// All phases may take so long.
fn timeouts(long: Duration) -> TimeoutSettings {
    TimeoutSettings {
        first_byte: long,
        handshake: long,
        inner_header: long,
        idle: long,
        half_close: long,
        keepalive: Duration::ZERO,
        client_ack: Duration::ZERO,
    }
}

/// Any port of the loopback.
fn listener() -> ListenerSettings {
    ListenerSettings {
        addr: ([127, 0, 0, 1], 0).into(),
        backlog: 4096,
        proxy: false,
        mss: None,
        shared: false,
    }
}

pub(crate) fn user(name: &str, secret: Secret) -> UserSettings {
    UserSettings {
        name: name.into(),
        secret,
        enabled: true,
        connections_max: 0,
        expires_at: None,
        quota_bytes: None,
        unique_ips_max: 0,
        source_deny: Vec::new(),
        rate: RateSettings::default(),
        quota_used_bytes: 0,
        ad_tag: None,
    }
}

/// Waits on this thread alone.
pub(crate) fn pause(ms: u64) {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_millis(ms));
}

/// Runs `work` so many times at once; passes on what fails.
pub(crate) fn at_once(count: u64, work: impl Fn(u64) + Sync) {
    thread::scope(|scope| {
        for index in 0..count {
            let work = &work;
            scope.spawn(move || work(index));
        }
    });
}
