//! Secret and maps of middle proxies: over HTTPS with roots of one's own, by pinned names, and
//! through the configured upstream.
#![expect(clippy::unwrap_used, reason = "a test ends where something is wrong")]

mod support;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use bench::fake_me::{FakeMe, Page};
use support::{
    Config, Proxy,
    me::Middle,
    scripted_socks::{Says, ScriptedSocks},
    servers::find,
    until, wait_until,
};
use tempfile::TempDir;

/// A web server with a certificate of a CA that only tests know.
struct HttpsServer {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl HttpsServer {
    /// Serves the files of `me` for [`NAME`]; `None` without openssl.
    fn start(me: &FakeMe) -> Option<Self> {
        let openssl = find("openssl")?;
        let dir = tempfile::tempdir().unwrap();
        me.write_files(dir.path()).unwrap();
        certify(&openssl, dir.path());
        let port = support::free_port();
        let child = Command::new(openssl)
            .args([
                "s_server", "-quiet", "-WWW", "-cert", "own.pem", "-key", "own.key",
            ])
            .args(["-accept", &port.to_string()])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, dir, port })
    }

    fn roots(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Everything comes from here, and nothing is there yet.
    fn config(&self, middle: &Middle, caches: &Path) -> Config {
        let pin = format!("[\"{NAME}:{}:127.0.0.1\"]", self.port);
        let mut config = middle.config().set("network.dns_overrides", pin);
        for (url, path, file) in FILES {
            let from = format!("\"https://{NAME}:{}/{file}\"", self.port);
            config = config
                .set(url, from)
                .set(path, format!("{:?}", caches.join(file)));
        }
        config
    }
}

fn certify(openssl: &Path, dir: &Path) {
    let run = |args: &[&str]| {
        let mut command = Command::new(openssl);
        let output = command.args(args).current_dir(dir).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args:?}: {said}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let with = |args: &[&'static str]| [&["req"][..], &key, args].concat();
    run(&with(&[
        "-x509",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=A private CA",
        "-days",
        "2",
    ]));
    run(&with(&[
        "-keyout",
        "own.key",
        "-out",
        "own.csr",
        "-subj",
        "/CN=files",
    ]));
    std::fs::write(dir.join("own.ext"), format!("subjectAltName=DNS:{NAME}")).unwrap();
    run(&[
        "x509",
        "-req",
        "-in",
        "own.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "own.pem",
        "-days",
        "2",
        "-extfile",
        "own.ext",
    ]);
}

#[tokio::test]
async fn files_come_over_https_from_a_pinned_name() {
    let middle = Middle::five_dcs(1);
    let Some(server) = HttpsServer::start(&middle.me) else {
        return;
    };
    let caches = tempfile::tempdir().unwrap();
    let config = server.config(&middle, caches.path());
    let roots = server.roots();
    let proxy = Proxy::start_with(config, &|mut command| {
        command.env("SSL_CERT_FILE", &roots);
        command
    });
    proxy.until_at_floor().await;
    for (.., file) in FILES.into_iter().take(2) {
        let [got, sent] = [caches.path(), server.dir.path()].map(|dir| dir.join(file));
        let [got, sent] = [got, sent].map(|path| std::fs::read(path).unwrap());
        assert!(got == sent, "{file}");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let middle = Middle::five_dcs(1);
    let Some(server) = HttpsServer::start(&middle.me) else {
        return;
    };
    let caches = tempfile::tempdir().unwrap();
    let config = server.config(&middle, caches.path());
    let proxy = Proxy::start_with(config, &|mut command| {
        command.env_remove("SSL_CERT_FILE");
        command
    });
    wait_until("the certificate is refused", || {
        proxy
            .log()
            .contains("invalid peer certificate")
            .then_some(())
    });
    assert!(!caches.path().join("proxy-secret").exists());
}

#[tokio::test]
async fn files_come_through_the_upstream_that_is_configured() {
    let middle = Middle::five_dcs(1);
    let socks = ScriptedSocks::start(Says::Nothing);
    let caches = tempfile::tempdir().unwrap();
    let mut config = middle.config().set("upstreams", socks.upstream());
    for (_, path, file) in FILES {
        config = config.set(path, format!("{:?}", caches.path().join(file)));
    }
    let proxy = config.start();
    until("secret and map are there", || {
        let there = |(.., file): (&str, &str, &str)| caches.path().join(file).exists();
        FILES.into_iter().take(2).all(there).then_some(())
    })
    .await;
    let url = middle.me.url(Page::Secret);
    let pages: SocketAddr = url.split('/').nth(2).unwrap().parse().unwrap();
    let asked = socks.targets();
    assert!(
        asked.iter().filter(|at| **at == pages).count() >= 2,
        "{asked:?}"
    );
    drop(proxy);
}

const NAME: &str = "files.example";
/// Key of the URL, key of the copy on disk, and the file's name at the server.
const FILES: [(&str, &str, &str); 3] = [
    (
        "general.proxy_secret_url",
        "general.proxy_secret_path",
        "proxy-secret",
    ),
    (
        "general.proxy_config_v4_url",
        "general.proxy_config_v4_cache_path",
        "proxy-config-v4.txt",
    ),
    (
        "general.proxy_config_v6_url",
        "general.proxy_config_v6_cache_path",
        "proxy-config-v6.txt",
    ),
];
