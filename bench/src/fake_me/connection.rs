//! An open connection from a proxy: messages of many clients in, their answers out, at the same
//! time, with whatever fault is set.
//!
//! Frames wait in plain text until the socket has taken those before them, then they are encrypted
//! in one run. Source: middle-proxy.md 6 and 8, from the ME's side.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
    time::Duration,
};

use shards::proto::middle::{
    cipher::{CbcEncryptor, DecryptStream},
    far_side::{write_ack, write_answer, write_close},
    frame::{FrameEncoder, RpcFrameError, pad_run},
    ops::{ConnId, Note},
    proxy_req::flag,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc::UnboundedReceiver,
    time::Sleep,
};

use super::{
    beginning::Channel,
    clients::{Arrival, Clients, Departure},
    confirm,
    endpoint::Endpoint,
    fault::{Ending, Fault, Order},
    requests::{About, Request, RequestReader},
    stats::{SeenClient, add, sub},
};
use crate::{
    answers::Step,
    message::{Message, MessageError},
    wire::HEAD_BYTES,
};

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The proxy has closed it, or the socket failed.
    Peer,
    /// All was written; the end of the stream is next.
    Fin,
    /// A reset is next.
    Rst,
    /// A bad frame.
    Broken,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Peer
    }
}

impl From<RpcFrameError> for End {
    fn from(_: RpcFrameError) -> End {
        End::Broken
    }
}

/// One connection whose handshake is done.
pub(super) struct Connection<'a> {
    stream: &'a mut TcpStream,
    endpoint: &'a Endpoint,
    /// Its number.
    number: u64,
    orders: UnboundedReceiver<Order>,
    fault: Fault,
    decryptor: DecryptStream,
    reader: RequestReader,
    clients: Clients,
    writer: Writer,
    ending: bool,
    /// Nothing is read until then.
    read_pause: Option<Pin<Box<Sleep>>>,
    /// Nothing is answered until then.
    answer_pause: Option<Pin<Box<Sleep>>>,
    /// It is reset then.
    reset_at: Option<Pin<Box<Sleep>>>,
}

/// Frames out.
struct Writer {
    encoder: FrameEncoder,
    encryptor: CbcEncryptor,
    /// Frames that are not encrypted yet.
    run: Vec<u8>,
    /// Encrypted bytes, those before `sent` written.
    out: Vec<u8>,
    sent: usize,
    wrong_checksums: bool,
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        stream: &'a mut TcpStream,
        endpoint: &'a Endpoint,
        number: u64,
        orders: UnboundedReceiver<Order>,
        channel: Channel,
    ) -> Connection<'a> {
        let mut connection = Connection {
            stream,
            endpoint,
            number,
            orders,
            fault: Fault::None,
            decryptor: channel.decryptor,
            reader: RequestReader::new(channel.frames),
            clients: Clients::default(),
            writer: Writer {
                encoder: channel.encoder,
                encryptor: channel.encryptor,
                run: Vec::new(),
                out: Vec::new(),
                sent: 0,
                wrong_checksums: false,
            },
            ending: false,
            read_pause: None,
            answer_pause: None,
            reset_at: None,
        };
        connection.set_fault(endpoint.fault());
        connection
    }

    /// Serves it until it ends; the caller closes the socket as the end says.
    pub(super) async fn run(mut self) -> End {
        let end = match poll_fn(|cx| self.poll(cx)).await {
            Ok(end) | Err(end) => end,
        };
        let counters = &self.endpoint.counters;
        let left = self.clients.len() as u64;
        counters.clients_open.fetch_sub(left, Relaxed);
        counters.clients_lost.fetch_add(left, Relaxed);
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, End>> {
        loop {
            while let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
                self.obey(order)?;
            }
            if is_over(&mut self.reset_at, cx) == Some(true) {
                return Poll::Ready(Ok(End::Rst));
            }
            let mut progress = false;
            if self.reads(cx) {
                progress |= self.poll_read(cx)?.is_ready();
            }
            if self.writes(cx) {
                if self.writer.pending() == 0 {
                    self.generate()?;
                }
                if self.writer.pending() > 0 {
                    progress |= self.poll_write(cx)?.is_ready();
                } else if self.ending {
                    return Poll::Ready(Ok(End::Fin));
                }
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<(), End> {
        match order {
            Order::End(Ending::Rst) => return Err(End::Rst),
            Order::End(Ending::Fin) => self.ending = true,
            Order::CloseClient(conn) => self.clients.plan_close(conn),
            Order::CloseClients(count) => {
                for conn in self.clients.some(count) {
                    self.clients.plan_close(conn);
                }
            }
            Order::AnswerNobody(conn) => {
                self.clients.expect_close(conn);
                self.writer
                    .frame(|out| write_answer(conn, 0, &[1; 8], out))?;
            }
            Order::Ping(id) => self.writer.frame(|out| Note::Ping(id).write(out))?,
            Order::Fault(fault) => self.set_fault(fault),
        }
        Ok(())
    }

    fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
        self.writer.wrong_checksums = fault == Fault::WrongChecksum;
        self.reset_at = match fault {
            Fault::ResetAfter(time) => Some(Box::pin(tokio::time::sleep(time))),
            _ => None,
        };
        (self.read_pause, self.answer_pause) = (None, None);
    }

    fn reads(&mut self, cx: &mut Context<'_>) -> bool {
        let may = !self.ending
            && self.fault != Fault::StallReading
            && self.clients.waiting() < WAITING_MAX;
        may && is_over(&mut self.read_pause, cx) != Some(false)
    }

    fn writes(&mut self, cx: &mut Context<'_>) -> bool {
        self.fault != Fault::StallWriting && is_over(&mut self.answer_pause, cx) != Some(false)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let limit = match self.fault {
                Fault::SlowReading(_) => SLOW_READ_BYTES,
                _ => READ_BYTES,
            };
            let mut buf = ReadBuf::new(scratch.get_mut(..limit).unwrap_or_default());
            ready!(Pin::new(&mut *self.stream).poll_read(cx, &mut buf))?;
            let data = buf.filled_mut();
            if data.is_empty() {
                return Poll::Ready(Err(End::Peer));
            }
            let counters = &self.endpoint.counters;
            counters.bytes_in.fetch_add(data.len() as u64, Relaxed);
            if let Fault::SlowReading(per_sec) = self.fault {
                let time = Duration::from_secs_f64(data.len() as f64 / f64::from(per_sec.max(1)));
                self.read_pause = Some(Box::pin(tokio::time::sleep(time)));
            }
            self.take(data)?;
            Poll::Ready(Ok(()))
        })
    }

    fn take(&mut self, data: &mut [u8]) -> Result<(), End> {
        let was_idle = self.clients.waiting() == 0 && self.writer.run.is_empty();
        let plain = self.decryptor.decrypt(data);
        let seam = plain.seam.as_ref().map_or(&[][..], |seam| &seam[..]);
        let body = data.get(plain.body).unwrap_or_default();
        let mut got = Vec::new();
        for piece in [seam, body] {
            self.reader.feed(piece, |request| got.push(request))?;
        }
        for request in got {
            self.request(request)?;
        }
        if let Fault::Delay(time) = self.fault
            && was_idle
        {
            self.answer_pause = Some(Box::pin(tokio::time::sleep(time)));
        }
        Ok(())
    }

    fn request(&mut self, request: Request) -> Result<(), End> {
        let counters = &self.endpoint.counters;
        match request {
            Request::Message { about, message } => return self.message(&about, message),
            Request::Close(conn) => match self.clients.depart(conn) {
                Departure::Open => {
                    add(&counters.clients_closed);
                    sub(&counters.clients_open);
                }
                Departure::Late => add(&counters.late),
                Departure::Violation => add(&counters.violations),
            },
            Request::Ping(id) => {
                add(&counters.pings);
                if !matches!(self.fault, Fault::Mute | Fault::NoPongs) {
                    self.writer.frame(|out| Note::Pong(id).write(out))?;
                }
            }
            Request::Pong => add(&counters.pongs),
            Request::Strange => add(&counters.violations),
        }
        Ok(())
    }

    fn message(
        &mut self,
        about: &About,
        message: Option<Result<Message, MessageError>>,
    ) -> Result<(), End> {
        let (endpoint, conn) = (self.endpoint, about.conn);
        let counters = &endpoint.counters;
        match self.clients.arrive(about) {
            Arrival::First => {
                add(&counters.clients_opened);
                add(&counters.clients_open);
                endpoint.world.record(SeenClient {
                    endpoint: endpoint.addr,
                    connection: self.number,
                    conn,
                    client: about.client,
                    proxy: about.proxy,
                    flags: about.flags,
                    ad_tag: about.ad_tag,
                });
            }
            Arrival::More => {}
            Arrival::Late => {
                add(&counters.late);
                return Ok(());
            }
            Arrival::Violation => {
                add(&counters.violations);
                return Ok(());
            }
        }
        if self.fault == Fault::Mute {
            return Ok(());
        }
        let id = message
            .as_ref()
            .and_then(|m| m.as_ref().ok())
            .map(|m| m.head.id);
        if about.flags & flag::QUICK_ACK != 0 {
            add(&counters.acks);
            let confirm = confirm(id.unwrap_or(0));
            self.writer.frame(|out| write_ack(conn, confirm, out))?;
        }
        match message {
            None => {
                add(&counters.signals);
                self.writer.frame(|out| write_ack(conn, confirm(0), out))?;
            }
            // A key exchange: no DC knows the key 0.
            Some(Err(_)) if about.flags & flag::UNENCRYPTED != 0 => {
                add(&counters.requests);
                self.writer
                    .frame(|out| write_answer(conn, ERROR_FLAG, &UNKNOWN_KEY, out))?;
            }
            Some(message) => {
                let planned = message
                    .ok()
                    .map(|m| self.clients.plan(conn, m, endpoint.dc));
                if planned == Some(Ok(())) {
                    add(&counters.requests);
                } else {
                    add(&counters.damaged);
                    self.close_client(conn)?;
                }
            }
        }
        Ok(())
    }

    fn close_client(&mut self, conn: ConnId) -> Result<(), End> {
        if self.clients.end(conn) {
            add(&self.endpoint.counters.clients_ended);
            sub(&self.endpoint.counters.clients_open);
            self.writer.frame(|out| write_close(conn, out))?;
        }
        Ok(())
    }

    /// Fills a run from the waiting answers, one frame of each client in turn, and encrypts it.
    fn generate(&mut self) -> Result<(), End> {
        while self.writer.run.len() < RUN_BYTES {
            let writer = &mut self.writer;
            let step = self.clients.next(|conn, answers| {
                let step = answers.step(|head, body| {
                    writer.frame(|out| {
                        let mut message = [0; HEAD_BYTES];
                        message.copy_from_slice(&head.encode());
                        write_answer(conn, 0, &message, out);
                        out.extend_from_slice(body);
                    })
                });
                step.map(|step| (conn, step))
            });
            let Some(step) = step else { break };
            let (conn, step) = step?;
            if matches!(step, Step::Close | Step::Reset) {
                self.close_client(conn)?;
            }
        }
        self.writer.encrypt();
        Ok(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let writer = &mut self.writer;
        let rest = writer.out.get(writer.sent..).unwrap_or_default();
        let wrote = ready!(Pin::new(&mut *self.stream).poll_write(cx, rest))?;
        let counters = &self.endpoint.counters;
        counters.bytes_out.fetch_add(wrote as u64, Relaxed);
        writer.sent += wrote;
        Poll::Ready(if wrote == 0 { Err(End::Peer) } else { Ok(()) })
    }
}

impl Writer {
    /// Encrypted bytes that are not written.
    fn pending(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Appends a frame to the next run.
    fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), End> {
        self.encoder.frame(&mut self.run, write)?;
        if self.wrong_checksums
            && let Some(last) = self.run.last_mut()
        {
            *last ^= 1;
        }
        Ok(())
    }

    /// Makes a run ready for sending; only when nothing is pending.
    fn encrypt(&mut self) {
        pad_run(&mut self.run, 0);
        let encrypted = self.encryptor.encrypt(&mut self.run);
        debug_assert!(encrypted.is_ok(), "the run was padded");
        self.out.clear();
        self.sent = 0;
        std::mem::swap(&mut self.out, &mut self.run);
    }
}

/// Whether a pause is over; `None` without one, as from then on.
fn is_over(pause: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Option<bool> {
    let over = pause.as_mut()?.as_mut().poll(cx).is_ready();
    if over {
        *pause = None;
    }
    Some(over)
}

/// Answers that may wait; beyond this an ME stops reading.
const WAITING_MAX: usize = 65_536;
/// Bytes generated ahead of the socket: those of a few connections stay in the L2 cache.
const RUN_BYTES: usize = 96 * 1024;
/// Bytes of one read.
const READ_BYTES: usize = 256 * 1024;
const SLOW_READ_BYTES: usize = 4 * 1024;
/// Flag of an answer that is an error code.
const ERROR_FLAG: u32 = 0x10;
/// -404, what a DC says about keys that it does not know.
const UNKNOWN_KEY: [u8; 4] = (-404_i32).to_le_bytes();

thread_local! {
    /// One read buffer for all connections of a thread: nothing of it is kept between polls.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}
