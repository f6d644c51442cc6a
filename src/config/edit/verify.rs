//! Reads a changed text again: it must say what the old one said, but for the changes.

use std::borrow::Cow;

use toml_edit::Value as Written;

use super::{
    Edit, EditError,
    layout::{Layout, Pair, Step, Value},
    meet,
};

/// A value that is no table, as written, with its full path.
pub(super) type Leaf<'a> = (Vec<Step<'a>>, &'a str);

/// Compares two texts.
///
/// # Errors
/// [`EditError::Broken`] when a value differs that no change names, or one that does is not as it
/// should be.
pub(super) fn verify(before: &Layout<'_>, new: &str, edits: &[Edit]) -> Result<(), EditError> {
    let after = Layout::parse(new).ok_or_else(|| broken(edits))?;
    let named = |leaf: &Leaf<'_>| {
        edits
            .iter()
            .any(|edit| leaf.0.len() >= edit.path().len() && meet(&leaf.0, edit.path()))
    };
    let (mut expected, kept): (Vec<_>, Vec<_>) = leaves(before).into_iter().partition(named);
    let (mut found, still): (Vec<_>, Vec<_>) = leaves(&after).into_iter().partition(named);
    // Nothing else moves, so both are in the same order.
    if kept != still {
        return Err(broken(edits));
    }
    let values: Vec<String> = edits
        .iter()
        .flat_map(written)
        .map(|(_, value)| value.to_string())
        .collect();
    let mut values = values.iter();
    for edit in edits {
        if !matches!(edit, Edit::Append { .. }) {
            let path = edit.path();
            expected.retain(|leaf| !(leaf.0.len() >= path.len() && meet(&leaf.0, path)));
        }
        for (path, _) in written(edit) {
            expected.push((path, values.next().map_or("", String::as_str)));
        }
    }
    expected.sort();
    found.sort();
    if expected == found {
        Ok(())
    } else {
        Err(broken(edits))
    }
}

/// The values that a change puts somewhere, tables taken apart.
fn written(edit: &Edit) -> Vec<(Vec<Step<'_>>, &Written)> {
    let mut all = Vec::new();
    match edit {
        Edit::Set { path, value } => flatten(path.clone(), value, &mut all),
        Edit::Remove { .. } => {}
        Edit::Append {
            path,
            index,
            entries,
        } => {
            for (key, value) in entries {
                let mut path: Vec<Step<'_>> = path.clone();
                path.push(Step::Index(*index));
                path.push(Step::Key(Cow::Borrowed(key)));
                flatten(path, value, &mut all);
            }
        }
    }
    all
}

fn flatten<'a>(
    path: Vec<Step<'a>>,
    value: &'a Written,
    all: &mut Vec<(Vec<Step<'a>>, &'a Written)>,
) {
    match value {
        Written::InlineTable(table) => {
            for (key, value) in table {
                let mut path = path.clone();
                path.push(Step::Key(Cow::Borrowed(key)));
                flatten(path, value, all);
            }
        }
        value => all.push((path, value)),
    }
}

/// Every value in file order, inline tables taken apart.
pub(super) fn leaves<'a>(layout: &'a Layout<'_>) -> Vec<Leaf<'a>> {
    let mut all = Vec::new();
    for block in &layout.blocks {
        for entry in &block.entries {
            collect(layout, &block.path, &entry.pair, &mut all);
        }
    }
    all
}

fn collect<'a>(
    layout: &'a Layout<'_>,
    above: &[Step<'a>],
    pair: &'a Pair<'_>,
    all: &mut Vec<Leaf<'a>>,
) {
    let mut path = Vec::with_capacity(above.len() + pair.keys.len());
    path.extend(above.iter().cloned());
    path.extend(
        pair.keys
            .iter()
            .map(|key| Step::Key(Cow::Borrowed(key.as_ref()))),
    );
    match &pair.value {
        Value::Plain(span) => all.push((path, layout.slice(span.clone()))),
        Value::Inline(_, pairs) => {
            for pair in pairs {
                collect(layout, &path, pair, all);
            }
        }
    }
}

fn broken(edits: &[Edit]) -> EditError {
    let names: Vec<String> = edits.iter().map(Edit::name).collect();
    EditError::Broken(names.join(", "))
}
