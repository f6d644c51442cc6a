//! SOCKS servers that stall, talk nonsense, hang up, or answer in unusual but valid ways.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use bench::client::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{serve, ways};
use crate::support::{Config, Proxy, bytes::first_bytes, fake_dc, hasty};

/// What a server does with every connection.
#[derive(Clone, Copy, Debug)]
enum Script {
    /// Accepts and says nothing.
    Stall,
    /// Answers the first message, and then says nothing.
    StallLater,
    /// Speaks another protocol.
    Garbage,
    /// Closes after the first message.
    HangUp,
    /// Refuses to connect, for this reason.
    Refuse(u8),
    /// Relays, and names its own end by a host name.
    DomainName,
    /// Relays, and sends each byte of its answers by itself.
    Split,
    /// Says this in one piece with its last answer, and then nothing.
    Ahead(&'static [u8]),
}

/// Starts a server; its threads end with the test's process.
fn start(script: Script) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // The proxy may have left in the middle.
            thread::spawn(move || drop(run(client, script)));
        }
    });
    addr
}

fn run(mut client: TcpStream, script: Script) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut hello = [0; 3];
    if !matches!(script, Script::Stall | Script::Garbage) {
        client.read_exact(&mut hello)?;
        assert_eq!(hello, [5, 1, 0]);
    }
    match script {
        Script::Stall => return drain(client),
        Script::Garbage => {
            client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
            return drain(client);
        }
        Script::HangUp => return Ok(()),
        Script::StallLater => {
            client.write_all(&[5, 0])?;
            return drain(client);
        }
        _ => say(&mut client, &[5, 0], script)?,
    }
    let mut request = [0; 10];
    client.read_exact(&mut request)?;
    let [5, 1, 0, 1, a, b, c, d, high, low] = request else {
        return Err(io::Error::other(format!("asked for {request:?}")));
    };
    let mut reply = vec![5, 0, 0];
    match script {
        Script::Refuse(code) => {
            return say(&mut client, &[5, code, 0, 1, 0, 0, 0, 0, 0, 0], script);
        }
        Script::DomainName => {
            reply.extend([3, 9]);
            reply.extend(b"localhost");
        }
        _ => reply.extend([1, 127, 0, 0, 1]),
    }
    reply.extend([1, 2]);
    if let Script::Ahead(more) = script {
        reply.extend(more);
        client.write_all(&reply)?;
        return drain(client);
    }
    let port = u16::from_be_bytes([high, low]);
    let server = TcpStream::connect((Ipv4Addr::new(a, b, c, d), port))?;
    say(&mut client, &reply, script)?;
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || pump(from, to));
    pump(server, client);
    Ok(())
}

fn say(client: &mut TcpStream, bytes: &[u8], script: Script) -> io::Result<()> {
    let piece = if matches!(script, Script::Split) {
        1
    } else {
        bytes.len()
    };
    for piece in bytes.chunks(piece) {
        client.write_all(piece)?;
        if piece.len() < bytes.len() {
            thread::sleep(Duration::from_millis(3));
        }
    }
    Ok(())
}

fn drain(mut client: TcpStream) -> io::Result<()> {
    io::copy(&mut client, &mut io::sink()).map(drop)
}

fn pump(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn through(server: SocketAddr, dc: SocketAddr) -> Config {
    let entry = format!("{{ type = \"socks5\", address = \"{server}\" }}");
    Config::new(dc).set("upstreams", ways(&[entry]))
}

fn attempts(proxy: &Proxy) -> u64 {
    proxy.zero("upstream/connect_attempt_total")
}

#[tokio::test]
async fn valid_answers_of_any_form_are_understood() {
    for script in [Script::DomainName, Script::Split] {
        let dc = fake_dc();
        let proxy = through(start(script), dc.addr()).start();
        for mode in Mode::PROXIED {
            serve(&proxy.dial(mode)).await.unwrap();
        }
        assert_eq!(attempts(&proxy), Mode::PROXIED.len() as u64, "{script:?}");
        assert_eq!(dc.stats().damaged, 0);
    }
}

#[tokio::test]
async fn bytes_behind_the_answer_are_the_streams() {
    const AHEAD: &[u8] = b"what a DC would have said, encrypted for the client";
    let dc = fake_dc();
    let proxy = through(start(Script::Ahead(AHEAD)), dc.addr()).start();
    // In fast mode nothing is changed on its way to a client without records.
    let opening = first_bytes(&proxy.dial(Mode::Dd));
    let mut stream = tokio::net::TcpStream::connect(proxy.addr).await.unwrap();
    stream.write_all(&opening).await.unwrap();
    let mut got = vec![0; AHEAD.len()];
    let read = stream.read_exact(&mut got);
    let read = tokio::time::timeout(crate::support::PATIENCE, read).await;
    read.unwrap().unwrap();
    assert_eq!(got, AHEAD);
}

#[tokio::test]
async fn a_server_that_stalls_has_the_one_connect_limit() {
    for script in [Script::Stall, Script::StallLater] {
        let dc = fake_dc();
        let proxy = through(start(script), dc.addr())
            .set("general.tg_connect", 1)
            .set("general.upstream_connect_budget_ms", 1500)
            .start();
        let began = Instant::now();
        serve(&hasty(proxy.dial(Mode::Ee))).await.unwrap_err();
        let took = began.elapsed();
        // A second, a pause, and another second that the budget may cut short.
        assert!(took >= Duration::from_millis(1_900), "{script:?}: {took:?}");
        assert!((2..=3).contains(&attempts(&proxy)), "{script:?}");
        assert_eq!(proxy.zero("upstream/connect_fail_total"), 1);
        proxy.until_connections(0).await;
    }
}

#[tokio::test]
async fn sessions_of_a_stalled_server_move_on_after_the_connect_limit() {
    let dc = fake_dc();
    let server = start(Script::Stall);
    let entries = [
        format!("{{ type = \"socks5\", address = \"{server}\", weight = 1000 }}"),
        "{ type = \"direct\" }".to_owned(),
    ];
    let proxy = Config::new(dc.addr())
        .set("upstreams", ways(&entries))
        .set("general.tg_connect", 1)
        .set("general.upstream_unhealthy_fail_threshold", 2)
        .start();
    for _ in 0..12 {
        serve(&proxy.dial(Mode::Ee)).await.unwrap();
    }
    // The first two of its clients wait for the limit; then nobody is sent there any more.
    let waited = attempts(&proxy) - 12;
    assert!((1..=2).contains(&waited), "{waited} waited");
    assert_eq!(super::row(&proxy, 0)["healthy"], waited < 2);
    assert_eq!(proxy.zero("upstream/connect_success_total"), 12);
    assert_eq!(dc.stats().accepted, 12);
}

#[tokio::test]
async fn nonsense_and_refusals_are_failed_attempts() {
    for script in [Script::Garbage, Script::HangUp, Script::Refuse(5)] {
        let dc = fake_dc();
        let proxy = through(start(script), dc.addr())
            .set("general.upstream_connect_failfast_hard_errors", true)
            .start();
        serve(&hasty(proxy.dial(Mode::Dd))).await.unwrap_err();
        assert_eq!(attempts(&proxy), 3, "{script:?}: {}", proxy.log());
        assert_eq!(proxy.zero("upstream/connect_fail_total"), 1);
        proxy.until_connections(0).await;
    }
    // Not allowed by the server's rules: that does not pass.
    let dc = fake_dc();
    let proxy = through(start(Script::Refuse(2)), dc.addr())
        .set("general.upstream_connect_failfast_hard_errors", true)
        .start();
    serve(&hasty(proxy.dial(Mode::Dd))).await.unwrap_err();
    assert_eq!(attempts(&proxy), 1);
    assert_eq!(proxy.zero("upstream/connect_failfast_hard_error_total"), 1);
}
