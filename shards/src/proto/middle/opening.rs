//! How a connection to an ME begins, from our first byte to the channel that carries clients.
//!
//! Nothing behind the handshake is lost: bytes that came with it are ciphertext of the channel and
//! stay with the caller, except for what shares its last block, which the channel has read already.
//!
//! Source: middle-proxy.md 1, 4 to 7.

use std::net::SocketAddr;

use super::{
    answers::AnswerReader,
    checksum::Checksum,
    cipher::{CbcDecryptor, CbcEncryptor, DecryptStream},
    frame::{
        BLOCK_BYTES, FrameDecoder, FrameEncoder, FrameStep, PAD_WORD, RpcFrameError, SEQ_DATA,
        SEQ_HANDSHAKE, SEQ_NONCE, frame_length, pad_run,
    },
    handshake::{
        FLAG_CRC32C, HANDSHAKE_BYTES, Handshake, HandshakeError, ProcessId, REFUSAL_BYTES,
    },
    keys::{KeyMaterial, MixedFamilies, Purpose},
    nonce::{NONCE_BYTES, Nonce, NonceError},
    secret_file::ProxySecret,
};

/// What a connection begins with. Collected when TCP is connected.
#[derive(Clone, Debug)]
pub struct OpeningInput {
    /// One snapshot for selector and keys.
    pub secret: ProxySecret,
    /// The ME, as dialled.
    pub me: SocketAddr,
    /// Ourselves, as the ME sees us: see [`super::address`].
    pub proxy: SocketAddr,
    /// Random.
    pub nonce: [u8; 16],
    /// Now.
    pub unix_secs: u32,
    /// The system's id of this process.
    pub pid: u32,
    /// When this process started.
    pub start_unix_secs: u32,
}

/// The proxy's side of a beginning: `Nonce -> Handshake -> Done`.
///
/// Holds at most one frame of 44 bytes and a block. Time limits are the caller's: 10 s for each
/// answer.
#[derive(Debug)]
pub struct MeOpening {
    input: OpeningInput,
    state: State,
}

/// Where a beginning stands, for what to log when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningStage {
    /// Waits for the NONCE. A close here means: secret, clock or source address rejected.
    Nonce,
    /// Waits for the HANDSHAKE. A close here means: keys disagree; check public address and NAT.
    Handshake,
    /// Over.
    Done,
}

/// What [`MeOpening::receive`] made of the bytes.
#[derive(Debug)]
pub struct OpeningStep {
    /// Bytes used: all of them unless the channel is ready.
    pub consumed: usize,
    /// Data can flow. Bytes behind `consumed` go to [`MeChannel::decryptor`].
    pub ready: Option<Box<MeChannel>>,
}

/// An open connection's ciphers and frame counters.
#[derive(Debug)]
pub struct MeChannel {
    /// Writes frames for the ME.
    pub encoder: FrameEncoder,
    /// Encrypts runs of them.
    pub encryptor: CbcEncryptor,
    /// Decrypts what the ME sends.
    pub decryptor: DecryptStream,
    /// Reads what was decrypted.
    pub reader: AnswerReader,
    /// Whom the ME says it is.
    pub me: ProcessId,
}

#[derive(Debug)]
enum State {
    /// Plain text: `seen` holds part of a frame, or of a pad word.
    Nonce {
        seen: Seen,
        ours: Nonce,
    },
    /// Cipher text: `block` holds part of a block, `seen` part of a frame.
    Handshake(Box<Encrypted>),
    Done,
}

#[derive(Debug)]
struct Encrypted {
    ours: Handshake,
    encryptor: CbcEncryptor,
    decryptor: CbcDecryptor,
    block: [u8; BLOCK_BYTES],
    /// Under 16.
    in_block: usize,
    seen: Seen,
}

impl MeOpening {
    /// Appends our NONCE to `out`.
    ///
    /// # Errors
    /// [`MixedFamilies`]: these addresses make no keys.
    pub fn start(input: OpeningInput, out: &mut Vec<u8>) -> Result<Self, MixedFamilies> {
        let (me, proxy) = (input.me.ip(), input.proxy.ip());
        if me.to_canonical().is_ipv4() != proxy.to_canonical().is_ipv4() {
            return Err(MixedFamilies);
        }
        let ours = Nonce {
            selector: input.secret.selector(),
            unix_secs: input.unix_secs,
            nonce: input.nonce,
        };
        let framed = FrameEncoder::new(SEQ_NONCE, Checksum::Crc32)
            .frame(out, |out| out.extend_from_slice(&ours.encode()));
        debug_assert!(framed.is_ok(), "32 bytes are a payload");
        let seen = Seen::default();
        let state = State::Nonce { seen, ours };
        Ok(Self { input, state })
    }

    /// Where it stands.
    pub fn stage(&self) -> OpeningStage {
        match self.state {
            State::Nonce { .. } => OpeningStage::Nonce,
            State::Handshake(_) => OpeningStage::Handshake,
            State::Done => OpeningStage::Done,
        }
    }

    /// Takes what was received; appends what to send next.
    ///
    /// # Errors
    /// [`OpeningError`]: a failed dial; close. Nothing may be received afterwards, nor after the
    /// channel was handed out.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<OpeningStep, OpeningError> {
        for (at, &byte) in bytes.iter().enumerate() {
            let next = match &mut self.state {
                State::Nonce { seen, ours } => match seen.plain(byte, ours)? {
                    Some(theirs) => Next::State(self.derive(&theirs, out)?),
                    None => Next::Stay,
                },
                State::Handshake(encrypted) => match encrypted.receive(byte)? {
                    Some(answer) => Next::Ready(answer),
                    None => Next::Stay,
                },
                State::Done => return Err(OpeningError::Over),
            };
            match next {
                Next::Stay => {}
                Next::State(state) => self.state = state,
                Next::Ready(answer) => {
                    let done = std::mem::replace(&mut self.state, State::Done);
                    let State::Handshake(encrypted) = done else {
                        return Err(OpeningError::Over);
                    };
                    let ready = Some(Box::new(encrypted.channel(&answer)?));
                    let consumed = at + 1;
                    return Ok(OpeningStep { consumed, ready });
                }
            }
        }
        Ok(OpeningStep {
            consumed: bytes.len(),
            ready: None,
        })
    }

    /// Both nonces are known: makes the ciphers and sends our HANDSHAKE.
    fn derive(&self, theirs: &Nonce, out: &mut Vec<u8>) -> Result<State, OpeningError> {
        let input = &self.input;
        let material = KeyMaterial {
            secret: &input.secret,
            me: input.me,
            proxy: input.proxy,
            me_nonce: theirs.nonce,
            proxy_nonce: input.nonce,
            proxy_unix_secs: input.unix_secs,
        };
        let mut encryptor = CbcEncryptor::new(&material.derive(Purpose::ToMe)?);
        let decryptor = CbcDecryptor::new(&material.derive(Purpose::ToProxy)?);
        let ours = Handshake {
            flags: FLAG_CRC32C,
            sender: ProcessId::of_proxy(input.proxy, input.pid, input.start_unix_secs),
            peer: ProcessId::of_me(input.me),
        };
        let start = out.len();
        let framed =
            FrameEncoder::new(SEQ_HANDSHAKE, Checksum::Crc32).frame(out, |out| ours.write(out));
        debug_assert!(framed.is_ok(), "32 bytes are a payload");
        pad_run(out, start);
        let encrypted = encryptor.encrypt(out.get_mut(start..).unwrap_or_default());
        debug_assert!(encrypted.is_ok(), "the run was padded");
        Ok(State::Handshake(Box::new(Encrypted {
            ours,
            encryptor,
            decryptor,
            block: [0; BLOCK_BYTES],
            in_block: 0,
            seen: Seen::default(),
        })))
    }
}

enum Next {
    Stay,
    State(State),
    Ready(Handshake),
}

impl Encrypted {
    /// The answer, once a block completes it; whole blocks were taken then.
    fn receive(&mut self, byte: u8) -> Result<Option<Handshake>, OpeningError> {
        if let Some(slot) = self.block.get_mut(self.in_block) {
            *slot = byte;
            self.in_block += 1;
        }
        if self.in_block < BLOCK_BYTES {
            return Ok(None);
        }
        self.in_block = 0;
        self.decryptor.decrypt(&mut self.block);
        self.seen.push(&self.block);
        let fits = |bytes| [HANDSHAKE_BYTES, REFUSAL_BYTES].contains(&bytes);
        let length = |got| HandshakeError::Length { got }.into();
        match self.seen.frame(SEQ_HANDSHAKE, fits, length)? {
            Some(payload) => Ok(Some(self.ours.decode_answer(&payload)?)),
            None => Ok(None),
        }
    }

    /// What carries clients; what was decrypted behind the HANDSHAKE, at most 12 bytes, is in it.
    fn channel(self, answer: &Handshake) -> Result<MeChannel, OpeningError> {
        let checksum = if answer.flags & FLAG_CRC32C != 0 {
            Checksum::Crc32c
        } else {
            Checksum::Crc32
        };
        let mut reader = AnswerReader::new(SEQ_DATA, checksum);
        let behind = reader.next(self.seen.as_bytes())?;
        debug_assert!(behind.event.is_none(), "no frame fits 12 bytes");
        Ok(MeChannel {
            encoder: FrameEncoder::new(SEQ_DATA, checksum),
            encryptor: self.encryptor,
            decryptor: DecryptStream::new(self.decryptor),
            reader,
            me: answer.sender,
        })
    }
}

/// Plain bytes of at most one frame of an opening.
#[derive(Clone, Copy, Debug)]
struct Seen {
    bytes: [u8; SEEN_BYTES],
    have: usize,
}

/// The longest payload of an opening; both are this long.
type Payload = [u8; NONCE_BYTES];

impl Seen {
    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.have).unwrap_or_default()
    }

    fn push(&mut self, more: &[u8]) {
        let room = self.bytes.get_mut(self.have..).unwrap_or_default();
        debug_assert!(
            more.len() <= room.len(),
            "frames are taken out as they get whole"
        );
        for (slot, &byte) in room.iter_mut().zip(more) {
            *slot = byte;
            self.have += 1;
        }
    }

    fn drop_front(&mut self, bytes: usize) {
        self.bytes.copy_within(bytes.min(SEEN_BYTES).., 0);
        self.have = self.have.saturating_sub(bytes);
    }

    /// The ME's NONCE, once this byte completes it.
    fn plain(&mut self, byte: u8, ours: &Nonce) -> Result<Option<Nonce>, OpeningError> {
        self.push(&[byte]);
        let length = |got| NonceError::Length { got }.into();
        match self.frame(SEQ_NONCE, |bytes| bytes == NONCE_BYTES, length)? {
            Some(payload) => Ok(Some(ours.decode_answer(&payload)?)),
            None => Ok(None),
        }
    }

    /// Takes out pad words and the frame behind them, if it is whole.
    fn frame(
        &mut self,
        seq: i32,
        fits: impl Fn(usize) -> bool,
        wrong: impl Fn(usize) -> OpeningError,
    ) -> Result<Option<OpeningPayload>, OpeningError> {
        while self.as_bytes().starts_with(&PAD_WORD) {
            self.drop_front(PAD_WORD.len());
        }
        if let Some(&field) = self.as_bytes().first_chunk() {
            let payload_bytes = frame_length(field)? - FRAME_OVERHEAD_BYTES;
            if !fits(payload_bytes) {
                return Err(wrong(payload_bytes));
            }
        }
        let mut decoder = FrameDecoder::new(seq, Checksum::Crc32);
        let FrameStep { consumed, payload } = decoder.next(self.as_bytes())?;
        let payload = payload.map(OpeningPayload::of);
        self.drop_front(consumed);
        Ok(payload)
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            bytes: [0; SEEN_BYTES],
            have: 0,
        }
    }
}

/// A payload of at most 32 bytes, copied out.
struct OpeningPayload {
    bytes: Payload,
    len: usize,
}

impl OpeningPayload {
    fn of(payload: &[u8]) -> Self {
        let mut bytes = [0; NONCE_BYTES];
        for (slot, &byte) in bytes.iter_mut().zip(payload) {
            *slot = byte;
        }
        Self {
            bytes,
            len: payload.len(),
        }
    }
}

impl std::ops::Deref for OpeningPayload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Why a beginning failed; the connection never becomes a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// No frame, a damaged one, or the keys disagree.
    #[error(transparent)]
    Frame(#[from] RpcFrameError),
    /// The ME's NONCE.
    #[error(transparent)]
    Nonce(#[from] NonceError),
    /// The ME's HANDSHAKE, or its refusal of ours.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The addresses make no keys.
    #[error(transparent)]
    Families(#[from] MixedFamilies),
    /// Received after the end.
    #[error("bytes for an opening that is over")]
    Over,
}

const FRAME_OVERHEAD_BYTES: usize = 12;
/// A frame of 44 bytes and the block it ends in.
const SEEN_BYTES: usize = 64;
