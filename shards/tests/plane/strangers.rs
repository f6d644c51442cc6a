//! Strangers, places for them, and a mask host that the test plays.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use shards::settings::{HostPort, MaskSettings, MaskTarget, OwnAddresses, Settings};

use crate::support::{LIMIT, Proxy, pause};

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn masked(settings: &mut Settings, site: &TcpListener, splices_max: usize) {
    let port = site.local_addr().expect("bound").port();
    let long = Duration::from_secs(60);
    settings.mask = Some(Arc::new(MaskSettings {
        target: Arc::new(MaskTarget::Tcp(HostPort::new("127.0.0.1", port))),
        by_sni: Default::default(),
        proxy_header: None,
        bytes_max: None,
        lifetime: long,
        idle: long,
        splices_max,
        pace_ms: None,
        own: OwnAddresses::default(),
    }));
}

fn start(splices_max: usize) -> (TcpListener, Proxy) {
    let site = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let nobody = ([127, 0, 0, 1], 1).into();
    let proxy = Proxy::start(nobody, |settings| masked(settings, &site, splices_max));
    (site, proxy)
}

fn stranger(proxy: &Proxy) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.addr).expect("a connection");
    stream.set_read_timeout(Some(LIMIT)).expect("an option");
    stream.write_all(GET).expect("it takes bytes");
    stream
}

/// The next one at the mask host, with what it says first.
fn arrival(site: &TcpListener) -> TcpStream {
    let (mut stream, _) = site.accept().expect("a stranger");
    stream.set_read_timeout(Some(LIMIT)).expect("an option");
    let mut got = [0; GET.len()];
    stream.read_exact(&mut got).expect("what was said");
    assert_eq!(got, GET);
    stream
}

/// Nobody else comes for a while.
fn expect_nobody(site: &TcpListener) {
    site.set_nonblocking(true).expect("an option");
    pause(300);
    let more = site.accept();
    site.set_nonblocking(false).expect("an option");
    assert!(more.is_err(), "one more than there are places");
}

#[test]
fn strangers_wait_for_a_place_and_get_it_when_one_leaves() {
    let (site, proxy) = start(2);
    let mut first: Vec<_> = (0..2).map(|_| (stranger(&proxy), arrival(&site))).collect();
    let mut waiting = stranger(&proxy);
    // What is said while waiting is not lost.
    waiting.write_all(b"more").expect("it takes bytes");
    expect_nobody(&site);
    let (client, host) = first.remove(0);
    drop((client, host));
    let mut host = arrival(&site);
    let mut more = [0; 4];
    host.read_exact(&mut more)
        .expect("what was said while waiting");
    assert_eq!(&more, b"more");
    host.write_all(b"page").expect("it takes bytes");
    waiting.read_exact(&mut more).expect("the answer");
    assert_eq!(&more, b"page");
    let core = proxy.snapshot().core;
    assert_eq!((core.masks_total, core.mask_waits_total), (3, 1));
    drop((first, waiting, host));
    let limit = Instant::now() + LIMIT;
    while proxy.snapshot().core.masks_current > 0 {
        assert!(Instant::now() < limit, "a splice stays");
        pause(10);
    }
}

#[test]
fn who_waits_in_vain_is_closed_without_a_word() {
    let (site, proxy) = start(1);
    let _taken = (stranger(&proxy), arrival(&site));
    let began = Instant::now();
    let mut waiting = stranger(&proxy);
    // One that leaves meanwhile gives nobody a place.
    drop(stranger(&proxy));
    let mut said = Vec::new();
    waiting.read_to_end(&mut said).expect("an ordinary end");
    assert!(said.is_empty());
    assert!(began.elapsed() > Duration::from_secs(4));
    expect_nobody(&site);
}

#[test]
fn places_are_given_back_however_a_stranger_ends() {
    let (site, proxy) = start(1);
    for round in 0..30 {
        let client = stranger(&proxy);
        let host = arrival(&site);
        match round % 3 {
            0 => drop((client, host)),
            1 => {
                let linger = socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO));
                linger.expect("an option");
                drop(client);
            }
            _ => drop(host),
        }
    }
}
