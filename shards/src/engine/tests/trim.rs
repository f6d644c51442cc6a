//! A crowd that stood still is gone: so is, a little later, the memory that it took.

use super::{
    Rig, buffers,
    exhaustion::{few, stalled_crowd},
    in_both,
    peers::{self, Peers},
};
use crate::settings::BufferSettings;

/// As many turns as the engine wants to look after its memory, in a time of our own.
fn settle(rig: &mut Rig) -> u64 {
    let mut now = 1_000;
    let mut turns = 0;
    while let Some(due) = rig.engine.tidy_due(now) {
        now = now.max(due);
        rig.engine.tidy(now);
        rig.turn_once_rung();
        turns += 1;
        assert!(turns < 10_000, "it never ends");
    }
    now - 1_000
}

fn resident(rig: &Rig) -> usize {
    rig.engine.small.resident_bytes() + rig.engine.large.resident_bytes()
}

#[test]
fn memory_of_a_crowd_goes_back_once_it_is_gone() {
    in_both(|parking| {
        let buffers = BufferSettings {
            large_count: 32,
            large_bytes: 131_072,
            ..few()
        };
        let mut rig = stalled_crowd(parking, buffers, 24, 2 << 20);
        rig.expect_clean();
        let before = resident(&rig);
        assert!(before > 32 * 60_000, "nothing was used: {before}");
        let took_ms = settle(&mut rig);
        let after = resident(&rig);
        // Two large buffers and all eight small ones stay posted.
        assert!(after <= 2 * 140_000 + 10 * 4_096, "{before} -> {after}");
        assert!((1..30_000).contains(&took_ms), "{took_ms} ms");
        assert_eq!(rig.engine.buffers_held(), 0);
        // All of them still work.
        let again = Peers::new(&rig);
        rig.target = None;
        let addr = rig.addr;
        for seed in 1..=8 {
            again.spawn(move || {
                let plan = peers::Plan {
                    seed,
                    bytes: 1 << 20,
                    step: 60_000,
                    pause_us: 0,
                };
                peers::converse(peers::connect(addr, 0), plan, plan, false);
            });
        }
        rig.run_until(|rig| again.are_done() && rig.pairs.is_empty());
        again.join(&mut rig);
        rig.expect_clean();
    });
}

/// The kernel was given all buffers there are, and nobody comes any more.
#[test]
fn posted_buffers_come_back_without_traffic() {
    in_both(|parking| {
        let mut rig = Rig::new(parking, buffers());
        let held = rig.hold_large(32);
        drop(held);
        for _ in 0..10 {
            rig.engine.small.widen();
            rig.engine.large.widen();
        }
        rig.turn_once_rung();
        let posted = |rig: &Rig| {
            let count = |pool: &super::super::buffers::Pool| pool.shared.posted.get();
            (count(&rig.engine.small), count(&rig.engine.large))
        };
        assert_eq!(posted(&rig), (256, 32));
        settle(&mut rig);
        assert_eq!(posted(&rig), (64, 2));
        assert!(resident(&rig) <= 2 * 135_168 + 66 * 4_096);
        assert_eq!(rig.engine.buffers_held(), 0);
        assert_eq!(rig.engine.stats().starved, 0);
        rig.expect_clean();
    });
}
