//! Changes single keys of a TOML text and keeps every other byte: comments, blank lines, line
//! ends, order, spelling.
//!
//! Text in, text out. A key may be spelt in any legal way: below a header, in an inline table,
//! dotted. Every result is read again and compared with what it should say before it is handed
//! out. Not here: files (`file_write.rs`), what a change means (`store`).
//! Source: control-api.md 9.

mod layout;
mod plan;
pub(crate) mod rows;
mod verify;

use std::{borrow::Cow, collections::BTreeSet};

use toml_edit::Value;

pub(crate) use self::layout::Step;
use self::{
    layout::Layout,
    plan::{Plan, plan},
};

/// Where a value is: `access.users.alice` as three steps.
pub(crate) type Path = Vec<Step<'static>>;

/// One change.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    /// Puts a value there, in place of another value or as a new key; no table may be there.
    Set {
        /// Where.
        path: Path,
        /// What.
        value: Value,
    },
    /// Takes away whatever is there, be it nothing. Of an array of tables only the last element.
    Remove {
        /// Where.
        path: Path,
    },
    /// Adds an element at the end of an array of tables.
    Append {
        /// Of the array.
        path: Path,
        /// How many elements there are.
        index: usize,
        /// The element's keys, at least one.
        entries: Vec<(String, Value)>,
    },
}

impl Edit {
    /// Sets a key by name.
    pub(crate) fn set(keys: &[&str], value: impl Into<Value>) -> Self {
        let (path, value) = (path(keys), value.into());
        Self::Set { path, value }
    }

    /// Removes a key by name.
    pub(crate) fn remove(keys: &[&str]) -> Self {
        let path = path(keys);
        Self::Remove { path }
    }

    /// What it is about in words: `access.users.alice`.
    pub(crate) fn name(&self) -> String {
        plan::dots(self.path())
    }

    /// Whether it puts something somewhere.
    pub(crate) fn is_set(&self) -> bool {
        !matches!(self, Self::Remove { .. })
    }

    /// What it is about.
    pub(crate) fn path(&self) -> &[Step<'static>] {
        match self {
            Self::Set { path, .. } | Self::Remove { path } | Self::Append { path, .. } => path,
        }
    }
}

/// A path of keys.
pub(crate) fn path(keys: &[&str]) -> Path {
    let step = |key: &&str| Step::Key(Cow::Owned((*key).to_owned()));
    keys.iter().map(step).collect()
}

/// Why a text cannot be changed. No values in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EditError {
    /// The text is not TOML.
    #[error("the configuration is not valid TOML")]
    NotToml,
    /// Something on the way to the key is a value, or the key is a table.
    #[error("{0} is spelt in a way that cannot be edited here")]
    Shape(String),
    /// The result does not say what it should, which is a fault of this program.
    #[error("the change of {0} could not be made without touching something else")]
    Broken(String),
}

/// Makes all changes, one after the other.
///
/// # Errors
/// [`EditError`]; there is no text then.
pub(crate) fn apply(text: &Text<'_>, edits: &[Edit]) -> Result<String, EditError> {
    let (mut now, mut done) = round(&text.0, edits)?;
    while let Some(rest @ [_, ..]) = edits.get(done..) {
        let layout = Layout::parse(&now).ok_or(EditError::NotToml)?;
        let (next, more) = round(&layout, rest)?;
        now = next;
        done += more.max(1);
    }
    verify::verify(&text.0, &now, edits)?;
    Ok(now)
}

/// Makes as many changes as are independent of each other; the text and how many they were.
fn round(layout: &Layout<'_>, edits: &[Edit]) -> Result<(String, usize), EditError> {
    let mut splices = Vec::new();
    let mut done = 0;
    for edit in edits {
        let before = edits.get(..done).unwrap_or_default();
        if before.iter().any(|other| meet(other.path(), edit.path())) {
            break;
        }
        let Plan {
            splices: more,
            shapes,
        } = plan(layout, edit)?;
        splices.extend(more);
        done += 1;
        if shapes {
            break;
        }
    }
    Ok((splice(layout.text, splices), done))
}

/// Whether one path leads through the other.
fn meet(one: &[Step<'_>], other: &[Step<'_>]) -> bool {
    one.iter().zip(other).all(|(a, b)| a == b)
}

/// Bytes of the text and what takes their place.
type Splice = (std::ops::Range<usize>, String);

fn splice(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|(span, _)| (span.start, span.end));
    let more: usize = splices.iter().map(|(_, new)| new.len()).sum();
    let mut result = String::with_capacity(text.len() + more);
    let mut from = 0;
    for (span, new) in splices {
        result.push_str(text.get(from..span.start).unwrap_or(""));
        result.push_str(&new);
        from = from.max(span.end);
    }
    result.push_str(text.get(from..).unwrap_or(""));
    result
}

/// A TOML text to look things up in without decoding all of it.
#[derive(Debug)]
pub(crate) struct Text<'t>(Layout<'t>);

impl<'t> Text<'t> {
    /// Reads it; `None` when it is not TOML.
    pub(crate) fn parse(text: &'t str) -> Option<Self> {
        Layout::parse(text).map(Self)
    }

    /// Whether there is a value or table, be it empty, at a path.
    pub(crate) fn has(&self, path: &[Step<'_>]) -> bool {
        self.0.blocks.iter().any(|block| {
            let header = block.path.len() >= path.len() && meet(&block.path, path);
            header || (meet(&block.path, path) && has(&block.entries, &path[block.path.len()..]))
        })
    }

    /// The value at a path as it is written; `None` for a table.
    pub(crate) fn raw(&self, path: &[Step<'_>]) -> Option<&'t str> {
        self.0.blocks.iter().find_map(|block| {
            let below = block.path.len() < path.len() && meet(&block.path, path);
            let rest = path.get(block.path.len()..).filter(|_| below)?;
            let mut entries = block.entries.iter();
            let span = entries.find_map(|entry| pair_value(&entry.pair, rest))?;
            self.0.text.get(span)
        })
    }

    /// Names of the tables and values directly in the table at a path, each once.
    pub(crate) fn names(&self, table: &[&str]) -> BTreeSet<String> {
        let table = path(table);
        let leaves = verify::leaves(&self.0).into_iter().map(|(path, _)| path);
        let headers = self.0.blocks.iter().map(|block| block.path.clone());
        let inside = leaves.chain(headers).filter_map(|path| {
            match path.get(table.len()).filter(|_| meet(&path, &table))? {
                Step::Key(key) => Some(key.to_string()),
                Step::Index(_) => None,
            }
        });
        inside.collect()
    }

    /// The strings directly in the table at a path, by key.
    pub(crate) fn strings(&self, table: &[&str]) -> Vec<(String, String)> {
        let table = path(table);
        let leaves = verify::leaves(&self.0);
        let own = leaves.into_iter().filter_map(|(path, raw)| {
            let (last, above) = path.split_last()?;
            let Step::Key(key) = last else { return None };
            if above != table {
                return None;
            }
            Some((key.clone().into_owned(), unquoted(raw)?))
        });
        own.collect()
    }
}

fn has(entries: &[layout::Entry<'_>], below: &[Step<'_>]) -> bool {
    entries.iter().any(|entry| pair_has(&entry.pair, below))
}

fn pair_has(pair: &layout::Pair<'_>, below: &[Step<'_>]) -> bool {
    let same = |(key, step): (&Cow<'_, str>, &Step<'_>)| matches!(step, Step::Key(k) if k == key);
    if !pair.keys.iter().zip(below).all(same) {
        return false;
    }
    match (below.get(pair.keys.len()..), &pair.value) {
        (None | Some([]), _) => true,
        (Some(inner), layout::Value::Inline(_, pairs)) => {
            pairs.iter().any(|pair| pair_has(pair, inner))
        }
        (Some(_), layout::Value::Plain(_)) => false,
    }
}

fn pair_value(pair: &layout::Pair<'_>, below: &[Step<'_>]) -> Option<std::ops::Range<usize>> {
    let same = |(key, step): (&Cow<'_, str>, &Step<'_>)| matches!(step, Step::Key(k) if k == key);
    if !pair.keys.iter().zip(below).all(same) {
        return None;
    }
    match (below.get(pair.keys.len()..)?, &pair.value) {
        ([], layout::Value::Plain(span)) => Some(span.clone()),
        (inner, layout::Value::Inline(_, pairs)) if !inner.is_empty() => {
            pairs.iter().find_map(|pair| pair_value(pair, inner))
        }
        _ => None,
    }
}

/// The whole text of a configuration whose main file has this text, included files put in.
pub(crate) fn joined(path: &std::path::Path, main: &str) -> Option<String> {
    super::source::Source::assemble(path, main)
        .ok()
        .map(|source| source.text)
}

/// What a string says; `None` when it is none.
fn unquoted(raw: &str) -> Option<String> {
    let plain = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"'));
    if let Some(plain) = plain.filter(|text| !text.contains(['"', '\\'])) {
        return Some(plain.to_owned());
    }
    let value: Value = raw.parse().ok()?;
    value.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
