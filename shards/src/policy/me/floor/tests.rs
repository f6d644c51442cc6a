//! The tables of floors and caps, and what holds for all numbers.

use proptest::prelude::*;

use super::*;

fn class(endpoints: usize, change: fn(&mut MeSettings)) -> (u32, u32, u32) {
    let mut settings = MeSettings::default();
    change(&mut settings);
    let class = Class::of(&settings, endpoints, 2);
    (class.base, class.min, class.max)
}

#[test]
fn classes_follow_the_table() {
    assert_eq!(class(0, |_| ()), (0, 0, 0));
    assert_eq!(class(1, |_| ()), (3, 1, 5));
    assert_eq!(class(1, |s| s.single.shadow_writers = 0), (3, 1, 5));
    assert_eq!(class(1, |s| s.single.shadow_writers = 7), (8, 1, 10));
    assert_eq!(class(1, |s| s.floor.min_single = 32), (3, 3, 5));
    assert_eq!(class(2, |_| ()), (3, 1, 7));
    assert_eq!(class(9, |s| s.floor.min_multi = 4), (9, 4, 13));
    assert_eq!(class(2, |s| s.floor.adaptive = false), (3, 3, 3));
    assert_eq!(class(1, |s| s.floor.adaptive = false), (3, 3, 3));
}

#[test]
fn caps_follow_the_formula() {
    let mut floor = FloorSettings::default();
    let caps = Caps::of(&floor, 2);
    assert_eq!((caps.raw, caps.active, caps.warm), (134, 128, 128));
    assert_eq!(Caps::of(&floor, 1).active, 64);
    assert_eq!(Caps::of(&floor, 8).active, 256);
    floor.writers_per_core = 10;
    assert_eq!(Caps::of(&floor, 8).active, 156);
    floor.cores_override = 3;
    let caps = Caps::of(&floor, 8);
    assert_eq!((caps.cores, caps.raw, caps.active), (3, 106, 106));
    floor.active_max = 1;
    assert_eq!(Caps::of(&floor, 8).active, 1);
}

fn demands(groups: i16, endpoints: usize, cores: u32) -> Vec<Demand> {
    let class = Class::of(&MeSettings::default(), endpoints, cores);
    let demand = |dc| Demand {
        dc,
        class,
        ..Demand::default()
    };
    (1..=groups).map(demand).collect()
}

/// The example of section 25: 12 groups of 3 endpoints.
#[test]
fn spreads_while_the_cap_allows() {
    for (cores, cap, spread, required, shares_of_one) in [
        (1, 64, true, 36, vec![3]),
        (2, 128, true, 36, vec![1, 2]),
        (8, 256, true, 96, vec![1; 8]),
    ] {
        let caps = Caps::of(&FloorSettings::default(), cores);
        let floors = Floors::of(&demands(12, 3, cores), &caps, cores, true);
        assert_eq!((floors.cap, floors.spread), (cap, spread), "{cores} cores");
        assert_eq!(floors.targets(), required);
        let mut shares = shares(1, floors.groups[0].target, cores as usize);
        shares.sort_unstable();
        assert_eq!(shares, shares_of_one);
    }
    let caps = Caps::of(&FloorSettings::default(), 32);
    let floors = Floors::of(&demands(12, 3, 32), &caps, 32, true);
    assert_eq!(
        (floors.cap, floors.spread, floors.targets()),
        (256, false, 36)
    );
    let shares = shares(1, 3, 32);
    assert_eq!(shares.iter().sum::<u32>(), 3);
    assert!(shares.iter().all(|share| *share <= 1));
}

#[test]
fn idle_groups_give_first_and_recent_ones_last() {
    let caps = Caps {
        cores: 1,
        raw: 86,
        active: 8,
        warm: 8,
    };
    let mut demands = demands(4, 3, 1);
    demands[0].idle = true;
    demands[1].recent = true;
    demands[2].recent = true;
    let floors = Floors::of(&demands, &caps, 1, true);
    let targets: Vec<_> = floors.groups.iter().map(|group| group.target).collect();
    assert_eq!(targets, [1, 3, 3, 1], "12 wanted, 8 allowed");
    let capped: Vec<_> = floors.groups.iter().map(|group| group.capped).collect();
    assert_eq!(capped, [true, false, false, true]);
    // Nobody else can give: the recent ones do.
    let caps = Caps { active: 5, ..caps };
    let floors = Floors::of(&demands, &caps, 1, true);
    assert_eq!((floors.targets(), floors.cap), (5, 5));
    // Never under the minimum, whatever the cap.
    let caps = Caps { active: 2, ..caps };
    let floors = Floors::of(&demands, &caps, 1, true);
    assert_eq!((floors.targets(), floors.cap), (4, 4));
    // The static mode does not lower anything.
    let floors = Floors::of(&demands, &caps, 1, false);
    assert_eq!((floors.targets(), floors.cap), (12, 12));
}

#[test]
fn groups_start_on_different_shards() {
    let ids = [1, 2, 3, 4, 5, -1, -2, -3, -4, -5, 203, -203];
    for shards in [2, 3, 4, 8] {
        let mut starts: Vec<_> = ids
            .iter()
            .filter_map(|dc| order(*dc, shards).next())
            .collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(
            starts.len(),
            shards,
            "of {shards} shards some never come first"
        );
    }
}

#[test]
fn families_get_their_part_of_a_share() {
    for (target, shards, endpoints, expected) in [
        (3, 1, [2, 0], vec![[3, 0]]),
        (3, 1, [0, 2], vec![[0, 3]]),
        (3, 1, [1, 1], vec![[2, 2]]),
        (4, 1, [2, 2], vec![[2, 2]]),
        (2, 2, [1, 1], vec![[1, 0], [0, 1]]),
        (3, 1, [1, 9], vec![[1, 3]]),
    ] {
        let given = shares(1, target, shards);
        let parts: Vec<_> = order(1, shards)
            .map(|shard| by_family(1, &given, shard, endpoints))
            .collect();
        assert_eq!(parts, expected, "{target} over {shards}, {endpoints:?}");
    }
}

proptest! {
    #[test]
    fn families_sum_up(
        dc: i16,
        target in 0_u32..300,
        shards in 1_usize..40,
        endpoints in [1_usize..9, 1_usize..9],
    ) {
        let given = shares(dc, target, shards);
        let part = |at: usize| {
            let parts = (0..shards).map(|shard| by_family(dc, &given, shard, endpoints)[at]);
            parts.sum::<u32>()
        };
        let all = (endpoints[0] + endpoints[1]) as u32;
        for at in [0, 1] {
            prop_assert_eq!(part(at), (target * endpoints[at] as u32).div_ceil(all));
        }
        for (shard, share) in given.iter().enumerate() {
            let [v4, v6] = by_family(dc, &given, shard, endpoints);
            prop_assert!(v4 + v6 == *share || v4 + v6 == share + 1);
        }
    }

    #[test]
    fn shares_sum_up_and_are_even(dc: i16, target in 0_u32..400, shards in 1_usize..64) {
        let shares = shares(dc, target, shards);
        prop_assert_eq!(shares.len(), shards);
        prop_assert_eq!(shares.iter().sum::<u32>(), target);
        let (least, most) = (shares.iter().min(), shares.iter().max());
        prop_assert!(most.unwrap() - least.unwrap() <= 1);
    }

    #[test]
    fn targets_hold_caps_and_floors(
        groups in proptest::collection::vec((1_usize..9, any::<bool>(), any::<bool>()), 0..30),
        cores in 1_u32..48,
        shards in 1_u32..48,
        active_max in 1_u32..400,
        adaptive: bool,
    ) {
        let mut settings = MeSettings::default();
        settings.floor.active_max = active_max;
        settings.floor.adaptive = adaptive;
        let demands: Vec<_> = groups.iter().zip(1..).map(|(&(endpoints, idle, recent), dc)| Demand {
            dc,
            class: Class::of(&settings, endpoints, cores),
            idle,
            recent,
            excess: 0,
        }).collect();
        let caps = Caps::of(&settings.floor, cores);
        let floors = Floors::of(&demands, &caps, shards, adaptive);
        prop_assert!(floors.targets() <= floors.cap);
        for group in &floors.groups {
            prop_assert!(group.min <= group.target && group.target <= group.required);
            prop_assert!(group.required <= group.max || !adaptive);
            prop_assert_eq!(group.capped, group.target < group.required);
            let shares = shares(group.dc, group.target, shards as usize);
            prop_assert!(!floors.spread || shares.iter().all(|share| *share >= 1));
        }
        let short = floors.groups.iter().any(|group| group.capped);
        prop_assert!(!short || floors.targets() == floors.cap, "lowered further than needed");
    }
}
