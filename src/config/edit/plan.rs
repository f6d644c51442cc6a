//! Which bytes a change takes: finds a key in all its spellings, and the place for a new one.

use std::{borrow::Cow, ops::Range};

use toml_edit::{InlineTable, Key, Value as Written};

use super::{
    Edit, EditError, Splice,
    layout::{Block, Entry, Layout, Pair, Step, Value},
};

/// What to do for one change.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Which bytes become what.
    pub(super) splices: Vec<Splice>,
    /// Other changes have to look at the result.
    pub(super) shapes: bool,
}

impl Plan {
    fn lines(splices: Vec<Splice>) -> Self {
        Self {
            splices,
            shapes: false,
        }
    }

    fn shape(splice: Splice) -> Self {
        Self {
            splices: vec![splice],
            shapes: true,
        }
    }
}

/// Plans one change.
pub(super) fn plan(layout: &Layout<'_>, edit: &Edit) -> Result<Plan, EditError> {
    match edit {
        Edit::Set { path, value } => set(layout, path, value),
        Edit::Remove { path } => Ok(remove(layout, path)),
        Edit::Append {
            path,
            index,
            entries,
        } => append(layout, path, *index, entries),
    }
}

/// How a key stands to a path.
enum Relation {
    Same,
    /// It leads there after so many steps.
    Above(usize),
    /// It is inside.
    Below,
    Apart,
}

fn relation(keys: &[Cow<'_, str>], path: &[Step<'_>]) -> Relation {
    let same =
        |(key, step): (&Cow<'_, str>, &Step<'_>)| matches!(step, Step::Key(own) if own == key);
    if !keys.iter().zip(path).all(same) {
        return Relation::Apart;
    }
    match keys.len().cmp(&path.len()) {
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Less => Relation::Above(keys.len()),
        std::cmp::Ordering::Greater => Relation::Below,
    }
}

/// The part of `path` below a block's table; `None` when it is elsewhere.
fn below<'p, 't>(block: &Block<'_>, path: &'p [Step<'t>]) -> Option<&'p [Step<'t>]> {
    let leads = block.path.len() < path.len() && super::meet(&block.path, path);
    leads.then(|| path.split_at(block.path.len()).1)
}

fn set(layout: &Layout<'_>, path: &[Step<'_>], value: &Written) -> Result<Plan, EditError> {
    for block in &layout.blocks {
        if block.path.len() >= path.len() && super::meet(&block.path, path) {
            return Err(shape(path));
        }
        let Some(rest) = below(block, path) else {
            continue;
        };
        for entry in &block.entries {
            if let Some(plan) = set_in_pair(layout, &entry.pair, rest, value, path)? {
                return Ok(plan);
            }
        }
    }
    Ok(insert(layout, path, value))
}

/// Sets a value in or at a pair, if the path leads there.
fn set_in_pair(
    layout: &Layout<'_>,
    pair: &Pair<'_>,
    rest: &[Step<'_>],
    value: &Written,
    path: &[Step<'_>],
) -> Result<Option<Plan>, EditError> {
    match (relation(&pair.keys, rest), &pair.value) {
        (Relation::Apart, _) => Ok(None),
        (Relation::Same, old) => {
            let (span, new) = (old.span(), value.to_string());
            let keep = layout.slice(span.clone()) == new;
            let splices = if keep { Vec::new() } else { vec![(span, new)] };
            Ok(Some(Plan::lines(splices)))
        }
        (Relation::Above(steps), Value::Inline(span, pairs)) => {
            let inner = rest.get(steps..).unwrap_or_default();
            for pair in pairs {
                if let Some(mut plan) = set_in_pair(layout, pair, inner, value, path)? {
                    plan.shapes = true;
                    return Ok(Some(plan));
                }
            }
            Ok(Some(insert_inline(layout, span, pairs, inner, value)))
        }
        (Relation::Above(_) | Relation::Below, _) => Err(shape(path)),
    }
}

/// A new entry of an inline table.
fn insert_inline(
    layout: &Layout<'_>,
    span: &Range<usize>,
    pairs: &[Pair<'_>],
    rest: &[Step<'_>],
    value: &Written,
) -> Plan {
    let text = inside(pairs.iter(), rest, value);
    let Some(last) = pairs.last() else {
        // `{}`, `{ }`, or one with nothing but comments in it.
        let open = span.start + 1;
        let spaces = layout.slice(open..span.end).trim_start_matches([' ', '\t']);
        let end = if spaces.starts_with('}') {
            span.end - 1
        } else {
            open
        };
        return Plan::shape((open..end, format!(" {text} ")));
    };
    match last.comma {
        Some(comma) => Plan::shape((comma + 1..comma + 1, format!(" {text}"))),
        None => {
            let end = last.value.span().end;
            Plan::shape((end..end, format!(", {text}")))
        }
    }
}

/// `key = value` for a key below the table of these pairs: one key with tables around the value,
/// or a dotted one where the table is spelt with dots already.
fn inside<'a, 't: 'a>(
    mut pairs: impl Iterator<Item = &'a Pair<'t>>,
    rest: &[Step<'_>],
    value: &Written,
) -> String {
    let dotted = pairs.any(|pair| {
        let first = rest.first();
        matches!((first, pair.keys.first()), (Some(Step::Key(a)), Some(b)) if a == b)
    });
    if dotted || rest.len() <= 1 {
        return format!("{} = {value}", dots(rest));
    }
    let (first, inner) = rest.split_at(1);
    let mut wrapped = value.clone();
    for step in inner.iter().rev() {
        let mut table = InlineTable::new();
        if let Step::Key(key) = step {
            table.insert(key.as_ref(), wrapped);
        }
        wrapped = Written::InlineTable(table);
    }
    format!("{} = {wrapped}", dots(first))
}

/// A new key outside inline tables.
fn insert(layout: &Layout<'_>, path: &[Step<'_>], value: &Written) -> Plan {
    let parent = path.split_last().map_or(&[][..], |(_, parent)| parent);
    let last_key = path.get(parent.len()..).unwrap_or_default();
    if parent.is_empty() {
        return insert_root(layout, &format!("{} = {value}", dots(path)));
    }
    let own = layout.blocks.iter().find(|block| block.path == parent);
    if let Some(block) = own {
        let text = format!("{} = {value}", dots(last_key));
        return Plan::lines(vec![after_block(layout, block, &text)]);
    }
    if let Some((block, entry)) = dotted_neighbour(layout, parent) {
        let rest = below(block, path).unwrap_or_default();
        let text = format!("{} = {value}", dots(rest));
        return Plan::lines(vec![after_entry(layout, entry, &text)]);
    }
    if path.iter().any(|step| matches!(step, Step::Index(_))) {
        let blocks = layout.blocks.iter();
        let deepest = blocks
            .filter(|block| below(block, path).is_some())
            .max_by_key(|block| block.path.len());
        if let Some(block) = deepest {
            let rest = below(block, path).unwrap_or_default();
            let pairs = block.entries.iter().map(|entry| &entry.pair);
            let text = inside(pairs, rest, value);
            return Plan::shape(after_block(layout, block, &text));
        }
    }
    let entry = format!("{} = {value}", dots(last_key));
    let end = layout.text.len();
    Plan::shape((
        end..end,
        at_end(layout, &format!("[{}]", dots(parent)), &[entry]),
    ))
}

/// The last entry that spells the table, or the nearest table around it, with dots.
fn dotted_neighbour<'l, 't>(
    layout: &'l Layout<'t>,
    parent: &[Step<'_>],
) -> Option<(&'l Block<'t>, &'l Entry<'t>)> {
    let mut best: Option<(usize, &Block<'t>, &Entry<'t>)> = None;
    for block in &layout.blocks {
        let Some(rest) = below(block, parent) else {
            continue;
        };
        for entry in &block.entries {
            let keys = entry.pair.keys.iter().zip(rest);
            let shared = keys
                .take_while(|(key, step)| matches!(step, Step::Key(own) if own == *key))
                .count();
            let depth = block.path.len() + shared;
            // The last key of an entry names a value, not a table.
            let is_table = shared > 0 && shared < entry.pair.keys.len();
            if is_table && best.is_none_or(|(other, _, _)| depth >= other) {
                best = Some((depth, block, entry));
            }
        }
    }
    let (depth, block, entry) = best?;
    // A header for a table nearer to the new key would hide that it exists.
    let headers = layout.blocks.iter();
    let hidden = headers
        .filter(|other| super::meet(&other.path, parent))
        .any(|other| other.path.len() > depth);
    (!hidden).then_some((block, entry))
}

/// Before the first header: after the other keys there, or on top of the first header's comments.
fn insert_root(layout: &Layout<'_>, text: &str) -> Plan {
    let mut blocks = layout.blocks.iter();
    if let Some(last) = blocks.next().and_then(|root| root.entries.last()) {
        return Plan::lines(vec![after_entry(layout, last, text)]);
    }
    let eol = line_end(layout.text);
    let Some(first) = blocks.next() else {
        let open = !layout.text.is_empty() && !layout.text.ends_with('\n');
        let start = if open { eol } else { "" };
        let end = layout.text.len();
        return Plan::shape((end..end, format!("{start}{text}{eol}")));
    };
    let mut at = first.line.start;
    for line in layout.slice(0..at).split_inclusive('\n').rev() {
        if !line.trim_start().starts_with('#') {
            break;
        }
        at -= line.len();
    }
    Plan::shape((at..at, format!("{text}{eol}{eol}")))
}

fn append(
    layout: &Layout<'_>,
    path: &[Step<'_>],
    index: usize,
    entries: &[(String, Written)],
) -> Result<Plan, EditError> {
    let element =
        |block: &&Block<'_>| super::meet(path, &block.path) && block.path.len() == path.len() + 1;
    let present = layout.blocks.iter().filter(element).count();
    let elsewhere = layout.blocks.iter().any(|block| {
        let rest = below(block, path);
        rest.is_some_and(|rest| super::has(&block.entries, rest))
    });
    if present != index || elsewhere {
        return Err(shape(path));
    }
    let lines: Vec<String> = entries
        .iter()
        .map(|(key, value)| format!("{} = {value}", Key::new(key).display_repr()))
        .collect();
    let header = format!("[[{}]]", dots(path));
    let last = layout
        .blocks
        .iter()
        .rfind(|block| block.path.len() > path.len() && super::meet(path, &block.path));
    let Some(last) = last else {
        let end = layout.text.len();
        return Ok(Plan::shape((end..end, at_end(layout, &header, &lines))));
    };
    let eol = line_end(layout.text);
    let all: Vec<&str> = std::iter::once(header.as_str())
        .chain(lines.iter().map(String::as_str))
        .collect();
    let at = block_end(last);
    let start = if layout.slice(0..at).ends_with('\n') {
        ""
    } else {
        eol
    };
    let text = format!("{start}{eol}{}{eol}", all.join(eol));
    Ok(Plan::shape((at..at, text)))
}

/// A new table at the end of the text, a blank line before it.
fn at_end(layout: &Layout<'_>, header: &str, entries: &[String]) -> String {
    let (text, eol) = (layout.text, line_end(layout.text));
    let mut new = String::new();
    if !text.is_empty() && !text.ends_with('\n') {
        new.push_str(eol);
    }
    let blank = text
        .lines()
        .next_back()
        .is_none_or(|line| line.trim().is_empty());
    if !blank || !new.is_empty() {
        new.push_str(eol);
    }
    new.push_str(header);
    new.push_str(eol);
    for entry in entries {
        new.push_str(entry);
        new.push_str(eol);
    }
    new
}

fn block_end(block: &Block<'_>) -> usize {
    let last = block.entries.last();
    last.map_or(block.line.end, |entry| entry.lines.end)
}

/// A line at the end of a block's entries.
fn after_block(layout: &Layout<'_>, block: &Block<'_>, text: &str) -> Splice {
    match block.entries.last() {
        Some(entry) => after_entry(layout, entry, text),
        None => {
            let header = layout.slice(block.line.clone());
            let indent = header.len() - header.trim_start().len();
            let indent = header.get(..indent).unwrap_or("");
            after_line(layout, block.line.end, &format!("{indent}{text}"))
        }
    }
}

fn after_entry(layout: &Layout<'_>, entry: &Entry<'_>, text: &str) -> Splice {
    let indent = layout.slice(entry.lines.start..entry.pair.start);
    after_line(layout, entry.lines.end, &format!("{indent}{text}"))
}

/// A line behind the one that ends at `at`, with the same kind of end.
fn after_line(layout: &Layout<'_>, at: usize, text: &str) -> Splice {
    let before = layout.slice(0..at);
    let new = if before.ends_with("\r\n") {
        format!("{text}\r\n")
    } else if before.ends_with('\n') {
        format!("{text}\n")
    } else {
        format!("{}{text}", line_end(layout.text))
    };
    (at..at, new)
}

/// What ends the text's first line.
fn line_end(text: &str) -> &'static str {
    match text.split_once('\n') {
        Some((first, _)) if first.ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

fn remove(layout: &Layout<'_>, path: &[Step<'_>]) -> Plan {
    let mut plan = Plan::default();
    for block in &layout.blocks {
        if block.path.len() >= path.len() && super::meet(&block.path, path) {
            let lines = block.entries.iter().map(|entry| entry.lines.clone());
            let all = std::iter::once(block.line.clone()).chain(lines);
            plan.splices.extend(all.map(|span| (span, String::new())));
            continue;
        }
        let Some(rest) = below(block, path) else {
            continue;
        };
        for entry in &block.entries {
            match (relation(&entry.pair.keys, rest), &entry.pair.value) {
                (Relation::Same | Relation::Below, _) => {
                    plan.splices.push((entry.lines.clone(), String::new()));
                }
                (Relation::Above(steps), Value::Inline(_, pairs)) => {
                    let inner = rest.get(steps..).unwrap_or_default();
                    remove_inline(layout, pairs, inner, &mut plan);
                }
                (Relation::Above(_) | Relation::Apart, _) => {}
            }
        }
    }
    plan
}

fn remove_inline(layout: &Layout<'_>, pairs: &[Pair<'_>], rest: &[Step<'_>], plan: &mut Plan) {
    plan.shapes = true;
    let mut kept: Option<&Pair<'_>> = None;
    for pair in pairs {
        match (relation(&pair.keys, rest), &pair.value) {
            (Relation::Same | Relation::Below, _) => {
                let end = pair.value.span().end;
                let span = match (pair.comma, kept.and_then(|kept| kept.comma)) {
                    (Some(comma), _) => {
                        let after = layout.slice(comma + 1..layout.text.len());
                        let blanks = after.len() - after.trim_start_matches([' ', '\t']).len();
                        // With the blanks of a line that something else stands on.
                        pair.start..comma + 1 + blanks
                    }
                    (None, Some(before)) if !comment(layout, before..pair.start) => before..end,
                    // A comma before a comment, or before the end, does no harm.
                    (None, _) => pair.start..end,
                };
                plan.splices.push((span, String::new()));
            }
            (Relation::Above(steps), Value::Inline(_, inner)) => {
                let below = rest.get(steps..).unwrap_or_default();
                remove_inline(layout, inner, below, plan);
                kept = Some(pair);
            }
            (Relation::Above(_) | Relation::Apart, _) => kept = Some(pair),
        }
    }
}

fn comment(layout: &Layout<'_>, span: Range<usize>) -> bool {
    layout.slice(span).contains('#')
}

/// Keys with dots between them, quoted where they must be.
pub(super) fn dots(path: &[Step<'_>]) -> String {
    let keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(Key::new(key.as_ref()).display_repr().into_owned()),
        Step::Index(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

fn shape(path: &[Step<'_>]) -> EditError {
    EditError::Shape(dots(path))
}
