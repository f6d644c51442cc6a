//! Clients that are ours: every byte, both ways, in every combination of settings.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use shards::settings::{Parking, Settings};

use crate::{
    support::{Proxy, at_once},
    talk::{Talk, echo, far},
};

/// One client, by its kind.
fn client(proxy: &Proxy, tls: bool) -> Talk {
    if tls {
        Talk::tls(proxy.addr)
    } else {
        Talk::secure(proxy.addr)
    }
}

fn with(shards: usize, parking: Parking, fast: bool) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.plane.cores = (0..shards).collect();
        settings.plane.parking = parking;
        settings.upstream.fast_mode = fast;
    }
}

#[test]
fn clients_of_both_kinds_reach_their_dc() {
    let dc = echo();
    for (shards, parking, fast) in [
        (1, Parking::Ring, true),
        (1, Parking::Executor, false),
        (2, Parking::Executor, true),
        (2, Parking::Ring, false),
    ] {
        let proxy = Proxy::start(dc, with(shards, parking, fast));
        at_once(8, |index| {
            let mut talk = client(&proxy, index % 2 == 1);
            for (seed, bytes) in [(1, 1), (2, 100), (3, 20_000), (4, 700_000)] {
                talk.round_trip(seed, bytes);
            }
            talk.finish();
            talk.expect_end();
        });
        let end = proxy.until_idle();
        assert_eq!(end.core.connections_total, 8);
        assert_eq!(end.core.connections_bad_total, 0);
        assert_eq!(end.core.octets_from_client_total, 8 * 720_101);
        assert_eq!(end.core.octets_to_client_total, 8 * 720_101);
        assert_eq!(end.users[1].connections_total, 8);
    }
}

#[test]
fn header_may_come_byte_by_byte_and_with_data_behind_it() {
    let proxy = Proxy::start(echo(), |_| ());
    let mut slow = crate::talk::connect(proxy.addr);
    let mut recorded = std::net::TcpListener::bind("127.0.0.1:0")
        .map(|listener| {
            let stream = crate::talk::connect(listener.local_addr().expect("bound"));
            (Talk::secure_from(stream), listener)
        })
        .expect("a port");
    // A client talks to a recorder; what it wrote is played slowly to the proxy.
    recorded.0.say(5, 10);
    let (mut from, _) = recorded.1.accept().expect("recorder");
    let mut wire = [0; 74];
    std::io::Read::read_exact(&mut from, &mut wire).expect("what the client wrote");
    slow.set_nodelay(true).expect("nodelay");
    for byte in wire {
        std::io::Write::write_all(&mut slow, &[byte]).expect("a byte");
    }
    recorded.0.stream = slow;
    recorded.0.expect(5, 10);
    drop(recorded);
    proxy.until_idle();
}

/// 32 requests of 1 MiB in flight on each of four connections, and as much coming back at once.
#[test]
fn busy_both_ways_with_everything_pipelined() {
    const TOTAL: usize = 32 << 20;
    let dc = far(|mut talk| {
        let mut half = talk.split();
        let up = thread::spawn(move || half.expect(1, TOTAL));
        talk.say(2, TOTAL);
        talk.finish();
        up.join().expect("uplink");
    });
    for (tls, fast) in [(false, true), (true, true), (true, false)] {
        let proxy = Proxy::start(dc, with(2, Parking::Ring, fast));
        at_once(4, |_| {
            let mut talk = client(&proxy, tls);
            let mut half = talk.split();
            let down = thread::spawn(move || {
                half.expect(2, TOTAL);
                half.expect_end();
            });
            talk.say(1, TOTAL);
            down.join().expect("downlink");
            talk.finish();
        });
        let end = proxy.until_idle();
        assert_eq!(end.core.octets_to_client_total, 4 * TOTAL as u64);
        assert_eq!(end.core.octets_from_client_total, 4 * TOTAL as u64);
    }
}

#[test]
fn slow_reader_gets_64_mib_in_the_end() {
    const TOTAL: usize = 64 << 20;
    let dc = far(|mut talk| {
        talk.say(3, TOTAL);
        talk.finish();
    });
    for tls in [false, true] {
        let proxy = Proxy::start(dc, |_| ());
        let mut talk = client(&proxy, tls);
        let stood = proxy.until("back-pressure", |now| now.core.backpressure_total > 0);
        assert!(stood.core.octets_to_client_total < TOTAL as u64 / 2);
        talk.expect(3, TOTAL);
        talk.expect_end();
        drop(talk);
        proxy.until_idle();
    }
}

#[test]
fn half_close_of_the_client_lets_the_dc_finish() {
    let dc = far(|mut talk| {
        talk.expect(1, 300_000);
        talk.expect_end();
        talk.say(2, 900_000);
        talk.finish();
    });
    let proxy = Proxy::start(dc, |_| ());
    let mut talk = Talk::secure(proxy.addr);
    talk.say(1, 300_000);
    talk.finish();
    talk.expect(2, 900_000);
    talk.expect_end();
    proxy.until_idle();
}

/// The DC says what it has and goes, in one way or the other, while the client does not read.
#[test]
fn slow_client_gets_every_byte_of_a_dc_that_went() {
    const TOTAL: usize = 5 << 20;
    for tls in [false, true] {
        for keeps_reading in [true, false] {
            let (gone, went) = mpsc::channel();
            let gone = Arc::new(gone);
            let dc = far(move |mut talk| {
                talk.expect(1, 10);
                talk.say(2, TOTAL);
                talk.finish();
                if !keeps_reading {
                    // Until all has arrived at the proxy: what the DC's own kernel still holds is
                    // lost as soon as something comes for a socket that is closed.
                    let socket = socket2::SockRef::from(&talk.stream);
                    let limit = std::time::Duration::from_secs(20);
                    socket.set_linger(Some(limit)).expect("linger");
                    drop(talk);
                    return gone.send(()).expect("a test");
                }
                gone.send(()).expect("a test");
                while talk.read(&mut [0; 1_000]) > 0 {}
            });
            let proxy = Proxy::start(dc, |_| ());
            let mut talk = client(&proxy, tls);
            talk.say(1, 10);
            let mut got = 0;
            while went.try_recv().is_err() {
                // Slowly, so that the end comes while much is still queued.
                talk.expect_at(2, got, 50_000.min(TOTAL - got));
                got += 50_000.min(TOTAL - got);
            }
            // What is said now reaches nobody, and must not cost what is still to be read.
            for _ in 0..20 {
                talk.try_write(&[7; 100]);
                crate::support::pause(5);
            }
            talk.expect_at(2, got, TOTAL - got);
            talk.expect_end();
            drop(talk);
            proxy.until_idle();
        }
    }
}
