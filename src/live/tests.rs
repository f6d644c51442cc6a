//! Configurations and reloads on shards that only take notes, and are late when told to be.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use admin::{
    Build, ControlPlane as _, FailurePolicy, Process, ReloadMode, ReloadState, Running, Startup,
};
use tempfile::TempDir;

use super::*;

#[derive(Default)]
struct Notes {
    updates: Mutex<Vec<(Vec<UserSettings>, HotSettings, bool)>>,
    used: Mutex<Vec<QuotaUse>>,
    late: AtomicBool,
    removed_sessions: AtomicU64,
    ended: AtomicU64,
}

impl Notes {
    fn users(&self) -> Vec<String> {
        let updates = self.updates.lock().unwrap();
        let users = updates
            .last()
            .map(|(users, ..)| users.clone())
            .unwrap_or_default();
        users
            .iter()
            .map(|user| user.name.as_ref().to_owned())
            .collect()
    }

    fn updates(&self) -> usize {
        self.updates.lock().unwrap().len()
    }
}

struct Fake(Arc<Notes>);

impl Shards for Fake {
    fn update(&mut self, users: &[UserSettings], hot: &HotSettings, keep_removed: bool) -> Pending {
        let update = (users.to_vec(), hot.clone(), keep_removed);
        self.0.updates.lock().unwrap().push(update);
        let late = self.0.late.load(Ordering::Relaxed);
        Box::new(move |_| !late)
    }

    fn end_removed(&mut self) -> Pending {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        Box::new(|_| true)
    }

    fn removed_sessions(&self) -> u64 {
        self.0.removed_sessions.load(Ordering::Relaxed)
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.0
            .users()
            .iter()
            .map(|name| Arc::from(name.as_str()))
            .collect()
    }

    fn quotas(&self) -> Vec<QuotaUse> {
        self.0.used.lock().unwrap().clone()
    }

    fn reset_quota(&self, name: &str) -> Option<u64> {
        let mut used = self.0.used.lock().unwrap();
        let row = used.iter_mut().find(|row| row.name.as_ref() == name)?;
        Some(std::mem::take(&mut row.used_bytes))
    }
}

struct Bench {
    dir: TempDir,
    live: Arc<Live>,
    notes: Arc<Notes>,
}

/// `alice` and more, one word per user.
fn text(keys: &str, users: &str) -> String {
    let mut text = format!("{keys}\n[general.links]\nshow = []\n[access.users]\n");
    for (name, digit) in std::iter::once("alice")
        .chain(users.split_whitespace())
        .zip('1'..)
    {
        text.push_str(&format!("{name} = \"a{}\"\n", digit.to_string().repeat(31)));
    }
    text
}

impl Bench {
    fn new(keys: &str, users: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text(keys, users)).unwrap();
        let notes = Arc::new(Notes::default());
        let process = Process::starting(Build::default(), String::new());
        let startup = Arc::new(Startup::new(&[]));
        let loaded = config::load(&path).unwrap();
        let parts = Parts {
            plane: Arc::new(ShardPlane::new(process, startup, Running::default())),
            events: Arc::new(Events::new(16)),
            quotas: QuotaFile::open(dir.path().join("quota.json")),
            log: Log::fixed(),
            log_level: None,
            detected: Detected::default(),
            out: Arc::new(wiring::upstream::route_out(&loaded.config)),
            names: None,
            me: None,
            firewall: None,
        };
        let live = Live::new(&loaded, parts, Box::new(Fake(Arc::clone(&notes))));
        Self { dir, live, notes }
    }

    fn load(&self, keys: &str, users: &str) -> Loaded {
        let path = self.dir.path().join("config.toml");
        std::fs::write(&path, text(keys, users)).unwrap();
        config::load(&path).unwrap()
    }

    fn apply(&self, keys: &str, users: &str) -> Applied {
        self.live.apply(self.load(keys, users), Cause::Api)
    }

    fn count(&self) -> u64 {
        self.live.parts.plane.reloads().count
    }

    fn reload(&self, request: ReloadRequest, loaded: Loaded) -> Result<u64, StoreError> {
        let accepted = crate::reload::begin(&self.live, request, loaded)?;
        Ok(accepted.reload_id)
    }

    fn wait_for(&self, id: u64, wanted: ReloadState) -> ReloadStatus {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.live.reloads.status(id).unwrap();
            if status.state == wanted {
                return status;
            }
            assert!(
                !status.state.is_final() && Instant::now() < limit,
                "{status:?}"
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

const DRAIN: ReloadMode = ReloadMode::Drain { timeout_secs: 3600 };

fn request(mode: ReloadMode, failure_policy: FailurePolicy) -> ReloadRequest {
    ReloadRequest {
        mode,
        failure_policy,
    }
}

#[test]
fn same_text_is_applied_once() {
    let bench = Bench::new("", "");
    assert_eq!(bench.apply("", "").changes, Changes::default());
    assert_eq!((bench.notes.updates(), bench.count()), (0, 0));
    assert_eq!(bench.apply("", "bob").changes.hot, ["access.users"]);
    bench.apply("", "bob");
    assert_eq!((bench.notes.updates(), bench.count()), (1, 1));
    assert_eq!(bench.notes.users(), ["alice", "bob"]);
    let running = bench.live.parts.plane.running();
    assert!(running.users.id("bob").is_some());
}

#[test]
fn shards_are_left_alone_when_only_restart_keys_change() {
    let bench = Bench::new("", "");
    let applied = bench.apply("[server]\nport = 1", "");
    assert_eq!(applied.changes.restart, ["server.port"]);
    assert_eq!((bench.notes.updates(), bench.count()), (0, 1));
    let applied = bench.apply("[server]\nport = 1", "bob");
    assert_eq!(applied.changes.restart, ["server.port"]);
    assert_eq!(bench.apply("", "bob").changes.restart, [""; 0]);
}

#[test]
fn hot_settings_reach_the_shards() {
    let bench = Bench::new("", "");
    bench.apply(
        "[general.telemetry]\nuser_enabled = false\n[access]\n\
         user_max_unique_ips_window_secs = 5\ncidr_rate_limits = { \"*4/24\" = { up_bps = 8 } }",
        "",
    );
    let updates = bench.notes.updates.lock().unwrap();
    let (_, hot, keep) = updates.last().unwrap();
    assert!(hot.telemetry.core && !hot.telemetry.user && !keep);
    assert_eq!(hot.addresses.window, Duration::from_secs(5));
    assert_eq!(hot.net_rates.len(), 1);
}

#[test]
fn quota_of_a_removed_user_is_forgotten_and_of_others_kept() {
    let bench = Bench::new("", "bob");
    let used = |name: &str, used_bytes| QuotaUse {
        name: Arc::from(name),
        quota_bytes: 100,
        used_bytes,
    };
    *bench.notes.used.lock().unwrap() = vec![used("alice", 5), used("bob", 6)];
    bench.live.save_quotas().unwrap();
    *bench.notes.used.lock().unwrap() = vec![used("alice", 5)];
    bench.apply("", "");
    bench.live.save_quotas().unwrap();
    let again = QuotaFile::open(bench.dir.path().join("quota.json"));
    assert_eq!((again.used_bytes("alice"), again.used_bytes("bob")), (5, 0));
    bench.apply("", "bob");
    let updates = bench.notes.updates.lock().unwrap();
    let users = &updates.last().unwrap().0;
    let starts: Vec<u64> = users.iter().map(|user| user.quota_used_bytes).collect();
    assert_eq!(starts, [5, 0]);
}

#[test]
fn reset_is_on_disk_when_it_returns() {
    let bench = Bench::new("", "");
    let used = QuotaUse {
        name: Arc::from("alice"),
        quota_bytes: 100,
        used_bytes: 5,
    };
    bench.notes.used.lock().unwrap().push(used);
    bench.live.save_quotas().unwrap();
    let when = bench.live.reset_quota("alice").unwrap();
    let again = QuotaFile::open(bench.dir.path().join("quota.json"));
    assert_eq!(
        (
            again.used_bytes("alice"),
            again.last_reset_epoch_secs("alice")
        ),
        (0, when)
    );
    let rows = bench.live.quota_rows();
    assert_eq!(
        (rows[0].used_bytes, rows[0].last_reset_epoch_secs),
        (0, when)
    );
}

#[test]
fn reload_succeeds_and_names_what_waits() {
    let bench = Bench::new("", "");
    let loaded = bench.load("[server]\nport = 1", "bob");
    let revision = loaded.revision.clone();
    let id = bench.reload(ReloadRequest::default(), loaded).unwrap();
    let status = bench.wait_for(id, ReloadState::Succeeded);
    assert_eq!(status.config_revision.0, revision);
    assert_eq!(status.target_generation, 2);
    assert_eq!(status.deferred_process_fields, ["server.port"]);
    assert!(status.started_at_epoch_secs.is_some() && status.finished_at_epoch_secs.is_some());
    assert_eq!(bench.notes.users(), ["alice", "bob"]);
}

#[test]
fn draining_reload_lets_sessions_go_on_and_keeps_others_out() {
    let bench = Bench::new("", "bob");
    bench.notes.removed_sessions.store(2, Ordering::Relaxed);
    let drain = request(DRAIN, FailurePolicy::KeepNew);
    let id = bench.reload(drain, bench.load("", "")).unwrap();
    bench.wait_for(id, ReloadState::Draining);
    assert!(
        bench.notes.updates.lock().unwrap()[0].2,
        "sessions are kept"
    );
    assert_eq!(
        bench.live.reloads.may_begin(),
        Err(StoreError::ReloadInProgress)
    );
    let second = bench.reload(drain, bench.load("", "carol"));
    assert_eq!(second, Err(StoreError::ReloadInProgress));
    assert_eq!(bench.notes.ended.load(Ordering::Relaxed), 0);
    bench.notes.removed_sessions.store(0, Ordering::Relaxed);
    bench.wait_for(id, ReloadState::Succeeded);
    assert_eq!(bench.notes.ended.load(Ordering::Relaxed), 1);
    assert_eq!(bench.live.reloads.may_begin(), Ok(()));
}

#[test]
fn drain_ends_with_its_time() {
    let bench = Bench::new("", "bob");
    bench.notes.removed_sessions.store(2, Ordering::Relaxed);
    let drain = request(
        ReloadMode::Drain { timeout_secs: 1 },
        FailurePolicy::KeepNew,
    );
    let id = bench.reload(drain, bench.load("", "")).unwrap();
    bench.wait_for(id, ReloadState::Succeeded);
    assert_eq!(bench.notes.ended.load(Ordering::Relaxed), 1);
}

#[test]
fn configuration_that_not_all_shards_take_is_taken_back_if_wanted() {
    let bench = Bench::new("", "");
    bench.notes.late.store(true, Ordering::Relaxed);
    let back = request(ReloadMode::Instant, FailurePolicy::Rollback);
    let new = bench.load("[server]\nport = 1", "bob");
    let id = bench.reload(back, new.clone()).unwrap();
    let status = bench.wait_for(id, ReloadState::RolledBack);
    assert!(status.error.is_some() && status.deferred_process_fields.is_empty());
    assert_eq!(bench.notes.users(), ["alice"]);
    assert!(bench.live.parts.plane.running().users.id("bob").is_none());
    // Whoever watches the file leaves it alone until somebody asks again.
    assert!(bench.live.is_settled(&new.digest));
    bench.notes.late.store(false, Ordering::Relaxed);
    bench.live.reload(Noticed::Signal).unwrap();
    assert_eq!(bench.notes.users(), ["alice", "bob"]);
}

#[test]
fn late_shard_fails_a_reload_that_keeps_the_new_configuration() {
    let bench = Bench::new("", "");
    bench.notes.late.store(true, Ordering::Relaxed);
    let id = bench
        .reload(ReloadRequest::default(), bench.load("", "bob"))
        .unwrap();
    let status = bench.wait_for(id, ReloadState::Failed);
    assert!(status.error.is_some());
    assert_eq!(bench.notes.users(), ["alice", "bob"]);
}

#[test]
fn last_reloads_are_remembered() {
    let bench = Bench::new("", "");
    for id in 1..=40 {
        let loaded = bench.load("", if id % 2 == 0 { "" } else { "bob" });
        assert_eq!(bench.reload(ReloadRequest::default(), loaded), Ok(id));
        bench.wait_for(id, ReloadState::Succeeded);
    }
    assert!(bench.live.reloads.status(8).is_none());
    assert!(bench.live.reloads.status(9).is_some());
    assert!(bench.live.reloads.status(41).is_none());
}
