//! Places: sessions and source addresses of one user, on several shards, under churn.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use shards::{
    counters::{BadClass, FailureClass, FailureStage},
    settings::{AddressMode, AddressSettings, UserSettings},
};

use crate::{
    support::{DOMAIN, Proxy, SECRET, at_once},
    talk::{Talk, connect, connect_from, echo, hello, until_closed},
};

/// Clients of one thread, one after the other. Each leaves a port behind that rests for a minute.
const CHURN: u32 = 200;

/// Shards take turns on the cores there are.
fn proxy(shards: usize, change: impl Fn(&mut UserSettings), addresses: AddressSettings) -> Proxy {
    Proxy::start(echo(), |settings| {
        settings.plane.cores = (0..shards).map(|shard| shard % 2).collect();
        settings.timeouts.handshake = Duration::from_millis(100);
        settings.hot.addresses = addresses;
        let mut users = settings.users.to_vec();
        change(&mut users[1]);
        settings.users = users.into();
    })
}

fn addresses(mode: AddressMode, window_ms: u64) -> AddressSettings {
    AddressSettings {
        mode,
        window: Duration::from_millis(window_ms),
    }
}

/// A client from 127.0.0.`last`, if it is served.
fn served_from(proxy: &Proxy, last: u8) -> Option<Talk> {
    let mut talk = Talk::secure_as(connect_from(proxy.addr, last), &SECRET);
    talk.is_served(64).then_some(talk)
}

fn is_served_from(proxy: &Proxy, last: u8) -> bool {
    served_from(proxy, last).is_some()
}

#[test]
fn connection_limit_is_never_exceeded_and_every_place_comes_back() {
    const MAX: u64 = 3;
    for shards in [2, 4] {
        let limit = |user: &mut UserSettings| user.connections_max = MAX;
        let proxy = proxy(shards, limit, AddressSettings::default());
        // Between the first answer and its own close a client is served for certain.
        let (served, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let (inside, most) = (AtomicU64::new(0), AtomicU64::new(0));
        at_once(8, |thread| {
            for _ in 0..CHURN {
                let Some(mut talk) = served_from(&proxy, 2) else {
                    refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                served.fetch_add(1, Ordering::Relaxed);
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                if thread % 2 == 0 {
                    let _ = talk.is_served(1_000);
                }
                inside.fetch_sub(1, Ordering::SeqCst);
            }
        });
        assert!(most.into_inner() <= MAX);
        assert!(
            served.load(Ordering::Relaxed) > 20,
            "{served:?} of {refused:?}"
        );
        let end = proxy.until_idle();
        assert_eq!(end.core.sessions_total, served.into_inner());
        let class = BadClass::UserConnections as usize;
        assert_eq!(end.bad_by_class[class], refused.into_inner());
        // As many as allowed, and not one more, find a place at the end.
        let held: Vec<_> = (0..MAX).filter_map(|_| served_from(&proxy, 2)).collect();
        assert_eq!(held.len() as u64, MAX);
        assert!(!is_served_from(&proxy, 2));
        drop(held);
        proxy.until_idle();
    }
}

#[test]
fn live_addresses_are_never_more_than_allowed() {
    const MAX: usize = 2;
    for shards in [2, 4] {
        for mode in [AddressMode::Live, AddressMode::Both] {
            let limit = |user: &mut UserSettings| user.unique_ips_max = MAX as u64;
            // So short that places come free now and then.
            let proxy = proxy(shards, limit, addresses(mode, 20));
            let inside: Mutex<HashMap<u8, u32>> = Mutex::default();
            let served = AtomicU64::new(0);
            at_once(8, |thread| {
                for _ in 0..CHURN {
                    let last = 1 + thread as u8 % 4;
                    let Some(talk) = served_from(&proxy, last) else {
                        continue;
                    };
                    served.fetch_add(1, Ordering::Relaxed);
                    let mut now = inside.lock().expect("no panic");
                    *now.entry(last).or_default() += 1;
                    let addresses = now.values().filter(|count| **count > 0).count();
                    assert!(addresses <= MAX, "{now:?}");
                    drop(now);
                    *inside.lock().expect("no panic").entry(last).or_default() -= 1;
                    drop(talk);
                }
            });
            assert!(served.into_inner() > 20);
            proxy.until_idle();
            crate::support::pause(50);
            let held: Vec<_> = (11..=13)
                .filter_map(|last| served_from(&proxy, last))
                .collect();
            assert_eq!(held.len(), MAX);
            drop(held);
            let end = proxy.until_idle();
            assert!(end.bad_by_class[BadClass::UserAddresses as usize] > 0);
        }
    }
}

#[test]
fn recent_addresses_count_for_the_window_and_known_ones_come_in() {
    for mode in [AddressMode::Recent, AddressMode::Both] {
        for shards in [2, 4] {
            let limit = |user: &mut UserSettings| user.unique_ips_max = 3;
            let proxy = proxy(shards, limit, addresses(mode, 60_000));
            let known = Mutex::new(std::collections::HashSet::new());
            at_once(8, |thread| {
                for round in 0..12_u8 {
                    let last = 1 + (thread as u8 + round) % 8;
                    if is_served_from(&proxy, last) {
                        known.lock().expect("no panic").insert(last);
                    } else {
                        let known = known.lock().expect("no panic");
                        assert!(!known.contains(&last), "a known address is let in");
                    }
                }
            });
            assert_eq!(known.into_inner().expect("no panic").len(), 3);
            proxy.until_idle();
        }
    }
}

#[test]
fn recent_address_makes_room_after_the_window() {
    let limit = |user: &mut UserSettings| user.unique_ips_max = 1;
    let proxy = proxy(2, limit, addresses(AddressMode::Recent, 60_000));
    assert!(is_served_from(&proxy, 2));
    assert!(!is_served_from(&proxy, 3));
    proxy.update(|_, hot| hot.addresses.window = Duration::from_millis(1));
    crate::support::pause(10);
    assert!(is_served_from(&proxy, 3));
    proxy.until_idle();
}

#[test]
fn limits_that_appear_count_who_is_here_on_every_shard() {
    let proxy = proxy(2, |_| (), AddressSettings::default());
    let held: Vec<_> = (1..=6)
        .filter_map(|last| served_from(&proxy, last))
        .collect();
    assert_eq!(held.len(), 6);
    proxy.update(|users, _| users[1].unique_ips_max = 6);
    assert!(!is_served_from(&proxy, 7));
    assert!((1..=6).all(|last| is_served_from(&proxy, last)));
    proxy.update(|users, _| {
        users[1].unique_ips_max = 0;
        users[1].connections_max = 6;
    });
    proxy.until("six", |now| now.core.connections_current == 6);
    assert!(!is_served_from(&proxy, 7));
    proxy.update(|users, _| users[1].connections_max = 7);
    assert!(is_served_from(&proxy, 7));
    drop(held);
    proxy.until_idle();
    proxy.update(|users, _| users[1].unique_ips_max = 2);
    let held: Vec<_> = (1..=3)
        .filter_map(|last| served_from(&proxy, last))
        .collect();
    assert_eq!(held.len(), 2);
}

/// Before anything was answered: silence, like for a stranger. Each way to be refused has its own
/// label and stage.
#[test]
fn refused_user_looks_like_a_stranger() {
    type Case = (fn(&mut UserSettings), BadClass, FailureClass);
    let cases: [Case; 4] = [
        (
            |user| user.expires_at = Some(1_000),
            BadClass::UserExpired,
            FailureClass::UserLimit,
        ),
        (
            |user| user.quota_bytes = Some(0),
            BadClass::UserQuota,
            FailureClass::UserLimit,
        ),
        (
            |user| user.connections_max = 1,
            BadClass::UserConnections,
            FailureClass::UserLimit,
        ),
        (
            |user| user.source_deny = vec!["127.0.0.0/8".parse().expect("a net")],
            BadClass::UserSource,
            FailureClass::SourceDenied,
        ),
    ];
    for (change, bad, failure) in cases {
        let proxy = proxy(1, |_| (), AddressSettings::default());
        let held = served_from(&proxy, 2);
        proxy.update(|users, _| change(&mut users[1]));
        for plain in [true, false] {
            // The limit begins at the accept, before we begin to wait.
            let began = std::time::Instant::now();
            let mut stream = connect(proxy.addr);
            if plain {
                stream = Talk::secure_as(stream, &SECRET).stream;
            } else {
                let hello = hello(&SECRET, "not.ours.example");
                stream.write_all(&hello).expect("hello");
            }
            let (got, _) = until_closed(&mut stream);
            let took = began.elapsed();
            assert_eq!(got, b"");
            assert!(took >= Duration::from_millis(100), "{bad:?} after {took:?}");
        }
        let now = proxy.snapshot();
        assert_eq!(now.bad_by_class[bad as usize], 2, "{bad:?}");
        assert_eq!(now.failures_by_class[failure as usize], 2);
        assert_eq!(now.failures_by_stage[FailureStage::TlsCore as usize], 1);
        assert_eq!(
            now.failures_by_stage[FailureStage::DirectMtproto as usize],
            1
        );
        drop(held);
        proxy.until_idle();
    }
}

/// The place went to another one between the hello and the header.
#[test]
fn user_refused_after_the_answer_is_closed() {
    let limit = |user: &mut UserSettings| user.connections_max = 1;
    let proxy = proxy(2, limit, AddressSettings::default());
    let answered = || -> TcpStream {
        let mut stream = connect(proxy.addr);
        stream.write_all(&hello(&SECRET, DOMAIN)).expect("hello");
        stream.read_exact(&mut [0; 1_000]).expect("an answer");
        stream
    };
    let mut waits = answered();
    let held = served_from(&proxy, 2);
    assert!(held.is_some());
    waits
        .write_all(&Talk::inner_header(&SECRET))
        .expect("header");
    let (_, took) = until_closed(&mut waits);
    assert!(took < Duration::from_secs(10));
    let now = proxy.snapshot();
    let stage = FailureStage::TlsPostServerhelloMtproto as usize;
    assert_eq!(now.bad_by_class[BadClass::UserConnections as usize], 1);
    assert_eq!(now.failures_by_stage[stage], 1);
    assert_eq!(now.core.connections_bad_total, 1);
    drop(held);
    proxy.until_idle();
}

#[test]
fn expiry_ends_sessions_that_are_there() {
    let proxy = proxy(2, |_| (), AddressSettings::default());
    let mut talks: Vec<_> = (0..6).filter_map(|_| served_from(&proxy, 2)).collect();
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let at = i64::try_from(unix.as_secs()).expect("before the end of time") + 2;
    proxy.update(|users, _| users[1].expires_at = Some(at));
    assert!(talks.iter_mut().all(|talk| talk.is_served(100)));
    let begun = Instant::now();
    for talk in &mut talks {
        assert_eq!(until_closed(&mut talk.stream).0, b"");
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "{:?}",
        begun.elapsed()
    );
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let end = proxy.until_idle();
    assert_eq!(end.core.sessions_expired_closed_total, 6);
    assert!(!is_served_from(&proxy, 2));
    proxy.update(|users, _| users[1].expires_at = None);
    assert!(is_served_from(&proxy, 2));
}
