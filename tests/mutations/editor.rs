//! An editor at work on the same file: rewrites comments by a temporary file and a rename, and
//! only if the file is still the one it has read.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::file::{COMMENT, Picture};

/// The editor, and what it knows to be in the file.
#[derive(Debug)]
pub(crate) struct Editor {
    path: PathBuf,
    rng: StdRng,
    /// After its last save.
    pub(crate) picture: Picture,
    /// Saves that went through, and those it gave up because the file had changed.
    pub(crate) saved: (usize, usize),
    /// Looks at which its last save was not in place.
    pub(crate) glimpses: usize,
    /// Something was written between its save and its look at what the save replaced: no editor
    /// can do better, and what the file says is not known any more.
    pub(crate) tangled: bool,
    number: usize,
}

impl Editor {
    pub(crate) fn new(path: PathBuf, rng: StdRng) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        Self {
            picture: Picture::of(&text),
            path,
            rng,
            saved: (0, 0),
            glimpses: 0,
            tangled: false,
            number: 0,
        }
    }

    /// Edits until told to stop. After a save it lets a mutation through: where a disk takes
    /// longer to write than the editor, which does not wait for it, nobody else would get anywhere.
    pub(crate) fn work(&mut self, stop: &AtomicBool, acknowledged: &AtomicUsize) {
        let mut saved_at = None;
        while !stop.load(Ordering::Relaxed) && !self.tangled {
            let now = acknowledged.load(Ordering::Relaxed);
            if saved_at != Some(now) {
                let saved = self.saved.0;
                self.edit();
                saved_at = (self.saved.0 > saved).then_some(now);
            }
            let pause = self.rng.random_range(0..15);
            std::thread::sleep(Duration::from_millis(pause));
        }
    }

    fn edit(&mut self) {
        let mut before = self.look();
        if self.picture.differs(&Picture::of(&before)).is_some() {
            // For an instant a file may be in place that the proxy is about to take back, because
            // it was made before our last save.
            self.glimpses += 1;
            std::thread::sleep(Duration::from_millis(300));
            before = self.look();
        }
        let lost = self.picture.differs(&Picture::of(&before));
        assert_eq!(lost, None, "comments, at a look of the editor");
        let after = self.changed(&before);
        let typing = self.rng.random_range(0..10);
        std::thread::sleep(Duration::from_millis(typing));
        if self.save(before.as_bytes(), after.as_bytes()) {
            self.picture = Picture::of(&after);
            self.saved.0 += 1;
        } else {
            self.saved.1 += 1;
        }
    }

    fn look(&self) -> String {
        fs::read_to_string(&self.path).expect("the file is there and text")
    }

    /// Rewrites, adds or removes a comment.
    fn changed(&mut self, text: &str) -> String {
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        let is_mine = |line: &String| line.trim_start().starts_with(COMMENT);
        let mine: Vec<usize> = (0..lines.len()).filter(|at| is_mine(&lines[*at])).collect();
        let at = mine[self.rng.random_range(0..mine.len())];
        self.number += 1;
        let (start, rest) = lines[at].split_once(COMMENT).unwrap();
        let end = &rest[rest.trim_end_matches(['\r', '\n']).len()..];
        let odd = ODD[self.rng.random_range(0..ODD.len())];
        let new = format!("{start}{COMMENT}{} {odd}{end}", self.number);
        match self.rng.random_range(0..5) {
            0 if mine.len() > 10 => drop(lines.remove(at)),
            1 if mine.len() < 60 && !end.is_empty() => lines.insert(at, new),
            _ => lines[at] = new,
        }
        lines.concat()
    }

    /// Puts another text in place; false when the file has changed, and then it stays.
    fn save(&mut self, before: &[u8], after: &[u8]) -> bool {
        let beside = self.path.with_file_name(BESIDE);
        write(&beside, &self.path, after);
        if fs::read(&self.path).unwrap() != before {
            fs::remove_file(&beside).unwrap();
            return false;
        }
        exchange(&beside, &self.path);
        let good = fs::read(&beside).unwrap() == before;
        if !good {
            // In the instant between the look and the rename: what was there goes back.
            exchange(&beside, &self.path);
            self.tangled = fs::read(&beside).unwrap() != after;
        }
        fs::remove_file(&beside).unwrap();
        good
    }
}

fn write(beside: &Path, like: &Path, bytes: &[u8]) {
    let mut file = fs::File::create(beside).unwrap();
    file.write_all(bytes).unwrap();
    let mode = fs::metadata(like).unwrap().mode() & 0o7777;
    file.set_permissions(fs::Permissions::from_mode(mode))
        .unwrap();
}

fn exchange(one: &Path, other: &Path) {
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
}

/// What the editor writes to.
pub(crate) const BESIDE: &str = ".config.toml.edited";

const ODD: [&str; 6] = [
    "plain",
    "[access.users]",
    "w1-0 = \"quoted",
    "''' \u{e4}\u{1f980} \"\"\"",
    "{ not = a table",
    "# #   ",
];
