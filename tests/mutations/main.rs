//! Nothing that was acknowledged is lost: eight writers change users and settings through the
//! control API while an editor rewrites comments of the same file, and the process is killed and
//! started again and again.
//!
//! A few rounds by default; `PINNACE_MUTATION_ROUNDS=50` runs 50 rounds of a thousand mutations,
//! `PINNACE_MUTATION_SEED` repeats what was drawn. Not here: what a change writes (`src/store`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod editor;
mod file;
mod model;
#[path = "../support/mod.rs"]
mod support;
mod writer;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use editor::Editor;
use file::{Picture, Spelling, State};
use support::{Config, Proxy, process::pinnace, wait_until};
use writer::{Counts, Writer};

/// What a round has shown.
#[derive(Debug, Default)]
struct Tally {
    acknowledged: usize,
    conditional: usize,
    conflicts: usize,
    unanswered: usize,
    /// Of the unanswered those that are in the file.
    written: usize,
    kills: usize,
    saved: usize,
    given_up: usize,
    leftovers: usize,
    glimpses: usize,
    tangled: usize,
}

#[test]
fn no_acknowledged_mutation_is_lost() {
    let variable = |name: &str| Some(std::env::var(name).ok()?.parse::<u64>().expect("a number"));
    let campaign = variable("PINNACE_MUTATION_ROUNDS");
    let seed = variable("PINNACE_MUTATION_SEED").unwrap_or(0);
    let (rounds, mutations) = campaign.map_or((5, 60), |rounds| (rounds, 1000));
    let mut sum = Tally::default();
    for round in seed..seed + rounds {
        let began = Instant::now();
        let tally = Round::new(round).run(mutations);
        println!("round {round}: {tally:?} in {:?}", began.elapsed());
        sum.add(&tally);
    }
    println!("{rounds} rounds: {sum:?}");
    // An editor that is overtaken in the wrong instant is rare, else nothing is shown.
    assert!(
        sum.tangled + sum.glimpses <= 1 + rounds as usize / 10,
        "{sum:?}"
    );
}

struct Round {
    seed: u64,
    rng: StdRng,
    proxy: Proxy,
    /// Where the file is, links followed.
    path: PathBuf,
    mode: u32,
    tally: Tally,
}

impl Round {
    fn new(seed: u64) -> Self {
        let dc = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let mut proxy = Config::new(dc).start();
        proxy.signal("KILL");
        proxy.wait_for_end();
        let draw = usize::try_from(seed).unwrap();
        let spelling = Spelling::ALL[draw % Spelling::ALL.len()];
        let mode = [0o600, 0o640, 0o644][draw % 3];
        let link = proxy.config_path();
        let path = if draw % 4 == 1 {
            let dir = proxy.dir().join("linked");
            fs::create_dir(&dir).unwrap();
            fs::remove_file(&link).unwrap();
            symlink("linked/config.toml", &link).unwrap();
            dir.join("config.toml")
        } else {
            link
        };
        fs::write(&path, spelling.text(&proxy.config())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Self {
            seed,
            rng: StdRng::seed_from_u64(seed),
            proxy,
            path,
            mode,
            tally: Tally::default(),
        }
    }

    /// So many mutations, with a kill now and then.
    fn run(mut self, mutations: usize) -> Tally {
        let rng = StdRng::from_rng(&mut self.rng);
        let mut editor = Editor::new(self.path.clone(), rng);
        while self.tally.acknowledged < mutations && self.tally.tangled == 0 {
            let left = mutations - self.tally.acknowledged;
            self.start();
            self.until_killed(&mut editor, left);
        }
        (self.tally.saved, self.tally.given_up) = editor.saved;
        self.tally.glimpses = editor.glimpses;
        self.start();
        self.tally
    }

    /// Starts it on the file as it is.
    fn start(&mut self) {
        self.tally.leftovers += leftovers(&self.path).len();
        let mut check = pinnace();
        let checked = check.arg("check").arg(&self.path).output().unwrap();
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "seed {}: {said}", self.seed);
        self.proxy.start_over();
        assert_eq!(leftovers(&self.path), [""; 0], "after a start");
        // What it serves is what the file says.
        let users = self.proxy.get("/v1/users");
        let names = users.as_array().unwrap().iter();
        let mut names: Vec<&str> = names
            .map(|user| user["username"].as_str().unwrap())
            .collect();
        names.sort_unstable();
        let state = self.state();
        let configured = state.keys().filter(|(_, field)| *field == "users");
        let configured: Vec<&str> = configured.map(|(user, _)| user.as_str()).collect();
        assert_eq!(names, configured);
    }

    /// Writers and the editor at work, until a kill in the midst of it.
    fn until_killed(&mut self, editor: &mut Editor, left: usize) {
        let before = self.state();
        let shares = [0.2, 0.8, 1.0, 1.0];
        let counts = Counts::new(shares[self.rng.random_range(0..shares.len())]);
        let stop = AtomicBool::new(false);
        let enough = self.rng.random_range(1..=left.clamp(1, 400));
        let moment = Duration::from_micros(self.rng.random_range(0..20_000));
        let writers: Vec<Writer<'_>> = (0..WRITERS)
            .map(|number| {
                let rng = StdRng::from_rng(&mut self.rng);
                Writer::new(number, self.proxy.api, rng, &counts, &before)
            })
            .collect();
        let (mut ops, mut resets) = (Vec::new(), BTreeMap::new());
        std::thread::scope(|scope| {
            let writers = writers
                .into_iter()
                .map(|writer| scope.spawn(|| writer.work()));
            let writers: Vec<_> = writers.collect();
            let editing = scope.spawn(|| editor.work(&stop, &counts.acknowledged));
            wait_until("so many mutations are acknowledged", || {
                let ended = writers.iter().any(|writer| writer.is_finished());
                let enough = counts.acknowledged.load(Ordering::Relaxed) >= enough;
                (ended || enough || editing.is_finished()).then_some(())
            });
            std::thread::sleep(moment);
            self.proxy.signal("KILL");
            stop.store(true, Ordering::Relaxed);
            for writer in writers {
                let (more, reset) = writer.join().unwrap();
                ops.extend(more);
                resets.extend(reset);
            }
            editing.join().unwrap();
        });
        self.proxy.wait_for_end();
        self.tally.count(&counts);
        if editor.tangled {
            self.tally.tangled += 1;
            return;
        }
        let text = fs::read_to_string(&self.path).unwrap();
        let after = file::state(&text);
        let wrong = model::wrong(&before, &ops, &after);
        assert!(
            wrong.is_empty(),
            "seed {}: {}\n{text}",
            self.seed,
            wrong.join("\n")
        );
        let lost = editor.picture.differs(&Picture::of(&text));
        assert_eq!(lost, None, "comments, seed {}:\n{text}", self.seed);
        let mode = fs::metadata(&self.path).unwrap().mode() & 0o7777;
        assert_eq!(mode, self.mode, "mode of the file");
        self.check_resets(&resets);
        let unanswered = || ops.iter().filter(|op| op.end.is_none());
        self.tally.unanswered += unanswered().count();
        self.tally.written += unanswered().filter(|op| op.shows_in(&after)).count();
    }

    /// Acknowledged resets of quotas are in their file.
    fn check_resets(&self, resets: &BTreeMap<String, u64>) {
        let text = fs::read_to_string(self.proxy.dir().join("telemt.limit.json"));
        let file: serde_json::Value = match text {
            Ok(text) => serde_json::from_str(&text).expect("the quotas are whole"),
            Err(_) => serde_json::Value::Null,
        };
        for (user, stamp) in resets {
            let found = &file["users"][user]["last_reset_epoch_secs"];
            assert_eq!(
                found.as_u64(),
                Some(*stamp),
                "reset of {user}, seed {}",
                self.seed
            );
        }
    }

    fn state(&self) -> State {
        file::state(&fs::read_to_string(&self.path).unwrap())
    }
}

impl Tally {
    fn count(&mut self, counts: &Counts) {
        self.kills += 1;
        self.acknowledged += counts.acknowledged.load(Ordering::Relaxed);
        self.conditional += counts.conditional.load(Ordering::Relaxed);
        self.conflicts += counts.conflicts.load(Ordering::Relaxed);
    }

    fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.conditional += other.conditional;
        self.conflicts += other.conflicts;
        self.unanswered += other.unanswered;
        self.written += other.written;
        self.kills += other.kills;
        self.saved += other.saved;
        self.given_up += other.given_up;
        self.leftovers += other.leftovers;
        self.glimpses += other.glimpses;
        self.tangled += other.tangled;
    }
}

/// Temporary files beside the configuration.
fn leftovers(path: &Path) -> Vec<String> {
    let files = fs::read_dir(path.parent().unwrap()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.contains(".pinnace-") || name == editor::BESIDE)
        .collect()
}

const WRITERS: usize = 8;
