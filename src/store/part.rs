//! Changes one user of very many without reading all others anew.
//!
//! The rows of other users are taken out of the text, lines of them that follow each other as one
//! comment. What is left is edited, checked and read as any configuration is; then the rows come
//! back as they were. Rules between users are checked here, and in the end every row has to stand
//! where the values say. Whatever is unusual, errors included, is left to the way that reads
//! everything. Not here: that way (`store.rs`).

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use sha2::{Digest as _, Sha256};

use crate::config::{
    self, Config, Digest, Loaded,
    access::Access,
    edit::rows::{Kind, Line, Lines},
    kinds::Names,
};

/// A configuration without the rows of most users.
pub(super) struct Part<'v> {
    whole: &'v Loaded,
    /// What is left.
    pub(super) text: String,
    /// What was taken out of the whole text; each a line of `text`.
    runs: Vec<Range<usize>>,
    /// Users whose rows are all there.
    told: HashSet<&'v str>,
}

impl<'v> Part<'v> {
    /// Leaves the rows of `user` and of a few others; `None` when there is little to gain, or the
    /// tables are spelt in another way.
    pub(super) fn of(whole: &'v Loaded, user: &'v str) -> Option<Self> {
        let config = &whole.config;
        if whole.files.len() != 1
            || config.access.users.0.len() < USERS_MIN
            || whole.text.contains(MARK)
        {
            return None;
        }
        let mut part = Self {
            whole,
            text: String::new(),
            runs: Vec::new(),
            told: told(config, user)?,
        };
        let mut names = config.access.names();
        let mut run = None::<Range<usize>>;
        let mut hidden = HashSet::new();
        let findings: HashSet<u32> = whole.warnings.iter().map(|own| own.place.line).collect();
        for (line, number) in Lines::new(&whole.text).zip(1_u32..) {
            let Line { span, kind } = line.ok()?;
            let out = match kind {
                Kind::Row { table, name, .. } => {
                    if names.get_mut(table)?.next() != Some(name) {
                        return None;
                    }
                    !part.told.contains(name)
                }
                Kind::Between => run.is_some(),
                Kind::Outside => false,
            };
            if !out {
                part.end_run(&mut run);
                part.text.push_str(whole.text.get(span)?);
                continue;
            }
            if findings.contains(&number) {
                hidden.insert(number);
            }
            run = Some(run.map_or(span.start, |run| run.start)..span.end);
        }
        let all_found = names.iter_mut().all(|names| names.next().is_none());
        (all_found && hidden.is_empty()).then_some(part)
    }

    fn end_run(&mut self, run: &mut Option<Range<usize>>) {
        if let Some(run) = run.take() {
            self.text.push_str(&format!("{MARK}{}\n", self.runs.len()));
            self.runs.push(run);
        }
    }

    /// What the whole configuration says when `text` is made of this part. The revision is left to
    /// whoever knows the bytes.
    pub(super) fn load(&self, text: String) -> Option<Loaded> {
        let (whole, lines) = self.joined(&text)?;
        let mut loaded = config::parse(&self.whole.path, text).ok()?;
        let (before, after) = (&self.whole.config, &mut loaded.config);
        if loaded.files.len() != 1 || others(before) != others(after) {
            return None;
        }
        after.access = before.access.with_part(&after.access, &self.told);
        if !(stands_in(&after.access, &whole) && secrets_differ(&after.access)) {
            return None;
        }
        for finding in &mut loaded.warnings {
            let line = usize::try_from(finding.place.line).ok()?.checked_sub(1)?;
            finding.place.line = *lines.get(line)?;
        }
        loaded.digest = digest(&whole);
        loaded.text = whole;
        Some(loaded)
    }

    /// The whole text, and by line of `text` the line in it.
    fn joined(&self, text: &str) -> Option<(String, Vec<u32>)> {
        let mut whole = String::with_capacity(self.whole.text.len() + text.len());
        let (mut lines, mut number) = (Vec::new(), 1_u32);
        let mut runs = self.runs.iter().enumerate();
        for line in text.split_inclusive('\n') {
            lines.push(number);
            let Some(index) = line.strip_prefix(MARK) else {
                whole.push_str(line);
                number += 1;
                continue;
            };
            let (next, run) = runs.next()?;
            if index.trim_end() != next.to_string() {
                return None;
            }
            let rows = self.whole.text.get(run.clone())?;
            whole.push_str(rows);
            let newlines = rows.bytes().filter(|byte| *byte == b'\n').count();
            number = number.checked_add(u32::try_from(newlines).ok()?)?;
        }
        runs.next().is_none().then_some((whole, lines))
    }
}

/// Users to be left: those that findings and rules of other keys may name, and the first and last
/// of each table, which new rows are put behind.
fn told<'v>(config: &'v Config, user: &'v str) -> Option<HashSet<&'v str>> {
    let mut told = HashSet::from([user]);
    for mut names in config.access.names() {
        told.extend(names.by_ref().take(EDGE));
        told.extend(names.rev().take(EDGE));
    }
    for shown in [&config.links.show, &config.root.show_link] {
        if let Names::Some(names) = shown {
            told.extend(names.iter().map(String::as_str));
        }
    }
    (told.len() < TOLD_MAX).then_some(told)
}

/// Everything but users.
fn others(config: &Config) -> Config {
    let mut others = config.clone();
    others.access.forget_users();
    others
}

/// Whether the rows of a text are those of the values, in their order.
fn stands_in(access: &Access, text: &str) -> bool {
    let mut names = access.names();
    let rows = Lines::new(text).all(|line| match line.map(|line| line.kind) {
        Ok(Kind::Row { table, name, .. }) => {
            names.get_mut(table).and_then(Iterator::next) == Some(name)
        }
        Ok(Kind::Between | Kind::Outside) => true,
        Err(_) => false,
    });
    rows && names.iter_mut().all(|names| names.next().is_none())
}

fn secrets_differ(access: &Access) -> bool {
    let users = access.users.0.iter();
    let owners: HashMap<[u8; 16], &str> = users
        .map(|(name, secret)| (secret.0.0, name.as_str()))
        .collect();
    owners.len() == access.users.0.len()
}

/// As `config::parse` makes it of a text without includes.
fn digest(text: &str) -> Digest {
    let mut digest = Sha256::new_with_prefix(text);
    if !text.is_empty() && !text.ends_with('\n') {
        digest.update("\n");
    }
    digest.finalize().into()
}

/// A comment that nobody writes; files that have it are read as a whole.
const MARK: &str = "#pinnace: rows of others, ";
/// Fewer are read in no time.
const USERS_MIN: usize = 64;
const EDGE: usize = 2;
const TOLD_MAX: usize = 200;
