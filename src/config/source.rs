//! The text of a configuration: the main file with its includes put in, and the way back from a
//! byte of that text to file, line and column.
//!
//! Nothing here knows a key. Called by `config::load`.
//!
//! An `include = "path"` line is replaced by the lines of that file up to its first table header;
//! the tables of that file go to the end, so lines after the directive stay in the table they are
//! written in. Source: config.md 3.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml_edit::Document;

use super::{
    Failed,
    error::{Finding, Problem},
};
use crate::file_write::is_shortage;

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file as it was named.
    pub(crate) file: Arc<Path>,
    /// Counts from 1.
    pub(crate) line: u32,
    /// Counts characters from 1.
    pub(crate) col: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.col)
    }
}

/// The whole text and where each of its lines came from.
#[derive(Debug)]
pub(crate) struct Source {
    /// What TOML is parsed from.
    pub(crate) text: String,
    /// Every file that was read, the main one first.
    pub(crate) files: Vec<Arc<Path>>,
    /// By line of `text`: its first byte and its origin.
    lines: Vec<(usize, Origin)>,
}

#[derive(Clone, Copy, Debug)]
struct Origin {
    file: usize,
    line: u32,
}

struct Line {
    origin: Origin,
    text: String,
}

/// What one file contributes.
#[derive(Default)]
struct Part {
    /// Lines before the first table header: they continue the including file's table.
    head: Vec<Line>,
    /// All others.
    tables: Vec<Line>,
}

impl Source {
    /// Joins `main`, the text of the file at `path`, with the files it includes.
    ///
    /// # Errors
    /// One finding per include that cannot be read, nests too deep or is not `include = "path"`.
    pub(crate) fn assemble(path: &Path, main: &str) -> Result<Self, Vec<Finding>> {
        // Files of very many users have none, and are read often.
        if !main.contains("include") {
            return Ok(Self::alone(path, main));
        }
        let mut reader = Reader {
            files: vec![Arc::from(path)],
            errors: Vec::new(),
        };
        let part = reader.split(0, main, 0);
        if !reader.errors.is_empty() {
            return Err(reader.errors);
        }
        let mut source = Self {
            text: String::new(),
            files: reader.files,
            lines: Vec::new(),
        };
        for line in part.head.into_iter().chain(part.tables) {
            source.lines.push((source.text.len(), line.origin));
            source.text.push_str(&line.text);
            if !line.text.ends_with('\n') {
                source.text.push('\n');
            }
        }
        Ok(source)
    }

    /// A file that includes none.
    pub(crate) fn alone(path: &Path, main: &str) -> Self {
        let mut text = String::with_capacity(main.len() + 1);
        text.push_str(main);
        if !main.is_empty() && !main.ends_with('\n') {
            text.push('\n');
        }
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(ends).filter(|at| *at < text.len());
        let lines = starts.zip((1..).map(|line| Origin { file: 0, line }));
        Self {
            lines: lines.collect(),
            text,
            files: vec![Arc::from(path)],
        }
    }

    /// The place of a byte of `text`; past the end it is the last line.
    pub(crate) fn place(&self, at: usize) -> Place {
        let at = at.min(self.text.len());
        let index = self
            .lines
            .partition_point(|(start, _)| *start <= at)
            .saturating_sub(1);
        let Some((start, origin)) = self.lines.get(index) else {
            return self.top();
        };
        let before = self.text.get(*start..at).unwrap_or("");
        let col = u32::try_from(before.chars().count())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let file = self.files.get(origin.file).unwrap_or(&self.files[0]);
        Place {
            file: Arc::clone(file),
            line: origin.line,
            col,
        }
    }

    /// The first character of the main file.
    pub(crate) fn top(&self) -> Place {
        Place {
            file: Arc::clone(&self.files[0]),
            line: 1,
            col: 1,
        }
    }

    /// The line of `text` that holds the byte `at`.
    pub(crate) fn line(&self, at: usize) -> &str {
        let at = at.min(self.text.len());
        let index = self
            .lines
            .partition_point(|(start, _)| *start <= at)
            .saturating_sub(1);
        let start = self.lines.get(index).map_or(0, |(start, _)| *start);
        self.text
            .get(start..)
            .and_then(|rest| rest.lines().next())
            .unwrap_or("")
    }
}

/// Why a file has no text.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    /// The reason, as the operating system words it, or the first byte that is not UTF-8.
    text: String,
    /// Too many files are open.
    shortage: bool,
}

impl Unread {
    fn new(text: String) -> Self {
        Self {
            text,
            shortage: false,
        }
    }

    /// When it is the main file.
    pub(crate) fn into_failed(self, path: &Path) -> Failed {
        let place = Place {
            file: Arc::from(path),
            line: 1,
            col: 1,
        };
        let error = Finding {
            place,
            key: String::new(),
            value: None,
            problem: self.problem(|text| Problem::Syntax { text }),
        };
        Failed {
            errors: vec![error],
            warnings: Vec::new(),
        }
    }

    /// As a finding says it; `else_as` when the file itself is to blame.
    fn problem(self, else_as: fn(String) -> Problem) -> Problem {
        match self.shortage {
            true => Problem::Shortage { text: self.text },
            false => else_as(self.text),
        }
    }
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        Self {
            text: format!("cannot be read: {error}"),
            shortage: is_shortage(&error),
        }
    }
}

/// Reads a text file.
///
/// # Errors
/// [`Unread`].
pub(crate) fn read(path: &Path) -> Result<(String, Vec<u8>), Unread> {
    let bytes = std::fs::read(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let at = error.valid_up_to();
        Unread::new(format!("is not UTF-8 text from byte {at}"))
    })?;
    Ok((
        text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
        bytes,
    ))
}

struct Reader {
    files: Vec<Arc<Path>>,
    errors: Vec<Finding>,
}

impl Reader {
    fn split(&mut self, file: usize, text: &str, depth: usize) -> Part {
        let mut part = Part::default();
        let mut deferred = Vec::new();
        let mut scan = Scan::default();
        let mut table = None::<String>;
        for (line, number) in text.split_inclusive('\n').zip(1_u32..) {
            let origin = Origin { file, line: number };
            let fresh = scan.at_statement();
            scan.advance(line);
            if fresh && line.trim_start().starts_with('[') {
                table = Some(line.trim().trim_start_matches('[').trim().to_owned());
            }
            let included = fresh
                .then(|| directive(line, table.as_deref()))
                .flatten()
                .map(|found| self.include(&found, origin, depth));
            let here = if table.is_none() {
                &mut part.head
            } else {
                &mut part.tables
            };
            match included {
                Some(child) => {
                    here.extend(child.head);
                    deferred.extend(child.tables);
                }
                None => here.push(Line {
                    origin,
                    text: line.to_owned(),
                }),
            }
        }
        part.tables.extend(deferred);
        part
    }

    fn include(&mut self, found: &Directive, origin: Origin, depth: usize) -> Part {
        let including = Arc::clone(&self.files[origin.file]);
        let refused = match found {
            Directive::Malformed => {
                let text = "is not include = \"path\" on one line";
                Err(Unread::new(text.to_owned()))
            }
            Directive::Path(_) if depth >= DEPTH_MAX => {
                let text = format!("nests includes deeper than {DEPTH_MAX}");
                Err(Unread::new(text))
            }
            Directive::Path(name) => {
                let path = including.parent().unwrap_or(Path::new("")).join(name);
                let named = including.with_file_name(name);
                read(&path)
                    .map(|(text, _)| (path, text))
                    .map_err(|reason| Unread {
                        text: format!("names {}, which {}", named.display(), reason.text),
                        ..reason
                    })
            }
        };
        match refused {
            Ok((path, text)) => {
                self.files.push(Arc::from(PathBuf::as_path(&path)));
                self.split(self.files.len() - 1, &text, depth + 1)
            }
            Err(reason) => {
                let place = Place {
                    file: including,
                    line: origin.line,
                    col: 1,
                };
                let problem = reason.problem(|text| Problem::Rule { text });
                self.errors.push(Finding {
                    place,
                    key: "include".into(),
                    value: None,
                    problem,
                });
                Part::default()
            }
        }
    }
}

enum Directive {
    Path(String),
    Malformed,
}

/// Whether a line that starts a statement includes a file.
///
/// A user may be called `include`: in the tables under `access` only a path that ends in `.toml`
/// is taken for a directive.
fn directive(line: &str, table: Option<&str>) -> Option<Directive> {
    let rest = line.trim_start().strip_prefix("include")?;
    if !rest.trim_start().starts_with('=') {
        return None;
    }
    let path = Document::parse(line.trim()).ok().and_then(|parsed| {
        parsed
            .as_table()
            .get("include")
            .and_then(|item| item.as_str().map(str::to_owned))
    });
    if table.is_some_and(|table| table.starts_with("access")) {
        return path
            .filter(|path| path.ends_with(".toml"))
            .map(Directive::Path);
    }
    Some(
        path.filter(|path| !path.is_empty())
            .map_or(Directive::Malformed, Directive::Path),
    )
}

/// Follows strings and brackets over lines, just enough to know where statements start.
#[derive(Default)]
pub(crate) struct Scan {
    /// The end mark of the multi-line string we are in.
    until: Option<&'static str>,
    /// Open brackets.
    depth: usize,
}

impl Scan {
    pub(crate) fn at_statement(&self) -> bool {
        self.until.is_none() && self.depth == 0
    }

    pub(crate) fn advance(&mut self, line: &str) {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            if let Some(end) = self.until {
                let Some(at) = rest.find(end) else { return };
                self.until = None;
                rest = &rest[at + end.len()..];
                continue;
            }
            match first {
                '#' => return,
                '"' | '\'' => {
                    let triple = if first == '"' { "\"\"\"" } else { "'''" };
                    if let Some(inside) = rest.strip_prefix(triple) {
                        self.until = Some(triple);
                        rest = inside;
                    } else {
                        rest = after_string(rest, first);
                    }
                    continue;
                }
                '[' | '{' => self.depth += 1,
                ']' | '}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            rest = &rest[first.len_utf8()..];
        }
    }
}

/// What follows a one-line string that starts with `quote`.
fn after_string(text: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            _ if c == quote => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

const DEPTH_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(main: &str, others: &[(&str, &str)]) -> Result<Source, Vec<Finding>> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in others {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Source::assemble(&dir.path().join("config.toml"), main)
    }

    #[test]
    fn lines_after_an_include_stay_in_their_table() {
        let main = "[general]\ninclude = 'more.toml' # comment\nfast_mode = false\n";
        let more = "log_level = \"debug\"\n[server]\nport = 1\n";
        let source = joined(main, &[("more.toml", more)]).unwrap();
        assert_eq!(
            source.text,
            "[general]\nlog_level = \"debug\"\nfast_mode = false\n[server]\nport = 1\n"
        );
        let at = source.text.find("port").unwrap();
        let place = source.place(at + 2);
        assert!(place.file.ends_with("more.toml"));
        assert_eq!((place.line, place.col), (3, 3));
        assert_eq!(source.place(source.text.find("fast").unwrap()).line, 3);
        assert_eq!(source.line(at), "port = 1");
    }

    #[test]
    fn without_includes_every_line_stays_where_it_is() {
        for main in [
            "",
            "\n",
            "a = 1",
            "a = 1\r\n\n[b]\n",
            "[a]\nb = [\n[1]\n]\n\n",
        ] {
            let alone = joined(main, &[]).unwrap();
            // A word in a comment makes no difference but for the way.
            let other = joined(&format!("{main}\n# include"), &[]).unwrap();
            let open = !main.is_empty() && !main.ends_with('\n');
            assert_eq!(
                alone.text,
                format!("{main}{}", if open { "\n" } else { "" })
            );
            let place = |source: &Source, at| {
                let place = source.place(at);
                (place.line, place.col)
            };
            for at in 0..main.len() {
                assert_eq!(place(&alone, at), place(&other, at), "{main:?}");
                assert_eq!(alone.line(at), other.line(at));
            }
            assert_eq!(alone.place(0), alone.top());
        }
    }

    #[test]
    fn takes_only_directives_for_includes() {
        for main in [
            "[access.users]\ninclude = \"00112233445566778899aabbccddeeff\"\n",
            "[access.user_enabled]\ninclude = true\n",
            "x = \"\"\"\ninclude = \"a.toml\"\n\"\"\"\n",
            "x = [\ninclude = 'a.toml'\n]\n",
            "included = 1\ninclude.x = 2\n",
        ] {
            assert_eq!(joined(main, &[]).unwrap().text, main);
        }
        let users = [("u.toml", "bob = \"x\"\n")];
        let source = joined("[access.users]\ninclude = \"u.toml\"\n", &users).unwrap();
        assert_eq!(source.text, "[access.users]\nbob = \"x\"\n");
    }

    #[test]
    fn names_what_cannot_be_included() {
        for (main, said) in [
            ("\ninclude = \"gone.toml\"\n", "gone.toml"),
            ("\ninclude = 5\n", "is not include"),
            ("\ninclude = \"loop.toml\"\n", "deeper than 10"),
        ] {
            let errors = joined(main, &[("loop.toml", "include = \"loop.toml\"\n")]).unwrap_err();
            assert!(errors[0].to_string().contains(said), "{}", errors[0]);
        }
    }
}
