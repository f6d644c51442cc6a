//! Peers that break off, refuse or vanish, in every state a connection can be in.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use socket2::SockRef;

use super::{
    super::{Event, Owner},
    Rig, buffers, in_both,
    peers::{self, Peers, Plan},
};
use crate::settings::Parking;

/// Closes with a reset.
fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
    drop(stream);
}

/// A far side that keeps every connection until it ends.
fn patient(peers: &Peers) -> SocketAddr {
    peers.far(|stream| {
        peers::set_limits(&stream);
        let mut sink = [0; 4096];
        while std::io::Read::read(&mut { &stream }, &mut sink).is_ok_and(|got| got > 0) {}
    })
}

/// Sends until the other side goes.
fn pour(mut stream: &TcpStream) {
    let bytes = vec![7; 64 << 10];
    while stream.write_all(&bytes).is_ok() {}
}

#[test]
fn client_resets_right_after_accept() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        rig.target = Some(patient(&peers));
        let addr = rig.addr;
        peers.spawn(move || (0..200).for_each(|_| reset(peers::connect(addr, 0))));
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty() && rig.seen.accepted == 200);
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn client_resets_while_its_bytes_come_in() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let addr = rig.addr;
        for seed in 1..=20 {
            peers.spawn(move || {
                let stream = peers::connect(addr, 0);
                peers::write_all(&stream, some(seed, 300_000));
                reset(stream);
            });
        }
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty() && rig.seen.accepted == 20);
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

fn some(seed: u64, bytes: usize) -> Plan {
    Plan {
        seed,
        bytes,
        step: 50_000,
        pause_us: 0,
    }
}

#[test]
fn stalled_client_resets_with_much_queued_for_it() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        rig.kernel_bytes = 16_384;
        let peers = Peers::new(&rig);
        rig.target = Some(peers.far(|stream| pour(&stream)));
        let (addr, clients) = (rig.addr, 8);
        let (gate, wait) = mpsc::channel::<()>();
        peers.spawn(move || {
            let all: Vec<_> = (0..clients).map(|_| peers::connect(addr, 16_384)).collect();
            let _ = wait.recv();
            all.into_iter().for_each(reset);
        });
        rig.run_until(|rig| {
            let stopped = rig.pairs.values().filter(|pair| pair.paused[1]);
            stopped.count() == clients
        });
        drop(gate);
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
        peers.join(&mut rig);
        assert_eq!(rig.seen.failed.len(), clients);
        rig.expect_clean();
    });
}

#[test]
fn far_side_resets_in_the_middle_of_both_directions() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        rig.target = Some(peers.far(|stream| {
            peers::set_limits(&stream);
            peers::read_some(&stream, some(1, 100_000), false);
            peers::write_all(&stream, some(2, 100_000));
            reset(stream);
        }));
        let addr = rig.addr;
        for _ in 0..10 {
            peers.spawn(move || {
                let stream = peers::connect(addr, 0);
                peers::write_all(&stream, some(1, 100_000));
                pour(&stream);
            });
        }
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty() && rig.seen.accepted == 10);
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn client_resets_after_we_finished() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        // The far side ends at once; the client hears of it and resets instead of ending.
        rig.target = Some(peers.far(drop));
        let addr = rig.addr;
        for _ in 0..20 {
            peers.spawn(move || {
                let stream = peers::connect(addr, 0);
                peers::read_all(&stream, some(1, 0), false);
                reset(stream);
            });
        }
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty() && rig.seen.accepted == 20);
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn refused_connect_is_told_once() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
        rig.target = Some(closed.local_addr().expect("bound"));
        drop(closed);
        let addr = rig.addr;
        peers.spawn(move || {
            for _ in 0..50 {
                peers::read_all(&peers::connect(addr, 0), some(1, 0), false);
            }
        });
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
        peers.join(&mut rig);
        assert_eq!(rig.seen.connect_failed, vec![libc::ECONNREFUSED; 50]);
        rig.expect_clean();
    });
}

/// Thousands of outcomes at once, more than the completion queue holds: none is lost.
#[test]
fn more_completions_than_the_ring_holds_are_all_told() {
    in_both(|parking| {
        const CONNECTS: u64 = 10_000;
        let mut rig = Rig::new(parking, buffers());
        let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = closed.local_addr().expect("bound");
        drop(closed);
        for owner in 0..CONNECTS {
            rig.engine.connect(addr, Owner(owner)).expect("a connect");
        }
        let mut told = vec![false; CONNECTS as usize];
        let begun = std::time::Instant::now();
        while told.contains(&false) {
            rig.engine.enter(false).expect("enter");
            while let Some(event) = rig.engine.next_event() {
                let Event::ConnectFailed { owner, errno } = event else {
                    panic!("{event:?}");
                };
                assert_eq!(errno, libc::ECONNREFUSED);
                assert!(!std::mem::replace(&mut told[owner.0 as usize], true));
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "outcomes lost");
        }
        rig.expect_clean();
    });
}

/// A connect that nobody answers: the queue of its listener is full.
fn unanswered() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let full = {
        let socket = SockRef::from(&listener);
        socket.listen(0).expect("a short queue");
        (0..4)
            .filter_map(|_| TcpStream::connect_timeout(&addr, Duration::from_millis(100)).ok())
            .collect()
    };
    (listener, full, addr)
}

#[test]
fn connect_closed_in_the_middle_tells_nothing() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let (_listener, _full, addr) = unanswered();
        for round in 0..100 {
            let owner = Owner(u64::MAX - round);
            let socket = rig.engine.connect(addr, owner).expect("a connect");
            if round % 2 == 0 {
                rig.turn_once_rung();
            }
            rig.engine.close(socket);
        }
        // An event with such an owner would have failed the rig.
        rig.run_until(|rig| rig.engine.socket_count() == 1);
        assert_eq!(rig.seen.connected, 0);
        rig.expect_clean();
    });
}

#[test]
fn client_gone_while_its_connect_waits_is_cleaned_up() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let (_listener, _full, target) = unanswered();
        rig.target = Some(target);
        let addr = rig.addr;
        peers.spawn(move || (0..10).for_each(|_| reset(peers::connect(addr, 0))));
        rig.run_until(|rig| rig.seen.accepted == 10);
        rig.turn_once_rung();
        // The owner gives up, as after its connect limit.
        rig.expect_clean();
        assert_eq!(rig.seen.connected, 0);
        peers.join(&mut rig);
    });
}

#[test]
fn closed_listener_accepts_no_more() {
    for parking in [Parking::Ring, Parking::Executor] {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let addr = rig.addr;
        peers.spawn(move || (0..300).for_each(|_| drop(TcpStream::connect(addr))));
        rig.run_until(|rig| rig.seen.accepted >= 100);
        rig.engine.close(rig.listener);
        rig.run_until(|rig| {
            let closing = rig.pairs.keys().copied().collect::<Vec<_>>();
            closing.into_iter().for_each(|key| rig.close(key));
            peers.are_done() && rig.engine.socket_count() == 0
        });
        // The descriptor itself is closed by the ring, a turn later.
        rig.run_until(|_| TcpStream::connect(addr).is_err());
        peers.join(&mut rig);
    }
}
