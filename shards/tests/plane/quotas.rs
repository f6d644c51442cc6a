//! Quotas: bytes of both directions, on several shards, to the byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use shards::{counters::BadClass, proto::secret::Secret};

use crate::{
    support::{Proxy, SECRET, at_once},
    talk::{Talk, connect, connect_from, echo, far},
};

const OTHER: Secret = Secret([1; 16]);

fn proxy(shards: usize, quota: u64, dc: SocketAddr) -> Proxy {
    Proxy::start(dc, |settings| {
        settings.plane.cores = (0..shards).map(|shard| shard % 2).collect();
        settings.timeouts.handshake = Duration::from_millis(100);
        let mut users = settings.users.to_vec();
        users[1].quota_bytes = Some(quota);
        settings.users = users.into();
    })
}

/// An echoing DC that counts what came to it.
fn counting(came: &Arc<AtomicU64>) -> SocketAddr {
    let came = Arc::clone(came);
    far(move |mut talk| {
        let mut bytes = vec![0; 100_000];
        loop {
            match talk.read_some(&mut bytes) {
                0 => return talk.finish(),
                got => {
                    came.fetch_add(got as u64, Ordering::SeqCst);
                    if !talk.try_write(&bytes[..got]) {
                        return;
                    }
                }
            }
        }
    })
}

#[test]
fn quota_is_never_exceeded_by_a_byte_and_ends_everybody() {
    const QUOTA: u64 = 3_000_017;
    for shards in [2, 4] {
        let came = Arc::new(AtomicU64::new(0));
        let proxy = proxy(shards, QUOTA, counting(&came));
        let went = AtomicU64::new(0);
        at_once(8, |thread| {
            let mut step = 17 + 1_013 * thread as usize;
            loop {
                let mut talk = Talk::secure_as(connect_from(proxy.addr, 2), &SECRET);
                let mut rounds = 0;
                while rounds < 10 && talk.is_served(step) {
                    went.fetch_add(step as u64, Ordering::SeqCst);
                    rounds += 1;
                    step = step * 5 / 4 % 60_000 + 1;
                }
                if rounds == 0 {
                    return;
                }
            }
        });
        let (came, went) = (came.load(Ordering::SeqCst), went.into_inner());
        assert!(came + went <= QUOTA, "{came} up and {went} down");
        assert_eq!(proxy.quota_used(), QUOTA);
        let end = proxy.until_idle();
        let counted = end.users[1].octets_from_client + end.users[1].octets_to_client;
        assert!(
            counted <= QUOTA && counted >= came + went,
            "{counted} {came} {went}"
        );
        assert!(end.core.sessions_quota_closed_total > 0);
        assert!(end.bad_by_class[BadClass::UserQuota as usize] > 0);
        // Nobody else pays.
        assert!(Talk::secure_as(connect(proxy.addr), &OTHER).is_served(100));
    }
}

#[test]
fn reset_and_raised_quotas_let_the_user_in_again() {
    let proxy = proxy(2, 2_000, echo());
    let served = || Talk::secure_as(connect(proxy.addr), &SECRET).is_served(500);
    assert!(served() && served());
    assert_eq!(proxy.quota_used(), 2_000);
    assert!(!served());
    assert_eq!(proxy.live().control.reset_quota("two"), Some(2_000));
    assert_eq!(proxy.live().control.reset_quota("nobody"), None);
    assert!(served() && served() && !served());
    proxy.update(|users, _| users[1].quota_bytes = Some(3_000));
    assert!(served() && !served());
    proxy.update(|users, _| users[1].quota_bytes = None);
    assert!(served());
    assert!(proxy.live().control.quotas().is_empty());
    // What was used before is remembered.
    proxy.update(|users, _| users[1].quota_bytes = Some(3_000));
    assert_eq!(proxy.quota_used(), 3_000);
    assert!(!served());
    proxy.until_idle();
}

#[test]
fn quota_set_while_a_session_runs_holds_for_it() {
    let proxy = proxy(2, u64::MAX, echo());
    let mut talk = Talk::secure_as(connect(proxy.addr), &SECRET);
    assert!(talk.is_served(10_000));
    proxy.update(|users, _| users[1].quota_bytes = Some(30_000));
    assert!(talk.is_served(5_000));
    assert!(!talk.is_served(5_001));
    assert_eq!(proxy.quota_used(), 30_000);
    proxy.until_idle();
}
