//! PROXY headers in front of clients: who may send one, what it changes, and what is closed.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use shards::{
    counters::BadClass,
    proto::proxy_protocol::{Version, encode},
    settings::Settings,
};

use crate::{
    support::{LIMIT, Proxy, SECRET, pause},
    talk::{Talk, connect, echo, until_closed},
};

const SOURCE: &str = "203.0.113.7:5000";
const HEADER_LIMIT: Duration = Duration::from_millis(300);

fn behind_balancer(settings: &mut Settings) {
    settings.listeners[0].proxy = true;
    settings.proxy.trusted = Arc::new(["127.0.0.0/8".parse().expect("a network")]);
}

fn header(version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    let destination: SocketAddr = "198.51.100.1:443".parse().expect("an address");
    encode(
        &mut out,
        version,
        SOURCE.parse().expect("an address"),
        destination,
    );
    out
}

/// Bytes sent one by one, or all at once.
fn opened(proxy: &Proxy, header: &[u8], in_pieces: bool) -> TcpStream {
    let mut stream = connect(proxy.addr);
    for piece in header.chunks(if in_pieces { 1 } else { header.len() }) {
        stream.write_all(piece).expect("write");
        if in_pieces {
            pause(1);
        }
    }
    stream
}

#[test]
fn stated_sources_take_the_place_of_the_peer() {
    let proxy = Proxy::start(echo(), behind_balancer);
    for version in [Version::V1, Version::V2] {
        for in_pieces in [false, true] {
            let stream = opened(&proxy, &header(version), in_pieces);
            let mut talk = Talk::tls_as(stream, &SECRET);
            talk.round_trip(1, 20_000);
            let now = proxy.until("a session", |now| now.core.sessions_current == 1);
            let from: Vec<_> = now.user_ips.iter().filter(|row| row.active > 0).collect();
            assert_eq!(from.len(), 1);
            assert_eq!(from[0].ip, Ipv4Addr::new(203, 0, 113, 7));
            drop(talk);
            proxy.until_idle();
        }
    }
}

#[test]
fn clients_bytes_may_come_along_with_the_header() {
    let proxy = Proxy::start(echo(), behind_balancer);
    // A header of a cloud balancer: as long as they get, and then the client at once.
    let mut long = header(Version::V2);
    let rest = 4096_u16;
    long[14..16].copy_from_slice(&rest.to_be_bytes());
    long.resize(16 + usize::from(rest), 0xee);
    for header in [header(Version::V1), long, b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut stream = connect(proxy.addr);
        let side = shards::proto::obfuscated2::client_side(
            &mut crate::talk::random,
            &SECRET,
            shards::proto::framing::Framing::Padded,
            shards::proto::dc::DcId(crate::support::DC),
        );
        let mut c2p = side.c2p;
        let mut p2c = side.p2c;
        let mut body = *b"along with the header";
        c2p.apply(&mut body);
        let all = [&header[..], &side.wire, &body].concat();
        stream.write_all(&all).expect("write");
        let mut back = [0; 21];
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        stream.read_exact(&mut back).expect("the echo");
        p2c.apply(&mut back);
        assert_eq!(&back, b"along with the header");
        drop(stream);
        proxy.until_idle();
    }
}

#[test]
fn headers_that_state_nothing_keep_the_peer() {
    let proxy = Proxy::start(echo(), behind_balancer);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    for header in [&b"PROXY UNKNOWN\r\n"[..], local] {
        let mut talk = Talk::secure_from(opened(&proxy, header, false));
        talk.round_trip(1, 1_000);
        let now = proxy.snapshot();
        let live = now.user_ips.iter().find(|row| row.active > 0);
        assert_eq!(live.expect("a session").ip, Ipv4Addr::LOCALHOST);
        drop(talk);
        proxy.until_idle();
    }
}

#[test]
fn whoever_has_no_usable_header_is_closed_and_counted() {
    let proxy = Proxy::start(echo(), |settings| {
        behind_balancer(settings);
        settings.proxy.header_timeout = HEADER_LIMIT;
        settings.timeouts.handshake = LIMIT * 2;
    });
    let late_half = &header(Version::V1)[..20];
    for (sent, class) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], BadClass::HeaderMissing),
        (b"\x16\x03\x01\x02\x00", BadClass::HeaderMissing),
        (b"PROXY TCP4 1.2.3.4\r\n", BadClass::HeaderMalformed),
        (
            b"PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n",
            BadClass::HeaderMalformed,
        ),
        (&[b'P'; 1], BadClass::HeaderLate),
        (late_half, BadClass::HeaderLate),
        (b"", BadClass::HeaderLate),
    ] {
        let count = |class: BadClass| proxy.snapshot().bad_by_class[class as usize];
        let before = count(class);
        let began = Instant::now();
        let mut stream = connect(proxy.addr);
        stream.write_all(sent).expect("write");
        let (got, _) = until_closed(&mut stream);
        assert_eq!(got, b"");
        if class == BadClass::HeaderLate {
            assert!(began.elapsed() >= HEADER_LIMIT / 2);
        }
        assert!(began.elapsed() < LIMIT);
        assert_eq!(count(class), before + 1, "{sent:?}");
    }
    proxy.until_idle();
}

#[test]
fn peers_that_are_not_trusted_are_closed_at_once() {
    for trusted in [&[][..], &["192.0.2.0/24"][..]] {
        let proxy = Proxy::start(echo(), |settings| {
            behind_balancer(settings);
            let nets = trusted.iter().map(|net| net.parse().expect("a network"));
            settings.proxy.trusted = nets.collect();
        });
        let mut stream = connect(proxy.addr);
        // It may be closed before this is sent.
        drop(stream.write_all(&header(Version::V2)));
        let (got, _) = until_closed(&mut stream);
        assert_eq!(got, b"");
        let now = proxy.until_idle();
        assert_eq!(now.bad_by_class[BadClass::HeaderUntrusted as usize], 1);
    }
}

#[test]
fn sources_are_judged_by_what_the_header_states() {
    let proxy = Proxy::start(echo(), |settings| {
        behind_balancer(settings);
        let mut users = settings.users.to_vec();
        users[1].source_deny = vec!["203.0.113.0/24".parse().expect("a network")];
        settings.users = users.into();
        settings.timeouts.handshake = Duration::from_millis(100);
    });
    let stream = opened(&proxy, &header(Version::V1), false);
    let mut refused = Talk::secure_from(stream).stream;
    let (got, _) = until_closed(&mut refused);
    assert_eq!(got, b"");
    let now = proxy.until_idle();
    assert_eq!(now.bad_by_class[BadClass::UserSource as usize], 1);
    let served = opened(&proxy, b"PROXY TCP4 203.0.114.1 1.2.3.4 1 2\r\n", false);
    Talk::secure_from(served).round_trip(1, 1_000);
}

#[test]
fn listeners_without_it_take_a_header_for_a_stranger() {
    let proxy = Proxy::start(echo(), |settings| {
        behind_balancer(settings);
        let mut other = settings.listeners[0].clone();
        (other.proxy, other.addr) = (false, ([127, 0, 0, 2], 0).into());
        settings.listeners.insert(0, other);
        settings.timeouts.handshake = Duration::from_millis(100);
    });
    Talk::secure(proxy.addr).round_trip(1, 1_000);
    let mut stream = opened(&proxy, &header(Version::V1), false);
    assert_eq!(until_closed(&mut stream).0, b"");
    let now = proxy.until_idle();
    assert_eq!(now.core.connections_bad_total, 1);
    assert_eq!(now.bad_by_class[BadClass::Timeout as usize], 1);
}
