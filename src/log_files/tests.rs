//! Names, rotation and retention of log files, in virtual time.

use std::collections::BTreeMap;

use super::*;

fn plan(dir: &Path) -> Plan {
    Plan {
        dir: dir.to_owned(),
        prefix: "own.log".to_owned(),
        rotation: LogRotation::Never,
        bytes_max: 0,
        files_max: 0,
        age_max: Duration::ZERO,
    }
}

fn at(text: &str) -> SystemTime {
    text.parse::<Timestamp>().expect("a moment").into()
}

/// Content by name.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name");
        (name, fs::read_to_string(entry.path()).unwrap_or_default())
    });
    entries.collect()
}

fn named(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
    rows.iter().map(own).collect()
}

#[test]
fn a_line_that_would_exceed_the_size_begins_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, now) = (dir.path(), SystemTime::now());
    let sized = Plan {
        bytes_max: 8,
        ..plan(path)
    };
    let mut log = LogFiles::open(sized.clone(), now).unwrap();
    for line in ["one\n", "two\n", "three\n", "longer than allowed\n"] {
        log.put(line.as_bytes(), now).unwrap();
    }
    // A new process goes on where the last one ended.
    let mut log = LogFiles::open(sized, now).unwrap();
    log.put(b"five\n", now).unwrap();
    let want = [
        ("own.log", "five\n"),
        ("own.log.1", "one\ntwo\n"),
        ("own.log.2", "three\n"),
        ("own.log.3", "longer than allowed\n"),
    ];
    assert_eq!(files(path), named(&want));
}

#[test]
fn periods_begin_files_and_full_ones_get_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let daily = Plan {
        rotation: LogRotation::Daily,
        bytes_max: 4,
        ..plan(path)
    };
    let mut log = LogFiles::open(daily, at("2026-11-23T23:59:58Z")).unwrap();
    log.put(b"one\n", at("2026-11-23T23:59:58Z")).unwrap();
    log.put(b"two\n", at("2026-11-23T23:59:59Z")).unwrap();
    log.put(b"3\n", at("2026-11-24T00:00:00Z")).unwrap();
    let want = [
        ("own.log.2026-11-23", "two\n"),
        ("own.log.2026-11-23.1", "one\n"),
        ("own.log.2026-11-24", "3\n"),
    ];
    assert_eq!(files(path), named(&want));
}

#[test]
fn files_are_named_after_the_beginning_of_their_period() {
    for (rotation, name, until) in [
        (
            LogRotation::Minutely,
            "own.log.2026-11-25-13-07",
            "2026-11-25T13:08:00Z",
        ),
        (
            LogRotation::Hourly,
            "own.log.2026-11-25-13",
            "2026-11-25T14:00:00Z",
        ),
        (
            LogRotation::Daily,
            "own.log.2026-11-25",
            "2026-11-26T00:00:00Z",
        ),
        (
            LogRotation::Weekly,
            "own.log.2026-11-22",
            "2026-11-29T00:00:00Z",
        ),
    ] {
        let plan = Plan {
            rotation,
            ..plan(Path::new("/"))
        };
        let active = plan.active(at("2026-11-25T13:07:09Z"));
        assert_eq!(active, (name.to_owned(), Some(at(until))));
    }
}

#[test]
fn a_rotation_that_fails_goes_on_in_the_old_file_and_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, now) = (dir.path(), SystemTime::now());
    fs::write(path.join("target"), "").unwrap();
    std::os::unix::fs::symlink("target", path.join("own.log")).unwrap();
    let sized = Plan {
        bytes_max: 4,
        ..plan(path)
    };
    let mut log = LogFiles::open(sized, now).unwrap();
    for line in ["one\n", "two\n", "three\n"] {
        log.put(line.as_bytes(), now).unwrap();
    }
    assert_eq!(files(path)["target"], "one\ntwo\nthree\n");
    assert!(log.told.contains(NO_NEW_FILE));
    fs::remove_file(path.join("own.log")).unwrap();
    fs::rename(path.join("target"), path.join("own.log")).unwrap();
    log.put(b"four\n", now + RETRY_AFTER / 2).unwrap();
    log.put(b"five\n", now + RETRY_AFTER).unwrap();
    let want = [
        ("own.log", "five\n"),
        ("own.log.1", "one\ntwo\nthree\nfour\n"),
    ];
    assert_eq!(files(path), named(&want));
    assert!(log.told.is_empty());
}

#[test]
fn links_lead_to_the_file_that_is_rotated_and_stay() {
    let dir = tempfile::tempdir().unwrap();
    let link = |to: &str, from: &str| std::os::unix::fs::symlink(to, dir.path().join(from));
    let behind = |name: &str| behind_links(&dir.path().join(name));
    link("two", "one").unwrap();
    link("store/target", "two").unwrap();
    let target = dir.path().join("store/target");
    // Before there is such a file, and then.
    assert_eq!(behind("one"), target);
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(&target, "old\n").unwrap();
    assert_eq!(behind("one"), target.canonicalize().unwrap());
    let sized = Plan {
        bytes_max: 4,
        prefix: "target".to_owned(),
        ..plan(&dir.path().join("store"))
    };
    let mut log = LogFiles::open(sized, SystemTime::now()).unwrap();
    log.put(b"new\n", SystemTime::now()).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("one")).unwrap(), "new\n");
    // What is no file is none behind a link either, and a circle is told when it is opened.
    link("/dev/null", "none").unwrap();
    link("round", "round").unwrap();
    for name in ["none", "round", "not there", "not/there"] {
        assert_eq!(behind(name), dir.path().join(name));
    }
    assert!(open_file(&behind("round"), NEW_MODE).is_err());
}

#[test]
fn a_new_file_that_cannot_be_leaves_the_old_one_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let hourly = Plan {
        rotation: LogRotation::Hourly,
        ..plan(path)
    };
    let mut log = LogFiles::open(hourly, at("2026-11-23T10:00:00Z")).unwrap();
    // In the way of the next one.
    fs::create_dir(path.join("own.log.2026-11-23-11")).unwrap();
    log.put(b"one\n", at("2026-11-23T11:00:00Z")).unwrap();
    log.put(b"two\n", at("2026-11-23T12:00:00Z")).unwrap();
    let found = files(path);
    assert_eq!(found["own.log.2026-11-23-10"], "one\n");
    assert_eq!(found["own.log.2026-11-23-12"], "two\n");
}

#[test]
fn a_file_moved_or_cut_short_by_others_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let (path, now) = (dir.path(), SystemTime::now());
    let sized = Plan {
        bytes_max: 8,
        ..plan(path)
    };
    let mut log = LogFiles::open(sized, now).unwrap();
    log.put(b"1234567\n", now).unwrap();
    File::create(path.join("own.log")).unwrap();
    log.put(b"two\n", now).unwrap();
    assert_eq!(files(path), named(&[("own.log", "two\n")]));
    fs::rename(path.join("own.log"), path.join("moved")).unwrap();
    log.put(b"three\n", now).unwrap();
    let want = [("moved", "two\n"), ("own.log", "three\n")];
    assert_eq!(files(path), named(&want));
}

#[test]
fn only_the_newest_files_of_this_log_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (path, now) = (dir.path(), SystemTime::now());
    let foreign = [
        "own.log.bak",
        "own.logs.1",
        "own.log.1.gz",
        "own.log.01",
        "other.log.1",
    ];
    for name in foreign {
        fs::write(path.join(name), name).unwrap();
    }
    fs::create_dir(path.join("own.log.7")).unwrap();
    let few = Plan {
        bytes_max: 1,
        files_max: 3,
        ..plan(path)
    };
    let mut log = LogFiles::open(few, now).unwrap();
    for line in ["1\n", "2\n", "3\n", "4\n", "5\n"] {
        log.put(line.as_bytes(), now).unwrap();
    }
    let mut want = named(&[
        ("own.log", "5\n"),
        ("own.log.11", "4\n"),
        ("own.log.10", "3\n"),
        ("own.log.7", ""),
    ]);
    want.extend(foreign.map(|name| (name.to_owned(), name.to_owned())));
    assert_eq!(files(path), want);
}

#[test]
fn files_older_than_allowed_are_deleted_the_active_one_never() {
    let dir = tempfile::tempdir().unwrap();
    let (path, now) = (dir.path(), SystemTime::now());
    let aged = |name: &str, secs: u64| {
        let file = File::create(path.join(name)).unwrap();
        file.set_modified(now - Duration::from_secs(secs)).unwrap();
    };
    for (name, secs) in [
        ("own.log", 500),
        ("own.log.1", 101),
        ("own.log.2", 99),
        ("own.log.2026-01-02", 101),
        ("own.log.2026-01-02-03-04.5", 101),
        ("own.log.txt", 500),
    ] {
        aged(name, secs);
    }
    let young = Plan {
        age_max: Duration::from_secs(100),
        ..plan(path)
    };
    let mut log = LogFiles::open(young, now).unwrap();
    let left: Vec<String> = files(path).into_keys().collect();
    assert_eq!(left, ["own.log", "own.log.2", "own.log.txt"]);
    log.prune(now + Duration::from_secs(2));
    let left: Vec<String> = files(path).into_keys().collect();
    assert_eq!(left, ["own.log", "own.log.txt"]);
}
