//! How a pool begins: supervisor and shards open the writers the floors ask for, and no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use shards::{
    me::{Offered, Origin, Setup, Supervisor},
    proto::middle::config_file::ConfigFile,
    settings::{MeSettings, MeSetup},
};

use crate::{
    fake_me::{FakeMe, secret, until},
    middle::no_dc,
    support::{MeDoors, Proxy, pause},
};

/// Two for each: the map names five, the mirror rule adds their media clusters.
const GROUPS: usize = 10;
/// `R(e)` of six endpoints; on four shards that is shares of two, two, one and one.
const ENDPOINTS: usize = 6;

const ALL: usize = GROUPS * ENDPOINTS;

/// Opens a pool with the default floors; how many connections the MEs have got after a while of
/// quiet.
fn opened(shards: usize, step: Duration) -> usize {
    let endpoints: Vec<FakeMe> = (0..ENDPOINTS).map(|_| FakeMe::echo()).collect();
    let mut settings = MeSettings::default();
    settings.admission.fallback = false;
    settings.dial.stagger_step = step;
    settings.dial.stagger_jitter = Duration::ZERO;
    let settings = Arc::new(settings);
    let proxy = Proxy::start(no_dc(), |all| {
        all.plane.cores = vec![all.plane.cores[0]; shards];
        all.me = Some(MeSetup {
            settings: Arc::clone(&settings),
            pid: 77,
            start_unix_secs: 1_000_000,
        });
    });
    let ended = AtomicBool::new(false);
    let opened = || -> usize {
        let counts = endpoints.iter().map(|me| me.opened.load(Ordering::Acquire));
        counts.sum()
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            supervise(
                &proxy.me_doors(),
                setup(shards, &settings),
                map(&endpoints),
                &ended,
            )
        });
        until("stage 1 is over", || opened() >= first(shards));
        // Quiet for a second: whatever else was to be dialled at once would be there by now.
        let (mut last, mut since) = (opened(), Instant::now());
        while since.elapsed() < Duration::from_secs(1) {
            pause(10);
            if opened() != last {
                (last, since) = (opened(), Instant::now());
            }
        }
        assert_eq!(proxy.snapshot().writers.len(), last);
        ended.store(true, Ordering::Release);
    });
    opened()
}

fn map(endpoints: &[FakeMe]) -> ConfigFile {
    let mut text = "default 2;\n".to_owned();
    for dc in 1..=GROUPS / 2 {
        for me in endpoints {
            text += &format!("proxy_for {dc} {};\n", me.addr);
        }
    }
    ConfigFile::parse(text.as_bytes())
}

fn setup(shards: usize, settings: &Arc<MeSettings>) -> Setup {
    Setup {
        settings: Arc::clone(settings),
        shards,
        cores: shards,
        seed: 1,
        started_unix_ms: 1_000_000_000,
    }
}

/// Stage 1 opens one writer per shard with a share.
fn first(shards: usize) -> usize {
    GROUPS * shards
}

/// What the process does beside the shards: reports in, plans out.
fn supervise(doors: &MeDoors, setup: Setup, map: ConfigFile, ended: &AtomicBool) {
    let now = || doors.clock.now();
    let mut supervisor = Supervisor::new(setup, now());
    let offered = Offered {
        file: map,
        http_ok: true,
    };
    supervisor.offer_secret(secret(), Origin::Startup, now());
    supervisor.offer_maps(Some(offered), None, Origin::Startup, now());
    while !ended.load(Ordering::Acquire) {
        while let Ok(report) = doors.reports.try_recv() {
            supervisor.report(report, now());
        }
        supervisor.advance(now());
        if let Some(plan) = supervisor.take_plan() {
            doors.link.post(&plan);
        }
        pause(2);
    }
}

#[test]
fn four_shards_open_what_the_floors_ask_for_and_no_more() {
    assert_eq!(opened(4, Duration::from_millis(20)), ALL);
}

#[test]
fn the_rest_of_a_start_keeps_to_its_pauses() {
    let opened = opened(1, Duration::from_secs(3_600));
    assert!((first(1)..ALL).contains(&opened), "{opened}");
}
