//! One pass over a parsed file: takes keys out of sections and collects every finding on the way.

use std::collections::BTreeMap;

use toml_edit::Item;

use super::{
    error::{Finding, Problem, shown},
    keys::{Effect, Group, Row, full_name},
    section::{MapEntry, Section, map_entries},
    source::{Place, Source},
    value::Value,
};

/// State of the pass.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The text that was parsed.
    pub(crate) source: Source,
    /// What keeps the file from being used.
    pub(crate) errors: Vec<Finding>,
    /// What does not.
    pub(crate) warnings: Vec<Finding>,
    /// Keys that `general.config_strict` turns into errors.
    pub(crate) unknown: Vec<Finding>,
    /// Every key the file sets, with its byte and whether its value may be shown.
    set: BTreeMap<String, Set>,
    /// Byte of each user's secret, for rules about it.
    entries: BTreeMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Set {
    at: usize,
    value: Option<String>,
}

/// A value about to be read.
#[derive(Clone, Debug)]
pub(crate) struct Slot<'a> {
    /// Full name of the key, for maps with the entry's name.
    pub(crate) key: String,
    /// Its row.
    pub(crate) row: &'static Row,
    /// The value.
    pub(crate) item: &'a Item,
    /// Byte where the value starts.
    pub(crate) at: usize,
}

impl<'a> Slot<'a> {
    /// The slot of something inside this one.
    pub(crate) fn inner(&self, key: String, item: &'a Item, at: usize) -> Self {
        Self {
            key,
            row: self.row,
            item,
            at: item.span().map_or(at, |span| span.start),
        }
    }
}

impl Reading {
    /// Starts a pass over `source`.
    pub(crate) fn new(source: Source) -> Self {
        Self {
            source,
            errors: Vec::new(),
            warnings: Vec::new(),
            unknown: Vec::new(),
            set: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    /// Takes a whole group.
    pub(crate) fn group<G: Group>(&mut self, section: &mut Section) -> G {
        G::take(self, section)
    }

    /// Takes one key; a missing or bad one becomes its default.
    pub(crate) fn key<T: Value>(
        &mut self,
        section: &mut Section,
        row: &'static Row,
        default: impl Fn() -> T,
    ) -> T {
        let alias = row.alias.and_then(|alias| section.take(alias));
        let Some(entry) = section.take(row.key).or(alias) else {
            return default();
        };
        let key = full_name(row.table, row.key);
        let at = entry.item.span().map_or(entry.at, |span| span.start);
        let value = (!row.secret).then(|| self.written(&entry.item));
        self.set
            .insert(full_name(&section.name, row.key), Set { at, value });
        self.remark(row, &key, entry.at);
        let slot = Slot {
            key,
            row,
            item: &entry.item,
            at,
        };
        T::read(&slot, self).unwrap_or_else(default)
    }

    fn remark(&mut self, row: &'static Row, key: &str, at: usize) {
        let problem = match (row.old, row.effect) {
            (Some(new), _) => Problem::Old { new },
            (None, Effect::Now) => return,
            (None, Effect::Inert) => Problem::Inert,
        };
        let place = self.source.place(at);
        self.warnings.push(Finding {
            place,
            key: key.to_owned(),
            value: None,
            problem,
        });
    }

    /// Takes a table; an absent one is empty.
    pub(crate) fn table(&mut self, parent: &mut Section, key: &str) -> Section {
        let name = full_name(&parent.name, key);
        let Some(entry) = parent.take(key) else {
            return Section::absent(&name);
        };
        let at = entry.at;
        match entry.item.into_table() {
            Ok(table) => Section::new(&name, at, table),
            Err(item) => {
                self.not_a(&name, at, &item, format!("a table, [{name}]"));
                Section::absent(&name)
            }
        }
    }

    /// Takes an array of tables, `[[name]]`.
    pub(crate) fn tables(&mut self, parent: &mut Section, key: &str) -> Vec<Section> {
        let name = full_name(&parent.name, key);
        let Some(entry) = parent.take(key) else {
            return Vec::new();
        };
        if entry
            .item
            .as_array()
            .is_some_and(toml_edit::Array::is_empty)
        {
            return Vec::new();
        }
        let at = entry.at;
        match entry.item.into_array_of_tables() {
            Ok(tables) => tables
                .into_iter()
                .map(|table| {
                    let at = table.span().map_or(at, |span| span.start);
                    Section::new(&name, at, table)
                })
                .collect(),
            Err(item) => {
                self.not_a(&name, at, &item, format!("tables, [[{name}]]"));
                Vec::new()
            }
        }
    }

    fn not_a(&mut self, name: &str, at: usize, item: &Item, expected: String) {
        let problem = Problem::WrongType {
            found: type_name(item),
            expected,
            fix: None,
        };
        let place = self.source.place(at);
        self.errors.push(Finding {
            place,
            key: name.to_owned(),
            value: None,
            problem,
        });
    }

    /// Entries of a map, in file order.
    pub(crate) fn map<'s>(&mut self, slot: &Slot<'s>, expected: &str) -> Option<Vec<MapEntry<'s>>> {
        match map_entries(slot.item, slot.at) {
            Some(entries) => Some(entries),
            None => {
                let expected = format!("a table, {expected}");
                let problem = Problem::WrongType {
                    found: type_name(slot.item),
                    expected,
                    fix: None,
                };
                self.error(slot, problem);
                None
            }
        }
    }

    /// Reports an error of a value.
    pub(crate) fn error(&mut self, slot: &Slot<'_>, problem: Problem) {
        let finding = self.finding(slot, problem);
        self.errors.push(finding);
    }

    fn finding(&self, slot: &Slot<'_>, problem: Problem) -> Finding {
        // A map or list has no single value to show.
        let simple = slot.item.is_value() && !slot.item.is_inline_table();
        let value = (simple && !slot.row.secret).then(|| self.written(slot.item));
        Finding {
            place: self.source.place(slot.at),
            key: slot.key.clone(),
            value,
            problem,
        }
    }

    /// Reports a broken rule at a key, with its value if the file sets it; without, at the top.
    pub(crate) fn rule(&mut self, key: &str, text: impl Into<String>) {
        let finding = self.about(key, Problem::Rule { text: text.into() });
        self.errors.push(finding);
    }

    /// A finding about a key by its full name.
    pub(crate) fn about(&self, key: &str, problem: Problem) -> Finding {
        let set = self.set.get(key);
        let place = set.map_or_else(|| self.source.top(), |set| self.source.place(set.at));
        let value = set.and_then(|set| set.value.clone());
        Finding {
            place,
            key: key.to_owned(),
            value,
            problem,
        }
    }

    /// Whether the file sets a key.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.set.contains_key(key)
    }

    /// Full names of everything the file sets.
    pub(crate) fn set_keys(&self) -> Vec<String> {
        self.set.keys().cloned().collect()
    }

    /// Remembers where an entry of a map is.
    pub(crate) fn note_entry(&mut self, slot: &Slot<'_>) {
        self.entries.insert(slot.key.clone(), slot.at);
    }

    /// Byte where an entry of a map starts.
    pub(crate) fn entry_at(&self, key: &str) -> Option<usize> {
        self.entries.get(key).copied()
    }

    /// Whether an error was reported inside a table of an array.
    pub(crate) fn had_error_in(&self, section: &Section) -> bool {
        let first = section.at.map(|at| self.place(at));
        self.errors.iter().any(|error| {
            error.key.starts_with(&section.name)
                && first.as_ref().is_some_and(|first| {
                    error.place.file == first.file && error.place.line >= first.line
                })
        })
    }

    /// The place of a byte, for findings about tables.
    pub(crate) fn place(&self, at: usize) -> Place {
        self.source.place(at)
    }

    fn written(&self, item: &Item) -> String {
        let raw = item.span().and_then(|span| self.source.text.get(span));
        shown(raw.unwrap_or(""))
    }
}

/// A type in words, with its article.
pub(crate) fn type_name(item: &Item) -> &'static str {
    if item.is_str() {
        "a string"
    } else if item.is_integer() {
        "a number"
    } else if item.is_float() {
        "a number with a fraction"
    } else if item.is_bool() {
        "true or false"
    } else if item.is_datetime() {
        "a date"
    } else if item.is_array() {
        "a list"
    } else if item.is_array_of_tables() {
        "a list of tables"
    } else {
        "a table"
    }
}
