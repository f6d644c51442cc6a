//! The file of a round: how it is spelt at first, and what it says and shows later.

use std::{collections::BTreeMap, fmt::Write as _};

use toml_edit::{Document, Item, TableLike};

use crate::support::{Config, config::ALICE};

/// What can be set of a user: the table under `access`, or a member of its entry.
pub(crate) const FIELDS: [&str; 9] = [
    "users",
    "user_ad_tags",
    "user_max_tcp_conns",
    "user_expirations",
    "user_data_quota",
    "user_max_unique_ips",
    "user_enabled",
    "up_bps",
    "down_bps",
];

/// Keys that the configuration's patch changes: one in the file, one missing in a table that is
/// there, one in a missing table.
pub(crate) const KEYS: [&str; 3] = [
    "general.upstream_connect_retry_backoff_ms",
    "general.links.public_port",
    "timeouts.client_handshake",
];

/// Users that all writers change; they are never deleted.
pub(crate) const SHARED: [&str; 4] = ["s0", "s1", "s.2", "s3"];

/// A user and a field of it; no user and a full name.
pub(crate) type Key = (String, &'static str);

/// What the file says of everything that is changed, as written, without quotes.
pub(crate) type State = BTreeMap<Key, String>;

/// Ways to spell the same.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spelling {
    /// Every table has its header.
    Headers,
    /// As [`Self::Headers`], with CR LF and nothing but users.
    Sparse,
    /// Users in an inline table.
    Inline,
    /// Dotted keys below `[access]`.
    Dotted,
    /// Indented, after a byte order mark, without an end of the last line.
    Indented,
}

impl Spelling {
    pub(crate) const ALL: [Self; 5] = [
        Self::Headers,
        Self::Sparse,
        Self::Inline,
        Self::Dotted,
        Self::Indented,
    ];

    /// The first file of a round.
    pub(crate) fn text(self, config: &Config) -> String {
        let mut text = String::from("#~ top\n\n");
        let base = config.clone().unset("access.users.alice").text();
        for (number, line) in base.lines().enumerate() {
            match line {
                "[access.users]" => continue,
                line if line.starts_with('[') => {
                    writeln!(
                        text,
                        "#~ before {number}\n{line} # {number}\n  #~ in {number}"
                    )
                    .unwrap();
                }
                line => writeln!(text, "{line}").unwrap(),
            }
        }
        writeln!(text, "{ACCESS}").unwrap();
        self.users(&mut text);
        text.push_str("\n[custom.notes]\n#~ of nobody\nmine = [ 1,\n  2, # two\n]\n#~ last\n");
        match self {
            Self::Sparse => text.replace('\n', "\r\n"),
            Self::Indented => format!("\u{feff}{}", text.replace("\ns", "\n\ts").trim_end()),
            Self::Headers | Self::Inline | Self::Dotted => text,
        }
    }

    fn users(self, text: &mut String) {
        let alice = hex::encode(ALICE.0);
        let shared: Vec<(String, String)> = SHARED
            .iter()
            .zip(1_u8..)
            .map(|(name, n)| (format!("\"{name}\""), hex::encode([n; 16])))
            .collect();
        match self {
            Self::Headers | Self::Sparse | Self::Indented => {
                writeln!(
                    text,
                    "#~ who\n[access.users] # all of them\nalice = \"{alice}\""
                )
                .unwrap();
                for (name, secret) in &shared {
                    writeln!(text, "#~ next\n{name} = \"{secret}\" # {name}").unwrap();
                }
            }
            Self::Inline => {
                let all = shared
                    .iter()
                    .map(|(name, own)| format!(", {name} = '{own}'"));
                let all: String = all.collect();
                writeln!(
                    text,
                    "[access]\n#~ in\nusers = {{ alice = \"{alice}\"{all} }} # all"
                )
                .unwrap();
            }
            Self::Dotted => {
                writeln!(text, "[access]\nusers.alice = \"{alice}\"\n#~ others").unwrap();
                for (name, secret) in &shared {
                    writeln!(text, "users.{name} = \"{secret}\" # {name}").unwrap();
                }
            }
        }
        if let Self::Headers | Self::Indented = self {
            for table in [&FIELDS[1..7], &["user_rate_limits"]].concat() {
                writeln!(
                    text,
                    "\n#~ of {table}\n[access.{table}] # {table}\n# none\n"
                )
                .unwrap();
            }
        }
    }
}

/// What the file says.
pub(crate) fn state(text: &str) -> State {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = Document::parse(text).expect("the file is TOML");
    let mut state = State::new();
    let root = document.as_table();
    let access = root.get("access").and_then(Item::as_table_like);
    let table = |name: &str| access?.get(name)?.as_table_like();
    for field in &FIELDS[..7] {
        for (user, item) in table(field).into_iter().flat_map(TableLike::iter) {
            state.insert((user.to_owned(), field), plain(item));
        }
    }
    for (user, item) in table("user_rate_limits")
        .into_iter()
        .flat_map(TableLike::iter)
    {
        for field in &FIELDS[7..] {
            let rate = item.as_table_like().and_then(|entry| entry.get(field));
            let rate = rate.map(plain).filter(|rate| rate != "0");
            state.extend(rate.map(|rate| ((user.to_owned(), *field), rate)));
        }
    }
    for key in KEYS {
        let (table, name) = key.rsplit_once('.').unwrap();
        let table = table
            .split('.')
            .try_fold(root as &dyn TableLike, |table, step| {
                table.get(step)?.as_table_like()
            });
        let value = table.and_then(|table| table.get(name));
        state.extend(value.map(|value| ((String::new(), key), plain(value))));
    }
    state
}

fn plain(item: &Item) -> String {
    match item.as_str() {
        Some(text) => text.to_owned(),
        None => item.to_string().trim().to_owned(),
    }
}

/// What may not change but by the editor: before the users every line, after them the comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Picture {
    head: Vec<String>,
    tail: Vec<String>,
}

impl Picture {
    pub(crate) fn of(text: &str) -> Self {
        let at = text.find(ACCESS).expect("the line before the users");
        let (head, tail) = text.split_at(at);
        let lines = head.split_inclusive('\n');
        let head = lines.filter_map(|line| match line.split_once(" = ") {
            // A patch puts it there.
            Some(("public_port", _)) => None,
            Some((key @ "upstream_connect_retry_backoff_ms", value)) => {
                let end = value.trim_start_matches(|digit: char| digit.is_ascii_digit());
                Some(format!("{key} = N{end}"))
            }
            _ => Some(line.to_owned()),
        });
        let comments = tail
            .lines()
            .filter(|line| line.trim_start().starts_with('#'));
        Self {
            head: head.collect(),
            tail: comments.map(str::to_owned).collect(),
        }
    }

    /// The first difference in words.
    pub(crate) fn differs(&self, other: &Self) -> Option<String> {
        for (one, two) in [(&self.head, &other.head), (&self.tail, &other.tail)] {
            let mut pairs = one.iter().zip(two);
            if let Some((one, two)) = pairs.find(|(one, two)| one != two) {
                return Some(format!("{one:?} has become {two:?}"));
            }
            if one.len() != two.len() {
                return Some(format!("{} lines have become {}", one.len(), two.len()));
            }
        }
        None
    }
}

/// The editor's comments start like this.
pub(crate) const COMMENT: &str = "#~ ";
/// Behind this line everything is about users.
const ACCESS: &str = "#> access";
