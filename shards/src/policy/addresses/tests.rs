//! The three ways of counting, one by one and against a plain list.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use proptest::prelude::*;

use super::*;

fn rules(mode: AddressMode) -> AddressSettings {
    AddressSettings {
        mode,
        window: Duration::from_secs(10),
    }
}

fn ip(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

#[test]
fn live_mode_counts_addresses_with_sessions() {
    let (set, rules) = (AddressSet::default(), rules(AddressMode::Live));
    let now = Millis(1);
    assert!(set.open(ip(1), 2, &rules, now));
    assert!(set.open(ip(1), 2, &rules, now));
    assert!(set.open(ip(2), 2, &rules, now));
    assert!(!set.admits(ip(3), 2, &rules, now));
    assert!(!set.open(ip(3), 2, &rules, now));
    assert!(set.admits(ip(2), 2, &rules, now));
    set.close(ip(1), &rules, now);
    assert!(!set.open(ip(3), 2, &rules, now));
    set.close(ip(1), &rules, now);
    assert!(set.open(ip(3), 2, &rules, now));
    assert_eq!(set.counted(&rules, now), 2);
}

#[test]
fn recent_mode_counts_addresses_by_their_last_opening() {
    let (set, rules) = (AddressSet::default(), rules(AddressMode::Recent));
    assert!(set.open(ip(1), 1, &rules, Millis(0)));
    set.close(ip(1), &rules, Millis(5_000));
    assert!(!set.open(ip(2), 1, &rules, Millis(10_000)));
    assert!(set.open(ip(2), 1, &rules, Millis(10_001)));
    // The session still there does not count, and cannot come to count by its end.
    assert!(set.open(ip(3), 1, &rules, Millis(21_000)));
    set.close(ip(2), &rules, Millis(21_001));
    assert_eq!(set.counted(&rules, Millis(21_002)), 1);
}

#[test]
fn both_counts_live_addresses_and_those_of_the_window_after() {
    let (set, rules) = (AddressSet::default(), rules(AddressMode::Both));
    assert!(set.open(ip(1), 1, &rules, Millis(0)));
    assert!(!set.open(ip(2), 1, &rules, Millis(60_000)));
    set.close(ip(1), &rules, Millis(60_000));
    assert!(!set.open(ip(2), 1, &rules, Millis(70_000)));
    assert!(set.open(ip(2), 1, &rules, Millis(70_001)));
}

#[test]
fn addresses_registered_late_count_and_are_given_back() {
    let (set, rules) = (AddressSet::default(), rules(AddressMode::Live));
    for last in 1..=3 {
        set.register(ip(last), Millis(0));
    }
    assert!(!set.open(ip(4), 2, &rules, Millis(0)));
    assert!(set.open(ip(3), 2, &rules, Millis(0)));
    for last in [1, 2, 3, 3] {
        set.close(ip(last), &rules, Millis(0));
    }
    assert!(set.lock().is_none(), "no memory is kept");
}

#[test]
fn memory_of_idle_addresses_goes_with_the_limit() {
    let (set, rules) = (AddressSet::default(), rules(AddressMode::Both));
    assert!(set.open(ip(1), 5, &rules, Millis(0)));
    assert!(set.open(ip(2), 5, &rules, Millis(0)));
    set.close(ip(1), &rules, Millis(0));
    set.forget_idle();
    assert_eq!(set.counted(&rules, Millis(0)), 1);
    set.close(ip(2), &rules, Millis(0));
    set.forget_idle();
    assert!(set.lock().is_none());
}

#[test]
fn many_at_once_never_exceed_the_limit_and_one_address_counts_once() {
    let (set, rules) = (AddressSet::default(), rules(AddressMode::Live));
    let (live, most) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (set, rules, live, most) = (&set, &rules, &live, &most);
            scope.spawn(move || {
                for round in 0..5_000_u64 {
                    let from = ip((thread.wrapping_mul(7) + round) as u8 % 6);
                    if set.open(from, 3, rules, Millis(round)) {
                        live.fetch_add(1, Ordering::Relaxed);
                        most.fetch_max(set.counted(rules, Millis(round)), Ordering::Relaxed);
                        set.close(from, rules, Millis(round));
                    }
                }
            });
        }
    });
    assert!(live.into_inner() > 0);
    assert!(most.into_inner() <= 3);
    assert_eq!(set.counted(&rules, Millis(0)), 0);
}

proptest! {
    /// Against a plain list of what happened.
    #[test]
    fn limit_holds_in_every_mode(
        mode in prop_oneof![
            Just(AddressMode::Live), Just(AddressMode::Recent), Just(AddressMode::Both)
        ],
        max in 1_u64..4,
        steps in prop::collection::vec((0_u8..6, 0_u64..4_000, any::<bool>()), 1..200),
    ) {
        let (set, rules) = (AddressSet::default(), rules(mode));
        let mut now = 0;
        let mut open: Vec<u8> = Vec::new();
        // Last opening and last end of each address.
        let mut seen = [(None::<u64>, None::<u64>); 6];
        for (last, pause, opens) in steps {
            now += pause;
            let within = |at: Option<u64>| at.is_some_and(|at| now - at <= 10_000);
            let counts = |of: u8| {
                let (opened, closed) = seen[usize::from(of)];
                let live = open.contains(&of);
                match mode {
                    AddressMode::Live => live,
                    AddressMode::Recent => within(opened),
                    AddressMode::Both => live || within(opened) || within(closed),
                }
            };
            let counted = (0..6).filter(|of| counts(*of)).count() as u64;
            prop_assert!(counted <= max);
            prop_assert_eq!(set.counted(&rules, Millis(now)), counted);
            if opens {
                let expected = counts(last) || counted < max;
                prop_assert_eq!(set.admits(ip(last), max, &rules, Millis(now)), expected);
                prop_assert_eq!(set.open(ip(last), max, &rules, Millis(now)), expected);
                if expected {
                    open.push(last);
                    seen[usize::from(last)].0 = Some(now);
                }
            } else if let Some(at) = open.iter().position(|of| *of == last) {
                open.remove(at);
                set.close(ip(last), &rules, Millis(now));
                if !open.contains(&last) {
                    seen[usize::from(last)].1 = Some(now);
                }
            }
        }
    }
}
