//! The three threads together, on shards that only take notes.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use shards::me::{Fill, Route, Stage, StepState};

use super::{
    http::Answer,
    sources::{NatSources, Remote},
    *,
};

pub(super) const SECRET: &[u8] = &[7; 128];

/// Sources with caches in `dir`; nothing is asked of STUN servers.
pub(super) fn sources(dir: &Path, url: &str) -> Sources {
    let remote = |name: &str| Remote {
        url: format!("{url}/{name}"),
        cache: dir.join(name),
    };
    Sources {
        secret: remote("proxy-secret"),
        config_v4: remote("v4"),
        config_v6: remote("v6"),
        secret_bytes_max: 256,
        nat: NatSources {
            stun: false,
            http: false,
            servers: Vec::new(),
            concurrency: 8,
            tcp_fallback: false,
            http_urls: Vec::new(),
            wanted: [true, false],
        },
    }
}

const ANY: crate::names::Families = crate::names::Families {
    ipv4: true,
    ipv6: false,
    prefer_ipv6: false,
};

/// The Internet: files by the end of their URL.
#[derive(Default)]
struct Web {
    files: Mutex<HashMap<&'static str, Vec<u8>>>,
    down: AtomicBool,
}

impl Web {
    fn set(&self, name: &'static str, bytes: &[u8]) {
        self.files.lock().unwrap().insert(name, bytes.to_vec());
    }
}

impl Download for Web {
    fn get(&self, url: &str, _: usize) -> Result<Answer, String> {
        if self.down.load(Ordering::Relaxed) {
            return Err("the network is down".to_owned());
        }
        let name = url.rsplit('/').next().unwrap_or_default();
        let body = self.files.lock().unwrap().get(name).cloned();
        Ok(Answer {
            status: if body.is_some() { 200 } else { 404 },
            skew_secs: Some(2),
            body: body.unwrap_or_default(),
        })
    }
}

#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Arc<Plan>>>>);

impl Link for Notes {
    fn post(&self, plan: &Arc<Plan>) {
        self.0.lock().unwrap().push(Arc::clone(plan));
    }
}

/// A process without shards.
struct Stage0 {
    _dir: tempfile::TempDir,
    sources: Sources,
    web: Arc<Web>,
    notes: Notes,
    /// Held: the threads end when all shards have gone.
    _report: Sender<Report>,
    me: Me,
}

fn start(settings: MeSettings, prepare: impl FnOnce(&mut Sources, &Web)) -> Stage0 {
    start_at(settings, |_| Some([127, 0, 0, 1].into()), prepare)
}

fn start_at(
    settings: MeSettings,
    local: fn(bool) -> Option<IpAddr>,
    prepare: impl FnOnce(&mut Sources, &Web),
) -> Stage0 {
    let dir = tempfile::tempdir().unwrap();
    let mut sources = sources(dir.path(), "http://x");
    let (web, notes) = (Arc::new(Web::default()), Notes::default());
    prepare(&mut sources, &web);
    let (report, reports) = async_channel::unbounded();
    let began = Instant::now();
    let parts = Parts {
        settings,
        sources: sources.clone(),
        shards: 2,
        cores: 2,
        reports,
        link: Box::new(notes.clone()),
        now: Arc::new(move || Millis(u64::try_from(began.elapsed().as_millis()).unwrap())),
        events: Arc::new(Events::new(16)),
        out: Arc::new(RouteOut::new(Vec::new(), ANY, crate::names::resolve)),
    };
    let world = World {
        download: Arc::clone(&web) as _,
        straight: Arc::clone(&web) as _,
        tries: [Duration::ZERO; 3],
        asking: Asking {
            tcp_fallback: false,
            step: Duration::from_millis(300),
            pauses: [Duration::from_millis(10); 2],
        },
        local,
    };
    Stage0 {
        _dir: dir,
        sources,
        web,
        notes,
        _report: report,
        me: Me::start_in(parts, world).unwrap(),
    }
}

impl Stage0 {
    fn last(&self) -> Option<Arc<Plan>> {
        self.notes.0.lock().unwrap().last().cloned()
    }

    fn until(&self, what: &str, done: impl Fn(&Plan) -> bool) -> Arc<Plan> {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(plan) = self.last().filter(|plan| done(plan)) {
                return plan;
            }
            assert!(Instant::now() < limit, "waited in vain until {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn step(&self, stage: Stage) -> StepState {
        let steps = self.me.status().startup.steps;
        let step = steps.iter().find(|step| step.stage == stage).unwrap();
        step.state
    }
}

const MAP: &[u8] = b"default 2;\nproxy_for 1 127.0.0.1:1;\nproxy_for 2 127.0.0.1:2;\n";

fn has_writers_to_fill(plan: &Plan) -> bool {
    plan.secret.is_some() && !plan.groups.is_empty() && plan.fill != Fill::Not
}

#[test]
fn downloads_become_a_plan_and_copies() {
    let process = start(MeSettings::default(), |_, web| {
        web.set("proxy-secret", SECRET);
        web.set("v4", MAP);
    });
    let plan = process.until("there is a plan", has_writers_to_fill);
    assert_eq!(plan.route, Route::Direct);
    let dcs: Vec<i16> = plan.groups.iter().map(|group| group.dc).collect();
    assert_eq!(dcs, [-2, -1, 1, 2]);
    assert_eq!(fs::read(&process.sources.secret.cache).unwrap(), SECRET);
    assert_eq!(fs::read(&process.sources.config_v4.cache).unwrap(), MAP);
    assert_eq!(process.step(Stage::SecretFetch), StepState::Ready);
    assert_eq!(process.step(Stage::ConfigFetchV4), StepState::Ready);
    assert_eq!(process.step(Stage::ConfigFetchV6), StepState::Skipped);
    let skew = process.me.status().selftest.last_skew;
    assert_eq!(skew.map(|skew| skew.secs), Some(2));
}

#[test]
fn copies_are_enough_without_a_network() {
    let process = start(MeSettings::default(), |sources, web| {
        web.down.store(true, Ordering::Relaxed);
        fs::write(&sources.secret.cache, SECRET).unwrap();
        fs::write(&sources.config_v4.cache, MAP).unwrap();
    });
    process.until("there is a plan", has_writers_to_fill);
    assert_eq!(process.step(Stage::SecretFetch), StepState::Ready);
}

#[test]
fn newer_files_replace_old_copies_at_once_when_the_network_comes() {
    let settings = || {
        let mut settings = MeSettings::default();
        settings.refresh.every = Duration::from_millis(50);
        settings
    };
    let process = start(settings(), |sources, web| {
        web.down.store(true, Ordering::Relaxed);
        fs::write(&sources.secret.cache, SECRET).unwrap();
        fs::write(&sources.config_v4.cache, MAP).unwrap();
        web.set("proxy-secret", SECRET);
        web.set("v4", b"proxy_for 3 127.0.0.1:3;\n");
    });
    process.until("there is a plan", has_writers_to_fill);
    process.web.down.store(false, Ordering::Relaxed);
    // Neither the stability rule nor the pause between changes is for this.
    process.until("the new map is there", |plan| plan.map.contains_key(&3));
}

#[test]
fn want_of_a_secret_is_told_and_ends_when_there_is_one() {
    let process = start(MeSettings::default(), |_, web| web.set("v4", MAP));
    let limit = Instant::now() + Duration::from_secs(20);
    while process.step(Stage::SecretFetch) != StepState::Failed {
        assert!(Instant::now() < limit, "the step never fails");
        thread::sleep(Duration::from_millis(5));
    }
    let error = process.me.status().startup.last_error.unwrap();
    assert!(error.contains("404"), "{error}");
    process.web.set("proxy-secret", SECRET);
    process.until("there is a plan", has_writers_to_fill);
}

#[test]
fn dials_wait_for_our_address_where_the_interface_s_is_private() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = socket.local_addr().unwrap().to_string();
    let process = start_at(
        MeSettings::default(),
        |ipv6| (!ipv6).then(|| [10, 0, 0, 1].into()),
        |sources, web| {
            web.set("proxy-secret", SECRET);
            web.set("v4", MAP);
            sources.nat.stun = true;
            sources.nat.servers = vec![server];
        },
    );
    let mut request = [0; 20];
    let (_, from) = socket.recv_from(&mut request).unwrap();
    let early = process
        .last()
        .is_none_or(|plan| !has_writers_to_fill(&plan));
    assert!(early, "nobody waits for the address");
    let mut answer = vec![1, 1, 0, 12];
    answer.extend(&request[4..20]);
    // MAPPED-ADDRESS 9.9.9.9, as old servers say it.
    answer.extend([0, 1, 0, 8, 0, 1, 0, 5, 9, 9, 9, 9]);
    socket.send_to(&answer, from).unwrap();
    let plan = process.until("there is a plan", has_writers_to_fill);
    assert_eq!(plan.addresses.reflected_v4, "9.9.9.9".parse().ok());
    let status = process.me.nat_status();
    assert_eq!(status.live.len(), 1);
    assert!(status.reflections[0].is_some());
}

#[test]
fn nobody_waits_for_an_address_where_the_interface_s_is_public() {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let process = start_at(
        MeSettings::default(),
        |ipv6| (!ipv6).then(|| [8, 8, 8, 8].into()),
        |sources, web| {
            web.set("proxy-secret", SECRET);
            web.set("v4", MAP);
            sources.nat.stun = true;
            // One after the other: longer than this test has patience.
            sources.nat.servers = vec![server; 100];
            sources.nat.concurrency = 1;
        },
    );
    process.until("there is a plan", has_writers_to_fill);
}

#[test]
fn changed_keys_reach_the_shards() {
    let process = start(MeSettings::default(), |_, web| {
        web.set("proxy-secret", SECRET);
        web.set("v4", MAP);
    });
    process.until("there is a plan", has_writers_to_fill);
    let mut settings = MeSettings::default();
    settings.pick.sample = 4;
    process.me.apply(settings, 256);
    process.until("they are there", |plan| plan.settings.pick.sample == 4);
}

#[test]
fn family_without_an_address_is_left_out_if_the_other_has_one() {
    let mut settings = MeSettings::default();
    settings.families.ipv6 = true;
    let public = |ipv6: bool| (!ipv6).then(|| [8, 8, 8, 8].into());
    let both = |sources: &mut Sources, _: &Web| sources.nat.wanted = [true, true];
    let process = start_at(settings.clone(), public, both);
    process.until("IPv6 is out", |plan| {
        plan.settings.families.ipv4 && !plan.settings.families.ipv6
    });
    // Where nothing looks public both are tried.
    let private = |_| Some([10, 0, 0, 1].into());
    let process = start_at(settings, private, both);
    let plan = process.until("there is a plan", |_| true);
    assert!(plan.settings.families.ipv4 && plan.settings.families.ipv6);
}
