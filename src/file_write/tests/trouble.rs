//! Full disks, refused permission and kills: the old or the new file is there, whole.
//!
//! What only a process of its own can suffer is done by this test binary once more: it is told to
//! run one test, which is ignored otherwise, on the file that [`FILE`] names.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use super::*;

/// Names the file that a child is to replace.
const FILE: &str = "PINNACE_TEST_FILE";

fn child(test: &str, path: &Path) -> Command {
    let exe = std::env::current_exe().unwrap();
    run(Command::new(exe), test, path)
}

fn run(mut command: Command, test: &str, path: &Path) -> Command {
    let name = format!("file_write::tests::trouble::{test}");
    command
        .args([&name, "--exact", "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdin(Stdio::null());
    command
}

/// Runs a child to its end; what it printed.
fn output(mut command: Command) -> String {
    // Other tests start processes too, and one that is just being made holds whatever was open for
    // writing, such as a copy of this program.
    let output = std::iter::repeat_with(|| command.output())
        .find(|output| !matches!(output, Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy))
        .expect("it does not end before")
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let more = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{more}");
    assert!(said.contains("1 passed"), "{said}");
    said
}

fn named_file() -> PathBuf {
    PathBuf::from(std::env::var_os(FILE).unwrap())
}

/// Nothing but the old file, whole.
fn expect_old(path: &Path, old: &[u8]) {
    assert_eq!(fs::read(path).unwrap(), old);
    let dir = path.parent().unwrap();
    assert_eq!(names(dir), [path.file_name().unwrap().to_str().unwrap()]);
}

/// A file that is too large for what is left: the limit of a process stands in for the disk's.
#[test]
#[ignore = "child of another test"]
fn child_has_no_room() {
    let path = named_file();
    let error = replace(&path, b"old", &[b'x'; 100_000]).unwrap_err();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert_eq!(error.reason(), "its file system is full");
    expect_old(&path, b"old");
}

#[test]
fn limit_of_file_sizes_leaves_the_old_file() {
    let (_dir, path) = file("old");
    let mut shell = Command::new("sh");
    // Ignored, the signal becomes an error of the write.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    shell
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap());
    output(run(shell, "child_has_no_room", &path));
    expect_old(&path, b"old");
}

/// A file system of this size, for as long as it lives; `None` where nobody may mount.
struct Tiny(tempfile::TempDir);

impl Tiny {
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path());
        let mounted = mount.stderr(Stdio::null()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: no file system can be mounted here");
            return None;
        }
        Some(Self(dir))
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        mount
            .args(["-o", &format!("remount,{options}")])
            .arg(self.0.path());
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn full_disk_leaves_the_old_file() {
    let Some(disk) = Tiny::mount("size=64k,nr_inodes=8") else {
        return;
    };
    let path = disk.0.path().join("config.toml");
    fs::write(&path, "old").unwrap();
    let error = replace(&path, b"old", &[b'x'; 100_000]).unwrap_err();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    expect_old(&path, b"old");
    // No number for another file.
    let more: Vec<PathBuf> = (0..)
        .map(|n| disk.0.path().join(format!("{n}")))
        .take(20)
        .collect();
    let made = more
        .iter()
        .take_while(|path| fs::write(path, "").is_ok())
        .count();
    let error = replace(&path, b"old", b"new").unwrap_err();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
    more.iter()
        .take(made)
        .for_each(|path| fs::remove_file(path).unwrap());
    expect_old(&path, b"old");
    assert_eq!(replace(&path, b"old", b"new").unwrap(), Replaced::Done);
    expect_old(&path, b"new");
}

#[test]
fn read_only_file_system_leaves_the_old_file() {
    let Some(disk) = Tiny::mount("size=64k") else {
        return;
    };
    let path = disk.0.path().join("config.toml");
    fs::write(&path, "old").unwrap();
    disk.remount("ro");
    let error = replace(&path, b"old", b"new").unwrap_err();
    assert!(matches!(error, WriteError::Directory { .. }), "{error}");
    expect_old(&path, b"old");
}

#[test]
#[ignore = "child of another test"]
fn child_may_not_write() {
    let path = named_file();
    let error = replace(&path, b"old", b"new").unwrap_err();
    assert!(matches!(error, WriteError::Directory { .. }), "{error}");
    assert!(error.to_string().contains("make the directory writable"));
    println!("refused: {error}");
}

#[test]
#[ignore = "child of another test"]
fn child_owns_the_directory_only() {
    assert_eq!(
        replace(&named_file(), b"old", b"new").unwrap(),
        Replaced::Done
    );
}

/// As nobody, who has no right that the files do not give.
fn as_nobody(test: &str, path: &Path) -> Option<Command> {
    let dir = path.parent().unwrap();
    if std::os::unix::fs::chown(dir, Some(NOBODY), Some(NOBODY)).is_err() {
        println!("skipped: only root gives files away");
        return None;
    }
    // The test binary may be where nobody else gets.
    let exe = dir.parent().unwrap().join("test-binary");
    fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    fs::set_permissions(&exe, Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(exe.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let mut command = run(Command::new(exe), test, path);
    command.uid(NOBODY).gid(NOBODY).current_dir("/");
    Some(command)
}

fn inner_file(mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("config.toml");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn directory_without_permission_leaves_the_old_file() {
    let (_dir, path) = inner_file(0o666);
    let Some(command) = as_nobody("child_may_not_write", &path) else {
        return;
    };
    fs::set_permissions(path.parent().unwrap(), Permissions::from_mode(0o555)).unwrap();
    let said = output(command);
    assert!(said.contains("refused: cannot create a file in"), "{said}");
    expect_old(&path, b"old");
}

#[test]
fn owner_that_may_not_be_kept_is_given_up_and_the_mode_is_not() {
    // Root's file in nobody's directory: readable for everybody, and so is the new one.
    let (_dir, path) = inner_file(0o644);
    let Some(command) = as_nobody("child_owns_the_directory_only", &path) else {
        return;
    };
    output(command);
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (NOBODY, 0o644));
    expect_old(&path, b"new");
}

/// Replaces the file until it is killed.
#[test]
#[ignore = "child of another test"]
fn child_replaces_on_and_on() {
    let path = named_file();
    let texts = TEXTS.map(|byte| vec![byte; TEXT_BYTES]);
    for (old, new) in [(0, 1), (1, 0)].into_iter().cycle() {
        match replace(&path, &texts[old], &texts[new]).unwrap() {
            Replaced::Done => {}
            // The parent has begun with the other one.
            Replaced::Changed => continue,
        }
    }
}

#[test]
fn kill_at_any_point_leaves_one_of_both() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, vec![TEXTS[0]; TEXT_BYTES]).unwrap();
    let texts = TEXTS.map(|byte| vec![byte; TEXT_BYTES]);
    let mut seen = [0, 0];
    let mut left_behind = 0;
    for round in 0..25_u64 {
        let mut writer = child("child_replaces_on_and_on", &path);
        let mut writer: Child = writer
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Until it is at work, then a little longer each time.
        let inode = fs::metadata(&path).unwrap().ino();
        let limit = std::time::Instant::now() + Duration::from_secs(30);
        while fs::metadata(&path).unwrap().ino() == inode {
            assert!(std::time::Instant::now() < limit, "nothing is written");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 397 % 5000));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let bytes = fs::read(&path).unwrap();
        let which = texts.iter().position(|text| *text == bytes);
        seen[which.expect("the old or the new file, whole")] += 1;
        left_behind += names(dir.path()).len() - 1;
        clean(&path);
        expect_old(&path, &bytes);
    }
    println!("{seen:?}, {left_behind} left behind");
}

const NOBODY: u32 = 65_534;
const TEXTS: [u8; 2] = [b'a', b'b'];
const TEXT_BYTES: usize = 300_000;
