//! Rates over virtual seconds.

use proptest::prelude::*;

use super::*;

/// Sessions that always have more, in virtual time: bytes let through within `run_ms`.
fn run(bps: u64, sessions: usize, receive: u64, run_ms: u64) -> u64 {
    let bucket = Bucket::default();
    let mut next = vec![0_u64; sessions];
    let mut total = 0;
    for now in 1_000..1_000 + run_ms {
        for until in &mut next {
            // As much per turn as a socket has buffered, at most.
            for _ in 0..64 {
                if *until > now {
                    break;
                }
                total += receive;
                let paid = bucket.charge(receive as usize, bps, Millis(now));
                *until = paid.pause(Millis(now)).map_or(0, |until| until.0);
            }
        }
    }
    total
}

#[test]
fn rate_holds_within_five_percent_over_a_few_seconds() {
    for (bps, sessions) in [
        (100_000, 1),
        (1_000_000, 1),
        (1_000_000, 8),
        (10_000_000, 8),
        (100_000_000, 16),
        (1_000_000_000, 1),
        (1_000_000_000, 32),
    ] {
        let receive = receive_bytes_max(bps).min(128 * 1024);
        let secs = 5;
        let total = run(bps, sessions, receive, secs * 1_000);
        let due = bps / 8 * secs;
        let error = (total as f64 - due as f64) / due as f64;
        assert!(error.abs() < 0.05, "{bps} bit/s, {sessions}: {error}");
    }
}

#[test]
fn pauses_are_longer_than_a_turn_whatever_the_rate() {
    for bps in [1_000_000, 1_000_000_000, 40_000_000_000] {
        let receive = receive_bytes_max(bps).min(128 * 1024);
        let bucket = Bucket::default();
        let (mut pauses, mut now) = (0, 1_000);
        while now < 11_000 {
            let paid = bucket.charge(receive as usize, bps, Millis(now));
            if let Some(until) = paid.pause(Millis(now)) {
                pauses += 1;
                now = until.0;
            }
        }
        assert!(pauses <= 1_001, "{bps}: {pauses} timers in ten seconds");
    }
}

#[test]
fn idle_time_is_not_saved_up_beyond_the_depth() {
    let bucket = Bucket::default();
    let _ = bucket.charge(1_000_000, 8_000_000, Millis(1_000));
    let paid = bucket.charge(0, 8_000_000, Millis(100_000));
    assert_eq!(paid, PaidUntil(100_000 * MS - DEPTH_NS));
    bucket.reset();
    assert_eq!(bucket.paid_until(), 0);
}

#[test]
fn charges_of_many_threads_add_up() {
    let bucket = Bucket::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10_000 {
                    let _ = bucket.charge(1_000, 8_000, Millis(0));
                }
            });
        }
    });
    assert_eq!(bucket.paid_until(), 40_000 * 1_000 * MS);
}

proptest! {
    #[test]
    fn never_ahead_of_the_rate_by_more_than_depth_slack_and_a_receive(
        bps in 8_000_u64..10_000_000_000,
        steps in prop::collection::vec((1_u64..200_000, 0_u64..50), 1..300),
    ) {
        let bucket = Bucket::default();
        let (mut now, mut total, mut largest) = (10_000_u64, 0_u128, 0_u64);
        for (bytes, idle) in steps {
            now += idle;
            total += u128::from(bytes);
            largest = largest.max(bytes);
            let paid = bucket.charge(bytes as usize, bps, Millis(now));
            // What was let through until now, this receive aside, fits the time that has passed.
            let spare_ns = u128::from(DEPTH_NS + SLACK_NS + MS);
            let time_ns = u128::from((now - 10_000) * MS) + spare_ns;
            let due = time_ns * u128::from(bps) / 8_000_000_000;
            // A charge is cut to whole nanoseconds.
            let cut = 300 * u128::from(bps) / 8_000_000_000 + 1;
            prop_assert!(total <= due + u128::from(largest) + cut);
            if let Some(until) = paid.pause(Millis(now)) {
                prop_assert!(until.0 > now);
                now = until.0;
            }
        }
    }
}
