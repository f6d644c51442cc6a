//! The built binary as a child process, in a directory of its own.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use bench::{
    client::{Dial, Mode},
    measure::Process,
};
use tempfile::TempDir;

use super::{
    PATIENCE,
    config::{ALICE, Config},
    wait_until,
};

/// A running proxy. Killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) api: SocketAddr,
    config: Config,
    child: Child,
    dir: TempDir,
}

impl Proxy {
    /// Starts it and waits until it serves; other ports are tried when somebody takes one.
    pub(crate) fn start(config: Config) -> Proxy {
        Proxy::start_with(config, &|command| command)
    }

    /// As [`Proxy::start`] with the command changed.
    pub(crate) fn start_with(config: Config, change: &dyn Fn(Command) -> Command) -> Proxy {
        for _ in 0..5 {
            let mut proxy = Proxy::spawn(config.clone().with_ports(), change);
            if proxy.wait_until_serving() {
                return proxy;
            }
            eprintln!("a port was taken just now:\n{}", proxy.log());
        }
        unreachable!("no ports are left")
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(config: Config, change: &dyn Fn(Command) -> Command) -> Proxy {
        let dir = tempfile::tempdir().expect("a directory");
        config.write(&dir.path().join("config.toml"));
        let mut command = change(pinnace());
        command.arg("config.toml").args(config.args());
        let child = spawn(command, dir.path());
        let port: u16 = config.value("server", "port").parse().unwrap();
        let api = config.value("server.api", "listen").trim_matches('"');
        Proxy {
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            api: api.parse().unwrap(),
            config,
            child,
            dir,
        }
    }

    /// A new process with the same configuration, ports included.
    pub(crate) fn start_again(&self) -> Proxy {
        let mut proxy = Proxy::spawn(self.config.clone(), &|command| command);
        assert!(proxy.wait_until_serving(), "{}", proxy.log());
        proxy
    }

    /// After its end: a new process in the same directory, with the files as they are.
    pub(crate) fn start_over(&mut self) {
        std::fs::remove_file(self.dir.path().join(LOG)).expect("a log");
        let mut command = pinnace();
        command.arg("config.toml").args(self.config.args());
        self.child = spawn(command, self.dir.path());
        assert!(self.wait_until_serving(), "{}", self.log());
    }

    /// Whether it serves on all its ports; panics when it ended for another reason than a port.
    fn wait_until_serving(&mut self) -> bool {
        wait_until("the proxy serves", || {
            let log = self.log();
            if log.contains("tg://") {
                return Some(!log.contains("no control API"));
            }
            let ended = self.child.try_wait().expect("a child")?;
            assert_eq!(ended.code(), Some(3), "{}", self.log());
            assert!(self.log().contains(" is taken"), "{}", self.log());
            Some(false)
        })
    }

    /// A client of user `alice`.
    pub(crate) fn dial(&self, mode: Mode) -> Dial {
        Dial::new(mode, self.addr, ALICE)
    }

    /// For measuring.
    pub(crate) fn process(&self) -> Process {
        Process::new(self.child.id())
    }

    /// Everything it has printed.
    pub(crate) fn log(&self) -> String {
        read_log(self.dir.path())
    }

    /// Its directory, where `config.toml` is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its configuration file.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    /// Its configuration as it was started, ports included.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    /// Puts another text in the place of the file, as editors do: written beside it and renamed.
    pub(crate) fn replace(&self, text: &str) {
        let beside = self.dir.path().join("config.toml.new");
        std::fs::write(&beside, text).expect("a file");
        std::fs::rename(beside, self.config_path()).expect("the file is replaced");
    }

    /// Replaces the file and waits until the log has told of it; the line.
    pub(crate) fn reload(&self, config: &Config) -> String {
        let before = self.reloads().len();
        self.replace(&config.text());
        self.wait_for_reload(before)
    }

    /// Waits until the log has told of more than `before` reloads; the line of the first of them.
    pub(crate) fn wait_for_reload(&self, before: usize) -> String {
        wait_until("the configuration is reloaded", || {
            self.reloads().get(before).cloned()
        })
    }

    /// What the log has told of reloads, failed ones included.
    pub(crate) fn reloads(&self) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| {
            line.contains("configuration reloaded") || line.contains("configuration not reloaded")
        });
        lines.map(str::to_owned).collect()
    }

    /// Number of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id();
        let done = Command::new("sh")
            .args(["-c", &format!("kill -{name} {pid}")])
            .status();
        assert!(done.expect("a shell").success());
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Waits for its end; how long that took and its exit code.
    pub(crate) fn wait_for_end(&mut self) -> (Duration, Option<i32>) {
        let began = Instant::now();
        let status = wait(&mut self.child, &self.dir);
        (began.elapsed(), status.code())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(30)..];
            eprintln!("the proxy's last words:\n{}", tail.join("\n"));
        }
        // Only a process that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The built binary.
pub(crate) fn pinnace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pinnace"));
    command.env_remove("RUST_LOG");
    command
}

/// Starts a command in `dir`; what it prints is for [`read_log`].
pub(crate) fn spawn(mut command: Command, dir: &Path) -> Child {
    let log = File::options()
        .append(true)
        .create(true)
        .open(dir.join(LOG))
        .expect("a log");
    command
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("the binary starts")
}

/// What commands started in `dir` have printed.
pub(crate) fn read_log(dir: &Path) -> String {
    let bytes = std::fs::read(dir.join(LOG)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for a child's end; one that does not end is killed and fails the test.
pub(crate) fn wait(child: &mut Child, dir: &TempDir) -> ExitStatus {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status;
        }
        if Instant::now() > limit {
            let _ = child.kill();
            unreachable!("it does not end\n{}", read_log(dir.path()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

const LOG: &str = "output.log";
