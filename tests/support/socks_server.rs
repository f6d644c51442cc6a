//! SOCKS servers of the Debian archive, on loopback: microsocks and Dante.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::{free_port, process, servers::find, wait_until};

/// A running server; killed with all its processes when this is dropped.
#[derive(Debug)]
pub(crate) struct SocksServer {
    pub(crate) addr: SocketAddr,
    program: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
    dir: TempDir,
}

/// microsocks: SOCKS 5. It connects from `from`, so that the far side sees which server it was;
/// with `credentials` it serves nobody else. `None` when it is not installed.
pub(crate) fn microsocks(from: &str, credentials: Option<(&str, &str)>) -> Option<SocksServer> {
    let program = find("microsocks")?;
    let port = free_port();
    let mut args: Vec<String> = ["-i", "127.0.0.1", "-b", from, "-p"]
        .map(str::to_owned)
        .into();
    args.push(port.to_string());
    if let Some((user, password)) = credentials {
        args.extend(["-u", user, "-P", password].map(str::to_owned));
    }
    let dir = tempfile::tempdir().expect("a directory");
    Some(SocksServer::start(program, args, port, dir))
}

/// Dante: SOCKS 4, or SOCKS 5 with a method of its own (`none`, `username`). `None` when it is not
/// installed.
pub(crate) fn dante(version: u8, method: &str) -> Option<SocksServer> {
    let program = find("danted")?;
    let port = free_port();
    let dir = tempfile::tempdir().expect("a directory");
    let user = Command::new("id").arg("-un").output().expect("a user");
    let user = String::from_utf8(user.stdout).expect("a name");
    let user = user.trim();
    let mut text = String::new();
    let errors = dir.path().join("errors");
    writeln!(text, "errorlog: {}", errors.display()).expect("a line");
    writeln!(
        text,
        "internal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1"
    )
    .expect("a line");
    writeln!(text, "socksmethod: {method}\nclientmethod: none").expect("a line");
    writeln!(text, "user.privileged: {user}\nuser.unprivileged: {user}").expect("a line");
    let nets = "from: 127.0.0.0/8 to: 127.0.0.0/8";
    writeln!(text, "client pass {{\n {nets}\n}}").expect("a line");
    let only = format!("protocol: tcp\n command: connect\n proxyprotocol: socks_v{version}");
    writeln!(text, "socks pass {{\n {nets}\n {only}\n}}").expect("a line");
    let file = dir.path().join("danted.conf");
    std::fs::write(&file, text).expect("a file");
    let args = [
        "-f".to_owned(),
        file.display().to_string(),
        "-p".to_owned(),
        dir.path().join("pid").display().to_string(),
    ];
    Some(SocksServer::start(program, args.into(), port, dir))
}

impl SocksServer {
    fn start(program: PathBuf, args: Vec<String>, port: u16, dir: TempDir) -> SocksServer {
        let mut server = SocksServer {
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            program,
            args,
            child: None,
            dir,
        };
        server.start_again();
        server
    }

    /// Starts it (again), on the same port, and waits until it listens.
    pub(crate) fn start_again(&mut self) {
        self.stop();
        let mut command = Command::new(&self.program);
        // A group of its own: Dante has children.
        command.args(&self.args).process_group(0);
        self.child = Some(process::spawn(command, self.dir.path()));
        wait_until("the SOCKS server listens", || {
            TcpStream::connect(self.addr).ok()
        });
    }

    /// Kills it: its connections break, and nobody listens any more.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        // Only a group that has ended cannot be killed.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }

    /// Its entry of `upstreams`; `more` are further keys, each with a comma before it.
    pub(crate) fn entry(&self, kind: &str, more: &str) -> String {
        format!("{{ type = \"{kind}\", address = \"{}\"{more} }}", self.addr)
    }
}

impl Drop for SocksServer {
    fn drop(&mut self) {
        self.stop();
    }
}
