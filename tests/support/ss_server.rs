//! Debian's Shadowsocks server, for the methods it has. The one for the others is the bench's.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};

pub(crate) use bench::far_side::ShadowsocksServer;
use bench::far_side::{entry, password};
use shards::proto::shadowsocks::Method;

use super::{free_port, servers::find, wait_until};

/// Our own far side, for any method.
pub(crate) fn own_server(method: Method) -> ShadowsocksServer {
    ShadowsocksServer::start(method).expect("a server of our own")
}

/// Debian's `ss-server`. Killed when this is dropped.
#[derive(Debug)]
pub(crate) struct SsServer {
    child: Child,
    addr: SocketAddr,
    method: Method,
}

impl SsServer {
    /// Serves a method of the first edition; `None` where the program is missing.
    pub(crate) fn start(method: Method) -> Option<Self> {
        let program = find("ss-server")?;
        let port = free_port();
        let child = Command::new(program)
            .args(["-s", "127.0.0.1", "-p", &port.to_string()])
            .args(["-k", password(method), "-m", method.name(), "-t", "300"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ss-server starts");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        wait_until("ss-server listens", || TcpStream::connect(addr).ok());
        Some(Self {
            child,
            addr,
            method,
        })
    }

    /// An entry of `upstreams`.
    pub(crate) fn entry(&self) -> String {
        entry(self.method, password(self.method), self.addr)
    }

    /// An entry with another password.
    pub(crate) fn entry_with_wrong_password(&self) -> String {
        entry(self.method, "wrong", self.addr)
    }

    /// Ends it and all its connections.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for SsServer {
    fn drop(&mut self) {
        self.kill();
    }
}
