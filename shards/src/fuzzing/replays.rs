//! A hundred thousand recorded hellos, sent again: none is accepted twice, on any number of shards.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    thread,
};

use super::{tests::SECRETS, *};
use crate::proto::faketls::client_hello::{HelloKind, RANDOM_AT, build_hello};

const HELLOS: usize = 100_000;
/// The default (protocol.md 6.6).
const ENTRIES: usize = 1 << 20;

/// Every hello differs from all others in its session id, and so in its digest.
fn record() -> Vec<Vec<u8>> {
    let mut state = 0_u64;
    let mut random = |out: &mut [u8]| {
        for chunk in out.chunks_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            chunk.copy_from_slice(&state.to_be_bytes()[..chunk.len()]);
        }
    };
    let mut build = |_| {
        let kind = HelloKind::Classic517;
        build_hello(&mut random, &SECRETS[1], DOMAIN, NOW_UNIX, kind)
    };
    (0..HELLOS).map(&mut build).collect()
}

/// The same hello with another date: whoever recorded it can do that without the secret.
fn restamp(hello: &mut [u8], later: u32) {
    let date = &mut hello[RANDOM_AT + 28..RANDOM_AT + 32];
    let change = NOW_UNIX ^ (NOW_UNIX + later);
    for (byte, change) in date.iter_mut().zip(change.to_le_bytes()) {
        *byte ^= change;
    }
}

/// Sends all of them to one shard, `later` seconds younger; notes who was let in.
fn replay(shard: &mut Door, hellos: &[Vec<u8>], later: u32, accepted: &[AtomicU8]) {
    for (hello, accepted) in hellos.iter().zip(accepted) {
        let mut hello = hello.clone();
        restamp(&mut hello, later);
        match shard.newcomer(&[&hello]) {
            Outcome::Waits { answer: Some(_) } => {
                accepted.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Refused { why } => assert!(why.is_replay(), "{why:?}"),
            other => panic!("neither let in nor a replay: {other:?}"),
        }
    }
}

#[test]
fn of_a_hundred_thousand_replayed_hellos_none_is_accepted_twice() {
    let modes = Modes {
        classic: false,
        secure: false,
        tls: true,
    };
    let hellos = record();
    for shards in [1, 2, 4] {
        let first = Door::new(modes, UnknownSni::Mask, &SECRETS).remembering(ENTRIES);
        let accepted: Vec<_> = (0..HELLOS).map(|_| AtomicU8::new(0)).collect();
        // All shards at once, each with a copy of its own date; then one shard with another.
        let forgotten: u64 = thread::scope(|scope| {
            let running: Vec<_> = (0..shards)
                .map(|shard| {
                    let (mut door, hellos, accepted) = (first.beside(), &hellos, &accepted);
                    scope.spawn(move || {
                        replay(&mut door, hellos, shard, accepted);
                        door.forgotten()
                    })
                })
                .collect();
            let ends = running.into_iter().map(|one| one.join().expect("no panic"));
            ends.sum()
        });
        let mut late = first.beside();
        replay(&mut late, &hellos, 100, &accepted);
        assert_eq!(forgotten + late.forgotten(), 0, "{shards} shards");
        let wrong = accepted.iter().filter(|n| n.load(Ordering::Relaxed) != 1);
        assert_eq!(wrong.count(), 0, "{shards} shards");
    }
}
