//! The contract's own checker against a running proxy.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::Proxy;

/// The checker, when it and Python are there.
pub(crate) fn checker() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/contract/check.py");
    if !path.is_file() {
        println!("skipped: the contract's checker is not beside this checkout");
        return None;
    }
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: the contract's checker wants python3");
        return None;
    }
    Some(path)
}

/// Runs it with everything that it can ask for; nothing may fail, nothing may be warned of.
pub(crate) async fn content(checker: &Path, proxy: Proxy, auth: Option<&'static str>) -> Proxy {
    let checker = checker.to_owned();
    let checked = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("python3");
        command
            .arg(checker)
            .args(["--base", &format!("http://{}", proxy.api), "--config"])
            .arg(proxy.config_path())
            .args(["--mutate", "--strict", "--require-later"]);
        if let Some(auth) = auth {
            command.args(["--auth", auth]);
        }
        (command.output().unwrap(), proxy)
    });
    let (output, proxy) = checked.await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let bad: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("FAIL") || line.starts_with("WARN"))
        .collect();
    assert!(
        output.status.success() && bad.is_empty(),
        "{bad:#?}\n{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        proxy.log()
    );
    assert!(said.trim_end().ends_with(" passed, 0 failed"), "{said}");
    proxy
}
