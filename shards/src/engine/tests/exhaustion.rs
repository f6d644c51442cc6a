//! Few buffers and many peers that stand still: the others must get on, and nothing is lost.

use std::sync::{Arc, mpsc};

use super::{
    Rig, buffers, in_both,
    peers::{self, Peers, Plan},
};
use crate::settings::{BufferSettings, Parking};

pub(super) fn few() -> BufferSettings {
    BufferSettings {
        small_bytes: 4096,
        small_count: 8,
        large_bytes: 32_768,
        large_count: 8,
        queue_bytes_max: 65_536,
        spill_bytes_max: 256 << 20,
    }
}

fn bulk(seed: u64, bytes: usize) -> Plan {
    Plan {
        seed,
        bytes,
        step: 64 << 10,
        pause_us: 0,
    }
}

/// A far side that sends `bytes` of the pattern whose seed it is told.
fn source(peers: &Peers, bytes: usize) -> std::net::SocketAddr {
    peers.far(move |stream| {
        peers::set_limits(&stream);
        let seed = peers::hear_seed(&stream);
        if seed == 0 {
            // Ping-pong: single small messages both ways.
            for round in 1..=PINGS {
                let ping = bulk(round, 64);
                peers::read_some(&stream, ping, false);
                peers::write_all(&stream, ping);
            }
        } else {
            peers::write_all(&stream, bulk(seed, bytes));
        }
    })
}

const PINGS: u64 = 200;

fn ping_pong(addr: std::net::SocketAddr) {
    let stream = peers::connect(addr, 0);
    peers::say_seed(&stream, 0);
    for round in 1..=PINGS {
        let ping = bulk(round, 64);
        peers::write_all(&stream, ping);
        peers::read_some(&stream, ping, false);
    }
    let none = bulk(1, 0);
    peers::read_all(&stream, none, false);
}

/// Readers that do not read until they are told, while others transfer and ping.
pub(super) fn stalled_crowd(
    parking: Parking,
    buffers: BufferSettings,
    crowd: u64,
    bytes: usize,
) -> Rig {
    let mut rig = Rig::new(parking, buffers);
    // Else the kernel takes megabytes for a peer that stands still.
    rig.kernel_bytes = 32_768;
    let waiters = Peers::new(&rig);
    let movers = Peers::new(&rig);
    rig.target = Some(source(&waiters, bytes));
    let addr = rig.addr;
    let mut gates = Vec::new();
    for seed in 1..=crowd {
        let (gate, wait) = mpsc::channel::<()>();
        gates.push(gate);
        waiters.spawn(move || {
            let stream = peers::connect(addr, 16_384);
            peers::say_seed(&stream, seed);
            let _ = wait.recv();
            peers::read_all(&stream, bulk(seed, bytes), false);
        });
    }
    // Every source is stopped: nobody of the crowd takes anything any more.
    rig.run_until(|rig| {
        let stopped = rig.pairs.values().filter(|pair| pair.paused[1]).count();
        stopped as u64 >= crowd.min(rig.seen.accepted as u64) && rig.seen.accepted as u64 == crowd
    });
    for seed in 1001..1004 {
        movers.spawn(move || {
            let stream = peers::connect(addr, 0);
            peers::say_seed(&stream, seed);
            peers::read_all(&stream, bulk(seed, bytes), false);
        });
        movers.spawn(move || ping_pong(addr));
    }
    rig.run_until(|_| movers.are_done());
    movers.join(&mut rig);
    drop(gates);
    rig.run_until(|rig| waiters.are_done() && rig.pairs.values().all(|pair| pair.is_half_over()));
    waiters.join(&mut rig);
    assert_eq!(rig.seen.failed, []);
    rig
}

#[test]
fn others_get_on_while_a_crowd_stands_still() {
    in_both(|parking| {
        let mut rig = stalled_crowd(parking, few(), 24, 2 << 20);
        rig.expect_clean();
    });
}

#[test]
fn others_get_on_when_the_crowd_fills_the_default_pools() {
    in_both(|parking| {
        let buffers = BufferSettings {
            large_count: 16,
            small_count: 64,
            queue_bytes_max: 524_288,
            ..buffers()
        };
        let mut rig = stalled_crowd(parking, buffers, 16, 8 << 20);
        rig.expect_clean();
    });
}

#[test]
fn pools_of_one_or_two_buffers_still_move_every_byte() {
    for count in [1, 2] {
        in_both(|parking| {
            let buffers = BufferSettings {
                small_count: count,
                large_count: count,
                ..few()
            };
            let mut rig = stalled_crowd(parking, buffers, 3, 1 << 20);
            rig.expect_clean();
        });
    }
}

/// With no memory left for stalled peers they are closed; those who read are not.
#[test]
fn stalled_peers_go_when_their_memory_is_used_up() {
    in_both(|parking| {
        let mut rig = Rig::new(
            parking,
            BufferSettings {
                spill_bytes_max: 300_000,
                ..few()
            },
        );
        rig.kernel_bytes = 32_768;
        let peers = Peers::new(&rig);
        rig.target = Some(peers.far(|stream| {
            peers::set_limits(&stream);
            let seed = peers::hear_seed(&stream);
            let plan = bulk(seed, 2 << 20);
            let mut bytes = vec![0; plan.bytes];
            peers::fill(seed, &mut bytes);
            let _ = std::io::Write::write_all(&mut { &stream }, &bytes);
        }));
        let addr = rig.addr;
        let (gate, wait) = mpsc::channel::<()>();
        let standing: Vec<_> = (1..=30_u64)
            .map(|seed| {
                let stream = peers::connect(addr, 16_384);
                peers::say_seed(&stream, seed);
                stream
            })
            .collect();
        rig.run_until(|rig| rig.seen.failed.contains(&libc::ENOBUFS));
        assert!(rig.engine.spilled_now() < 300_000 + 2 * 65_536 + 65_536);
        let streams = Arc::new(standing);
        let held = Arc::clone(&streams);
        peers.spawn(move || {
            let _ = wait.recv();
            drop(held);
        });
        drop(streams);
        drop(gate);
        rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
        rig.expect_clean();
    });
}

/// Sockets that starve for small buffers do not wait for large ones.
#[test]
fn small_messages_flow_while_every_large_buffer_is_held() {
    in_both(|parking| {
        let buffers = BufferSettings {
            small_count: 2,
            large_count: 2,
            ..few()
        };
        let mut rig = Rig::new(parking, buffers);
        let peers = Peers::new(&rig);
        rig.target = Some(source(&peers, 1 << 20));
        // The test itself holds what the pools have, as a slow consumer would.
        let held: Vec<_> = rig.hold_large(2);
        let addr = rig.addr;
        for _ in 0..8 {
            peers.spawn(move || ping_pong(addr));
        }
        rig.run_until(|_| peers.are_done());
        peers.join(&mut rig);
        drop(held);
        rig.expect_clean();
    });
}
