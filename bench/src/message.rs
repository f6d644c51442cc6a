//! Puts the pieces of frames together to messages of [`wire`](crate::wire): head and body, the body
//! checked against its CRC-32 and kept only on request.
//!
//! Used by the client for answers and by the fake DC for requests.

use shards::proto::framing::FrameEvent;

use crate::{
    transport::InboundError,
    wire::{HEAD_BYTES, Head, HeadError, Op},
};

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its head; the body fits `crc` and `body_bytes`.
    pub head: Head,
    /// The body, when it was asked for; otherwise empty.
    pub body: Vec<u8>,
}

/// Why a frame is no message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Broken below the messages.
    #[error(transparent)]
    Inbound(#[from] InboundError),
    /// The head is not ours.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The frame ended inside its head or body.
    #[error("frame ended {missing} bytes too early")]
    Short {
        /// Bytes announced and not there.
        missing: usize,
    },
    /// The body was changed on the way.
    #[error("body of message {id} has CRC {got:08x}, announced was {announced:08x}")]
    Checksum {
        /// Request id.
        id: u32,
        /// CRC-32 of what arrived.
        got: u32,
        /// CRC-32 in the head.
        announced: u32,
    },
}

/// One message in the making.
#[derive(Debug, Default)]
pub struct MessageReader {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there; at most `HEAD_BYTES`.
    head_bytes: usize,
    current: Option<Message>,
    body_left: usize,
    crc: crc32fast::Hasher,
}

impl MessageReader {
    /// Takes the next piece; returns the message that it completes. Bodies are kept where `keep`
    /// says so.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn take(
        &mut self,
        event: FrameEvent<'_>,
        keep: impl Fn(Op) -> bool,
    ) -> Result<Option<Message>, MessageError> {
        match event {
            FrameEvent::Begin { .. } => {
                self.head_bytes = 0;
                self.current = None;
                Ok(None)
            }
            FrameEvent::Payload(piece) => self.payload(piece, keep).map(|()| None),
            FrameEvent::End => self.end().map(Some),
            // Nobody here asks for one; a proxy passes them through unseen.
            FrameEvent::QuickAck(_) => Ok(None),
        }
    }

    fn payload(&mut self, mut piece: &[u8], keep: impl Fn(Op) -> bool) -> Result<(), MessageError> {
        if self.current.is_none() {
            let want = (HEAD_BYTES - self.head_bytes).min(piece.len());
            self.head[self.head_bytes..self.head_bytes + want].copy_from_slice(&piece[..want]);
            self.head_bytes += want;
            piece = &piece[want..];
            if self.head_bytes < HEAD_BYTES {
                return Ok(());
            }
            let head = match Head::of_key_request(&self.head) {
                Some(head) => head,
                None => Head::decode(&self.head)?,
            };
            self.body_left = head.body_bytes as usize;
            self.crc = crc32fast::Hasher::new();
            let body = Vec::with_capacity(if keep(head.op) { self.body_left } else { 0 });
            self.current = Some(Message { head, body });
        }
        if let Some(message) = &mut self.current {
            // What is left over is padding that the framing could not tell from payload.
            let piece = &piece[..self.body_left.min(piece.len())];
            self.body_left -= piece.len();
            self.crc.update(piece);
            if keep(message.head.op) {
                message.body.extend_from_slice(piece);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Message, MessageError> {
        let Some(message) = self.current.take() else {
            return Err(MessageError::Short {
                missing: HEAD_BYTES - self.head_bytes,
            });
        };
        if self.body_left > 0 {
            return Err(MessageError::Short {
                missing: self.body_left,
            });
        }
        let got = std::mem::take(&mut self.crc).finalize();
        let Head {
            op,
            id,
            crc: announced,
            ..
        } = message.head;
        if got != announced && op != Op::KeyRequest {
            return Err(MessageError::Checksum { id, got, announced });
        }
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &[u8], keep: bool) -> Result<Option<Message>, MessageError> {
        let mut reader = MessageReader::default();
        reader.take(
            FrameEvent::Begin {
                payload_bytes: 0,
                quick_ack: false,
            },
            |_| keep,
        )?;
        for byte in frame.chunks(5) {
            reader.take(FrameEvent::Payload(byte), |_| keep)?;
        }
        reader.take(FrameEvent::End, |_| keep)
    }

    #[test]
    fn the_first_message_of_real_clients_is_understood() {
        let mut frame = [0; 40];
        frame[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        frame[16] = 20;
        frame[20..24].copy_from_slice(&0xbe7e_8ef1_u32.to_le_bytes());
        frame[24..].copy_from_slice(&[9; 16]);
        let op = |frame: &[u8]| Ok(read(frame, false)?.map(|message| message.head.op));
        assert_eq!(op(&frame), Ok(Some(Op::KeyRequest)));
        frame[20] ^= 1;
        assert!(matches!(op(&frame), Err(MessageError::Head(_))));
    }

    #[test]
    fn joins_pieces_and_drops_surplus_padding() {
        let body = [1, 2, 3, 4, 5, 6, 7, 8];
        let head = Head {
            body_bytes: 8,
            crc: crc32fast::hash(&body),
            ..Head::request(Op::Echo, 3, 0)
        };
        let mut frame = head.encode().to_vec();
        frame.extend_from_slice(&body);
        frame.extend_from_slice(&[9; 12]);
        assert_eq!(
            read(&frame, true),
            Ok(Some(Message {
                head,
                body: body.to_vec()
            }))
        );
        assert_eq!(
            read(&frame, false),
            Ok(Some(Message {
                head,
                body: Vec::new()
            }))
        );
        frame[26] ^= 1;
        assert!(matches!(
            read(&frame, false),
            Err(MessageError::Checksum { id: 3, .. })
        ));
        assert_eq!(
            read(&frame[..28], false),
            Err(MessageError::Short { missing: 4 })
        );
        assert_eq!(
            read(&frame[..20], false),
            Err(MessageError::Short { missing: 4 })
        );
    }
}
