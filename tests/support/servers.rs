//! Programs of other people that tests talk to: where they are, and what it means that one is not.
//!
//! Each program's own start function is in a file of its own beside this one.

use std::{
    env,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Looks for a program on `PATH` and where Debian keeps those of the administrator.
///
/// A missing one is said in one line and the test passes without it, unless
/// `PINNACE_NEED_SERVERS` is set, as it is in CI: then it fails.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    let places = env::split_paths(&path).chain(own);
    let found = places
        .map(|place| place.join(program))
        .find(|file| is_program(file));
    if found.is_none() {
        assert!(
            env::var_os("PINNACE_NEED_SERVERS").is_none(),
            "{program} is not installed, and PINNACE_NEED_SERVERS is set"
        );
        println!("skipped: {program} is not installed");
    }
    found
}

fn is_program(file: &Path) -> bool {
    let data = file.metadata();
    data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
