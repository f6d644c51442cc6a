//! The ring, its turn, and the sockets on it.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::Duration,
};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use slab::Slab;

use super::{
    Event,
    block::Blocks,
    buffers::Pool,
    lifecycle::Socket,
    op::{OpKind, SocketId, parse, token},
    socket,
    transmit::Scratch,
    trim::Tidying,
};
use crate::settings::{BufferSettings, Parking};

/// What an engine is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineSettings {
    /// Receive buffers and bounds.
    pub(crate) buffers: BufferSettings,
    /// How the shard waits when nothing is ready.
    pub(crate) parking: Parking,
    /// Keepalive period of outgoing sockets; zero turns it off.
    pub(crate) keepalive: Duration,
}

/// Counters of the engine; added to the shard's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct EngineStats {
    /// Receives that found no free buffer.
    pub(crate) starved: u64,
    /// Bytes copied out of ring buffers.
    pub(crate) spilled_bytes: u64,
}

/// The ring and everything on it.
pub(crate) struct Engine {
    pub(super) ring: IoUring,
    pub(super) sockets: Slab<Socket>,
    pub(super) small: Pool,
    pub(super) large: Pool,
    pub(super) settings: EngineSettings,
    pub(super) stats: EngineStats,
    /// Sockets with something queued and no send in flight.
    pub(super) flush: Vec<SocketId>,
    /// Sockets whose receive ended and should start again.
    pub(super) rearm: Vec<SocketId>,
    /// Bulk sockets known to have more to read, in turn.
    pub(super) ready: VecDeque<SocketId>,
    /// Sockets that found no buffer, oldest first: of the small ones, of the large ones.
    pub(super) starved: [VecDeque<SocketId>; 2],
    /// A receive found no buffer since the last look for buffers to be had.
    pub(super) short: bool,
    reaped: Vec<Completion>,
    next_reaped: usize,
    pub(super) scratch: Scratch,
    pub(super) blocks: Blocks,
    /// The next turn must not wait.
    hurried: bool,
    pub(super) generation: u32,
    pub(super) in_flight: usize,
    pub(super) spill_bytes: usize,
    doorbell: Arc<OwnedFd>,
    doorbell_value: Box<u64>,
    timer: Option<Duration>,
    /// Number of the timer set last; completions of others are of no interest.
    timer_number: u32,
    timer_runs: bool,
    timer_spec: Box<types::Timespec>,
    pub(super) tidying: Tidying,
    /// Always has something to read.
    pub(super) endless: OwnedFd,
}

/// One completion, copied out of the queue.
#[derive(Clone, Copy)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// Rings an engine's bell from any thread: its `enter` returns with [`Event::Doorbell`].
#[derive(Clone, Debug)]
pub(crate) struct Doorbell(Arc<OwnedFd>);

impl Doorbell {
    /// Never blocks; ringing twice before the engine looks is the same as once.
    pub(crate) fn ring(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: writes eight bytes of our own to a descriptor we keep open. The only failure
        // is a full counter, and then the bell is ringing already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

const RING_ENTRIES: u32 = 1024;
/// With 8,192 or more the kernel's table of armed operations has its 256 rows, the most there are.
const COMPLETION_ENTRIES: u32 = 8 * RING_ENTRIES;
pub(super) const SMALL_GROUP: u16 = 1;
pub(super) const LARGE_GROUP: u16 = 2;
/// Buffers posted at first; grows when receives find none.
const SMALL_WINDOW: u16 = 64;
const LARGE_WINDOW: u16 = 2;
const ENDLESS: libc::c_int = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE;

impl Engine {
    /// A ring on the calling thread, which must be the one that drives it.
    ///
    /// # Errors
    /// The kernel refuses the ring, its buffers or the doorbell.
    pub(crate) fn new(settings: EngineSettings) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_cqsize(COMPLETION_ENTRIES)
            .setup_submit_all();
        match settings.parking {
            // Completions are worked on inside our own wait only; nobody polls this ring.
            Parking::Ring => builder.setup_defer_taskrun().setup_taskrun_flag(),
            // With deferred work a poll of the ring's descriptor lost wake-ups in trials.
            Parking::Executor => builder.setup_coop_taskrun().setup_taskrun_flag(),
        };
        let ring = builder.build(RING_ENTRIES)?;
        // A registered ring saves a descriptor lookup per enter; without it all works the same.
        let _ = ring.submitter().register_ring_fd();
        let b = settings.buffers;
        let pool = |group, bytes, count: usize, window| {
            let count = u16::try_from(count).unwrap_or(1 << 15);
            Pool::new(&ring.submitter(), group, bytes, count, window)
        };
        let small = pool(SMALL_GROUP, b.small_bytes, b.small_count, SMALL_WINDOW)?;
        let large = pool(LARGE_GROUP, b.large_bytes, b.large_count, LARGE_WINDOW)?;
        let mut engine = Self {
            small,
            large,
            ring,
            sockets: Slab::new(),
            settings,
            stats: EngineStats::default(),
            flush: Vec::new(),
            rearm: Vec::new(),
            ready: VecDeque::new(),
            starved: Default::default(),
            short: false,
            reaped: Vec::with_capacity(256),
            next_reaped: 0,
            scratch: Scratch::default(),
            blocks: Blocks::default(),
            hurried: false,
            generation: 0,
            in_flight: 0,
            spill_bytes: 0,
            doorbell: Arc::new(eventfd(0, libc::EFD_CLOEXEC)?),
            doorbell_value: Box::new(0),
            timer: None,
            timer_number: 0,
            timer_runs: false,
            timer_spec: Box::default(),
            tidying: Tidying::default(),
            // Each read takes one off: enough for a million crowds.
            endless: eventfd(u32::MAX, ENDLESS)?,
        };
        engine.listen_doorbell();
        Ok(engine)
    }

    /// A bell for other threads.
    pub(crate) fn doorbell(&self) -> Doorbell {
        Doorbell(Arc::clone(&self.doorbell))
    }

    /// Counters since the start.
    pub(crate) fn stats(&self) -> EngineStats {
        self.stats
    }

    /// Sockets that exist, listeners and closing ones included.
    #[cfg(test)]
    pub(crate) fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    /// Receive buffers that are not free.
    #[cfg(test)]
    pub(crate) fn buffers_held(&self) -> usize {
        self.small.count() + self.large.count() - self.small.free() - self.large.free()
    }

    /// Continues generations after `last`.
    #[cfg(test)]
    pub(crate) fn set_generation(&mut self, last: u32) {
        self.generation = last;
    }

    /// State of a socket, for the dump of a test that stands still.
    #[cfg(test)]
    pub(crate) fn describe(&self, id: SocketId) -> String {
        match self.sockets.get(id.index as usize) {
            Some(s) if s.generation == id.generation => format!(
                "[{:?} wanted {} bulk {} cancelling {}; {} queued, scarce {} sending {} recalled {} \
                 dirty {} notify {} {:?}; {:?}]",
                s.rx,
                s.wanted,
                s.bulk,
                s.cancelling,
                s.tx.bytes(),
                s.tx.is_scarce(),
                s.sending,
                s.recalled,
                s.dirty,
                s.notify,
                s.fin,
                s.ops,
            ),
            _ => "[gone]".to_owned(),
        }
    }

    /// Bytes of send queues outside the ring buffers.
    #[cfg(test)]
    pub(crate) fn spilled_now(&self) -> usize {
        self.spill_bytes
    }

    /// Submits what was queued since the last call and takes in what is complete; with `wait`
    /// blocks until something is.
    ///
    /// # Errors
    /// The kernel refuses the call for a reason that will not pass: the shard is lost.
    pub(crate) fn enter(&mut self, wait: bool) -> io::Result<()> {
        // Timers may have filled the queue after the last event was told: what making room took in
        // is still to be told.
        self.reaped.drain(..self.next_reaped);
        self.next_reaped = 0;
        self.flush_sends();
        self.start_receives();
        self.recall_sends();
        self.start_timer();
        self.small.publish();
        self.large.publish();
        let told = self.reaped.is_empty();
        let hurried = std::mem::take(&mut self.hurried);
        let wait = wait && told && !hurried && self.ready.is_empty() && !self.may_feed_starved();
        self.submit(usize::from(wait))?;
        if self.ring.submission().is_empty() {
            // Every header was copied. Not so after a submission in the middle of a turn, which
            // only makes room: the entry that wanted room names a header and follows it.
            self.scratch.used = 0;
        }
        self.reap();
        Ok(())
    }

    /// Whether completions wait to be taken in by the next [`Engine::enter`], without a syscall.
    pub(crate) fn is_ready(&mut self) -> bool {
        let queue = self.ring.submission();
        if queue.taskrun() || queue.cq_overflow() || !queue.is_empty() {
            return true;
        }
        drop(queue);
        self.next_reaped < self.reaped.len()
            || !self.flush.is_empty()
            || !self.rearm.is_empty()
            || !self.ready.is_empty()
            || self.timer.is_some()
            || self.short
            || self.hurried
            || self.may_feed_starved()
            || !self.ring.completion().is_empty()
    }

    /// The next [`Engine::enter`] does not wait: its caller has left something to do.
    pub(crate) fn hurry(&mut self) {
        self.hurried = true;
    }

    /// Bulk sockets are known to have more to read: the next turn brings it without waiting.
    pub(crate) fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The ring's descriptor, readable when completions wait.
    pub(crate) fn ring_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    /// The next thing that happened; `None` when all of this turn's are told.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        while let Some(completion) = self.reaped.get(self.next_reaped).copied() {
            self.next_reaped += 1;
            if let Some(event) = self.complete(completion) {
                return Some(event);
            }
        }
        None
    }

    /// One [`Event::Timer`] after `delay`, instead of what was set in an earlier turn; of several
    /// calls in one turn the shortest counts.
    pub(crate) fn set_timer(&mut self, delay: Duration) {
        self.timer = Some(self.timer.map_or(delay, |set| set.min(delay)));
    }

    fn start_timer(&mut self) {
        let Some(delay) = self.timer.take() else {
            return;
        };
        if self.timer_runs {
            // Else every earlier deadline would leave one more timer behind, for ever.
            let entry = opcode::TimeoutRemove::new(self.timer_token())
                .build()
                .user_data(token(OpKind::Ignore, SocketId::NONE));
            self.push(entry);
        }
        self.timer_number = self.timer_number.wrapping_add(1);
        self.timer_runs = true;
        *self.timer_spec = types::Timespec::from(delay);
        let entry = opcode::Timeout::new(&raw const *self.timer_spec)
            .build()
            .user_data(self.timer_token());
        self.push(entry);
    }

    fn timer_token(&self) -> u64 {
        let index = self.timer_number;
        token(
            OpKind::Timer,
            SocketId {
                index,
                generation: 0,
            },
        )
    }

    fn timer_fired(&mut self, number: u32) -> Option<Event> {
        if number != self.timer_number {
            return None;
        }
        self.timer_runs = false;
        Some(Event::Timer)
    }

    /// The socket, unless it is gone or closing.
    pub(super) fn live(&mut self, id: SocketId) -> Option<&mut Socket> {
        self.sockets
            .get_mut(id.index as usize)
            .filter(|socket| socket.generation == id.generation && !socket.closing)
    }

    pub(super) fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        loop {
            // SAFETY: every pointer in an entry stays valid until its completion: receive memory
            // belongs to the pools, send memory to the socket's queue, addresses and the doorbell
            // value to boxes held until then. Message headers and timer values only have to live
            // until the submission, which the scratch and the boxed value do.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            if self.submit(0).is_err() {
                // Only a ring that is broken for good refuses; the next `enter` reports it.
                return;
            }
        }
    }

    fn submit(&mut self, want: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => break,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The completion queue overflowed: take some in first.
                    Some(libc::EBUSY | libc::EAGAIN) => {
                        self.reap();
                        if want > 0 && !self.reaped.is_empty() {
                            break;
                        }
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn reap(&mut self) {
        let mut queue = self.ring.completion();
        queue.sync();
        for entry in &mut queue {
            if !cqueue::more(entry.flags()) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            self.reaped.push(Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            });
        }
    }

    fn complete(&mut self, completion: Completion) -> Option<Event> {
        let Completion {
            user_data,
            result,
            flags,
        } = completion;
        let (kind, id) = parse(user_data)?;
        match kind {
            OpKind::Receive => self.received(id, result, flags),
            OpKind::Send => self.sent(id, result),
            OpKind::Accept => self.accepted(id, result, cqueue::more(flags)),
            OpKind::Connect => self.connected(id, result),
            OpKind::Timer => self.timer_fired(id.index),
            OpKind::Doorbell => {
                self.listen_doorbell();
                Some(Event::Doorbell)
            }
            OpKind::Watch => self.watched(id, result, flags),
            OpKind::Withdraw => {
                self.withdrawn(id.index, flags);
                None
            }
            OpKind::Ignore => None,
        }
    }

    fn listen_doorbell(&mut self) {
        let value = (&raw mut *self.doorbell_value).cast();
        let id = SocketId {
            index: 0,
            generation: 0,
        };
        let entry = opcode::Read::new(types::Fd(self.doorbell.as_raw_fd()), value, 8)
            .build()
            .user_data(token(OpKind::Doorbell, id));
        self.push(entry);
    }
}

impl Engine {
    /// Ends every operation in flight; returns how many are still there after all.
    pub(super) fn shut_down(&mut self) -> usize {
        for (_, socket) in &self.sockets {
            socket::break_off(socket.fd);
        }
        // What was queued last, closes among it, runs too. Whether a step fails does not matter
        // here: what stays in flight is counted.
        let _ = self.submit(0);
        let _ = self.ring.submitter().register_sync_cancel(
            Some(types::Timespec::new().sec(1)),
            types::CancelBuilder::any().all(),
        );
        self.reap();
        // Waiting also runs the work that the kernel deferred to this thread.
        let limit = types::Timespec::from(Duration::from_millis(200));
        let args = types::SubmitArgs::new().timespec(&limit);
        while self.in_flight > 0 && self.ring.submitter().submit_with_args(1, &args).is_ok() {
            self.reap();
        }
        for completion in self.reaped.drain(..).skip(self.next_reaped) {
            let accept =
                parse(completion.user_data).is_some_and(|(kind, _)| kind == OpKind::Accept);
            if accept && completion.result >= 0 {
                socket::close_now(completion.result);
            }
        }
        self.next_reaped = 0;
        self.in_flight
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = self.shut_down();
        if left > 0 {
            // Something may still write into our memory: better lost than reused.
            tracing::debug!(left, "operations outlive the ring");
            self.small.leak();
            self.large.leak();
            for (_, socket) in &mut self.sockets {
                std::mem::forget(std::mem::take(&mut socket.tx));
            }
            std::mem::forget(std::mem::replace(&mut self.doorbell_value, Box::new(0)));
        }
        for (_, socket) in &self.sockets {
            socket::close_now(socket.fd);
        }
    }
}

fn eventfd(count: u32, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: a plain syscall; the descriptor it returns is ours alone.
    unsafe {
        let fd = libc::eventfd(count, flags);
        if fd < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(OwnedFd::from_raw_fd(fd))
        }
    }
}
