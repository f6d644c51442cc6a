//! One direction of one connection, on either side of a proxy: obfuscated2 encryption, transport
//! framing and, between client and proxy, TLS records. Works on buffers; sockets are not here.
//!
//! Used by the client and by the fake DC. Nothing is kept of what is read, so ten thousand idle
//! connections cost the load generator next to nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use shards::proto::{
    crypto::CtrStream,
    faketls::record,
    framing::{FrameError, FrameEvent, FrameReader, Framing, Side},
};
use tokio::io::AsyncWrite;

/// Payload of one TLS record on the uplink: what real clients send (protocol.md 6.9).
pub const CLIENT_RECORD_BYTES: usize = 2878;
/// What a client sends in front of its first record (protocol.md 6.9).
pub const CHANGE_CIPHER_SPEC: [u8; 6] = [0x14, 3, 3, 0, 1, 1];

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// Not a TLS record that clients take (protocol.md 6.10).
    #[error("record header {header:02x?}")]
    Record {
        /// Type, version, length.
        header: [u8; record::HEADER],
    },
    /// Frames out of step: wrong keys, or bytes lost.
    #[error("framing: {0}")]
    Frame(#[from] FrameError),
}

/// What is received: records are taken off, bytes decrypted, frames cut.
#[derive(Clone, Debug)]
pub struct Inbound {
    records: Option<StrictRecords>,
    cipher: CtrStream,
    frames: FrameReader,
}

impl Inbound {
    /// `records` says whether TLS records lie around the stream.
    pub fn new(cipher: CtrStream, framing: Framing, side: Side, records: bool) -> Inbound {
        Inbound {
            records: records.then(StrictRecords::default),
            cipher,
            frames: FrameReader::new(framing, side),
        }
    }

    /// Works through `data` as received and hands every piece of a frame to `sink`.
    ///
    /// # Errors
    /// [`InboundError`], or whatever `sink` returns.
    pub fn feed<E: From<InboundError>>(
        &mut self,
        data: &mut [u8],
        mut sink: impl FnMut(FrameEvent<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let bytes = match &mut self.records {
            Some(records) => records.compact(data)?,
            None => data.len(),
        };
        let data = &mut data[..bytes];
        self.cipher.apply(data);
        let mut rest: &[u8] = data;
        loop {
            let step = self.frames.next(rest).map_err(InboundError::from)?;
            rest = &rest[step.consumed..];
            match step.event {
                Some(event) => sink(event)?,
                None => return Ok(()),
            }
        }
    }

    /// Nothing of a frame or record was read since the last one ended.
    pub fn is_between_frames(&self) -> bool {
        self.frames.is_between_frames()
            && self.records.as_ref().is_none_or(StrictRecords::is_between)
    }
}

/// Takes record headers off as clients do: application data only, 1 to 16 384 bytes each. Stricter
/// than the proxy's own reader, and apart from it, so that two wrong halves cannot agree.
#[derive(Clone, Debug, Default)]
struct StrictRecords {
    header: [u8; record::HEADER],
    /// Bytes of `header` that are there; under 5 between two payloads.
    header_bytes: usize,
    left: usize,
}

impl StrictRecords {
    /// Moves payload to the front of `data` and returns its length.
    fn compact(&mut self, data: &mut [u8]) -> Result<usize, InboundError> {
        let (mut from, mut to) = (0, 0);
        while from < data.len() {
            if self.left == 0 {
                self.header[self.header_bytes] = data[from];
                self.header_bytes += 1;
                from += 1;
                if self.header_bytes == record::HEADER {
                    self.left = payload_bytes(self.header)?;
                    self.header_bytes = 0;
                }
                continue;
            }
            let bytes = self.left.min(data.len() - from);
            data.copy_within(from..from + bytes, to);
            from += bytes;
            to += bytes;
            self.left -= bytes;
        }
        Ok(to)
    }

    fn is_between(&self) -> bool {
        self.left == 0 && self.header_bytes == 0
    }
}

fn payload_bytes(header: [u8; record::HEADER]) -> Result<usize, InboundError> {
    let bytes = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let right = header[..3] == [0x17, 3, 3] && (1..=record::PAYLOAD_MAX).contains(&bytes);
    if right {
        Ok(bytes)
    } else {
        Err(InboundError::Record { header })
    }
}

/// What is sent: frames are collected, encrypted in place and wrapped in records when
/// [`Outbound::seal`] is called, then written by [`Outbound::poll_flush`].
#[derive(Debug)]
pub struct Outbound {
    cipher: CtrStream,
    framing: Framing,
    /// Payload bytes of one record; `None` outside TLS.
    record_bytes_max: Option<usize>,
    buf: Vec<u8>,
    /// Where the header of the open record stands.
    record_at: Option<usize>,
    /// Everything before this is encrypted; `clear_from <= buf.len()`.
    clear_from: usize,
    /// Bytes of `buf` that were written already.
    sent: usize,
    padding_state: u32,
}

impl Outbound {
    /// `record_bytes_max`: payload of one TLS record, `None` outside TLS.
    pub fn new(cipher: CtrStream, framing: Framing, record_bytes_max: Option<usize>) -> Outbound {
        Outbound {
            cipher,
            framing,
            record_bytes_max,
            buf: Vec::new(),
            record_at: None,
            clear_from: 0,
            sent: 0,
            padding_state: rand::random::<u32>() | 1,
        }
    }

    /// Appends bytes that go out as they are, outside every record. Only before anything else.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        debug_assert!(self.record_at.is_none() && self.clear_from == self.buf.len());
        self.buf.extend_from_slice(bytes);
        self.clear_from = self.buf.len();
    }

    /// Appends bytes that are encrypted already: the 64-byte header. Goes into a record.
    pub fn push_header(&mut self, wire: &[u8]) {
        debug_assert!(self.clear_from == self.buf.len());
        if self.record_bytes_max.is_some() {
            self.open_record();
        }
        self.buf.extend_from_slice(wire);
        self.clear_from = self.buf.len();
    }

    /// Appends a frame of `parts`, with random padding if the framing has it.
    ///
    /// # Errors
    /// The parts are no multiple of four bytes, or too long.
    pub fn push_frame<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), FrameError> {
        self.push(parts, false)
    }

    /// As [`Outbound::push_frame`], asking for a quick acknowledgement.
    ///
    /// # Errors
    /// As [`Outbound::push_frame`].
    pub fn push_acked_frame<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]> + Clone,
    ) -> Result<(), FrameError> {
        self.push(parts, true)
    }

    fn push<'a>(
        &mut self,
        parts: impl IntoIterator<Item = &'a [u8]> + Clone,
        quick_ack: bool,
    ) -> Result<(), FrameError> {
        let payload_bytes = parts.clone().into_iter().map(<[u8]>::len).sum();
        let padding = self.begin(payload_bytes, quick_ack)?;
        for part in parts {
            self.put(part);
        }
        self.end_frame(padding);
        Ok(())
    }

    /// Begins a frame whose payload follows in calls of [`Outbound::put`]; returns the padding that
    /// [`Outbound::end_frame`] wants. For bodies too large to hold in one piece.
    ///
    /// # Errors
    /// No multiple of four bytes, or too long.
    pub fn begin_frame(&mut self, payload_bytes: usize) -> Result<usize, FrameError> {
        self.begin(payload_bytes, false)
    }

    fn begin(&mut self, payload_bytes: usize, quick_ack: bool) -> Result<usize, FrameError> {
        let padding = if self.framing == Framing::Padded {
            self.padding()
        } else {
            0
        };
        let header = self
            .framing
            .encode_header(payload_bytes, padding, quick_ack)?;
        self.put(header.as_bytes());
        Ok(padding)
    }

    /// Appends a piece of the payload of the frame that was begun.
    pub fn put(&mut self, mut bytes: &[u8]) {
        let Some(max) = self.record_bytes_max else {
            self.buf.extend_from_slice(bytes);
            return;
        };
        while !bytes.is_empty() {
            let at = self.record_at.unwrap_or_else(|| self.open_record());
            let room = max - (self.buf.len() - at - record::HEADER);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buf.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.seal();
            }
        }
    }

    /// Ends a frame.
    pub fn end_frame(&mut self, padding: usize) {
        // Encrypted like all else, so that zeros look random on the wire.
        self.put(&[0; 16][..padding]);
    }

    /// Makes everything appended so far ready for sending.
    pub fn seal(&mut self) {
        if let Some(clear) = self.buf.get_mut(self.clear_from..) {
            self.cipher.apply(clear);
        }
        self.clear_from = self.buf.len();
        if let Some(at) = self.record_at.take() {
            let header = record::header(self.buf.len() - at - record::HEADER);
            self.buf[at..at + record::HEADER].copy_from_slice(&header);
        }
    }

    /// Bytes sealed or appended and not yet written.
    pub fn pending(&self) -> usize {
        self.buf.len() - self.sent
    }

    /// Takes what would be written next, for tests that send it in their own way. Seal first.
    pub fn take(&mut self) -> Vec<u8> {
        debug_assert_eq!(self.clear_from, self.buf.len());
        self.clear_from = 0;
        let mut out = std::mem::take(&mut self.buf);
        out.drain(..std::mem::take(&mut self.sent));
        out
    }

    /// Writes once; ready with the number of bytes written. Seal first.
    ///
    /// # Errors
    /// Those of the socket; a socket that takes nothing counts as closed.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<usize>> {
        debug_assert_eq!(self.clear_from, self.buf.len());
        let wrote = ready!(to.poll_write(cx, &self.buf[self.sent..]))?;
        if wrote == 0 && self.pending() > 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent += wrote;
        if self.sent == self.buf.len() {
            self.buf.clear();
            (self.sent, self.clear_from) = (0, 0);
        }
        Poll::Ready(Ok(wrote))
    }

    /// Writes everything. Seal first.
    ///
    /// # Errors
    /// As [`Outbound::poll_write`].
    pub fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut impl AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        while self.pending() > 0 {
            ready!(self.poll_write(cx, to.as_mut()))?;
        }
        Poll::Ready(Ok(()))
    }

    fn open_record(&mut self) -> usize {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[0; record::HEADER]);
        self.clear_from = self.buf.len();
        self.record_at = Some(at);
        at
    }

    /// 0..=15, as official clients draw it.
    fn padding(&mut self) -> usize {
        self.padding_state ^= self.padding_state << 13;
        self.padding_state ^= self.padding_state >> 17;
        self.padding_state ^= self.padding_state << 5;
        (self.padding_state >> 28) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> CtrStream {
        CtrStream::new(&[7; 32], &[9; 16])
    }

    fn collect(inbound: &mut Inbound, data: &mut [u8], frames: &mut Vec<Vec<u8>>) {
        let sink = |event: FrameEvent<'_>| -> Result<(), InboundError> {
            match event {
                FrameEvent::Begin { .. } => frames.push(Vec::new()),
                FrameEvent::Payload(piece) => frames.last_mut().unwrap().extend_from_slice(piece),
                FrameEvent::End | FrameEvent::QuickAck(_) => {}
            }
            Ok(())
        };
        inbound.feed(data, sink).unwrap();
    }

    #[test]
    fn reads_what_it_writes_however_it_is_cut() {
        let payload: Vec<u8> = (0..9000_u32).flat_map(u32::to_le_bytes).collect();
        for framing in [Framing::Abridged, Framing::Intermediate, Framing::Padded] {
            for records in [None, Some(CLIENT_RECORD_BYTES), Some(100)] {
                let mut out = Outbound::new(stream(), framing, records);
                out.push_frame([&payload[..10], &payload[10..]]).unwrap();
                out.seal();
                out.push_frame([&payload[..64]]).unwrap();
                out.seal();
                let wire = out.take();
                for cut in [1, 7, 1000, wire.len()] {
                    let mut inbound =
                        Inbound::new(stream(), framing, Side::Uplink, records.is_some());
                    let mut frames = Vec::new();
                    for piece in wire.chunks(cut) {
                        collect(&mut inbound, &mut piece.to_vec(), &mut frames);
                    }
                    assert!(inbound.is_between_frames());
                    assert_eq!(frames.len(), 2);
                    assert_eq!(frames[0][..payload.len()], payload[..]);
                    assert_eq!(frames[1][..64], payload[..64]);
                }
            }
        }
    }

    #[test]
    fn refuses_records_that_clients_refuse() {
        let cases: [&[u8]; 4] = [
            &[0x14, 3, 3, 0, 1, 1],
            &[0x17, 3, 3, 0, 0],
            &[0x17, 3, 3, 0x40, 1],
            &[0x15, 3, 3, 0, 2],
        ];
        for case in cases {
            let mut inbound = Inbound::new(stream(), Framing::Padded, Side::Downlink, true);
            let fed = inbound.feed::<InboundError>(&mut case.to_vec(), |_| Ok(()));
            assert!(
                matches!(fed, Err(InboundError::Record { .. })),
                "{case:02x?}"
            );
        }
    }

    #[test]
    fn records_carry_the_header_unchanged_and_keep_their_size() {
        let mut out = Outbound::new(stream(), Framing::Intermediate, Some(CLIENT_RECORD_BYTES));
        out.push_raw(&CHANGE_CIPHER_SPEC);
        out.push_header(&[0x55; 64]);
        let body = vec![0; 8000];
        out.push_frame([&body[..]]).unwrap();
        out.seal();
        let wire = out.take();
        assert_eq!(wire[..6], CHANGE_CIPHER_SPEC);
        assert_eq!(wire[6..11], [0x17, 3, 3, 0x0b, 0x3e]);
        assert_eq!(wire[11..75], [0x55; 64]);
        assert_eq!(wire.len(), 6 + 64 + 8004 + 3 * 5);
    }
}
