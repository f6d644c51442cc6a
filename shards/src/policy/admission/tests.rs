//! Every reason to refuse, and places that come back.

use super::*;
use crate::{
    policy::{directory::Directory, users::UserTable},
    settings::UserSettings,
};

const ID: UserId = UserId(0);

fn table(change: impl FnOnce(&mut UserSettings)) -> Arc<UserTable> {
    let mut settings = UserSettings::unlimited("one");
    change(&mut settings);
    Directory::new(&[settings]).table()
}

fn visit(from: [u8; 4]) -> Visit {
    Visit {
        from: from.into(),
        now: Millis(1_000),
        now_unix: 5_000,
        addresses: AddressSettings::default(),
    }
}

/// The same at the hello and when it is to be served.
fn refusal(row: &Row, visit: &Visit) -> Option<UserRefusal> {
    let peeked = row.admits(visit).err();
    match row.enter(ID, visit) {
        Ok(hold) => {
            hold.leave(&visit.addresses, visit.now);
            assert_eq!(peeked, None);
        }
        Err(why) => assert_eq!(peeked, Some(why)),
    }
    peeked
}

#[test]
fn each_limit_refuses_with_its_own_reason() {
    type Change = fn(&mut UserSettings);
    let cases: [(Change, Option<UserRefusal>); 7] = [
        (|_| (), None),
        (|user| user.expires_at = Some(5_001), None),
        (
            |user| user.expires_at = Some(5_000),
            Some(UserRefusal::Expired),
        ),
        (|user| user.quota_bytes = Some(1), None),
        (|user| user.quota_bytes = Some(0), Some(UserRefusal::Quota)),
        (
            |user| {
                user.quota_bytes = Some(100);
                user.quota_used_bytes = 100;
            },
            Some(UserRefusal::Quota),
        ),
        (
            |user| user.source_deny = vec!["192.0.2.0/24".parse().expect("a net")],
            Some(UserRefusal::Source),
        ),
    ];
    for (change, expected) in cases {
        let table = table(change);
        let row = table.row(ID).expect("a user");
        assert_eq!(refusal(row, &visit([192, 0, 2, 1])), expected);
    }
}

#[test]
fn places_are_taken_and_given_back_together() {
    let table = table(|user| {
        user.connections_max = 3;
        user.unique_ips_max = 2;
    });
    let row = table.row(ID).expect("a user");
    let (a, b, c) = (
        visit([10, 0, 0, 1]),
        visit([10, 0, 0, 2]),
        visit([10, 0, 0, 3]),
    );
    let first = row.enter(ID, &a).expect("room");
    let second = row.enter(ID, &b).expect("room");
    // The place taken before the address was looked at is given back.
    assert_eq!(refusal(row, &c), Some(UserRefusal::Addresses));
    assert_eq!(row.gauge.sessions(), 2);
    let third = row.enter(ID, &a).expect("a known address");
    assert_eq!(refusal(row, &a), Some(UserRefusal::Connections));
    for (hold, visit) in [(first, &a), (second, &b), (third, &a)] {
        hold.leave(&visit.addresses, visit.now);
    }
    assert_eq!(row.gauge.sessions(), 0);
    assert_eq!(refusal(row, &c), None);
}

#[test]
fn address_limit_that_comes_and_goes_counts_who_is_here() {
    let mut directory = Directory::new(&[UserSettings::unlimited("one")]);
    let visit = visit([10, 0, 0, 1]);
    let mut hold = directory
        .table()
        .row(ID)
        .expect("a user")
        .enter(ID, &visit)
        .expect("room");
    let mut limited = UserSettings::unlimited("one");
    limited.unique_ips_max = 1;
    let serial = crate::policy::directory::Serial;
    let change = directory.update(&[limited], false, serial(1), serial(0));
    let row = change.table.row(ID).expect("a user");
    hold.follow(row, &visit.addresses, visit.now);
    hold.follow(row, &visit.addresses, visit.now);
    let other = Visit {
        from: [10, 0, 0, 2].into(),
        ..visit
    };
    assert_eq!(refusal(row, &other), Some(UserRefusal::Addresses));
    let change = directory.update(
        &[UserSettings::unlimited("one")],
        false,
        serial(2),
        serial(1),
    );
    let row = change.table.row(ID).expect("a user");
    hold.follow(row, &visit.addresses, visit.now);
    assert_eq!(row.gauge.addresses.counted(&visit.addresses, visit.now), 0);
    hold.leave(&visit.addresses, visit.now);
    assert_eq!(row.gauge.sessions(), 0);
}
