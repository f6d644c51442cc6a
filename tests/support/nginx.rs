//! A real web server: nginx with a self-signed certificate, on a free port, until it is dropped.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{free_port, servers, wait_until};

/// The name in the certificate.
pub(crate) const SITE: &str = "www.example.org";
/// What the page of the site says.
pub(crate) const PAGE: &str = "the real page of the mask site";

/// A running nginx, TLS on its only port.
pub(crate) struct Nginx {
    pub(crate) addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl Nginx {
    /// `None`, said in one line, where nginx or openssl is not installed.
    pub(crate) fn start() -> Option<Nginx> {
        Nginx::start_with("")
    }

    /// As [`Nginx::start`] with more lines in the `server` block.
    pub(crate) fn start_with(lines: &str) -> Option<Nginx> {
        let (program, openssl) = (servers::find("nginx")?, servers::find("openssl")?);
        let dir = tempfile::tempdir().expect("a directory");
        certificate(&openssl, dir.path());
        std::fs::write(dir.path().join("index.html"), page()).expect("a page");
        std::fs::write(dir.path().join("big"), vec![b'x'; BIG_BYTES]).expect("a file");
        for _ in 0..5 {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            let mut child = spawn(&program, dir.path(), addr, lines);
            let serves = wait_until("nginx serves", || {
                if child.try_wait().expect("a child").is_some() {
                    return Some(false);
                }
                TcpStream::connect(addr).is_ok().then_some(true)
            });
            if serves {
                return Some(Nginx {
                    addr,
                    child,
                    _dir: dir,
                });
            }
            let log = std::fs::read_to_string(dir.path().join("error.log"));
            eprintln!("nginx did not start: {}", log.unwrap_or_default());
        }
        unreachable!("nginx does not start")
    }
}

/// Bytes of the file `/big`.
pub(crate) const BIG_BYTES: usize = 3_000_000;

fn page() -> String {
    format!("<!doctype html><title>mask</title><p id=\"page\">{PAGE}</p>\n")
}

fn spawn(program: &Path, dir: &Path, addr: SocketAddr, lines: &str) -> Child {
    let root = dir.display();
    let text = format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\npid {root}/nginx.pid;\n\
         error_log {root}/error.log;\nevents {{ worker_connections 2048; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {root}/body;\n\
         proxy_temp_path {root}/proxy;\n  fastcgi_temp_path {root}/fastcgi;\n\
         uwsgi_temp_path {root}/uwsgi;\n  scgi_temp_path {root}/scgi;\n\
         client_header_timeout 3s;\n  keepalive_timeout 3s;\n\
         types {{ text/html html; }}\n  default_type text/plain;\n\
         server {{\n    listen {addr} ssl http2;\n    server_name {SITE};\n\
         ssl_certificate {root}/cert.pem;\n    ssl_certificate_key {root}/key.pem;\n\
         ssl_protocols TLSv1.2 TLSv1.3;\n    root {root};\n    {lines}\n  }}\n}}\n"
    );
    let file = dir.join("nginx.conf");
    std::fs::write(&file, text).expect("a configuration");
    // The service that a package has started is none of ours: nothing of its own is used.
    Command::new(program)
        .arg("-c")
        .arg(&file)
        .arg("-p")
        .arg(dir)
        .arg("-e")
        .arg(dir.join("error.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts")
}

/// RSA, whose signatures all have one length: answers can be compared byte by byte in size.
fn certificate(openssl: &PathBuf, dir: &Path) {
    let made = Command::new(openssl)
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
        ])
        .args(["-subj", &format!("/CN={SITE}")])
        .args(["-addext", &format!("subjectAltName=DNS:{SITE}")])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()
        .expect("openssl runs");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "no certificate: {said}");
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Only a process that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
