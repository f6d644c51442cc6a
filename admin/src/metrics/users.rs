//! Series of users: those with the most traffic one by one, all others together.
//!
//! The number of series does not depend on the number of users. A user that comes among the first
//! or leaves them must not make the sum of the others go back: that would look like a restart. So
//! the others' counters are kept here and grow by what others did since the scrape before.

use std::cmp::Reverse;

use shards::{control::UserIpRow, counters::UserCounters};

use super::text::{Kind, Text};
use crate::plane::{PlaneSnapshot, Running};

/// What users without series of their own have done, as far as scrapes have seen it.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// All users' counters at the scrape before, by id.
    seen: Vec<UserCounters>,
    total: UserCounters,
}

/// One user's values.
#[derive(Clone, Copy, Default)]
struct Values {
    counters: UserCounters,
    active_ips: u64,
    recent_ips: u64,
}

/// Writes the families of users: `top_n` of them and the others.
pub(super) fn render(
    text: &mut Text,
    running: &Running,
    snapshot: &PlaneSnapshot,
    top_n: usize,
    others: &mut Others,
) {
    let all = &snapshot.total.users;
    let mut ids: Vec<usize> = running.users.iter().map(|(id, _)| id).collect();
    let traffic = |id: usize| {
        let row = all.get(id).copied().unwrap_or_default();
        row.octets_from_client.saturating_add(row.octets_to_client)
    };
    if ids.len() > top_n {
        // Ties by id, which is also the order of two scrapes that saw the same.
        ids.select_nth_unstable_by_key(top_n, |&id| (Reverse(traffic(id)), id));
    }
    let (first, rest) = ids.split_at(top_n.min(ids.len()));
    let mut rows: Vec<(&str, Values)> = first
        .iter()
        .filter_map(|&id| Some((&**running.users.name(id)?, values(all, id))))
        .collect();
    let mut sum = Values::default();
    others.grow(all, rest);
    sum.counters = others.total;
    sum.counters.current_connections = rest
        .iter()
        .filter_map(|&id| all.get(id))
        .fold(0, |sum, row| sum + row.current_connections);
    count_addresses(
        running,
        &snapshot.total.user_ips,
        first,
        &mut rows,
        &mut sum,
    );
    rows.sort_unstable_by_key(|(name, _)| *name);
    if !rest.is_empty() {
        rows.push((OTHERS, sum));
    }
    for (name, kind, help, value) in FAMILIES {
        text.family(name, *kind, help);
        for (user, values) in &rows {
            text.sample(&[("user", user)], value(values));
        }
    }
    let name = "telemetry_user_series_users";
    text.family(
        name,
        Kind::Gauge,
        "Users with series of their own, and without.",
    );
    text.sample(&[("status", "emitted")], first.len());
    text.sample(&[("status", "suppressed")], rest.len());
}

fn values(all: &[UserCounters], id: usize) -> Values {
    Values {
        counters: all.get(id).copied().unwrap_or_default(),
        ..Values::default()
    }
}

/// Adds each address to its user, or to the others.
fn count_addresses(
    running: &Running,
    ips: &[UserIpRow],
    first: &[usize],
    rows: &mut [(&str, Values)],
    others: &mut Values,
) {
    // Place in `rows` by id.
    let mut places = vec![None; first.iter().max().map_or(0, |max| max + 1)];
    for (place, &id) in first.iter().enumerate() {
        if let Some(slot) = places.get_mut(id) {
            *slot = Some(place);
        }
    }
    let window_ms = running
        .limits
        .user_ip_policy
        .window_secs
        .saturating_mul(1_000);
    for ip in ips {
        let id = usize::try_from(ip.user).unwrap_or(usize::MAX);
        let place = places.get(id).copied().flatten();
        let values = match place.and_then(|place| rows.get_mut(place)) {
            Some((_, values)) => values,
            None if running.users.name(id).is_some() => &mut *others,
            None => continue,
        };
        values.active_ips += u64::from(ip.active > 0);
        values.recent_ips += u64::from(ip.active > 0 || ip.idle_ms <= window_ms);
    }
}

impl Others {
    /// Takes in what the users of `ids` have done since the scrape before.
    fn grow(&mut self, all: &[UserCounters], ids: &[usize]) {
        for &id in ids {
            let Some(now) = all.get(id) else { continue };
            let before = self.seen.get(id).copied().unwrap_or_default();
            // A user whose counters went back is a new one under a free id.
            let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
            let total = &mut self.total;
            total.connections_total += since(now.connections_total, before.connections_total);
            total.octets_from_client += since(now.octets_from_client, before.octets_from_client);
            total.octets_to_client += since(now.octets_to_client, before.octets_to_client);
        }
        self.seen.clear();
        self.seen.extend_from_slice(all);
    }
}

/// No name of a user has parentheses.
const OTHERS: &str = "(others)";

type Family = (&'static str, Kind, &'static str, fn(&Values) -> u64);

const FAMILIES: &[Family] = &[
    (
        "user_connections_total",
        Kind::Counter,
        "Sessions of the user.",
        |values| values.counters.connections_total,
    ),
    (
        "user_connections_current",
        Kind::Gauge,
        "Sessions of the user now open.",
        |values| values.counters.current_connections,
    ),
    (
        "user_octets_from_client_total",
        Kind::Counter,
        "Bytes taken from the user.",
        |values| values.counters.octets_from_client,
    ),
    (
        "user_octets_to_client_total",
        Kind::Counter,
        "Bytes delivered to the user.",
        |values| values.counters.octets_to_client,
    ),
    (
        "user_unique_ips_current",
        Kind::Gauge,
        "Source addresses with an open session.",
        |values| values.active_ips,
    ),
    (
        "user_unique_ips_recent_window",
        Kind::Gauge,
        "Source addresses seen within the configured window.",
        |values| values.recent_ips,
    ),
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn scrape(rows: &[(&str, u64)], top_n: usize, others: &mut Others) -> Vec<String> {
        let running = Running {
            users: rows.iter().map(|(name, _)| Arc::from(*name)).collect(),
            ..Running::default()
        };
        let mut snapshot = PlaneSnapshot::default();
        snapshot.total.users = rows
            .iter()
            .map(|&(_, octets_to_client)| UserCounters {
                octets_to_client,
                current_connections: 1,
                ..UserCounters::default()
            })
            .collect();
        let mut text = Text::new("");
        render(&mut text, &running, &snapshot, top_n, others);
        let text = text.finish();
        let wanted = "user_octets_to_client_total{user=";
        let lines = text.lines().filter_map(|line| line.strip_prefix(wanted));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn users_with_the_most_traffic_have_series_of_their_own() {
        let rows = [("c", 5), ("", 99), ("a", 7), ("b", 1), ("d", 2)];
        let seen = scrape(&rows, 2, &mut Others::default());
        assert_eq!(seen, ["\"a\"} 7", "\"c\"} 5", "\"(others)\"} 3"]);
        let seen = scrape(&rows, 4, &mut Others::default());
        assert_eq!(seen.len(), 4);
        assert_eq!(
            scrape(&rows, 0, &mut Others::default()),
            ["\"(others)\"} 15"]
        );
    }

    #[test]
    fn the_others_never_go_back() {
        let mut others = Others::default();
        let seen = scrape(&[("a", 10), ("b", 4)], 1, &mut others);
        assert_eq!(seen, ["\"a\"} 10", "\"(others)\"} 4"]);
        // b comes first now; what a did since counts among the others.
        let seen = scrape(&[("a", 12), ("b", 50)], 1, &mut others);
        assert_eq!(seen, ["\"b\"} 50", "\"(others)\"} 6"]);
        // a is somebody new.
        let seen = scrape(&[("a", 3), ("b", 60)], 1, &mut others);
        assert_eq!(seen, ["\"b\"} 60", "\"(others)\"} 9"]);
    }
}
