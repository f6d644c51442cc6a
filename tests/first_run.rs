//! A person's first minutes: no configuration, a second start, a wrong path, and the answers of the
//! other commands. What `check` and `links` say in detail is in `config_files.rs`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Output, Stdio},
};

use shards::proto::secret::{LinkSecret, ProxyLink};

use support::{
    api,
    process::{pinnace, read_log, spawn, wait},
    wait_until,
};

/// The fixed ports of a first run; nobody else on this machine may have them meanwhile.
const PORT: u16 = 8443;
const API: ([u8; 4], u16) = ([127, 0, 0, 1], 9091);

/// A child that is killed when the test ends early.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Only a process that has ended already cannot be killed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for_ports() {
    wait_until("ports 8443 and 9091 of this machine are free", || {
        let free = |addr: SocketAddr| TcpListener::bind(addr).is_ok();
        (free(([0, 0, 0, 0], PORT).into()) && free(API.into())).then_some(())
    });
}

/// Starts without a file name and waits until it serves; the links it has printed.
fn start(dir: &Path) -> (Running, Vec<String>) {
    let before = read_log(dir).len();
    let mut command = pinnace();
    command.args(["--no-probe", "--shards", "1"]);
    let mut child = Running(spawn(command, dir));
    let links = wait_until("it serves", || {
        assert!(child.0.try_wait().unwrap().is_none(), "{}", read_log(dir));
        let log = read_log(dir).split_off(before);
        let links: Vec<String> = log
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("tg://")
                    .map(|_| line.trim().to_owned())
            })
            .collect();
        let whole = log.ends_with('\n') && !links.is_empty();
        whole.then_some(links)
    });
    (child, links)
}

fn stop(mut child: Running, dir: &tempfile::TempDir) {
    let pid = child.0.id().to_string();
    let done = std::process::Command::new("sh")
        .args(["-c", &format!("kill -TERM {pid}")])
        .status();
    assert!(done.unwrap().success());
    assert_eq!(wait(&mut child.0, dir).code(), Some(0));
}

#[test]
fn without_a_configuration_it_writes_one_and_serves() {
    wait_for_ports();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let (child, links) = start(dir.path());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let said = read_log(dir.path());
    for part in [
        "config.toml (just written: one user, fresh secret)",
        "kernel        Linux ",
        "io_uring operations",
        "locked memory ",
        "open files    ",
        "shards        1 on cores ",
        "listening on  0.0.0.0:8443",
        "control API   http://127.0.0.1:9091/v1 for 127.0.0.0/8",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let [link] = &links[..] else {
        unreachable!("one user, one link: {links:?}")
    };
    let parsed = ProxyLink::parse(link).unwrap();
    assert_eq!(parsed.port, PORT);
    let LinkSecret::Tls { secret, .. } = &parsed.secret else {
        unreachable!("FakeTLS: {link}")
    };
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(&hex::encode(secret.0)));
    let (status, answer) = api::ask(API.into(), "/v1/users/me").unwrap();
    assert_eq!(
        (status, &answer["data"]["links"]["tls"][0]),
        (200, &link.clone().into())
    );
    stop(child, &dir);

    // The second start changes nothing and offers the same link.
    wait_for_ports();
    let (child, again) = start(dir.path());
    assert_eq!(again, links);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(read_log(dir.path()).matches("just written").count(), 1);
    stop(child, &dir);
    check_commands(dir.path(), &links[0]);
}

/// The other commands on the file that was just written.
fn check_commands(dir: &Path, link: &str) {
    let output = run(dir, &["check", "config.toml"]);
    assert_eq!(
        said(&output),
        (Some(0), "config.toml: usable, 1 user\n".into())
    );
    let output = run(dir, &["links", "config.toml"]);
    assert_eq!(said(&output), (Some(0), format!("me\n  {link}\n")));
    let output = run(dir, &["links", "config.toml", "me"]);
    assert_eq!(said(&output), (Some(0), format!("me\n  {link}\n")));
}

fn run(dir: &Path, args: &[&str]) -> Output {
    pinnace()
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output.status.code(), text)
}

#[test]
fn secrets_of_two_first_runs_differ_and_links_need_no_server() {
    // The file is written before anything can go wrong with ports.
    let secret = || {
        let dir = tempfile::tempdir().unwrap();
        let output = run(dir.path(), &["--no-probe", "--cores", "4095"]);
        assert_eq!(output.status.code(), Some(3));
        let text = std::fs::read_to_string(dir.path().join("config.toml")).unwrap();
        let line = text.lines().find(|line| line.starts_with("me = ")).unwrap();
        line[..40].to_owned()
    };
    assert_ne!(secret(), secret());
}

#[test]
fn the_version_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["--version", "-V"] {
        let output = run(dir.path(), &[flag]);
        let version = concat!("pinnace ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(said(&output), (Some(0), version.into()));
    }
}

#[test]
fn a_path_that_does_not_exist_lists_what_was_tried() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["gone.toml"][..],
        &["run", "gone.toml"],
        &["--no-probe", "gone.toml"],
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let tried = dir.path().canonicalize().unwrap().join("gone.toml");
        assert!(
            text.contains(&format!("tried {}", tried.display())),
            "{text}"
        );
        for usual in [
            "config.toml",
            "telemt.toml",
            "/etc/telemt/config.toml",
            "/etc/pinnace/config.toml",
        ] {
            assert!(text.contains(usual), "{usual} in {text}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn exit_codes_tell_causes_apart() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let users = "[access.users]\nalice = \"3f1c0e5ab2d94c7786f0a1b2c3d4e5f6\"\n";
    file("broken.toml", "server = [");
    file("wrong.toml", &format!("[server]\nport = \"x\"\n{users}"));
    file(
        "zero.toml",
        "[access.users]\nalice = \"00000000000000000000000000000000\"\n",
    );
    file(
        "deaf.toml",
        &format!("[server]\nlisten_tcp = false\n{users}"),
    );
    let cases: [(&[&str], i32); 9] = [
        (&["check", "broken.toml"], 1),
        (&["check", "wrong.toml"], 1),
        (&["check", "zero.toml"], 1),
        (&["check", "gone.toml"], 1),
        (&["wrong.toml"], 1),
        (&["zero.toml"], 1),
        (&["--no-such-flag"], 2),
        (&["deaf.toml"], 3),
        (&["--data-path", "relative", "wrong.toml"], 1),
    ];
    for (args, code) in cases {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        assert!(!output.stderr.is_empty() || args[0] == "check", "{args:?}");
    }
}
