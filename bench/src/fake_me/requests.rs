//! Frames from a proxy, read as they arrive: the head of each message is collected, its data goes
//! through a [`MessageReader`] and is kept for echoes only.
//!
//! Used by `connection`. Source: middle-proxy.md 8.

use shards::proto::{
    framing::FrameEvent,
    middle::{
        far_side,
        frame::RpcFrameError,
        frame_stream::{FrameStream, StreamEvent},
        ops::{self, ConnId},
        proxy_req::{AdTag, flag},
    },
};

use crate::{
    message::{Message, MessageError, MessageReader},
    wire::Op,
};

/// One payload, complete and proven.
#[derive(Debug)]
pub(super) enum Request {
    /// PROXY_REQ.
    Message {
        about: About,
        /// `None` without data.
        message: Option<Result<Message, MessageError>>,
    },
    /// CLOSE_CONN.
    Close(ConnId),
    Ping(u64),
    Pong,
    /// Nothing that a proxy says.
    Strange,
}

/// What comes along with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct About {
    pub(super) conn: ConnId,
    pub(super) flags: u32,
    pub(super) client: std::net::SocketAddr,
    pub(super) proxy: std::net::SocketAddr,
    pub(super) ad_tag: Option<AdTag>,
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct RequestReader {
    frames: FrameStream,
    /// The payload without a message's data.
    head: Vec<u8>,
    /// Bytes of `head` that there will be, as far as known yet.
    head_bytes: usize,
    /// Data of the message in the making was there.
    has_data: bool,
    /// What became of it, once that is known.
    message: Option<Result<Message, MessageError>>,
    reader: MessageReader,
}

impl RequestReader {
    pub(super) fn new(frames: FrameStream) -> RequestReader {
        RequestReader {
            frames,
            head: Vec::with_capacity(128),
            head_bytes: 0,
            has_data: false,
            message: None,
            reader: MessageReader::default(),
        }
    }

    /// Reads on and hands every complete payload to `got`.
    pub(super) fn feed(
        &mut self,
        mut plain: &[u8],
        mut got: impl FnMut(Request),
    ) -> Result<(), RpcFrameError> {
        loop {
            let step = self.frames.next(plain)?;
            match step.event {
                None => return Ok(()),
                Some(StreamEvent::Begin { head, .. }) => {
                    self.head.clear();
                    self.head_bytes = 4;
                    (self.has_data, self.message) = (false, None);
                    self.payload(head.as_bytes());
                }
                Some(StreamEvent::Piece(range)) => {
                    self.payload(plain.get(range).unwrap_or_default());
                }
                Some(StreamEvent::End) => got(self.end()),
            }
            plain = plain.get(step.consumed..).unwrap_or_default();
        }
    }

    fn payload(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.head.len() == self.head_bytes {
                self.head_bytes = head_bytes(&self.head);
            }
            let wanted = self.head_bytes - self.head.len();
            if wanted == 0 {
                return self.data(bytes);
            }
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            self.head.extend_from_slice(now);
            bytes = later;
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        if !self.has_data {
            self.has_data = true;
            self.take(FrameEvent::Begin {
                payload_bytes: 0,
                quick_ack: false,
            });
        }
        self.take(FrameEvent::Payload(bytes));
    }

    /// Behind an error the rest of the message is only read over.
    fn take(&mut self, event: FrameEvent<'_>) {
        if self.message.is_none() {
            self.message = self.reader.take(event, |op| op == Op::Echo).transpose();
        }
    }

    fn end(&mut self) -> Request {
        if self.has_data {
            self.take(FrameEvent::End);
        }
        match far_side::Request::parse(&self.head) {
            far_side::Request::Message(message) => Request::Message {
                about: About {
                    conn: message.conn,
                    flags: message.flags,
                    client: message.client,
                    proxy: message.proxy,
                    ad_tag: message.ad_tag,
                },
                message: self.message.take(),
            },
            far_side::Request::Close(conn) => Request::Close(conn),
            far_side::Request::Ping(id) => Request::Ping(id),
            far_side::Request::Pong(_) => Request::Pong,
            far_side::Request::Ignored { .. } => Request::Strange,
        }
    }
}

/// How long the head is, as far as its first bytes tell: 4, 8, 60 or all.
fn head_bytes(seen: &[u8]) -> usize {
    let word = |at: usize| -> Option<u32> {
        let bytes = seen.get(at..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    match (word(0), word(4), word(56)) {
        (Some(op), ..) if op != ops::PROXY_REQ => NOTE_BYTES,
        (_, None, _) => 8,
        (_, Some(flags), _) if flags & (flag::AD_TAG | flag::HTTP_HEADERS) == 0 => 56,
        (.., None) => 60,
        // A head that does not end is a message without data, which shows.
        (.., Some(extra)) => 60 + (extra as usize).min(EXTRA_BYTES_MAX),
    }
}

/// Longest payload that is not a message; what is behind makes it strange.
const NOTE_BYTES: usize = 64;
const EXTRA_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use shards::proto::{
        framing::Framing,
        middle::{checksum::Checksum, frame::FrameEncoder, ops::Note, proxy_req::ProxyReq},
    };

    use super::*;
    use crate::wire::Head;

    fn read(run: &[u8], cut: usize) -> Vec<String> {
        let mut reader = RequestReader::new(FrameStream::new(0, Checksum::Crc32c));
        let mut got = Vec::new();
        for piece in run.chunks(cut) {
            reader
                .feed(piece, |request| got.push(format!("{request:?}")))
                .unwrap();
        }
        got
    }

    #[test]
    fn requests_are_the_same_however_they_are_cut() {
        let mut encoder = FrameEncoder::new(0, Checksum::Crc32c);
        let mut run = Vec::new();
        let body = [5; 40];
        let head = Head {
            body_bytes: 40,
            crc: crc32fast::hash(&body),
            ..Head::request(Op::Echo, 9, 0)
        };
        for ad_tag in [None, Some(AdTag([8; 16]))] {
            let req = ProxyReq {
                conn: ConnId(7),
                client: "1.2.3.4:5".parse().unwrap(),
                ours: "[2a00::1]:9".parse().unwrap(),
                framing: Framing::Padded,
                ad_tag,
            };
            for message in [&[&head.encode()[..], &body][..], &[], &[&[0; 8]]] {
                req.frame(&mut encoder, true, message, &mut run).unwrap();
            }
        }
        for note in [Note::CloseConn(ConnId(7)), Note::Ping(3), Note::Pong(4)] {
            encoder.frame(&mut run, |run| note.write(run)).unwrap();
        }
        let whole = read(&run, run.len());
        assert_eq!(whole.len(), 9);
        assert!(whole[0].contains("Some(Ok(Message") && whole[0].contains("id: 9"));
        assert!(whole[1].contains("message: None"), "{}", whole[1]);
        assert!(whole[2].contains("Some(Err("), "{}", whole[2]);
        assert!(whole[3].contains("AdTag([8"), "{}", whole[3]);
        assert_eq!(whole[6..], ["Close(ConnId(7))", "Ping(3)", "Pong"]);
        for cut in [1, 3, 16, 17, 100] {
            assert_eq!(read(&run, cut), whole, "pieces of {cut}");
        }
    }
}
