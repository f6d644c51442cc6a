//! The wire: malformed, slow, endless and abandoned requests, and what must still work meanwhile.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{
    io::{BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use admin::ApiSettings;
use support::{
    Server,
    client::{call, connect, drain, get, receive, request, send},
};

fn server() -> Server {
    Server::start(ApiSettings {
        request_body_limit_bytes: 1_000,
        ..ApiSettings::default()
    })
}

fn outcome(addr: SocketAddr, bytes: &[u8]) -> (u16, String) {
    send(addr, bytes).unwrap().outcome()
}

fn bad() -> (u16, String) {
    (400, "bad_request".to_owned())
}

fn too_large() -> (u16, String) {
    (413, "payload_too_large".to_owned())
}

#[test]
fn malformed_requests_get_an_error_and_harm_nobody() {
    let server = server();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/health HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/users HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    ] {
        assert_eq!(outcome(server.addr(), bytes), bad(), "{bytes:?}");
    }
    // Lengths that no machine could hold.
    for length in [
        "99999999999999999",
        "18446744073709551615",
        "100000000000000",
    ] {
        for path in ["/v1/users", "/v1/nothing"] {
            let bytes = format!("POST {path} HTTP/1.1\r\nContent-Length: {length}\r\n\r\n");
            let status = send(server.addr(), bytes.as_bytes()).unwrap().status;
            assert!(
                matches!(status, 400 | 404 | 413),
                "{path} {length}: {status}"
            );
        }
    }
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
}

#[test]
fn endless_heads_are_cut_off() {
    let server = server();
    let mut stream = connect(server.addr());
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nA: ").unwrap();
    let mut sent = 0;
    // Until the server has closed and the kernel tells us so.
    while sent < 64 << 20 && stream.write_all(&[b'a'; 4096]).is_ok() {
        sent += 4096;
    }
    assert!(sent < 64 << 20, "took {sent} bytes of one header");
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
}

#[test]
fn connections_are_reused_until_told_otherwise() {
    let server = server();
    let stream = connect(server.addr());
    let mut reader = BufReader::new(&stream);
    for _ in 0..3 {
        (&stream)
            .write_all(request("GET", "/v1/health", "", None).as_bytes())
            .unwrap();
        let reply = receive(&mut reader, false).unwrap();
        assert_eq!((reply.status, reply.header("Connection")), (200, None));
    }
    let last = request(
        "PATCH",
        "/v1/users/alice",
        "Connection: close\r\n",
        Some("{}"),
    );
    (&stream).write_all(last.as_bytes()).unwrap();
    let reply = receive(&mut reader, false).unwrap();
    assert_eq!(
        (reply.status, reply.header("Connection")),
        (200, Some("close"))
    );
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    let old = send(server.addr(), b"GET /v1/health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((old.status, old.header("Connection")), (200, Some("close")));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = server();
    let stream = connect(server.addr());
    let mut bytes = String::new();
    for target in ["/v1/health", "/nothing", "/v1/users/alice"] {
        bytes += &request("GET", target, "", None);
    }
    bytes += &request("PATCH", "/v1/users/alice", "", Some("{}"));
    bytes += &request("PUT", "/v1/users/alice", "", None);
    (&stream).write_all(bytes.as_bytes()).unwrap();
    let mut reader = BufReader::new(&stream);
    let statuses: Vec<_> = (0..5)
        .map(|_| receive(&mut reader, false).unwrap().status)
        .collect();
    assert_eq!(statuses, [200, 404, 200, 200, 405]);
}

#[test]
fn heads_in_single_bytes_are_understood() {
    let server = server();
    let stream = connect(server.addr());
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n" {
        (&stream).write_all(&[*byte]).unwrap();
    }
    assert_eq!(
        receive(&mut BufReader::new(&stream), false).unwrap().status,
        200
    );
}

#[test]
fn bodies_are_limited_while_they_arrive() {
    let server = server();
    let padded = |total: usize| format!("{{\"username\":\"x y\"{}}}", " ".repeat(total - 18));
    let with_length = |total| request("POST", "/v1/users", "", Some(&padded(total)));
    assert_eq!(padded(1_000).len(), 1_000);
    assert_eq!(outcome(server.addr(), with_length(1_000).as_bytes()), bad());
    assert_eq!(
        outcome(server.addr(), with_length(1_001).as_bytes()),
        too_large()
    );

    let chunked = |total: usize| {
        let mut bytes = request("POST", "/v1/users", "Transfer-Encoding: chunked\r\n", None);
        for piece in padded(total).as_bytes().chunks(7) {
            bytes += &format!(
                "{:x}\r\n{}\r\n",
                piece.len(),
                std::str::from_utf8(piece).unwrap()
            );
        }
        bytes + "0\r\n\r\n"
    };
    assert_eq!(outcome(server.addr(), chunked(1_000).as_bytes()), bad());
    assert_eq!(
        outcome(server.addr(), chunked(1_001).as_bytes()),
        too_large()
    );
}

#[test]
fn endless_chunks_are_cut_off_with_an_answer() {
    let server = server();
    let stream = connect(server.addr());
    let head = request("POST", "/v1/users", "Transfer-Encoding: chunked\r\n", None);
    (&stream).write_all(head.as_bytes()).unwrap();
    let chunk = format!("400\r\n{}\r\n", "a".repeat(0x400));
    for _ in 0..100 {
        if (&stream).write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    let reply = receive(&mut BufReader::new(&stream), false).unwrap();
    assert_eq!(reply.outcome(), too_large());
}

#[test]
fn broken_bodies_are_bad_requests() {
    let server = server();
    for (headers, body) in [
        ("Transfer-Encoding: chunked\r\n", "zz\r\n"),
        (
            "Transfer-Encoding: chunked\r\n",
            "5\r\nabcdefgh\r\n0\r\n\r\n",
        ),
        ("Content-Length: 20\r\n", "{\"username\""),
    ] {
        let stream = connect(server.addr());
        let head = request("POST", "/v1/users", headers, None);
        (&stream)
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let reply = receive(&mut BufReader::new(&stream), false).unwrap();
        assert_eq!(reply.outcome(), bad(), "{headers}{body}");
    }
}

#[test]
fn peers_are_told_to_go_on_only_with_bodies_that_are_wanted() {
    let server = server();
    let expect = "Expect: 100-continue\r\n";
    let begin = |target: &str, length: usize| {
        let mut stream = connect(server.addr());
        let headers = format!("{expect}Content-Length: {length}\r\n");
        stream
            .write_all(request("PATCH", target, &headers, None).as_bytes())
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        (stream, String::from_utf8(first.to_vec()).unwrap())
    };
    let (stream, first) = begin("/v1/users/alice", 2);
    assert_eq!(first, "HTTP/1.1 100");
    (&stream).write_all(b"{}").unwrap();
    // The rest of the interim answer's status line and its blank line come first.
    let mut reader = BufReader::new(&stream);
    let mut rest = [0; b" Continue\r\n\r\n".len()];
    reader.read_exact(&mut rest).unwrap();
    assert_eq!(receive(&mut reader, false).unwrap().status, 200);
    assert_eq!(begin("/v1/users/alice", 1_001).1, "HTTP/1.1 413");
    assert_eq!(begin("/v1/nothing", 2).1, "HTTP/1.1 404");
}

#[test]
fn unread_bodies_do_not_swallow_the_answer() {
    let server = server();
    let body = "a".repeat(300_000);
    for (target, status) in [
        ("/v1/users/alice/reset-quota", 200),
        ("/v1/nothing", 404),
        ("/v1/users", 413),
    ] {
        let reply = call(server.addr(), "POST", target, "", Some(&body));
        assert_eq!(reply.status, status, "{target}");
        assert_eq!(reply.header("Connection"), Some("close"));
    }
}

#[test]
fn slow_senders_hold_up_nobody() {
    let server = server();
    let addr = server.addr();
    let mut slow = Vec::new();
    for index in 0..60 {
        let stream = connect(addr);
        let begun = match index % 3 {
            0 => "GET /v1/heal".to_owned(),
            1 => request("POST", "/v1/users", "Content-Length: 500\r\n", None) + "{",
            _ => request("POST", "/v1/users", "Transfer-Encoding: chunked\r\n", None) + "5\r\nab",
        };
        (&stream).write_all(begun.as_bytes()).unwrap();
        slow.push(stream);
    }
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(
            call(addr, "PATCH", "/v1/users/alice", "", Some("{}")).status,
            200
        );
        assert!(
            asked.elapsed() < Duration::from_secs(2),
            "{:?}",
            asked.elapsed()
        );
        for mut stream in &slow {
            let _ = stream.write_all(b"a");
        }
    }
}

#[test]
fn dripping_senders_and_silent_peers_are_closed_when_their_time_is_up() {
    let server = server();
    let addr = server.addr();
    let closed_after = move |drip: Option<&'static [u8]>| {
        let stream = connect(addr);
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let begun = Instant::now();
        loop {
            if let Some(bytes) = drip {
                let _ = (&stream).write_all(bytes);
            }
            let mut byte = [0];
            match (&stream).read(&mut byte) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => return begun.elapsed(),
            }
            assert!(begun.elapsed() < Duration::from_secs(25), "still open");
        }
    };
    let dripping = thread::spawn(move || closed_after(Some(b"a")));
    let silent = thread::spawn(move || closed_after(None));
    for waited in [dripping.join().unwrap(), silent.join().unwrap()] {
        assert!(waited > Duration::from_secs(13), "{waited:?}");
    }
}

#[test]
fn a_full_table_gives_its_longest_waiting_place_away() {
    let server = Server::start(ApiSettings {
        connections_max: 4,
        ..ApiSettings::default()
    });
    let waiting: Vec<TcpStream> = (0..4).map(|_| connect(server.addr())).collect();
    for _ in 0..10 {
        assert_eq!(get(server.addr(), "/v1/health").status, 200);
    }
    let oldest = waiting.into_iter().next().unwrap();
    assert!(drain(oldest).is_empty());
}

#[test]
fn peers_that_take_no_answers_hold_up_nobody() {
    let server = server();
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let stream = connect(server.addr());
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        // More requests than both sides' buffers can hold answers for.
        let many = request("GET", "/v1/stats/zero/all", "", None).repeat(5_000);
        let _ = (&stream).write_all(many.as_bytes());
        deaf.push(stream);
    }
    let asked = Instant::now();
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
}
