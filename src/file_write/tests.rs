//! Files replaced in peace and under trouble.

mod trouble;

use std::os::unix::fs::symlink;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn replaces_the_file_and_keeps_its_mode() {
    let (dir, path) = file("old");
    for mode in [0o600, 0o640, 0o444] {
        fs::write(dir.path().join("x"), "old").unwrap();
        fs::rename(dir.path().join("x"), &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(replace(&path, b"old", b"new").unwrap(), Replaced::Done);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(meta.mode() & 0o7777, mode);
        assert_ne!(meta.ino(), inode);
        assert_eq!(names(dir.path()), ["config.toml"]);
    }
}

#[test]
fn puts_a_file_where_there_was_none_and_over_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache/file");
    for text in ["first", "second"] {
        put(&path, text.as_bytes()).unwrap();
        assert_eq!(read_bounded(&path, 6).unwrap(), text.as_bytes());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(names(path.parent().unwrap()), ["file"]);
    }
    let error = read_bounded(&path, 5).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    fs::write(dir.path().join("plain"), "").unwrap();
    assert!(put(&dir.path().join("plain/file"), b"x").is_err());
}

#[test]
fn keeps_owner_and_group_where_it_may() {
    let (_dir, path) = file("old");
    if std::os::unix::fs::chown(&path, Some(12), Some(34)).is_err() {
        return;
    }
    replace(&path, b"old", b"new").unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (12, 34));
}

#[test]
fn replaces_what_a_link_leads_to() {
    let (dir, path) = file("old");
    let link = dir.path().join("link");
    symlink("config.toml", &link).unwrap();
    replace(&link, b"old", b"new").unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn somebody_elses_file_stays() {
    let (dir, path) = file("theirs");
    let replaced = replace(&path, b"old", b"new").unwrap();
    assert_eq!(replaced, Replaced::Changed);
    // As if it had changed since it was read: in place, and by another file.
    let new = || {
        let mut new = NamedTempFile::new_in(dir.path()).unwrap();
        new.write_all(b"new").unwrap();
        new
    };
    let mut seen = read(&path).unwrap();
    seen.bytes = b"old".to_vec();
    assert_eq!(trade(new(), &path, &seen).unwrap(), Replaced::Changed);
    seen.stamp.inode += 1;
    assert_eq!(trade(new(), &path, &seen).unwrap(), Replaced::Changed);
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    assert_eq!(names(dir.path()), ["config.toml"]);
}

#[test]
fn writers_that_look_and_trade_lose_nothing() {
    // Each adds its lines to what is there, over and over, as a quick editor would.
    let (dir, path) = file("");
    let add = |name: usize| {
        for line in 0..50 {
            loop {
                let old = read(&path).unwrap().bytes;
                let mut new = old.clone();
                writeln!(new, "{name}-{line}").unwrap();
                match replace(&path, &old, &new) {
                    Ok(Replaced::Done) => {
                        std::thread::sleep(Duration::from_millis(2));
                        break;
                    }
                    Ok(Replaced::Changed) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for name in 0..3 {
            scope.spawn(move || add(name));
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 150, "{text}");
    assert_eq!(names(dir.path()), ["config.toml"]);
}

#[test]
fn says_why_nothing_could_be_written() {
    let (dir, path) = file("old");
    // Not even root makes files there.
    let refused = replace(Path::new("/proc/self/comm"), b"", b"x").unwrap_err();
    assert!(matches!(refused, WriteError::Directory { .. }), "{refused}");
    assert!(refused.to_string().contains("make the directory writable"));
    let gone = replace(&dir.path().join("gone"), b"", b"x").unwrap_err();
    assert!(matches!(gone, WriteError::Other { step: "find", .. }));
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_stamp_holds_only_when_a_change_would_show() {
    let (_dir, path) = file("old");
    let fresh = read(&path).unwrap().stamp;
    assert!(!fresh.holds(&Stamp::of(&path).unwrap()));
    std::thread::sleep(SETTLE + Duration::from_millis(50));
    let settled = read(&path).unwrap().stamp;
    assert!(settled.holds(&Stamp::of(&path).unwrap()));
    fs::write(&path, "new").unwrap();
    assert!(!settled.holds(&Stamp::of(&path).unwrap()));
}

#[test]
fn cleans_up_only_after_dead_writers() {
    let (dir, path) = file("x");
    let own = std::process::id();
    let parent = std::os::unix::process::parent_id();
    let dead = 4_194_305; // More than the kernel's largest.
    let kept = [
        format!(".config.toml.pinnace-{parent}-abcdefghijkl.tmp"),
        format!(".other.toml.pinnace-{dead}-abcdefghijkl.tmp"),
        format!(".config.toml.pinnace-{dead}-abcdefgh.tmp"),
        "config.toml.tmp".to_owned(),
        ".config.toml.swp".to_owned(),
    ];
    let gone = [
        format!(".config.toml.pinnace-{dead}-abcdefghijkl.tmp"),
        format!(".config.toml.pinnace-{own}-abcdefghijkl.tmp"),
    ];
    for name in kept.iter().chain(&gone) {
        fs::write(dir.path().join(name), "").unwrap();
    }
    clean(&path);
    let mut expected: Vec<&str> = kept.iter().map(String::as_str).collect();
    expected.push("config.toml");
    expected.sort_unstable();
    assert_eq!(names(dir.path()), expected);
}
