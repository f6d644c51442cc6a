//! The repository's files, and Rust sources with comments and literals blanked out, so that rules
//! look at code and at nothing that merely looks like it.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// One Rust file.
pub(crate) struct Source {
    /// From the repository's root.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The same length in lines and characters, comments and literals blank.
    code: String,
    /// All of it is compiled for tests only.
    pub(crate) is_test: bool,
    /// Lines inside `#[cfg(test)]` items.
    test_lines: HashSet<usize>,
}

/// Every Rust file of the repository.
pub(crate) fn sources() -> &'static [Source] {
    static ALL: OnceLock<Vec<Source>> = OnceLock::new();
    ALL.get_or_init(read_sources)
}

fn read_sources() -> Vec<Source> {
    let mut sources: Vec<Source> = tracked()
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| Source::new(path.clone(), text.clone()))
        .collect();
    let declared: Vec<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let path = &source.path;
        let below = |module: &String| {
            *path == format!("{module}.rs") || path.starts_with(&format!("{module}/"))
        };
        let folder = |name: &str| path.starts_with(name) || path.contains(&format!("/{name}"));
        source.is_test = folder("tests/") || folder("examples/") || declared.iter().any(below);
    }
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// Every text file that belongs to the repository: path from its root, and text.
pub(crate) fn tracked() -> &'static [(String, String)] {
    static ALL: OnceLock<Vec<(String, String)>> = OnceLock::new();
    ALL.get_or_init(read_tracked)
}

fn read_tracked() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    let mut paths: Vec<String> = match listed {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(str::to_owned)
            .collect(),
        // Not a checkout: everything that lies here.
        _ => walk(root, Path::new("")),
    };
    paths.sort();
    paths.dedup();
    paths
        .into_iter()
        .filter_map(|path| Some((path.clone(), std::fs::read_to_string(root.join(path)).ok()?)))
        .collect()
}

fn walk(root: &Path, below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(below)).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path: PathBuf = below.join(&name);
        if entry.path().is_dir() {
            if name != "target" && name != ".git" {
                found.extend(walk(root, &path));
            }
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found
}

impl Source {
    fn new(path: String, text: String) -> Source {
        let code = blank(&text);
        let test_lines = test_lines(&code);
        Source {
            path,
            text,
            code,
            is_test: false,
            test_lines,
        }
    }

    /// Lines of code with their numbers.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    /// The line is compiled for tests only.
    pub(crate) fn is_test_line(&self, number: usize) -> bool {
        self.test_lines.contains(&number)
    }

    /// Modules in files of their own that are compiled for tests only, as paths without ending.
    fn test_modules(&self) -> Vec<String> {
        let lines: Vec<&str> = self.code.lines().map(str::trim).collect();
        let declared = lines.windows(2).filter_map(|pair| {
            let name = pair[1].strip_prefix("mod ")?.strip_suffix(';')?;
            (pair[0] == "#[cfg(test)]").then_some(name)
        });
        let stem = self.path.trim_end_matches(".rs");
        let (folder, file) = stem.rsplit_once('/').unwrap_or(("", stem));
        let root = matches!(file, "mod" | "lib" | "main");
        let place = if root { folder } else { stem };
        declared.map(|name| format!("{place}/{name}")).collect()
    }

    /// Words right behind `root::`, those of a group included, with their lines.
    pub(crate) fn named_behind(&self, root: &str) -> Vec<(usize, String)> {
        let code: Vec<char> = self.code.chars().collect();
        let start: Vec<char> = format!("{root}::").chars().collect();
        let mut found = Vec::new();
        let mut line = 1;
        for at in 0..code.len() {
            line += usize::from(code[at] == '\n');
            let own = at == 0 || !(is_word(code[at - 1]) || code[at - 1] == ':');
            if own && code[at..].starts_with(&start) {
                let words = first_words(&code[at + start.len()..]);
                found.extend(words.into_iter().map(|word| (line, word)));
            }
        }
        found
    }

    /// Attributes such as `#[allow(..)]`, whole.
    pub(crate) fn attributes(&self, kind: &str) -> Vec<(usize, String)> {
        let starts = [format!("#[{kind}("), format!("#![{kind}(")];
        let text: Vec<&str> = self.text.lines().collect();
        let mut found = Vec::new();
        for (number, line) in self.code_lines() {
            if starts.iter().any(|start| line.contains(start)) {
                let rest = &text[number - 1..];
                let end = rest.iter().position(|line| line.contains(")]"));
                found.push((number, rest[..=end.unwrap_or(0)].join(" ")));
            }
        }
        found
    }

    /// A `SAFETY` comment, or the `# Safety` of a function, stands above this line's statement.
    pub(crate) fn explains_safety(&self, number: usize) -> bool {
        let lines: Vec<&str> = self.text.lines().collect();
        let mut above = lines[..number - 1].iter().rev().take(12);
        let ends = |line: &str| line.ends_with([';', '}']) || line.is_empty();
        if lines[number - 1].contains("// SAFETY:") {
            return true;
        }
        above
            .by_ref()
            .map(|line| line.trim())
            .take_while(|line| line.starts_with("//") || !ends(line))
            .any(|line| line.starts_with("// SAFETY:") || line.starts_with("/// # Safety"))
    }
}

/// The first word, or the first words of all branches of a group.
fn first_words(code: &[char]) -> Vec<String> {
    let word = |from: &[char]| from.iter().take_while(|c| is_word(**c)).collect::<String>();
    if code.first() != Some(&'{') {
        return vec![word(code)];
    }
    let (mut depth, mut words, mut fresh) = (0, Vec::new(), false);
    for (at, c) in code.iter().enumerate() {
        match c {
            '{' => {
                depth += 1;
                fresh = depth == 1;
            }
            '}' => depth -= 1,
            ',' => fresh = depth == 1,
            c if fresh && is_word(*c) => {
                words.push(word(&code[at..]));
                fresh = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    words
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Lines of items behind `#[cfg(test)]`: up to the brace that closes them, or their semicolon.
fn test_lines(code: &str) -> HashSet<usize> {
    let mut inside = HashSet::new();
    let (mut waiting, mut depth) = (false, 0_usize);
    for (number, line) in (1..).zip(code.lines()) {
        if depth == 0 && line.trim_start().starts_with("#[cfg(test)]") {
            waiting = true;
            inside.insert(number);
            continue;
        }
        if !waiting && depth == 0 {
            continue;
        }
        inside.insert(number);
        for c in line.chars() {
            match c {
                '{' => {
                    depth += 1;
                    waiting = false;
                }
                '}' => depth = depth.saturating_sub(1),
                ';' if depth == 0 => waiting = false,
                _ => {}
            }
        }
    }
    inside
}

/// Puts blanks in the place of comments and of what is between quotes.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let skipped = literal_or_comment(&chars, at);
        for c in &chars[at..at + skipped] {
            out.push(if *c == '\n' { '\n' } else { ' ' });
        }
        at += skipped;
        if skipped == 0 {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Characters of the comment or literal that begins here; 0 if none does.
fn literal_or_comment(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let begins = |start: &str| {
        start
            .chars()
            .enumerate()
            .all(|(n, c)| rest.get(n) == Some(&c))
    };
    let in_word = at > 0 && is_word(chars[at - 1]);
    let found = |end: Option<usize>| end.unwrap_or(rest.len());
    if begins("//") {
        return found(rest.iter().position(|c| *c == '\n'));
    }
    if begins("/*") {
        let end = rest.windows(2).skip(2).position(|pair| pair == ['*', '/']);
        return found(end.map(|end| end + 4));
    }
    let prefix = if in_word {
        0
    } else {
        rest.iter()
            .take_while(|c| matches!(c, 'b' | 'c' | 'r'))
            .count()
    };
    let raw = prefix > 0 && rest[prefix - 1] == 'r';
    let hashes = rest[prefix..]
        .iter()
        .take_while(|c| raw && **c == '#')
        .count();
    let quote = prefix + hashes;
    match rest.get(quote) {
        Some('"') if raw => {
            let mut end: Vec<char> = vec!['"'];
            end.extend(std::iter::repeat_n('#', hashes));
            let body = rest[quote + 1..].windows(end.len()).position(|w| w == end);
            found(body.map(|body| quote + 1 + body + end.len()))
        }
        Some('"') => found(closing(rest, quote, '"')),
        // A character, and not a lifetime.
        Some('\'') if rest.get(quote + 1) == Some(&'\\') || rest.get(quote + 2) == Some(&'\'') => {
            found(closing(rest, quote, '\''))
        }
        _ => 0,
    }
}

/// Just behind the quote that closes the one at `open`.
fn closing(rest: &[char], open: usize, quote: char) -> Option<usize> {
    let mut at = open + 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 1,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_what_is_no_code() {
        let text = "a /* b */ \"c\\\"d\" 'e' 'f g // h\nr#\"i\"j\"# b'\\'' k";
        let code = blank(text);
        assert_eq!(code.chars().count(), text.chars().count());
        assert_eq!(code.split_whitespace().collect::<String>(), "a'fgk");
    }

    #[test]
    fn finds_test_items_and_imports() {
        let text = "use crate::{a::{b, c}, d};\n#[cfg(test)]\nmod t {\n x()\n}\nfn f() { crate::e::g() }\n\
                    #[cfg(test)]\nmod u;\n";
        let source = Source::new("src/x.rs".into(), text.into());
        let words = source
            .named_behind("crate")
            .into_iter()
            .map(|(_, word)| word);
        assert_eq!(words.collect::<Vec<_>>(), ["a", "d", "e"]);
        let lines: Vec<bool> = (1..=8).map(|n| source.is_test_line(n)).collect();
        assert_eq!(lines, [false, true, true, true, true, false, true, true]);
        assert_eq!(source.test_modules(), ["src/x/u"]);
    }
}
