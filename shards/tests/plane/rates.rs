//! Rates: of users and of networks, both ways, measured on the clock.

use std::{
    io::Read,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use shards::settings::{NetRate, RateKey, RateSettings};

use crate::{
    support::{Proxy, SECRET, at_once, pause},
    talk::{Talk, connect_from, far},
};

/// A DC that sends without end, and takes all that comes.
fn busy_dc() -> SocketAddr {
    far(|talk| {
        let mut reading = talk.split();
        std::thread::spawn(move || {
            let mut sink = vec![0; 1 << 20];
            while reading.stream.read(&mut sink).is_ok_and(|got| got > 0) {}
        });
        let mut talk = talk;
        let bytes = vec![0; 256 << 10];
        while talk.try_write(&bytes) {}
    })
}

fn proxy(shards: usize) -> Proxy {
    Proxy::start(busy_dc(), |settings| {
        settings.plane.cores = (0..shards).map(|shard| shard % 2).collect();
    })
}

const MBIT: u64 = 1_000_000;

/// What so many clients get, and what the proxy takes from them, bits per second each way, over
/// `secs` behind the first moments.
fn measure(proxy: &Proxy, clients: u64, tls: bool, secs: u64) -> (f64, f64) {
    let stop = AtomicBool::new(false);
    let came = AtomicU64::new(0);
    let result = std::sync::Mutex::new((0.0, 0.0));
    at_once(1 + 2 * clients, |thread| {
        if thread == 0 {
            pause(300);
            let taken = || proxy.snapshot().core.octets_from_client_total;
            let (down, up, begun) = (came.load(Ordering::SeqCst), taken(), Instant::now());
            pause(secs * 1_000);
            let took = begun.elapsed().as_secs_f64() / 8.0;
            let down = (came.load(Ordering::SeqCst) - down) as f64 / took;
            let up = (taken() - up) as f64 / took;
            *result.lock().expect("no panic") = (up, down);
            stop.store(true, Ordering::SeqCst);
            return;
        }
        if thread % 2 == 0 {
            return;
        }
        let stream = connect_from(proxy.addr, 1 + (thread % 200) as u8);
        let mut talk = if tls {
            Talk::tls_as(stream, &SECRET)
        } else {
            Talk::secure_as(stream, &SECRET)
        };
        let mut writing = talk.split();
        std::thread::scope(|scope| {
            let stop = &stop;
            scope.spawn(move || {
                let short = Some(Duration::from_millis(100));
                writing.stream.set_write_timeout(short).expect("a limit");
                let bytes = vec![0; 64 << 10];
                while !stop.load(Ordering::SeqCst) {
                    // The pattern breaks when the socket is full; nobody looks at it.
                    let _ = writing.try_write(&bytes);
                }
                drop(writing.stream.shutdown(std::net::Shutdown::Both));
            });
            let mut bytes = vec![0; 256 << 10];
            while !stop.load(Ordering::SeqCst) {
                // Wire bytes: records add a few per thousand at most.
                let got = talk.stream.read(&mut bytes).unwrap_or(0);
                came.fetch_add(got as u64, Ordering::SeqCst);
                if got == 0 {
                    break;
                }
            }
        });
    });
    let (up, down) = *result.lock().expect("no panic");
    proxy.until_idle();
    (up, down)
}

fn assert_rate(what: &str, measured: f64, wanted: u64) {
    let error = (measured - wanted as f64) / wanted as f64;
    println!(
        "{what}: {:.3} of {:.3} Mbit/s, {:+.2} %",
        measured / 1e6,
        wanted as f64 / 1e6,
        error * 100.0
    );
    assert!(error.abs() < 0.05, "{what}: {measured} instead of {wanted}");
}

fn limit_user(proxy: &Proxy, up_bps: u64, down_bps: u64) {
    proxy.update(|users, _| users[1].rate = RateSettings { up_bps, down_bps });
}

#[test]
fn one_megabit_of_one_user_holds_for_one_and_for_many_sessions() {
    for (shards, clients, tls) in [(1, 1, false), (2, 6, false)] {
        let proxy = proxy(shards);
        limit_user(&proxy, MBIT, MBIT);
        let (up, down) = measure(&proxy, clients, tls, 3);
        assert_rate("up", up, MBIT);
        assert_rate("down", down, MBIT);
    }
}

#[test]
fn slower_of_user_and_network_governs() {
    let proxy = proxy(2);
    proxy.update(|users, hot| {
        users[1].rate = RateSettings {
            up_bps: 0,
            down_bps: 4 * MBIT,
        };
        let net: IpNet = "127.0.0.0/24".parse().expect("a net");
        hot.net_rates = vec![NetRate {
            nets: RateKey::Net(net),
            rate: RateSettings {
                up_bps: 2 * MBIT,
                down_bps: 8 * MBIT,
            },
        }];
    });
    let (up, down) = measure(&proxy, 2, false, 3);
    assert_rate("up by the net", up, 2 * MBIT);
    assert_rate("down by the user", down, 4 * MBIT);
    proxy.update(|users, hot| {
        users[1].rate = RateSettings::default();
        hot.net_rates[0].nets = RateKey::EachV4(32);
    });
    // Each address has its own.
    let (up, down) = measure(&proxy, 2, false, 3);
    assert_rate("up by address", up, 4 * MBIT);
    assert_rate("down by address", down, 16 * MBIT);
}

#[test]
fn running_sessions_follow_a_new_rate() {
    let proxy = proxy(2);
    // So slow that a pause outlasts this test, were it not ended.
    limit_user(&proxy, 8, 8);
    let mut talk = Talk::secure_as(connect_from(proxy.addr, 1), &SECRET);
    let _ = talk.try_write(&[0; 50_000]);
    let mut bytes = vec![0; 64 << 10];
    assert!(talk.stream.read(&mut bytes).expect("the first few") > 0);
    pause(200);
    limit_user(&proxy, 10 * MBIT, 10 * MBIT);
    let (begun, mut total) = (Instant::now(), 0);
    while total < 2_500_000 {
        let got = talk.stream.read(&mut bytes).expect("more");
        assert!(got > 0);
        total += got;
    }
    let secs = begun.elapsed().as_secs_f64();
    assert!((1.5..4.0).contains(&secs), "2.5 MB in {secs} s");
    limit_user(&proxy, 0, 0);
    let (begun, mut total) = (Instant::now(), 0);
    while total < 20_000_000 {
        total += talk.stream.read(&mut bytes).expect("more");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    drop(talk);
    proxy.until_idle();
}

/// A source that is paused for its rate and for a stalled peer goes on when neither holds.
#[test]
fn pauses_for_rate_and_for_a_stalled_peer_do_not_end_each_other() {
    let proxy = Proxy::start(busy_dc(), |settings| {
        settings.plane.buffers.queue_bytes_max = 32 << 10;
    });
    limit_user(&proxy, 0, 200 * MBIT);
    let mut talk = Talk::secure_as(connect_from(proxy.addr, 1), &SECRET);
    let mut bytes = vec![0; 64 << 10];
    let mut total = 0_u64;
    for _ in 0..6 {
        // Nothing is taken for a while, and then all.
        pause(150);
        let until = Instant::now() + Duration::from_millis(150);
        while Instant::now() < until {
            total += talk.stream.read(&mut bytes).expect("more") as u64;
        }
    }
    let now = proxy.snapshot();
    assert!(now.core.backpressure_total > 0);
    // A stalled client is held back by the queue, not only by its rate.
    assert!(now.core.octets_to_client_total < total + (16 << 20));
    assert!(total > 1 << 20, "{total}");
    drop(talk);
    proxy.until_idle();
}

/// A whole gigabit each way needs a fast build and quiet cores.
#[test]
#[ignore = "measures; run with --release --ignored --nocapture"]
fn one_gigabit_holds() {
    for (clients, tls) in [(1, false), (4, false), (4, true)] {
        let proxy = proxy(2);
        limit_user(&proxy, 0, 1_000 * MBIT);
        proxy.update(|users, _| users[1].rate.up_bps = 8);
        let (_, down) = measure(&proxy, clients, tls, 5);
        assert_rate("down", down, 1_000 * MBIT);
        limit_user(&proxy, 1_000 * MBIT, 8);
        let (up, _) = measure(&proxy, clients, tls, 5);
        assert_rate("up", up, 1_000 * MBIT);
    }
}
