//! The corners of the interface: pauses, half-closes, stale ids, closes in the middle, big turns.

use std::{io::Write, net::Shutdown, sync::mpsc};

use super::{
    super::{Owner, SocketId, op::GENERATION_MASK},
    Rig, buffers, in_both,
    peers::{self, Dice, Peers, Plan},
};
use crate::settings::{BufferSettings, Parking};

fn plan(seed: u64, bytes: usize) -> Plan {
    Plan {
        seed,
        bytes,
        step: 60_000,
        pause_us: 0,
    }
}

fn echo(peers: &Peers, rig: &Rig, seed: u64, bytes: usize) {
    let addr = rig.addr;
    peers.spawn(move || {
        let stream = peers::connect(addr, 0);
        peers::converse(stream, plan(seed, bytes), plan(seed, bytes), false);
    });
}

#[test]
fn storms_of_pause_and_resume_lose_nothing() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        for seed in 1..=4 {
            echo(&peers, &rig, seed, 2 << 20);
        }
        let mut dice = Dice(7);
        rig.run_until(|rig| {
            for key in rig.pairs.keys().copied().collect::<Vec<_>>() {
                let socket = rig.pairs[&key].sockets[0];
                for _ in 0..dice.up_to(4) {
                    rig.engine.pause(socket);
                    if dice.draw().is_multiple_of(2) {
                        rig.engine.resume(socket);
                    }
                }
                if !rig.pairs[&key].paused[0] {
                    rig.engine.resume(socket);
                }
            }
            peers.are_done() && rig.pairs.is_empty()
        });
        peers.join(&mut rig);
        assert_eq!(rig.seen.finished + rig.seen.closed, 8 - missing(&rig));
        rig.expect_clean();
    });
}

#[test]
fn receives_keep_to_their_bound() {
    in_both(|parking| {
        for bytes in [1_000, 20_000] {
            let mut rig = Rig::new(parking, buffers());
            let peers = Peers::new(&rig);
            (1..=4).for_each(|seed| echo(&peers, &rig, seed, 1 << 20));
            let mut bounded = 0;
            rig.run_until(|rig| {
                for pair in rig.pairs.values() {
                    rig.engine.limit_receives(pair.sockets[0], Some(bytes));
                }
                bounded += 1;
                if bounded == 200 {
                    // Whatever was on its way before is through by now.
                    rig.seen.most_received = 0;
                }
                peers.are_done() && rig.pairs.is_empty()
            });
            peers.join(&mut rig);
            assert!(bounded > 200, "too few turns to tell");
            assert!(
                rig.seen.most_received <= bytes,
                "{}",
                rig.seen.most_received
            );
            rig.expect_clean();
        }
    });
}

#[test]
fn bounds_that_come_and_go_lose_nothing() {
    in_both(|parking| {
        let few = BufferSettings {
            small_count: 4,
            large_count: 2,
            ..buffers()
        };
        for buffers in [buffers(), few] {
            let mut rig = Rig::new(parking, buffers);
            let peers = Peers::new(&rig);
            (1..=6).for_each(|seed| echo(&peers, &rig, seed, 1 << 20));
            let mut dice = Dice(11);
            rig.run_until(|rig| {
                for key in rig.pairs.keys().copied().collect::<Vec<_>>() {
                    let socket = rig.pairs[&key].sockets[0];
                    let bound = [None, Some(500), Some(4_096), Some(9_000), Some(1 << 20)];
                    let bytes = bound[(dice.draw() % 5) as usize];
                    rig.engine.limit_receives(socket, bytes);
                    if dice.draw().is_multiple_of(3) {
                        rig.engine.pause(socket);
                    }
                    if !rig.pairs[&key].paused[0] {
                        rig.engine.resume(socket);
                    }
                }
                peers.are_done() && rig.pairs.is_empty()
            });
            peers.join(&mut rig);
            rig.expect_clean();
        }
    });
}

/// An echo with nothing left to send finishes at once, without an event.
fn missing(rig: &Rig) -> usize {
    rig.seen.closed - rig.seen.finished
}

#[test]
fn nothing_is_read_while_paused_and_everything_after() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        rig.run_until_accepted(&peers, |stream| {
            peers::write_all(stream, plan(3, 10_000));
            peers::read_some(stream, plan(3, 10_000), false);
        });
        let socket = rig.pairs[&0].sockets[0];
        rig.engine.pause(socket);
        let bell = rig.engine.doorbell();
        for _ in 0..20 {
            bell.ring();
            rig.turn();
        }
        let before = rig.seen.received_bytes;
        peers::pause(20_000);
        for _ in 0..5 {
            bell.ring();
            rig.turn();
        }
        assert_eq!(rig.seen.received_bytes, before);
        rig.engine.resume(socket);
        rig.run_until(|_| peers.are_done());
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn half_close_goes_through_both_ways() {
    in_both(|parking| {
        for client_first in [true, false] {
            let mut rig = Rig::new(parking, buffers());
            let peers = Peers::new(&rig);
            rig.target = Some(peers.far(move |stream| {
                peers::set_limits(&stream);
                one_way_then_other(&stream, !client_first);
            }));
            let addr = rig.addr;
            peers.spawn(move || one_way_then_other(&peers::connect(addr, 0), client_first));
            rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
            peers.join(&mut rig);
            rig.expect_clean();
        }
    });
}

/// Sends all and ends, then reads all; or the other way about.
fn one_way_then_other(stream: &std::net::TcpStream, first: bool) {
    let part = plan(11, 700_000);
    if !first {
        peers::read_all(stream, part, false);
    }
    peers::write_all(stream, part);
    stream.shutdown(Shutdown::Write).expect("half-close");
    if first {
        peers::read_all(stream, part, false);
    }
}

#[test]
fn stale_ids_do_nothing() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let (gate, wait) = mpsc::channel::<()>();
        rig.run_until_accepted(&peers, move |_| {
            let _ = wait.recv();
        });
        let stale = rig.pairs[&0].sockets[0];
        rig.close(0);
        rig.run_until(|rig| rig.engine.socket_count() == 1);
        drop(gate);
        // The slot has a new user.
        rig.run_until_accepted(&peers, |stream| {
            peers::write_all(stream, plan(5, 5_000));
            peers::read_some(stream, plan(5, 5_000), false);
        });
        let engine = &mut rig.engine;
        for id in [stale, SocketId::NONE] {
            engine.close(id);
            engine.pause(id);
            engine.resume(id);
            engine.notify_writable(id);
            engine.set_owner(id, Owner(77));
            engine.send_bytes(id, b"stale".as_slice().into());
            assert!(engine.finish(id));
            assert_eq!(engine.queued(id), 0);
            assert_eq!(engine.peer_addr(id), None);
        }
        assert_eq!(engine.spilled_now(), 0);
        rig.run_until(|_| peers.are_done());
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn ids_stay_distinct_when_generations_wrap() {
    let mut rig = Rig::new(Parking::Ring, buffers());
    rig.engine.set_generation(GENERATION_MASK - 3);
    let peers = Peers::new(&rig);
    for seed in 1..=10 {
        echo(&peers, &rig, seed, 30_000);
    }
    rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty() && rig.seen.closed == 10);
    peers.join(&mut rig);
    rig.expect_clean();
}

#[test]
fn close_while_everything_is_in_flight_gives_all_back() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        rig.kernel_bytes = 16_384;
        let peers = Peers::new(&rig);
        let addr = rig.addr;
        for seed in 1..=16_u64 {
            peers.spawn(move || {
                let mut stream = peers::connect(addr, 16_384);
                // Never reads, so that the echo stands; the proxy closes on it.
                let bytes = vec![seed as u8; 4 << 20];
                drop(stream.write_all(&bytes));
            });
        }
        rig.run_until(|rig| rig.pairs.values().filter(|pair| pair.paused[0]).count() == 16);
        for key in 0..16 {
            rig.close(key);
        }
        rig.run_until(|rig| rig.engine.socket_count() == 1 && peers.are_done());
        rig.expect_clean();
    });
}

/// More sends in one turn than the submission queue has room for: each keeps its own data.
#[test]
fn turn_with_more_operations_than_the_ring_holds() {
    in_both(|parking| {
        const SOCKETS: usize = 700;
        let mut rig = Rig::new(
            parking,
            BufferSettings {
                small_count: 4096,
                ..buffers()
            },
        );
        let peers = Peers::new(&rig);
        let addr = rig.addr;
        peers.spawn(move || {
            let streams: Vec<_> = (0..SOCKETS).map(|_| peers::connect(addr, 0)).collect();
            for (index, stream) in streams.iter().enumerate() {
                peers::read_all(stream, plan(index as u64, 64), false);
            }
        });
        rig.run_until(|rig| rig.seen.accepted == SOCKETS);
        // Accepted in the order of the connects, which is that of the keys.
        let order: Vec<_> = (0..SOCKETS as u32)
            .map(|key| rig.pairs[&key].sockets[0])
            .collect();
        for (index, socket) in order.iter().enumerate() {
            let mut bytes = [0; 64];
            peers::fill(index as u64, &mut bytes);
            // In two parts, so that each send needs a message header of its own.
            rig.engine.send_bytes(*socket, bytes[..31].into());
            rig.engine.send_bytes(*socket, bytes[31..].into());
            // Two more operations each: the queue of 1,024 is full in the middle.
            rig.engine.pause(*socket);
        }
        rig.turn();
        for socket in order {
            rig.engine.finish(socket);
        }
        rig.run_until(|_| peers.are_done());
        peers.join(&mut rig);
        rig.expect_clean();
    });
}

#[test]
fn engine_dropped_in_the_middle_leaves_nothing_in_flight() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let addr = rig.addr;
        for seed in 1..=8_u64 {
            peers.spawn(move || {
                let mut stream = peers::connect(addr, 16_384);
                drop(stream.write_all(&vec![seed as u8; 8 << 20]));
            });
        }
        rig.run_until(|rig| rig.seen.paused >= 4);
        rig.engine.set_timer(std::time::Duration::from_secs(3600));
        rig.turn_once_rung();
        let begun = std::time::Instant::now();
        assert_eq!(rig.engine.shut_down(), 0, "operations left in flight");
        assert!(begun.elapsed() < std::time::Duration::from_secs(2));
        drop(rig);
    });
}
