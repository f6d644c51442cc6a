//! PROXY headers before a stranger and on to the mask host: the second says what the first said,
//! in the form the site wants, and the balancer is not mentioned (protocol.md 8.2).

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

use bench::client::{Dial, Mode};
use shards::proto::secret::Secret;
use socket2::{Domain, Socket, Type};

use crate::{
    masked, patient,
    site::{End, Peer, Site},
    support::{Config, PATIENCE, Proxy, bytes::first_bytes, fake_dc, nginx::Nginx},
};

const GET: &[u8] = b"GET /who HTTP/1.0\r\n\r\n";

/// The same in both forms, as a balancer writes it.
#[derive(Clone, Debug)]
struct Header {
    text: Vec<u8>,
    binary: Vec<u8>,
}

impl Header {
    fn form(&self, version: u8) -> &[u8] {
        if version == 1 {
            &self.text
        } else {
            &self.binary
        }
    }
}

/// A binary header by hand: command, family, and what follows.
fn binary(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    [&start[..], &[command, family], &length, &rest].concat()
}

/// From 203.0.113.7:50001 to 192.0.2.1:443.
fn ipv4() -> Header {
    let (from, to) = ([203, 0, 113, 7], [192, 0, 2, 1]);
    let ports = [0xc3, 0x51, 0x01, 0xbb];
    Header {
        text: b"PROXY TCP4 203.0.113.7 192.0.2.1 50001 443\r\n".into(),
        binary: binary(0x21, 0x11, &[&from, &to, &ports]),
    }
}

/// From [2001:db8::7]:50001 to [2001:db8:1::1]:443.
fn ipv6() -> Header {
    let mut from = [0; 16];
    from[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    let mut to = from;
    (from[15], to[5], to[15]) = (7, 1, 1);
    let ports = [0xc3, 0x51, 0x01, 0xbb];
    Header {
        text: b"PROXY TCP6 2001:db8::7 2001:db8:1::1 50001 443\r\n".into(),
        binary: binary(0x21, 0x21, &[&from, &to, &ports]),
    }
}

/// The same as [`ipv4`] in the form of a balancer that has IPv6 sockets only.
fn mapped() -> Header {
    let wide = |ip: [u8; 4]| [&[0; 10][..], &[0xff, 0xff], &ip].concat();
    let (from, to) = (wide([203, 0, 113, 7]), wide([192, 0, 2, 1]));
    let ports = [0xc3, 0x51, 0x01, 0xbb];
    Header {
        text: b"PROXY TCP6 ::ffff:203.0.113.7 ::ffff:192.0.2.1 50001 443\r\n".into(),
        binary: binary(0x21, 0x21, &[&from, &to, &ports]),
    }
}

/// Nobody in particular.
fn unknown() -> Header {
    Header {
        text: b"PROXY UNKNOWN\r\n".into(),
        binary: binary(0x20, 0, &[]),
    }
}

/// Addresses of two families: a mapped source, and a destination that is none.
fn mixed() -> Header {
    let ports = [0xc3, 0x51, 0x01, 0xbb];
    let from = [&[0; 10][..], &[0xff, 0xff, 203, 0, 113, 7]].concat();
    let mut to = [0; 16];
    to[15] = 1;
    Header {
        text: b"PROXY TCP6 ::ffff:203.0.113.7 ::1 50001 443\r\n".into(),
        binary: binary(0x21, 0x21, &[&from, &to, &ports]),
    }
}

/// Only a balancer at 127.0.0.1 may come, and the mask host gets headers of this version.
fn behind(config: Config, version: u8) -> Config {
    config
        .set("server.proxy_protocol", true)
        .set("server.proxy_protocol_trusted_cidrs", "[\"127.0.0.1/32\"]")
        .set("server.proxy_protocol_header_timeout_ms", 20_000)
        .set("censorship.mask_proxy_protocol", version)
}

/// A hello with a secret that nobody has.
fn stranger(proxy: &Proxy) -> Vec<u8> {
    first_bytes(&Dial {
        secret: Secret([9; 16]),
        ..proxy.dial(Mode::Ee)
    })
}

/// A stranger with `header` before what they say; what the mask host gets has `wanted` there.
fn passes(proxy: &Proxy, site: &Site, header: &[u8], wanted: &[u8]) {
    for (opening, apart) in [(GET.to_vec(), false), (stranger(proxy), true)] {
        let mut client = Peer::connect(proxy.addr);
        if apart {
            // Balancers send the header when they accept, which may be long before.
            let (first, rest) = header.split_at(header.len() / 2);
            client.say(first);
            client.say(rest);
            client.say(&opening);
        } else {
            client.say(&[header, &opening].concat());
        }
        let mut host = site.next();
        let got = host.take(wanted.len());
        assert_eq!(
            got.escape_ascii().to_string(),
            wanted.escape_ascii().to_string()
        );
        assert!(host.take(opening.len()) == opening, "not what was said");
        host.say(b"answer");
        assert_eq!(client.take(6), b"answer");
        // Once, and nothing of the kind before later bytes.
        client.say(b"more");
        client.finish();
        assert_eq!(host.rest(), (b"more".to_vec(), End::Fin));
    }
}

#[test]
fn the_mask_host_is_told_what_the_balancer_stated() {
    for version in [1, 2] {
        let site = Site::new();
        let dc = fake_dc();
        let proxy = behind(masked(dc.addr(), site.addr()), version).start();
        for (stated, wanted) in [
            (ipv4(), ipv4()),
            (ipv6(), ipv6()),
            (mapped(), ipv4()),
            (mixed(), unknown()),
        ] {
            let wanted = wanted.form(version);
            passes(&proxy, &site, &stated.text, wanted);
            passes(&proxy, &site, &stated.binary, wanted);
        }
        // What cloud balancers add is not passed on: it is about their connection, not ours.
        let mut long = ipv4().binary;
        long[15] += 4;
        long.extend([0x04, 0, 1, 0xaa]);
        passes(&proxy, &site, &long, ipv4().form(version));
    }
}

#[test]
fn who_states_nothing_is_the_peer_itself() {
    for version in [1, 2] {
        let site = Site::new();
        let dc = fake_dc();
        let proxy = behind(masked(dc.addr(), site.addr()), version).start();
        for header in [unknown().text, unknown().binary] {
            let mut client = Peer::connect(proxy.addr);
            client.say(&[&header, GET].concat());
            client.finish();
            let (from, to) = (client.0.local_addr().unwrap(), proxy.addr);
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            let wanted = Header {
                text: format!(
                    "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
                    from.port(),
                    to.port()
                )
                .into(),
                binary: binary(0x21, 0x11, &[&[127, 0, 0, 1, 127, 0, 0, 1], &ports]),
            };
            let wanted = [wanted.form(version), GET].concat();
            assert_eq!(site.next().rest(), (wanted, End::Fin));
        }
    }
}

#[test]
fn without_the_key_the_mask_host_gets_no_header() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = behind(masked(dc.addr(), site.addr()), 0).start();
    for header in [ipv4(), ipv6()] {
        passes(&proxy, &site, &header.text, b"");
        passes(&proxy, &site, &header.binary, b"");
    }
}

#[test]
fn the_mask_host_hears_nothing_of_a_peer_that_may_not_state_sources() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = behind(masked(dc.addr(), site.addr()), 1).start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), 0));
    socket.bind(&from.into()).unwrap();
    socket.connect(&proxy.addr.into()).unwrap();
    let mut client = Peer::new(TcpStream::from(socket));
    // It may be closed before this is sent.
    drop(client.0.write_all(&[&ipv4().text, GET].concat()));
    assert_eq!(client.rest().0, b"");
    proxy.wait_for_bad("proxy_header_untrusted", 1);
    assert!(site.is_idle());
}

/// Patient at either end.
fn unix(stream: UnixStream) -> UnixStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn on_unix_socket(dc: SocketAddr, path: &Path, version: u8) -> Config {
    let path = format!("\"{}\"", path.display());
    behind(patient(dc).set("censorship.mask_unix_sock", path), version)
}

#[test]
fn a_mask_host_on_a_unix_socket_is_told_too() {
    const BULK_BYTES: usize = 3_000_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mask.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let dc = fake_dc();
    for version in [1, 2] {
        let proxy = on_unix_socket(dc.addr(), &path, version).start();
        for stated in [ipv4(), ipv6()] {
            // The client ends first and still gets everything.
            let mut client = Peer::connect(proxy.addr);
            client.say(&[stated.form(3 - version), GET].concat());
            client.finish();
            let mut host = unix(listener.accept().unwrap().0);
            let mut got = Vec::new();
            host.read_to_end(&mut got).unwrap();
            assert_eq!(got, [stated.form(version), GET].concat());
            let sender = thread::spawn(move || host.write_all(&[b'x'; BULK_BYTES]));
            let (answer, end) = client.rest();
            sender.join().unwrap().unwrap();
            assert_eq!((answer.len(), end), (BULK_BYTES, End::Fin));
            // A client that breaks off is not kept.
            let mut client = Peer::connect(proxy.addr);
            client.say(&[stated.form(version), GET].concat());
            let mut host = unix(listener.accept().unwrap().0);
            let mut got = vec![0; stated.form(version).len() + GET.len()];
            host.read_exact(&mut got).unwrap();
            assert_eq!(got, [stated.form(version), GET].concat());
            client.reset();
            let mut rest = Vec::new();
            // A Unix socket has no reset of its own when all was read.
            drop(host.read_to_end(&mut rest));
            assert_eq!(rest, b"");
        }
    }
}

#[test]
fn nginx_on_a_unix_socket_knows_who_came() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nginx.sock");
    let lines = format!(
        "listen unix:{} proxy_protocol;\n    location = /who {{ return 200 \"from \
         $proxy_protocol_addr $proxy_protocol_port to $proxy_protocol_server_addr \
         $proxy_protocol_server_port\"; }}",
        path.display()
    );
    let Some(_nginx) = Nginx::start_with(&lines) else {
        return;
    };
    let dc = fake_dc();
    for version in [1, 2] {
        let proxy = on_unix_socket(dc.addr(), &path, version).start();
        for (stated, wanted) in [
            (ipv4(), "from 203.0.113.7 50001 to 192.0.2.1 443"),
            (ipv6(), "from 2001:db8::7 50001 to 2001:db8:1::1 443"),
        ] {
            let mut client = Peer::connect(proxy.addr);
            client.say(&[stated.form(3 - version), GET].concat());
            let (answer, end) = client.rest();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.ends_with(wanted), "{answer}");
            assert_eq!(end, End::Fin);
        }
    }
}

#[test]
fn who_came_by_a_unix_socket_is_named_only_if_a_balancer_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clients.sock");
    for version in [1, 2] {
        for proxied in [true, false] {
            let site = Site::new();
            let dc = fake_dc();
            let _proxy = behind(masked(dc.addr(), site.addr()), version)
                .set("server.proxy_protocol", proxied)
                .set("server.listen_unix_sock", format!("\"{}\"", path.display()))
                .start();
            let mut client = unix(UnixStream::connect(&path).unwrap());
            let (header, wanted) = match proxied {
                true => (ipv6().text, ipv6()),
                false => (Vec::new(), unknown()),
            };
            client.write_all(&[&header, GET].concat()).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let wanted = [wanted.form(version), GET].concat();
            assert_eq!(site.next().rest(), (wanted, End::Fin));
        }
    }
}
