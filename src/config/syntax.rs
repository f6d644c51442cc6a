//! Text that is not TOML: where, why, and the corrected line for the usual mistake.

use super::{
    error::{Finding, Problem, shown},
    keys::Row,
    rows,
    source::Source,
};

/// The parser's error with its place; the parser's own text would quote the line.
pub(crate) fn finding(source: &Source, error: &toml_edit::TomlError) -> Finding {
    let at = error.span().map_or(0, |span| span.start);
    let mut text = error.message().to_owned();
    if text == DUPLICATE
        && let Some(key) = error.span().and_then(|span| source.text.get(span))
    {
        text = format!("{text} {key}; it stands above already");
    } else if let Some((key, value)) = bare_word(source.line(at)) {
        let value = shown(&format!("\"{value}\""));
        // Only keys known to hold no secret: the line may be a user's.
        let plain = |row: &Row| row.key == key && !row.secret;
        let hidden = value == "(hidden)" || !rows().any(plain);
        let line = if hidden {
            String::new()
        } else {
            format!(": {key} = {value}")
        };
        text = format!("{text} (put the value in quotes{line})");
    }
    let problem = Problem::Syntax { text };
    Finding {
        place: source.place(at),
        key: String::new(),
        value: None,
        problem,
    }
}

/// `key = word`, a string whose quotes were forgotten.
fn bare_word(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let value = value.split('#').next().unwrap_or("").trim();
    let plain = |c: char| c.is_alphanumeric() || "._:/-".contains(c);
    let word = value.starts_with(char::is_alphabetic) && value.chars().all(plain);
    (word
        && key
            .trim()
            .chars()
            .all(|c| c.is_alphanumeric() || "_-.".contains(c)))
    .then(|| (key.trim(), value))
}

/// How the parser words it.
const DUPLICATE: &str = "duplicate key";
