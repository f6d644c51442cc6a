//! Doors that close for a while, and what a connected socket tells of itself.

use std::{io::Read, time::Duration};

use super::{
    super::{OutgoingOptions, Owner},
    Rig, buffers, in_both,
    peers::{self, Peers},
};

#[test]
fn clients_wait_while_nobody_accepts_and_come_in_later() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        rig.run_until_accepted(&peers, |_| {});
        let listener = rig.listener;
        rig.engine.stop_accepting(listener);
        rig.turn_once_rung();
        rig.turn_once_rung();
        let before = rig.seen.accepted;
        let addr = rig.addr;
        for _ in 0..3 {
            peers.spawn(move || drop(peers::connect(addr, 0)));
        }
        for _ in 0..3 {
            rig.turn_once_rung();
        }
        assert_eq!(rig.seen.accepted, before);
        // Twice, and once more while it is on its way: still one accept.
        rig.engine.accept(listener);
        rig.engine.stop_accepting(listener);
        rig.engine.accept(listener);
        rig.engine.accept(listener);
        rig.run_until(|rig| rig.seen.accepted == before + 3 && rig.pairs.is_empty());
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn connected_socket_tells_its_address_and_what_is_not_acknowledged() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let far = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = far.local_addr().expect("bound");
        let options = OutgoingOptions {
            keepalive: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(10),
            user_timeout: Duration::from_secs(30),
            ..OutgoingOptions::default()
        };
        let socket = rig
            .engine
            .connect_with(addr, Owner(1), options)
            .expect("a socket");
        let mut connected = false;
        while !connected {
            rig.engine.enter(true).expect("enter");
            while let Some(event) = rig.engine.next_event() {
                connected |= matches!(event, super::super::Event::Connected { .. });
            }
        }
        let (mut stream, peer) = far.accept().expect("accept");
        assert_eq!(rig.engine.local_addr(socket), Some(peer));
        let mut block = rig.engine.blocks().take(100_000);
        block.extend_from_slice(&[7; 100_000]);
        rig.engine.send_block(socket, block);
        assert_eq!(rig.engine.queued(socket), 100_000);
        let mut got = vec![0; 100_000];
        let reader = std::thread::spawn(move || {
            stream.read_exact(&mut got).expect("all of it");
            (stream, got)
        });
        while rig.engine.queued(socket) > 0 {
            rig.engine.enter(true).expect("enter");
            while rig.engine.next_event().is_some() {}
        }
        let (_stream, got) = reader.join().expect("a reader");
        assert!(got.iter().all(|byte| *byte == 7));
        rig.progress();
        // On loopback an acknowledgement comes with the bytes, or a moment later.
        let acknowledged = || rig.engine.unacknowledged(socket) == Some(0);
        assert!((0..500).any(|_| {
            std::thread::park_timeout(Duration::from_millis(2));
            acknowledged()
        }));
        rig.engine.close(socket);
        rig.run_until(|rig| {
            rig.engine.doorbell().ring();
            rig.engine.socket_count() == 1
        });
        assert_eq!(rig.engine.local_addr(socket), None);
        assert_eq!(rig.engine.unacknowledged(socket), None);
    });
}
