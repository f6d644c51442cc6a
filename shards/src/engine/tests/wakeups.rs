//! Timers and bells: none lost, none left over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Rig, buffers, in_both,
    peers::{self, Peers, Plan},
};

#[test]
fn no_ring_of_the_bell_is_lost_while_traffic_flows() {
    in_both(|parking| {
        const RINGS: usize = 100_000;
        let mut rig = Rig::new(parking, buffers());
        let peers = Peers::new(&rig);
        let posted = Arc::new(AtomicUsize::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        for _ in 0..2 {
            let (bell, posted) = (rig.engine.doorbell(), Arc::clone(&posted));
            let taken = Arc::clone(&taken);
            peers.spawn(move || {
                for round in 0..RINGS / 2 {
                    let mine = posted.fetch_add(1, Ordering::SeqCst) + 1;
                    bell.ring();
                    // Now and then wait until it was heard, so that every bell counts.
                    while round % 64 == 0 && taken.load(Ordering::SeqCst) < mine {
                        thread::yield_now();
                    }
                }
            });
        }
        for seed in 1..=2 {
            let (addr, plan) = (rig.addr, plan(seed));
            peers.spawn(move || peers::converse(peers::connect(addr, 0), plan, plan, false));
        }
        let mut heard = 0;
        rig.run_until(|rig| {
            if rig.seen.bells > heard {
                heard = rig.seen.bells;
                taken.store(posted.load(Ordering::SeqCst), Ordering::SeqCst);
                rig.progress();
            }
            peers.are_done() && rig.pairs.is_empty()
        });
        peers.join(&mut rig);
        assert_eq!(posted.load(Ordering::SeqCst), RINGS);
        rig.expect_clean();
    });
}

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        bytes: 4 << 20,
        step: 100_000,
        pause_us: 200,
    }
}

#[test]
fn timers_fire_when_due() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        for ms in [1, 20, 3] {
            let begun = Instant::now();
            rig.engine.set_timer(Duration::from_millis(ms));
            let before = rig.seen.timers;
            rig.run_until(|rig| rig.seen.timers > before);
            let took = begun.elapsed();
            assert!(took >= Duration::from_millis(ms), "{took:?}");
        }
        rig.expect_clean();
    });
}

/// A timer set earlier than the one that runs takes its place: each fires once and none is left.
#[test]
fn earlier_timer_replaces_the_one_that_runs() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        for ms in (1..=50).rev() {
            rig.engine.set_timer(Duration::from_millis(100 + ms));
            rig.turn_once_rung();
        }
        rig.run_until(|rig| rig.seen.timers > 0);
        let begun = Instant::now();
        rig.engine.set_timer(Duration::from_millis(300));
        let before = rig.seen.timers;
        rig.run_until(|rig| rig.seen.timers > before);
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert_eq!(rig.seen.timers, 2);
        rig.expect_clean();
    });
}
