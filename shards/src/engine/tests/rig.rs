//! The relay under test: what `net` does with the engine, without any protocol.

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, TcpStream},
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use socket2::SockRef;

use super::super::{Engine, EngineSettings, Event, ListenOptions, Owner, SocketId, listen};
use super::{
    peers::{self, Peers},
    watch::Watch,
};
use crate::settings::{BufferSettings, Parking};

/// Buffers as configured by default, in a smaller number.
pub(super) fn buffers() -> BufferSettings {
    BufferSettings {
        small_bytes: 4096,
        small_count: 256,
        large_bytes: 131_072,
        large_count: 32,
        queue_bytes_max: 262_144,
        spill_bytes_max: 64 << 20,
    }
}

/// An engine that forwards between every client it accepts and a connection of its own.
pub(super) struct Rig {
    pub(super) engine: Engine,
    parking: Parking,
    pub(super) listener: SocketId,
    pub(super) addr: SocketAddr,
    /// Where every client is forwarded to; `None` sends its bytes back to itself.
    pub(super) target: Option<SocketAddr>,
    /// What goes to clients goes as records.
    pub(super) records: bool,
    /// Kernel buffers of the engine's own sockets, bytes; zero leaves them.
    pub(super) kernel_bytes: usize,
    pub(super) pairs: HashMap<u32, Pair>,
    next_key: u32,
    /// Memory is looked after as if time passed so many times as fast; 0 is not at all.
    pub(super) tidies: u128,
    began: Instant,
    pub(super) seen: Seen,
    watch: Watch,
}

/// A client and the connection made for it. For an echo both are the same socket.
pub(super) struct Pair {
    pub(super) sockets: [SocketId; 2],
    connected: bool,
    ended: [bool; 2],
    finished: [bool; 2],
    pub(super) paused: [bool; 2],
}

/// What happened so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) accepted: usize,
    pub(super) closed: usize,
    pub(super) connected: usize,
    pub(super) connect_failed: Vec<i32>,
    pub(super) accept_failed: usize,
    pub(super) received_bytes: u64,
    /// The longest receive, bytes.
    pub(super) most_received: usize,
    pub(super) failed: Vec<i32>,
    pub(super) finished: usize,
    pub(super) writable: usize,
    pub(super) paused: usize,
    pub(super) timers: usize,
    pub(super) bells: usize,
    /// The longest send queue there was, bytes.
    pub(super) most_queued: usize,
    pub(super) most_held: usize,
}

impl Pair {
    /// One side has ended: the other may stay for as long as it likes.
    pub(super) fn is_half_over(&self) -> bool {
        self.ended != [false; 2]
    }
}

impl Rig {
    pub(super) fn new(parking: Parking, buffers: BufferSettings) -> Self {
        let options = ListenOptions {
            backlog: 4096,
            keepalive: Duration::ZERO,
            user_timeout: Duration::ZERO,
            reset: false,
            mss: None,
        };
        let socket = listen(([127, 0, 0, 1], 0).into(), options).expect("a listener");
        let addr = SockRef::from(&socket)
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an IP address");
        let mut engine = Engine::new(EngineSettings {
            buffers,
            parking,
            keepalive: Duration::ZERO,
        })
        .expect("an engine");
        let listener = engine.add_listener(socket, Owner::default(), false);
        Self {
            watch: Watch::new(engine.doorbell()),
            engine,
            parking,
            listener,
            addr,
            target: None,
            records: false,
            kernel_bytes: 0,
            pairs: HashMap::new(),
            next_key: 0,
            tidies: 0,
            began: Instant::now(),
            seen: Seen::default(),
        }
    }

    /// Turns until `done`; fails after five seconds in which nothing happened.
    pub(super) fn run_until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            self.turn();
        }
    }

    /// One turn of the loop in `net::shard`.
    pub(super) fn turn(&mut self) {
        if self.watch.is_stuck() {
            panic!("nothing happens any more\n{}", self.dump());
        }
        self.engine
            .enter(self.parking == Parking::Ring)
            .expect("enter");
        let mut idle = true;
        while let Some(event) = self.engine.next_event() {
            idle = false;
            self.handle(event);
        }
        if self.tidies > 0 {
            let now = u64::try_from(self.began.elapsed().as_millis() * self.tidies);
            let now = now.expect("a short test");
            if self.engine.tidy_due(now).is_some() {
                self.engine.tidy(now);
            }
        }
        self.seen.most_held = self.seen.most_held.max(self.engine.buffers_held());
        if self.parking == Parking::Executor && idle && !self.engine.is_ready() {
            poll(self.engine.ring_fd());
        }
    }

    /// A turn that does not wait: the bell was rung before.
    pub(super) fn turn_once_rung(&mut self) {
        let (bell, before) = (self.engine.doorbell(), self.seen.bells);
        bell.ring();
        self.run_until(|rig| rig.seen.bells > before);
    }

    /// Connects a client that does `work`, and turns until it is accepted and read.
    pub(super) fn run_until_accepted(
        &mut self,
        peers: &Peers,
        work: impl FnOnce(&TcpStream) + Send + 'static,
    ) {
        let (addr, before) = (self.addr, self.seen.accepted);
        peers.spawn(move || work(&peers::connect(addr, 0)));
        self.run_until(|rig| rig.seen.accepted > before);
    }

    /// Something happened that the watchdog should know of.
    pub(super) fn progress(&self) {
        self.watch.progress();
    }

    fn dump(&self) -> String {
        let mut text = format!(
            "{:?}, {:?}, held {} of {} buffers, {} starved, {:?}\n",
            self.seen,
            self.engine.stats(),
            self.engine.buffers_held(),
            self.engine.small.count() + self.engine.large.count(),
            self.engine.starved.iter().map(VecDeque::len).sum::<usize>(),
            self.parking,
        );
        for (key, pair) in &self.pairs {
            text += &format!(
                "pair {key}: ended {:?} paused {:?}",
                pair.ended, pair.paused
            );
            for id in pair.sockets {
                text += " ";
                text += &self.engine.describe(id);
            }
            text.push('\n');
        }
        text
    }

    fn handle(&mut self, event: Event) {
        if !matches!(event, Event::Doorbell) {
            self.progress();
        }
        match event {
            Event::Accepted { socket, .. } => self.accepted(socket),
            Event::AcceptFailed { listener, .. } => {
                self.seen.accept_failed += 1;
                assert_eq!(listener, self.listener);
                self.engine.set_timer(Duration::from_millis(20));
            }
            Event::Connected { owner, socket } => {
                self.seen.connected += 1;
                self.shrink(socket);
                let pair = self.pair(owner);
                assert_eq!(pair.sockets[1], socket);
                pair.connected = true;
                let client = pair.sockets[0];
                self.engine.resume(client);
                self.engine.resume(socket);
            }
            Event::ConnectFailed { owner, errno } => {
                self.seen.connect_failed.push(errno);
                self.pair(owner).sockets[1] = SocketId::NONE;
                self.close(owner.0 as u32 >> 1);
            }
            Event::Received { owner, buf } => self.received(owner, buf),
            Event::Ended { owner } => self.ended(owner),
            Event::Failed { owner, errno } => {
                self.pair(owner);
                self.seen.failed.push(errno);
                self.close(owner.0 as u32 >> 1);
            }
            Event::Writable { owner } => {
                self.seen.writable += 1;
                let from = self.other(owner);
                let side = side(from);
                let pair = self.pair(owner);
                pair.paused[side] = false;
                let source = pair.sockets[side];
                self.engine.resume(source);
            }
            Event::Finished { owner } => {
                self.seen.finished += 1;
                self.finished(owner);
            }
            Event::Timer => {
                self.seen.timers += 1;
                if self.seen.accept_failed > 0 {
                    self.seen.accept_failed = 0;
                    self.engine.accept(self.listener);
                }
            }
            Event::Doorbell => self.seen.bells += 1,
        }
    }

    fn accepted(&mut self, socket: SocketId) {
        self.seen.accepted += 1;
        self.shrink(socket);
        let key = self.next_key;
        self.next_key += 1;
        let client = Owner(u64::from(key) << 1);
        self.engine.set_owner(socket, client);
        let mut pair = Pair {
            sockets: [socket; 2],
            connected: false,
            ended: [false; 2],
            finished: [false; 2],
            paused: [false; 2],
        };
        if let Some(target) = self.target {
            match self.engine.connect(target, Owner(client.0 | 1)) {
                Ok(dc) => pair.sockets[1] = dc,
                Err(_) => return self.engine.close(socket),
            }
        } else {
            self.engine.resume(socket);
        }
        self.pairs.insert(key, pair);
    }

    fn received(&mut self, owner: Owner, buf: super::super::Buf) {
        self.seen.received_bytes += buf.len() as u64;
        self.seen.most_received = self.seen.most_received.max(buf.len());
        assert!(buf.len() > 0, "an empty receive");
        let from = side(owner);
        let records = self.records && from == 1;
        let bound = self.engine.settings.buffers.queue_bytes_max;
        let echo = self.target.is_none();
        let pair = self.pair(owner);
        assert!(!pair.ended[from], "bytes after the end");
        let source = pair.sockets[from];
        let to = pair.sockets[if echo { from } else { 1 - from }];
        if records && buf.len().is_multiple_of(2) {
            // More records than one send takes, when it is a large buffer.
            let sizes = vec![1_400; buf.len() / 1_400];
            let rest = (buf.len() % 1_400) as u16;
            let sizes: Vec<u16> = sizes
                .into_iter()
                .chain((rest > 0).then_some(rest))
                .collect();
            self.engine
                .send_sized_records(to, buf, &sizes, record_header);
        } else if records && buf.len().is_multiple_of(3) {
            self.send_framed(to, buf);
        } else if records {
            self.engine.send_records(to, buf, record_header);
        } else {
            self.engine.send(to, buf);
        }
        let queued = self.engine.queued(to);
        self.seen.most_queued = self.seen.most_queued.max(queued);
        if queued > bound {
            self.seen.paused += 1;
            self.engine.pause(source);
            self.engine.notify_writable(to);
            self.pair(owner).paused[from] = true;
        }
    }

    /// Records again, their headers laid around the payload as anybody's frames.
    fn send_framed(&mut self, to: SocketId, buf: super::super::Buf) {
        const PIECE_BYTES: usize = 9_000;
        let pieces = buf.len().div_ceil(PIECE_BYTES);
        let mut frames = self.engine.blocks().take(pieces * 5);
        for piece in buf.bytes().chunks(PIECE_BYTES) {
            frames.extend_from_slice(&record_header(piece.len()));
        }
        let framed = super::super::Framed {
            buf,
            frames,
            piece_bytes: PIECE_BYTES,
            head_bytes: 5,
            tail_bytes: 0,
        };
        self.engine.send_framed(to, framed);
    }

    fn ended(&mut self, owner: Owner) {
        let from = side(owner);
        let echo = self.target.is_none();
        let pair = self.pair(owner);
        assert!(!pair.ended[from], "ended twice");
        pair.ended[from] = true;
        let to = pair.sockets[if echo { from } else { 1 - from }];
        if self.engine.finish(to) {
            let sent = if echo { owner } else { self.other(owner) };
            self.finished(sent);
        }
    }

    fn finished(&mut self, owner: Owner) {
        let side = side(owner);
        let echo = self.target.is_none();
        let pair = self.pair(owner);
        assert!(!pair.finished[side], "finished twice");
        pair.finished[side] = true;
        if echo || pair.finished == [true; 2] {
            self.close(owner.0 as u32 >> 1);
        }
    }

    /// Closes a pair at once.
    pub(super) fn close(&mut self, key: u32) {
        if let Some(pair) = self.pairs.remove(&key) {
            self.seen.closed += 1;
            for socket in pair.sockets {
                self.engine.close(socket);
            }
        }
    }

    fn pair(&mut self, owner: Owner) -> &mut Pair {
        self.pairs
            .get_mut(&(owner.0 as u32 >> 1))
            .expect("an event of a closed pair")
    }

    /// For an echo a socket is its own other side.
    fn other(&self, owner: Owner) -> Owner {
        Owner(owner.0 ^ u64::from(self.target.is_some()))
    }

    fn shrink(&self, id: SocketId) {
        if self.kernel_bytes == 0 {
            return;
        }
        let socket = &self.engine.sockets[id.index as usize];
        // SAFETY: the engine keeps the descriptor open while the socket lives.
        let fd = unsafe { BorrowedFd::borrow_raw(socket.fd) };
        let fd = SockRef::from(&fd);
        fd.set_send_buffer_size(self.kernel_bytes)
            .expect("SO_SNDBUF");
        fd.set_recv_buffer_size(self.kernel_bytes)
            .expect("SO_RCVBUF");
    }

    /// Takes so many large buffers away, as if bytes had been received into them.
    pub(super) fn hold_large(&mut self, count: u16) -> Vec<super::super::Buf> {
        self.engine.large.withhold(count)
    }

    /// Everything given back: no pair, no buffer, and of the sockets only the listener.
    pub(super) fn expect_clean(&mut self) {
        for key in self.pairs.keys().copied().collect::<Vec<_>>() {
            self.close(key);
        }
        self.run_until(|rig| rig.engine.socket_count() == 1);
        assert_eq!(self.engine.buffers_held(), 0);
        assert_eq!(self.engine.spilled_now(), 0);
    }
}

fn side(owner: Owner) -> usize {
    (owner.0 & 1) as usize
}

/// Application data, version 3.3.
pub(super) fn record_header(len: usize) -> [u8; 5] {
    let len = u16::try_from(len).expect("at most 16 KiB").to_be_bytes();
    [0x17, 3, 3, len[0], len[1]]
}

fn poll(fd: i32) {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one entry, which lives until the call returns.
    unsafe { libc::poll(&raw mut poll, 1, -1) };
}
