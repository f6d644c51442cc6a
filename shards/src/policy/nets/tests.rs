//! Which limit an address has, and who shares it.

use proptest::prelude::*;

use super::*;

fn key(text: &str) -> RateKey {
    match text.split_once('/') {
        Some(("*4", bits)) => RateKey::EachV4(bits.parse().expect("bits")),
        Some(("*6", bits)) => RateKey::EachV6(bits.parse().expect("bits")),
        _ => RateKey::Net(text.parse().expect("a net")),
    }
}

fn table(keys: &[(&str, u64)], old: &NetTable) -> NetTable {
    let rate = |(text, bps): &(&str, u64)| NetRate {
        nets: key(text),
        rate: RateSettings {
            up_bps: *bps,
            down_bps: 0,
        },
    };
    NetTable::new(&keys.iter().map(rate).collect::<Vec<_>>(), old)
}

fn rate(table: &NetTable, from: &str) -> Option<u64> {
    let share = table.share(from.parse().expect("an address"))?;
    Some(share.rate().up_bps)
}

#[test]
fn longest_net_wins_over_shorter_ones_and_over_templates() {
    let keys = [
        ("*4/8", 1),
        ("10.0.0.0/8", 2),
        ("10.1.2.0/24", 3),
        ("10.1.0.0/16", 4),
        ("*4/24", 5),
        ("2001:db8::/32", 6),
    ];
    let table = table(&keys, &NetTable::default());
    for (from, expected) in [
        ("10.1.2.3", Some(3)),
        ("10.1.3.3", Some(4)),
        ("10.2.3.3", Some(2)),
        ("11.2.3.3", Some(5)),
        ("2001:db8::1", Some(6)),
        ("2001:db9::1", None),
    ] {
        assert_eq!(rate(&table, from), expected, "{from}");
    }
}

#[test]
fn clients_of_one_subnet_share_and_others_do_not() {
    let table = table(&[("*4/24", 8_000), ("*6/64", 8_000)], &NetTable::default());
    let charge = |from: &str| {
        let share = table.share(from.parse().expect("an address"));
        let share = share.expect("a template");
        share
            .charge(Direction::Up, 1_000, Millis(0))
            .pause(Millis(0))
    };
    assert_eq!(charge("192.0.2.1"), Some(Millis(1_000)));
    assert_eq!(charge("192.0.2.200"), Some(Millis(2_000)));
    assert_eq!(charge("192.0.3.1"), Some(Millis(1_000)));
    assert_eq!(charge("2001:db8::1"), Some(Millis(1_000)));
    assert_eq!(charge("2001:db8::2:1"), Some(Millis(2_000)));
    assert_eq!(charge("2001:db8:0:1::1"), Some(Millis(1_000)));
}

#[test]
fn limits_as_before_keep_what_was_charged() {
    let old = table(
        &[("10.0.0.0/8", 8_000), ("*4/24", 8_000)],
        &NetTable::default(),
    );
    let ahead = |table: &NetTable, from: &str| {
        let share = table.share(from.parse().expect("an address"));
        let share = share.expect("a limit");
        share
            .charge(Direction::Up, 1_000, Millis(0))
            .pause(Millis(0))
    };
    assert_eq!(ahead(&old, "10.0.0.1"), Some(Millis(1_000)));
    assert_eq!(ahead(&old, "11.0.0.1"), Some(Millis(1_000)));
    let new = table(&[("10.0.0.0/8", 8_000), ("*4/24", 16_000)], &old);
    assert_eq!(ahead(&new, "10.0.0.1"), Some(Millis(2_000)));
    assert_eq!(ahead(&new, "11.0.0.1"), Some(Millis(500)));
}

#[test]
fn full_table_lets_nobody_start_ahead() {
    let subnets = Subnets::new(ROW);
    let now = Millis(1_000);
    for key in 1..=ROW as u64 {
        subnets.pair(key).up.charge(1_000, 8_000, now);
    }
    let least = subnets
        .slots
        .iter()
        .map(|slot| slot.pair.busy_until())
        .min();
    let paid = subnets.pair(99).up.charge(1_000, 8_000, now);
    assert!(paid.pause(now).is_some_and(|until| until.0 >= 2_980));
    assert!(least > Some(0));
    // The one that was there has lost its place, and takes another one's.
    let kept = subnets.slots.iter().filter(|slot| {
        let key = slot.key.load(Ordering::Relaxed);
        (1..=ROW as u64).contains(&key)
    });
    assert_eq!(kept.count(), ROW - 1);
}

#[test]
fn shards_that_meet_a_subnet_at_once_find_one_bucket() {
    for round in 1..500_u64 {
        let subnets = Subnets::new(64);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    subnets.pair(round);
                });
            }
        });
        let mine = subnets
            .slots
            .iter()
            .filter(|slot| slot.key.load(Ordering::Relaxed) == round);
        assert_eq!(mine.count(), 1);
    }
}

proptest! {
    #[test]
    fn lookup_agrees_with_a_look_at_every_net(
        nets in prop::collection::vec((any::<[u8; 2]>(), 0_u8..=32), 0..30),
        from in any::<[u8; 2]>(),
    ) {
        let net = |(addr, bits): &([u8; 2], u8)| {
            let addr = IpAddr::from([addr[0] % 4, addr[1], 0, 0]);
            IpNet::new(addr, *bits).expect("in range").trunc()
        };
        let from = IpAddr::from([from[0] % 4, from[1], 7, 7]);
        let rates: Vec<NetRate> = nets
            .iter()
            .map(|each| NetRate {
                nets: RateKey::Net(net(each)),
                rate: RateSettings { up_bps: u64::from(each.1) + 1, down_bps: 0 },
            })
            .collect();
        let table = NetTable::new(&rates, &NetTable::default());
        let expected = nets
            .iter()
            .filter(|each| net(each).contains(&from))
            .map(|each| u64::from(each.1) + 1)
            .max();
        prop_assert_eq!(table.share(from).map(|share| share.rate().up_bps), expected);
    }
}
