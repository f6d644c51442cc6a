//! The other ends: plain blocking sockets on threads, with patterns that show any byte that is
//! missing, doubled or out of place.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};

use super::{super::Doorbell, Rig};

/// Threads that talk to the rig; it hears its bell whenever one ends.
pub(super) struct Peers {
    bell: Doorbell,
    running: Arc<AtomicUsize>,
    tell: mpsc::Sender<JoinHandle<()>>,
    threads: mpsc::Receiver<JoinHandle<()>>,
}

/// What one direction of a conversation is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) bytes: usize,
    /// Bytes of one write or read, at most.
    pub(super) step: usize,
    /// Microseconds of a pause after one in eight steps, at most.
    pub(super) pause_us: u64,
}

/// Counts as running until dropped.
struct Running(Doorbell, Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
        self.0.ring();
    }
}

impl Peers {
    pub(super) fn new(rig: &Rig) -> Self {
        let (tell, threads) = mpsc::channel();
        Self {
            bell: rig.engine.doorbell(),
            running: Arc::default(),
            tell,
            threads,
        }
    }

    /// Runs `work` on a thread of its own.
    pub(super) fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        spawn(&self.bell, &self.running, &self.tell, work);
    }

    /// A listener whose every connection is handled on a thread of its own.
    pub(super) fn far(&self, handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (bell, running) = (self.bell.clone(), Arc::clone(&self.running));
        let (tell, handle) = (self.tell.clone(), Arc::new(handle));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (handle, stream) = (Arc::clone(&handle), stream.expect("accept"));
                spawn(&bell, &running, &tell, move || handle(stream));
            }
        });
        addr
    }

    pub(super) fn are_done(&self) -> bool {
        self.running.load(Ordering::SeqCst) == 0
    }

    /// Passes on what went wrong in a peer. The rig turns meanwhile: a far side may have accepted
    /// only now what the rig closed long ago, and the ring closes it with the next turn.
    pub(super) fn join(&self, rig: &mut Rig) {
        while let Ok(thread) = self.threads.try_recv() {
            // Counted before it was sent here, so it is among those that are done.
            rig.run_until(|_| self.are_done());
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn spawn(
    bell: &Doorbell,
    running: &Arc<AtomicUsize>,
    tell: &mpsc::Sender<JoinHandle<()>>,
    work: impl FnOnce() + Send + 'static,
) {
    running.fetch_add(1, Ordering::SeqCst);
    let guard = Running(bell.clone(), Arc::clone(running));
    let thread = thread::spawn(move || {
        let _guard = guard;
        work();
    });
    // The test may be over already.
    drop(tell.send(thread));
}

/// Waits on this thread alone.
pub(super) fn pause(us: u64) {
    let (_keep, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_micros(us));
}

/// A small generator: tests print their seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// One of `1..=most`.
    pub(super) fn up_to(&mut self, most: usize) -> usize {
        (self.draw() >> 16) as usize % most.max(1) + 1
    }
}

fn byte(seed: u64, at: usize) -> u8 {
    ((at as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// The beginning of the pattern of `seed`.
pub(super) fn fill(seed: u64, bytes: &mut [u8]) {
    for (at, byte_) in bytes.iter_mut().enumerate() {
        *byte_ = byte(seed, at);
    }
}

/// Connects; `kernel_bytes` sets the kernel's buffers, zero leaves them.
pub(super) fn connect(addr: SocketAddr, kernel_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    shrink(&SockRef::from(&socket), kernel_bytes);
    socket.connect(&addr.into()).expect("connect");
    let stream = TcpStream::from(socket);
    set_limits(&stream);
    stream
}

pub(super) fn shrink(socket: &SockRef<'_>, bytes: usize) {
    if bytes > 0 {
        socket.set_send_buffer_size(bytes).expect("SO_SNDBUF");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
    }
}

/// A peer that waits for ever says so.
pub(super) fn set_limits(stream: &TcpStream) {
    let limit = Some(Duration::from_secs(60));
    stream.set_read_timeout(limit).expect("a limit");
    stream.set_write_timeout(limit).expect("a limit");
    stream.set_nodelay(true).expect("nodelay");
}

/// Writes a plan's pattern.
pub(super) fn write_all(mut stream: &TcpStream, plan: Plan) {
    let mut dice = Dice(plan.seed | 1);
    let mut bytes = vec![0; plan.step];
    let mut at = 0;
    while at < plan.bytes {
        let len = dice.up_to(plan.step).min(plan.bytes - at);
        for (index, byte_) in bytes[..len].iter_mut().enumerate() {
            *byte_ = byte(plan.seed, at + index);
        }
        stream.write_all(&bytes[..len]).expect("write");
        at += len;
        maybe_pause(&mut dice, plan);
    }
}

/// Reads exactly a plan's pattern, as records if they are, and then the end.
pub(super) fn read_all(stream: &TcpStream, plan: Plan, records: bool) {
    read_some(stream, plan, records);
    let mut rest = Vec::new();
    { stream }.read_to_end(&mut rest).expect("the end");
    assert_eq!(rest.len(), 0, "bytes after the last");
}

/// Reads exactly a plan's pattern.
pub(super) fn read_some(mut stream: &TcpStream, plan: Plan, records: bool) {
    let mut dice = Dice(!plan.seed | 1);
    let mut bytes = vec![0; plan.step.max(16_384)];
    let mut at = 0;
    while at < plan.bytes {
        let got = if records {
            read_record(stream, &mut bytes)
        } else {
            // Reads of the last bytes are not longer than what is missing: more may follow.
            let want = dice.up_to(plan.step).min(plan.bytes - at);
            match stream.read(&mut bytes[..want]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                got => got.expect("read"),
            }
        };
        assert!(got > 0, "the end after {at} bytes of {}", plan.bytes);
        assert!(at + got <= plan.bytes, "more than {} bytes", plan.bytes);
        for (index, byte_) in bytes[..got].iter().enumerate() {
            let want = byte(plan.seed, at + index);
            assert_eq!(*byte_, want, "byte {} of seed {}", at + index, plan.seed);
        }
        at += got;
        maybe_pause(&mut dice, plan);
    }
}

fn read_record(mut stream: &TcpStream, bytes: &mut [u8]) -> usize {
    let mut header = [0; 5];
    stream.read_exact(&mut header).expect("a record header");
    assert_eq!(header[..3], [0x17, 3, 3]);
    let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
    assert!((1..=16_384).contains(&len), "a record of {len} bytes");
    stream.read_exact(&mut bytes[..len]).expect("a record");
    len
}

fn maybe_pause(dice: &mut Dice, plan: Plan) {
    if plan.pause_us > 0 && dice.draw().is_multiple_of(8) {
        pause(dice.draw() % plan.pause_us);
    }
}

/// Both directions at once, each ended by half-close, on two threads.
pub(super) fn converse(stream: TcpStream, out: Plan, back: Plan, records: bool) {
    set_limits(&stream);
    let writer = stream.try_clone().expect("a second handle");
    let write = thread::spawn(move || {
        write_all(&writer, out);
        writer.shutdown(Shutdown::Write).expect("half-close");
    });
    read_all(&stream, back, records);
    if let Err(panic) = write.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Tells the far side which seed to expect; eight bytes in front of everything.
pub(super) fn say_seed(mut stream: &TcpStream, seed: u64) {
    stream.write_all(&seed.to_le_bytes()).expect("seed");
}

/// The reverse of [`say_seed`].
pub(super) fn hear_seed(mut stream: &TcpStream) -> u64 {
    let mut seed = [0; 8];
    stream.read_exact(&mut seed).expect("seed");
    u64::from_le_bytes(seed)
}
