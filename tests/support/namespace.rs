//! Tests that change the firewall: each runs as a child in a network of its own, which has nothing
//! but a loopback.

use std::{env, fs, process::Command};

use super::servers::find;

/// Runs the ignored test `test` of this binary in a network of its own.
///
/// Needs root and all of `programs`; without them this is said in one line and nothing is run,
/// unless `PINNACE_NEED_SERVERS` is set.
pub(crate) fn alone(test: &str, programs: &[&str]) {
    let missing = programs.iter().any(|program| find(program).is_none());
    let (unshare, ip) = (find("unshare"), find("ip"));
    let (Some(unshare), Some(ip), false) = (unshare, ip, missing) else {
        return;
    };
    if !is_root() {
        assert!(
            env::var_os("PINNACE_NEED_SERVERS").is_none(),
            "only root has networks of its own, and PINNACE_NEED_SERVERS is set"
        );
        println!("skipped: only root has networks of its own");
        return;
    }
    let script = format!("{} link set lo up && exec \"$@\"", ip.display());
    let path = env::var("PATH").unwrap_or_default();
    let output = Command::new(unshare)
        .args(["-n", "sh", "-c", &script, "sh"])
        .arg(env::current_exe().expect("a binary"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .expect("a child");
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ran = output.status.success() && text.contains("1 passed");
    assert!(ran, "{test} in a network of its own:\n{text}\n{complaints}");
}

/// This process has all rights.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// What a program prints on success; `None` when it fails.
pub(crate) fn says(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

/// Our table as nft lists it; `None` when there is none.
pub(crate) fn table() -> Option<String> {
    says("nft", &["list", "table", "inet", "pinnace"])
}
