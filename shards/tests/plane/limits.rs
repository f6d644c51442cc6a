//! Limits of number and time, and a DC that is not there.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use shards::settings::Parking;

use crate::{
    support::{LIMIT, Proxy, at_once},
    talk::{Talk, connect, echo, far, until_closed},
};

#[test]
fn dc_that_is_down_closes_the_client_after_all_attempts() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = closed.local_addr().expect("bound");
    drop(closed);
    let proxy = Proxy::start(addr, |settings| settings.upstream.connect_retries = 3);
    let mut talk = Talk::secure(proxy.addr);
    let (got, _) = until_closed(&mut talk.stream);
    assert_eq!(got, b"");
    let end = proxy.until_idle();
    assert_eq!(end.upstream.connect_attempt_total, 4);
    assert_eq!(end.upstream.connect_fail_total, 1);
    assert_eq!(end.core.connections_bad_total, 0);
    assert_eq!(end.core.sessions_total, 0);
    assert_eq!(end.upstreams[0].fails, 1);
}

#[test]
fn dc_that_comes_back_within_the_budget_is_reached() {
    let spare = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = spare.local_addr().expect("bound");
    drop(spare);
    let proxy = Proxy::start(addr, |settings| {
        settings.upstream.connect_retries = 1_000;
    });
    let mut talk = Talk::secure(proxy.addr);
    talk.say(1, 40_000);
    proxy.until("two attempts", |now| now.upstream.connect_attempt_total > 1);
    let dc = TcpListener::bind(addr).expect("the same port");
    let (mut stream, _) = dc.accept().expect("the proxy");
    // Header and all that was said meanwhile come in.
    let mut all = vec![0; 64 + 40_000];
    std::io::Read::read_exact(&mut stream, &mut all).expect("what waited");
    drop((stream, talk));
    proxy.until_idle();
}

/// A client that says much while its DC does not answer is read no further than a bound.
#[test]
fn waiting_client_is_held_back() {
    let full = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = full.local_addr().expect("bound");
    let socket = socket2::SockRef::from(&full);
    socket.listen(0).expect("a short queue");
    let held: Vec<_> = (0..4)
        .filter_map(|_| {
            std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(100)).ok()
        })
        .collect();
    let proxy = Proxy::start(addr, |settings| {
        settings.upstream.connect_timeout = Duration::from_millis(1_500);
        settings.upstream.connect_retries = 0;
    });
    let mut talk = Talk::secure(proxy.addr);
    let short = Some(Duration::from_millis(500));
    talk.stream.set_write_timeout(short).expect("a limit");
    let mut said = 0;
    while said < (64 << 20) && talk.try_write(&[0; 65_536]) {
        said += 65_536;
    }
    let now = proxy.snapshot();
    assert!(now.core.octets_from_client_total < 2 << 20, "{now:?}");
    drop(talk);
    proxy.until_idle();
    drop(held);
}

#[test]
fn silent_relay_is_closed_by_the_idle_limit() {
    for parking in [Parking::Ring, Parking::Executor] {
        let idle = Duration::from_millis(400);
        let proxy = Proxy::start(echo(), |settings| {
            settings.timeouts.idle = idle;
            settings.plane.parking = parking;
        });
        let mut talk = Talk::secure(proxy.addr);
        let begun = Instant::now();
        // Keeps it alive past the limit.
        for seed in 0..6 {
            talk.round_trip(seed, 100);
            crate::support::pause(100);
        }
        assert!(begun.elapsed() > idle);
        let (got, took) = until_closed(&mut talk.stream);
        assert_eq!(got, b"");
        assert!(took < LIMIT / 2);
        let end = proxy.until_idle();
        assert_eq!(end.core.sessions_idle_closed_total, 1);
    }
}

#[test]
fn half_close_limit_ends_what_nobody_ends() {
    // The DC never ends, whatever the client does.
    let dc = far(|mut talk| {
        talk.expect(1, 100);
        talk.say(2, 100);
        while talk.try_write(&[1; 10]) {
            crate::support::pause(20);
        }
    });
    let proxy = Proxy::start(dc, |settings| {
        settings.timeouts.half_close = Duration::from_millis(200);
    });
    let mut talk = Talk::secure(proxy.addr);
    talk.say(1, 100);
    talk.finish();
    talk.expect(2, 100);
    let mut sink = [0; 1_000];
    while talk.read(&mut sink) > 0 {}
    drop(talk);
    proxy.until_idle();
}

#[test]
fn further_clients_are_closed_when_the_shard_is_full() {
    let proxy = Proxy::start(echo(), |settings| settings.plane.connections_max = 5);
    let mut served: Vec<_> = (0..5).map(|_| Talk::secure(proxy.addr)).collect();
    proxy.until("five", |now| now.core.sessions_current == 5);
    for _ in 0..10 {
        let (got, _) = until_closed(&mut connect(proxy.addr));
        assert_eq!(got, b"");
    }
    let now = proxy.snapshot();
    assert_eq!(now.core.accept_overflow_total, 10);
    assert_eq!(now.core.connections_current, 5);
    served.iter_mut().for_each(|talk| talk.round_trip(1, 1_000));
    drop(served.pop());
    proxy.until("room", |now| now.core.connections_current == 4);
    Talk::secure(proxy.addr).round_trip(2, 1_000);
    drop(served);
    proxy.until_idle();
}

#[test]
fn a_thousand_connections_leave_no_session() {
    for parking in [Parking::Ring, Parking::Executor] {
        let proxy = Proxy::start(echo(), |settings| {
            settings.plane.cores = vec![0, 1];
            settings.plane.parking = parking;
        });
        at_once(8, |thread| {
            for round in 0..125_u64 {
                let mut talk = match (thread + round) % 2 {
                    0 => Talk::secure(proxy.addr),
                    _ => Talk::tls(proxy.addr),
                };
                talk.round_trip(round, 64);
                if round % 3 == 0 {
                    talk.finish();
                    talk.expect_end();
                }
            }
        });
        let end = proxy.until_idle();
        assert_eq!(end.core.connections_total, 1_000);
        assert_eq!(end.core.sessions_total, 1_000);
        assert_eq!(end.users[1].connections_total, 1_000);
    }
}
