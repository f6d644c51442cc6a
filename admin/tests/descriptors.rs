//! Thousands of connections, and a process that has run out of file descriptors.
//!
//! The limit belongs to the whole process, so each test runs itself again in a child with a limit
//! of its own.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{
    fs::{self, File},
    io::{BufReader, ErrorKind, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use admin::ApiSettings;
use support::{
    Server,
    client::{connect, drain, get, receive, request},
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
fn five_thousand_idle_connections_cost_little_and_harm_nobody() {
    if !in_child(
        "five_thousand_idle_connections_cost_little_and_harm_nobody",
        "\"$(ulimit -Hn)\"",
    ) {
        return;
    }
    let server = Server::start(ApiSettings::default());
    assert_eq!(get(server.addr(), "/v1/users").status, 200);
    let (memory_before, open) = (resident_bytes(), open_files_max());
    // Both ends are in this process.
    let count = 5_000.min((open.saturating_sub(100)) / 2);
    let idle: Vec<TcpStream> = (0..count).map(|_| connect(server.addr())).collect();
    // Half of them have begun a request.
    for mut stream in idle.iter().step_by(2) {
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nHo").unwrap();
    }
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(get(server.addr(), "/v1/users").status, 200);
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
    }
    let grown = resident_bytes().saturating_sub(memory_before);
    let threads = fs::read_dir("/proc/self/task").unwrap().count();
    println!("{count} connections, {grown} bytes, {threads} threads");
    assert!(grown / count.max(1000) < 4_096, "{grown} bytes");
    assert!(threads < 50, "{threads} threads");
    // And each of them is still good for a request.
    for (index, stream) in idle.iter().enumerate().step_by(49) {
        let mut sender = stream;
        let request = request("GET", "/v1/health", "", None);
        let begun = if index % 2 == 0 {
            "GET /v1/health HTTP/1.1\r\nHo".len()
        } else {
            0
        };
        sender.write_all(&request.as_bytes()[begun..]).unwrap();
        assert_eq!(
            receive(&mut BufReader::new(stream), false).unwrap().status,
            200
        );
    }
}

fn resident_bytes() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

fn open_files_max() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.unwrap().split_whitespace().nth(3).unwrap();
    soft.parse().unwrap_or(usize::MAX)
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
    let ask = |stream: &TcpStream, patience: Duration| {
        let mut sender = stream;
        let request = request("GET", "/v1/health", "", None);
        sender.write_all(request.as_bytes()).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        receive(&mut BufReader::new(stream), false).map(|reply| reply.status)
    };
    // The only connection so far: none that is being closed gives a descriptor back unasked.
    let idle = connect(server.addr());
    assert_eq!(ask(&idle, LONG).unwrap(), 200);
    let mut files = Vec::new();
    let full = loop {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => break error,
        }
    };
    assert_ne!(full.kind(), ErrorKind::NotFound, "{full}");
    // The idle one gives its descriptor to a newcomer, which has work to do.
    files.pop().unwrap();
    let served = connect(server.addr());
    assert_eq!(ask(&served, LONG).unwrap(), 200);
    assert!(drain(idle).is_empty());
    // What the idle one held on this side is free now, too.
    files.extend((0..2).map_while(|_| File::open("/dev/null").ok()));
    files.pop().unwrap();
    // As soon as there are descriptors again nobody has to give way.
    let waiting = connect(server.addr());
    drop(files);
    assert_eq!(ask(&waiting, LONG).unwrap(), 200);
    for _ in 0..5 {
        assert_eq!(get(server.addr(), "/v1/health").status, 200);
    }
}

const LONG: Duration = Duration::from_secs(10);
const CHILD: &str = "PINNACE_TEST_CHILD";
