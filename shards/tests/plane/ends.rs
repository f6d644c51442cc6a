//! Drain and stop: who is let go on, who is closed, and that the shards end.

use std::{
    io::{ErrorKind, Read as _},
    net::TcpStream,
    time::Duration,
};

use shards::{
    control::{Command, PlaneEvent},
    settings::{Parking, RstOnClose},
};

use crate::{
    support::{LIMIT, Proxy},
    talk::{Talk, connect, echo, until_closed},
};

fn both(body: impl Fn(Parking)) {
    body(Parking::Ring);
    body(Parking::Executor);
}

#[test]
fn drain_lets_sessions_finish_and_takes_no_new_ones() {
    both(|parking| {
        let proxy = Proxy::start(echo(), |settings| {
            settings.plane.cores = vec![0, 1];
            settings.plane.parking = parking;
        });
        let addr = proxy.addr;
        let mut talks: Vec<_> = (0..6).map(|_| Talk::secure(addr)).collect();
        talks.iter_mut().for_each(|talk| talk.round_trip(1, 1_000));
        // A shard without sessions ends at once, so this asks for no answer of theirs.
        proxy.tell(|| Command::Drain);
        let refused = || TcpStream::connect(addr).is_err();
        let begun = std::time::Instant::now();
        while !refused() {
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "it still accepts"
            );
        }
        talks.iter_mut().for_each(|talk| {
            talk.round_trip(2, 200_000);
            talk.finish();
            talk.expect_end();
        });
        drop(talks);
        proxy.join();
    });
}

#[test]
fn drain_closes_the_rest_at_its_limit() {
    both(|parking| {
        let proxy = Proxy::start(echo(), |settings| {
            settings.plane.drain = Duration::from_millis(300);
            settings.plane.parking = parking;
        });
        let mut talk = Talk::secure(proxy.addr);
        talk.round_trip(1, 1_000);
        proxy.tell(|| Command::Drain);
        let (_, took) = until_closed(&mut talk.stream);
        assert!(took >= Duration::from_millis(250), "after {took:?}");
        proxy.join();
    });
}

#[test]
fn stop_closes_everything_at_once() {
    both(|parking| {
        let proxy = Proxy::start(echo(), |settings| settings.plane.parking = parking);
        let mut talk = Talk::secure(proxy.addr);
        talk.round_trip(1, 1_000);
        let mut mute = connect(proxy.addr);
        proxy.until("both", |now| now.core.connections_current == 2);
        let begun = std::time::Instant::now();
        proxy.tell(|| Command::Stop);
        until_closed(&mut talk.stream);
        until_closed(&mut mute);
        proxy.join();
        assert!(begun.elapsed() < Duration::from_secs(3));
    });
}

#[test]
fn events_tell_of_start_and_end() {
    let plane = shards::start(crate::support::settings(echo())).expect("a plane");
    let events = plane.events();
    assert_eq!(events.recv_blocking(), Ok(PlaneEvent::Listening));
    plane.stop();
    plane.join();
    assert_eq!(
        events.recv_blocking(),
        Ok(PlaneEvent::ShardDone { shard: 0 })
    );
}

/// How the proxy's end of a connection looks to a client: `true` for a reset.
fn ends_in_reset(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(LIMIT))
        .expect("a read time-out");
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn resets_are_sent_to_whom_the_settings_say() {
    for (rst_on_close, stranger, known) in [
        (RstOnClose::Off, false, false),
        (RstOnClose::Errors, true, false),
        (RstOnClose::Always, true, true),
    ] {
        let proxy = Proxy::start(echo(), |settings| {
            settings.plane.rst_on_close = rst_on_close;
            settings.timeouts.first_byte = Duration::from_millis(50);
            settings.timeouts.idle = Duration::from_millis(300);
        });
        let mut silent = TcpStream::connect(proxy.addr).expect("a connection");
        assert_eq!(ends_in_reset(&mut silent), stranger, "{rst_on_close:?}");
        let mut talk = Talk::secure(proxy.addr);
        talk.round_trip(1, 1_000);
        assert_eq!(ends_in_reset(&mut talk.stream), known, "{rst_on_close:?}");
    }
}
