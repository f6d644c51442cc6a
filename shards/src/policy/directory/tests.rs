//! Ids over updates: kept, vacant, reused.

use super::*;
use crate::proto::secret::Secret;

fn users(names: &[&str]) -> Vec<UserSettings> {
    names
        .iter()
        .map(|name| UserSettings::unlimited(name))
        .collect()
}

/// An update that every shard applies before the next one.
struct Steps {
    directory: Directory,
    now: u64,
}

impl Steps {
    fn new(names: &[&str]) -> Self {
        Self {
            directory: Directory::new(&users(names)),
            now: 0,
        }
    }

    fn update(&mut self, users: &[UserSettings], keep: bool) -> Change {
        self.now += 1;
        let (now, applied) = (Serial(self.now), Serial(self.now - 1));
        self.directory.update(users, keep, now, applied)
    }

    fn names(&self) -> Vec<String> {
        let names = self.directory.names();
        names.iter().map(|name| name.to_string()).collect()
    }
}

fn ids(ids: &[UserId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}

#[test]
fn names_keep_their_ids_whatever_the_order() {
    let mut steps = Steps::new(&["a", "b", "c"]);
    let change = steps.update(&users(&["c", "d", "b", "a"]), false);
    assert_eq!(steps.names(), ["a", "b", "c", "d"]);
    assert_eq!(ids(&change.changed), [3]);
    assert!(change.vacated.is_empty());
}

#[test]
fn id_is_reused_when_every_shard_has_applied_its_removal() {
    let mut steps = Steps::new(&["a", "b"]);
    let change = steps.update(&users(&["b"]), false);
    assert_eq!(ids(&change.vacated), [0]);
    assert!(change.table.row(UserId(0)).is_none());
    assert_eq!(steps.names(), ["", "b"]);
    // One shard is behind.
    let (now, behind) = (Serial(2), Serial(0));
    steps
        .directory
        .update(&users(&["b", "c"]), false, now, behind);
    assert_eq!(steps.names(), ["", "b", "c"]);
    steps.now = 2;
    steps.update(&users(&["b", "c", "d"]), false);
    assert_eq!(steps.names(), ["d", "b", "c"]);
    // A name that comes back is a new user.
    let mut again = UserSettings::unlimited("e");
    again.quota_bytes = Some(9);
    again.quota_used_bytes = 5;
    steps.update(&[UserSettings::unlimited("b"), again], false);
    assert_eq!(steps.directory.quotas()[0].used_bytes, 5);
}

#[test]
fn kept_user_stays_until_the_end_and_may_come_back() {
    let mut steps = Steps::new(&["a", "b"]);
    let gauge = Arc::clone(steps.directory.gauge("a").expect("a user"));
    assert!(gauge.take_session(0));
    let change = steps.update(&users(&["b"]), true);
    let row = change.table.row(UserId(0)).expect("kept");
    assert_eq!(row.standing, Standing::Leaving);
    assert!(change.table.served(UserId(0)).is_none());
    assert_eq!(steps.names(), ["", "b"]);
    assert_eq!(steps.directory.kept_sessions(), 1);
    assert!(steps.directory.gauge("a").is_none());
    let change = steps.update(&users(&["a", "b"]), false);
    assert!(change.table.served(UserId(0)).is_some());
    assert!(Arc::ptr_eq(
        steps.directory.gauge("a").expect("back"),
        &gauge
    ));
    // Removed again; another update in between does not end it, `end_kept` does.
    steps.update(&users(&["b"]), true);
    let change = steps.update(&users(&["b", "c"]), false);
    assert!(change.table.row(UserId(0)).is_some());
    let change = steps.directory.end_kept(Serial(5), Serial(4));
    assert_eq!(ids(&change.vacated), [0]);
    assert_eq!(steps.directory.kept_sessions(), 0);
}

#[test]
fn kept_user_without_sessions_goes_with_the_next_update() {
    let mut steps = Steps::new(&["a", "b"]);
    steps.update(&users(&["b"]), true);
    let change = steps.update(&users(&["b"]), true);
    assert_eq!(ids(&change.vacated), [0]);
}

#[test]
fn disabled_users_end_at_once_or_with_the_kept() {
    let mut off = UserSettings::unlimited("a");
    off.enabled = false;
    let standing = |change: &Change| change.table.row(UserId(0)).map(|row| row.standing);
    let mut steps = Steps::new(&["a"]);
    let change = steps.update(&[off.clone()], false);
    assert_eq!(standing(&change), Some(Standing::Disabled));
    assert_eq!(steps.names(), ["a"]);
    steps.update(&users(&["a"]), false);
    let change = steps.update(&[off.clone()], true);
    assert_eq!(standing(&change), Some(Standing::Leaving));
    let change = steps.update(&[off], false);
    assert_eq!(standing(&change), Some(Standing::Leaving));
    let change = steps.directory.end_kept(Serial(9), Serial(8));
    assert_eq!(standing(&change), Some(Standing::Disabled));
}

#[test]
fn only_what_differs_counts_as_changed() {
    let mut steps = Steps::new(&["a", "b", "c"]);
    let mut list = users(&["a", "b", "c"]);
    assert!(steps.update(&list, false).changed.is_empty());
    list[1].secret = Secret([9; 16]);
    list[2].rate.up_bps = 8;
    list[0].quota_used_bytes = 77;
    let change = steps.update(&list, false);
    assert_eq!(ids(&change.changed), [1, 2]);
    let mac = |id| {
        let key = change.table.hmac(UserId(id)).expect("served");
        key.mac(&[b"x"])
    };
    assert_eq!(mac(1), HmacKey::new(&Secret([9; 16])).mac(&[b"x"]));
    assert_eq!(mac(2), HmacKey::new(&Secret([7; 16])).mac(&[b"x"]));
}

#[test]
fn ids_do_not_run_away_under_churn() {
    let mut steps = Steps::new(&[]);
    for round in 0..200 {
        let names: Vec<String> = (0..50).map(|n| format!("u{round}-{n}")).collect();
        let list: Vec<UserSettings> = names
            .iter()
            .map(|name| UserSettings::unlimited(name))
            .collect();
        let change = steps.update(&list, round % 3 == 0);
        assert!(change.table.len() <= 200, "{}", change.table.len());
        let live = steps.names().iter().filter(|name| !name.is_empty()).count();
        assert_eq!(live, 50);
    }
}
