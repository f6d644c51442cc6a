//! Clients whose messages go through an ME.

use shards::{
    me::{Plan, Route},
    proto::framing::Framing,
    settings::{MeSettings, MeSetup, Settings},
};

use std::sync::Arc;

use crate::{
    fake_me::{FakeMe, plan, until},
    support::{Proxy, at_once},
    talk::{Talk, fill, random},
};

/// Nobody is there: a client that goes direct is not served.
pub(crate) fn no_dc() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

/// A proxy all of whose clients go to this ME, with what its plan says on top.
pub(crate) fn through(
    me: &FakeMe,
    change: impl FnOnce(&mut Settings, &mut MeSettings),
) -> (Proxy, Plan) {
    let mut knobs = MeSettings::default();
    knobs.admission.fallback = false;
    let mut shards = 1;
    let proxy = Proxy::start(no_dc(), |settings| {
        change(settings, &mut knobs);
        shards = settings.plane.cores.len();
        settings.me = Some(MeSetup {
            settings: Arc::new(knobs.clone()),
            pid: 77,
            start_unix_secs: 1_000_000,
        });
    });
    let plan = plan(me, shards, knobs);
    proxy.post(&plan);
    (proxy, plan)
}

/// A client's message, framed.
pub(crate) fn framed(payload: &[u8]) -> Vec<u8> {
    let mut padding = [0; 3];
    random(&mut padding);
    let mut out = Vec::new();
    let padding = &padding[..payload.len() / 4 % 4];
    Framing::Padded
        .encode(payload, padding, false, &mut out)
        .expect("a frame");
    out
}

/// The next message that comes, its padding dropped.
pub(crate) fn next_message(talk: &mut Talk) -> Vec<u8> {
    let mut head = [0; 4];
    read_all(talk, &mut head);
    let length = u32::from_le_bytes(head) as usize;
    let mut message = vec![0; length];
    read_all(talk, &mut message);
    message.truncate(length & !3);
    message
}

pub(crate) fn read_all(talk: &mut Talk, bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let got = talk.read(&mut bytes[at..]);
        assert!(got > 0, "the end in a message");
        at += got;
    }
}

/// A message of these bytes there and back.
pub(crate) fn round_trip(talk: &mut Talk, seed: u64, bytes: usize) {
    let mut message = vec![0; bytes];
    fill(seed, 0, &mut message);
    talk.write(&framed(&message));
    assert!(next_message(talk) == message, "wrong bytes of {bytes}");
}

#[test]
fn messages_of_all_sizes_come_back_through_an_me() {
    let me = FakeMe::echo();
    let (proxy, _) = through(&me, |_, _| {});
    for tls in [false, true] {
        let mut talk = if tls {
            Talk::tls(proxy.addr)
        } else {
            Talk::secure(proxy.addr)
        };
        for (seed, bytes) in [
            (1, 4),
            (2, 64),
            (3, 5_000),
            (4, 100_000),
            (5, 1 << 20),
            (6, 40),
        ] {
            round_trip(&mut talk, seed, bytes);
        }
        let now = proxy.snapshot();
        assert_eq!((now.sessions_me, now.sessions_direct), (1, 0));
        talk.finish();
        talk.expect_end();
    }
    let end = proxy.until_idle();
    assert_eq!(end.core.connections_bad_total, 0);
    let bytes = 2 * (4 + 64 + 5_000 + 100_000 + (1 << 20) + 40);
    assert_eq!(end.core.octets_from_client_total, bytes);
    assert_eq!(end.core.octets_to_client_total, bytes);
    assert_eq!(end.me.d2c_data_frames_total, 12);
    assert_eq!(end.me.d2c_payload_bytes_total, bytes);
    assert_eq!((end.sessions_me, end.sessions_direct), (0, 0));
    until("both clients are reported as gone", || {
        me.heard().closed.len() == 2
    });
}

#[test]
fn many_clients_share_writers_and_get_their_own_answers() {
    let me = FakeMe::echo();
    for shards in [1, 2] {
        let (proxy, _) = through(&me, |settings, _| {
            settings.plane.cores = (0..shards).collect()
        });
        at_once(16, |index| {
            let mut talk = Talk::secure(proxy.addr);
            for round in 0..50 {
                round_trip(
                    &mut talk,
                    index * 1_000 + round,
                    4 + 4 * (round as usize * 37 % 900),
                );
            }
        });
        let end = proxy.until_idle();
        assert_eq!(end.me.d2c_data_frames_total, 800);
        assert_eq!(end.me.route_drop_no_conn_total, 0);
    }
}

#[test]
fn closed_route_keeps_new_clients_waiting_and_running_ones_going() {
    let me = FakeMe::echo();
    let (proxy, plan) = through(&me, |_, _| {});
    let mut talk = Talk::secure(proxy.addr);
    round_trip(&mut talk, 1, 64);
    let closed = Plan {
        serial: 2,
        route: Route::Closed,
        ..plan.clone()
    };
    proxy.post(&closed);
    proxy.until("closed doors", |now| !now.accepting);
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| {
            let mut late = Talk::secure(proxy.addr);
            round_trip(&mut late, 2, 64);
        });
        round_trip(&mut talk, 3, 64);
        crate::support::pause(100);
        assert!(!late.is_finished(), "served in spite of a closed route");
        assert_eq!(proxy.snapshot().core.connections_current, 1);
        let open = Plan { serial: 3, ..plan };
        proxy.post(&open);
        late.join()
    });
    assert!(late.is_ok());
}
