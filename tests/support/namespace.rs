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

/// Our tables as nft lists them, one for each process; `None` when there is none.
pub(crate) fn table() -> Option<String> {
    let names = says("nft", &["list", "tables", "inet"])?;
    let ours = names
        .lines()
        .filter_map(|line| line.strip_prefix("table inet "));
    let ours = ours.filter(|name| name.starts_with("pinnace"));
    let listed: Vec<String> = ours
        .filter_map(|name| says("nft", &["list", "table", "inet", name]))
        .collect();
    (!listed.is_empty()).then(|| listed.concat())
}

/// Rules of a table of iptables or ip6tables, as far as they are ours; `None` when there are none.
pub(crate) fn chains(program: &str, table: &str) -> Option<String> {
    let all = says(program, &["-t", table, "-S"])?;
    let ours = all.lines().filter(|line| line.contains("PINNACE"));
    let ours: Vec<&str> = ours.collect();
    (!ours.is_empty()).then(|| ours.join("\n") + "\n")
}
