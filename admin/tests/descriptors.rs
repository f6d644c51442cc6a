//! Many idle connections, and a process that has run out of file descriptors.
//!
//! The limit belongs to the whole process, so each test runs itself again in a child with a limit
//! of its own.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use admin::ApiSettings;
use support::{
    Server,
    client::{connect, get, receive, request},
};

/// Runs the test `name` again in a child with this limit; `false` in the parent, when it is done.
fn in_child(name: &str, limit: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let script = format!("ulimit -n {limit}; exec \"$0\" --exact {name} --nocapture");
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new("sh");
    let status = child
        .arg("-c")
        .arg(script)
        .arg(program)
        .env(CHILD, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
    false
}

#[test]
fn five_hundred_idle_connections_leave_the_port_working() {
    if !in_child(
        "five_hundred_idle_connections_leave_the_port_working",
        "4096",
    ) {
        return;
    }
    let server = Server::start(ApiSettings::default());
    let idle: Vec<TcpStream> = (0..500).map(|_| connect(server.addr())).collect();
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(get(server.addr(), "/v1/users").status, 200);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
    }
    // And each of them is still good for a request.
    for stream in idle.iter().step_by(50) {
        let mut sender = stream;
        sender
            .write_all(request("GET", "/v1/health", "", None).as_bytes())
            .unwrap();
        assert_eq!(
            receive(&mut BufReader::new(stream), false).unwrap().status,
            200
        );
    }
}

#[test]
fn idle_connections_beyond_the_limit_leave_the_port_working() {
    if !in_child(
        "idle_connections_beyond_the_limit_leave_the_port_working",
        "4096",
    ) {
        return;
    }
    let settings = ApiSettings {
        connections_max: 200,
        ..ApiSettings::default()
    };
    let server = Server::start(settings);
    let _idle: Vec<TcpStream> = (0..500).map(|_| connect(server.addr())).collect();
    for _ in 0..20 {
        assert_eq!(get(server.addr(), "/v1/users").status, 200);
    }
}

#[test]
fn port_comes_back_with_the_descriptors() {
    if !in_child("port_comes_back_with_the_descriptors", "64") {
        return;
    }
    let server = Server::start(ApiSettings::default());
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
    let mut files = Vec::new();
    let full = loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
    };
    assert_ne!(full.kind(), ErrorKind::NotFound, "{full}");
    let ask = |stream: &TcpStream| {
        let mut sender = stream;
        sender
            .write_all(request("GET", "/v1/health", "", None).as_bytes())
            .unwrap();
    };
    // A blocked accept holds a descriptor in reserve, so a first connection still gets in; each
    // one that is answered stays open and makes the next one's life harder.
    let mut served = Vec::new();
    let stalled = loop {
        files.pop().unwrap();
        let Ok(stream) = TcpStream::connect(server.addr()) else {
            continue;
        };
        ask(&stream);
        stream
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        match receive(&mut BufReader::new(&stream), false) {
            Ok(_) => served.push(stream),
            Err(_) => break stream,
        }
    };
    drop(files);
    stalled
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    assert_eq!(
        receive(&mut BufReader::new(&stalled), false)
            .unwrap()
            .status,
        200
    );
    for _ in 0..5 {
        assert_eq!(get(server.addr(), "/v1/health").status, 200);
    }
}

const CHILD: &str = "PINNACE_TEST_CHILD";
