//! A control plane that says what it was told to say.

use std::sync::{Arc, Mutex};

use admin::{
    Build, ControlPlane, MeStartup, MeView, PlaneSnapshot, Process, Reloads, Running, Startup,
    StepStatus, Transport, UpstreamInfo,
};
use shards::{
    control::{
        DcRow, FamilyState, FingerprintRow, FingerprintScope, ShardSnapshot, TlsFingerprints,
        UpstreamRow, UserIpRow,
    },
    counters::{BadClass, UserCounters},
    proto::faketls::fingerprint::Fingerprint,
};

/// Says what its fields hold.
pub(crate) struct CannedPlane {
    pub(crate) process: Process,
    pub(crate) running: Mutex<Arc<Running>>,
    pub(crate) snapshot: Mutex<Option<Arc<PlaneSnapshot>>>,
    pub(crate) me: Mutex<Option<Arc<MeView>>>,
    pub(crate) me_startup: Mutex<MeStartup>,
    pub(crate) transport: Mutex<Transport>,
    pub(crate) startup: Startup,
    pub(crate) reloads: Reloads,
}

impl CannedPlane {
    /// Ready, direct, one user with two sessions.
    pub(crate) fn busy() -> Self {
        let build = Build {
            version: "0.1.0",
            target_arch: std::env::consts::ARCH,
            target_os: std::env::consts::OS,
            build_profile: "test",
            ..Build::default()
        };
        let running = Running {
            users: vec!["alice".into()].into(),
            upstreams: vec![UpstreamInfo::direct()],
            ..Running::default()
        };
        let startup = Startup::new(&[("config", "Configuration"), ("shards", "Shards")]);
        startup.begin("config");
        startup.finish("config", StepStatus::Ready, Some("canned".to_owned()));
        startup.ready();
        Self {
            process: Process::starting(build, "/etc/pinnace/config.toml".to_owned()),
            running: Mutex::new(Arc::new(running)),
            snapshot: Mutex::new(Some(Arc::new(snapshot()))),
            me: Mutex::new(None),
            me_startup: Mutex::new(MeStartup::skipped()),
            transport: Mutex::new(Transport::direct()),
            startup,
            reloads: Reloads::default(),
        }
    }

    /// Runs with these users from now on; their ids are their places.
    pub(crate) fn set_users(&self, names: impl Iterator<Item = String>) {
        let mut running = self.running.lock().unwrap();
        Arc::make_mut(&mut running).users = names.map(Arc::from).collect();
    }

    pub(crate) fn set_snapshot(&self, change: impl FnOnce(&mut ShardSnapshot)) {
        let mut all = snapshot();
        change(&mut all.total);
        *self.snapshot.lock().unwrap() = Some(Arc::new(all));
    }
}

impl ControlPlane for CannedPlane {
    fn process(&self) -> &Process {
        &self.process
    }

    fn running(&self) -> Arc<Running> {
        Arc::clone(&self.running.lock().unwrap())
    }

    fn snapshot(&self) -> Option<Arc<PlaneSnapshot>> {
        self.snapshot.lock().unwrap().clone()
    }

    fn tls_fingerprints(&self) -> Option<TlsFingerprints> {
        Some(fingerprints())
    }

    fn me(&self) -> Option<Arc<MeView>> {
        self.me.lock().unwrap().clone()
    }

    fn me_startup(&self) -> MeStartup {
        self.me_startup.lock().unwrap().clone()
    }

    fn transport(&self) -> Transport {
        *self.transport.lock().unwrap()
    }

    fn startup(&self) -> &Startup {
        &self.startup
    }

    fn reloads(&self) -> Reloads {
        self.reloads
    }
}

fn snapshot() -> PlaneSnapshot {
    let ip = |last| std::net::IpAddr::from([198, 51, 100, last]);
    let mut total = ShardSnapshot {
        accepting: true,
        ..ShardSnapshot::default()
    };
    total.core.connections_total = (1 << 53) + 1;
    total.core.connections_bad_total = 3;
    total.bad_by_class[BadClass::NotOurs as usize] = 2;
    total.bad_by_class[BadClass::ClosedEarly as usize] = 1;
    total.failures_by_class[4] = 2;
    total.failures_by_stage[0] = 2;
    total.upstream.connect_attempt_total = 7;
    total.users = vec![UserCounters {
        current_connections: 2,
        connections_total: 9,
        octets_from_client: 1_000,
        octets_to_client: 2_000,
    }];
    total.user_ips = vec![
        UserIpRow {
            user: 0,
            ip: ip(9),
            active: 2,
            idle_ms: 10,
        },
        UserIpRow {
            user: 0,
            ip: ip(3),
            active: 0,
            idle_ms: 20_000,
        },
        UserIpRow {
            user: 0,
            ip: ip(4),
            active: 0,
            idle_ms: 90_000,
        },
    ];
    total.upstreams = vec![UpstreamRow {
        healthy: true,
        fails: 0,
        last_check_ms: Some(1_500),
        dcs: vec![
            DcRow {
                dc: 1,
                latency_ema_ms: Some(30.5),
                v4: FamilyState::Works,
                v6: FamilyState::Fails,
            },
            DcRow {
                dc: 2,
                latency_ema_ms: None,
                v4: FamilyState::Unknown,
                v6: FamilyState::Unknown,
            },
        ],
    }];
    PlaneSnapshot {
        total,
        late_shards: 0,
    }
}

fn fingerprints() -> TlsFingerprints {
    let row = |scope, ja4: &str, auth_success, bad_or_probe| FingerprintRow {
        scope,
        kind: Fingerprint {
            ja3: "0".repeat(32),
            ja3_raw: "771,4865,0,29,0".to_owned(),
            ja4: ja4.to_owned(),
            ja4_raw: format!("{ja4}_raw"),
        },
        auth_success,
        bad_or_probe,
        first_seen_epoch_secs: 1_700_000_000,
        last_seen_epoch_secs: 1_700_000_100,
    };
    let ip = std::net::IpAddr::from([198, 51, 100, 9]);
    TlsFingerprints {
        capacity: 4_096,
        retention_secs: 21_600,
        dropped_total: 1,
        parse_error_total: 2,
        rows: vec![
            row(FingerprintScope::All, "t13d0101", 1, 0),
            row(FingerprintScope::All, "t13d0202", 5, 2),
            row(FingerprintScope::All, "t13d0303", 0, 1),
            row(FingerprintScope::Address(ip), "t13d0202", 5, 2),
            row(
                FingerprintScope::Network("198.51.100.0/24".parse().unwrap()),
                "t13d0202",
                5,
                2,
            ),
            row(FingerprintScope::User(0), "t13d0202", 5, 0),
            // Nobody has this id.
            row(FingerprintScope::User(7), "t13d0202", 9, 0),
        ],
    }
}
