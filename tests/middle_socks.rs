//! Middle proxies behind a SOCKS server: whose address enters the keys, and what happens when the
//! server does not tell it.
#![expect(clippy::unwrap_used, reason = "a test ends where something is wrong")]

mod support;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use bench::{
    client::{Client, Mode},
    fake_me::FakeMe,
};
use serde_json::Value;
use support::{
    Config, Proxy, free_port,
    me::{Middle, a_while},
    scripted_socks::{Leaves, Says, ScriptedSocks},
    servers::find,
    until, wait_until,
};

/// Ended when this is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &Path, args: &[&str], port: u16) -> Program {
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    wait_until("the server listens", || TcpStream::connect(addr).ok());
    Program(child)
}

fn socks(kind: &str, port: u16) -> String {
    format!("[{{ type = \"{kind}\", address = \"127.0.0.1:{port}\" }}]")
}

fn bnd(proxy: &Proxy) -> Value {
    proxy.get("/v1/runtime/me-selftest")["data"]["bnd"].clone()
}

async fn serve_all(proxy: &Proxy) {
    for mode in Mode::PROXIED {
        let mut client = Client::connect(&proxy.dial(mode)).await.unwrap();
        client.ping().await.unwrap();
        client.exchange(100_000, 100_000).await.unwrap();
    }
}

/// A server that hides its address, but leaves under one that we can know: `middle_proxy_nat_ip`.
fn silent() -> ScriptedSocks {
    let exit = IpAddr::from([127, 0, 0, 200]);
    ScriptedSocks::leaving(Says::Nothing, Leaves::WithClientsPort(exit))
}

fn through(middle: &Middle, upstreams: String) -> Config {
    middle
        .config()
        .set("upstreams", upstreams)
        .set("general.middle_proxy_nat_ip", "\"127.0.0.200\"")
}

#[tokio::test]
async fn without_a_usable_address_a_strict_pool_stays_down_and_a_compatible_one_comes_up() {
    let middle = Middle::five_dcs(1);
    let server = silent();
    let config = through(&middle, server.upstream());
    let proxy = config.clone().start();
    until("dials are refused", || {
        (proxy.me_count("socks_kdf_strict_reject_total") > 2).then_some(())
    })
    .await;
    assert_eq!(proxy.me_count("socks_kdf_compat_fallback_total"), 0);
    assert_eq!(proxy.writers("alive_writers"), 0);
    assert!(middle.me.opened().is_empty());
    let told = until("the self-test has heard of it", || {
        let test = proxy.get("/v1/runtime/me-selftest")["data"].clone();
        let errors = test["kdf"]["errors_total"].as_u64();
        (errors > Some(0)).then(|| test["bnd"].clone())
    })
    .await;
    let states = [&told["addr_state"], &told["port_state"], &told["last_addr"]];
    assert_eq!(states, ["bogon", "zero", "0.0.0.0:0"]);

    let config = proxy
        .config()
        .set("general.me_socks_kdf_policy", "\"compat\"");
    let said = proxy.reload(&config);
    assert!(said.contains("me_socks_kdf_policy"), "{said}");
    proxy.until_at_floor().await;
    assert!(proxy.me_count("socks_kdf_compat_fallback_total") >= 5);
    serve_all(&proxy).await;
    middle.expect_clean();
    // Every ME was reached through the server, and downloads too.
    let targets = server.targets();
    for endpoint in middle.me.endpoints() {
        assert!(targets.contains(&endpoint), "{endpoint} in {targets:?}");
    }
}

#[tokio::test]
async fn an_address_of_the_server_that_is_not_true_ends_in_keys_that_disagree() {
    let middle = Middle::five_dcs(1);
    let says = Says::This("8.8.8.8:888".parse().unwrap());
    let server = ScriptedSocks::start(says);
    let proxy = through(&middle, server.upstream()).start();
    until("dials have failed", || {
        (bnd(&proxy)["addr_state"] == "ok").then_some(())
    })
    .await;
    a_while().await;
    assert_eq!(bnd(&proxy)["last_addr"], "8.8.8.8:888");
    assert_eq!(proxy.writers("alive_writers"), 0);
    assert_eq!(proxy.me_count("socks_kdf_strict_reject_total"), 0);
    wait_until("the log says so", || {
        proxy.log().contains("keys disagree").then_some(())
    });
}

#[tokio::test]
async fn microsocks_tells_nothing_and_is_refused() {
    let Some(microsocks) = find("microsocks") else {
        return;
    };
    let port = free_port();
    let args = ["-i", "127.0.0.1", "-p", &port.to_string()];
    let _server = run(&microsocks, &args, port);
    let middle = Middle::five_dcs(1);
    let proxy = through(&middle, socks("socks5", port)).start();
    until("dials are refused", || {
        (proxy.me_count("socks_kdf_strict_reject_total") > 2).then_some(())
    })
    .await;
    assert_eq!(proxy.writers("alive_writers"), 0);
}

#[tokio::test]
async fn a_dead_server_is_named_and_the_pool_comes_up_when_it_does() {
    let middle = Middle::five_dcs(1);
    let server = silent();
    let names = format!(
        "[{}, {}]",
        "{ type = \"socks5\", address = \"127.0.0.1:1\", weight = 1 }",
        server.entry(),
    );
    let proxy = through(&middle, names)
        .set("general.me_socks_kdf_policy", "\"compat\"")
        .start();
    proxy.until_at_floor().await;
    serve_all(&proxy).await;
    middle.expect_clean();
}

/// Runs the test of this name again in a network namespace, where addresses that look public are
/// ours. False where the system does not let us.
fn in_own_network(test: &str) -> bool {
    let (Some(unshare), Some(_ip)) = (find("unshare"), find("ip")) else {
        return false;
    };
    let allowed = Command::new(&unshare).args(["-rnpf", "true"]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        println!("skipped: no network namespaces for us");
        return false;
    }
    let output = Command::new(unshare)
        // What is started there ends with it.
        .args(["-rnpf", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said =
        [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    assert!(output.status.success(), "{}", said.concat());
    true
}

/// Set in the namespace.
const INSIDE: &str = "PINNACE_TEST_NAMESPACE";
/// Where MEs are, in the namespace.
const ME: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 1, 1));
/// Where the SOCKS server leaves from.
const EXIT: &str = "11.0.0.2";

fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn public_addresses() {
    let ip = find("ip").unwrap();
    for args in [
        "link set lo up".to_owned(),
        format!("addr add {ME}/32 dev lo"),
        format!("addr add {EXIT}/32 dev lo"),
    ] {
        let done = Command::new(&ip).args(args.split(' ')).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "ip {args}: {said}");
    }
}

#[tokio::test]
async fn an_honest_server_brings_the_pool_up() {
    if !is_inside() {
        in_own_network("an_honest_server_brings_the_pool_up");
        return;
    }
    public_addresses();
    let middle = Middle::around(FakeMe::start(&[(2, &[ME]), (4, &[ME])]).unwrap());
    let server = ScriptedSocks::start(Says::Own);
    check_honest(&middle, server.upstream()).await;
}

#[tokio::test]
async fn danted_is_honest() {
    let Some(danted) = find("danted") else {
        return;
    };
    if !is_inside() {
        in_own_network("danted_is_honest");
        return;
    }
    public_addresses();
    let dir = tempfile::tempdir().unwrap();
    for kind in ["socks5", "socks4"] {
        let port = free_port();
        let file = dir.path().join(format!("{kind}.conf"));
        let text = format!(
            "logoutput: stderr\ninternal: 127.0.0.1 port = {port}\nexternal: {EXIT}\n\
             socksmethod: none\nclientmethod: none\nuser.privileged: root\n\
             user.unprivileged: root\n\
             client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n\
             socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        let _server = run(&danted, &["-f", &file], port);
        let middle = Middle::around(FakeMe::start(&[(2, &[ME]), (4, &[ME])]).unwrap());
        check_honest(&middle, socks(kind, port)).await;
    }
}

/// Under the strict policy, with nothing set by hand.
async fn check_honest(middle: &Middle, upstreams: String) {
    let proxy = middle.config().set("upstreams", upstreams).start();
    proxy.until_at_floor().await;
    until("the self-test has heard of it", || {
        let told = bnd(&proxy);
        (told["addr_state"] == "ok" && told["port_state"] == "ok").then_some(())
    })
    .await;
    assert_eq!(proxy.me_count("socks_kdf_strict_reject_total"), 0);
    assert_eq!(proxy.me_count("socks_kdf_compat_fallback_total"), 0);
    let last = bnd(&proxy)["last_addr"].to_string();
    assert!(last.contains("\"11.0."), "{last}");
    serve_all(&proxy).await;
    middle.expect_clean();
}
