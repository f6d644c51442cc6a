//! One table of the file while keys are taken out of it: what is left at the end is unknown.

use std::borrow::Cow;

use toml_edit::{Item, Key, Table, Value};

/// A table's entries that nobody has claimed yet, in file order.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Full name, empty for the root.
    pub(crate) name: String,
    /// Byte where the table starts; `None` when the file does not have it.
    pub(crate) at: Option<usize>,
    entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key as it reads after unquoting.
    pub(crate) name: String,
    /// Byte where the key starts.
    pub(crate) at: usize,
    /// Its value.
    pub(crate) item: Item,
}

impl Section {
    /// The entries of a parsed table.
    pub(crate) fn new(name: &str, at: usize, table: Table) -> Self {
        Self {
            name: name.to_owned(),
            at: Some(at),
            entries: entries(table, at),
        }
    }

    /// A table the file does not have.
    pub(crate) fn absent(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            at: None,
            entries: Vec::new(),
        }
    }

    /// Removes a key.
    pub(crate) fn take(&mut self, name: &str) -> Option<Entry> {
        let index = self.entries.iter().position(|entry| entry.name == name)?;
        Some(self.entries.remove(index))
    }

    /// Whether a key is still there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| entry.name == name)
    }

    /// Adds an entry under another name, for keys that moved.
    pub(crate) fn put(&mut self, name: &str, entry: Entry) {
        self.entries.push(Entry {
            name: name.to_owned(),
            ..entry
        });
    }

    /// What is left.
    pub(crate) fn into_rest(self) -> Vec<Entry> {
        self.entries
    }
}

/// One entry of a map, borrowed from the file's table where that is possible: a map may have very
/// many.
#[derive(Clone, Debug)]
pub(crate) struct MapEntry<'t> {
    /// The key as it reads after unquoting.
    pub(crate) name: &'t str,
    /// Byte where the key starts.
    pub(crate) at: usize,
    /// Its value.
    pub(crate) item: Cow<'t, Item>,
}

/// The entries of a table in file order, however it is spelt; `None` for anything else. `at` stands
/// in where the parser kept no position.
pub(crate) fn map_entries(item: &Item, at: usize) -> Option<Vec<MapEntry<'_>>> {
    let start = |key: Option<&Key>| key.and_then(Key::span).map_or(at, |span| span.start);
    if let Some(table) = item.as_inline_table() {
        let entry = |(name, value): (_, &Value)| MapEntry {
            name,
            at: start(table.key(name)),
            item: Cow::Owned(Item::Value(value.clone())),
        };
        return Some(table.iter().map(entry).collect());
    }
    let table = item.as_table()?;
    let entry = |(name, item)| MapEntry {
        name,
        at: start(table.key(name)),
        item: Cow::Borrowed(item),
    };
    Some(table.iter().map(entry).collect())
}

/// The entries of a table in file order; `at` stands in where the parser kept no position.
pub(crate) fn entries(table: Table, at: usize) -> Vec<Entry> {
    let starts: Vec<usize> = table
        .iter()
        .map(|(name, _)| {
            table
                .key(name)
                .and_then(toml_edit::Key::span)
                .map_or(at, |span| span.start)
        })
        .collect();
    table
        .into_iter()
        .zip(starts)
        .map(|((name, item), at)| Entry {
            name: name.to_string(),
            at,
            item,
        })
        .collect()
}
