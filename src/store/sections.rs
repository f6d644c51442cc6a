//! The editable sections: shown as JSON, merged with a patch key by key. Source: control-api.md 16.
//!
//! Not here: which sections are editable (`admin`), making the changes (`config::edit`).

use std::{borrow::Cow, collections::BTreeSet};

use admin::{EDITABLE_SECTIONS, StoreError};
use serde_json::{Map, Number, Value as Json};
use toml_edit::{Array, Document, InlineTable, Item, TableLike, Value};

use super::view::View;
use crate::config::{
    self, Loaded, Problem,
    edit::{self, Edit, Path, Step},
    keys::Reload,
};

/// The editable sections that a configuration has.
pub(super) fn shown(view: &View) -> Map<String, Json> {
    let Some(document) = document(view) else {
        return Map::new();
    };
    let table = document.as_table();
    let sections = EDITABLE_SECTIONS
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), json(table.get(name)?))));
    sections.collect()
}

fn document(view: &View) -> Option<Document<String>> {
    let loaded = &view.loaded;
    let text = edit::joined(&loaded.path, &loaded.text)?;
    Document::parse(text).ok()
}

/// What a patch does.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) edits: Vec<Edit>,
    /// Sections with a value that changes.
    pub(super) changed: Vec<String>,
    /// Full names of keys with a value that changes.
    keys: BTreeSet<String>,
}

/// Changed keys by full name.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// They wait for a restart.
    pub(super) restart: Vec<String>,
    /// They are in effect.
    pub(super) hot: Vec<String>,
}

/// Compares a patch with what is there.
pub(super) fn merge(view: &View, sections: &Map<String, Json>) -> Result<Merged, StoreError> {
    let document = document(view).ok_or(StoreError::Unparsable)?;
    let mut merged = Merged::default();
    for (name, value) in sections {
        let before = merged.edits.len();
        merged.value(edit::path(&[name]), document.as_table().get(name), value)?;
        if merged.edits.len() > before {
            merged.changed.push(name.clone());
        }
    }
    Ok(merged)
}

impl Merged {
    fn value(&mut self, path: Path, old: Option<&Item>, new: &Json) -> Result<(), StoreError> {
        match new {
            Json::Null => Ok(()),
            Json::Object(members) if old.is_none_or(Item::is_table_like) => {
                let table = old.and_then(Item::as_table_like);
                for (key, value) in members {
                    let old = table.and_then(|table| table.get(key));
                    self.value(below(&path, key), old, value)?;
                }
                Ok(())
            }
            Json::Array(elements) => self.array(path, old, elements),
            new => {
                if old.map(json).as_ref() != Some(new) {
                    self.set(path, new)?;
                }
                Ok(())
            }
        }
    }

    fn array(&mut self, path: Path, old: Option<&Item>, new: &[Json]) -> Result<(), StoreError> {
        if old.map(json) == Some(Json::Array(new.iter().map(without_nulls).collect())) {
            return Ok(());
        }
        let objects = new.iter().all(Json::is_object);
        match old {
            Some(Item::ArrayOfTables(tables)) if objects => {
                let tables: Vec<&dyn TableLike> =
                    tables.iter().map(|table| table as &dyn TableLike).collect();
                self.tables(path, &tables, new)
            }
            None if new.is_empty() => Ok(()),
            None if objects => self.tables(path, &[], new),
            _ => self.set(path, &Json::Array(new.to_vec())),
        }
    }

    /// Brings an array of tables to another content, element by element and key by key.
    fn tables(
        &mut self,
        path: Path,
        old: &[&dyn TableLike],
        new: &[Json],
    ) -> Result<(), StoreError> {
        for index in (new.len()..old.len()).rev() {
            let path = element(&path, index);
            self.note(&path);
            self.edits.push(Edit::Remove { path });
        }
        for (index, members) in new.iter().filter_map(Json::as_object).enumerate() {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            let Some(table) = old.get(index) else {
                let entries = members
                    .map(|(key, value)| Ok((key.clone(), written(value)?)))
                    .collect::<Result<Vec<_>, StoreError>>()?;
                self.note(&path);
                let path = path.clone();
                self.edits.push(Edit::Append {
                    path,
                    index,
                    entries,
                });
                continue;
            };
            let element = element(&path, index);
            let given: Vec<_> = members.collect();
            for (key, _) in table.iter() {
                if !given.iter().any(|(name, _)| name.as_str() == key) {
                    let path = below(&element, key);
                    self.note(&path);
                    self.edits.push(Edit::Remove { path });
                }
            }
            for (key, value) in given {
                if table.get(key).map(json) != Some(without_nulls(value)) {
                    self.set(below(&element, key), value)?;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, path: Path, new: &Json) -> Result<(), StoreError> {
        self.note(&path);
        let value = written(new)?;
        self.edits.push(Edit::Set { path, value });
        Ok(())
    }

    fn note(&mut self, path: &Path) {
        let keys: Vec<&str> = path
            .iter()
            .filter_map(|step| match step {
                Step::Key(key) => Some(key.as_ref()),
                Step::Index(_) => None,
            })
            .collect();
        self.keys.insert(keys.join("."));
    }

    /// When the changed keys apply.
    pub(super) fn effects(&self, before: &Loaded, after: &Loaded) -> Effects {
        let (mut restart, mut hot) = (BTreeSet::new(), BTreeSet::new());
        if before.config != after.config {
            for key in &self.keys {
                for row in config::rows() {
                    let (own, alias) = (row.name(), row.alias);
                    let alias = alias.map(|alias| config::keys::full_name(row.table, alias));
                    if leads(&own, key) || alias.is_some_and(|alias| leads(&alias, key)) {
                        match row.reload {
                            Reload::Restart => restart.insert(own),
                            Reload::Hot => hot.insert(own),
                        };
                    }
                }
            }
        }
        Effects {
            restart: restart.into_iter().collect(),
            hot: hot.into_iter().collect(),
        }
    }

    /// Refuses keys that nobody knows: whoever sends one believes that it does something.
    ///
    /// # Errors
    /// [`StoreError::Invalid`].
    pub(super) fn known(&self, after: &Loaded) -> Result<(), StoreError> {
        let unknown = after.warnings.iter().find(|finding| {
            let strange = matches!(
                finding.problem,
                Problem::Unknown { .. } | Problem::Moved { .. }
            );
            strange && self.keys.iter().any(|key| leads(&finding.key, key))
        });
        match unknown {
            Some(finding) => Err(StoreError::Invalid(
                format!("{} {}", finding.key, finding.problem).into(),
            )),
            None => Ok(()),
        }
    }
}

/// Whether two full names are the same, or one is inside the other.
fn leads(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() < other.len() {
        (one, other)
    } else {
        (other, one)
    };
    let rest = long.strip_prefix(short);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn below(path: &Path, key: &str) -> Path {
    let mut path = path.clone();
    path.push(Step::Key(Cow::Owned(key.to_owned())));
    path
}

fn element(path: &Path, index: usize) -> Path {
    let mut path = path.clone();
    path.push(Step::Index(index));
    path
}

fn json(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => value_json(value),
        Item::Table(table) => table_json(table),
        Item::ArrayOfTables(tables) => {
            Json::Array(tables.iter().map(|table| table_json(table)).collect())
        }
    }
}

fn table_json(table: &dyn TableLike) -> Json {
    let members = table.iter().map(|(key, item)| (key.to_owned(), json(item)));
    Json::Object(members.collect())
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.value().as_str()),
        Value::Integer(number) => Json::from(*number.value()),
        Value::Float(number) => Number::from_f64(*number.value()).map_or(Json::Null, Json::Number),
        Value::Boolean(flag) => Json::from(*flag.value()),
        Value::Datetime(date) => Json::from(date.value().to_string()),
        Value::Array(array) => Json::Array(array.iter().map(value_json).collect()),
        Value::InlineTable(table) => table_json(table),
    }
}

fn without_nulls(value: &Json) -> Json {
    match value {
        Json::Object(members) => {
            let members = members.iter().filter(|(_, value)| !value.is_null());
            Json::Object(
                members
                    .map(|(key, value)| (key.clone(), without_nulls(value)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}

fn written(value: &Json) -> Result<Value, StoreError> {
    Ok(match value {
        Json::Null => {
            let text = "null does not stand for a value; leave the member out";
            return Err(StoreError::Invalid(text.into()));
        }
        Json::Bool(flag) => (*flag).into(),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(float)) if !number.is_u64() => float.into(),
            _ => {
                let text = format!("{number} is too large; the largest number is {}", i64::MAX);
                return Err(StoreError::Invalid(text.into()));
            }
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(elements) => {
            let elements = elements.iter().map(written);
            Value::Array(elements.collect::<Result<Array, StoreError>>()?)
        }
        Json::Object(members) => {
            let mut table = InlineTable::new();
            for (key, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                table.insert(key, written(value)?);
            }
            Value::InlineTable(table)
        }
    })
}
