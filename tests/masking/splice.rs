//! Bytes, ends and resets between a stranger and a mask host.

use std::{
    thread,
    time::{Duration, Instant},
};

use bench::client::{Dial, Mode};

use crate::{
    masked,
    site::{End, Peer, Site},
    support::{Config, Proxy, bytes::first_bytes, fake_dc, wait_until},
};

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

fn start(site: &Site) -> (bench::fake_dc::FakeDc, Proxy) {
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr()).start();
    (dc, proxy)
}

/// Bytes that no two places of have the same neighbourhood.
fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

#[test]
fn the_mask_host_gets_every_byte_as_it_came() {
    let site = Site::new();
    let (_dc, proxy) = start(&site);
    let expired = Dial {
        clock_offset_secs: -1_000_000,
        ..proxy.dial(Mode::Ee)
    };
    let stranger = Dial {
        secret: shards::proto::secret::Secret([9; 16]),
        ..proxy.dial(Mode::Ee)
    };
    let plain = Dial {
        secret: shards::proto::secret::Secret([9; 16]),
        ..proxy.dial(Mode::Dd)
    };
    let mut big = b"POST /".to_vec();
    big.extend(pattern(300_000));
    let mut trailing = first_bytes(&proxy.dial(Mode::Ee));
    trailing.extend(b"trailing");
    let openings = [
        first_bytes(&expired),
        first_bytes(&stranger),
        first_bytes(&plain),
        trailing,
        GET.to_vec(),
        big,
    ];
    for opening in openings {
        let mut client = Peer::connect(proxy.addr);
        client.say(&opening);
        let mut host = site.next();
        assert!(host.take(opening.len()) == opening, "not what was sent");
        host.say(b"answer");
        assert_eq!(client.take(6), b"answer");
        client.say(b"more");
        assert_eq!(host.take(4), b"more");
    }
    assert_eq!(proxy.bad("tls_clock_skew"), 1);
    assert_eq!(proxy.bad("tls_auth_failed"), 1);
}

#[test]
fn a_hello_with_more_behind_it_is_a_strangers_though_its_answer_waits() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr())
        .set("censorship.server_hello_delay_min_ms", 3000)
        .set("censorship.server_hello_delay_max_ms", 3000)
        .start();
    let mut hello = first_bytes(&proxy.dial(Mode::Ee));
    let mut client = Peer::connect(proxy.addr);
    client.say(&hello);
    wait_until("the hello is judged", || {
        let seen = proxy.get("/v1/stats/summary")["connections_total"].as_u64();
        (seen > Some(0)).then_some(())
    });
    thread::sleep(Duration::from_millis(300));
    client.say(b"early");
    hello.extend(b"early");
    assert!(site.next().take(hello.len()) == hello);
}

#[test]
fn each_half_close_is_passed_on_behind_the_bytes() {
    let site = Site::new();
    let (_dc, proxy) = start(&site);
    let bulk = pattern(5_000_000);
    // The client ends first and still gets everything.
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    client.finish();
    let mut host = site.next();
    assert_eq!(host.rest(), (GET.to_vec(), End::Fin));
    let answer = bulk.clone();
    let sender = thread::spawn(move || {
        host.say(&answer);
        drop(host);
    });
    let (got, end) = client.rest();
    sender.join().unwrap();
    assert!(
        got == bulk && end == End::Fin,
        "{} bytes, {end:?}",
        got.len()
    );
    // The host ends first and still gets everything.
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    let mut host = site.next();
    host.take(GET.len());
    host.say(b"bye");
    host.finish();
    assert_eq!(client.rest(), (b"bye".to_vec(), End::Fin));
    let upload = bulk.clone();
    let sender = thread::spawn(move || {
        client.say(&upload);
        drop(client);
    });
    let (got, end) = host.rest();
    sender.join().unwrap();
    assert!(
        got == bulk && end == End::Fin,
        "{} bytes, {end:?}",
        got.len()
    );
}

#[test]
fn half_a_request_and_an_end_reach_the_host_at_once() {
    let site = Site::new();
    let (_dc, proxy) = start(&site);
    for opening in [&b"x"[..], b"\x16\x03\x01\x02\x00\x01\x00", &[7; 63]] {
        let mut client = Peer::connect(proxy.addr);
        client.say(opening);
        client.finish();
        let mut host = site.next();
        assert_eq!(host.rest(), (opening.to_vec(), End::Fin));
        host.say(b"no");
        drop(host);
        assert_eq!(client.rest(), (b"no".to_vec(), End::Fin));
    }
}

#[test]
fn a_reset_of_either_side_resets_the_other() {
    let site = Site::new();
    let (_dc, proxy) = start(&site);
    let meet = || {
        let mut client = Peer::connect(proxy.addr);
        client.say(GET);
        let mut host = site.next();
        host.take(GET.len());
        (client, host)
    };
    let (mut client, mut host) = meet();
    host.say(b"half an ans");
    assert_eq!(client.take(4), b"half");
    host.reset();
    assert_eq!(client.rest(), (b" an ans".to_vec(), End::Reset));
    let (client, mut host) = meet();
    client.reset();
    assert_eq!(host.rest(), (Vec::new(), End::Reset));
    // A side that has ended can still break off.
    let (mut client, host) = meet();
    host.finish();
    assert_eq!(client.rest(), (Vec::new(), End::Fin));
    host.reset();
    wait_until("the client hears of the reset", || {
        client.0.take_error().unwrap().map(drop)
    });
    let (client, mut host) = meet();
    client.finish();
    assert_eq!(host.rest(), (Vec::new(), End::Fin));
    client.reset();
    wait_until("the host hears of the reset", || {
        host.0.take_error().unwrap().map(drop)
    });
}

#[test]
fn a_slow_reader_holds_its_source_up_and_loses_nothing() {
    let site = Site::new();
    let (_dc, proxy) = start(&site);
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    let mut host = site.next();
    host.take(GET.len());
    let bulk = pattern(20_000_000);
    let answer = bulk.clone();
    let sender = thread::spawn(move || host.say(&answer));
    thread::sleep(Duration::from_millis(500));
    assert!(!sender.is_finished(), "20 MB fit between the two");
    let got = client.take(bulk.len());
    sender.join().unwrap();
    assert!(got == bulk);
}

fn limited(site: &Site, keys: &[(&str, u64)]) -> (bench::fake_dc::FakeDc, Proxy) {
    let dc = fake_dc();
    let mut config: Config = masked(dc.addr(), site.addr());
    for (key, value) in keys {
        config = config.set(&format!("censorship.{key}"), value);
    }
    (dc, config.start())
}

#[test]
fn a_stranger_gets_as_many_bytes_as_the_limit_says() {
    let site = Site::new();
    let (_dc, proxy) = limited(&site, &[("mask_relay_max_bytes", 100_000)]);
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    let mut host = site.next();
    host.take(GET.len());
    host.say(&pattern(99_999));
    assert!(client.take(99_999) == pattern(99_999));
    let sender = thread::spawn(move || {
        // It may hear of the end while it speaks.
        let _ = std::io::Write::write_all(&mut host.0, &pattern(50_000));
    });
    let (got, _) = client.rest();
    assert_eq!(got.len(), 1, "the last byte that is allowed");
    sender.join().unwrap();
}

#[test]
fn a_splice_ends_when_it_is_silent_or_old() {
    let site = Site::new();
    for keys in [
        [
            ("mask_relay_idle_timeout_ms", 1000),
            ("mask_relay_timeout_ms", 60_000),
        ],
        [
            ("mask_relay_idle_timeout_ms", 1500),
            ("mask_relay_timeout_ms", 1500),
        ],
    ] {
        let (_dc, proxy) = limited(&site, &keys);
        let mut client = Peer::connect(proxy.addr);
        client.say(GET);
        let began = Instant::now();
        let mut host = site.next();
        host.take(GET.len());
        assert_eq!(client.rest(), (Vec::new(), End::Fin));
        let took = began.elapsed();
        assert!(took > Duration::from_millis(900), "over after {took:?}");
        assert_eq!(host.rest().1, End::Fin);
    }
}

#[test]
fn a_failed_handshake_may_be_made_to_take_its_time() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr())
        .set("censorship.mask_timing_normalization_enabled", true)
        .set("censorship.mask_timing_normalization_floor_ms", 700)
        .set("censorship.mask_timing_normalization_ceiling_ms", 900)
        .start();
    let began = Instant::now();
    let mut client = Peer::connect(proxy.addr);
    client.say(GET);
    let mut host = site.next();
    assert!(began.elapsed() >= Duration::from_millis(690));
    assert_eq!(host.take(GET.len()), GET);
    client.say(b"more");
    assert_eq!(host.take(4), b"more");
}

#[test]
fn splices_are_counted_and_gone_when_they_end() {
    let site = Site::new();
    let dc = fake_dc();
    let proxy = masked(dc.addr(), site.addr()).start();
    let mut all: Vec<(Peer, Peer)> = (0..20)
        .map(|_| {
            let mut client = Peer::connect(proxy.addr);
            client.say(GET);
            let mut host = site.next();
            host.take(GET.len());
            (client, host)
        })
        .collect();
    assert_eq!(proxy.bad("not_mtproto"), 20);
    for (client, _) in &all {
        client.finish();
    }
    for (client, host) in &mut all {
        assert_eq!(host.rest().1, End::Fin);
        host.finish();
        assert_eq!(client.rest().1, End::Fin);
    }
    let log = proxy.log();
    assert!(!log.contains("panicked"), "{log}");
}
