//! Unix sockets as far sides, resets that are heard after an end, resets and flushes of our own.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::{
    super::{Engine, EngineSettings, Event, Owner, SocketId},
    buffers, in_both,
};
use crate::settings::Parking;

const OWNER: Owner = Owner(7);
const LIMIT: Duration = Duration::from_secs(20);

fn engine(parking: Parking) -> Engine {
    let settings = EngineSettings {
        buffers: buffers(),
        parking,
        keepalive: Duration::ZERO,
    };
    Engine::new(settings).expect("an engine")
}

/// The first event of which `look` makes something.
fn wait<T>(engine: &mut Engine, mut look: impl FnMut(Event) -> Option<T>) -> T {
    let limit = Instant::now() + LIMIT;
    loop {
        engine.enter(false).expect("enter");
        while let Some(event) = engine.next_event() {
            if let Some(found) = look(event) {
                return found;
            }
        }
        assert!(Instant::now() < limit, "nothing happens any more");
        std::thread::yield_now();
    }
}

/// A connection between the engine and a plain socket.
fn pair(engine: &mut Engine) -> (SocketId, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("bound");
    engine.connect(addr, OWNER).expect("a connect");
    let socket = wait(engine, |event| match event {
        Event::Connected { socket, .. } => Some(socket),
        _ => None,
    });
    engine.resume(socket);
    let (peer, _) = listener.accept().expect("a connection");
    peer.set_read_timeout(Some(LIMIT)).expect("an option");
    (socket, peer)
}

fn reset(peer: TcpStream) {
    let linger = SockRef::from(&peer).set_linger(Some(Duration::ZERO));
    linger.expect("an option");
}

/// Closes what is left and sees that nothing is.
fn expect_empty(engine: &mut Engine, socket: SocketId) {
    engine.close(socket);
    let limit = Instant::now() + LIMIT;
    while engine.socket_count() > 0 {
        engine.enter(false).expect("enter");
        let event = engine.next_event();
        assert!(event.is_none(), "{event:?} of a closed socket");
        assert!(Instant::now() < limit, "a socket stays");
    }
    // The close itself is only queued.
    engine.enter(false).expect("enter");
    assert_eq!(engine.buffers_held(), 0);
}

#[test]
fn unix_sockets_are_far_sides_like_any_other() {
    in_both(|parking| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("far.sock");
        let mut engine = engine(parking);
        engine.connect_unix(&path, OWNER).expect("a connect");
        let errno = wait(&mut engine, |event| match event {
            Event::ConnectFailed { errno, .. } => Some(errno),
            _ => None,
        });
        assert_eq!(errno, libc::ENOENT);
        let listener = UnixListener::bind(&path).expect("a listener");
        engine.connect_unix(&path, OWNER).expect("a connect");
        let socket = wait(&mut engine, |event| match event {
            Event::Connected { socket, .. } => Some(socket),
            _ => None,
        });
        engine.resume(socket);
        let (mut peer, _) = listener.accept().expect("a connection");
        engine.send_bytes(socket, b"up"[..].into());
        peer.write_all(b"down").expect("it takes bytes");
        let got = wait(&mut engine, |event| match event {
            Event::Received { buf, .. } => Some(buf.bytes().to_vec()),
            _ => None,
        });
        assert_eq!(got, b"down");
        let mut up = [0; 2];
        peer.read_exact(&mut up).expect("bytes");
        assert_eq!(&up, b"up");
        expect_empty(&mut engine, socket);
    });
}

#[test]
fn a_reset_behind_an_end_is_told_where_it_is_watched_for() {
    in_both(|parking| {
        let mut engine = engine(parking);
        let (socket, peer) = pair(&mut engine);
        peer.shutdown(std::net::Shutdown::Write).expect("an end");
        wait(&mut engine, |event| match event {
            Event::Ended { owner: OWNER } => Some(()),
            _ => None,
        });
        engine.watch_reset(socket);
        // The end that is known already is no news.
        for _ in 0..20 {
            engine.enter(false).expect("enter");
            assert!(engine.next_event().is_none());
        }
        reset(peer);
        let errno = wait(&mut engine, |event| match event {
            Event::Failed { errno, .. } => Some(errno),
            _ => None,
        });
        assert_eq!(errno, libc::ECONNRESET);
        expect_empty(&mut engine, socket);
    });
}

#[test]
fn a_socket_can_be_flushed_and_then_reset() {
    in_both(|parking| {
        const BYTES: usize = 4 << 20;
        let mut engine = engine(parking);
        let (socket, mut peer) = pair(&mut engine);
        assert!(engine.queued(socket) == 0);
        engine.send_bytes(socket, vec![7; BYTES].into());
        assert!(!engine.flush(socket), "4 MB are sent at once");
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; BYTES];
            peer.read_exact(&mut all).expect("every byte");
            (peer, all.iter().all(|byte| *byte == 7))
        });
        wait(&mut engine, |event| match event {
            Event::Finished { .. } => Some(()),
            _ => None,
        });
        let (mut peer, whole) = reader.join().expect("a reader");
        assert!(whole);
        engine.reset(socket);
        expect_empty(&mut engine, socket);
        let end = peer.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_socket_with_nothing_to_send_is_flushed_already() {
    in_both(|parking| {
        let mut engine = engine(parking);
        let (socket, _peer) = pair(&mut engine);
        assert!(engine.flush(socket));
        assert!(engine.flush(socket), "asked again");
        assert!(engine.flush(SocketId::NONE));
        expect_empty(&mut engine, socket);
        engine.watch_reset(socket);
        engine.reset(socket);
        assert_eq!(engine.socket_count(), 0);
    });
}

/// What a peer reads of a socket that goes while its receive waits.
fn last_words(parking: Parking, go: fn(&mut Engine, SocketId)) -> std::io::Result<usize> {
    let mut engine = engine(parking);
    let (socket, mut peer) = pair(&mut engine);
    engine.enter(false).expect("enter");
    go(&mut engine, socket);
    expect_empty(&mut engine, SocketId::NONE);
    peer.read(&mut [0; 8])
}

#[test]
fn a_close_is_an_end_and_a_reset_is_no_end_while_a_receive_waits() {
    in_both(|parking| {
        let closed = last_words(parking, |engine, socket| engine.close(socket));
        assert_eq!(closed.expect("an end"), 0);
        let reset = last_words(parking, |engine, socket| engine.reset(socket));
        let error = reset.expect_err("a reset, and no end before it");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    });
}
