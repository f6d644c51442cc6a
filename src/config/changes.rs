//! What differs between two configurations, and which of it applies without a restart.
//!
//! The rows of `keys.rs` decide; nothing here knows a key but those whose mere presence counts.
//! Called by `live.rs`, and for what the control API says of a change. Source: config.md 11.

use super::{
    Config, Loaded,
    keys::{Effect, Group, Reload, Row},
};

/// Keys that are not the same, by full name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Those that apply without a restart.
    pub(crate) hot: Vec<String>,
    /// Those that wait for one.
    pub(crate) restart: Vec<String>,
    /// Those this build does nothing with.
    pub(crate) idle: Vec<String>,
}

impl Changes {
    /// What differs between two files.
    pub(crate) fn between(before: &Loaded, after: &Loaded) -> Self {
        let mut changes = Self::of(&before.config, &after.config);
        for key in SET_MATTERS {
            let name = key.to_owned();
            if before.sets(key) != after.sets(key) && !changes.restart.contains(&name) {
                changes.restart.push(name);
            }
        }
        changes
    }

    /// What differs between two sets of values.
    pub(crate) fn of(before: &Config, after: &Config) -> Self {
        let mut changes = Self::default();
        for row in before.differing(after) {
            changes.add(row);
        }
        let lists = [
            list(&before.listeners, &after.listeners),
            list(&before.upstreams, &after.upstreams),
        ];
        for list in lists {
            match list {
                List::Longer(table) => changes.restart.push(table.to_owned()),
                List::Rows(rows) => rows.into_iter().for_each(|row| changes.add(row)),
            }
        }
        changes
    }

    fn add(&mut self, row: &Row) {
        let names = match (row.effect, row.reload) {
            (Effect::Inert, _) => &mut self.idle,
            (_, Reload::Hot) => &mut self.hot,
            (_, Reload::Restart) => &mut self.restart,
        };
        let name = row.name();
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

impl Config {
    /// These values with those of `from` that apply without a restart.
    pub(crate) fn with_hot(&self, from: &Self) -> Self {
        let mut config = self.clone();
        config.take_hot(from);
        // Listeners are the same ones only while their number and addresses are.
        let places = |config: &Self| -> Vec<_> {
            let own = config.listeners.iter();
            own.map(|listener| (listener.ip, listener.port)).collect()
        };
        if places(&config) == places(from) {
            for (own, from) in config.listeners.iter_mut().zip(&from.listeners) {
                own.take_hot(from);
            }
        }
        config
    }
}

/// How an array of tables differs.
enum List {
    /// It has more tables, or fewer.
    Longer(&'static str),
    /// These keys of its tables.
    Rows(Vec<&'static Row>),
}

fn list<G: Group>(before: &[G], after: &[G]) -> List {
    if before.len() != after.len() {
        return List::Longer(G::ROWS.first().map_or("", |row| row.table));
    }
    let pairs = before.iter().zip(after);
    List::Rows(
        pairs
            .flat_map(|(own, other)| own.differing(other))
            .collect(),
    )
}

/// Left out, these mean something else than their default (`wiring.rs`, `running.rs`).
const SET_MATTERS: [&str; 6] = [
    "access.replay_check_len",
    "access.replay_window_secs",
    "censorship.fake_cert_len",
    "server.api.gray_action",
    "general.crypto_pending_buffer",
    "shards.queue_bytes_max",
];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::parse;

    fn load(text: &str) -> Loaded {
        let users = "[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";
        parse(Path::new("config.toml"), format!("{text}\n{users}")).unwrap()
    }

    fn between(before: &str, after: &str) -> Changes {
        Changes::between(&load(before), &load(after))
    }

    #[test]
    fn same_values_do_not_differ_however_they_are_written() {
        let same = between("[server]\nport = 443", "# remark\n[server]\nport = 443\n");
        assert_eq!(same, Changes::default());
        assert_eq!(between("", "[server]\nport = 443"), Changes::default());
    }

    #[test]
    fn rows_say_which_changes_wait_for_a_restart() {
        let after = "[general]\nlog_level = \"silent\"\nntp_check = false\n\
                     [server]\nport = 1\n[access]\nuser_max_tcp_conns = { alice = 1 }\n";
        let changes = between("", after);
        assert_eq!(
            changes.hot,
            ["general.log_level", "access.user_max_tcp_conns"]
        );
        assert_eq!(changes.restart, ["server.port"]);
        assert_eq!(changes.idle, ["general.ntp_check"]);
    }

    #[test]
    fn keys_that_mean_more_than_their_default_count_as_changed() {
        let changes = between("", "[access]\nreplay_window_secs = 120");
        assert_eq!(changes.restart, ["access.replay_window_secs"]);
    }

    #[test]
    fn tables_of_an_array_are_compared_one_by_one() {
        let one = "[[server.listeners]]\nip = \"127.0.0.1\"\n";
        let changes = between(one, &one.replace(".1\"", ".2\"\nport = 5\n"));
        assert_eq!(
            changes.restart,
            ["server.listeners.ip", "server.listeners.port"]
        );
        assert_eq!(between("", one).restart, ["server.listeners"]);
    }

    #[test]
    fn only_hot_values_are_taken_over() {
        let started = load("[server]\nport = 1\n[general]\nlog_level = \"debug\"").config;
        let file = load("[server]\nport = 2\n[general]\nlog_level = \"silent\"").config;
        let now = started.with_hot(&file);
        assert_eq!(now.server.port, 1);
        assert_eq!(now.general.log_level, file.general.log_level);
        assert_eq!(Changes::of(&started, &now).restart, [""; 0]);
        assert_eq!(Changes::of(&now, &file).hot, [""; 0]);
    }

    #[test]
    fn hot_values_of_listeners_stay_with_their_listener() {
        let with = |port: u16, hits: u32| {
            load(&format!(
                "[[server.listeners]]\nip = \"127.0.0.1\"\nport = {port}\n\
                 synlimit_hitcount = {hits}\n"
            ))
            .config
        };
        let hits = |config: Config| config.listeners[0].synlimit_hitcount;
        assert_eq!(hits(with(1, 10).with_hot(&with(1, 20))), 20);
        assert_eq!(hits(with(1, 10).with_hot(&with(2, 20))), 10);
    }
}
