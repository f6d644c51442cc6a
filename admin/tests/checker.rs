//! The contract's own checker, later additions included, against canned answers.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{path::Path, process::Command, thread};

use admin::ApiSettings;
use support::Server;

/// Runs `check.py`; nothing may fail, nothing may be warned of.
fn check(server: &Server, auth: &str) {
    let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/contract/check.py");
    if !checker.is_file() {
        println!("skipped: the contract's checker is not beside this checkout");
        return;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: the contract's checker wants python3");
        return;
    }
    let mut command = Command::new("python3");
    command.arg(checker).args(["--mutate", "--strict"]).args([
        "--require-later",
        "--base",
        &format!("http://{}", server.addr()),
    ]);
    if !auth.is_empty() {
        command.args(["--auth", auth]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let bad: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("FAIL") || line.starts_with("WARN"))
        .collect();
    assert!(
        output.status.success() && bad.is_empty(),
        "{bad:#?}\n{output:?}"
    );
    assert!(said.trim_end().ends_with(" passed, 0 failed"), "{said}");
}

#[test]
fn the_contract_is_met_in_every_setting() {
    thread::scope(|scope| {
        for (read_only, auth, edge) in [
            (false, "", true),
            (false, "Bearer aB c", true),
            (true, "", false),
            (true, "Bearer aB c", true),
        ] {
            scope.spawn(move || {
                let settings = ApiSettings {
                    read_only,
                    auth_header: auth.to_owned(),
                    runtime_edge_enabled: edge,
                    minimal_runtime_enabled: edge,
                    whitelist: vec!["127.0.0.1/32".parse().unwrap()],
                    ..ApiSettings::default()
                };
                check(&Server::start(settings).applying(), auth);
            });
        }
    });
}

#[test]
fn the_last_user_stays() {
    let server = Server::start(ApiSettings::default());
    server.store.keep("alice");
    check(&server.applying(), "");
}
