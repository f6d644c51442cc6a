//! Sites, addresses, limits and places, without a socket.

use std::{collections::HashMap, net::IpAddr};

use proptest::prelude::*;

use super::*;
use crate::{
    proto::{
        faketls::client_hello::{HelloKind, build_hello},
        secret::Secret,
    },
    settings::HostPort,
};

fn target(at: &str) -> Arc<MaskTarget> {
    Arc::new(MaskTarget::Tcp(at.parse().unwrap()))
}

fn settings(by_sni: &[(&str, &str)]) -> MaskSettings {
    let by_sni = by_sni
        .iter()
        .map(|(sni, at)| ((*sni).to_owned(), target(at)));
    MaskSettings {
        target: target("default.example:443"),
        by_sni: by_sni.collect::<HashMap<_, _>>(),
        proxy_header: None,
        bytes_max: Some(1000),
        lifetime: Duration::from_secs(60),
        idle: Duration::from_secs(5),
        splices_max: 2,
        pace_ms: None,
        own: OwnAddresses {
            listeners: vec!["0.0.0.0:443".parse().unwrap()],
            public: Vec::new(),
        },
    }
}

fn table(addresses: &[&str]) -> NameTable {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let own: IpAddr = "10.0.0.1".parse().unwrap();
    NameTable::new([("a.example".to_owned(), addresses)], [], vec![own])
}

fn hello(sni: &str) -> Vec<u8> {
    let mut seed = 0u8;
    let mut random = |out: &mut [u8]| {
        out.fill_with(|| {
            seed = seed.wrapping_mul(31).wrapping_add(7);
            seed
        });
    };
    build_hello(&mut random, &Secret([1; 16]), sni, 0, HelloKind::Classic517)
}

#[test]
fn only_names_of_the_operator_choose_another_site() {
    let settings = settings(&[("shop.example", "10.1.1.1:8443")]);
    for (seen, want) in [
        (hello("shop.example"), "10.1.1.1:8443"),
        (hello("SHOP.example"), "10.1.1.1:8443"),
        (hello("evil.example"), "default.example:443"),
        (b"GET / HTTP/1.0\r\n".to_vec(), "default.example:443"),
        (Vec::new(), "default.example:443"),
    ] {
        assert_eq!(choose(&settings, &seen).to_string(), want);
    }
    let whole = hello("shop.example");
    for end in 0..whole.len() {
        // Half a hello goes somewhere too; which site depends on whether the name is in it.
        choose(&settings, &whole[..end]);
    }
}

#[test]
fn addresses_are_tried_in_turn_within_the_time_of_one_connect() {
    let settings = settings(&[]);
    let names = table(&["192.0.2.1", "192.0.2.2"]);
    let at = MaskTarget::Tcp(HostPort::new("a.example", 8443));
    let mut attempts = Attempts::begin(Millis(1000));
    let next =
        |attempts: &mut Attempts, now| attempts.next(&at, &settings.own, &names, Millis(now));
    let first = "192.0.2.1:8443".parse().unwrap();
    let second = "192.0.2.2:8443".parse().unwrap();
    assert_eq!(next(&mut attempts, 1000), Attempt::Tcp(first, Millis(3500)));
    assert_eq!(
        next(&mut attempts, 1200),
        Attempt::Tcp(second, Millis(6000))
    );
    assert_eq!(next(&mut attempts, 1300), Attempt::Fail);
    let mut late = Attempts::begin(Millis(1000));
    assert_eq!(next(&mut late, 6000), Attempt::Fail);
    let unix = MaskTarget::Unix("/run/mask.sock".into());
    let mut attempts = Attempts::begin(Millis(0));
    let path = Path::new("/run/mask.sock");
    let next = |attempts: &mut Attempts| attempts.next(&unix, &settings.own, &names, Millis(0));
    assert_eq!(next(&mut attempts), Attempt::Unix(path, Millis(5000)));
    assert_eq!(next(&mut attempts), Attempt::Fail);
}

#[test]
fn a_name_that_comes_to_mean_ourselves_is_never_connected_to() {
    let settings = settings(&[]);
    let at = MaskTarget::Tcp(HostPort::new("a.example", 443));
    for (address, own) in [
        ("10.0.0.1", true),
        ("127.0.0.1", true),
        ("192.0.2.1", false),
    ] {
        let mut attempts = Attempts::begin(Millis(0));
        let next = attempts.next(&at, &settings.own, &table(&[address]), Millis(0));
        assert_eq!(matches!(next, Attempt::Own(_)), own, "{address}");
    }
    let mut attempts = Attempts::begin(Millis(0));
    let unknown = attempts.next(&at, &settings.own, &NameTable::default(), Millis(0));
    assert_eq!(unknown, Attempt::Unknown);
}

#[test]
fn a_splice_ends_by_silence_or_age() {
    let settings = settings(&[]);
    let mut limits = Limits::new(&settings, Millis(0));
    assert_eq!(limits.deadline(settings.idle), Millis(5000));
    assert_eq!(limits.take(true, 10, Millis(4000)), 10);
    assert_eq!(limits.deadline(settings.idle), Millis(9000));
    limits.moved(Millis(58_000));
    assert_eq!(limits.deadline(settings.idle), Millis(60_000));
}

#[test]
fn places_are_given_in_the_order_of_waiting() {
    let mut places = Places::default();
    assert!(places.take(2) && places.take(2) && !places.take(2));
    places.wait(7);
    places.wait(8);
    places.wait(9);
    assert_eq!(places.next(2), None);
    places.tidy(|key| key != 8);
    places.give_back();
    assert_eq!(places.next(2), Some(7));
    assert!(places.take(2));
    assert_eq!(places.next(2), None);
    assert_eq!(places.waiting(), 1);
}

proptest! {
    #[test]
    fn no_more_than_the_limit_passes_either_way(
        steps in prop::collection::vec((any::<bool>(), 0usize..400), 0..40),
    ) {
        let mut limits = Limits::new(&settings(&[]), Millis(0));
        let mut passed = [0; 2];
        let mut offered = [0; 2];
        for (up, bytes) in steps {
            let side = usize::from(up);
            offered[side] += bytes;
            passed[side] += limits.take(up, bytes, Millis(1));
            prop_assert_eq!(passed[side], offered[side].min(1000));
        }
    }

    #[test]
    fn any_bytes_choose_a_site(seen in prop::collection::vec(any::<u8>(), 0..600)) {
        let settings = settings(&[("shop.example", "10.1.1.1:8443")]);
        let mut seen = seen;
        if let Some(first) = seen.first_mut() {
            *first = 0x16;
        }
        choose(&settings, &seen);
    }
}
