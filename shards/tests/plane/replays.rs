//! Recorded hellos sent again over real sockets, by several peers at once, to one, two and four
//! shards. The full number, without sockets, is in `shards/src/fuzzing/replays.rs`.

use std::{
    io::Write,
    net::Shutdown,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use shards::{counters::BadClass, proto::faketls::client_hello::RANDOM_AT};

use crate::{
    support::{DOMAIN, Proxy, SECRET, at_once},
    talk::{connect_from, echo, hello, until_closed},
};

const HELLOS: usize = 400;
const PEERS: u64 = 4;

#[test]
fn of_replays_at_once_one_is_answered() {
    for shards in [1, 2, 4] {
        let proxy = Proxy::start(echo(), |settings| {
            settings.plane.cores = (0..shards).map(|shard| shard % 2).collect();
            settings.timeouts.handshake = Duration::from_secs(10);
        });
        let hellos: Vec<_> = (0..HELLOS).map(|_| hello(&SECRET, DOMAIN)).collect();
        let answered: Vec<_> = hellos.iter().map(|_| AtomicU8::new(0)).collect();
        at_once(PEERS, |peer| {
            for (hello, answered) in hellos.iter().zip(&answered) {
                let mut copy = hello.clone();
                // Another date, which takes no secret: up to eight seconds earlier or later.
                copy[RANDOM_AT + 28] ^= peer as u8 & 7;
                let mut stream = connect_from(proxy.addr, 2 + peer as u8);
                stream.write_all(&copy).expect("hello");
                // Who is refused is closed once nothing more can come.
                stream.shutdown(Shutdown::Write).expect("shutdown");
                let (got, _) = until_closed(&mut stream);
                answered.fetch_add(u8::from(!got.is_empty()), Ordering::Relaxed);
            }
        });
        let wrong = answered.iter().filter(|n| n.load(Ordering::Relaxed) != 1);
        assert_eq!(wrong.count(), 0, "{shards} shards");
        let end = proxy.until_idle();
        let replays = end.bad_by_class[BadClass::TlsReplay as usize];
        assert_eq!(replays, (PEERS - 1) * HELLOS as u64, "{shards} shards");
    }
}
