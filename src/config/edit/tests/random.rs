//! Random documents in all spellings, random changes, and a parser that is not ours as judge.

use std::{collections::BTreeMap, fmt::Write as _};

use proptest::{prelude::*, sample::select};
use toml_edit::{Document, Item, TableLike};

use super::*;

/// Leaves by path, as an independent parser sees them.
type Meaning = BTreeMap<Vec<String>, String>;

fn meaning(text: &str) -> Meaning {
    let document = Document::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut all = Meaning::new();
    descend(&mut Vec::new(), document.as_table(), &mut all);
    all
}

fn descend(path: &mut Vec<String>, table: &dyn TableLike, all: &mut Meaning) {
    for (key, item) in table.iter() {
        path.push(key.to_owned());
        match item {
            Item::Value(value) if !value.is_inline_table() => {
                let mut value = value.clone();
                value.decor_mut().clear();
                let text = value.as_str().map_or(value.to_string(), str::to_owned);
                all.insert(path.clone(), text);
            }
            item => descend(path, item.as_table_like().unwrap(), all),
        }
        path.pop();
    }
}

/// How a table under `[access]` is spelt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    Header,
    Inline,
    Dotted,
    /// `access` itself is an inline table.
    AllInline,
    /// `access.table.key` before the first header.
    AllDotted,
}

#[derive(Clone, Debug)]
struct Table {
    name: &'static str,
    spelling: Spelling,
    entries: Vec<(String, i64)>,
}

#[derive(Clone, Debug)]
struct Doc {
    tables: Vec<Table>,
    noise: Vec<u8>,
    crlf: bool,
    open_end: bool,
}

const TABLES: [&str; 4] = ["users", "user_ad_tags", "user_enabled", "user_data_quota"];
const NAMES: [&str; 8] = ["al", "bob", "c.d", "e f", "1", "x-y", "ü", "users"];

fn entries() -> impl Strategy<Value = Vec<(String, i64)>> {
    let entries = prop::collection::btree_map(select(&NAMES[..]), 0..9_i64, 0..6);
    entries.prop_map(|map| {
        map.into_iter()
            .map(|(name, n)| (name.to_owned(), n))
            .collect()
    })
}

fn doc() -> impl Strategy<Value = Doc> {
    let mixed = select(vec![Spelling::Header, Spelling::Inline, Spelling::Dotted]);
    let all = select(vec![
        None,
        None,
        Some(Spelling::AllInline),
        Some(Spelling::AllDotted),
    ]);
    let spellings = (prop::collection::vec(mixed, TABLES.len()), all).prop_map(|(own, all)| {
        own.into_iter()
            .map(|one| all.unwrap_or(one))
            .collect::<Vec<_>>()
    });
    let present = prop::collection::vec(any::<bool>(), TABLES.len());
    let parts = (
        spellings,
        present,
        prop::collection::vec(entries(), TABLES.len()),
        prop::collection::vec(any::<u8>(), 16),
        any::<(bool, bool)>(),
        Just(TABLES.to_vec()).prop_shuffle(),
    );
    parts.prop_map(
        |(spellings, present, entries, noise, (crlf, open_end), names)| {
            let tables = names.into_iter().zip(spellings).zip(entries).zip(present);
            let tables = tables.filter(|(_, present)| *present);
            let tables = tables.map(|(((name, spelling), entries), _)| Table {
                name,
                spelling,
                entries,
            });
            Doc {
                tables: tables.collect(),
                noise,
                crlf,
                open_end,
            }
        },
    )
}

/// Writes lines with comments, blanks and indents between them.
struct Writer<'a> {
    text: String,
    noise: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    comments: usize,
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        let noise = self.noise.next().copied().unwrap_or(0);
        if noise & 1 == 1 {
            self.comments += 1;
            let _ = writeln!(self.text, "# comment {}", self.comments);
        }
        if noise & 6 == 6 {
            self.text.push('\n');
        }
        let indent = ["", "  ", "\t", ""][usize::from(noise >> 3 & 3)];
        let _ = write!(self.text, "{indent}{line}");
        if noise & 32 == 32 {
            self.comments += 1;
            let _ = write!(self.text, " # comment {}", self.comments);
        }
        self.text.push('\n');
    }

    fn pair(&mut self, key: &str, value: impl std::fmt::Display) {
        let space = if self.noise.next().is_some_and(|noise| noise & 1 == 1) {
            " "
        } else {
            ""
        };
        self.line(&format!("{key}{space}={space}{value}"));
    }
}

fn key(name: &str) -> String {
    toml_edit::Key::new(name).display_repr().into_owned()
}

fn inline(entries: &[(String, i64)]) -> String {
    let pairs: Vec<String> = entries
        .iter()
        .map(|(name, n)| format!("{} = {n}", key(name)))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn write(doc: &Doc) -> String {
    let mut out = Writer {
        text: String::new(),
        noise: doc.noise.iter().cycle(),
        comments: 0,
    };
    out.pair("first", 1);
    let of = |spelling: Spelling| {
        doc.tables
            .iter()
            .filter(move |table| table.spelling == spelling)
    };
    for table in of(Spelling::AllDotted) {
        for (name, n) in &table.entries {
            out.pair(&format!("access.{}.{}", table.name, key(name)), n);
        }
    }
    let whole: Vec<String> = of(Spelling::AllInline)
        .map(|table| format!("{} = {}", table.name, inline(&table.entries)))
        .collect();
    if !whole.is_empty() {
        out.pair("access", format!("{{{}}}", whole.join(",")));
    }
    out.line("[general]");
    out.pair("log_level", "'debug'");
    if of(Spelling::Inline)
        .chain(of(Spelling::Dotted))
        .next()
        .is_some()
    {
        out.line("[access]");
        out.pair("replay_check_len", 5);
        for table in of(Spelling::Inline) {
            out.pair(table.name, inline(&table.entries));
        }
        for table in of(Spelling::Dotted) {
            for (name, n) in &table.entries {
                out.pair(&format!("{}.{}", table.name, key(name)), n);
            }
        }
    }
    for table in of(Spelling::Header) {
        let head = if doc.noise[0] & 1 == 1 {
            format!("[ 'access' . {} ]", table.name)
        } else {
            format!("[access.{}]", table.name)
        };
        out.line(&head);
        for (name, n) in &table.entries {
            out.pair(&key(name), n);
        }
    }
    out.line("[censorship] # last");
    out.pair("tls_domain", "\"a.b\"");
    let mut text = out.text;
    if doc.crlf {
        text = text.replace('\n', "\r\n");
    }
    if doc.open_end {
        text.truncate(text.trim_end().len());
    }
    text
}

#[derive(Clone, Debug)]
struct Change {
    table: &'static str,
    name: &'static str,
    value: Option<i64>,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let one = (
        select(&TABLES[..]),
        select(&NAMES[..]),
        prop::option::of(10..19_i64),
    );
    let one = one.prop_map(|(table, name, value)| Change { table, name, value });
    prop::collection::vec(one, 1..6)
}

/// Whether all of `some` are in `all`, in order.
fn in_order<'a>(some: impl Iterator<Item = &'a str>, all: &'a str) -> Result<(), &'a str> {
    let mut lines = all.split_inclusive('\n');
    for line in some {
        let line = line.trim_end();
        if !lines.by_ref().any(|other| other.trim_end() == line) {
            return Err(line);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_change_in_any_spelling_does_just_that(doc in doc(), changes in changes()) {
        let text = write(&doc);
        let mut expected = meaning(&text);
        let mut edits = Vec::new();
        for Change { table, name, value } in &changes {
            let path = ["access", table, name];
            let key: Vec<String> = path.iter().map(|key| (*key).to_owned()).collect();
            match value {
                Some(value) => {
                    edits.push(Edit::set(&path, *value));
                    expected.insert(key, value.to_string());
                }
                None => {
                    edits.push(Edit::remove(&path));
                    expected.remove(&key);
                }
            }
        }
        let changed = apply(&text, &edits).unwrap_or_else(|error| panic!("{error}\n{text}"));
        prop_assert_eq!(meaning(&changed), expected, "\n{}\n---\n{}", text, changed);
        prop_assert_eq!(doc.crlf, !changed.replace("\r\n", "").contains('\n'));
        // What is no line of a changed key stays, in order.
        let touched = |line: &str| {
            let line = line.trim();
            let names = changes.iter().any(|change| line.contains(change.name));
            let inline = changes.iter().any(|change| line.contains(change.table));
            let whole = line.starts_with("access") && line.contains('{');
            !line.starts_with(['#', '[']) && (names || inline || whole)
        };
        let others = text.split_inclusive('\n').filter(|line| !touched(line));
        if let Err(lost) = in_order(others, &changed) {
            prop_assert!(false, "lost {lost:?}\n{text}\n---\n{changed}");
        }
        if changes.iter().all(|change| change.value.is_none()) {
            prop_assert!(changed.len() <= text.len());
        }
    }
}
