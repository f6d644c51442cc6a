//! Configuration files through the built binary: the shipped example, the guide's examples, and
//! what `check`, `links` and the command line answer.

use std::{
    path::Path,
    process::{Command, Output},
};

const SECRET: &str = "3f1c0e5ab2d94c7786f0a1b2c3d4e5f6";

fn pinnace(dir: &Path, args: &[&str]) -> Output {
    let binary = env!("CARGO_BIN_EXE_pinnace");
    Command::new(binary)
        .args(args)
        .current_dir(dir)
        .env_remove("RUST_LOG")
        .output()
        .expect("the binary runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn check(text: &str) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("config.toml"), text).expect("writable");
    let output = pinnace(dir.path(), &["check", "config.toml"]);
    (output.status.code(), stdout(&output))
}

#[test]
fn the_shipped_example_loads_without_a_word() {
    let (code, said) = check(include_str!("../config.example.toml"));
    assert_eq!(
        (code, said.as_str()),
        (Some(0), "config.toml: usable, 1 user\n")
    );
}

#[test]
fn the_shipped_example_names_every_key_in_effect() {
    let example = include_str!("../config.example.toml");
    let output = pinnace(Path::new("."), &["keys"]);
    let keys = stdout(&output);
    let mut lines = keys.lines();
    while let (Some(head), Some(when), Some(doc)) = (lines.next(), lines.next(), lines.next()) {
        let name = head.split(':').next().unwrap();
        let key = name.rsplit('.').next().unwrap();
        // Older names are not advertised.
        let old = name == "show_link" || doc.contains("Deprecated") || doc.contains("Older name");
        let word = |line: &str| {
            line.split([' ', '(', '[', ']', '.'])
                .any(|word| word == key)
        };
        if !when.contains(';') && !old {
            assert!(
                example.lines().any(word),
                "config.example.toml does not mention {name}"
            );
        }
    }
}

#[test]
fn the_guides_examples_load() {
    for (text, users) in [
        (include_str!("vectors/config_direct.toml"), 1),
        (include_str!("vectors/config_middle.toml"), 2),
        (include_str!("vectors/config_balancer.toml"), 2),
    ] {
        let (code, said) = check(text);
        let plural = if users == 1 { "" } else { "s" };
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.ends_with(&format!("config.toml: usable, {users} user{plural}\n")),
            "{said}"
        );
        assert!(!said.contains("not a known key"), "{said}");
    }
}

#[test]
fn check_prints_everything_and_fails() {
    let text = format!(
        "[server]\nport = \"443\"\nprot = 1\n[general]\nlog_level = \"info\"\nntp_check = true\n\
         [access.users]\nalice = \"ee{SECRET}612e696f\"\n"
    );
    let (code, said) = check(&text);
    assert_eq!(code, Some(1));
    for line in [
        "3 errors",
        "config.toml:2:8: server.port = \"443\" is a string; expected a whole number 0 to 65535 \
         (remove the quotes)",
        "config.toml:5:13: general.log_level = \"info\" is not one of debug, verbose, normal, \
         silent; did you mean \"normal\"?",
        "config.toml:8:9: access.users.alice has 42 characters and starts with \"ee\"; expected \
         32 hex digits (drop the ee prefix and the domain part)",
        "config.toml:3:1: server.prot is not a known key; did you mean server.port?",
        "config.toml:6:1: general.ntp_check is accepted for compatibility and does nothing",
        "config.toml: not usable",
    ] {
        assert!(said.lines().any(|own| own == line), "{line}\n--\n{said}");
    }
    assert!(!said.contains(SECRET));
}

#[test]
fn a_file_for_unknown_dcs_needs_a_directory_that_is_there() {
    let named = |path: &str| {
        format!(
            "[general]\nunknown_dc_file_log_enabled = true\nunknown_dc_log_path = \"{path}\"\n\
             [access.users]\nalice = \"{SECRET}\"\n"
        )
    };
    for (path, what) in [
        ("../dcs.txt", "has \"..\" in it"),
        ("/nowhere/dcs.txt", "is in a directory that does not exist"),
        (" ", "is blank"),
    ] {
        let (code, said) = check(&named(path));
        assert_eq!(code, Some(1), "{said}");
        let start = "config.toml:3:23: general.unknown_dc_log_path = ";
        let told = |line: &str| line.starts_with(start) && line.contains(what);
        assert!(said.lines().any(told), "{said}");
    }
    assert_eq!(check(&named("dcs.txt")).0, Some(0));
    // Where a relative path leads is known at the start.
    let dir = tempfile::tempdir().expect("a directory");
    let text = named("missing/dcs.txt");
    std::fs::write(dir.path().join("config.toml"), text).expect("writable");
    let output = pinnace(dir.path(), &["config.toml"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let want =
        "config.toml:3:23: general.unknown_dc_log_path = \"missing/dcs.txt\" cannot be written";
    assert!(said.contains(want), "{said}");
}

#[test]
fn links_are_printed_for_all_or_one() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[general.links]\npublic_host = \"h\"\n[censorship]\ntls_domain = \"a.io\"\n\
         [access.users]\nalice = \"{SECRET}\"\nbob = \"00112233445566778899aabbccddeeff\"\n"
    );
    std::fs::write(dir.path().join("c.toml"), text).unwrap();
    let alice = format!("alice\n  tg://proxy?server=h&port=443&secret=ee{SECRET}612e696f\n");
    assert_eq!(
        stdout(&pinnace(dir.path(), &["links", "c.toml", "alice"])),
        alice
    );
    let all = stdout(&pinnace(dir.path(), &["links", "c.toml"]));
    assert!(
        all.starts_with(&alice) && all.contains("\nbob\n  tg://"),
        "{all}"
    );
    assert!(stdout(&pinnace(dir.path(), &["links", "c.toml", "bob", "--qr"])).contains('█'));
    assert_eq!(
        pinnace(dir.path(), &["links", "c.toml", "eve"])
            .status
            .code(),
        Some(2)
    );
}

#[test]
fn a_missing_file_or_unknown_flag_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let output = pinnace(dir.path(), &["run", "gone.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("gone.toml") && said.contains("/etc/telemt/telemt.toml"),
        "{said}"
    );
    assert!(!dir.path().join("config.toml").exists());
    for args in [&["--daemon"][..], &["--shards", "0"], &["stop"], &["check"]] {
        let output = pinnace(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!stderr(&output).is_empty());
    }
    let help = stdout(&pinnace(dir.path(), &["--help"]));
    assert!(
        help.contains("Exit codes: 0") && help.contains("config.toml"),
        "{help}"
    );
}
