//! Receiving: multishot into small buffers, one at a time into large ones.
//!
//! A socket starts small: one multishot receive stays armed and costs nothing while it is idle.
//! When it fills small buffers it moves to large ones, one receive at a time, which is also its
//! back-pressure: no receive, no bytes. A row of short receives moves it back. A socket whose
//! receives are bounded takes one at a time in any case.

use io_uring::{cqueue, opcode, squeue, types};

use super::{
    Event,
    driver::Engine,
    lifecycle::{Rx, Socket},
    op::{OpKind, SocketId, token},
};

/// Full small buffers in a row that move a socket to large ones.
const FULL_TO_BULK: u8 = 2;
/// A bound of a receive that is no bound: large buffers are hardly larger.
const RECEIVE_LIMIT_BYTES_MAX: usize = 128 * 1024;
/// Short receives in a row that move it back.
const SHORT_TO_SMALL: u8 = 32;

impl Engine {
    /// Reads the socket from now on.
    pub(crate) fn resume(&mut self, id: SocketId) {
        let Some(socket) = self.live(id) else { return };
        socket.wanted = true;
        if socket.rx == Rx::Idle {
            self.rearm.push(id);
        }
    }

    /// Stops reading; bytes already on their way still arrive.
    pub(crate) fn pause(&mut self, id: SocketId) {
        let Some(socket) = self.live(id) else { return };
        socket.wanted = false;
        if socket.rx == Rx::Multi {
            self.cancel_receive(id);
        }
    }

    /// Takes at most so many bytes at once from now on, one receive at a time; `None` for as much
    /// as there is. For sockets whose owner pauses them after every few bytes.
    pub(crate) fn limit_receives(&mut self, id: SocketId, bytes: Option<usize>) {
        let small_bytes = self.small.capacity();
        let Some(socket) = self.live(id) else { return };
        let bytes = bytes.filter(|bytes| *bytes < RECEIVE_LIMIT_BYTES_MAX);
        let max = bytes.map_or(0, |bytes| u32::try_from(bytes.max(1)).unwrap_or(u32::MAX));
        if socket.receive_max == max {
            return;
        }
        socket.receive_max = max;
        socket.streak = 0;
        if let Some(bytes) = bytes {
            socket.bulk = bytes > small_bytes;
        }
        // A single receive that waits in the kernel would still take a whole large buffer.
        let too_much = max > 0 && matches!(socket.rx, Rx::Once | Rx::OnceSmall);
        if socket.rx == Rx::Multi || too_much {
            self.cancel_receive(id);
        }
    }

    fn cancel_receive(&mut self, id: SocketId) {
        let Some(socket) = self.live(id) else { return };
        if socket.cancelling {
            return;
        }
        socket.cancelling = true;
        self.cancel(OpKind::Receive, id);
    }

    /// Arms every receive that should run and does not.
    pub(super) fn start_receives(&mut self) {
        // First, or those that are busy would take every buffer that comes free.
        self.wake_starved();
        let mut rearm = std::mem::take(&mut self.rearm);
        for id in rearm.drain(..) {
            self.arm(id);
        }
        debug_assert!(self.rearm.is_empty());
        self.rearm = rearm;
        // One at a time: its bytes are worked on and sent while they are in the cache. A receive
        // for every socket that has some would fill the cache many times over before the first
        // send; that measured a third dearer with four uploads.
        if let Some(id) = self.ready.pop_front() {
            self.arm(id);
        }
    }

    /// Arms those that found no buffer, oldest first, as far as the buffers now free go. Each
    /// waits for its own size only.
    fn wake_starved(&mut self) {
        for (bulk, mut free) in [(false, self.small.free()), (true, self.large.free())] {
            while free > 0
                && let Some(id) = self.starved[usize::from(bulk)].pop_front()
            {
                if let Some(socket) = self.live(id)
                    && socket.rx == Rx::Starved
                {
                    free -= 1;
                    socket.rx = Rx::Idle;
                    self.arm(id);
                }
            }
        }
    }

    /// Buffers are free and somebody still waits for one: those armed so far may have nothing to
    /// receive, so this is no time to sleep.
    pub(super) fn may_feed_starved(&self) -> bool {
        (!self.starved[0].is_empty() && self.small.free() > 0)
            || (!self.starved[1].is_empty() && self.large.free() > 0)
    }

    fn arm(&mut self, id: SocketId) {
        let (small, large) = (self.small.group(), self.large.group());
        let Some(socket) = self.live(id) else { return };
        if socket.rx != Rx::Idle || !socket.wanted {
            return;
        }
        socket.ops.insert(OpKind::Receive);
        let fd = types::Fd(socket.fd);
        let entry = if socket.receive_max > 0 {
            let (rx, group) = if socket.bulk {
                (Rx::Once, large)
            } else {
                (Rx::OnceSmall, small)
            };
            socket.rx = rx;
            opcode::Recv::new(fd, std::ptr::null_mut(), socket.receive_max)
                .buf_group(group)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        } else if socket.bulk {
            socket.rx = Rx::Once;
            opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(large)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        } else {
            socket.rx = Rx::Multi;
            opcode::RecvMulti::new(fd, small).build()
        };
        self.push(entry.user_data(token(OpKind::Receive, id)));
    }

    pub(super) fn received(&mut self, id: SocketId, result: i32, flags: u32) -> Option<Event> {
        let more = cqueue::more(flags);
        let small_bytes = self.small.capacity();
        let socket = self.sockets.get_mut(id.index as usize)?;
        let pool = if socket.rx == Rx::Once {
            &self.large
        } else {
            &self.small
        };
        let len = usize::try_from(result).unwrap_or(0);
        let buf = cqueue::buffer_select(flags).map(|bid| pool.claim(bid, len));
        if !more {
            socket.rx = Rx::Idle;
            socket.cancelling = false;
            socket.ops.remove(OpKind::Receive);
        }
        if socket.closing {
            drop(buf);
            self.free_if_done(id);
            return None;
        }
        let owner = socket.owner;
        match -result {
            ..0 => {
                let was_bulk = socket.bulk;
                if socket.receive_max == 0 {
                    socket.judge(len, small_bytes);
                }
                let cancel = socket.bulk && !was_bulk && socket.rx == Rx::Multi;
                if !more && socket.bulk && cqueue::sock_nonempty(flags) {
                    self.ready.push_back(id);
                } else if !more {
                    self.rearm.push(id);
                } else if cancel {
                    self.cancel_receive(id);
                }
                buf.map(|buf| Event::Received { owner, buf })
            }
            0 => {
                socket.rx = Rx::Ended;
                Some(Event::Ended { owner })
            }
            libc::ENOBUFS => {
                let bulk = socket.bulk;
                socket.rx = Rx::Starved;
                self.stats.starved += 1;
                self.short = true;
                if bulk {
                    self.large.widen()
                } else {
                    self.small.widen()
                }
                self.starved[usize::from(bulk)].push_back(id);
                None
            }
            libc::ECANCELED | libc::EAGAIN | libc::EINTR => {
                self.rearm.push(id);
                None
            }
            errno => {
                socket.rx = Rx::Ended;
                Some(Event::Failed { owner, errno })
            }
        }
    }
}

impl Socket {
    /// Chooses the buffer size for the receives to come.
    fn judge(&mut self, len: usize, small_bytes: usize) {
        let speaks_for_bulk = len >= small_bytes;
        if speaks_for_bulk == self.bulk {
            self.streak = 0;
            return;
        }
        self.streak += 1;
        if self.streak
            >= if self.bulk {
                SHORT_TO_SMALL
            } else {
                FULL_TO_BULK
            }
        {
            self.bulk = !self.bulk;
            self.streak = 0;
        }
    }
}
