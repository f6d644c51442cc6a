//! Every byte once and in order, however the sockets cut the stream; slow readers cost a bound.

use super::{
    Rig, buffers, in_both,
    peers::{self, Peers, Plan},
};
use crate::settings::{BufferSettings, Parking};

struct Case {
    connections: u64,
    bytes: usize,
    step: usize,
    pause_us: u64,
    kernel_bytes: usize,
    records: bool,
    buffers: BufferSettings,
}

fn case() -> Case {
    Case {
        connections: 4,
        bytes: 3 << 20,
        step: 300 << 10,
        pause_us: 0,
        kernel_bytes: 0,
        records: false,
        buffers: buffers(),
    }
}

fn plans(seed: u64, case: &Case) -> (Plan, Plan) {
    let plan = |seed: u64| Plan {
        seed,
        bytes: case.bytes + (seed as usize % 10_007),
        step: case.step,
        pause_us: case.pause_us,
    };
    (plan(seed), plan(seed ^ 0x5555))
}

/// Random sizes in both directions of several connections at once.
fn transfer(parking: Parking, case: Case) -> Rig {
    let mut rig = Rig::new(parking, case.buffers);
    rig.records = case.records;
    rig.kernel_bytes = case.kernel_bytes;
    let peers = Peers::new(&rig);
    let case = std::sync::Arc::new(case);
    let far = std::sync::Arc::clone(&case);
    rig.target = Some(peers.far(move |stream| {
        peers::set_limits(&stream);
        peers::shrink(&(&stream).into(), far.kernel_bytes);
        let (up, down) = plans(peers::hear_seed(&stream), &far);
        peers::converse(stream, down, up, false);
    }));
    for seed in 1..=case.connections {
        let (addr, case) = (rig.addr, std::sync::Arc::clone(&case));
        peers.spawn(move || {
            let stream = peers::connect(addr, case.kernel_bytes);
            peers::say_seed(&stream, seed);
            let (up, down) = plans(seed, &case);
            peers::converse(stream, up, down, case.records);
        });
    }
    rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
    peers.join(&mut rig);
    assert_eq!(rig.seen.closed as u64, case.connections);
    assert_eq!(rig.seen.failed, []);
    rig.expect_clean();
    rig
}

#[test]
fn every_byte_arrives_in_order_both_ways_at_once() {
    in_both(|parking| drop(transfer(parking, case())));
}

#[test]
fn every_byte_arrives_as_records() {
    in_both(|parking| {
        drop(transfer(
            parking,
            Case {
                records: true,
                ..case()
            },
        ));
    });
}

#[test]
fn short_reads_and_writes_lose_nothing() {
    for records in [false, true] {
        in_both(|parking| {
            drop(transfer(
                parking,
                Case {
                    bytes: 200 << 10,
                    step: 20_000,
                    pause_us: 300,
                    kernel_bytes: 16_384,
                    records,
                    ..case()
                },
            ));
        });
    }
}

#[test]
fn single_bytes_and_small_messages_stay_in_order() {
    in_both(|parking| {
        drop(transfer(
            parking,
            Case {
                connections: 16,
                bytes: 20_000,
                step: 90,
                records: true,
                ..case()
            },
        ));
    });
}

#[test]
fn buffers_of_odd_sizes_frame_correctly() {
    for (small_bytes, large_bytes) in [(1024, 16_384), (16_392, 16_401), (5000, 1 << 20)] {
        in_both(|parking| {
            drop(transfer(
                parking,
                Case {
                    records: true,
                    buffers: BufferSettings {
                        small_bytes,
                        large_bytes,
                        ..buffers()
                    },
                    ..case()
                },
            ));
        });
    }
}

/// A reader that stands still while its sender goes on.
#[test]
fn stalled_reader_holds_its_bound_and_gets_everything() {
    for records in [false, true] {
        in_both(|parking| stalled_reader(parking, records));
    }
}

fn stalled_reader(parking: Parking, records: bool) {
    const BYTES: usize = 24 << 20;
    let plan = Plan {
        seed: 99,
        bytes: BYTES,
        step: 100_000,
        pause_us: 0,
    };
    let mut rig = Rig::new(parking, buffers());
    rig.records = records;
    let peers = Peers::new(&rig);
    rig.target = Some(peers.far(move |stream| {
        peers::set_limits(&stream);
        peers::write_all(&stream, plan);
    }));
    let (go, wait) = std::sync::mpsc::channel();
    let addr = rig.addr;
    peers.spawn(move || {
        let stream = peers::connect(addr, 0);
        wait.recv().expect("go");
        peers::read_all(&stream, plan, records);
    });
    rig.run_until(|rig| rig.seen.paused > 0);
    // Nothing more comes in once the source is paused: the next things to happen are the bells.
    let bell = rig.engine.doorbell();
    for _ in 0..100 {
        bell.ring();
        rig.turn();
        peers::pause(1_000);
    }
    let stood = rig.seen.received_bytes;
    bell.ring();
    rig.turn();
    assert_eq!(rig.seen.received_bytes, stood, "it reads on");
    assert!(stood < BYTES as u64);
    go.send(()).expect("a reader");
    rig.run_until(|rig| peers.are_done() && rig.pairs.is_empty());
    peers.join(&mut rig);
    let b = buffers();
    let most = b.queue_bytes_max + 2 * b.large_bytes + 32 * b.small_bytes;
    assert!(rig.seen.most_queued <= most, "{}", rig.seen.most_queued);
    assert!(rig.seen.writable > 0);
    rig.expect_clean();
}
