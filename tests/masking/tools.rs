//! Other people's programs: openssl, curl and a browser see the mask site through the proxy.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Output, Stdio},
};

use crate::{
    masked,
    support::{
        Proxy, fake_dc,
        nginx::{BIG_BYTES, Nginx, PAGE, SITE},
        servers,
    },
};

fn start() -> Option<(bench::fake_dc::FakeDc, Nginx, Proxy)> {
    let nginx = Nginx::start()?;
    let dc = fake_dc();
    let proxy = masked(dc.addr(), nginx.addr).start();
    Some((dc, nginx, proxy))
}

/// Runs a program with `input`; it has a limit of its own.
fn run(program: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("all_proxy")
        .env_remove("HTTPS_PROXY")
        .env_remove("ALL_PROXY")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // A program that has ended reads no more.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

/// What a program printed, without lines that no two connections have in common.
fn lines(output: &Output) -> Vec<String> {
    const OWN: [&str; 14] = [
        "Date:",
        "date:",
        "Session-ID:",
        "Master-Key:",
        "Resumption PSK:",
        "Start Time:",
        "TLS session ticket",
        "SSL handshake has read",
        "CONNECTION ESTABLISHED",
        "CONNECTED(",
        "Connecting to",
        "ETag:",
        "read R BLOCK",
        "closed",
    ];
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&all).into_owned();
    let common = |line: &&str| {
        let line = line.trim_start();
        let dump = line.get(4..7) == Some(" - ");
        !dump && !OWN.iter().any(|own| line.starts_with(own))
    };
    // An error of openssl begins with the number of a thread.
    let error = |line: &str| Some(line.split_once(":error:")?.1.to_owned());
    let lines = text.lines().filter(common);
    lines
        .map(|line| error(line).unwrap_or_else(|| line.to_owned()))
        .collect()
}

#[test]
fn openssl_finds_the_sites_certificate_version_and_page() {
    let Some((_dc, nginx, proxy)) = start() else {
        return;
    };
    let Some(openssl) = servers::find("openssl") else {
        return;
    };
    let talk = |addr: SocketAddr, more: &[&str]| {
        let addr = addr.to_string();
        let mut args = vec![
            "s_client",
            "-connect",
            &addr,
            "-servername",
            SITE,
            "-ign_eof",
        ];
        args.extend(more);
        run(
            &openssl,
            &args,
            &format!("GET / HTTP/1.0\r\nHost: {SITE}\r\n\r\n"),
        )
    };
    for more in [
        &["-tls1_2"][..],
        &["-tls1_3"],
        &[
            "-tls1_2",
            "-cipher",
            "ECDHE-RSA-AES128-GCM-SHA256",
            "-alpn",
            "http/1.1",
        ],
        &["-tls1_3", "-groups", "P-256", "-alpn", "http/1.1,http/1.0"],
        &["-tls1_3", "-noservername"],
        &["-tls1_1"],
    ] {
        let more = more.to_vec();
        let bare = more.contains(&"-noservername");
        let talk = |addr: SocketAddr| {
            if !bare {
                return talk(addr, &more);
            }
            let addr = addr.to_string();
            let args = ["s_client", "-connect", &addr, "-noservername", "-ign_eof"];
            run(&openssl, &args, "GET / HTTP/1.0\r\n\r\n")
        };
        let (through, direct) = (lines(&talk(proxy.addr)), lines(&talk(nginx.addr)));
        assert_eq!(through, direct, "{more:?}");
        let page = direct.iter().any(|line| line.contains(PAGE));
        assert_eq!(page, !more.contains(&"-tls1_1"), "{more:?}: {direct:#?}");
    }
}

#[test]
fn curl_gets_the_sites_pages() {
    let Some((_dc, nginx, proxy)) = start() else {
        return;
    };
    let Some(curl) = servers::find("curl") else {
        return;
    };
    let get = |addr: SocketAddr, more: &str, path: &str| {
        let port = addr.port();
        let resolve = format!("{SITE}:{port}:127.0.0.1");
        let url = format!("https://{SITE}:{port}{path}");
        let format = "\n%{http_version} %{http_code} %{size_download} %{num_connects}\n";
        let args = [
            "-sSki",
            "--noproxy",
            "*",
            "--resolve",
            &resolve,
            more,
            "-w",
            format,
            "-m",
            "60",
        ];
        let mut args = args.to_vec();
        args.push(&url);
        run(&curl, &args, "")
    };
    for more in ["--http1.0", "--http1.1", "--http2"] {
        for path in ["/", "/nothing-here", "/big"] {
            let through = lines(&get(proxy.addr, more, path));
            let direct = lines(&get(nginx.addr, more, path));
            assert!(through == direct, "{more} {path}");
            let last = direct.last().expect("a summary");
            let version = if more == "--http2" { "2 " } else { "1." };
            assert!(last.starts_with(version), "{last}");
            if path == "/big" {
                assert!(last.contains(&BIG_BYTES.to_string()), "{last}");
            }
        }
    }
}

#[test]
fn a_browser_shows_the_sites_page() {
    let Some((_dc, nginx, proxy)) = start() else {
        return;
    };
    let Some(chromium) = servers::find("chromium") else {
        return;
    };
    let visit = |addr: SocketAddr| {
        let home = tempfile::tempdir().expect("a directory");
        let rules = format!("--host-resolver-rules=MAP {SITE} {addr},MAP * ~NOTFOUND");
        let home = format!("--user-data-dir={}", home.path().display());
        let url = format!("https://{SITE}/");
        let args = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--no-proxy-server",
            "--ignore-certificate-errors",
            "--timeout=60000",
            &rules,
            &home,
            "--dump-dom",
            &url,
        ];
        let output = run(&chromium, &args, "");
        let page = String::from_utf8_lossy(&output.stdout).into_owned();
        (page, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (direct, said) = visit(nginx.addr);
    assert!(direct.contains(PAGE), "the site itself: {direct}\n{said}");
    let (through, said) = visit(proxy.addr);
    assert_eq!(through, direct, "{said}");
    assert!(
        proxy.bad("tls_auth_failed") >= 1,
        "it came through the proxy"
    );
}
