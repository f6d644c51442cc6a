//! Reads the source and fails on untidy code: what rustc and clippy cannot see. One test per rule;
//! each lists every place that breaks it.
//!
//! Not here: lints (`Cargo.toml`), and whether the example names every key (`config_files.rs`).
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod source;

use source::{Source, sources, tracked};

/// Fails with all that was found.
fn expect_none(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

/// Lines of code, tests left out, for which `wrong` says why.
fn in_product(wrong: impl Fn(&Source, &str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test) {
        for (number, line) in source.code_lines() {
            if source.is_test_line(number) {
                continue;
            }
            if let Some(why) = wrong(source, line) {
                found.push(format!("{}:{number}: {why}", source.path));
            }
        }
    }
    found
}

#[test]
fn files_have_at_most_600_lines() {
    let long = sources().iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > 600).then(|| format!("{}: {lines} lines", source.path))
    });
    expect_none("split at the second noun", long.collect());
}

#[test]
fn lines_have_at_most_100_columns() {
    let mut long = Vec::new();
    for source in sources() {
        for (number, line) in (1..).zip(source.text.lines()) {
            let columns = line.chars().count();
            // What cannot be broken, such as a long literal, is left to the eye.
            if columns > 100 && !line.contains('"') {
                long.push(format!("{}:{number}: {columns} columns", source.path));
            }
        }
    }
    expect_none("100 columns", long);
}

#[test]
fn files_open_by_saying_what_lives_there() {
    let silent = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path.clone());
    expect_none("no `//!` in the first line", silent.collect());
}

#[test]
fn imports_name_what_they_import() {
    let globs = in_product(|_, line| {
        let import = line.contains("use ") || line.trim_start().starts_with(['{', '}', '*']);
        let glob = line.contains("::*") || (line.trim() == "*," && import);
        (import && glob).then(|| line.trim().to_owned())
    });
    expect_none("glob imports belong in tests", globs);
}

/// What a layer may name behind a path's first word.
struct Layer {
    place: &'static str,
    root: &'static str,
    may: &'static [&'static str],
}

const LAYERS: &[Layer] = &[
    Layer {
        place: "shards/src/proto/",
        root: "crate",
        may: &["proto", "settings"],
    },
    Layer {
        place: "shards/src/policy/",
        root: "crate",
        may: &["policy", "proto", "settings", "counters", "control"],
    },
    Layer {
        place: "shards/src/engine/",
        root: "crate",
        may: &["engine", "settings"],
    },
    Layer {
        place: "shards/src/control/",
        root: "crate",
        may: &["control", "counters", "me", "proto"],
    },
    Layer {
        place: "shards/src/counters/",
        root: "crate",
        may: &["counters"],
    },
    Layer {
        place: "shards/src/settings.rs",
        root: "crate",
        may: &["proto", "settings"],
    },
    Layer {
        place: "admin/",
        root: "shards",
        may: &["control", "counters", "me", "settings"],
    },
    Layer {
        place: "bench/",
        root: "shards",
        may: &["proto"],
    },
    Layer {
        place: "shards/",
        root: "admin",
        may: &[],
    },
    Layer {
        place: "shards/",
        root: "bench",
        may: &[],
    },
    Layer {
        place: "admin/",
        root: "bench",
        may: &[],
    },
    Layer {
        place: "bench/",
        root: "admin",
        may: &[],
    },
    Layer {
        place: "src/",
        root: "bench",
        may: &[],
    },
];

#[test]
fn imports_follow_the_layers() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test) {
        for layer in LAYERS {
            if !source.path.starts_with(layer.place) {
                continue;
            }
            for (number, word) in source.named_behind(layer.root) {
                let allowed = layer.may.contains(&word.as_str());
                if !allowed && !source.is_test_line(number) {
                    let root = layer.root;
                    wrong.push(format!("{}:{number}: {root}::{word}", source.path));
                }
            }
        }
    }
    expect_none("not this layer's to import", wrong);
}

#[test]
fn pure_layers_have_no_clock_chance_or_io() {
    let found = in_product(|source, line| {
        let pure = ["shards/src/proto/", "shards/src/policy/"];
        let pure = pure.iter().any(|place| source.path.starts_with(place));
        let word = IMPURE.iter().find(|word| has_word(line, word))?;
        pure.then(|| (*word).to_owned())
    });
    expect_none("time, randomness and I/O arrive as arguments", found);
}

const IMPURE: &[&str] = &[
    "glommio",
    "io_uring",
    "tokio",
    "tracing",
    "rand",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "async",
    "await",
];

#[test]
fn engine_and_edge_are_the_only_users_of_their_runtimes() {
    let found = in_product(|source, line| {
        let (engine, net) = ("shards/src/engine/", "shards/src/net/");
        let (engine, net) = (
            source.path.starts_with(engine),
            source.path.starts_with(net),
        );
        let wrong = (has_word(line, "io_uring") && !engine)
            || (has_word(line, "glommio") && !engine && !net);
        wrong.then(|| line.trim().to_owned())
    });
    expect_none("io_uring is the engine's, glommio the edge's", found);
}

/// `word` stands in `line` with nothing of a name around it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let behind = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !behind.is_some_and(part)
    })
}

#[test]
fn unsafe_code_lives_in_the_engine_and_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in sources() {
        for (number, line) in source.code_lines() {
            if !has_word(line, "unsafe") {
                continue;
            }
            let place = format!("{}:{number}", source.path);
            if !source.path.starts_with("shards/src/engine/") {
                found.push(format!("{place}: outside shards/src/engine"));
            } else if !source.explains_safety(number) {
                found.push(format!("{place}: no `// SAFETY:` above"));
            }
        }
    }
    expect_none("unsafe", found);
}

#[test]
fn exceptions_from_lints_carry_a_reason() {
    let mut found = Vec::new();
    for source in sources() {
        for kind in ["allow", "expect"] {
            for (number, attribute) in source.attributes(kind) {
                if !attribute.contains("reason = ") {
                    found.push(format!("{}:{number}: {attribute}", source.path));
                }
            }
        }
        for (number, line) in source.code_lines() {
            if line.trim() == "#[ignore]" {
                found.push(format!(
                    "{}:{number}: a test ignored for no reason",
                    source.path
                ));
            }
        }
    }
    expect_none("say why", found);
}

#[test]
fn nothing_is_unfinished_or_panics_in_passing() {
    let found = in_product(|_, line| {
        let hit = UNFINISHED.iter().find(|hit| line.contains(**hit))?;
        Some((*hit).to_owned())
    });
    expect_none("outside tests", found);
    let notes = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
    ];
    let mut left = Vec::new();
    for (path, text) in tracked() {
        for (number, line) in (1..).zip(text.lines()) {
            if notes.iter().any(|note| has_word(line, note)) {
                left.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    expect_none("notes to self do not reach main", left);
}

const UNFINISHED: &[&str] = &[
    ".unwrap()",
    ".unwrap_err()",
    "todo!",
    "unimplemented!",
    "dbg!",
    "eprint!(",
];

#[test]
fn no_paths_of_one_machine_are_left() {
    // In two pieces, so that this file is not its own first finding.
    let roots = [
        concat!("/wo", "rk"),
        concat!("/ro", "ot"),
        concat!("/ho", "me"),
    ];
    let mut found = Vec::new();
    for (path, text) in tracked() {
        for (number, line) in (1..).zip(text.lines()) {
            if roots.iter().any(|root| is_absolute_path(line, root)) {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    expect_none("paths of somebody's machine", found);
}

/// `root` stands in `line` as the beginning of a path.
fn is_absolute_path(line: &str, root: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    line.match_indices(root).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let behind = line[at + root.len()..].chars().next();
        let goes_on = behind.is_some_and(|c| c != '/' && part(c));
        !before.is_some_and(part) && !goes_on
    })
}

#[test]
fn packages_come_from_where_everybody_gets_them() {
    const INDEX: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let hosts = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("npmjs", ".org"),
        concat!("debian", ".org/"),
        concat!("ubuntu", ".com"),
        concat!("docker", ".io"),
        concat!("ghcr", ".io"),
    ];
    let mut found = Vec::new();
    for (path, text) in tracked() {
        for (number, line) in (1..).zip(text.lines()) {
            let lock = path.ends_with("Cargo.lock");
            let fine = lock && line == format!("source = \"{INDEX}\"");
            let source = lock && line.starts_with("source = ");
            let host = hosts.iter().any(|host| line.contains(host));
            let is_this_file = path == "tests/tidy/main.rs" && line.contains("INDEX");
            if (host || source) && !fine && !is_this_file {
                found.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    expect_none("hosts of registries", found);
}

#[test]
fn architecture_fits_on_a_few_pages() {
    let found = tracked()
        .iter()
        .filter(|(path, text)| path == "ARCHITECTURE.md" && text.lines().count() >= 200);
    expect_none(
        "200 lines or more",
        found.map(|(path, _)| path.clone()).collect(),
    );
}

#[test]
fn the_map_names_files_that_exist() {
    let files = tracked();
    let Some((_, map)) = files.iter().find(|(path, _)| path == "ARCHITECTURE.md") else {
        println!("skipped: there is no ARCHITECTURE.md");
        return;
    };
    let mut gone = Vec::new();
    for line in map.lines().filter(|line| line.starts_with("| `")) {
        let places = line.split('|').nth(1).unwrap();
        let mut folder = "";
        for place in places.split('`').skip(1).step_by(2) {
            let place = place.trim_end_matches('/');
            // The first place of a row has the folder of those that follow.
            let wanted = match place.rfind('/') {
                Some(at) => {
                    folder = &place[..=at];
                    place.to_owned()
                }
                None => format!("{folder}{place}"),
            };
            let is_there = files.iter().any(|(path, _)| {
                path.strip_prefix(&wanted)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            });
            if !is_there {
                gone.push(wanted);
            }
        }
    }
    expect_none("ARCHITECTURE.md names what is not there", gone);
}
