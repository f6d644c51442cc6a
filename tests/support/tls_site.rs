//! A web site with a certificate: nginx on a free port, and certificates made by openssl.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{free_port, servers, wait_until};

/// What is on the certificate, and how much of it there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Certificate {
    /// RSA of 2048 bits.
    Rsa,
    /// ECDSA of P-256, whose signatures have 70 to 72 bytes, and two more certificates behind it.
    Ecdsa,
    /// RSA, and so many more certificates behind it.
    Chain(usize),
}

/// A running nginx. Ended when this is dropped.
#[derive(Debug)]
pub(crate) struct TlsSite {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    child: Child,
    _dir: TempDir,
}

impl TlsSite {
    /// Starts it; `None` when a program that is needed is not installed. `more` goes into its
    /// `server` block.
    pub(crate) fn start(certificate: Certificate, more: &str) -> Option<TlsSite> {
        TlsSite::start_with(certificate, "TLSv1.2 TLSv1.3", more)
    }

    /// As [`TlsSite::start`], with these versions of TLS only.
    pub(crate) fn start_with(
        certificate: Certificate,
        versions: &str,
        more: &str,
    ) -> Option<TlsSite> {
        let (nginx, openssl) = (servers::find("nginx")?, servers::find("openssl")?);
        let dir = tempfile::tempdir().expect("a directory");
        make(&openssl, dir.path(), certificate);
        for _ in 0..5 {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
            fs::write(
                dir.path().join("nginx.conf"),
                conf(dir.path(), addr, versions, more),
            )
            .expect("a configuration");
            let mut child = run(&nginx, dir.path());
            let serves = wait_until("nginx serves", || {
                if child.try_wait().expect("a child").is_some() {
                    return Some(false);
                }
                TcpStream::connect(addr).is_ok().then_some(true)
            });
            if serves {
                return Some(TlsSite {
                    addr,
                    child,
                    _dir: dir,
                });
            }
            let log = fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
            assert!(log.contains("in use"), "nginx ended: {log}");
        }
        unreachable!("no port is left")
    }
}

impl Drop for TlsSite {
    fn drop(&mut self) {
        // Only a process that has ended already cannot be killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(nginx: &Path, dir: &Path) -> Child {
    Command::new(nginx)
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(dir.join("nginx.conf"))
        .arg("-e")
        .arg(dir.join("error.log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx starts")
}

fn conf(dir: &Path, addr: SocketAddr, versions: &str, more: &str) -> String {
    let dir = dir.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("  {kind}_temp_path {dir}/{kind};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/pid;\nworker_processes 1;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n  access_log off;\n{temporary}  server {{\n    listen {addr} ssl http2;\n    \
         ssl_certificate {dir}/certificates.pem;\n    ssl_certificate_key {dir}/key.pem;\n    \
         ssl_protocols {versions};\n    {more}\n    \
         location / {{ return 200 \"the masked site\\n\"; }}\n  }}\n}}\n"
    )
}

/// Writes `key.pem` and `certificates.pem` into `dir`.
pub(crate) fn make(openssl: &Path, dir: &Path, certificate: Certificate) {
    let key = dir.join("key.pem");
    let extra = match certificate {
        Certificate::Rsa => 0,
        Certificate::Ecdsa => 2,
        Certificate::Chain(extra) => extra,
    };
    let ecdsa = certificate == Certificate::Ecdsa;
    let mut all = one(openssl, &key, ecdsa, "www.example.org");
    if extra > 0 {
        // nginx sends what is in the file, whoever has signed it and however often it is there.
        let other = one(openssl, &dir.join("other.pem"), false, "an authority");
        all += &other.repeat(extra);
    }
    fs::write(dir.join("certificates.pem"), all).expect("certificates");
}

/// A certificate that its own key has signed; the key is left at `key`.
fn one(openssl: &Path, key: &Path, ecdsa: bool, name: &str) -> String {
    let out: PathBuf = key.with_extension("out");
    let mut command = Command::new(openssl);
    command.args(["req", "-x509", "-nodes", "-days", "30", "-newkey"]);
    if ecdsa {
        command.args(["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    } else {
        command.arg("rsa:2048");
    }
    let subject = format!("/CN={name}");
    let names = "subjectAltName=DNS:www.example.org,DNS:example.org";
    let done = command
        .args(["-subj", &subject, "-addext", names, "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(&out)
        .stderr(Stdio::null())
        .status();
    assert!(done.expect("openssl runs").success());
    fs::read_to_string(out).expect("a certificate")
}
