//! Routes against scripted servers on loopback.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use shards::{
    proto::shadowsocks::{
        Entropy, Method, ServerKey,
        far_side::{Served, Wanted as Asked},
    },
    settings::{Interface, SecretText},
};

use super::*;

const FAMILIES: Families = Families {
    ipv4: true,
    ipv6: false,
    prefer_ipv6: false,
};
const LIMIT: Duration = Duration::from_secs(20);

fn routes(kinds: impl IntoIterator<Item = RouteKind>) -> Vec<RouteSettings> {
    let route = |kind| RouteSettings {
        kind,
        ..RouteSettings::direct(true, false, false)
    };
    kinds.into_iter().map(route).collect()
}

fn out(routes: Vec<RouteSettings>) -> RouteOut {
    RouteOut::new(routes, FAMILIES, |name| match name {
        "known.example" => Ok(vec![[127, 0, 0, 1].into()]),
        _ => Err(io::Error::other("unknown here")),
    })
}

fn wish(host: &str, port: u16) -> Wish<'_> {
    Wish {
        scope: None,
        host,
        port,
        deadline: Instant::now() + LIMIT,
        otherwise: Otherwise::Fail,
    }
}

fn own(addr: SocketAddr) -> HostPort {
    HostPort::new(&addr.ip().to_string(), addr.port())
}

/// Serves one connection on a thread.
fn serve(with: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        with(socket);
    });
    addr
}

fn closed() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn echo(mut socket: impl Read + Write) {
    let mut byte = [0; 1];
    while let Ok(1) = socket.read(&mut byte) {
        socket.write_all(&byte).unwrap();
    }
}

fn read_some(socket: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    socket.read_exact(&mut all).unwrap();
    all
}

fn talk(stream: &mut Stream) {
    stream.set_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"there and back").unwrap();
    let mut got = [0; 14];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"there and back");
}

#[test]
fn goes_straight_to_names_and_pins() {
    let out = out(routes([RouteKind::Direct]));
    let addr = serve(echo);
    talk(&mut out.connect(&wish("known.example", addr.port())).unwrap());

    let addr = serve(echo);
    assert!(out.connect(&wish("pinned.example", addr.port())).is_err());
    let pin = DnsPin {
        host: "Pinned.example".to_owned(),
        port: addr.port(),
        ip: addr.ip(),
    };
    out.pin(&[pin]);
    talk(&mut out.connect(&wish("pinned.example", addr.port())).unwrap());
    assert!(out.connect(&wish("pinned.example", 1)).is_err());
}

#[test]
fn leaves_from_where_the_route_says() {
    let (tell, told) = mpsc::channel();
    let addr = serve(move |socket| tell.send(socket.peer_addr().unwrap().ip()).unwrap());
    let mut all = routes([RouteKind::Direct]);
    all[0].source.interface = Some(Interface::Address([127, 0, 0, 9].into()));
    let _stream = out(all).connect(&wish("127.0.0.1", addr.port())).unwrap();
    assert_eq!(told.recv_timeout(LIMIT), Ok([127, 0, 0, 9].into()));

    let mut all = routes([RouteKind::Direct]);
    all[0].source.addresses = vec!["::1".parse().unwrap()];
    assert!(out(all).connect(&wish("127.0.0.1", addr.port())).is_err());
}

#[test]
fn tells_a_socks_5_server_the_name_and_keeps_what_came_early() {
    let (tell, told) = mpsc::channel();
    let server = serve(move |mut socket| {
        assert_eq!(read_some(&mut socket, 4), [5, 2, 0, 2]);
        socket.write_all(&[5, 2]).unwrap();
        assert_eq!(read_some(&mut socket, 9), *b"\x01\x02me\x04pass");
        socket.write_all(&[1, 0]).unwrap();
        tell.send(read_some(&mut socket, 4 + 1 + 9 + 2)).unwrap();
        socket
            .write_all(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00early")
            .unwrap();
        echo(socket);
    });
    let credentials = (SecretText("me".into()), SecretText("pass".into()));
    let out = out(routes([RouteKind::Socks5 {
        server: own(server),
        credentials: Some(credentials),
    }]));
    let mut stream = out.connect(&wish("a.example", 443)).unwrap();
    assert_eq!(
        told.recv_timeout(LIMIT).unwrap(),
        *b"\x05\x01\x00\x03\x09a.example\x01\xbb"
    );
    let mut early = [0; 5];
    stream.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"early");
    talk(&mut stream);
}

#[test]
fn tells_a_socks_4_server_the_address_and_the_scope() {
    let (tell, told) = mpsc::channel();
    let server = serve(move |mut socket| {
        tell.send(read_some(&mut socket, 8 + 5 + 1)).unwrap();
        socket.write_all(&[0, 90, 0, 0, 0, 0, 0, 0]).unwrap();
        echo(socket);
    });
    let mut all = routes([RouteKind::Socks4 {
        server: own(server),
        user_id: SecretText("other".into()),
    }]);
    all[0].scopes = vec!["front".to_owned()];
    let out = out(all);
    let scoped = Wish {
        scope: Some("front"),
        ..wish("known.example", 443)
    };
    talk(&mut out.connect(&scoped).unwrap());
    assert_eq!(
        told.recv_timeout(LIMIT).unwrap(),
        *b"\x04\x01\x01\xbb\x7f\0\0\x01front\0"
    );
    // Nothing serves those without a scope.
    let error = out.connect(&wish("known.example", 443)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_socks_server_that_refuses_or_says_nothing_is_an_error_in_time() {
    let refusing = serve(|mut socket| {
        read_some(&mut socket, 3);
        socket.write_all(&[5, 0]).unwrap();
        read_some(&mut socket, 10);
        socket.write_all(&[5, 5]).unwrap();
    });
    let (_hold, held) = mpsc::channel::<()>();
    let silent = serve(move |socket| {
        let _ = held.recv();
        drop(socket);
    });
    for server in [refusing, silent] {
        let out = out(routes([RouteKind::Socks5 {
            server: own(server),
            credentials: None,
        }]));
        let short = Wish {
            deadline: Instant::now() + Duration::from_millis(300),
            ..wish("127.0.0.1", 1)
        };
        assert!(out.connect(&short).is_err());
    }
}

#[test]
fn a_dead_route_gives_way_to_the_next_and_at_last_to_the_straight_one() {
    let addr = serve(echo);
    let dead = || RouteKind::Socks5 {
        server: own(closed()),
        credentials: None,
    };
    let all = routes([dead(), RouteKind::Direct, dead()]);
    talk(&mut out(all).connect(&wish("127.0.0.1", addr.port())).unwrap());

    let addr = serve(echo);
    let out = out(routes([dead()]));
    let strict = wish("127.0.0.1", addr.port());
    assert!(out.connect(&strict).is_err());
    let lax = Wish {
        otherwise: Otherwise::Direct,
        ..strict
    };
    talk(&mut out.connect(&lax).unwrap());
}

#[test]
fn routes_are_drawn_by_weight_and_those_without_any_come_last() {
    let mut all = routes([RouteKind::Direct, RouteKind::Direct, RouteKind::Direct]);
    for (route, weight) in all.iter_mut().zip([0, 9, 1]) {
        route.weight = weight;
    }
    let out = out(all);
    let mut heavy_first = 0;
    for _ in 0..400 {
        let order: Vec<u16> = out.order(None).iter().map(|r| r.weight).collect();
        assert_eq!(order[2], 0);
        heavy_first += usize::from(order[0] == 9);
    }
    assert!((300..400).contains(&heavy_first), "{heavy_first}");
}

#[test]
fn speaks_shadowsocks_to_a_server() {
    let unix_secs = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let password = "meWbaR5IwEiQWqMv3xYfFQ==";
    for (method, password) in [
        (Method::Aes256Gcm, "any text"),
        (Method::Blake3Aes128Gcm, password),
    ] {
        let key = ServerKey::new(method, password).unwrap();
        let (tell, told) = mpsc::channel();
        let far = key.clone();
        let server = serve(move |mut socket| {
            let mut served = Served::new(&far);
            let mut piece = [0; 100];
            while let Ok(got @ 1..) = socket.read(&mut piece) {
                let plain = served.receive(&piece[..got], unix_secs()).unwrap();
                let mut wire = Vec::new();
                let entropy = Entropy {
                    unix_secs: unix_secs(),
                    random: &mut |out: &mut [u8]| rand::rng().fill(out),
                };
                served.answer(&plain, entropy, &mut wire);
                socket.write_all(&wire).unwrap();
            }
            tell.send(served.wanted().cloned()).unwrap();
        });
        let out = out(routes([RouteKind::Shadowsocks {
            server: own(server),
            key,
        }]));
        let mut stream = out.connect(&wish("a.example", 443)).unwrap();
        talk(&mut stream);
        talk(&mut stream);
        drop(stream);
        let wanted = told.recv_timeout(LIMIT).unwrap();
        assert_eq!(wanted, Some(Asked::Name("a.example".to_owned(), 443)));
    }
}
