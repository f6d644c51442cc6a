//! A hostile crowd: clients are served meanwhile, and nothing of it stays. `bench hostile` measures
//! the same with ten thousand.

mod support;

use std::{net::SocketAddr, time::Duration};

use bench::{
    client::Mode,
    hostile::{HostilePlan, hostile},
    machine::{Cores, allowed_cores},
    origin, relay,
    target::{Surroundings, Target, TargetSpec},
};

use support::{Config, Proxy, config::ALICE, fake_dc};

const HOSTILE: usize = 300;
const ROUNDS: usize = 2;

/// Attacks a proxy in turns; fails when a client is not served, or anything stays.
fn crowd(dc: SocketAddr, proxy: &Proxy) {
    let attach = TargetSpec::Attach {
        pid: proxy.process().pid(),
        addr: proxy.addr,
    };
    let around = Surroundings {
        dc,
        secret: ALICE,
        cores: Cores::split(&allowed_cores(), 1),
        pinnace: None,
    };
    let target = Target::start(&attach, &around).expect("it runs");
    let plan = HostilePlan {
        hostile: HOSTILE,
        clients: 20,
        every: Duration::from_millis(50),
        phase: Duration::from_secs(2),
        back: Duration::from_secs(1),
        rounds: ROUNDS,
        ..HostilePlan::default()
    };
    let seen = hostile(&target, &target, Mode::Ee, &plan).expect("clients are served");
    println!("{seen}");
    assert_eq!(seen.refused, 0, "{seen}");
    assert_eq!(seen.descriptors_left(), 0, "{seen}");
    assert!(seen.descriptors_most > HOSTILE / 2, "no crowd: {seen}");
    // The heap was filled by the first crowd, and is given back only after a while.
    assert!(seen.growth_bytes() < 4 << 20, "{seen}");
}

#[test]
fn a_crowd_of_strangers_leaves_nothing_behind() {
    let dc = fake_dc();
    let proxy = small_pools(dc.addr())
        .set("timeouts.client_handshake", 5)
        .start();
    crowd(dc.addr(), &proxy);
    let each = (HOSTILE * ROUNDS / 10) as u64;
    assert_eq!(proxy.bad("tls_replay"), each);
    // Scanners, and those who get as far as the last byte of their hello.
    assert!(proxy.bad("tls_auth_failed") >= each);
}

#[test]
fn a_crowd_that_is_masked_leaves_nothing_behind() {
    let dc = fake_dc();
    let site = site();
    let proxy = small_pools(dc.addr())
        .set("censorship.mask", true)
        .set("censorship.mask_host", "\"127.0.0.1\"")
        .set("censorship.mask_port", site.port())
        .start();
    crowd(dc.addr(), &proxy);
}

/// Pools that the first crowd fills: buffers touched for the first time are no growth.
fn small_pools(dc: SocketAddr) -> Config {
    Config::new(dc)
        .set("shards.large_buffers", 16)
        .set("shards.large_buffer_bytes", 64 << 10)
        .set("shards.small_buffers", 256)
}

/// A site on a thread that ends with the test.
fn site() -> SocketAddr {
    let (told, addr) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all();
        runtime.build().expect("a runtime").block_on(async {
            let listener = relay::listen_on(([127, 0, 0, 1], 0).into()).expect("a port");
            let _ = told.send(listener.local_addr().expect("bound"));
            origin::serve(listener).await;
        });
    });
    addr.recv().expect("it listens")
}
