//! What the file must say after mutations of which some were acknowledged and the last few not.
//!
//! Everything that can be set is a register of its own. After all, it holds what an acknowledged
//! mutation wrote that no other acknowledged one came strictly after, or what an unanswered one
//! wrote. Of users that only one writer changes this leaves one value, or two at a kill.

use std::collections::{BTreeMap, BTreeSet};

use crate::file::{Key, State};

/// A mutation that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Op {
    /// Method, path and body.
    pub(crate) what: String,
    /// Who sent it.
    pub(crate) writer: usize,
    /// What it sets; `None` takes away.
    pub(crate) sets: Vec<(Key, Option<String>)>,
    /// Position among all beginnings and ends.
    pub(crate) start: u64,
    /// As `start`; `None`: there was no answer.
    pub(crate) end: Option<u64>,
}

impl Op {
    fn value(&self, key: &Key) -> Option<&Option<String>> {
        let mut sets = self.sets.iter().rev();
        sets.find_map(|(own, value)| (own == key).then_some(value))
    }

    /// Whether a state says what this wrote.
    pub(crate) fn shows_in(&self, state: &State) -> bool {
        self.sets
            .iter()
            .all(|(key, _)| self.value(key) == Some(&state.get(key).cloned()))
    }
}

/// Everything that is not as it must be.
pub(crate) fn wrong(before: &State, ops: &[Op], after: &State) -> Vec<String> {
    let mut by_key: BTreeMap<&Key, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        let keys: BTreeSet<&Key> = op.sets.iter().map(|(key, _)| key).collect();
        for key in keys {
            by_key.entry(key).or_default().push(op);
        }
    }
    let mut keys: BTreeSet<&Key> = before.keys().chain(after.keys()).collect();
    keys.extend(by_key.keys());
    let mut wrong = Vec::new();
    for key in keys {
        let own = by_key.get(key).map_or(&[][..], Vec::as_slice);
        let found = after.get(key).cloned();
        let last_start = own
            .iter()
            .filter(|op| op.end.is_some())
            .map(|op| op.start)
            .max();
        let may_be_last = |op: &&&Op| op.end.is_none_or(|end| last_start.is_none_or(|s| s < end));
        let mut values = own
            .iter()
            .filter(may_be_last)
            .filter_map(|op| op.value(key));
        let untouched = last_start.is_none() && before.get(key) == found.as_ref();
        if !(untouched || values.any(|value| *value == found)) {
            let last: Vec<_> = own.iter().rev().take(4).rev().collect();
            wrong.push(format!("{key:?} is {found:?} after {last:#?}"));
        }
    }
    // Files are replaced as a whole: no mutation is half in one.
    for op in ops.iter().filter(|op| op.end.is_none() && op.writer_owns()) {
        let mut state = before.clone();
        for earlier in ops
            .iter()
            .filter(|other| other.writer == op.writer && other.end.is_some())
        {
            for (key, value) in &earlier.sets {
                match value {
                    Some(value) => state.insert(key.clone(), value.clone()),
                    None => state.remove(key),
                };
            }
        }
        let as_before = op
            .sets
            .iter()
            .all(|(key, _)| state.get(key) == after.get(key));
        if !(as_before || op.shows_in(after)) {
            wrong.push(format!("half is done of {}: {op:?}", op.what));
        }
    }
    wrong
}

impl Op {
    /// Nobody else changes what it changes.
    fn writer_owns(&self) -> bool {
        let own = format!("w{}", self.writer);
        self.sets
            .iter()
            .all(|((user, _), _)| user.starts_with(&own))
    }
}

#[test]
fn finds_lost_late_and_torn_mutations() {
    let key = |user: &str| (user.to_owned(), "user_enabled");
    let op = |user: &str, value: &str, start, end| Op {
        what: "PATCH".to_owned(),
        writer: 1,
        sets: vec![(key(user), Some(value.to_owned()))],
        start,
        end,
    };
    let state = |value: &str| State::from([(key("w1"), value.to_owned())]);
    let before = state("0");
    let serial = [op("w1", "1", 1, Some(2)), op("w1", "2", 3, Some(4))];
    for (after, good) in [("2", true), ("1", false), ("0", false), ("3", false)] {
        assert_eq!(
            wrong(&before, &serial, &state(after)).is_empty(),
            good,
            "{after}"
        );
    }
    let killed = [op("w1", "1", 1, Some(2)), op("w1", "2", 3, None)];
    for (after, good) in [("2", true), ("1", true), ("0", false)] {
        assert_eq!(
            wrong(&before, &killed, &state(after)).is_empty(),
            good,
            "{after}"
        );
    }
    let at_once = [op("w1", "1", 1, Some(3)), op("w1", "2", 2, Some(4))];
    for (after, good) in [("2", true), ("1", true), ("0", false)] {
        assert_eq!(
            wrong(&before, &at_once, &state(after)).is_empty(),
            good,
            "{after}"
        );
    }
    let mut both = op("w1", "1", 1, None);
    both.sets
        .push((("w1".to_owned(), "users"), Some("x".to_owned())));
    assert!(!wrong(&before, &[both], &state("1")).is_empty());
}
