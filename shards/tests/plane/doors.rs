//! Listeners: the Unix socket, places of the whole process, segment sizes, shared addresses.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use shards::{
    control::Command,
    settings::{Settings, UnixListenerSettings},
};
use socket2::SockRef;

use crate::{
    support::{LIMIT, Proxy, pause, settings},
    talk::{Talk, connect, echo, until_closed},
};

/// A port whose connections go on to a Unix socket, for clients that know only addresses.
fn bridge(path: &Path) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("bound");
    let path = path.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let near = stream.expect("accept");
            let far = UnixStream::connect(&path).expect("somebody listens");
            let (mut up, mut down) = (near.try_clone(), far.try_clone());
            thread::spawn(move || {
                let (mut from, mut to) = (near, far);
                // However it ends, the other side is told.
                drop(io::copy(&mut from, &mut to));
                drop(to.shutdown(Shutdown::Write));
            });
            thread::spawn(move || {
                if let (Ok(to), Ok(from)) = (&mut up, &mut down) {
                    drop(io::copy(from, to));
                    drop(to.shutdown(Shutdown::Write));
                }
            });
        }
    });
    addr
}

fn unix(path: PathBuf, proxy: bool) -> UnixListenerSettings {
    UnixListenerSettings {
        path,
        mode: Some(0o640),
        backlog: 64,
        proxy,
    }
}

#[test]
fn unix_socket_serves_on_all_shards_and_leaves_no_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("clients");
    let proxy = Proxy::start(echo(), |settings| {
        settings.plane.cores = vec![0, 1];
        settings.unix = Some(unix(path.clone(), false));
    });
    let mode = std::fs::metadata(&path)
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);
    let near = bridge(&path);
    let mut talks: Vec<Talk> = (0..16).map(|_| Talk::secure(near)).collect();
    for talk in &mut talks {
        talk.round_trip(1, 50_000);
    }
    let now = proxy.until("all", |now| now.core.sessions_current == 16);
    let from = now.user_ips.iter().find(|row| row.active > 0);
    assert_eq!(from.expect("sessions").ip, Ipv4Addr::LOCALHOST);
    // Whoever wakes first accepts: on a busy machine that may be one shard many times.
    let mut by_shard = proxy.by_shard(|now| now.core.sessions_current);
    while by_shard.contains(&0) && talks.len() < 400 {
        talks.push(Talk::secure(near));
        if let Some(talk) = talks.last_mut() {
            talk.round_trip(1, 5_000);
        }
        by_shard = proxy.by_shard(|now| now.core.sessions_current);
    }
    assert!(by_shard.iter().all(|count| *count > 0), "{by_shard:?}");
    Talk::tls(near).round_trip(2, 5_000);
    drop(talks);
    proxy.until_idle();
    drop(proxy);
    assert!(!path.exists());
}

#[test]
fn unix_socket_may_be_all_there_is_and_have_headers() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("clients");
    let mut settings = settings(echo());
    settings.listeners.clear();
    settings.unix = Some(unix(path.clone(), true));
    settings.proxy.trusted = Arc::new(["127.0.0.1/32".parse().expect("a network")]);
    let plane = shards::start(settings).expect("a plane");
    assert!(plane.addrs().is_empty());
    let mut stream = connect(bridge(&path));
    io::Write::write_all(&mut stream, b"PROXY TCP6 2001:db8::7 ::1 9 443\r\n").expect("write");
    Talk::secure_from(stream).round_trip(1, 1_000);
    plane.stop();
    plane.join();
    assert!(!path.exists());
}

#[test]
fn second_process_does_not_take_the_unix_socket_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("clients");
    let with_unix = |settings: &mut Settings| settings.unix = Some(unix(path.clone(), false));
    let proxy = Proxy::start(echo(), with_unix);
    let mut second = settings(echo());
    with_unix(&mut second);
    let error = shards::start(second).err().expect("the path is taken");
    assert!(
        error.to_string().contains("another process listens"),
        "{error}"
    );
    Talk::secure(bridge(&path)).round_trip(1, 1_000);
    drop(proxy);
}

/// Places for `max` clients on two shards.
fn places(max: usize, wait_ms: u64) -> Proxy {
    Proxy::start(echo(), |settings| {
        settings.plane.cores = vec![0, 1];
        settings.places.connections_max = max;
        settings.places.wait = (wait_ms > 0).then(|| Duration::from_millis(wait_ms));
    })
}

#[test]
fn bound_holds_for_all_shards_together() {
    const WAIT_MS: u64 = 200;
    let proxy = places(8, WAIT_MS);
    let mut held: Vec<Talk> = (0..8).map(|_| Talk::secure(proxy.addr)).collect();
    held.iter_mut().for_each(|talk| talk.round_trip(1, 1_000));
    for _ in 0..4 {
        let (got, took) = until_closed(&mut connect(proxy.addr));
        assert_eq!(got, b"");
        assert!(
            took >= Duration::from_millis(WAIT_MS / 2),
            "closed after {took:?}"
        );
        assert!(took < LIMIT);
    }
    let now = proxy.snapshot();
    assert_eq!(now.core.accept_permit_timeout_total, 4);
    assert_eq!(now.core.connections_current, 8);
    assert_eq!(now.core.connections_total, 12);
    held.iter_mut().for_each(|talk| talk.round_trip(2, 1_000));
}

#[test]
fn whoever_waits_gets_the_next_place_of_any_shard() {
    let proxy = places(2, 0);
    let mut held: Vec<Talk> = (0..2).map(|_| Talk::secure(proxy.addr)).collect();
    held.iter_mut().for_each(|talk| talk.round_trip(1, 1_000));
    let addr = proxy.addr;
    let waiting: Vec<_> = (0..6)
        .map(|_| thread::spawn(move || Talk::secure(addr).round_trip(3, 1_000)))
        .collect();
    pause(50);
    assert!(proxy.snapshot().core.connections_current <= 2);
    drop(held);
    for client in waiting {
        client.join().expect("it is served in the end");
    }
    let end = proxy.until_idle();
    assert_eq!(end.core.accept_permit_timeout_total, 0);
}

#[test]
fn crowds_wait_outside_and_all_are_served_in_the_end() {
    // One shard lets them in as they came; the next has a place when the one before has left.
    let proxy = Proxy::start(echo(), |settings| settings.places.connections_max = 1);
    let mut held = Talk::secure(proxy.addr);
    held.round_trip(1, 100);
    // More than wait inside.
    let crowd: Vec<Talk> = (0..400).map(|_| Talk::secure(proxy.addr)).collect();
    pause(100);
    assert_eq!(proxy.snapshot().core.connections_current, 1);
    drop(held);
    for mut talk in crowd {
        talk.round_trip(1, 100);
    }
    proxy.until_idle();
}

#[test]
fn clients_without_a_place_do_not_hold_up_the_end() {
    let proxy = places(1, 0);
    let mut held = Talk::secure(proxy.addr);
    held.round_trip(1, 100);
    let mut waiting = connect(proxy.addr);
    pause(50);
    let began = Instant::now();
    proxy.tell(|| Command::Drain);
    assert_eq!(until_closed(&mut waiting).0, b"");
    assert!(began.elapsed() < LIMIT);
    held.round_trip(2, 100);
    drop(held);
    proxy.join();
}

#[test]
fn announced_segment_size_is_the_listeners() {
    let mut settings = settings(echo());
    let mut plain = settings.listeners[0].clone();
    settings.listeners[0].mss = Some(256);
    plain.addr = ([127, 0, 0, 2], 0).into();
    settings.listeners.push(plain);
    let plane = shards::start(settings).expect("a plane");
    let mss = |at: usize| {
        let stream = connect(plane.addrs()[at]);
        SockRef::from(&stream).tcp_mss().expect("a size")
    };
    assert!(mss(0) <= 256, "{}", mss(0));
    assert!(mss(1) > 1_000, "{}", mss(1));
    let mut talk = Talk::tls(plane.addrs()[0]);
    talk.round_trip(1, 100_000);
    drop(talk);
    plane.stop();
    plane.join();
}

#[test]
fn only_shared_addresses_are_taken_twice() {
    for shared in [true, false] {
        let mut first = settings(echo());
        first.listeners[0].shared = shared;
        let plane = shards::start(first.clone()).expect("a plane");
        first.listeners[0].addr = plane.addrs()[0];
        let second = shards::start(first);
        assert_eq!(second.is_ok(), shared);
        for plane in [Some(plane), second.ok()].into_iter().flatten() {
            plane.stop();
            plane.join();
        }
    }
}
