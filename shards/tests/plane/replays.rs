//! Recorded hellos sent again over real sockets, by several peers at once, to one, two and four
//! shards. The full number, without sockets, is in `shards/src/fuzzing/replays.rs`.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    thread,
    time::Instant,
};

use shards::{counters::BadClass, proto::faketls::client_hello::RANDOM_AT};

use crate::{
    support::{DOMAIN, LIMIT, Proxy, SECRET, pause},
    talk::{connect_from, echo, hello},
};

/// All of them stay connected until each has been judged.
const HELLOS: usize = 50;
const TIMES: u64 = 8;
const PEERS: u8 = 4;

#[test]
fn of_replays_at_once_one_is_answered() {
    for shards in [1, 2, 4] {
        let proxy = Proxy::start(echo(), |settings| {
            settings.plane.cores = (0..shards).map(|shard| shard % 2).collect();
        });
        for time in 1..=TIMES {
            let hellos: Vec<_> = (0..HELLOS).map(|_| hello(&SECRET, DOMAIN)).collect();
            let sent = send(proxy.addr, &hellos);
            let refused = time * u64::from(PEERS - 1) * HELLOS as u64;
            proxy.until("all replays", |now| {
                now.bad_by_class[BadClass::TlsReplay as usize] == refused
            });
            for copies in &sent {
                wait_for_one(copies);
            }
        }
        let end = proxy.until_idle();
        assert_eq!(end.core.replay_evicted_early_total, 0, "{shards} shards");
    }
}

/// Each hello from all peers at once, each with a date of its own; the connections by hello.
fn send(proxy: SocketAddr, hellos: &[Vec<u8>]) -> Vec<Vec<TcpStream>> {
    let by_peer: Vec<Vec<TcpStream>> = thread::scope(|scope| {
        let peers: Vec<_> = (0..PEERS)
            .map(|peer| {
                scope.spawn(move || {
                    let copies = hellos.iter().map(|hello| {
                        let mut copy = hello.clone();
                        // Another date takes no secret.
                        copy[RANDOM_AT + 28] ^= peer;
                        let mut stream = connect_from(proxy, 2 + peer);
                        stream.write_all(&copy).expect("hello");
                        stream
                    });
                    copies.collect()
                })
            })
            .collect();
        let joined = peers.into_iter().map(|peer| peer.join().expect("no panic"));
        joined.collect()
    });
    let mut by_peer: Vec<_> = by_peer.into_iter().map(Vec::into_iter).collect();
    let next = |_| by_peer.iter_mut().filter_map(Iterator::next).collect();
    (0..hellos.len()).map(next).collect()
}

/// Exactly one of these gets an answer; the others have been refused.
fn wait_for_one(copies: &[TcpStream]) {
    let begun = Instant::now();
    loop {
        let answered = copies.iter().filter(|stream| {
            stream.set_nonblocking(true).expect("non-blocking");
            stream.peek(&mut [0]).is_ok_and(|got| got > 0)
        });
        let answered = answered.count();
        assert!(answered <= 1, "{answered} copies are answered");
        if answered == 1 {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "no copy is answered");
        pause(1);
    }
}
