//! Users that come, change and go while others are served.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use shards::{
    control::Command,
    counters::BadClass,
    proto::{
        dc::DcId, faketls::record, framing::Framing, obfuscated2::client_side, secret::Secret,
    },
};

use crate::{
    support::{DC, DOMAIN, LIMIT, Proxy, SECRET, at_once, user},
    talk::{Talk, connect, connect_from, echo, hello, random, until_closed},
};

const OTHER: Secret = Secret([1; 16]);

fn proxy() -> Proxy {
    Proxy::start(echo(), |settings| {
        settings.plane.cores = vec![0, 1];
        settings.timeouts.handshake = Duration::from_millis(300);
    })
}

fn served(proxy: &Proxy, secret: &Secret) -> Talk {
    let mut talk = Talk::secure_as(connect(proxy.addr), secret);
    assert!(talk.is_served(100));
    talk
}

fn refused(proxy: &Proxy, secret: &Secret) -> bool {
    !Talk::secure_as(connect(proxy.addr), secret).is_served(100)
}

#[test]
fn removed_user_ends_and_others_do_not_notice() {
    let proxy = proxy();
    let mut stay: Vec<_> = (0..20).map(|_| served(&proxy, &OTHER)).collect();
    let mut go: Vec<_> = (0..20).map(|_| served(&proxy, &SECRET)).collect();
    proxy.update(|users, _| users.retain(|user| &*user.name != "two"));
    for talk in &mut go {
        assert_eq!(until_closed(&mut talk.stream).0, b"");
    }
    assert!(stay.iter_mut().all(|talk| talk.is_served(1_000)));
    assert!(refused(&proxy, &SECRET));
    let now = proxy.snapshot();
    assert_eq!(now.core.sessions_removed_closed_total, 20);
    assert_eq!(now.core.sessions_current, 20);
    assert_eq!(now.bad_by_class[BadClass::ObfuscatedAuth as usize], 1);
    drop(stay);
    proxy.until_idle();
}

#[test]
fn newcomer_at_an_old_id_starts_from_zero() {
    let proxy = proxy();
    let old = served(&proxy, &SECRET);
    proxy.update(|users, _| users.truncate(1));
    proxy.update(|users, _| users.push(user("three", Secret([3; 16]))));
    assert_eq!(proxy.live().control.names().len(), 2);
    let now = proxy.snapshot();
    assert_eq!(proxy.user("three"), Default::default());
    assert!(now.user_ips.is_empty(), "{:?}", now.user_ips);
    drop(old);
    let new = served(&proxy, &Secret([3; 16]));
    assert_eq!(proxy.user("three").connections_total, 1);
    assert!(refused(&proxy, &SECRET));
    drop(new);
    proxy.until_idle();
}

#[test]
fn new_secret_is_for_new_clients() {
    let proxy = proxy();
    let mut old = served(&proxy, &SECRET);
    proxy.update(|users, _| users[1].secret = Secret([9; 16]));
    assert!(refused(&proxy, &SECRET));
    assert!(old.is_served(1_000));
    let new = served(&proxy, &Secret([9; 16]));
    assert_eq!(proxy.user("two").current_connections, 2);
    drop((old, new));
    proxy.until_idle();
}

#[test]
fn disabled_user_is_a_stranger_until_enabled_again() {
    let proxy = proxy();
    let mut talk = served(&proxy, &SECRET);
    proxy.update(|users, _| users[1].enabled = false);
    assert_eq!(until_closed(&mut talk.stream).0, b"");
    assert!(refused(&proxy, &SECRET));
    proxy.update(|users, _| users[1].enabled = true);
    drop(served(&proxy, &SECRET));
    assert_eq!(proxy.user("two").connections_total, 2);
    proxy.until_idle();
}

#[test]
fn removed_sessions_may_stay_until_they_are_told() {
    let proxy = proxy();
    let mut going = [served(&proxy, &SECRET), served(&proxy, &OTHER)];
    proxy.update_keeping(true, |users, _| {
        users[0].enabled = false;
        users.truncate(1);
    });
    assert!(refused(&proxy, &SECRET) && refused(&proxy, &OTHER));
    assert!(going.iter_mut().all(|talk| talk.is_served(1_000)));
    assert_eq!(proxy.live().control.removed_sessions(), 2);
    // Another update in between ends nobody.
    proxy.update(|users, _| users.push(user("three", Secret([3; 16]))));
    assert!(going.iter_mut().all(|talk| talk.is_served(1_000)));
    let ended = proxy.live().control.end_removed();
    assert!(ended.wait(LIMIT));
    assert_eq!(proxy.live().control.removed_sessions(), 0);
    for talk in &mut going {
        assert_eq!(until_closed(&mut talk.stream).0, b"");
    }
    drop(served(&proxy, &Secret([3; 16])));
    proxy.until_idle();
}

/// A client between its hello and its header belongs to nobody but the owner of the secret.
#[test]
fn answered_client_of_a_vanished_user_is_closed() {
    for reuse in [false, true] {
        let proxy = proxy();
        let mut stream = connect(proxy.addr);
        let hello = hello(&SECRET, DOMAIN);
        stream.write_all(&hello).expect("hello");
        stream.read_exact(&mut [0; 1_000]).expect("an answer");
        proxy.update(|users, _| users.truncate(1));
        if reuse {
            proxy.update(|users, _| users.push(user("three", Secret([3; 16]))));
            assert_eq!(proxy.live().control.names()[1], "three".into());
        }
        let side = client_side(&mut random, &SECRET, Framing::Padded, DcId(DC));
        let mut first = Vec::new();
        record::encode(&mut first, &side.wire, 2_878);
        stream.write_all(&first).expect("inner header");
        let (_, took) = until_closed(&mut stream);
        assert!(took < LIMIT / 2);
        let end = proxy.until_idle();
        assert_eq!(end.bad_by_class[BadClass::TlsInner as usize], 1);
        assert_eq!(end.core.sessions_total, 0);
    }
}

#[test]
fn updates_pass_full_mailboxes_and_displace_nothing() {
    let proxy = proxy();
    let mut talk = served(&proxy, &OTHER);
    let (reply, _never_read) = async_channel::bounded(1);
    for round in 0..300_u32 {
        let updating = {
            let live = &mut *proxy.live();
            live.users.truncate(1);
            live.users.push(user(&format!("u{round}"), SECRET));
            live.control.update(&live.users, &live.hot, false)
        };
        // Turned away or not, they are in nobody's way.
        proxy.flood(|| Command::Snapshot {
            reply: reply.clone(),
        });
        if round % 50 == 0 {
            assert!(updating.wait(LIMIT));
        }
    }
    proxy.update(|users, _| users[1].name = "last".into());
    drop(served(&proxy, &SECRET));
    assert_eq!(proxy.user("last").connections_total, 1);
    assert!(talk.is_served(100));
    proxy.tell(|| Command::Stop);
    assert_eq!(until_closed(&mut talk.stream).0, b"");
    // Shards that have ended are in nobody's way either.
    proxy.update(|users, _| users.clear());
}

#[test]
fn users_come_and_go_under_load() {
    let proxy = proxy();
    let until = Instant::now() + Duration::from_secs(2);
    at_once(5, |thread| {
        if thread == 0 {
            let mut round = 0_u32;
            while Instant::now() < until {
                round += 1;
                proxy.update(|users, _| {
                    users.truncate(1);
                    users.extend((0..round % 7).map(|n| {
                        let secret = Secret([10 + n as u8; 16]);
                        user(&format!("u{n}-{}", round % 3), secret)
                    }));
                });
            }
            return;
        }
        let mut steady = served(&proxy, &OTHER);
        for round in 0.. {
            assert!(steady.is_served(2_000));
            if Instant::now() >= until {
                break;
            }
            if round > 300 {
                continue;
            }
            let mut short = Talk::secure_as(connect_from(proxy.addr, 2), &Secret([10; 16]));
            // Served, ended in between, or a stranger: whatever the moment says.
            let _ = short.try_write(&[0; 200]);
        }
    });
    proxy.update(|users, _| users.truncate(1));
    let end = proxy.until_idle();
    assert_eq!(proxy.user("one").connections_total, 4);
    assert_eq!(
        end.users
            .iter()
            .skip(1)
            .map(|row| row.connections_total)
            .sum::<u64>(),
        0
    );
}

#[test]
fn switched_off_totals_stand_still_and_gauges_do_not() {
    let proxy = proxy();
    drop(served(&proxy, &SECRET));
    let before = proxy.until_idle();
    proxy.update(|_, hot| {
        hot.telemetry.core = false;
        hot.telemetry.user = false;
    });
    let mut talk = served(&proxy, &SECRET);
    assert!(refused(&proxy, &Secret([5; 16])));
    let now = proxy.until("a session", |now| now.core.sessions_current == 1);
    assert_eq!(now.core.connections_total, before.core.connections_total);
    assert_eq!(
        now.core.octets_from_client_total,
        before.core.octets_from_client_total
    );
    assert_eq!(now.bad_by_class, before.bad_by_class);
    assert_eq!(now.users[1].current_connections, 1);
    assert_eq!(now.users[1].connections_total, 1);
    assert_eq!(now.users[1].octets_to_client, 100);
    proxy.update(|_, hot| hot.telemetry = Default::default());
    assert!(talk.is_served(50));
    let now = proxy.snapshot();
    assert_eq!(now.core.octets_to_client_total, 150);
    assert_eq!(now.users[1].octets_to_client, 150);
    drop(talk);
    assert_eq!(proxy.until_idle().core.connections_total, 1);
}
