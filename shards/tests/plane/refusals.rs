//! Those that are not ours: silence, whatever they try.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use shards::{
    counters::BadClass,
    proto::{dc::DcId, framing::Framing, obfuscated2::client_side, secret::Secret},
};

use crate::{
    support::{DOMAIN, Proxy, SECRET},
    talk::{Talk, connect, echo, hello, random, until_closed},
};

/// A short handshake limit; it is stretched by up to half.
const HANDSHAKE: Duration = Duration::from_millis(300);

fn proxy(shards: usize) -> Proxy {
    Proxy::start(echo(), |settings| {
        settings.plane.cores = (0..shards).collect();
        settings.timeouts.handshake = HANDSHAKE;
    })
}

fn header(secret: &Secret) -> [u8; 64] {
    client_side(&mut random, secret, Framing::Padded, DcId(2)).wire
}

/// Sends `bytes`, and gets nothing but a close at the handshake limit.
fn expect_silence(addr: SocketAddr, bytes: &[u8]) {
    // The limit begins at the accept, which a busy machine has behind it when we begin to wait.
    let began = std::time::Instant::now();
    let mut stream = connect(addr);
    stream.write_all(bytes).expect("write");
    let (got, _) = until_closed(&mut stream);
    let took = began.elapsed();
    assert_eq!(got, b"");
    assert!(took >= HANDSHAKE, "closed after {took:?}");
    assert!(took < 20 * HANDSHAKE, "closed after {took:?}");
}

#[test]
fn strangers_get_silence_until_the_handshake_limit() {
    let proxy = proxy(1);
    let wrong = Secret([9; 16]);
    let mut garbled = hello(&SECRET, DOMAIN);
    garbled[200] ^= 1;
    let mut long = hello(&SECRET, DOMAIN);
    long.push(0);
    let cases: [(&[u8], BadClass); 7] = [
        (&header(&wrong), BadClass::ObfuscatedAuth),
        (&hello(&wrong, DOMAIN), BadClass::TlsDigest),
        (&garbled, BadClass::TlsDigest),
        (&long, BadClass::TlsMalformed),
        (&hello(&SECRET, "other.example"), BadClass::TlsUnknownSni),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", BadClass::NotOurs),
        (&[0x16, 3, 1, 0, 10, 1, 0, 0], BadClass::TlsMalformed),
    ];
    for (bytes, class) in cases {
        let before = proxy.snapshot().bad_by_class[class as usize];
        expect_silence(proxy.addr, bytes);
        let after = proxy.until_idle().bad_by_class[class as usize];
        assert_eq!(after, before + 1, "{class:?}");
    }
    let end = proxy.until_idle();
    assert_eq!(end.core.connections_bad_total, 7);
    assert_eq!(end.core.sessions_total, 0);
}

#[test]
fn stranger_may_talk_on_and_is_only_discarded() {
    let proxy = proxy(1);
    let mut stream = connect(proxy.addr);
    let noise = vec![b'x'; 4 << 20];
    // The limit may cut it short.
    drop(stream.write_all(&noise));
    let (got, _) = until_closed(&mut stream);
    assert_eq!(got, b"");
    proxy.until_idle();
}

#[test]
fn replayed_header_is_refused_on_every_shard() {
    let proxy = proxy(2);
    let wire = header(&SECRET);
    let mut first = connect(proxy.addr);
    first.write_all(&wire).expect("header");
    proxy.until("a session", |now| now.core.sessions_current == 1);
    for _ in 0..8 {
        expect_silence(proxy.addr, &wire);
    }
    drop(first);
    let end = proxy.until_idle();
    assert_eq!(end.bad_by_class[BadClass::ObfuscatedReplay as usize], 8);
}

#[test]
fn replayed_hello_gets_no_answer() {
    let proxy = proxy(2);
    let hello = hello(&SECRET, DOMAIN);
    let mut first = connect(proxy.addr);
    first.write_all(&hello).expect("hello");
    first.read_exact(&mut [0; 100]).expect("an answer");
    for _ in 0..8 {
        expect_silence(proxy.addr, &hello);
    }
    drop(first);
    let end = proxy.until_idle();
    assert_eq!(end.bad_by_class[BadClass::TlsReplay as usize], 8);
}

#[test]
fn pieces_of_a_client_time_out() {
    let proxy = proxy(1);
    let whole = hello(&SECRET, DOMAIN);
    for part in [&whole[..1], &whole[..300], &header(&SECRET)[..63]] {
        expect_silence(proxy.addr, part);
    }
    let end = proxy.until_idle();
    assert_eq!(end.core.handshake_timeouts_total, 3);
}

#[test]
fn first_byte_limit_closes_the_mute() {
    let limit = Duration::from_millis(200);
    let proxy = Proxy::start(echo(), |settings| settings.timeouts.first_byte = limit);
    let mut mute: Vec<_> = (0..20).map(|_| connect(proxy.addr)).collect();
    for stream in &mut mute {
        let (got, took) = until_closed(stream);
        assert_eq!(got, b"");
        assert!(took < 20 * limit);
    }
    let end = proxy.until_idle();
    assert_eq!(end.bad_by_class[BadClass::Timeout as usize], 20);
    assert_eq!(end.core.handshake_timeouts_total, 0);
}

/// Not even by the part of a millisecond that the shard's clock is rounded down by.
#[test]
fn no_limit_is_cut_short() {
    let limit = Duration::from_millis(10);
    let proxy = Proxy::start(echo(), |settings| settings.timeouts.first_byte = limit);
    for _ in 0..100 {
        let began = std::time::Instant::now();
        let (got, _) = until_closed(&mut connect(proxy.addr));
        let took = began.elapsed();
        assert_eq!(got, b"");
        assert!(took >= limit, "closed after {took:?}");
    }
}

#[test]
fn answered_client_without_a_header_is_closed() {
    let limit = Duration::from_millis(200);
    let proxy = Proxy::start(echo(), |settings| settings.timeouts.inner_header = limit);
    let mut stream = connect(proxy.addr);
    stream.write_all(&hello(&SECRET, DOMAIN)).expect("hello");
    let (answer, _) = until_closed(&mut stream);
    assert!(answer.len() > 1_000);
    let end = proxy.until_idle();
    assert_eq!(end.core.handshake_timeouts_total, 1);
}

#[test]
fn clients_that_leave_at_any_point_leave_nothing() {
    let proxy = Proxy::start(echo(), |_| ());
    let (hello, plain) = (hello(&SECRET, DOMAIN), header(&SECRET));
    for bytes in [&[][..], &hello[..1], &hello[..400], &plain[..10]] {
        for abort in [false, true] {
            let mut stream = connect(proxy.addr);
            stream.write_all(bytes).expect("write");
            if abort {
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).expect("linger");
            } else {
                stream.shutdown(Shutdown::Write).expect("half-close");
                let (got, _) = until_closed(&mut stream);
                assert_eq!(got, b"");
            }
        }
    }
    proxy.until("all", |now| now.core.connections_total == 8);
    let end = proxy.until_idle();
    assert_eq!(end.core.connections_bad_total, 8);
}

#[test]
fn broken_record_layer_ends_the_session() {
    let proxy = Proxy::start(echo(), |_| ());
    let mut talk = Talk::tls(proxy.addr);
    talk.round_trip(1, 1_000);
    talk.stream.write_all(b"no record at all").expect("write");
    let (_, took) = until_closed(&mut talk.stream);
    assert!(took < Duration::from_secs(5));
    proxy.until_idle();
}
