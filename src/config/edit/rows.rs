//! The lines of a text whose per-user tables are spelt plainly: a header, and below it one line
//! for each user.
//!
//! Tells rows from everything else without decoding anything, many times as fast as a parser.
//! Texts in other spellings are refused, and whoever asks compares the names with those that the
//! parser has found. Not here: what is done with the rows (`store/part.rs`).

use std::ops::Range;

use crate::config::{access::PER_USER, source::Scan};

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'t> {
    /// An entry of a per-user table.
    Row {
        /// Index in [`PER_USER`].
        table: usize,
        /// The user, unquoted.
        name: &'t str,
        /// What stands behind the equals sign, comments included.
        value: &'t str,
    },
    /// A comment or nothing, below the header of a per-user table.
    Between,
    /// Anything else, headers included.
    Outside,
}

/// A line of the text.
#[derive(Clone, Debug)]
pub(crate) struct Line<'t> {
    /// Where it stands, with its end.
    pub(crate) span: Range<usize>,
    /// What it is.
    pub(crate) kind: Kind<'t>,
}

/// A per-user table has an entry that is not a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotPlain;

/// The lines of a text that is valid TOML.
pub(crate) struct Lines<'t> {
    text: &'t str,
    at: usize,
    /// The per-user table we are in.
    table: Option<usize>,
    scan: Scan,
}

impl<'t> Lines<'t> {
    /// From the first line on.
    pub(crate) fn new(text: &'t str) -> Self {
        Self {
            text,
            at: 0,
            table: None,
            scan: Scan::default(),
        }
    }

    fn kind(&mut self, line: &'t str) -> Result<Kind<'t>, NotPlain> {
        let statement = blanks(line);
        if self.scan.at_statement() && statement.starts_with('[') {
            self.table = header(statement);
            self.scan.advance(line);
            return Ok(Kind::Outside);
        }
        let Some(table) = self.table else {
            self.scan.advance(line);
            return Ok(Kind::Outside);
        };
        if statement.starts_with(['#', '\r', '\n']) || statement.is_empty() {
            return Ok(Kind::Between);
        }
        let (name, value) = row(statement).ok_or(NotPlain)?;
        Ok(Kind::Row { table, name, value })
    }
}

impl<'t> Iterator for Lines<'t> {
    type Item = Result<Line<'t>, NotPlain>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let len = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let span = self.at..self.at + len;
        self.at = span.end;
        let kind = self.kind(rest.get(..len)?);
        Some(kind.map(|kind| Line { span, kind }))
    }
}

/// The per-user table whose header this line is.
fn header(line: &str) -> Option<usize> {
    let inside = line.strip_prefix('[')?.trim_start();
    let inside = inside.strip_prefix("access")?.trim_start();
    let (name, rest) = inside.strip_prefix('.')?.split_once(']')?;
    let rest = rest.trim();
    if !(rest.is_empty() || rest.starts_with('#')) {
        return None;
    }
    PER_USER.iter().position(|own| *own == name.trim())
}

/// Name and value of an entry that ends with its line.
fn row(line: &str) -> Option<(&str, &str)> {
    // Bytes: every line of a long file comes here, more than once.
    let bytes = line.as_bytes();
    let (name, rest) = match bytes.first()? {
        b'"' => line.get(1..)?.split_once('"')?,
        b'\'' => line.get(1..)?.split_once('\'')?,
        _ => line.split_at(bytes.iter().position(|byte| !is_bare(*byte))?),
    };
    let value = blanks(rest).strip_prefix('=').map(blanks)?;
    // A name with an escape, or a string of several lines.
    let strange = name.contains('\\') || value.starts_with("\"\"\"") || value.starts_with("'''");
    if strange || !(is_simple(value.as_bytes()) || ends_in_line(value)) {
        return None;
    }
    Some((name, value))
}

/// Without the blanks at its start.
fn blanks(text: &str) -> &str {
    let count = text.bytes().take_while(|byte| is_blank(*byte)).count();
    text.get(count..).unwrap_or(text)
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_bare(byte: u8) -> bool {
    is(BARE, byte)
}

fn is(what: u8, byte: u8) -> bool {
    KINDS
        .get(usize::from(byte))
        .is_some_and(|kinds| kinds & what != 0)
}

/// Numbers, dates, and strings without anything special in them: nearly all rows.
fn is_simple(value: &[u8]) -> bool {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let is_plain = |byte: &u8| is(PLAIN, *byte);
    let rest = value.iter().position(|byte| !is_plain(byte));
    let rest = rest.and_then(|end| value.get(end..)).unwrap_or_default();
    let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
    let end = rest.iter().find(|byte| !is_blank(**byte));
    matches!(end, None | Some(b'#' | b'\r' | b'\n'))
}

fn ends_in_line(value: &str) -> bool {
    let mut scan = Scan::default();
    scan.advance(value);
    scan.at_statement()
}

/// The string that a row's value starts with, if it is one without escapes.
pub(crate) fn string(value: &str) -> Option<&str> {
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let (text, _) = value.get(1..)?.split_once(quote)?;
    (!text.contains('\\')).then_some(text)
}

/// Letters of a key without quotes.
const BARE: u8 = 1;
/// Those, and what else stands in numbers and dates.
const PLAIN: u8 = 2;
/// What a byte is; looked up for every byte of a file.
const KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut byte = 0_u8;
    loop {
        let bare = byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let plain = bare || matches!(byte, b'.' | b':' | b'+');
        kinds[byte as usize] = if bare { BARE } else { 0 } | if plain { PLAIN } else { 0 };
        if byte == u8::MAX {
            break kinds;
        }
        byte += 1;
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Option<Vec<(&str, &str, &str)>> {
        let mut rows = Vec::new();
        let mut end = 0;
        for line in Lines::new(text) {
            let line = line.ok()?;
            assert_eq!(line.span.start, end);
            end = line.span.end;
            if let Kind::Row { table, name, value } = line.kind {
                rows.push((PER_USER[table], name, value.trim_end()));
            }
        }
        assert_eq!(end, text.len());
        Some(rows)
    }

    #[test]
    fn finds_rows_below_their_headers() {
        let text = "a = [\n[1],\n\"\"\"\n[access.users]\nno = 1\"\"\"]\n[access.users] # \"\n# x = 1\n\
                    al = \"1\" # one\n\t'b.c'='2'\r\n\n[ access . user_source_deny ]\n\
                    \"d e\" = [\"::/0\", '#'] # {\n[access.user_new]\nf = 1\n[access]\ng = 2\n\
                    [[access.users]]\nh = 3\n[access.user_enabled]\ni = true";
        let expected = [
            ("users", "al", "\"1\" # one"),
            ("users", "b.c", "'2'"),
            ("user_source_deny", "d e", "[\"::/0\", '#'] # {"),
            ("user_enabled", "i", "true"),
        ];
        assert_eq!(rows(text).unwrap(), expected);
        assert_eq!(rows("").unwrap(), []);
    }

    #[test]
    fn refuses_entries_that_are_no_rows() {
        for entry in [
            "a.b = 1",
            "a = [\n1]",
            "a = \"\"\"\n\"\"\"",
            "a = '''x'''",
            "\"a\\u0062\" = 1",
            "a = { b = [\n1] }",
        ] {
            assert_eq!(
                rows(&format!("[access.user_enabled]\n{entry}\n")),
                None,
                "{entry}"
            );
        }
    }

    #[test]
    fn strings_are_taken_out_of_values() {
        assert_eq!(string("\"x\" # \"y\""), Some("x"));
        assert_eq!(string("'x'"), Some("x"));
        assert_eq!(string("\"\\u0078\""), None);
        assert_eq!(string("5"), None);
    }
}
