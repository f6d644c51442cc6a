//! The firewall's programs: where they are, whether we may use them, running them with a limit.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    iptables, nft,
    owner::{Owner, named},
    wish::{Backend, Limit, Target, Tool, Wish},
};

/// What the host offers.
#[derive(Debug, Default)]
pub(super) struct Tools {
    nft: Option<PathBuf>,
    iptables: Option<PathBuf>,
    ip6tables: Option<PathBuf>,
    /// This process may change the firewall.
    pub(super) may: bool,
    /// Whose name our rules carry; none where we may have none.
    owner: Option<Owner>,
    /// Rules of ours are there, or may be: of nft, of iptables.
    used: (bool, bool),
    /// Counts changes.
    number: u32,
}

/// One run of a program may take so long.
const RUN_LIMIT: Duration = Duration::from_secs(10);

impl Tools {
    /// Looks along `PATH`, and at this process's rights.
    pub(super) fn find() -> Self {
        let may = fs::read_to_string("/proc/self/status").is_ok_and(|text| may(&text));
        Self {
            nft: program("nft"),
            iptables: program("iptables"),
            ip6tables: program("ip6tables"),
            may,
            owner: may.then(|| Owner::claim(std::process::id()).ok()).flatten(),
            used: (false, false),
            number: 0,
        }
    }

    fn has(&self, tool: Tool) -> bool {
        match tool {
            Tool::Nft => self.nft.is_some(),
            Tool::Iptables => self.iptables.is_some(),
        }
    }

    /// Which tool a backend means here.
    pub(super) fn of(&self, backend: Backend) -> Option<Tool> {
        match backend {
            Backend::Only(tool) => self.has(tool).then_some(tool),
            Backend::Auto => [Tool::Nft, Tool::Iptables]
                .into_iter()
                .find(|t| self.has(*t)),
        }
    }

    /// Puts a wish's rules in place of those that are there.
    ///
    /// # Errors
    /// What is missing, or what a program said.
    pub(super) fn apply(&mut self, wish: &Wish) -> Result<(), String> {
        if !self.may {
            return Err(NO_RIGHT.to_owned());
        }
        let of = |tool: Tool| {
            let untracked = match self.of(wish.backend) == Some(tool) {
                true => wish.untracked.clone(),
                false => Vec::new(),
            };
            let own = wish.limits.iter().filter(|limit| limit.tool == tool);
            (untracked, own.copied().collect::<Vec<_>>())
        };
        if !wish.untracked.is_empty() && self.of(wish.backend).is_none() {
            return Err(format!("{} on PATH", missing(wish.backend)));
        }
        let (nft, iptables) = (of(Tool::Nft), of(Tool::Iptables));
        self.apply_nft(&nft.0, &nft.1)?;
        self.apply_iptables(&iptables.0, &iptables.1)
    }

    fn apply_nft(&mut self, untracked: &[Target], limits: &[Limit]) -> Result<(), String> {
        let none = untracked.is_empty() && limits.is_empty();
        let Some(program) = &self.nft else {
            return match none {
                true => Ok(()),
                false => Err("no nft on PATH".to_owned()),
            };
        };
        if none && !self.used.0 {
            return Ok(());
        }
        let owner = self.owner.as_ref().ok_or(NO_NAME)?.name();
        self.used.0 = true;
        let text = match none {
            true => nft::remove(owner),
            false => nft::script(untracked, limits, owner),
        };
        run(program, &["-f", "-"], &text)?;
        self.used.0 = !none;
        Ok(())
    }

    fn apply_iptables(&mut self, untracked: &[Target], limits: &[Limit]) -> Result<(), String> {
        let none = untracked.is_empty() && limits.is_empty();
        if none && !self.used.1 {
            return Ok(());
        }
        let owner = self.owner.as_ref().ok_or(NO_NAME)?.name();
        self.used.1 = true;
        self.number += 1;
        for (program, v6) in [(&self.iptables, false), (&self.ip6tables, true)] {
            let script = iptables::script(untracked, limits, v6, (owner, self.number));
            match (program, script) {
                (Some(program), Some(script)) => {
                    remove_chains(program, owner);
                    let restore = with_suffix(program, "-restore");
                    run(&restore, &["-w", "5", "--noflush"], &script)?;
                }
                (Some(program), None) => remove_chains(program, owner),
                (None, None) => {}
                (None, Some(_)) => {
                    return Err(format!("no ip{}tables on PATH", if v6 { "6" } else { "" }));
                }
            }
        }
        self.used.1 = !none;
        Ok(())
    }

    /// Takes away what processes left behind that were killed, with either tool, and nothing of
    /// one that lives. To be called before the first change of our own.
    pub(super) fn remove_stale(&self) {
        let Some(own) = &self.owner else {
            return;
        };
        // Under our own name there can only be what somebody left who had it before.
        let clear_up = |name: &str, remove: &dyn Fn()| {
            let held = Owner::take_over(name);
            if held.is_some() || name == own.name() {
                remove();
            }
        };
        if let Some(nft) = &self.nft {
            let list = output(nft, &["list", "tables", "inet"]).unwrap_or_default();
            for name in named(&list, nft::PREFIX) {
                // What cannot be removed does no more harm than before.
                clear_up(name, &|| drop(run(nft, &["-f", "-"], &nft::remove(name))));
            }
        }
        for program in [&self.iptables, &self.ip6tables].into_iter().flatten() {
            let mut names = BTreeSet::new();
            for (table, prefix, from) in iptables::CHAINS {
                let jumps = output(program, &["-w", "5", "-t", table, "-S", from]);
                let jumps = jumps.unwrap_or_default();
                names.extend(named(&jumps, prefix).map(str::to_owned));
            }
            for name in &names {
                clear_up(name, &|| remove_chains(program, name));
            }
        }
    }
}

fn missing(backend: Backend) -> &'static str {
    match backend {
        Backend::Auto => "neither nft nor iptables",
        Backend::Only(Tool::Nft) => "no nft",
        Backend::Only(Tool::Iptables) => "no iptables",
    }
}

/// An owner's chains and the jumps to them, as far as they are there.
fn remove_chains(program: &Path, owner: &str) {
    for (table, prefix, from) in iptables::CHAINS {
        let chain = &format!("{prefix}{owner}");
        let call = |args: &[&str]| {
            let all = [&["-w", "5", "-t", table], args].concat();
            run(program, &all, "").is_ok()
        };
        while call(&["-D", from, "-j", chain]) {}
        let _ = call(&["-F", chain]) && call(&["-X", chain]);
    }
}

fn with_suffix(program: &Path, suffix: &str) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut files = env::split_paths(&path).map(|dir| dir.join(name));
    files.find(|file| {
        let data = file.metadata();
        data.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    })
}

/// Whether a process with this status has `CAP_NET_ADMIN`.
fn may(status: &str) -> bool {
    const CAP_NET_ADMIN: u32 = 12;
    let mut lines = status.lines();
    let bits = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let bits = bits.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << CAP_NET_ADMIN) != 0)
}

fn run(program: &Path, args: &[&str], input: &str) -> Result<(), String> {
    call(program, args, input).map(drop)
}

fn output(program: &Path, args: &[&str]) -> Result<String, String> {
    call(program, args, "")
}

/// What a program prints; its complaint when it fails or takes too long.
fn call(program: &Path, args: &[&str], input: &str) -> Result<String, String> {
    let name = program.display();
    let spawned = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| format!("{name}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why with its status.
        drop(stdin.write_all(input.as_bytes()));
    }
    let (printed, complaint) = (child.stdout.take(), child.stderr.take());
    // A long list of rules is more than a pipe holds.
    let (status, printed) = thread::scope(|scope| {
        let reader = thread::Builder::new().spawn_scoped(scope, || text(printed));
        let status = wait(&mut child);
        let printed = reader.ok().and_then(|reader| reader.join().ok());
        (status, printed.unwrap_or_default())
    });
    if status.ok_or_else(|| format!("{name} does not end"))? {
        return Ok(printed);
    }
    let complaint = text(complaint);
    let first = complaint.lines().find(|line| !line.trim().is_empty());
    Err(format!("{name}: {}", first.unwrap_or("failed").trim()))
}

/// What can be read to the end, as far as it is kept.
fn text(from: Option<impl Read>) -> String {
    let Some(mut from) = from else {
        return String::new();
    };
    let mut text = Vec::new();
    drop(from.by_ref().take(OUTPUT_MAX).read_to_end(&mut text));
    drop(io::copy(&mut from, &mut io::sink()));
    String::from_utf8_lossy(&text).into_owned()
}

/// Whether it succeeded; `None`: it was killed because it took too long.
fn wait(child: &mut Child) -> Option<bool> {
    let limit = Instant::now() + RUN_LIMIT;
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < limit => thread::park_timeout(pause),
            _ => {
                // Gone already, at best.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// So much of what a program prints is looked at.
const OUTPUT_MAX: u64 = 1 << 20;

/// Why nothing can be done.
const NO_NAME: &str = "no Unix socket is to be had, whose name the rules would carry";
const NO_RIGHT: &str =
    "this process lacks CAP_NET_ADMIN; add it to AmbientCapabilities in the service file";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_to_change_the_firewall_is_one_bit() {
        assert!(may("Name:\tx\nCapInh:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(may("CapEff:\t0000000000001000\n"));
        assert!(!may("CapEff:\t0000000000000fff\n"));
        assert!(!may("CapPrm:\t000001ffffffffff\n"));
    }

    #[test]
    fn complaints_of_programs_are_told() {
        let shell = Path::new("/bin/sh");
        let error = run(shell, &["-c", "echo >&2; echo too bad >&2; exit 1"], "").unwrap_err();
        assert_eq!(error, "/bin/sh: too bad");
        assert_eq!(
            call(shell, &["-c", "cat"], "as given"),
            Ok("as given".into())
        );
        assert!(run(Path::new("/no/such/program"), &[], "").is_err());
        let long = output(shell, &["-c", "head -c 200000 /dev/zero; echo end"]).unwrap();
        assert!(long.len() == 200_004 && long.ends_with("end\n"));
    }
}
