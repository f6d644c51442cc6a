//! A control plane and a store that say what they were told to say.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use admin::{
    Build, ControlPlane, CreateUser, Deleted, Patch, PatchUser, PlaneSnapshot, Process, QuotaReset,
    Reloads, Revision, Running, SecretText, Startup, StepStatus, StoreError, StoredUser,
    StoredUsers, Transport, UpstreamInfo, UserChanged, UserDefaults, UserLinks, UserStore,
};
use sha2::{Digest, Sha256};
use shards::{
    control::{DcRow, FamilyState, ShardSnapshot, UpstreamRow, UserIpRow},
    counters::UserCounters,
};

/// Says what its fields hold.
pub(crate) struct CannedPlane {
    pub(crate) process: Process,
    pub(crate) running: Mutex<Arc<Running>>,
    pub(crate) snapshot: Mutex<Option<Arc<PlaneSnapshot>>>,
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
            users: vec!["alice".into()],
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
            transport: Mutex::new(Transport::direct()),
            startup,
            reloads: Reloads::default(),
        }
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
    total.bad_by_class[1] = 2;
    total.bad_by_class[0] = 1;
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

/// Users in memory; every change counts the revision up.
pub(crate) struct CannedStore {
    state: Mutex<State>,
}

struct State {
    users: BTreeMap<String, (StoredUser, SecretText)>,
    generation: u64,
    fault: Option<StoreError>,
}

impl CannedStore {
    pub(crate) fn new(names: &[&str]) -> Self {
        let users = names
            .iter()
            .map(|name| ((*name).to_owned(), user(name, &"0a".repeat(16))));
        Self {
            state: Mutex::new(State {
                users: users.collect(),
                generation: 0,
                fault: None,
            }),
        }
    }

    /// Every call fails from now on.
    pub(crate) fn break_with(&self, fault: Option<StoreError>) {
        self.state.lock().unwrap().fault = fault;
    }

    fn changing<T>(
        &self,
        if_match: Option<&str>,
        change: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.state.lock().unwrap();
        if let Some(fault) = &state.fault {
            return Err(fault.clone());
        }
        if if_match.is_some_and(|given| given != state.revision().0) {
            return Err(StoreError::RevisionConflict);
        }
        change(&mut state)
    }
}

impl UserStore for CannedStore {
    fn revision(&self) -> Result<Revision, StoreError> {
        self.changing(None, |state| Ok(state.revision()))
    }

    fn users(&self) -> Result<StoredUsers, StoreError> {
        self.changing(None, |state| {
            let users = state.users.values().map(|(user, _)| user.clone()).collect();
            Ok(StoredUsers {
                revision: state.revision(),
                users,
                defaults: UserDefaults::default(),
            })
        })
    }

    fn create(&self, new: &CreateUser, if_match: Option<&str>) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            if state.users.contains_key(&new.username) {
                return Err(StoreError::UserExists);
            }
            let secret = new
                .secret
                .as_ref()
                .map_or("0b".repeat(16), |secret| secret.as_str().to_owned());
            let (mut stored, secret) = user(&new.username, &secret);
            stored.user_ad_tag.clone_from(&new.user_ad_tag);
            stored.max_tcp_conns = new.max_tcp_conns;
            stored.expiration = new.expiration;
            stored.data_quota_bytes = new.data_quota_bytes;
            stored.max_unique_ips = new.max_unique_ips;
            state.put(stored, secret)
        })
    }

    fn patch(
        &self,
        name: &str,
        patch: &PatchUser,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            let (mut stored, mut secret) = state.get(name)?;
            if let Some(new) = &patch.secret {
                secret = new.clone();
                stored.links = links(new.as_str());
            }
            apply(&mut stored.user_ad_tag, &patch.user_ad_tag);
            apply(&mut stored.max_tcp_conns, &patch.max_tcp_conns);
            apply(&mut stored.expiration, &patch.expiration);
            apply(&mut stored.data_quota_bytes, &patch.data_quota_bytes);
            apply(&mut stored.max_unique_ips, &patch.max_unique_ips);
            if patch.is_empty() {
                return Ok(state.unchanged(stored, secret));
            }
            state.put(stored, secret)
        })
    }

    fn rotate_secret(
        &self,
        name: &str,
        secret: Option<&SecretText>,
        if_match: Option<&str>,
    ) -> Result<UserChanged, StoreError> {
        self.changing(if_match, |state| {
            let (mut stored, _) = state.get(name)?;
            let fresh = format!("{:032x}", state.generation + 1);
            let secret = secret.map_or(fresh, |secret| secret.as_str().to_owned());
            stored.links = links(&secret);
            state.put(stored, SecretText::parse(&secret).unwrap())
        })
    }

    fn delete(&self, name: &str, if_match: Option<&str>) -> Result<Deleted, StoreError> {
        self.changing(if_match, |state| {
            state.get(name)?;
            if state.users.len() == 1 {
                return Err(StoreError::LastUser);
            }
            state.users.remove(name);
            state.generation += 1;
            Ok(Deleted {
                revision: state.revision(),
            })
        })
    }

    fn reset_quota(&self, name: &str, if_match: Option<&str>) -> Result<QuotaReset, StoreError> {
        self.changing(if_match, |state| {
            state.get(name)?;
            Ok(QuotaReset {
                revision: state.revision(),
                last_reset_epoch_secs: 1_700_000_000,
            })
        })
    }
}

impl State {
    fn revision(&self) -> Revision {
        let digest = Sha256::digest(self.generation.to_string());
        Revision(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn get(&self, name: &str) -> Result<(StoredUser, SecretText), StoreError> {
        self.users
            .get(name)
            .cloned()
            .ok_or(StoreError::UserNotFound)
    }

    fn put(&mut self, user: StoredUser, secret: SecretText) -> Result<UserChanged, StoreError> {
        self.generation += 1;
        self.users
            .insert(user.username.clone(), (user.clone(), secret.clone()));
        Ok(self.unchanged(user, secret))
    }

    fn unchanged(&self, user: StoredUser, secret: SecretText) -> UserChanged {
        UserChanged {
            revision: self.revision(),
            user,
            defaults: UserDefaults::default(),
            secret,
        }
    }
}

fn apply<T: Clone>(stored: &mut Option<T>, patch: &Patch<T>) {
    match patch {
        Patch::Keep => {}
        Patch::Remove => *stored = None,
        Patch::Set(value) => *stored = Some(value.clone()),
    }
}

fn user(name: &str, secret: &str) -> (StoredUser, SecretText) {
    let user = StoredUser {
        username: name.to_owned(),
        links: links(secret),
        ..StoredUser::default()
    };
    (user, SecretText::parse(secret).unwrap())
}

fn links(secret: &str) -> UserLinks {
    let link = |secret: String| format!("tg://proxy?server=192.0.2.1&port=8443&secret={secret}");
    UserLinks {
        classic: vec![link(secret.to_owned())],
        secure: vec![link(format!("dd{secret}"))],
        tls: vec![link(format!("ee{secret}6578616d706c652e636f6d"))],
        tls_domains: Vec::new(),
    }
}
