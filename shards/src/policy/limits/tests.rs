//! Places and quotas, on one thread and on many.

use proptest::prelude::*;

use super::*;
use crate::settings::UserSettings;

#[test]
fn sessions_are_counted_with_and_without_a_limit() {
    let gauge = Gauge::default();
    assert!(gauge.take_session(0));
    assert!(gauge.take_session(2));
    assert!(!gauge.take_session(2));
    assert!(gauge.take_session(0));
    // Lowered below what is open: nobody else, and nobody ends.
    assert!(!gauge.take_session(1));
    for _ in 0..3 {
        gauge.return_session();
    }
    assert_eq!(gauge.sessions(), 0);
    assert!(gauge.take_session(1));
}

#[test]
fn of_many_at_once_as_many_as_allowed_get_a_place() {
    let gauge = Gauge::default();
    for max in [1_u64, 5, 64] {
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        taken.fetch_add(u64::from(gauge.take_session(max)), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), max);
        (0..max).for_each(|_| gauge.return_session());
    }
}

#[test]
fn quota_is_used_to_the_byte_and_never_beyond() {
    let gauge = Gauge::new(40);
    assert!(gauge.use_quota(59, 100));
    assert!(gauge.use_quota(1, 100));
    assert!(gauge.use_quota(0, 100));
    assert!(!gauge.use_quota(1, 100));
    assert_eq!(gauge.reset_quota(), 100);
    assert!(gauge.use_quota(60, 100));
    // What does not fit takes the rest, so that the user is seen to be through.
    assert!(!gauge.use_quota(41, 100));
    assert_eq!(gauge.used_bytes(), 100);
    // Lowered, then raised.
    assert!(!gauge.use_quota(1, 50));
    assert_eq!(gauge.used_bytes(), 100);
    assert!(gauge.use_quota(1, u64::MAX));
    assert!(!gauge.use_quota(u64::MAX, u64::MAX));
}

#[test]
fn quota_of_many_threads_is_exact() {
    let (gauge, passed) = (Gauge::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for step in [1_u64, 7, 100, 1_000] {
            let (gauge, passed) = (&gauge, &passed);
            scope.spawn(move || {
                while gauge.use_quota(step, 3_000_000) {
                    passed.fetch_add(step, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(gauge.used_bytes(), 3_000_000);
    assert!(passed.into_inner() <= 3_000_000);
}

#[test]
fn refused_nets_and_expiry_are_inclusive() {
    let mut settings = UserSettings::unlimited("one");
    settings.expires_at = Some(1_000);
    settings.source_deny = vec![
        "10.1.0.0/16".parse().expect("a net"),
        "2001:db8::/32".parse().expect("a net"),
    ];
    let limits = Limits::new(&settings);
    for (from, denied) in [
        ("10.1.255.255", true),
        ("10.2.0.0", false),
        ("2001:db8:1::", true),
        ("2001:db9::", false),
    ] {
        assert_eq!(
            limits.denies(from.parse().expect("an address")),
            denied,
            "{from}"
        );
    }
    assert!(!limits.is_expired(999));
    assert!(limits.is_expired(1_000));
    settings.expires_at = Some(-5);
    assert!(Limits::new(&settings).is_expired(0));
    settings.expires_at = None;
    assert!(!Limits::new(&settings).is_expired(u64::MAX));
}

proptest! {
    #[test]
    fn used_never_passes_the_largest_quota_of_any_moment(
        steps in prop::collection::vec((0_u64..2_000, 0_u64..5_000), 1..100)
    ) {
        let gauge = Gauge::default();
        let mut forwarded = 0;
        for (bytes, quota) in steps {
            let before = gauge.used_bytes();
            if gauge.use_quota(bytes, quota) {
                forwarded += bytes;
                prop_assert!(before + bytes <= quota);
                prop_assert_eq!(gauge.used_bytes(), before + bytes);
            } else {
                prop_assert!(before + bytes > quota);
                prop_assert_eq!(gauge.used_bytes(), before.max(quota));
            }
            prop_assert!(forwarded <= gauge.used_bytes());
        }
    }
}
