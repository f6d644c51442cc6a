//! What is measured: a process with an address and a secret. Started here, or attached to.
//!
//! How its configuration looks is in [`config`]; how its CPU is read in
//! [`measure`](crate::measure).

pub mod config;

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use shards::proto::secret::Secret;

use crate::{
    client::{Dial, Mode},
    fake_me::FakeMe,
    machine::Cores,
    measure::Process,
};
use config::ProxyConfig;

/// A target as named on the command line.
///
/// `pinnace`, `pinnace:shards=2,fast=off,users=100,shards.spin_us=50`, `relay`, `cmd:COMMAND LINE`
/// with `{config}`, `{port}`, `{secret}`, `{dc}`, `{me_secret}`, `{me_config}` replaced,
/// `attach:PID@IP:PORT`.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetSpec {
    /// Our proxy.
    Pinnace(ProxyConfig),
    /// The yardstick: this program as `bench relay`.
    Relay,
    /// Any other proxy, started by a command line.
    Command {
        /// With placeholders.
        line: String,
        /// Where it will listen, when not on `{port}`.
        addr: Option<SocketAddr>,
    },
    /// A process that runs already; its DCs must lead to ours.
    Attach {
        /// Its number.
        pid: u32,
        /// Where it listens.
        addr: SocketAddr,
    },
}

impl TargetSpec {
    /// For headings: the text it was parsed from, shortened.
    pub fn name(&self) -> String {
        match self {
            TargetSpec::Pinnace(config) => config.name(),
            TargetSpec::Relay => "relay".into(),
            TargetSpec::Command { line, .. } => {
                let program = line.split_whitespace().next().unwrap_or_default();
                Path::new(program)
                    .file_name()
                    .map_or_else(|| program.into(), |n| n.to_string_lossy().into_owned())
            }
            TargetSpec::Attach { pid, .. } => format!("pid {pid}"),
        }
    }
}

impl TargetSpec {
    /// Fake middle proxies have to be started with it.
    fn wants_me(&self) -> bool {
        match self {
            TargetSpec::Pinnace(config) => config.through_me,
            TargetSpec::Command { line, .. } => line.contains("{me_"),
            TargetSpec::Relay | TargetSpec::Attach { .. } => false,
        }
    }
}

impl FromStr for TargetSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<TargetSpec, String> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "pinnace" => Ok(TargetSpec::Pinnace(rest.parse()?)),
            "relay" if rest.is_empty() => Ok(TargetSpec::Relay),
            "cmd" if !rest.is_empty() => Ok(TargetSpec::Command {
                line: rest.into(),
                addr: None,
            }),
            "attach" => {
                let parts = rest
                    .split_once('@')
                    .and_then(|(pid, addr)| Some((pid.parse().ok()?, addr.parse().ok()?)));
                let (pid, addr) = parts.ok_or("attach wants PID@IP:PORT")?;
                Ok(TargetSpec::Attach { pid, addr })
            }
            _ => Err(format!(
                "unknown target {text:?}; known: pinnace[:option=value,..], relay, cmd:LINE, attach:PID@IP:PORT"
            )),
        }
    }
}

/// What targets are started with.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The fake DC, for every DC id.
    pub dc: SocketAddr,
    /// The user's secret.
    pub secret: Secret,
    /// Who runs where.
    pub cores: Cores,
    /// Our proxy, when it is not to be looked for.
    pub pinnace: Option<PathBuf>,
}

/// Why there is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The program cannot be started, or files not be written.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: String,
        /// What happened.
        error: io::Error,
    },
    /// It ended, or did not listen in time.
    #[error("{name} does not listen on {addr}: {why}\n{log}")]
    NotListening {
        /// Target's name.
        name: String,
        /// Where it should.
        addr: SocketAddr,
        /// Ended or too slow.
        why: String,
        /// The end of what it has printed.
        log: String,
    },
    /// `cargo build` has failed.
    #[error("cargo build --release -p pinnace has failed")]
    Build,
}

/// A running target. Ends when this is dropped, if it was started here.
#[derive(Debug)]
pub struct Target {
    name: String,
    addr: SocketAddr,
    secret: Secret,
    direct: bool,
    users_more: usize,
    process: Process,
    start: Duration,
    child: Option<Child>,
    /// What it goes through, when that is ours. Ends behind the child.
    me: Option<FakeMe>,
    log: PathBuf,
    /// Holds configuration and log; removed with the target.
    _dir: Option<tempfile::TempDir>,
}

impl Target {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn start(spec: &TargetSpec, around: &Surroundings) -> Result<Target, TargetError> {
        if let TargetSpec::Attach { pid, addr } = *spec {
            return Ok(Target::attached(spec, pid, addr, around.secret));
        }
        let dir = tempfile::tempdir().map_err(failed("temporary directory"))?;
        let port = free_port().map_err(failed("finding a free port"))?;
        let me = spec
            .wants_me()
            .then(|| FakeMe::five_dcs(ME_ENDPOINTS_PER_DC))
            .transpose()
            .map_err(failed("starting fake middle proxies"))?;
        let place = config::Place {
            dir: dir.path(),
            port,
            dc: around.dc,
            me: me.as_ref(),
            secret: around.secret,
        };
        let (mut command, addr) = command(spec, &place, around)?;
        let log = dir.path().join("output.log");
        let out = File::create(&log)
            .and_then(|f| Ok((f.try_clone()?, f)))
            .map_err(failed("creating a log"))?;
        command
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(out.0)
            .stderr(out.1);
        let began = Instant::now();
        let child = command.spawn().map_err(|error| TargetError::Io {
            what: format!("starting {command:?}"),
            error,
        })?;
        let mut target = Target {
            name: spec.name(),
            addr,
            secret: around.secret,
            direct: *spec == TargetSpec::Relay,
            users_more: if let TargetSpec::Pinnace(config) = spec {
                config.users_more
            } else {
                0
            },
            process: Process::new(child.id()),
            start: Duration::ZERO,
            child: Some(child),
            me,
            log,
            _dir: Some(dir),
        };
        target.wait_until_listening()?;
        target.start = began.elapsed();
        target.wait_until_pool_stands()?;
        Ok(target)
    }

    fn attached(spec: &TargetSpec, pid: u32, addr: SocketAddr, secret: Secret) -> Target {
        Target {
            name: spec.name(),
            addr,
            secret,
            direct: false,
            users_more: 0,
            process: Process::new(pid),
            start: Duration::ZERO,
            child: None,
            me: None,
            log: PathBuf::new(),
            _dir: None,
        }
    }

    /// For headings.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// For measuring.
    pub fn process(&self) -> Process {
        self.process
    }

    /// From starting the process to the first connection it took.
    pub fn start_time(&self) -> Duration {
        self.start
    }

    /// Clients speak to it as to a DC: it has no secret.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The middle proxies it goes through, if they were started with it.
    pub fn me(&self) -> Option<&FakeMe> {
        self.me.as_ref()
    }

    /// How client `number` connects in `mode`; to a relay always in mode `direct`.
    pub fn dial(&self, mode: Mode, number: usize) -> Dial {
        let mode = if self.direct { Mode::Direct } else { mode };
        Dial {
            source: self.source(number / CLIENTS_PER_SOURCE),
            ..Dial::new(mode, self.addr, self.secret)
        }
    }

    /// Secret of the user `n`, counted round: those of all users it was started with.
    pub fn secret_of(&self, n: usize) -> Secret {
        match n % (self.users_more + 1) {
            0 => self.secret,
            other => config::other_secret(other - 1),
        }
    }

    /// Source address `n`: loopback has many, and each has ports of its own.
    pub fn source(&self, n: usize) -> Option<IpAddr> {
        // 1 to 200 fits the last byte.
        let last = 1 + (n % 200) as u8;
        (self.addr.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST)).then(|| IpAddr::from([127, 0, 1, last]))
    }

    /// The end of what it has printed.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn wait_until_listening(&mut self) -> Result<(), TargetError> {
        let limit = Instant::now() + Duration::from_secs(15);
        loop {
            if TcpStream::connect(self.addr).is_ok() {
                return Ok(());
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            let why = match ended {
                Some(status) => format!("ended with {status}"),
                None if Instant::now() > limit => "15 s have passed".into(),
                None => {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
            };
            return Err(self.not_listening(why));
        }
    }

    /// A pool fills in steps: it stands when every DC can be reached and nothing was dialled for a
    /// while. Without middle proxies there is nothing to wait for.
    fn wait_until_pool_stands(&self) -> Result<(), TargetError> {
        let Some(me) = &self.me else { return Ok(()) };
        let limit = Instant::now() + POOL_LIMIT;
        let (mut dialled, mut since) = (0, Instant::now());
        let reachable = |addrs: &Vec<SocketAddr>| {
            let mut addrs = addrs.iter();
            addrs.any(|&addr| me.stats(addr).writers > 0)
        };
        loop {
            let total = me.total();
            if total.accepted != dialled {
                (dialled, since) = (total.accepted, Instant::now());
            }
            if since.elapsed() > POOL_QUIET && me.map().values().all(reachable) {
                return Ok(());
            }
            if Instant::now() > limit {
                return Err(self.not_listening(format!("its pool does not stand: {total:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn not_listening(&self, why: String) -> TargetError {
        TargetError::NotListening {
            name: self.name.clone(),
            addr: self.addr,
            why,
            log: self.log_tail(),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Only a process that has ended already cannot be killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a target is started, and where it will listen.
fn command(
    spec: &TargetSpec,
    place: &config::Place<'_>,
    around: &Surroundings,
) -> Result<(Command, SocketAddr), TargetError> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, place.port));
    let writing = failed("writing a configuration");
    match spec {
        TargetSpec::Pinnace(options) => {
            let file = options.write(place).map_err(writing)?;
            let program = find_pinnace(around.pinnace.as_deref())?;
            let mut command = around.cores.command(&program.to_string_lossy());
            command.arg(file);
            Ok((command, addr))
        }
        TargetSpec::Relay => {
            let program = std::env::current_exe().map_err(failed("finding ourselves"))?;
            let mut command = around.cores.command(&program.to_string_lossy());
            command.args([
                "relay",
                "--listen",
                &addr.to_string(),
                "--to",
                &around.dc.to_string(),
            ]);
            Ok((command, addr))
        }
        TargetSpec::Command {
            line,
            addr: elsewhere,
        } => {
            let file = ProxyConfig::default().write(place).map_err(writing)?;
            let words = place.fill_in(line, &file);
            let (program, args) = words
                .split_first()
                .map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
            let mut command = around.cores.command(program);
            command.args(args);
            Ok((command, elsewhere.unwrap_or(addr)))
        }
        // Nothing is started.
        TargetSpec::Attach { addr, .. } => Ok((Command::new("true"), *addr)),
    }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> TargetError + use<> {
    let what = what.to_owned();
    move |error| TargetError::Io { what, error }
}

/// Endpoints of each DC that a target goes through.
const ME_ENDPOINTS_PER_DC: u8 = 2;
/// Longer than a pool waits between two steps of its start.
const POOL_QUIET: Duration = Duration::from_millis(1_500);
const POOL_LIMIT: Duration = Duration::from_secs(30);

/// Clients of one source address: far fewer than it has ports.
const CLIENTS_PER_SOURCE: usize = 4000;

/// A port that nobody listens on, below those that the kernel gives to connecting sockets: a client
/// that tries one of those before anybody listens may connect to itself.
pub(crate) fn free_port() -> io::Result<u16> {
    for _ in 0..200 {
        let port = 20_000 + rand::random::<u16>() % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// Our proxy: the given path, the file beside this program, or a fresh build.
///
/// # Errors
/// [`TargetError::Build`] or [`TargetError::Io`].
pub fn find_pinnace(given: Option<&Path>) -> Result<PathBuf, TargetError> {
    let failed = |what: &str, error| TargetError::Io {
        what: what.into(),
        error,
    };
    if let Some(path) = given {
        // Targets run in a directory of their own.
        return path
            .canonicalize()
            .map_err(|e| failed("the proxy's binary", e));
    }
    let us = std::env::current_exe().map_err(|e| failed("finding ourselves", e))?;
    // Tests and examples lie one directory deeper.
    let beside = us
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("pinnace"))
        .find(|p| p.is_file());
    if let Some(path) = beside {
        return Ok(path);
    }
    eprintln!("building pinnace (release) ...");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut build = Command::new(cargo);
    build
        .args(["build", "--release", "-p", "pinnace"])
        .current_dir(root);
    let built = build.status().map_err(|e| failed("starting cargo", e))?;
    // A build of the bench for debugging lies in the directory beside.
    let path = us
        .ancestors()
        .nth(2)
        .map(|dir| dir.join("release/pinnace"))
        .filter(|p| p.is_file());
    path.filter(|_| built.success()).ok_or(TargetError::Build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_every_kind_of_target() {
        assert_eq!("relay".parse(), Ok(TargetSpec::Relay));
        let attach = TargetSpec::Attach {
            pid: 7,
            addr: SocketAddr::from(([127, 0, 0, 1], 443)),
        };
        assert_eq!("attach:7@127.0.0.1:443".parse(), Ok(attach));
        let command: TargetSpec = "cmd:/opt/x/other {config}".parse().unwrap();
        assert_eq!(command.name(), "other");
        let ours: TargetSpec = "pinnace:shards=2,fast=off".parse().unwrap();
        assert_eq!(ours.name(), "pinnace:shards=2,fast=off");
        for wrong in [
            "",
            "relay:x",
            "cmd:",
            "attach:1",
            "pinnace:shards=x",
            "other",
        ] {
            assert!(wrong.parse::<TargetSpec>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_are_below_those_of_clients() {
        assert!((20_000..32_000).contains(&free_port().unwrap()));
    }
}
