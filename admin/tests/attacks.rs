//! More of everything bad than there are threads, while others are served.
#![expect(clippy::unwrap_used, reason = "a failing helper is a failing test")]

mod support;

use std::{
    fs,
    io::{BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use admin::{ApiSettings, MetricsSettings, start_metrics};
use proptest::{collection::vec, prelude::*, sample::select};
use support::{
    Server,
    canned::CannedPlane,
    client::{connect, drain, get, receive, request},
};

/// A few requests of somebody honest, each answered soon.
fn honest(addr: SocketAddr) {
    for _ in 0..10 {
        let asked = Instant::now();
        assert_eq!(get(addr, "/v1/users/alice").status, 200);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}

/// Opens connections that send `begun` and stop; they stay as long as they are kept.
fn stalled(addr: SocketAddr, count: usize, begun: &str) -> Vec<TcpStream> {
    (0..count)
        .map(|_| {
            let stream = connect(addr);
            (&stream).write_all(begun.as_bytes()).unwrap();
            stream
        })
        .collect()
}

#[test]
fn bodies_that_never_end_hold_up_nobody() {
    let server = Server::start(ApiSettings::default());
    let addr = server.addr();
    let length = request("POST", "/v1/users", "Content-Length: 500\r\n", None) + "{";
    let chunked = request("POST", "/v1/users", "Transfer-Encoding: chunked\r\n", None) + "5\r\na";
    let mut slow = stalled(addr, 60, &length);
    slow.extend(stalled(addr, 60, &chunked));
    honest(addr);
    // Dripping keeps nobody his place either.
    let stop = Arc::new(AtomicBool::new(false));
    let dripping = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for mut stream in &slow {
                    let _ = stream.write_all(b"a");
                }
                thread::sleep(Duration::from_millis(5));
            }
        })
    };
    honest(addr);
    stop.store(true, Ordering::Relaxed);
    dripping.join().unwrap();
}

#[test]
fn heads_that_never_end_take_no_thread() {
    let server = Server::start(ApiSettings::default());
    let addr = server.addr();
    let mut slow = stalled(addr, 300, "GET /v1/health HTTP/1.1\r\nA: ");
    honest(addr);
    for _ in 0..20 {
        for stream in &mut slow {
            stream.write_all(b"a").unwrap();
        }
    }
    honest(addr);
    // Nobody was displaced: there was room for all.
    for stream in &mut slow {
        stream.write_all(b"b\r\n\r\n").unwrap();
        let reply = receive(&mut BufReader::new(&*stream), false).unwrap();
        assert_eq!(reply.status, 200);
    }
}

#[test]
fn floods_of_pipelined_requests_leave_others_their_turn() {
    let server = Server::start(ApiSettings::default());
    let addr = server.addr();
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..40)
        .map(|_| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let many = request("GET", "/v1/health", "", None).repeat(500);
                while !stop.load(Ordering::Relaxed) {
                    let stream = connect(addr);
                    let mut reader = BufReader::new(&stream);
                    let _ = (&stream).write_all(many.as_bytes());
                    let answered = (0..500).map_while(|_| receive(&mut reader, false).ok());
                    assert!(answered.take(500).all(|reply| reply.status == 200));
                }
            })
        })
        .collect();
    honest(addr);
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    let server = Server::start(ApiSettings {
        connections_max: 64,
        ..ApiSettings::default()
    });
    for round in 0..2_000 {
        let stream = connect(server.addr());
        match round % 4 {
            0 => {}
            1 => (&stream).write_all(b"GET").unwrap(),
            2 => (&stream)
                .write_all(request("GET", "/nothing", "", None).as_bytes())
                .unwrap(),
            _ => (&stream)
                .write_all(request("POST", "/v1/users", "Content-Length: 9\r\n", None).as_bytes())
                .unwrap(),
        }
    }
    honest(server.addr());
}

#[test]
fn answers_nobody_takes_hold_up_nobody() {
    let server = Server::start(ApiSettings::default());
    server.many_users(200);
    let addr = server.addr();
    // Answers of 100 KiB; buffers hold a few dozen of them.
    let many = request("GET", "/v1/users", "", None).repeat(300);
    let deaf = stalled(addr, 60, &many);
    honest(addr);
    drop(deaf);
    honest(addr);
}

#[test]
fn threads_of_the_api_stand_back() {
    let server = Server::start(ApiSettings::default());
    assert_eq!(get(server.addr(), "/v1/health").status, 200);
    let mut seen = 0;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let Ok(stat) = fs::read_to_string(task.join("stat")) else {
            continue;
        };
        // `pid (name) state ...`; the 19th field is the nice value.
        let (name, rest) = stat.split_once(") ").unwrap();
        if name.ends_with("(api") || name.ends_with("(api-worker") {
            assert_eq!(rest.split(' ').nth(16), Some("10"), "{stat}");
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen} threads");
}

#[test]
fn the_metrics_port_is_as_hard_to_hurt() {
    let settings = MetricsSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        ..MetricsSettings::default()
    };
    let metrics = start_metrics(settings, Arc::new(CannedPlane::busy())).unwrap();
    let addr = metrics.addr();
    let alive = || {
        let asked = Instant::now();
        assert_eq!(get(addr, "/metrics").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5));
    };
    let _heads = stalled(addr, 100, "GET /metrics HTTP/1.1\r\nA");
    alive();
    let many = request("GET", "/metrics", "", None).repeat(300);
    let _deaf = stalled(addr, 10, &many);
    alive();
    let huge = request(
        "POST",
        "/metrics",
        "Content-Length: 99999999999999999\r\n",
        None,
    );
    let _bodies = stalled(addr, 10, &huge);
    alive();
    let mut long = connect(addr);
    long.write_all(b"GET /metrics HTTP/1.1\r\nA: ").unwrap();
    let _ = long.write_all(&vec![b'a'; 1 << 20]);
    let mut answer = [0; 12];
    if long.read_exact(&mut answer).is_ok() {
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    alive();
    // More idle connections than it holds.
    let idle = stalled(addr, 400, "");
    alive();
    let oldest = idle.into_iter().next().unwrap();
    assert!(drain(oldest).is_empty());
}

/// Pieces of requests, and bytes that are none.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known = select(vec![
        &b"GET /v1/health HTTP/1.1\r\n"[..],
        b"POST /v1/users HTTP/1.1\r\n",
        b"PATCH /v1/config?reload=drain HTTP/1.0\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"If-Match: \"\xff\"\r\n",
        b"\r\n",
        b"\n\n",
        b"5\r\n{\"a\"}\r\n",
        b"0\r\n\r\n",
        b"{\"username\":\"x\",\"data_quota_bytes\":1e400}",
    ]);
    let piece = prop_oneof![
        4 => known.prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 0..30),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

#[test]
fn nonsense_gets_an_answer_or_none_and_the_port_lives_on() {
    let server = Server::start(ApiSettings::default());
    let addr = server.addr();
    proptest!(ProptestConfig::with_cases(300), |(bytes in pieces())| {
        let stream = connect(addr);
        let _ = (&stream).write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let said = drain(stream);
        prop_assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 "));
    });
    honest(addr);
}
