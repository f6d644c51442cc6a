//! A small ME: shakes hands, hands every request to a closure, sends what that queues.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use shards::{
    me::{Addresses, Fill, Generations, GroupPlan, Plan, Route, Secret, ShardLimits},
    proto::middle::{
        far_side::{FarInput, FarSide, Message, Request, write_answer},
        handshake::ProcessId,
        ops::{ConnId, Note},
        secret_file::ProxySecret,
    },
    settings::MeSettings,
};

use crate::{
    support::{DC, LIMIT},
    talk::random,
};

/// What an ME writes and when it stops: the hand of a test on one connection.
pub(crate) struct Hand<'a> {
    out: &'a mut Vec<Vec<u8>>,
    pub(crate) closes: bool,
}

impl Hand<'_> {
    pub(crate) fn answer(&mut self, conn: ConnId, data: &[u8]) {
        let mut payload = Vec::new();
        write_answer(conn, 0, data, &mut payload);
        self.out.push(payload);
    }

    pub(crate) fn say(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut payload = Vec::new();
        write(&mut payload);
        self.out.push(payload);
    }
}

/// What it was told, beside what its closure does with it.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) closed: Vec<ConnId>,
    pub(crate) pongs: Vec<u64>,
    pub(crate) messages: usize,
    pub(crate) bytes: u64,
    pub(crate) clients: Vec<(SocketAddr, SocketAddr, u32)>,
}

/// One endpoint on a port of its own.
pub(crate) struct FakeMe {
    pub(crate) addr: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    pub(crate) opened: Arc<AtomicUsize>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

type Handle = dyn Fn(Message<'_>, &mut Hand<'_>) + Send + Sync;

impl FakeMe {
    pub(crate) fn start(
        handle: impl Fn(Message<'_>, &mut Hand<'_>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let me = Self {
            addr: listener.local_addr().expect("bound"),
            heard: Arc::default(),
            opened: Arc::default(),
            streams: Arc::default(),
        };
        let handle: Arc<Handle> = Arc::new(handle);
        let (heard, opened) = (Arc::clone(&me.heard), Arc::clone(&me.opened));
        let (streams, addr) = (Arc::clone(&me.streams), me.addr);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.expect("accept");
                let copy = stream.try_clone().expect("a second handle");
                streams.lock().expect("no panic").push(copy);
                let one = Connection {
                    stream,
                    addr,
                    handle: Arc::clone(&handle),
                    heard: Arc::clone(&heard),
                    opened: Arc::clone(&opened),
                };
                thread::spawn(move || one.serve());
            }
        });
        me
    }

    /// Sends every message back.
    pub(crate) fn echo() -> Self {
        Self::start(|message, hand| hand.answer(message.conn, message.data))
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().expect("no panic")
    }

    /// Ends every connection there is.
    pub(crate) fn hang_up(&self) {
        for stream in self.streams.lock().expect("no panic").drain(..) {
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
    }
}

struct Connection {
    stream: TcpStream,
    addr: SocketAddr,
    handle: Arc<Handle>,
    heard: Arc<Mutex<Heard>>,
    opened: Arc<AtomicUsize>,
}

impl Connection {
    fn serve(mut self) {
        // Gone already: hung up on at once.
        let Ok(proxy) = self.stream.peer_addr() else {
            return;
        };
        let mut nonce = [0; 16];
        random(&mut nonce);
        let mut far = FarSide::new(FarInput {
            secret: secret(),
            me: self.addr,
            proxy,
            nonce,
            unix_secs: unix_secs(),
            pid: ProcessId::of_me(self.addr),
            crc32c: true,
        });
        self.stream.set_nodelay(true).expect("nodelay");
        let mut bytes = vec![0; 200_000];
        let mut was_open = false;
        loop {
            let Ok(got @ 1..) = self.stream.read(&mut bytes) else {
                return;
            };
            let mut out = Vec::new();
            let mut answers = Vec::new();
            let mut closes = false;
            let heard = &self.heard;
            let handle = &self.handle;
            let mut got_request = |request: Request<'_>| {
                let mut hand = Hand {
                    out: &mut answers,
                    closes: false,
                };
                match request {
                    Request::Message(message) => {
                        let mut heard = heard.lock().expect("no panic");
                        heard.messages += 1;
                        heard.bytes += message.data.len() as u64;
                        heard
                            .clients
                            .push((message.client, message.proxy, message.flags));
                        drop(heard);
                        handle(message, &mut hand);
                    }
                    Request::Close(conn) => heard.lock().expect("no panic").closed.push(conn),
                    Request::Ping(id) => hand.say(|out| Note::Pong(id).write(out)),
                    Request::Pong(id) => heard.lock().expect("no panic").pongs.push(id),
                    Request::Ignored { .. } => {}
                }
                closes |= hand.closes;
            };
            if let Err(error) = far.receive(&bytes[..got], &mut out, &mut got_request) {
                // Shown when the test fails.
                println!("an ME gives up: {error}");
                return;
            }
            if far.is_open() && !was_open {
                was_open = true;
                self.opened.fetch_add(1, Ordering::AcqRel);
            }
            for answer in answers {
                far.queue(|out| out.extend_from_slice(&answer))
                    .expect("a frame");
            }
            if was_open {
                far.flush(&mut out);
            }
            if self.stream.write_all(&out).is_err() || closes {
                return;
            }
        }
    }
}

pub(crate) fn secret() -> ProxySecret {
    ProxySecret::new(&[0x5a; 128], 256).expect("a secret")
}

fn unix_secs() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u32::try_from(now.expect("after 1970").as_secs()).expect("before 2106")
}

/// A plan that sends the clients of these tests to one endpoint.
pub(crate) fn plan(me: &FakeMe, shards: usize, settings: MeSettings) -> Plan {
    let endpoints: Arc<[SocketAddr]> = Arc::new([me.addr]);
    Plan {
        serial: 1,
        tick: 0,
        route: Route::Middle,
        secret: Some(Arc::new(Secret {
            epoch: 1,
            secret: secret(),
        })),
        addresses: Addresses::default(),
        groups: Arc::new([GroupPlan {
            dc: DC,
            endpoints: Arc::clone(&endpoints),
            base: 1,
            shares: vec![1; shards].into(),
            at_floor: true,
            drain_before: 0,
            outage: [false; 2],
            covered: false,
            under_base: false,
        }]),
        map: Arc::new([(DC, endpoints.to_vec())].into()),
        default_dc: DC,
        map_epoch: 1,
        generations: Generations {
            active: 1,
            warming: None,
            warm_round: 0,
            drain_unmapped: false,
            drain_others_before: 0,
        },
        fill: Fill::First,
        quarantine: Arc::new([]),
        limits: ShardLimits {
            active_room: 64,
            override_room: 64,
            warm_room: 64,
            dials_per_tick: 8,
            dials_per_group: 8,
            draining_max: None,
            removals_per_second: 16,
        },
        tasks: Arc::new([]),
        ..Plan::empty(Arc::new(settings), Route::Middle)
    }
}

/// Waits until it holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LIMIT, "not within limit: {what}");
        crate::support::pause(2);
    }
}
